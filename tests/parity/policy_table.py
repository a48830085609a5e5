"""A table policy over 4 tokens, 3 steps, float64, small enough to sum over every completion.

Token 0 is EOS, so completions have 1 to 3 tokens; those of three that do not end in EOS are
truncated.
"""

from itertools import product

import torch

from utils.advantages import kl_shaped_rewards
from utils.logprobs import masked_sum

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


def kl_of_states(problem, direction):
    """sum over states of P(state), held fixed, times the KL between the two next-token choices."""
    policy, ref = problem.table, problem.ref_table
    per_state = {
        "reverse": (policy.exp() * (policy - ref)).sum(-1),
        "forward": (ref.exp() * (ref - policy)).sum(-1),
    }[direction]
    return (problem.weight.unsqueeze(1) * MASK * per_state[BEFORE]).sum()
