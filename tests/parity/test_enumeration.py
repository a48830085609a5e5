"""Policy gradients with a KL term against exact enumeration of every completion.

The policy is a table (`policy_table`) over 40 completions. The exact objective

    J = E[score] - kl_coef * KL(policy || ref)     over whole completions

is a sum over all of them, and autograd gives its gradient. Against it stands what training
does: per-token rewards, advantages, a loss on the samples, weighted by how often they occur.
"""

import pytest
import torch
from policy_table import (
    BEFORE,
    CLOSE,
    COMPLETIONS,
    KL_COEF,
    MASK,
    STATES,
    Problem,
    kl_of_states,
)

from utils import kl
from utils.advantages import gae
from utils.logprobs import masked_sum
from utils.losses import clipped_policy_loss

torch.set_num_threads(1)


@pytest.fixture(params=range(3))
def problem(request):
    return Problem(request.param)


def test_the_enumeration_is_complete(problem):
    assert len(COMPLETIONS) == 1 + 3 + 9 * 4
    assert len(STATES) == 1 + 3 + 9
    assert problem.probability.sum().item() == pytest.approx(1.0, abs=1e-14)


@pytest.mark.truth("kl_shaped_rewards", "enumeration", "gradient")
@pytest.mark.truth("k1", "enumeration", "gradient")
@pytest.mark.parametrize("kl_coef", [0.0, 0.3, 2.0])
def test_k1_in_the_reward_gives_the_exact_gradient(problem, kl_coef):
    exact = problem.exact_gradient(kl_coef)
    rewards = problem.shaped_rewards(kl_coef)
    to_go = rewards.flip(1).cumsum(1).flip(1)
    torch.testing.assert_close(problem.score_function_gradient(to_go), exact, **CLOSE)


@pytest.mark.truth("gae", "enumeration", "gradient")
@pytest.mark.parametrize("lam", [0.0, 0.5, 0.95, 1.0])
def test_gae_is_unbiased_with_exact_values(problem, lam):
    exact = problem.exact_gradient(KL_COEF)
    rewards = problem.shaped_rewards()
    values = problem.values(rewards)
    advantages, returns = gae(rewards, values, MASK, gamma=1.0, lam=lam)
    torch.testing.assert_close(problem.score_function_gradient(advantages), exact, **CLOSE)
    # In every state the returns average to the value, so regression on them has it as its target.
    for state in range(len(STATES)):
        here = (BEFORE == state) & MASK.bool()
        reached = (problem.weight * here.any(1)).unsqueeze(1) * here
        assert (reached * (returns - values)).sum().item() == pytest.approx(0.0, abs=1e-13)


@pytest.mark.truth("gae", "enumeration", "gradient")
def test_gae_with_wrong_values_is_unbiased_only_at_lambda_1(problem):
    exact = problem.exact_gradient(KL_COEF)
    rewards = problem.shaped_rewards()
    wrong = problem.values(rewards) + torch.linspace(-1, 1, len(STATES)).double()[BEFORE]
    at = {lam: gae(rewards, wrong, MASK, 1.0, lam)[0] for lam in (0.5, 1.0)}
    torch.testing.assert_close(problem.score_function_gradient(at[1.0]), exact, **CLOSE)
    assert (problem.score_function_gradient(at[0.5]) - exact).abs().max() > 1e-3


@pytest.mark.truth("clipped_policy_loss", "enumeration", "gradient")
def test_the_clipped_loss_descends_the_exact_gradient(problem):
    # One update on fresh samples: ratio 1. Advantages carry the weights of the enumeration; the
    # loss is a mean over tokens, the objective a sum.
    exact = problem.exact_gradient(KL_COEF)
    rewards = problem.shaped_rewards()
    advantages, _ = gae(rewards, problem.values(rewards), MASK)
    loss, _ = clipped_policy_loss(
        problem.logprobs, problem.logprobs, advantages * problem.weight.unsqueeze(1), MASK
    )
    torch.testing.assert_close(problem.gradient(-loss * MASK.sum()), exact, **CLOSE)


@pytest.mark.truth("k1", "enumeration")
@pytest.mark.truth("k3", "enumeration")
def test_values_of_the_estimates(problem):
    exact = problem.exact_kl().item()
    for estimate in (kl.k1, kl.k3):
        per_token = estimate(problem.logprobs, problem.ref_logprobs)
        total = (problem.weight * masked_sum(per_token, MASK, dim=1)).sum().item()
        assert total == pytest.approx(exact, abs=1e-13)


@pytest.mark.truth("k1", "enumeration", "gradient")
def test_k1_as_a_loss_teaches_nothing(problem):
    got = problem.gradient_as_loss(kl.k1)
    torch.testing.assert_close(got, torch.zeros_like(got), **CLOSE)


@pytest.mark.truth("k2", "enumeration", "gradient")
def test_k2_as_a_loss_is_the_reverse_kl_token_by_token_or_as_a_whole(problem):
    reverse = problem.gradient(kl_of_states(problem, "reverse"))
    torch.testing.assert_close(problem.gradient_as_loss(kl.k2), reverse, **CLOSE)
    # Token by token, the effect of a token on the states after it is missing.
    whole = problem.gradient(problem.exact_kl())
    assert (reverse - whole).abs().max() > 1e-3
    sums = [masked_sum(x, MASK, dim=1) for x in (problem.logprobs, problem.ref_logprobs)]
    got = problem.gradient((problem.weight * kl.k2(*sums)).sum())
    torch.testing.assert_close(got, whole, **CLOSE)


@pytest.mark.truth("k3", "enumeration", "gradient")
def test_k3_as_a_loss_is_the_forward_kl(problem):
    got = problem.gradient_as_loss(kl.k3)
    forward = problem.gradient(kl_of_states(problem, "forward"))
    torch.testing.assert_close(got, forward, **CLOSE)
    assert (got - problem.gradient_as_loss(kl.k2)).abs().max() > 1e-2
    assert (got - problem.gradient(problem.exact_kl())).abs().max() > 1e-2
    # Of a whole completion's log-probs as well.
    ref = masked_sum(problem.ref_logprobs, MASK, dim=1).exp()
    sums = [masked_sum(x, MASK, dim=1) for x in (problem.logprobs, problem.ref_logprobs)]
    whole = problem.gradient((ref * (ref / problem.probability).log()).sum())
    torch.testing.assert_close(
        problem.gradient((problem.weight * kl.k3(*sums)).sum()), whole, **CLOSE
    )
    assert (got - whole).abs().max() > 1e-3  # token by token it weighs states by the policy


def test_near_the_reference_k3_and_k2_teach_the_same():
    ref = Problem(0).ref_table
    direction = Problem(1).ref_table
    for step in (1e-2, 1e-3):
        logits = (ref + step * direction).requires_grad_()
        logprobs = torch.log_softmax(logits, -1)
        losses = [(logprobs.exp().detach() * k(logprobs, ref)).sum() for k in (kl.k2, kl.k3)]
        k2, k3 = (torch.autograd.grad(loss, logits, retain_graph=True)[0] for loss in losses)
        assert 0 < (k2 - k3).norm() < 3 * step * k2.norm()
