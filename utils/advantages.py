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
