"""The loss of GRPO. The averages, ratios and clips of its successors: `relatives.grpo`."""

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from utils.arguments import not_negative, one_each, unpadded
from utils.kl import k3
from utils.logprobs import masked_mean, masked_sum
from utils.losses.policy import MAX_LOG_RATIO, capped_exp, policy_metrics


def completion_means(x: Float[Tensor, "B T"], mask: Shaped[Tensor, "B T"]) -> Float[Tensor, " B"]:
    """The mean over the tokens of each completion; 0 for one that is masked out."""
    return masked_sum(x, mask, dim=1) / mask.bool().sum(1).clamp(min=1)


def kl_to_reference(
    logprobs: Float[Tensor, "B T"],
    ref_logprobs: Float[Tensor, "B T"] | None,
    mask: Shaped[Tensor, "B T"],
    beta: float,
) -> Float[Tensor, "B T"]:
    """k3 of KL(policy || ref) at each token, 0 without a reference, which beta > 0 needs."""
    if ref_logprobs is None:
        if beta > 0:
            raise ValueError(f"beta = {beta} weighs the KL to the reference: it needs ref_logprobs")
        return torch.zeros_like(logprobs)
    (ref_logprobs,) = unpadded(mask, ref_logprobs=ref_logprobs.detach())
    log_ratio = (logprobs - ref_logprobs).clamp(min=-MAX_LOG_RATIO)
    return k3(log_ratio, torch.zeros_like(log_ratio))


def grpo_loss(
    logprobs: Float[Tensor, "B T"],
    old_logprobs: Float[Tensor, "B T"],
    advantages: Float[Tensor, " B"],
    mask: Shaped[Tensor, "B T"],
    ref_logprobs: Float[Tensor, "B T"] | None = None,
    beta: float = 0.0,
    clip_eps: float = 0.2,
) -> tuple[Float[Tensor, ""], dict[str, float]]:
    """GRPO (Shao et al. 2024, eq. 3 and 4): a mean over tokens, then over completions.

    ratio_t = exp(logprobs_t - old_logprobs_t)
    l_t     = -min(ratio_t A, clip(ratio_t, 1 - clip_eps, 1 + clip_eps) A) + beta k3_t
    loss    = mean_i [mean_t l_{i,t}]

    old_logprobs: of the policy that sampled; k3 estimates KL(policy || ref). One advantage for all
    tokens of a completion. Only `logprobs` gets a gradient. A completion that is masked out adds 0
    and still counts as one of the B. ValueError when no token is left.
    """
    not_negative(beta=beta, clip_eps=clip_eps)
    one_each(mask, advantages=advantages)
    logprobs, old_logprobs = unpadded(mask, logprobs=logprobs, old_logprobs=old_logprobs.detach())
    advantages = advantages.detach().unsqueeze(1)  # (B, 1): the same for all tokens

    log_ratio = logprobs - old_logprobs
    ratio = capped_exp(log_ratio)
    unclipped = ratio * advantages
    clipped = ratio.clamp(1 - clip_eps, 1 + clip_eps) * advantages
    token_loss = -torch.min(unclipped, clipped)
    kl = kl_to_reference(logprobs, ref_logprobs, mask, beta)
    if beta > 0:  # a KL that is only measured may be inf: 0 * inf is NaN
        token_loss = token_loss + beta * kl
    loss = completion_means(token_loss, mask).mean()

    metrics = policy_metrics(loss, log_ratio, ratio, clipped < unclipped, mask)
    return loss, metrics | {"kl": masked_mean(kl.detach(), mask).item()}
