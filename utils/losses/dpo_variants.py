"""What the successors of DPO do with the margin between the two log-ratios."""

import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor

from utils.arguments import not_negative, one_of, positive
from utils.losses.dpo import log_ratios, pair_metrics

LOSS_TYPES = ("sigmoid", "robust", "ipo", "hinge", "dpop")


def dpo_variant_loss(
    policy_chosen: Float[Tensor, " B"],
    policy_rejected: Float[Tensor, " B"],
    ref_chosen: Float[Tensor, " B"],
    ref_rejected: Float[Tensor, " B"],
    beta: float = 0.1,
    loss_type: str = "sigmoid",
    *,
    label_smoothing: float = 0.0,
    chosen_lengths: Shaped[Tensor, " B"] | None = None,
    rejected_lengths: Shaped[Tensor, " B"] | None = None,
    dpop_lambda: float = 50.0,
) -> tuple[Float[Tensor, ""], dict[str, float]]:
    """`dpo_loss` with the options of its successors; without options the same loss.

    c = policy_chosen - ref_chosen,  r = policy_rejected - ref_rejected,  z = beta (c - r)

    | loss_type | loss of a pair                                                               |
    |-----------|------------------------------------------------------------------------------|
    | sigmoid   | -(1 - e) log sigmoid(z) - e log sigmoid(-z)                (Mitchell 2023)   |
    | robust    | [-(1 - e) log sigmoid(z) + e log sigmoid(-z)] / (1 - 2e)   (Chowdhury 2024)  |
    | ipo       | (c / chosen_lengths - r / rejected_lengths - 1 / (2 beta))^2    (Azar 2023)  |
    | hinge     | max(0, 1 - z)                                                   (Zhao 2023)  |
    | dpop      | -log sigmoid(z - beta dpop_lambda max(0, ref_chosen - policy_chosen))        |

    e is `label_smoothing`, the share of pairs taken to be labelled the wrong way round. Equations
    and where they differ from the papers: docs/losses.md.
    """
    one_of(LOSS_TYPES, loss_type=loss_type)
    positive(beta=beta)
    not_negative(dpop_lambda=dpop_lambda)
    if not 0 <= label_smoothing < 0.5:
        raise ValueError(f"label_smoothing must lie in [0, 0.5), not {label_smoothing}")
    if label_smoothing and loss_type not in ("sigmoid", "robust"):
        raise ValueError(f"{loss_type} has no label_smoothing: only sigmoid and robust do")
    chosen, rejected = log_ratios(policy_chosen, policy_rejected, ref_chosen, ref_rejected)
    z = beta * (chosen - rejected)
    as_labelled = -(1 - label_smoothing) * F.logsigmoid(z)
    flipped = -label_smoothing * F.logsigmoid(-z)
    if loss_type == "ipo":
        for name, n in {"chosen": chosen_lengths, "rejected": rejected_lengths}.items():
            if n is None or n.shape != chosen.shape or (n < 1).any():
                raise ValueError(
                    f"ipo averages over tokens: {name}_lengths must be mask.sum(1), of shape "
                    f"{tuple(chosen.shape)}, each at least 1, not {n}"
                )
        score = chosen / chosen_lengths - rejected / rejected_lengths
        losses = (score - 1 / (2 * beta)).square()
    elif loss_type == "hinge":
        losses = F.relu(1 - z)
    elif loss_type == "dpop":
        losses = -F.logsigmoid(z - beta * dpop_lambda * F.relu(-chosen))
    elif loss_type == "robust":
        losses = (as_labelled - flipped) / (1 - 2 * label_smoothing)
    else:
        losses = as_labelled + flipped
    loss = losses.mean()
    return loss, pair_metrics(loss, beta * chosen.detach(), beta * rejected.detach())
