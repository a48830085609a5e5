"""The two losses of PPO, clipped policy and clipped value, and the pieces that GRPO shares."""

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from utils.arguments import not_negative, unpadded
from utils.logprobs import masked_mean

# exp(80) fits float32, with room for a sum; an infinite ratio turns a zero gradient into NaN.
MAX_LOG_RATIO = 80.0


def capped_exp(log_ratio: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """The ratio, exp(log_ratio), cut at exp(80): beyond, its gradient is 0."""
    return log_ratio.clamp(max=MAX_LOG_RATIO).exp()


@torch.no_grad()
def policy_metrics(loss, log_ratio, ratio, is_clipped, mask) -> dict[str, float]:
    """Means over the tokens of the batch; approx_kl is k3 of KL(old || new) from the log-ratios."""
    log_ratio = log_ratio.clamp(max=MAX_LOG_RATIO)
    return {
        "loss": loss.item(),
        "approx_kl": masked_mean(log_ratio.expm1() - log_ratio, mask).item(),
        "clip_fraction": masked_mean(is_clipped.float(), mask).item(),
        "ratio_mean": masked_mean(ratio, mask).item(),
    }


def clipped_policy_loss(
    logprobs: Float[Tensor, "B T"],
    old_logprobs: Float[Tensor, "B T"],
    advantages: Float[Tensor, "B T"],
    mask: Shaped[Tensor, "B T"],
    clip_eps: float = 0.2,
) -> tuple[Float[Tensor, ""], dict[str, float]]:
    """PPO's clipped surrogate (Schulman et al. 2017, eq. 7), negated, mean over the batch's tokens.

    ratio_t = exp(logprobs_t - old_logprobs_t)
    loss    = -mean_t min(ratio_t A_t, clip(ratio_t, 1 - clip_eps, 1 + clip_eps) A_t)

    old_logprobs: of the policy that sampled. Only `logprobs` gets a gradient. The minimum is
    pessimistic: the clip removes the gain from moving further, never the penalty (A = -1, ratio 2,
    clip_eps 0.2: the objective is -2, not -1.2).
    """
    not_negative(clip_eps=clip_eps)
    logprobs, old_logprobs, advantages = unpadded(
        mask, logprobs=logprobs, old_logprobs=old_logprobs.detach(), advantages=advantages.detach()
    )
    log_ratio = logprobs - old_logprobs
    ratio = capped_exp(log_ratio)
    unclipped = ratio * advantages
    clipped = ratio.clamp(1 - clip_eps, 1 + clip_eps) * advantages
    loss = -masked_mean(torch.min(unclipped, clipped), mask)
    return loss, policy_metrics(loss, log_ratio, ratio, clipped < unclipped, mask)


def clipped_value_loss(
    values: Float[Tensor, "B T"],
    old_values: Float[Tensor, "B T"],
    returns: Float[Tensor, "B T"],
    mask: Shaped[Tensor, "B T"],
    clip_eps: float | None = 0.2,
) -> tuple[Float[Tensor, ""], dict[str, float]]:
    """Squared error of the value model, with a clip, mean over the batch's tokens.

    clipped_t = clip(values_t, old_values_t - clip_eps, old_values_t + clip_eps)
    loss      = 1/2 mean_t max((values_t - returns_t)^2, (clipped_t - returns_t)^2)

    As in OpenAI's baselines (not in the paper). The maximum is pessimistic: a value further than
    clip_eps from its old one gets a gradient only where it is further from the return than the
    clipped one. clip_eps is in units of reward; None switches the clip off. Only `values` gets a
    gradient. explained_variance = 1 - var(returns - values) / var(returns), 0 if returns are equal.
    """
    not_negative(clip_eps=clip_eps or 0.0)
    values, old_values, returns = unpadded(
        mask, values=values, old_values=old_values.detach(), returns=returns.detach()
    )
    error = worse = (values - returns).square()
    if clip_eps is not None:
        clipped = values.clamp(old_values - clip_eps, old_values + clip_eps)
        worse = torch.max(error, (clipped - returns).square())
    loss = 0.5 * masked_mean(worse, mask)
    with torch.no_grad():
        return loss, {
            "loss": loss.item(),
            "clip_fraction": masked_mean((worse > error).float(), mask).item(),
            "explained_variance": _explained_variance(values[mask.bool()], returns[mask.bool()]),
        }


def _explained_variance(values: Float[Tensor, " N"], returns: Float[Tensor, " N"]) -> float:
    # Compared exactly: the variance of equal numbers may be a rounding error, not 0.
    if returns.max() == returns.min():
        return 0.0
    return 1.0 - ((returns - values).var(correction=0) / returns.var(correction=0)).item()
