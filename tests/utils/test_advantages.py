import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from utils.advantages import gae, kl_shaped_rewards

torch.set_num_threads(1)
unit = st.floats(0, 1)
MASK_ONE = torch.tensor([[1, 0]])


@st.composite
def ragged(draw, max_rows=4, max_length=6):
    """A mask with completions of 1 to T tokens, padded on the right, and a seeded generator."""
    lengths = draw(st.lists(st.integers(1, max_length), min_size=1, max_size=max_rows))
    width = max(lengths) + draw(st.integers(0, 2))
    mask = (torch.arange(width) < torch.tensor(lengths).unsqueeze(1)).double()
    return mask, torch.Generator().manual_seed(draw(st.integers(0, 10_000)))


def rand(mask, generator, garbage=math.nan):
    """Normal numbers, garbage where masked."""
    x = torch.randn(mask.shape, dtype=torch.float64, generator=generator)
    return x.masked_fill(mask == 0, garbage)


def double(*rows):
    return torch.tensor(rows, dtype=torch.float64)


def slow_gae(rewards, values, mask, gamma, lam):
    """The specification: the discounted sum of the TD errors to come, one completion at a time."""
    advantages, returns = torch.zeros_like(mask), torch.zeros_like(mask)
    for b in range(len(mask)):
        tokens = [t for t in range(mask.shape[1]) if mask[b, t]]
        v = [values[b, t].item() for t in tokens] + [0.0]
        deltas = [rewards[b, t].item() + gamma * v[i + 1] - v[i] for i, t in enumerate(tokens)]
        for i, t in enumerate(tokens):
            advantages[b, t] = sum((gamma * lam) ** k * d for k, d in enumerate(deltas[i:]))
            returns[b, t] = advantages[b, t] + v[i]
    return advantages, returns


def close(got, expected):
    torch.testing.assert_close(got, expected, atol=1e-12, rtol=1e-12)


# GAE


@pytest.mark.truth("gae", "loop")
@settings(deadline=None)
@given(ragged(), unit, unit, st.sampled_from([math.nan, math.inf, -math.inf, 7.0]))
def test_gae_against_a_loop(batch, gamma, lam, garbage):
    mask, generator = batch
    rewards, values = rand(mask, generator, garbage), rand(mask, generator, garbage)
    close(gae(rewards, values, mask, gamma, lam), slow_gae(rewards, values, mask, gamma, lam))


def test_a_case_small_enough_for_paper():
    # Two tokens, reward 1 at the end, gamma 1/2, lam 1/2: delta = (0.5*0.4 - 0.2, 1 - 0.4).
    rewards, values = double([0.0, 1.0, 9.0]), double([0.2, 0.4, 9.0])
    advantages, returns = gae(rewards, values, torch.tensor([[1, 1, 0]]), gamma=0.5, lam=0.5)
    close(advantages, double([0.0 + 0.25 * 0.6, 0.6, 0.0]))
    close(returns, double([0.35, 1.0, 0.0]))


def test_defaults_are_no_discount_and_lambda_095():
    rewards, values = torch.tensor([[0.0, 1.0]]), torch.zeros(1, 2)
    close(gae(rewards, values, torch.ones(1, 2))[0], torch.tensor([[0.95, 1.0]]))


@settings(deadline=None)
@given(ragged())
def test_lambda_1_gives_monte_carlo_returns_minus_values(batch):
    mask, generator = batch
    rewards, values = rand(mask, generator, 0.0), rand(mask, generator, 0.0)
    to_go = rewards.flip(1).cumsum(1).flip(1) * mask
    advantages, returns = gae(rewards, values, mask, gamma=1.0, lam=1.0)
    close(advantages, to_go - values)
    close(returns, to_go)


@settings(deadline=None)
@given(ragged(), unit)
def test_lambda_0_gives_td_errors(batch, gamma):
    mask, generator = batch
    rewards, values = rand(mask, generator, 0.0), rand(mask, generator, 0.0)
    next_values = torch.cat([values[:, 1:], torch.zeros(len(mask), 1)], dim=1)  # 0 in the padding
    close(gae(rewards, values, mask, gamma, 0.0)[0], rewards + gamma * next_values - values)


def test_gamma_and_lambda_are_not_interchangeable():
    mask, generator = torch.ones(1, 4), torch.Generator().manual_seed(0)
    rewards, values = rand(mask, generator), rand(mask, generator)
    assert not gae(rewards, values, mask, 0.9, 0.5)[0].allclose(
        gae(rewards, values, mask, 0.5, 0.9)[0]
    )


def test_a_truncated_completion_is_not_bootstrapped():
    # A row that fills the width ends like a row that stops before it: with value 0 behind it.
    row, values = torch.tensor([[0.3, -0.2, 1.0]]), torch.tensor([[0.5, 0.1, 0.7]])
    full = gae(row, values, torch.ones(1, 3))
    padded = gae(
        torch.nn.functional.pad(row, (0, 2), value=5.0),
        torch.nn.functional.pad(values, (0, 2), value=5.0),
        torch.tensor([[1, 1, 1, 0, 0]]),
    )
    for a, b in zip(full, padded, strict=True):
        close(a, b[:, :3])
    assert full[0][0, 2].item() == pytest.approx(0.3)  # 1.0 + 0 - 0.7


def test_an_answer_of_one_token():
    advantages, returns = gae(torch.tensor([[2.0, 9.0]]), torch.tensor([[0.5, 9.0]]), MASK_ONE)
    assert advantages.tolist() == [[1.5, 0.0]]
    assert returns.tolist() == [[2.0, 0.0]]


def test_masked_positions_are_skipped_wherever_they_are():
    mask = torch.tensor([[0, 1, 0, 1, 1, 0]]).double()
    generator = torch.Generator().manual_seed(0)
    rewards, values = rand(mask, generator), rand(mask, generator)
    kept = mask.bool()
    got = gae(rewards, values, mask, 0.9, 0.8)
    dense = gae(rewards[kept][None], values[kept][None], torch.ones(1, 3), 0.9, 0.8)
    for a, b in zip(got, dense, strict=True):
        close(a[kept][None], b)
        assert (a[~kept] == 0).all()


def test_an_empty_row_is_zero():
    advantages, returns = gae(torch.ones(1, 2), torch.ones(1, 2), torch.zeros(1, 2))
    assert advantages.tolist() == returns.tolist() == [[0.0, 0.0]]


@pytest.mark.truth("gae", "gradient")
def test_gae_lets_no_gradient_through():
    values = torch.randn(2, 3, requires_grad=True)
    rewards = torch.randn(2, 3, requires_grad=True)
    before = (values.detach().clone(), rewards.detach().clone())
    outputs = gae(rewards, values, torch.ones(2, 3))
    assert not any(x.requires_grad for x in outputs)
    assert values.equal(before[0]) and rewards.equal(before[1])


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("name", ["rewards", "values"])
def test_gae_refuses_other_shapes(name):
    inputs = {"rewards": torch.zeros(2, 3), "values": torch.zeros(2, 3), name: torch.zeros(2, 1)}
    with pytest.raises(ValueError, match=rf"{name} \(2, 1\) and mask \(2, 3\)"):
        gae(mask=torch.ones(2, 3), **inputs)


@pytest.mark.parametrize("gamma, lam", [(1.1, 0.9), (-0.1, 0.9), (0.9, 1.1), (0.9, -0.1)])
def test_gae_refuses_other_discounts(gamma, lam):
    with pytest.raises(ValueError, match="between 0 and 1"):
        gae(torch.zeros(1, 2), torch.zeros(1, 2), torch.ones(1, 2), gamma, lam)


# Rewards with the KL penalty inside


def slow_rewards(scores, logprobs, ref_logprobs, mask, kl_coef):
    rewards = torch.zeros_like(mask)
    for b in range(len(mask)):
        tokens = [t for t in range(mask.shape[1]) if mask[b, t]]
        for t in tokens:
            rewards[b, t] = -kl_coef * (logprobs[b, t].item() - ref_logprobs[b, t].item())
        rewards[b, tokens[-1]] += scores[b].item()
    return rewards


@pytest.mark.truth("kl_shaped_rewards", "loop")
@settings(deadline=None)
@given(ragged(), st.floats(0, 2), st.sampled_from([math.nan, math.inf, -math.inf, 1.0]))
def test_shaped_rewards_against_a_loop(batch, kl_coef, garbage):
    mask, generator = batch
    logprobs, ref_logprobs = rand(mask, generator, garbage), rand(mask, generator, garbage)
    scores = torch.randn(len(mask), dtype=torch.float64, generator=generator)
    got = kl_shaped_rewards(scores, logprobs, ref_logprobs, mask, kl_coef)
    close(got, slow_rewards(scores, logprobs, ref_logprobs, mask, kl_coef))
    r = torch.where(mask.bool(), logprobs - ref_logprobs, 0.0)
    close(got.sum(1), scores - kl_coef * r.sum(1))


def test_shaped_rewards_by_hand():
    # The policy likes the first token more than the reference does (penalty), the second less.
    logprobs, ref = double([-1.0, -2.0, -9.0]), double([-1.5, -1.0, -1.0])
    got = kl_shaped_rewards(torch.tensor([3.0]), logprobs, ref, torch.tensor([[1, 1, 0]]), 0.1)
    close(got, double([-0.05, 3.1, 0.0]))


def test_a_score_of_nan_stays_on_the_last_token():
    got = kl_shaped_rewards(
        torch.tensor([math.nan, 1.0]), torch.zeros(2, 3), torch.zeros(2, 3), torch.ones(2, 3), 0.1
    )
    assert got.isnan().tolist() == [[False, False, True], [False, False, False]]


@pytest.mark.parametrize("dtype", [torch.int64, torch.float64, torch.bfloat16])
def test_scores_of_another_dtype(dtype):
    # A rule reward may come as integers or doubles beside float32 log-probs.
    got = kl_shaped_rewards(
        torch.tensor([2]).to(dtype), torch.zeros(1, 2), torch.zeros(1, 2), MASK_ONE, 0.1
    )
    assert got.tolist() == [[2.0, 0.0]]


@pytest.mark.truth("kl_shaped_rewards", "gradient")
def test_shaped_rewards_let_no_gradient_through_and_overwrite_nothing():
    scores, logprobs = torch.randn(2, requires_grad=True), torch.randn(2, 3, requires_grad=True)
    before = logprobs.detach().clone()
    got = kl_shaped_rewards(scores, logprobs, torch.zeros(2, 3), torch.ones(2, 3), 0.1)
    assert not got.requires_grad
    assert logprobs.equal(before)


def test_shaped_rewards_refuse_a_completion_without_tokens():
    mask = torch.tensor([[1, 1], [0, 0]])
    with pytest.raises(ValueError, match="1 of 2 completions have no token"):
        kl_shaped_rewards(torch.zeros(2), torch.zeros(2, 2), torch.zeros(2, 2), mask, 0.1)


@pytest.mark.usefixtures("unchecked")
def test_shaped_rewards_refuse_other_shapes():
    mask, x = torch.ones(2, 3), torch.zeros(2, 3)
    with pytest.raises(ValueError, match=r"scores \(2, 1\)"):
        kl_shaped_rewards(torch.zeros(2, 1), x, x, mask, 0.1)
    with pytest.raises(ValueError, match=r"ref_logprobs \(3,\)"):
        kl_shaped_rewards(torch.zeros(2), x, torch.zeros(3), mask, 0.1)
    with pytest.raises(ValueError, match=r"logprobs \(2, 1\)"):
        kl_shaped_rewards(torch.zeros(2), x[:, :1], x, mask, 0.1)
