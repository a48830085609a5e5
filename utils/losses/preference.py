"""Losses on pairs: a chosen and a rejected completion of one prompt."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from utils.arguments import per_sequence


def bradley_terry_loss(
    chosen: Float[Tensor, " B"],
    rejected: Float[Tensor, " B"],
    margin: Float[Tensor, " B"] | Float[Tensor, ""] | float | None = None,
    center_coef: float = 0.0,
) -> tuple[Float[Tensor, ""], dict[str, float]]:
    """Negative log-likelihood of the preferences under a Bradley-Terry reward model.

    loss = mean_i [-log sigmoid(chosen_i - rejected_i - margin_i)]
         + center_coef * mean_i [(chosen_i + rejected_i)^2]

    The first term with margin 0 is InstructGPT's (Ouyang et al. 2022, eq. 1), with a margin that of
    Llama 2 (Touvron et al. 2023, eq. 2). It sees differences only, so rewards may drift together;
    the second term holds them around 0. The metric `margin` is the mean of chosen - rejected.
    """
    chosen, rejected = per_sequence(chosen=chosen, rejected=rejected)
    if isinstance(margin, Tensor) and margin.ndim and margin.shape != chosen.shape:
        raise ValueError(f"margin {tuple(margin.shape)}: need a number or {tuple(chosen.shape)}")
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
