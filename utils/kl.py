"""KL divergences: estimates from sampled tokens, and one that is exact over the vocabulary.

k1, k2 and k3 estimate KL(policy || ref) from tokens x that the policy sampled (Schulman 2020). With
r = log policy(x) - log ref(x):

| estimate | formula         | expectation              | below 0 | spread         |
|----------|-----------------|--------------------------|---------|----------------|
| k1       | r               | the KL                   | yes     | large          |
| k2       | r^2 / 2         | close to the KL if small | no      | small          |
| k3       | exp(-r) - 1 + r | the KL                   | no      | small near ref |

A good estimate of the *value* need not be a good *loss*: whose gradient is whose, in docs/kl.md.
"""

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from utils.arguments import full_precision
from utils.logprobs import masked_sum


def k1(
    logprobs: Float[Tensor, "*shape"], ref_logprobs: Float[Tensor, "*shape"]
) -> Float[Tensor, "*shape"]:
    """r = logprobs - ref_logprobs, in nats. Often negative."""
    return logprobs - ref_logprobs


def k2(
    logprobs: Float[Tensor, "*shape"], ref_logprobs: Float[Tensor, "*shape"]
) -> Float[Tensor, "*shape"]:
    """r^2 / 2 with r = logprobs - ref_logprobs, in nats. Biased."""
    return (logprobs - ref_logprobs).square() / 2


def k3(
    logprobs: Float[Tensor, "*shape"], ref_logprobs: Float[Tensor, "*shape"]
) -> Float[Tensor, "*shape"]:
    """exp(-r) - 1 + r with r = logprobs - ref_logprobs, in nats.

    For r below -88.7 in float32 the value is inf and its gradient -inf. Mask such positions
    *before* this function: dropped behind it, 0 * inf makes their gradient NaN.
    """
    r = logprobs - ref_logprobs
    return torch.expm1(-r) + r  # expm1: exp(-r) - 1 would lose all digits of a small r


def sequential_kl(
    ref_logits: Float[Tensor, "B T V"],
    logits: Float[Tensor, "B T V"],
    mask: Shaped[Tensor, "B T"],
) -> Float[Tensor, " B"]:
    """Forward KL of each completion, KL(ref || policy) in nats: the SeqKL of TDPO.

    sum_t mask_t sum_v ref(v | s_t) [log ref(v | s_t) - log policy(v | s_t)]   (Zeng et al. 2024)

    Logits stand beside the tokens that they predict (`logprobs.completion_logits`); the reference
    gets no gradient. A token that the reference rules out (logit -inf) adds 0; one that only the
    policy rules out makes the KL infinite.
    """
    if logits.ndim != 3 or logits.shape != ref_logits.shape or mask.shape != logits.shape[:2]:
        raise ValueError(
            f"ref_logits {tuple(ref_logits.shape)}, logits {tuple(logits.shape)} and mask "
            f"{tuple(mask.shape)}: need (B, T, V) twice and (B, T)"
        )
    kept = mask.bool().unsqueeze(-1)
    # Padding is replaced before the softmax: behind it, a NaN would still reach the gradient.
    ref, policy = (
        torch.where(kept, full_precision(x), 0.0).log_softmax(-1)
        for x in (ref_logits.detach(), logits)
    )
    probs = ref.exp()
    difference = torch.where(probs == 0, 0.0, ref - policy)  # 0 * inf would be NaN
    return masked_sum((probs * difference).sum(-1), mask, dim=1)
