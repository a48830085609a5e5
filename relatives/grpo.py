"""What the successors of GRPO change in its loss: the ratio, the clip, the average over tokens.

Lessons 05 and 07. Metrics, completions that are masked out, and TRL: docs/losses.md.
"""

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from utils.arguments import not_negative, one_each, one_of, positive, unpadded
from utils.logprobs import masked_mean, masked_sum
from utils.losses.grpo import completion_means, kl_to_reference
from utils.losses.policy import capped_exp, policy_metrics

LOSS_TYPES = ("grpo", "bnpo", "dapo", "dr_grpo")
IMPORTANCE_LEVELS = ("token", "sequence")


def average(
    token_loss: Float[Tensor, "B T"],
    mask: Shaped[Tensor, "B T"],
    loss_type: str,
    max_completion_length: int | None = None,
    num_items: float | None = None,
) -> Float[Tensor, ""]:
    """The sum over the tokens of all completions, divided by what the loss type says.

    | loss_type | divided by                            | weighs the same | from             |
    |-----------|---------------------------------------|-----------------|------------------|
    | "grpo"    | the tokens of its completion and by B | completions     | Shao et al. 2024 |
    | "bnpo"    | the tokens of this batch              | tokens          | TRL              |
    | "dapo"    | num_items; None: as "bnpo"            | tokens          | Yu et al. 2025   |
    | "dr_grpo" | B * max_completion_length             | tokens          | Liu et al. 2025  |

    A completion that is masked out adds 0: no token of it is counted, but it stays one of the B.
    num_items: the tokens of all batches of an optimizer step, whose losses are then added up.
    """
    one_of(LOSS_TYPES, loss_type=loss_type)
    if loss_type == "grpo":
        return completion_means(token_loss, mask).mean()
    if loss_type == "dr_grpo":
        positive(max_completion_length=max_completion_length)
        return masked_sum(token_loss, mask) / (len(mask) * max_completion_length)
    if loss_type == "dapo" and num_items is not None:
        positive(num_items=num_items)
        return masked_sum(token_loss, mask) / num_items
    return masked_mean(token_loss, mask)


def grpo_variant_loss(
    logprobs: Float[Tensor, "B T"],
    old_logprobs: Float[Tensor, "B T"],
    advantages: Float[Tensor, " B"],
    mask: Shaped[Tensor, "B T"],
    ref_logprobs: Float[Tensor, "B T"] | None = None,
    beta: float = 0.0,
    clip_eps: float = 0.2,
    *,
    clip_eps_high: float | None = None,
    importance_level: str = "token",
    loss_type: str = "grpo",
    max_completion_length: int | None = None,
    num_items: float | None = None,
) -> tuple[Float[Tensor, ""], dict[str, float]]:
    """`grpo_loss` with the options of its successors; without options the same loss.

    clip_eps_high: how far the ratio may rise, if not as far as it may fall (DAPO's clip-higher:
    0.28 beside 0.2). importance_level "sequence": one ratio for all tokens of a completion, exp of
    the *mean* log-ratio over them (GSPO, Zheng et al. 2025, eq. 7; the paper clips at 3e-4 below
    and 4e-4 above). The rest: see `average`.
    """
    clip_eps_high = clip_eps if clip_eps_high is None else clip_eps_high
    not_negative(beta=beta, clip_eps=clip_eps, clip_eps_high=clip_eps_high)
    one_of(IMPORTANCE_LEVELS, importance_level=importance_level)
    one_each(mask, advantages=advantages)
    logprobs, old_logprobs = unpadded(mask, logprobs=logprobs, old_logprobs=old_logprobs.detach())
    advantages = advantages.detach().unsqueeze(1)

    log_ratio = used = logprobs - old_logprobs
    if importance_level == "sequence":
        used = completion_means(log_ratio, mask).unsqueeze(1).expand_as(log_ratio)
    ratio = capped_exp(used)
    unclipped = ratio * advantages
    clipped = ratio.clamp(1 - clip_eps, 1 + clip_eps_high) * advantages
    token_loss = -torch.min(unclipped, clipped)
    kl = kl_to_reference(logprobs, ref_logprobs, mask, beta)
    if beta > 0:  # a KL that is only measured may be inf: 0 * inf is NaN
        token_loss = token_loss + beta * kl
    loss = average(token_loss, mask, loss_type, max_completion_length, num_items)

    metrics = policy_metrics(loss, log_ratio, ratio, clipped < unclipped, mask)
    return loss, metrics | {"kl": masked_mean(kl.detach(), mask).item()}
