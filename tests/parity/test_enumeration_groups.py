"""Group advantages, GRPO's loss, the value loss and sums over states, by exact enumeration.

Groups are all ordered tuples of the 40 completions of `policy_table`, each weighted by how likely
the policy is to sample it. What training expects to do is then a sum, as is the exact gradient.
"""

from math import comb

import pytest
import torch
from policy_table import BEFORE, CLOSE, COMPLETIONS, MASK, STATES, Problem, kl_of_states

from relatives.advantages import reinforce_pp_advantages, rloo_advantages
from relatives.dpo import sequential_kl
from relatives.grpo import grpo_variant_loss
from utils.advantages import STD_EPS, group_advantages
from utils.logprobs import entropy, masked_sum
from utils.losses import (
    clipped_policy_loss,
    clipped_value_loss,
    grpo_loss,
)

torch.set_num_threads(1)
COUNT = len(COMPLETIONS)


@pytest.fixture(params=range(3))
def problem(request):
    return Problem(request.param)


def groups_of(size):
    """Every ordered group of completions, (COUNT ** size, size)."""
    return torch.cartesian_prod(*[torch.arange(COUNT)] * size)


def expected_gradient(problem, groups, advantages):
    """E over groups of the mean over their completions of A_i * grad log policy(i)."""
    weight = problem.weight[groups].prod(1, keepdim=True) / groups.shape[1]
    a_completion = torch.zeros(COUNT, dtype=torch.float64)
    a_completion.index_add_(0, groups.flatten(), (weight * advantages).flatten())
    return problem.gradient((a_completion * masked_sum(problem.logprobs, MASK, dim=1)).sum())


@pytest.mark.truth("rloo_advantages", "enumeration", "gradient")
@pytest.mark.parametrize("size", [2, 3])
def test_leave_one_out_is_unbiased(problem, size):
    groups = groups_of(size)
    advantages = rloo_advantages(problem.scores[groups].flatten(), size).view(-1, size)
    got = expected_gradient(problem, groups, advantages)
    torch.testing.assert_close(got, problem.exact_gradient(0.0), **CLOSE)


@pytest.mark.truth("group_advantages", "enumeration", "gradient")
@pytest.mark.parametrize("size", [2, 3])
def test_a_mean_that_counts_oneself_shrinks_the_gradient(problem, size):
    # The baseline of Dr. GRPO and GRPO holds the completion's own reward: (G - 1) / G is left.
    groups = groups_of(size)
    advantages = group_advantages(problem.scores[groups].flatten(), size, "none").view(-1, size)
    got = expected_gradient(problem, groups, advantages)
    torch.testing.assert_close(got, problem.exact_gradient(0.0) * (size - 1) / size, **CLOSE)


def weight_of_a_prompt(success, size):
    """What dividing by the std makes of a prompt that is solved with probability `success`.

    With k of G right, the std is sqrt(k (G - k) / (G (G - 1))). The expected gradient is that of
    `success` times the expected difference between the advantage of a right and a wrong answer,
    given how many of the others are right.
    """

    def advantage(right, reward):
        std = (right * (size - right) / (size * (size - 1))) ** 0.5
        return (reward - right / size) / (std + STD_EPS)

    total = 0.0
    for k in range(size):
        likely = comb(size - 1, k) * success**k * (1 - success) ** (size - 1 - k)
        total += likely * (advantage(k + 1, 1) - advantage(k, 0))
    return total


def one_by_one(rewards, size):
    """reinforce_pp_advantages of batches of `size` completions of one prompt each."""
    rows = {row: None for row in map(tuple, rewards.view(-1, size).tolist())}
    for row in rows:
        rows[row] = reinforce_pp_advantages(torch.tensor(row, dtype=torch.float64))
    return torch.stack([rows[row] for row in map(tuple, rewards.view(-1, size).tolist())])


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize(
    "advantages_of",
    [
        pytest.param(
            group_advantages, marks=pytest.mark.truth("group_advantages", "enumeration", "gradient")
        ),
        pytest.param(
            one_by_one,
            marks=pytest.mark.truth("reinforce_pp_advantages", "enumeration", "gradient"),
        ),
    ],
)
def test_dividing_by_the_std_weighs_a_prompt_by_how_hard_it_is(problem, advantages_of, size):
    # Right or wrong: the direction is that of the success rate, the length is not.
    right = (problem.scores > 0).double()
    success = (problem.weight * right).sum().item()
    groups = groups_of(size)
    advantages = advantages_of(right[groups].flatten(), size).view(-1, size)
    exact = problem.gradient((problem.probability * right).sum())
    got = expected_gradient(problem, groups, advantages)
    torch.testing.assert_close(got, exact * weight_of_a_prompt(success, size), **CLOSE)


def test_the_weight_is_largest_for_prompts_nearly_always_or_never_solved():
    even, rare, sure = (weight_of_a_prompt(p, 8) for p in (0.5, 0.02, 0.98))
    assert rare == pytest.approx(sure) and rare > 1.1 * even


def expected_grpo_gradient(problem, loss_fn=grpo_variant_loss, **options):
    """E over all pairs of completions of the gradient of the loss on fresh samples."""
    groups = groups_of(2)
    advantages = rloo_advantages(problem.scores[groups].flatten(), 2).view(-1, 2)
    total = 0.0
    for rows, pair in zip(groups, advantages, strict=True):
        logprobs = problem.logprobs[rows]
        loss, _ = loss_fn(
            logprobs,
            logprobs,
            pair,
            MASK[rows],
            problem.ref_logprobs[rows],
            **options,
        )
        total = total + problem.weight[rows].prod() * loss
    return problem.gradient(total)


@pytest.mark.truth("grpo_variant_loss", "enumeration", "gradient")
@pytest.mark.parametrize(("level", "beta"), [("token", 0.0), ("sequence", 0.0), ("token", 0.3)])
def test_grpo_summed_over_tokens_descends_the_exact_gradient(level, beta):
    # dr_grpo with a constant divisor. The ratio of a whole completion moves 1 / T as far with each
    # of its T tokens, and stands T times in the sum.
    problem = Problem(0)
    got = expected_grpo_gradient(
        problem, loss_type="dr_grpo", importance_level=level, beta=beta, max_completion_length=1
    )
    forward = problem.gradient(kl_of_states(problem, "forward"))
    torch.testing.assert_close(got, beta * forward - problem.exact_gradient(0.0), **CLOSE)


@pytest.mark.truth("grpo_variant_loss", "enumeration", "gradient")
@pytest.mark.truth("grpo_loss", "enumeration", "gradient")
@pytest.mark.parametrize("level", ["token", "sequence"])
def test_grpo_averaged_over_a_completions_tokens_prefers_short_right_and_long_wrong(level):
    # The same gradient with (score - expected score) / length for a score: not that of the task.
    problem = Problem(1)
    got = expected_grpo_gradient(problem, loss_type="grpo", importance_level=level)
    centred = problem.scores - (problem.weight * problem.scores).sum()
    lengths = MASK.sum(1)
    biased = problem.gradient((problem.probability * centred / lengths).sum())
    torch.testing.assert_close(got, -biased, **CLOSE)
    torch.testing.assert_close(expected_grpo_gradient(problem, grpo_loss), -biased, **CLOSE)
    exact = problem.exact_gradient(0.0)
    assert torch.cosine_similarity(biased.flatten(), exact.flatten(), 0) < 0.99


@pytest.mark.truth("clipped_policy_loss", "enumeration", "gradient")
def test_off_policy_the_ratio_is_an_exact_correction_where_nothing_is_clipped(problem):
    # One choice, sampled from another policy: importance sampling, value and gradient.
    old, new = problem.ref_table[0], torch.log_softmax(problem.logits[0], -1)
    reward = problem.scores[: len(old)]
    loss, _ = clipped_policy_loss(
        new[None], old[None], (old.exp() * reward)[None], torch.ones(1, len(old)), clip_eps=1e6
    )
    expected = (new.exp() * reward).sum()
    torch.testing.assert_close(-loss * len(old), expected, **CLOSE)
    torch.testing.assert_close(
        problem.gradient(-loss * len(old)), problem.gradient(expected), **CLOSE
    )


@pytest.mark.truth("clipped_value_loss", "enumeration", "gradient")
def test_the_value_loss_is_least_at_the_expected_return(problem):
    rewards = problem.shaped_rewards()
    to_go = rewards.flip(1).cumsum(1).flip(1)
    exact = problem.values(rewards)

    def gradient_at(values_of_states):
        values = values_of_states.clone().requires_grad_()
        rows = values[BEFORE]
        total = 0.0
        for i in range(COUNT):
            row = slice(i, i + 1)
            loss, _ = clipped_value_loss(rows[row], exact[row], to_go[row], MASK[row], None)
            total = total + problem.weight[i] * MASK[i].sum() * loss
        return torch.autograd.grad(total, values)[0]

    states = torch.zeros(len(STATES), dtype=torch.float64)
    kept = MASK.bool()
    states[BEFORE[kept]] = exact[kept]
    torch.testing.assert_close(gradient_at(states), torch.zeros_like(states), **CLOSE)
    # Away from it: the distance, as often as the state is visited.
    visits = torch.zeros_like(states)
    visits.index_add_(0, BEFORE[kept], problem.weight.unsqueeze(1).expand_as(MASK)[kept])
    torch.testing.assert_close(gradient_at(states + 0.7), 0.7 * visits, **CLOSE)


# Whole completions as sums over their states


def logits_of_rows(table):
    return table[BEFORE]  # (N, T, V)


@pytest.mark.truth("entropy", "enumeration")
def test_entropies_of_states_add_up_to_that_of_completions(problem):
    whole = -(problem.probability * problem.probability.log()).sum()
    states = masked_sum(entropy(logits_of_rows(problem.logits)), MASK, dim=1)
    torch.testing.assert_close((problem.weight * states).sum(), whole, **CLOSE)


@pytest.mark.truth("sequential_kl", "enumeration", "gradient")
def test_kls_of_states_add_up_to_that_of_completions(problem):
    # KL(ref || policy): the completions are the reference's, and so are the states visited.
    ref = masked_sum(problem.ref_logprobs, MASK, dim=1).exp()
    whole = (ref * (ref / problem.probability).log()).sum()
    rows = sequential_kl(logits_of_rows(problem.ref_table), logits_of_rows(problem.logits), MASK)
    torch.testing.assert_close((ref * rows).sum(), whole, **CLOSE)
    torch.testing.assert_close(
        problem.gradient((ref * rows).sum()), problem.gradient(whole), **CLOSE
    )
