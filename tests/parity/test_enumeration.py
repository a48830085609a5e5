"""Policy gradients with a KL term against exact enumeration of every completion.

A table policy over 4 tokens, 3 steps, float64. Token 0 is EOS, so completions have 1 to 3 tokens;
those of three that do not end in EOS are truncated. The exact objective

    J = E[score] - kl_coef * KL(policy || ref)     over whole completions

is a sum over all 40 completions, and autograd gives its gradient. Against it stands what training
does: per-token rewards, advantages, a loss on the samples, weighted by how often they occur.
"""

from itertools import product

import pytest
import torch

from utils import kl
from utils.advantages import gae, kl_shaped_rewards
from utils.logprobs import masked_sum
from utils.losses import clipped_policy_loss

torch.set_num_threads(1)
VOCAB, LENGTH, EOS = 4, 3, 0
KL_COEF = 0.3
CLOSE = {"atol": 1e-12, "rtol": 1e-10}

COMPLETIONS = [
    tokens
    for length in range(1, LENGTH + 1)
    for tokens in product(range(VOCAB), repeat=length)
    if EOS not in tokens[:-1] and (tokens[-1] == EOS or length == LENGTH)
]
STATES = {p: i for i, p in enumerate(sorted({c[:t] for c in COMPLETIONS for t in range(len(c))}))}


def table(rows, fill=0):
    return torch.tensor([list(row) + [fill] * (LENGTH - len(row)) for row in rows])


IDS = table(COMPLETIONS)  # (N, T)
MASK = table([[1.0] * len(c) for c in COMPLETIONS]).double()
# The state before token t, as a row of the table.
BEFORE = table([[STATES[c[:t]] for t in range(len(c))] for c in COMPLETIONS])


class Problem:
    """A random policy, reference and score; log-probs, probabilities and the exact gradients."""

    def __init__(self, seed):
        generator = torch.Generator().manual_seed(seed)
        shape = (len(STATES), VOCAB)
        self.logits = torch.randn(shape, dtype=torch.float64, generator=generator).requires_grad_()
        self.ref_table = torch.log_softmax(
            torch.randn(shape, dtype=torch.float64, generator=generator), -1
        )
        self.scores = torch.randn(len(IDS), dtype=torch.float64, generator=generator)
        self.table = torch.log_softmax(self.logits, -1)
        self.logprobs, self.ref_logprobs = self.table[BEFORE, IDS], self.ref_table[BEFORE, IDS]
        self.probability = masked_sum(self.logprobs, MASK, dim=1).exp()  # of each completion
        self.weight = self.probability.detach()

    def gradient(self, objective):
        return torch.autograd.grad(objective, self.logits, retain_graph=True)[0]

    def exact_kl(self):
        ref = masked_sum(self.ref_logprobs, MASK, dim=1).exp()
        return (self.probability * (self.probability / ref).log()).sum()

    def exact_gradient(self, kl_coef):
        score = (self.probability * self.scores).sum()
        return self.gradient(score - kl_coef * self.exact_kl())

    def shaped_rewards(self, kl_coef=KL_COEF):
        return kl_shaped_rewards(self.scores, self.logprobs, self.ref_logprobs, MASK, kl_coef)

    def values(self, rewards):
        """The exact value of the state before each token: the expected reward to come."""
        to_go = rewards.flip(1).cumsum(1).flip(1)
        value = torch.zeros(len(STATES), dtype=torch.float64)
        for state in range(len(STATES)):
            here = (BEFORE == state) & MASK.bool()
            reached = self.weight * here.any(1)
            value[state] = (reached * (to_go * here).sum(1)).sum() / reached.sum()
        return value[BEFORE]

    def score_function_gradient(self, advantages):
        """E over completions of sum_t advantage_t * grad log policy_t."""
        return self.gradient((self.weight * masked_sum(self.logprobs * advantages, MASK, 1)).sum())

    def gradient_as_loss(self, estimate):
        """E over completions of sum_t grad estimate_t: the estimate as a loss on each token."""
        per_token = estimate(self.logprobs, self.ref_logprobs)
        return self.gradient((self.weight * masked_sum(per_token, MASK, dim=1)).sum())


@pytest.fixture(params=range(3))
def problem(request):
    return Problem(request.param)


def test_the_enumeration_is_complete(problem):
    assert len(COMPLETIONS) == 1 + 3 + 9 * 4
    assert len(STATES) == 1 + 3 + 9
    assert problem.probability.sum().item() == pytest.approx(1.0, abs=1e-14)


@pytest.mark.parametrize("kl_coef", [0.0, 0.3, 2.0])
def test_k1_in_the_reward_gives_the_exact_gradient(problem, kl_coef):
    exact = problem.exact_gradient(kl_coef)
    rewards = problem.shaped_rewards(kl_coef)
    to_go = rewards.flip(1).cumsum(1).flip(1)
    torch.testing.assert_close(problem.score_function_gradient(to_go), exact, **CLOSE)


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


def test_gae_with_wrong_values_is_unbiased_only_at_lambda_1(problem):
    exact = problem.exact_gradient(KL_COEF)
    rewards = problem.shaped_rewards()
    wrong = problem.values(rewards) + torch.linspace(-1, 1, len(STATES)).double()[BEFORE]
    at = {lam: gae(rewards, wrong, MASK, 1.0, lam)[0] for lam in (0.5, 1.0)}
    torch.testing.assert_close(problem.score_function_gradient(at[1.0]), exact, **CLOSE)
    assert (problem.score_function_gradient(at[0.5]) - exact).abs().max() > 1e-3


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


def test_values_of_the_estimates(problem):
    exact = problem.exact_kl().item()
    for estimate in (kl.k1, kl.k3):
        per_token = estimate(problem.logprobs, problem.ref_logprobs)
        total = (problem.weight * masked_sum(per_token, MASK, dim=1)).sum().item()
        assert total == pytest.approx(exact, abs=1e-13)


def test_k1_as_a_loss_teaches_nothing(problem):
    got = problem.gradient_as_loss(kl.k1)
    torch.testing.assert_close(got, torch.zeros_like(got), **CLOSE)


def kl_of_states(problem, direction):
    """sum over states of P(state), held fixed, times the KL between the two next-token choices."""
    policy, ref = problem.table, problem.ref_table
    per_state = {
        "reverse": (policy.exp() * (policy - ref)).sum(-1),
        "forward": (ref.exp() * (ref - policy)).sum(-1),
    }[direction]
    return (problem.weight.unsqueeze(1) * MASK * per_state[BEFORE]).sum()


def test_k2_as_a_loss_is_the_reverse_kl_token_by_token_or_as_a_whole(problem):
    reverse = problem.gradient(kl_of_states(problem, "reverse"))
    torch.testing.assert_close(problem.gradient_as_loss(kl.k2), reverse, **CLOSE)
    # Token by token, the effect of a token on the states after it is missing.
    whole = problem.gradient(problem.exact_kl())
    assert (reverse - whole).abs().max() > 1e-3
    sums = [masked_sum(x, MASK, dim=1) for x in (problem.logprobs, problem.ref_logprobs)]
    got = problem.gradient((problem.weight * kl.k2(*sums)).sum())
    torch.testing.assert_close(got, whole, **CLOSE)


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


def test_near_the_reference_k3_and_k2_teach_the_same():
    ref = Problem(0).ref_table
    direction = Problem(1).ref_table
    for step in (1e-2, 1e-3):
        logits = (ref + step * direction).requires_grad_()
        logprobs = torch.log_softmax(logits, -1)
        losses = [(logprobs.exp().detach() * k(logprobs, ref)).sum() for k in (kl.k2, kl.k3)]
        k2, k3 = (torch.autograd.grad(loss, logits, retain_graph=True)[0] for loss in losses)
        assert 0 < (k2 - k3).norm() < 3 * step * k2.norm()
