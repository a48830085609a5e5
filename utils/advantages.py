"""Advantages: how much better a token, or a completion, was than expected. No gradient flows.

Arguments that do not fit raise ValueError. Conventions and other libraries: docs/advantages.md.
"""

import torch
from jaxtyping import Float, Real, Shaped
from torch import Tensor

from utils.arguments import full_precision, one_each, one_of, same_shape, tokens_in_every_row
from utils.kl import k1

SCALES = ("group", "batch", "none")
STD_EPS = 1e-4  # so that nothing is divided by 0


@torch.no_grad()
def kl_shaped_rewards(
    scores: Real[Tensor, " B"],
    logprobs: Float[Tensor, "B T"],
    ref_logprobs: Float[Tensor, "B T"],
    mask: Shaped[Tensor, "B T"],
    kl_coef: float,
) -> Float[Tensor, "B T"]:
    """The reward of each token: the KL penalty on every one, the score on the last; 0 where masked.

    reward_t = -kl_coef * (logprobs_t - ref_logprobs_t) + score * [t is the last completion token]

    Their sum over t is the score minus kl_coef times the k1 estimate of the sequence's KL(policy ||
    ref) (Ziegler et al. 2019, eq. 2). The last token is the last one unmasked, EOS or not.
    """
    same_shape(mask, logprobs=logprobs, ref_logprobs=ref_logprobs)
    one_each(mask, scores=scores)
    tokens_in_every_row(mask)
    kept = mask.bool()
    rewards = torch.where(kept, -kl_coef * k1(logprobs, ref_logprobs), 0.0)
    positions = torch.arange(kept.shape[1], device=kept.device)
    last = torch.where(kept, positions, -1).amax(1, keepdim=True)  # (B, 1)
    return rewards + torch.where(positions == last, scores.unsqueeze(1), 0.0)


@torch.no_grad()
def gae(
    rewards: Float[Tensor, "B T"],
    values: Float[Tensor, "B T"],
    mask: Shaped[Tensor, "B T"],
    gamma: float = 1.0,
    lam: float = 0.95,
) -> tuple[Float[Tensor, "B T"], Float[Tensor, "B T"]]:
    """Generalised advantage estimates and the returns to fit the value model to; 0 where masked.

    delta_t     = reward_t + gamma * value_{t+1} - value_t
    advantage_t = delta_t + gamma * lam * advantage_{t+1}     (Schulman et al. 2016, eq. 16)
    return_t    = advantage_t + value_t

    values[:, t] is the value of the state *before* token t: prompt and tokens 0 to t-1. Behind the
    last completion token the value is 0, for a truncated answer too: nothing is bootstrapped.
    """
    same_shape(mask, rewards=rewards, values=values)
    if not (0 <= gamma <= 1 and 0 <= lam <= 1):
        raise ValueError(f"gamma and lam must be between 0 and 1, not {gamma} and {lam}")
    kept = mask.bool()
    advantages = torch.zeros_like(rewards + values)
    next_value = next_advantage = torch.zeros_like(advantages[:, 0])
    for t in reversed(range(kept.shape[1])):
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        advantage = delta + gamma * lam * next_advantage
        # Padding hands on what came from its right: 0 behind the last token.
        next_advantage = torch.where(kept[:, t], advantage, next_advantage)
        next_value = torch.where(kept[:, t], values[:, t], next_value)
        advantages[:, t] = torch.where(kept[:, t], advantage, 0.0)
    return advantages, torch.where(kept, advantages + values, 0.0)


def _checked(rewards: Shaped[Tensor, " B"]) -> Float[Tensor, " B"]:
    """The rewards, in float32 at least."""
    if rewards.ndim != 1 or len(rewards) < 2:
        raise ValueError(
            f"rewards {tuple(rewards.shape)}: need one a completion, (B,), and 2 or more"
        )
    if not rewards.isfinite().all():
        raise ValueError(f"{int((~rewards.isfinite()).sum())} rewards are NaN or infinite")
    return full_precision(rewards)


@torch.no_grad()
def group_advantages(
    rewards: Shaped[Tensor, " B"], group_size: int, scale: str = "group"
) -> Float[Tensor, " B"]:
    """GRPO's advantages: how much better a completion was than the others of its prompt.

    A_i = (reward_i - mean of its group) / (std + 1e-4)

    rewards: prompt-major, the completions of a prompt side by side. scale: what the sample std is
    of. "group": the rewards of the group (Shao et al. 2024, section 4.1.2); "batch": all B; "none":
    not divided at all (Dr. GRPO, Liu et al. 2025). A group of equal rewards gets exactly 0.
    """
    one_of(SCALES, scale=scale)
    rewards = _checked(rewards)
    if group_size < 2 or len(rewards) % group_size:
        raise ValueError(
            f"{len(rewards)} rewards in groups of {group_size}: need 2 or more completions a "
            "prompt, the same number for every prompt"
        )
    groups = rewards.view(-1, group_size)  # (Q, G)
    centred = groups - groups.mean(1, keepdim=True)
    # Compared exactly: the mean of equal numbers may differ from them by a rounding error.
    equal = groups.amax(1, keepdim=True) == groups.amin(1, keepdim=True)
    centred = torch.where(equal, 0.0, centred)
    if scale == "group":
        centred = centred / (groups.std(1, keepdim=True) + STD_EPS)
    elif scale == "batch":
        centred = centred / (groups.std() + STD_EPS)
    return centred.flatten()
