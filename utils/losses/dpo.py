"""Direct preference optimisation. What its successors change: `relatives.dpo`."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from utils.arguments import per_sequence, positive


def log_ratios(
    policy_chosen: Float[Tensor, " B"],
    policy_rejected: Float[Tensor, " B"],
    ref_chosen: Float[Tensor, " B"],
    ref_rejected: Float[Tensor, " B"],
) -> tuple[Float[Tensor, " B"], Float[Tensor, " B"]]:
    """Policy minus reference, of the chosen and of the rejected; the reference is a constant."""
    policy_chosen, policy_rejected, ref_chosen, ref_rejected = per_sequence(
        policy_chosen=policy_chosen,
        policy_rejected=policy_rejected,
        ref_chosen=ref_chosen.detach(),
        ref_rejected=ref_rejected.detach(),
    )
    return policy_chosen - ref_chosen, policy_rejected - ref_rejected


def pair_metrics(loss, chosen_reward, rejected_reward) -> dict[str, float]:
    """What every loss on pairs reports, from the implicit rewards; a tie counts as wrong."""
    return {
        "loss": loss.item(),
        "accuracy": (chosen_reward > rejected_reward).double().mean().item(),
        "margin": (chosen_reward - rejected_reward).mean().item(),
        "chosen_reward": chosen_reward.mean().item(),
        "rejected_reward": rejected_reward.mean().item(),
    }


def dpo_loss(
    policy_chosen: Float[Tensor, " B"],
    policy_rejected: Float[Tensor, " B"],
    ref_chosen: Float[Tensor, " B"],
    ref_rejected: Float[Tensor, " B"],
    beta: float = 0.1,
) -> tuple[Float[Tensor, ""], dict[str, float]]:
    """Direct preference optimisation (Rafailov et al. 2023, eq. 7), mean over the pairs.

    chosen   = policy_chosen - ref_chosen
    rejected = policy_rejected - ref_rejected
    loss     = mean_i [-log sigmoid(beta (chosen_i - rejected_i))]

    Log-probs are *summed* over a completion's tokens, not averaged. The reference gets no gradient.
    Policy equal to reference gives log 2. Metrics are by implicit rewards, beta * log-ratio.
    """
    positive(beta=beta)
    chosen, rejected = log_ratios(policy_chosen, policy_rejected, ref_chosen, ref_rejected)
    loss = -F.logsigmoid(beta * (chosen - rejected)).mean()
    return loss, pair_metrics(loss, beta * chosen.detach(), beta * rejected.detach())
