"""The loss of GRPO and its variants: DAPO, Dr. GRPO and GSPO."""

import torch

from utils.kl import k3
from utils.logprobs import masked_mean, masked_sum
from utils.losses.policy import MAX_LOG_RATIO, _without_padding

LOSS_TYPES = ("grpo", "bnpo", "dapo", "dr_grpo")
IMPORTANCE_LEVELS = ("token", "sequence")


def grpo_loss(
    logprobs: torch.Tensor,
    old_logprobs: torch.Tensor,
    advantages: torch.Tensor,
    mask: torch.Tensor,
    ref_logprobs: torch.Tensor | None = None,
    beta: float = 0.0,
    clip_eps: float = 0.2,
    clip_eps_high: float | None = None,
    loss_type: str = "grpo",
    importance_level: str = "token",
    max_completion_length: int | None = None,
    num_items: float | None = None,
) -> tuple[torch.Tensor, dict[str, float]]:
    """GRPO's loss (Shao et al. 2024, eq. 3 and 4), with the averages and ratios of its successors.

    l_{i,t} = -min(ratio_{i,t} A_i, clip(ratio_{i,t}, 1 - clip_eps, 1 + clip_eps_high) A_i)
              + beta k3_{i,t}     (k3: the estimate of KL(policy || ref))

    The loss is the sum of l over the tokens of all completions, divided by:

    | loss_type | divided by                            | weighs the same | from             |
    |-----------|---------------------------------------|-----------------|------------------|
    | "grpo"    | the tokens of its completion and by B | completions     | Shao et al. 2024 |
    | "bnpo"    | the tokens of this batch              | tokens          | TRL              |
    | "dapo"    | num_items; None: as "bnpo"            | tokens          | Yu et al. 2025   |
    | "dr_grpo" | B * max_completion_length             | tokens          | Liu et al. 2025  |

    The divisor of "dr_grpo" is a constant, that of the others depends on the lengths sampled.
    importance_level "token": ratio = exp(logprobs - old_logprobs), as in PPO. "sequence": one for
    all tokens of a completion, exp of the *mean* log-ratio over them (GSPO, Zheng et al. 2025,
    eq. 7; the paper clips at 3e-4 below and 4e-4 above).

    logprobs, old_logprobs, ref_logprobs (B, T); advantages (B,), one for all tokens of a
    completion; the mask 1 on completion tokens. Only `logprobs` gets a gradient. clip_eps_high None
    means clip_eps; DAPO's "clip-higher" is 0.28 beside 0.2. max_completion_length counts for
    "dr_grpo" only, num_items for "dapo" only: the tokens of all batches of one optimizer step,
    whose losses are then to be added up, not averaged. TRL 1.12 divides "dapo" by the tokens of the
    generation batch * gradient accumulation steps / steps per generation / processes, which is
    "bnpo" where one batch is all that is generated. It also multiplies k3 by the ratio, which turns
    its gradient into that of k2 where the ratio is 1, unless use_bias_correction_kl=False: the
    paper's k3 as here. Log-ratios are cut at 80, where exp still fits float32 (the policy's above,
    those of the KL where the reference finds a token likelier); beyond, their gradient is 0.

    Metrics, over the tokens of this batch: loss; kl, mean k3 to the reference, 0 without one (with
    beta = 0 it is only measured); clip_fraction, share that the clip leaves without policy
    gradient; ratio_mean, of the ratios used; approx_kl, k3 of KL(old || new) from the ratios of
    tokens, at either level. ValueError when shapes do not fit, a row has no token, beta or a clip
    is negative, a name is unknown, or what beta or the loss_type needs is missing.
    """
    clip_eps_high = clip_eps if clip_eps_high is None else clip_eps_high
    _check_options(beta, clip_eps, clip_eps_high, loss_type, importance_level)
    if beta > 0 and ref_logprobs is None:
        raise ValueError(f"beta = {beta} weighs the KL to the reference: it needs ref_logprobs")
    if loss_type == "dr_grpo" and (max_completion_length is None or max_completion_length <= 0):
        raise ValueError(
            "dr_grpo divides by max_completion_length, the longest completion that sampling "
            f"allows: need 1 or more, not {max_completion_length}"
        )
    if num_items is not None and num_items <= 0:
        raise ValueError(f"num_items is a number of tokens: need more than 0, not {num_items}")
    logprobs, old_logprobs = _without_padding(
        mask, logprobs=logprobs, old_logprobs=old_logprobs.detach()
    )
    if advantages.shape != mask.shape[:1]:
        raise ValueError(
            f"advantages {tuple(advantages.shape)}: need one a completion, {tuple(mask.shape[:1])}"
        )
    token_log_ratio = logprobs - old_logprobs
    # masked_mean refuses rows without tokens, whatever the level.
    log_ratio = masked_mean(token_log_ratio, mask, dim=1).unsqueeze(1).expand_as(logprobs)
    if importance_level == "token":
        log_ratio = token_log_ratio
    ratio = log_ratio.clamp(max=MAX_LOG_RATIO).exp()
    advantages = advantages.detach().unsqueeze(1)
    unclipped = ratio * advantages
    clipped = ratio.clamp(1 - clip_eps, 1 + clip_eps_high) * advantages
    token_loss = -torch.min(unclipped, clipped)
    if ref_logprobs is not None:
        (ref_logprobs,) = _without_padding(mask, ref_logprobs=ref_logprobs.detach())
        r = (logprobs - ref_logprobs).clamp(min=-MAX_LOG_RATIO)
        kl = k3(r, torch.zeros_like(r))
        if beta > 0:  # a KL that is only measured may be inf: 0 * inf is NaN
            token_loss = token_loss + beta * kl
    else:
        kl = torch.zeros_like(logprobs)
    if loss_type == "grpo":
        loss = masked_mean(token_loss, mask, dim=1).mean()
    elif loss_type == "dr_grpo":
        loss = masked_sum(token_loss, mask) / (len(mask) * max_completion_length)
    elif loss_type == "dapo" and num_items is not None:
        loss = masked_sum(token_loss, mask) / num_items
    else:
        loss = masked_mean(token_loss, mask)
    with torch.no_grad():
        old_new = token_log_ratio.clamp(max=MAX_LOG_RATIO)
        return loss, {
            "loss": loss.item(),
            "kl": masked_mean(kl, mask).item(),
            "clip_fraction": masked_mean((clipped < unclipped).float(), mask).item(),
            "ratio_mean": masked_mean(ratio, mask).item(),
            "approx_kl": masked_mean(old_new.expm1() - old_new, mask).item(),
        }


def _check_options(
    beta: float, clip_eps: float, clip_eps_high: float, loss_type: str, importance_level: str
) -> None:
    if loss_type not in LOSS_TYPES:
        raise ValueError(f"loss_type must be one of {', '.join(LOSS_TYPES)}, not {loss_type!r}")
    if importance_level not in IMPORTANCE_LEVELS:
        raise ValueError(
            f"importance_level must be {' or '.join(IMPORTANCE_LEVELS)}, not {importance_level!r}"
        )
    if beta < 0:
        raise ValueError(f"beta is the price of the KL: need 0 or more, not {beta}")
    if clip_eps < 0 or clip_eps_high < 0:
        raise ValueError(
            "clip_eps and clip_eps_high say how far the ratio may move below and above 1: need 0 "
            f"or more, not {clip_eps} and {clip_eps_high}"
        )
