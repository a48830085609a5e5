"""Estimates of KL(policy || ref) from tokens that the policy sampled (Schulman 2020).

With r = log policy(x) - log ref(x) and x sampled from the policy:

| estimate | formula         | expectation                | below 0 | spread         |
|----------|-----------------|----------------------------|---------|----------------|
| k1       | r               | the KL                     | yes     | large          |
| k2       | r^2 / 2         | close to the KL if small   | no      | small          |
| k3       | exp(-r) - 1 + r | the KL                     | no      | small near ref |

Published code often has the sign of r the other way round; then k1 is minus the KL and k3 estimates
something else.

A good estimate of the *value* need not be a good *loss*. On samples of the current policy the
expected gradient is (arXiv 2510.01555, 2512.21852)
- k1 inside the reward (`advantages.kl_shaped_rewards`, as in PPO): that of the sequence's
  KL(policy || ref), through each token's effect on the tokens after it too;
- k2 as a loss: that of KL(policy || ref). Token by token it leaves out the effect on later tokens;
  of a whole sequence's summed log-probs it is the gradient of the sequence's KL;
- k1 as a loss: zero, as E[grad log policy] = 0;
- k3 as a loss: that of KL(ref || policy), since grad k3 = (1 - ref/policy) grad log policy. It is
  close to that of k2 only where policy and ref are close. GRPO uses it.
"""

import torch


def k1(logprobs: torch.Tensor, ref_logprobs: torch.Tensor) -> torch.Tensor:
    """r = logprobs - ref_logprobs, in nats; any shape -> same shape. Often negative."""
    return logprobs - ref_logprobs


def k2(logprobs: torch.Tensor, ref_logprobs: torch.Tensor) -> torch.Tensor:
    """r^2 / 2 with r = logprobs - ref_logprobs, in nats; any shape -> same shape. Biased."""
    return (logprobs - ref_logprobs).square() / 2


def k3(logprobs: torch.Tensor, ref_logprobs: torch.Tensor) -> torch.Tensor:
    """exp(-r) - 1 + r with r = logprobs - ref_logprobs, in nats; any shape -> same shape.

    Where the reference finds a token far likelier than the policy, exp(-r) overflows: for r below
    -88.7 in float32 the value is inf and its gradient -inf, not NaN. Mask such positions *before*
    this function: dropped behind it, 0 * inf makes their gradient NaN.
    """
    r = logprobs - ref_logprobs
    return torch.expm1(-r) + r  # expm1: exp(-r) - 1 would lose all digits of a small r
