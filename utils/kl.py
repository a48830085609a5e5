"""KL divergences: estimates from sampled tokens, and one that is exact over the vocabulary.

k1, k2 and k3 estimate KL(policy || ref) from tokens that the policy sampled (Schulman 2020).

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

from utils.logprobs import masked_sum


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


def sequential_kl(
    ref_logits: torch.Tensor, logits: torch.Tensor, mask: torch.Tensor
) -> torch.Tensor:
    """Forward KL of each completion: logits (B, T, V), mask (B, T) -> (B,).

    sum_t mask_t sum_v ref(v | s_t) [log ref(v | s_t) - log policy(v | s_t)]

    KL(ref || policy) in nats, the other direction than k1 to k3, exact over the vocabulary: the
    SeqKL of TDPO (Zeng et al. 2024). Logits stand beside the tokens that they predict
    (`logprobs.completion_logits`). In float32 at least; the reference gets no gradient. A token
    that the reference rules out (logit -inf) adds 0; one that only the policy rules out makes the
    KL infinite. ValueError when shapes do not fit.
    """
    if logits.ndim != 3 or logits.shape != ref_logits.shape or mask.shape != logits.shape[:2]:
        raise ValueError(
            f"ref_logits {tuple(ref_logits.shape)}, logits {tuple(logits.shape)} and mask "
            f"{tuple(mask.shape)}: need (B, T, V) twice and (B, T)"
        )
    kept = mask.bool().unsqueeze(-1)
    # Padding is replaced before the softmax: behind it, a NaN would still reach the gradient.
    ref, policy = (
        torch.where(kept, x.to(torch.promote_types(x.dtype, torch.float32)), 0.0).log_softmax(-1)
        for x in (ref_logits.detach(), logits)
    )
    probs = ref.exp()
    difference = torch.where(probs == 0, 0.0, ref - policy)  # 0 * inf would be NaN
    return masked_sum((probs * difference).sum(-1), mask, dim=1)
