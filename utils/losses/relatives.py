"""Relatives of DPO: without a reference (ORPO, SimPO), without pairs (KTO), by the token (TDPO)."""

import torch
import torch.nn.functional as F

from utils.losses.dpo import check_beta, pair_metrics, per_sequence


def orpo_loss(
    policy_chosen_mean: torch.Tensor, policy_rejected_mean: torch.Tensor, beta: float = 0.1
) -> tuple[torch.Tensor, dict[str, float]]:
    """Supervised loss on the chosen completions plus an odds-ratio term; no reference model.

    loss = mean_i [-policy_chosen_mean - beta log sigmoid(log(odds_chosen / odds_rejected))]
    odds = p / (1 - p)  with  p = exp(mean log-prob)

    Hong et al. 2024, eq. 4, 6 and 7; beta is their lambda. policy_*_mean (B,): log-probs *averaged*
    over the completion's tokens, below 0. The supervised term weighs every completion the same and
    has no prompt in it (TRL's is a mean over all tokens of the batch, prompts too). Means above
    minus the float's epsilon, p = 1 after rounding, are cut there in the odds, whose gradient would
    be infinite.

    Metrics: loss; nll, the first term; log_odds_ratio, mean; and by rewards beta * mean log-prob,
    as in TRL, accuracy, margin, chosen_reward, rejected_reward. ValueError when shapes differ,
    there is no pair or beta is not positive.
    """
    check_beta(beta)
    chosen, rejected = per_sequence(
        policy_chosen_mean=policy_chosen_mean, policy_rejected_mean=policy_rejected_mean
    )

    def log_odds(mean: torch.Tensor) -> torch.Tensor:
        mean = mean.clamp(max=-torch.finfo(mean.dtype).eps)
        # expm1: 1 - exp(x) would lose all digits where p is close to 1.
        return mean - (-torch.expm1(mean)).log()

    log_odds_ratio = log_odds(chosen) - log_odds(rejected)
    nll = -chosen.mean()
    loss = nll - beta * F.logsigmoid(log_odds_ratio).mean()
    return loss, {
        **pair_metrics(loss, beta * chosen.detach(), beta * rejected.detach()),
        "nll": nll.item(),
        "log_odds_ratio": log_odds_ratio.mean().item(),
    }


def simpo_loss(
    policy_chosen_mean: torch.Tensor,
    policy_rejected_mean: torch.Tensor,
    beta: float = 2.0,
    gamma: float = 1.0,
) -> tuple[torch.Tensor, dict[str, float]]:
    """DPO on average log-probs with a margin and without a reference (Meng et al. 2024, eq. 6).

    loss = mean_i [-log sigmoid(beta policy_chosen_mean - beta policy_rejected_mean - gamma)]

    policy_*_mean (B,): log-probs *averaged* over the completion's tokens. gamma is the margin in
    units of reward, not multiplied by beta, as in the paper and in TRL's `simpo_gamma`; the
    authors' code takes the quotient gamma / beta. Metrics, by rewards beta * mean log-prob, without
    gamma: loss, accuracy, margin, chosen_reward, rejected_reward. ValueError when shapes differ,
    there is no pair, beta is not positive or gamma is negative.
    """
    check_beta(beta)
    if gamma < 0:
        raise ValueError(f"gamma is the margin to reach: need 0 or more, not {gamma}")
    chosen, rejected = per_sequence(
        policy_chosen_mean=policy_chosen_mean, policy_rejected_mean=policy_rejected_mean
    )
    loss = -F.logsigmoid(beta * (chosen - rejected) - gamma).mean()
    return loss, pair_metrics(loss, beta * chosen.detach(), beta * rejected.detach())


def kto_loss(
    policy: torch.Tensor,
    ref: torch.Tensor,
    desirable: torch.Tensor,
    kl: torch.Tensor | float,
    beta: float = 0.1,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> tuple[torch.Tensor, dict[str, float]]:
    """Kahneman-Tversky optimisation: single completions, each labelled good or bad, no pairs.

    loss_i = desirable_weight   (1 - sigmoid(beta (log-ratio_i - kl)))   where desirable
             undesirable_weight (1 - sigmoid(beta (kl - log-ratio_i)))   elsewhere
    loss   = mean_i loss_i,  log-ratio = policy - ref

    Ethayarajh et al. 2024, eq. 8. policy, ref (B,): log-probs summed over the completion's tokens.
    desirable (B,): bool. kl, one number in nats: the reference point, an estimate of KL(policy ||
    ref) a completion; the paper takes the mean log-ratio of completions paired with the prompts of
    others. It gets no gradient, and an estimate below 0 counts as 0.

    Metrics: loss; kl, as used; desirable_reward and undesirable_reward, means of beta * log-ratio
    over each kind, NaN where the batch has none. ValueError when shapes differ, the batch is empty,
    `desirable` is not bool, kl is not one number, beta is not positive or a weight is negative.
    """
    check_beta(beta)
    if min(desirable_weight, undesirable_weight) < 0:
        raise ValueError(f"weights must be 0 or more: {desirable_weight}, {undesirable_weight}")
    if desirable.dtype != torch.bool or desirable.shape != policy.shape:
        raise ValueError(
            f"desirable {tuple(desirable.shape)} {desirable.dtype}: need {tuple(policy.shape)} bool"
        )
    policy, ref = per_sequence(policy=policy, ref=ref.detach())
    kl = torch.as_tensor(kl, dtype=policy.dtype, device=policy.device).detach()
    if kl.ndim:
        raise ValueError(f"kl {tuple(kl.shape)}: need one number for the whole batch")
    kl = kl.clamp(min=0)
    log_ratio = policy - ref
    # 1 - sigmoid(x) is sigmoid(-x), which keeps its digits where sigmoid(x) rounds to 1.
    losses = torch.where(
        desirable,
        desirable_weight * torch.sigmoid(beta * (kl - log_ratio)),
        undesirable_weight * torch.sigmoid(beta * (log_ratio - kl)),
    )
    loss = losses.mean()
    reward = beta * log_ratio.detach()
    return loss, {
        "loss": loss.item(),
        "kl": kl.item(),
        "desirable_reward": reward[desirable].mean().item(),
        "undesirable_reward": reward[~desirable].mean().item(),
    }


def tdpo_loss(
    policy_chosen: torch.Tensor,
    policy_rejected: torch.Tensor,
    ref_chosen: torch.Tensor,
    ref_rejected: torch.Tensor,
    chosen_kl: torch.Tensor,
    rejected_kl: torch.Tensor,
    beta: float = 0.1,
    alpha: float = 0.5,
) -> tuple[torch.Tensor, dict[str, float]]:
    """Token-level DPO, TDPO2 (Zeng et al. 2024): DPO with a brake on the KL of rejected answers.

    z    = beta [(policy_chosen - ref_chosen) - (policy_rejected - ref_rejected)]
    loss = mean_i [-log sigmoid(z - beta alpha (rejected_kl - sg(chosen_kl)))]

    sg stops the gradient: the KL of the chosen completion shifts the loss, but is not trained.
    policy_*, ref_* (B,): log-probs summed over the completion's tokens. *_kl (B,): forward KL
    KL(ref || policy), over the whole vocabulary and summed over the tokens (`kl.sequential_kl`).
    alpha = 0 is DPO. The reference gets no gradient.

    Metrics: as `dpo_loss` (rewards beta * log-ratio; the authors add beta * KL to theirs), and the
    means chosen_kl and rejected_kl. ValueError when shapes differ, there is no pair, beta is not
    positive or alpha is negative.
    """
    check_beta(beta)
    if alpha < 0:
        raise ValueError(f"alpha weighs the KL of rejected answers: need 0 or more, not {alpha}")
    policy_chosen, policy_rejected, ref_chosen, ref_rejected, chosen_kl, rejected_kl = per_sequence(
        policy_chosen=policy_chosen,
        policy_rejected=policy_rejected,
        ref_chosen=ref_chosen.detach(),
        ref_rejected=ref_rejected.detach(),
        chosen_kl=chosen_kl.detach(),
        rejected_kl=rejected_kl,
    )
    chosen, rejected = policy_chosen - ref_chosen, policy_rejected - ref_rejected
    brake = alpha * (rejected_kl - chosen_kl)
    loss = -F.logsigmoid(beta * (chosen - rejected - brake)).mean()
    return loss, {
        **pair_metrics(loss, beta * chosen.detach(), beta * rejected.detach()),
        "chosen_kl": chosen_kl.mean().item(),
        "rejected_kl": rejected_kl.mean().item(),
    }
