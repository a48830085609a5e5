"""The relatives of DPO, of lesson 04: with another loss of the margin (robust, IPO, hinge, DPOP),
without a reference (ORPO, SimPO), without pairs (KTO), by the token (TDPO).

Each returns `(loss, metrics)` as `utils.losses` do; where they differ from the papers and from TRL:
docs/losses.md.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from utils.arguments import full_precision, not_negative, one_of, per_sequence, positive
from utils.logprobs import masked_sum
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


def _log_odds(mean: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
    """log(p / (1 - p)), p = exp(mean); where p rounds to 1, its gradient would be infinite."""
    mean = mean.clamp(max=-torch.finfo(mean.dtype).eps)
    # expm1: 1 - exp(x) would lose all digits where p is close to 1.
    return mean - (-torch.expm1(mean)).log()


def orpo_loss(
    policy_chosen_mean: Float[Tensor, " B"],
    policy_rejected_mean: Float[Tensor, " B"],
    beta: float = 0.1,
) -> tuple[Float[Tensor, ""], dict[str, float]]:
    """Supervised loss on the chosen completions plus an odds-ratio term; no reference model.

    loss = mean_i [-policy_chosen_mean - beta log sigmoid(log(odds_chosen / odds_rejected))]
    odds = p / (1 - p)  with  p = exp(mean log-prob)     (Hong et al. 2024, eq. 4, 6 and 7)

    Log-probs are *averaged* over a completion's tokens, below 0; beta is the paper's lambda. The
    supervised term weighs every completion the same.
    """
    positive(beta=beta)
    chosen, rejected = per_sequence(
        policy_chosen_mean=policy_chosen_mean, policy_rejected_mean=policy_rejected_mean
    )
    log_odds_ratio = _log_odds(chosen) - _log_odds(rejected)
    nll = -chosen.mean()
    loss = nll - beta * F.logsigmoid(log_odds_ratio).mean()
    return loss, {
        **pair_metrics(loss, beta * chosen.detach(), beta * rejected.detach()),
        "nll": nll.item(),
        "log_odds_ratio": log_odds_ratio.mean().item(),
    }


def simpo_loss(
    policy_chosen_mean: Float[Tensor, " B"],
    policy_rejected_mean: Float[Tensor, " B"],
    beta: float = 2.0,
    gamma: float = 1.0,
) -> tuple[Float[Tensor, ""], dict[str, float]]:
    """DPO on average log-probs with a margin and without a reference (Meng et al. 2024, eq. 6).

    loss = mean_i [-log sigmoid(beta policy_chosen_mean - beta policy_rejected_mean - gamma)]

    Log-probs are *averaged* over a completion's tokens. gamma is the margin in units of reward, not
    multiplied by beta.
    """
    positive(beta=beta)
    not_negative(gamma=gamma)
    chosen, rejected = per_sequence(
        policy_chosen_mean=policy_chosen_mean, policy_rejected_mean=policy_rejected_mean
    )
    loss = -F.logsigmoid(beta * (chosen - rejected) - gamma).mean()
    return loss, pair_metrics(loss, beta * chosen.detach(), beta * rejected.detach())


def kto_loss(
    policy: Float[Tensor, " B"],
    ref: Float[Tensor, " B"],
    desirable: Bool[Tensor, " B"],
    kl: Float[Tensor, ""] | float,
    beta: float = 0.1,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> tuple[Float[Tensor, ""], dict[str, float]]:
    """Kahneman-Tversky optimisation: single completions, each labelled good or bad, no pairs.

    loss_i = desirable_weight   (1 - sigmoid(beta (log-ratio_i - kl)))   where desirable
             undesirable_weight (1 - sigmoid(beta (kl - log-ratio_i)))   elsewhere
    loss   = mean_i loss_i,  log-ratio = policy - ref     (Ethayarajh et al. 2024, eq. 8)

    Log-probs are summed over a completion's tokens. kl, in nats: the reference point, an estimate
    of KL(policy || ref) a completion; it gets no gradient, and below 0 it counts as 0.
    """
    positive(beta=beta)
    not_negative(desirable_weight=desirable_weight, undesirable_weight=undesirable_weight)
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


def sequential_kl(
    ref_logits: Float[Tensor, "B T V"],
    logits: Float[Tensor, "B T V"],
    mask: Shaped[Tensor, "B T"],
) -> Float[Tensor, " B"]:
    """Forward KL of each completion, KL(ref || policy) in nats: the SeqKL of TDPO.

    sum_t mask_t sum_v ref(v | s_t) [log ref(v | s_t) - log policy(v | s_t)]   (Zeng et al. 2024)

    Logits stand beside the tokens that they predict (`logprobs.completion_logits`); the reference
    gets no gradient. A token that the reference rules out (logit -inf) adds 0; one that only the
    policy rules out makes the KL infinite.
    """
    if logits.ndim != 3 or logits.shape != ref_logits.shape or mask.shape != logits.shape[:2]:
        raise ValueError(
            f"ref_logits {tuple(ref_logits.shape)}, logits {tuple(logits.shape)} and mask "
            f"{tuple(mask.shape)}: need (B, T, V) twice and (B, T)"
        )
    kept = mask.bool().unsqueeze(-1)
    # Padding is replaced before the softmax: behind it, a NaN would still reach the gradient.
    ref, policy = (
        torch.where(kept, full_precision(x), 0.0).log_softmax(-1)
        for x in (ref_logits.detach(), logits)
    )
    probs = ref.exp()
    difference = torch.where(probs == 0, 0.0, ref - policy)  # 0 * inf would be NaN
    return masked_sum((probs * difference).sum(-1), mask, dim=1)


def tdpo_loss(
    policy_chosen: Float[Tensor, " B"],
    policy_rejected: Float[Tensor, " B"],
    ref_chosen: Float[Tensor, " B"],
    ref_rejected: Float[Tensor, " B"],
    chosen_kl: Float[Tensor, " B"],
    rejected_kl: Float[Tensor, " B"],
    beta: float = 0.1,
    alpha: float = 0.5,
) -> tuple[Float[Tensor, ""], dict[str, float]]:
    """Token-level DPO, TDPO2 (Zeng et al. 2024): DPO with a brake on the KL of rejected answers.

    z    = beta [(policy_chosen - ref_chosen) - (policy_rejected - ref_rejected)]
    loss = mean_i [-log sigmoid(z - beta alpha (rejected_kl - sg(chosen_kl)))]

    sg stops the gradient: the KL of the chosen completion shifts the loss, but is not trained. The
    KLs are forward, KL(ref || policy), summed over the tokens (`sequential_kl`). alpha = 0 is
    DPO.
    """
    positive(beta=beta)
    not_negative(alpha=alpha)
    chosen, rejected = log_ratios(policy_chosen, policy_rejected, ref_chosen, ref_rejected)
    chosen, rejected, chosen_kl, rejected_kl = per_sequence(
        chosen=chosen, rejected=rejected, chosen_kl=chosen_kl.detach(), rejected_kl=rejected_kl
    )
    brake = alpha * (rejected_kl - chosen_kl)
    loss = -F.logsigmoid(beta * (chosen - rejected - brake)).mean()
    return loss, {
        **pair_metrics(loss, beta * chosen.detach(), beta * rejected.detach()),
        "chosen_kl": chosen_kl.mean().item(),
        "rejected_kl": rejected_kl.mean().item(),
    }
