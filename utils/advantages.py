"""Advantages: how much better a token, or a completion, was than expected. No gradient flows."""

import torch

from utils.kl import k1


def _check_shapes(mask: torch.Tensor, **tensors: torch.Tensor) -> None:
    for name, x in tensors.items():
        if x.shape != mask.shape:
            raise ValueError(
                f"{name} {tuple(x.shape)} and mask {tuple(mask.shape)} differ in shape: "
                "all must be (B, T), one entry a completion token"
            )


@torch.no_grad()
def kl_shaped_rewards(
    scores: torch.Tensor,
    logprobs: torch.Tensor,
    ref_logprobs: torch.Tensor,
    mask: torch.Tensor,
    kl_coef: float,
) -> torch.Tensor:
    """The reward of each token: the KL penalty on every one, the score on the last, (B, T).

    reward_t = -kl_coef * (logprobs_t - ref_logprobs_t) + score * [t is the last completion token]

    scores (B,); the rest (B, T); 0 where masked. Their sum over t is the score minus kl_coef times
    the k1 estimate of the sequence's KL(policy || ref) (Ziegler et al. 2019, eq. 2). The last
    token is the last one unmasked, EOS or not. TRL 1.12 puts the score one position later, on the
    first padding token, where there is one. ValueError when shapes differ or a row has no token.
    """
    _check_shapes(mask, logprobs=logprobs, ref_logprobs=ref_logprobs)
    kept = mask.bool()
    if scores.shape != mask.shape[:1]:
        raise ValueError(
            f"scores {tuple(scores.shape)}: need one a completion, {tuple(mask.shape[:1])}"
        )
    if not kept.any(1).all():
        raise ValueError(
            f"{int((~kept.any(1)).sum())} of {len(kept)} completions have no token that could "
            "carry the score: the mask must cover EOS"
        )
    rewards = torch.where(kept, -kl_coef * k1(logprobs, ref_logprobs), 0.0)
    positions = torch.arange(kept.shape[1], device=kept.device)
    last = torch.where(kept, positions, -1).amax(1, keepdim=True)  # (B, 1)
    return rewards + torch.where(positions == last, scores.unsqueeze(1), 0.0)


@torch.no_grad()
def gae(
    rewards: torch.Tensor,
    values: torch.Tensor,
    mask: torch.Tensor,
    gamma: float = 1.0,
    lam: float = 0.95,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Generalised advantage estimates and the returns to fit the value model to, both (B, T).

    delta_t     = reward_t + gamma * value_{t+1} - value_t
    advantage_t = delta_t + gamma * lam * advantage_{t+1}     (Schulman et al. 2016, eq. 16)
    return_t    = advantage_t + value_t

    rewards, values, mask (B, T). values[:, t] is the value of the state *before* token t: prompt
    and tokens 0 to t-1. Behind the last completion token the value is 0, for a truncated answer
    too: the episode ends there, nothing is bootstrapped. With gamma = 1, lam = 1 gives the sum of
    the rewards to come minus the value, and lam = 0 gives delta. Masked positions are skipped and
    come back as 0, whatever was in them. ValueError when shapes differ or gamma or lam is outside
    [0, 1].
    """
    _check_shapes(mask, rewards=rewards, values=values)
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


SCALES = ("group", "batch", "none")
STD_EPS = 1e-4  # as in TRL


def _checked_rewards(rewards: torch.Tensor) -> torch.Tensor:
    """The rewards, in float32 at least."""
    if rewards.ndim != 1 or len(rewards) < 2:
        raise ValueError(
            f"rewards {tuple(rewards.shape)}: need one a completion, (B,), and 2 or more"
        )
    if not rewards.isfinite().all():
        raise ValueError(f"{int((~rewards.isfinite()).sum())} rewards are NaN or infinite")
    return rewards if rewards.dtype == torch.float64 else rewards.float()


def _grouped(rewards: torch.Tensor, group_size: int) -> torch.Tensor:
    """(B,) -> (Q, G): the completions of a prompt side by side."""
    rewards = _checked_rewards(rewards)
    if group_size < 2 or len(rewards) % group_size:
        raise ValueError(
            f"{len(rewards)} rewards in groups of {group_size}: need 2 or more completions a "
            "prompt, the same number for every prompt"
        )
    return rewards.view(-1, group_size)


@torch.no_grad()
def group_advantages(rewards: torch.Tensor, group_size: int, scale: str = "group") -> torch.Tensor:
    """GRPO's advantages: how much better a completion was than the others of its prompt, (B,).

    A_i = (reward_i - mean of its group) / (std + 1e-4)

    rewards (B,), B = Q * group_size, prompt-major: the completions of a prompt side by side. scale:
    what std is of. "group": the rewards of the group (Shao et al. 2024, section 4.1.2). "batch":
    all B rewards, their group means not subtracted. "none": not divided at all (Dr. GRPO, Liu et
    al. 2025): dividing by the group's own std makes prompts that are nearly always, or nearly
    never, solved weigh more. std is the sample std (divided by N - 1) and 1e-4 is added to it, both
    as in TRL 1.12. A group of equal rewards has advantages of exactly 0. ValueError when B is
    not a multiple of group_size, group_size is below 2, a reward is not finite, or for another
    scale.
    """
    if scale not in SCALES:
        raise ValueError(f"scale must be one of {', '.join(SCALES)}, not {scale!r}")
    groups = _grouped(rewards, group_size)
    centred = groups - groups.mean(1, keepdim=True)
    # Compared exactly: the mean of equal numbers may differ from them by a rounding error.
    equal = groups.amax(1, keepdim=True) == groups.amin(1, keepdim=True)
    centred = torch.where(equal, 0.0, centred)
    if scale == "group":
        centred = centred / (groups.std(1, keepdim=True) + STD_EPS)
    elif scale == "batch":
        centred = centred / (groups.std() + STD_EPS)
    return centred.flatten()


@torch.no_grad()
def rloo_advantages(rewards: torch.Tensor, group_size: int) -> torch.Tensor:
    """REINFORCE leave-one-out: the reward minus the mean of the *others* of its prompt, (B,).

    A_i = reward_i - 1 / (G - 1) sum_{j != i} reward_j     (Kool et al. 2019; Ahmadian et al. 2024)

    G / (G - 1) times the reward minus the group's mean: the advantages of Dr. GRPO up to a constant
    factor. Unbiased, as the baseline does not depend on completion i. rewards (B,), prompt-major.
    ValueError as in `group_advantages`.
    """
    return group_advantages(rewards, group_size, "none") * group_size / (group_size - 1)


@torch.no_grad()
def reinforce_pp_advantages(rewards: torch.Tensor) -> torch.Tensor:
    """REINFORCE++: rewards whitened over the whole batch, no groups (Hu et al. 2025), (B,).

    A_i = (reward_i - mean of all B) / (std of all B + 1e-4)

    Works with one completion a prompt. The baseline does not know how hard a prompt is: whatever is
    sampled for an easy one counts as good. The variant "with baseline" subtracts the group's mean
    first: `reinforce_pp_advantages(group_advantages(rewards, group_size, "none"))`. rewards (B,),
    in any order, with the KL penalty inside if there is to be one; sample std; all 0 when all
    rewards are equal. ValueError with fewer than two rewards or one that is not finite.
    """
    rewards = _checked_rewards(rewards)
    if rewards.max() == rewards.min():
        return torch.zeros_like(rewards)
    return (rewards - rewards.mean()) / (rewards.std() + STD_EPS)
