"""DPO and its variants, which differ in what they do with the margin between two log-ratios."""

import torch
import torch.nn.functional as F

LOSS_TYPES = ("sigmoid", "robust", "ipo", "hinge", "dpop")


def per_sequence(**tensors: torch.Tensor) -> list[torch.Tensor]:
    """Each tensor in float32 at least; ValueError unless all are (B,) with at least one row."""
    shapes = {tuple(x.shape) for x in tensors.values()}
    if len(shapes) > 1 or any(len(shape) != 1 or not shape[0] for shape in shapes):
        given = ", ".join(f"{name} {tuple(x.shape)}" for name, x in tensors.items())
        raise ValueError(
            f"{given}: need one number a sequence, all (B,) with at least one row; "
            "masked_sum(logprobs, mask, dim=1) sums the token log-probs"
        )
    return [x.to(torch.promote_types(x.dtype, torch.float32)) for x in tensors.values()]


def check_beta(beta: float) -> None:
    """ValueError unless beta is positive."""
    if not beta > 0:
        raise ValueError(f"beta scales the log-ratios: it must be positive, not {beta}")


def pair_metrics(
    loss: torch.Tensor, chosen_reward: torch.Tensor, rejected_reward: torch.Tensor
) -> dict[str, float]:
    """What every loss on pairs reports, from the implicit rewards (B,); a tie counts as wrong."""
    return {
        "loss": loss.item(),
        "accuracy": (chosen_reward > rejected_reward).double().mean().item(),
        "margin": (chosen_reward - rejected_reward).mean().item(),
        "chosen_reward": chosen_reward.mean().item(),
        "rejected_reward": rejected_reward.mean().item(),
    }


def _ipo_score(log_ratio: torch.Tensor, lengths: torch.Tensor | None, name: str) -> torch.Tensor:
    """The log-ratio a token."""
    if lengths is None:
        raise ValueError(
            f"ipo averages over the tokens: it needs {name}, mask.sum(1) of shape (B,)"
        )
    if lengths.shape != log_ratio.shape or (lengths < 1).any():
        raise ValueError(
            f"{name} {tuple(lengths.shape)}: need {tuple(log_ratio.shape)}, each at least 1 token"
        )
    return log_ratio / lengths


def dpo_loss(
    policy_chosen: torch.Tensor,
    policy_rejected: torch.Tensor,
    ref_chosen: torch.Tensor,
    ref_rejected: torch.Tensor,
    beta: float = 0.1,
    loss_type: str = "sigmoid",
    *,
    label_smoothing: float = 0.0,
    chosen_lengths: torch.Tensor | None = None,
    rejected_lengths: torch.Tensor | None = None,
    dpop_lambda: float = 50.0,
) -> tuple[torch.Tensor, dict[str, float]]:
    """Direct preference optimisation, mean over the pairs, and four variants of it.

    c = policy_chosen - ref_chosen,  r = policy_rejected - ref_rejected,  z = beta (c - r)

    | loss_type | loss of a pair                                                               |
    |-----------|------------------------------------------------------------------------------|
    | sigmoid   | -(1 - e) log sigmoid(z) - e log sigmoid(-z)                                  |
    | robust    | [-(1 - e) log sigmoid(z) + e log sigmoid(-z)] / (1 - 2e)                     |
    | ipo       | (c / chosen_lengths - r / rejected_lengths - 1 / (2 beta))^2                 |
    | hinge     | max(0, 1 - z)                                                                |
    | dpop      | -log sigmoid(z - beta dpop_lambda max(0, ref_chosen - policy_chosen))        |

    e is `label_smoothing`, the share of pairs taken to be labelled the wrong way round. sigmoid:
    Rafailov et al. 2023, eq. 7; with e > 0 conservative DPO (Mitchell 2023). robust: Chowdhury et
    al. 2024, whose expectation under such labels is the sigmoid loss of the right ones; it can be
    negative. ipo: Azar et al. 2023, eq. 17 with tau = beta, and the log-ratios a token instead of a
    sequence, as in TRL. hinge: SLiC (Zhao et al. 2023) on log-ratios. dpop: Pal et al. 2024; only
    it sees whether the chosen completion itself became less likely than under the reference.

    policy_*, ref_* (B,): log-probs *summed* over the completion's tokens, not averaged. The
    reference is a constant. Policy equal to reference: z = 0, and sigmoid gives log 2. *_lengths
    (B,): completion tokens, read by ipo only. Metrics, by implicit rewards beta c and beta r (for
    every loss_type): loss; accuracy, share with beta c > beta r; margin, mean of z; chosen_reward;
    rejected_reward. ValueError when shapes differ, there is no pair, beta is not positive, the
    loss_type is unknown, ipo lacks lengths, dpop_lambda is negative, or label_smoothing lies
    outside [0, 0.5) or goes with a loss_type that has none.
    """
    if loss_type not in LOSS_TYPES:
        raise ValueError(f"loss_type {loss_type!r}: need one of {', '.join(LOSS_TYPES)}")
    check_beta(beta)
    if not 0 <= label_smoothing < 0.5:
        raise ValueError(f"label_smoothing must lie in [0, 0.5), not {label_smoothing}")
    if label_smoothing and loss_type not in ("sigmoid", "robust"):
        raise ValueError(f"{loss_type} has no label_smoothing: only sigmoid and robust do")
    if dpop_lambda < 0:
        raise ValueError(f"dpop_lambda weighs a penalty: need 0 or more, not {dpop_lambda}")
    policy_chosen, policy_rejected, ref_chosen, ref_rejected = per_sequence(
        policy_chosen=policy_chosen,
        policy_rejected=policy_rejected,
        ref_chosen=ref_chosen.detach(),
        ref_rejected=ref_rejected.detach(),
    )
    chosen, rejected = policy_chosen - ref_chosen, policy_rejected - ref_rejected
    z = beta * (chosen - rejected)
    if loss_type == "ipo":
        score = _ipo_score(chosen, chosen_lengths, "chosen_lengths")
        score = score - _ipo_score(rejected, rejected_lengths, "rejected_lengths")
        losses = (score - 1 / (2 * beta)).square()
    elif loss_type == "hinge":
        losses = F.relu(1 - z)
    elif loss_type == "dpop":
        losses = -F.logsigmoid(z - beta * dpop_lambda * F.relu(-chosen))
    else:
        as_labelled = -(1 - label_smoothing) * F.logsigmoid(z)
        flipped = -label_smoothing * F.logsigmoid(-z)
        if loss_type == "sigmoid":
            losses = as_labelled + flipped
        else:
            losses = (as_labelled - flipped) / (1 - 2 * label_smoothing)
    loss = losses.mean()
    return loss, pair_metrics(loss, beta * chosen.detach(), beta * rejected.detach())
