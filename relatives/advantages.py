"""What the relatives of GRPO take as advantages: leave-one-out, or whitened over the batch.

Lessons 00 and 05. Other libraries: docs/advantages.md.
"""

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from utils.advantages import group_advantages


@torch.no_grad()
def rloo_advantages(rewards: Shaped[Tensor, " B"], group_size: int) -> Float[Tensor, " B"]:
    """REINFORCE leave-one-out: the reward minus the mean of the *others* of its prompt.

    A_i = reward_i - 1 / (G - 1) sum_{j != i} reward_j     (Kool et al. 2019; Ahmadian et al. 2024)

    Unbiased, as the baseline does not depend on completion i; G / (G - 1) times the reward minus
    the group's mean.
    """
    return group_advantages(rewards, group_size, "none") * group_size / (group_size - 1)


@torch.no_grad()
def reinforce_pp_advantages(rewards: Shaped[Tensor, " B"]) -> Float[Tensor, " B"]:
    """REINFORCE++: rewards whitened over the whole batch, no groups (Hu et al. 2025).

    A_i = (reward_i - mean of all B) / (sample std of all B + 1e-4);  all 0 when all are equal

    The variant "with baseline" whitens what is left after the group's mean:
    `reinforce_pp_advantages(group_advantages(rewards, group_size, "none"))`.
    """
    return group_advantages(rewards, rewards.numel())
