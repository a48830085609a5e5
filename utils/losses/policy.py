"""The two losses of PPO: clipped policy and clipped value."""

import torch

from utils.logprobs import masked_mean

# exp(80) fits float32, with room for a sum; an infinite ratio turns a zero gradient into NaN.
MAX_LOG_RATIO = 80.0


def _without_padding(mask: torch.Tensor, **tensors: torch.Tensor) -> list[torch.Tensor]:
    """Each tensor in float32 at least and 0 where masked; ValueError unless of the mask's shape.

    Before any arithmetic: behind an exp or a square, `torch.where` cannot keep a NaN out of the
    gradient any more (0 * inf is NaN).
    """
    for name, x in tensors.items():
        if x.shape != mask.shape:
            raise ValueError(
                f"{name} {tuple(x.shape)} and mask {tuple(mask.shape)} differ in shape: all "
                "must be (B, T), one entry a token (to spread (B,): x.unsqueeze(1).expand(-1, T))"
            )
    half = (torch.bfloat16, torch.float16)
    kept = mask.bool()
    return [torch.where(kept, x.float() if x.dtype in half else x, 0.0) for x in tensors.values()]


def _check_clip(clip_eps: float) -> None:
    if clip_eps < 0:
        raise ValueError(f"clip_eps is half the width of the clip: need 0 or more, not {clip_eps}")


def clipped_policy_loss(
    logprobs: torch.Tensor,
    old_logprobs: torch.Tensor,
    advantages: torch.Tensor,
    mask: torch.Tensor,
    clip_eps: float = 0.2,
) -> tuple[torch.Tensor, dict[str, float]]:
    """PPO's clipped surrogate (Schulman et al. 2017, eq. 7), negated, mean over the batch's tokens.

    ratio_t = exp(logprobs_t - old_logprobs_t)
    loss    = -mean_t min(ratio_t A_t, clip(ratio_t, 1 - clip_eps, 1 + clip_eps) A_t)

    logprobs: of the policy being trained; old_logprobs: of the policy that sampled. All (B, T), the
    mask 1 on completion tokens; every token of the batch weighs the same. Only `logprobs` gets a
    gradient. The minimum is pessimistic: the clip removes the gain from moving further, never the
    penalty (A = -1, ratio 2, clip_eps 0.2: the objective is -2, not -1.2). Log-ratios are cut
    at 80, where the ratio still fits float32; beyond, the gradient is 0.

    Metrics, over tokens: loss; approx_kl, mean of (ratio - 1) - log ratio, the k3 estimate of
    KL(old || new) in nats a token; clip_fraction, share where the clipped term is strictly the
    smaller, which are the tokens that the clip leaves without gradient (outside the range on the
    side that pays: above for A > 0, below for A < 0); ratio_mean, near 1 as E_old[ratio] = 1.
    ValueError when shapes differ, the mask is empty or clip_eps is negative.
    """
    _check_clip(clip_eps)
    logprobs, old_logprobs, advantages = _without_padding(
        mask, logprobs=logprobs, old_logprobs=old_logprobs.detach(), advantages=advantages.detach()
    )
    log_ratio = (logprobs - old_logprobs).clamp(max=MAX_LOG_RATIO)
    ratio = log_ratio.exp()
    unclipped = ratio * advantages
    clipped = ratio.clamp(1 - clip_eps, 1 + clip_eps) * advantages
    loss = -masked_mean(torch.min(unclipped, clipped), mask)
    with torch.no_grad():
        return loss, {
            "loss": loss.item(),
            "approx_kl": masked_mean(log_ratio.expm1() - log_ratio, mask).item(),
            "clip_fraction": masked_mean((clipped < unclipped).float(), mask).item(),
            "ratio_mean": masked_mean(ratio, mask).item(),
        }


def clipped_value_loss(
    values: torch.Tensor,
    old_values: torch.Tensor,
    returns: torch.Tensor,
    mask: torch.Tensor,
    clip_eps: float | None = 0.2,
) -> tuple[torch.Tensor, dict[str, float]]:
    """Squared error of the value model, with PPO's clip, mean over the batch's tokens.

    clipped_t = clip(values_t, old_values_t - clip_eps, old_values_t + clip_eps)
    loss      = 1/2 mean_t max((values_t - returns_t)^2, (clipped_t - returns_t)^2)

    As in OpenAI's baselines and TRL's PPO (not in the paper). The maximum is pessimistic, as the
    minimum in the policy loss: a value further than clip_eps from its old one gets a gradient only
    where it is further from the return than the clipped one. clip_eps is in units of reward, not a
    ratio; None switches the clip off. All (B, T); only `values` gets a gradient.

    Metrics, over tokens: loss; clip_fraction, share where the clipped error is strictly the larger,
    which are the tokens without gradient; explained_variance, 1 - var(returns - values) /
    var(returns): 1 is perfect, 0 no better than a constant, negative worse; 0 by definition when
    all returns are equal. ValueError when shapes differ, the mask is empty or clip_eps is negative.
    """
    values, old_values, returns = _without_padding(
        mask, values=values, old_values=old_values.detach(), returns=returns.detach()
    )
    error = (values - returns).square()
    worse = error
    if clip_eps is not None:
        _check_clip(clip_eps)
        clipped = values.clamp(old_values - clip_eps, old_values + clip_eps)
        worse = torch.max(error, (clipped - returns).square())
    loss = 0.5 * masked_mean(worse, mask)
    with torch.no_grad():
        return loss, {
            "loss": loss.item(),
            "clip_fraction": masked_mean((worse > error).float(), mask).item(),
            "explained_variance": _explained_variance(values[mask.bool()], returns[mask.bool()]),
        }


def _explained_variance(values: torch.Tensor, returns: torch.Tensor) -> float:
    # Compared exactly: the variance of equal numbers may be a rounding error, not 0.
    if returns.max() == returns.min():
        return 0.0
    return 1.0 - ((returns - values).var(correction=0) / returns.var(correction=0)).item()
