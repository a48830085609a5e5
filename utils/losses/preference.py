"""Losses on pairs: a chosen and a rejected completion of one prompt."""

import torch
import torch.nn.functional as F


def bradley_terry_loss(
    chosen: torch.Tensor,
    rejected: torch.Tensor,
    margin: torch.Tensor | float | None = None,
    center_coef: float = 0.0,
) -> tuple[torch.Tensor, dict[str, float]]:
    """Negative log-likelihood of the preferences under a Bradley-Terry reward model.

    loss = mean_i [-log sigmoid(chosen_i - rejected_i - margin_i)]
         + center_coef * mean_i [(chosen_i + rejected_i)^2]

    The first term with margin 0 is InstructGPT's (Ouyang et al. 2022, eq. 1), with a margin that of
    Llama 2 (Touvron et al. 2023, eq. 2). It sees differences only, so rewards may drift together;
    the second term (TRL's `center_rewards_coefficient`) holds them around 0.

    chosen, rejected (B,): one reward a sequence, read at its last token. margin: (B,) or a number.
    A difference of 0 gives log 2. Metrics: loss (both terms), pair_accuracy (share of pairs with
    chosen > rejected; a tie is wrong), margin (mean of chosen - rejected, without the `margin`
    argument). ValueError when shapes differ or there is no pair.
    """
    if chosen.ndim != 1 or chosen.shape != rejected.shape or not len(chosen):
        raise ValueError(
            f"chosen {tuple(chosen.shape)} and rejected {tuple(rejected.shape)}: need one reward "
            "a sequence, both (B,) with at least one pair; squeeze(-1) the output of a scalar head"
        )
    if isinstance(margin, torch.Tensor) and margin.ndim and margin.shape != chosen.shape:
        raise ValueError(f"margin {tuple(margin.shape)}: need a number or {tuple(chosen.shape)}")
    if chosen.dtype in (torch.bfloat16, torch.float16):
        chosen, rejected = chosen.float(), rejected.float()
    difference = chosen - rejected
    # logsigmoid, never sigmoid().log(), which is -inf once the sigmoid underflows.
    loss = -F.logsigmoid(difference if margin is None else difference - margin).mean()
    if center_coef:
        loss = loss + center_coef * (chosen + rejected).square().mean()
    return loss, {
        "loss": loss.item(),
        "pair_accuracy": (difference > 0).double().mean().item(),
        "margin": difference.mean().item(),
    }
