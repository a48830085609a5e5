"""Exercise of lesson 05: the loss of GRPO."""

from collections.abc import Callable

import torch

from exercises.judge import Case, judge, ragged_mask, with_pairs, worked_case
from utils import losses
from utils.kl import k1, k2, k3

_FIRST = "average over the tokens of each completion, then over completions."
_BOTH = "the objective is the smaller of ratio * A and clipped ratio * A, whatever the sign of A."
_FROM_ONE = "clip the ratio itself to [1 - clip_eps, 1 + clip_eps]."
_RATIO = "The ratio is exp(logprobs - old_logprobs)."
_K3 = "with r = logprobs - ref_logprobs, k3 is exp(-r) - 1 + r."
_ADDED = "the loss is -objective + beta * k3: a KL costs."
_SPREAD = (
    "Advantages not spread over tokens: (B,) meets (B, T) at its last dimension, the tokens. Use "
    "advantages.unsqueeze(1), (B, 1): all tokens of a completion share its advantage."
)
_LOSS_MISTAKES = {
    "kl": {
        "rewarded": f"KL sign flipped, so that a KL is rewarded: {_ADDED}",
        "reversed": f"k3 reversed: you take exp(r) - 1 - r; {_K3}",
        "k1": f"k1 taken for k3: {_K3}",
        "minus k1": f"k1, sign flipped, taken for k3: {_K3}",
        "k2": f"k2 taken for k3: {_K3}",
        "none": f"No KL: {_ADDED}",
        "unweighted": f"beta ignored: {_ADDED}",
        "old": f"KL to the old policy instead of the reference: {_K3}",
        "weighted": "KL multiplied by the ratio (TRL's default): here it is beta * k3.",
    },
    "advantage": {"columns": _SPREAD},
    "padding": {
        "counts": "Mask ignored: padding counts in your loss. Leave out where the mask is 0.",
        "kl counts": "Mask ignored in the KL: padding counts. Add the KL to each token first.",
    },
    "mean": {
        "tokens": "Mean over the tokens of the batch: that weighs long completions more, as in "
        f"DAPO. GRPO weighs completions the same: {_FIRST}",
        "positions": f"Mean over all positions instead of tokens: {_FIRST}",
        "none": f"Sum instead of mean: {_FIRST}",
        "rows": f"Summed over each completion, averaged over completions: {_FIRST}",
    },
    "pick": {
        "max": f"max instead of min: {_BOTH}",
        "max below 0": f"max instead of min for negative advantages: {_BOTH}",
        "clipped": f"Only the clipped branch: {_BOTH}",
        "unclipped": f"No clip: {_BOTH}",
    },
    "clip": {
        "log ratio": f"Clip on the log ratio: {_FROM_ONE}",
        "product": "Clip on ratio * A: clip the ratio first, then multiply.",
        "fixed": "clip_eps ignored: you clip at 0.2 whatever clip_eps is.",
    },
    "ratio": {
        "inverted": f"Ratio inverted. {_RATIO}",
        "log": f"Log ratio taken for the ratio. {_RATIO}",
        "new": f"old_logprobs not used in the ratio. {_RATIO}",
        "reference": f"Ratio to the reference instead of the old policy. {_RATIO}",
        "sequence": f"One ratio a completion: that is GSPO. {_RATIO}",
    },
    "sign": {
        "plus": "Sign flipped: the loss is minus the objective, plus beta * k3.",
        "objective": "Sign of the objective flipped: the loss is minus it, plus beta * k3.",
    },
}


def _grpo(
    logprobs,
    old_logprobs,
    ref_logprobs,
    advantages,
    mask,
    clip_eps,
    beta,
    kl="k3",
    advantage="",
    padding="",
    mean="",
    pick="min",
    clip="",
    ratio="",
    sign="",
):
    """GRPO's loss, with the mistakes named in `_LOSS_MISTAKES` on request."""
    if advantage != "columns":
        advantages = advantages.unsqueeze(1)
    log_ratio = logprobs - (ref_logprobs if ratio == "reference" else old_logprobs)
    if ratio == "inverted":
        log_ratio = -log_ratio
    elif ratio == "sequence":
        log_ratio = (log_ratio * mask).sum(1, keepdim=True) / mask.sum(1, keepdim=True)
    ratios = {"log": log_ratio, "new": logprobs.exp()}.get(ratio, log_ratio.exp())
    low, high = (0.8, 1.2) if clip == "fixed" else (1 - clip_eps, 1 + clip_eps)
    unclipped = ratios * advantages
    clipped = {
        "log ratio": log_ratio.clamp(-clip_eps, clip_eps).exp() * advantages,
        "product": unclipped.clamp(low, high),
    }.get(clip, ratios.clamp(low, high) * advantages)
    smaller, larger = torch.min(unclipped, clipped), torch.max(unclipped, clipped)
    objective = {
        "min": smaller,
        "max": larger,
        "max below 0": torch.where(advantages < 0, larger, smaller),
        "clipped": clipped,
        "unclipped": unclipped,
    }[pick]
    right = k3(logprobs, ref_logprobs)
    cost = {
        "k3": beta * right,
        "rewarded": -beta * right,
        "reversed": beta * k3(ref_logprobs, logprobs),
        "k1": beta * k1(logprobs, ref_logprobs),
        "minus k1": -beta * k1(logprobs, ref_logprobs),
        "k2": beta * k2(logprobs, ref_logprobs),
        "none": 0 * right,
        "unweighted": right,
        "old": beta * k3(logprobs, old_logprobs),
        "weighted": beta * right * ratios,
    }[kl]
    token_loss = objective + cost if sign == "objective" else cost - objective
    kept = torch.ones_like(mask) if padding == "counts" else mask
    if padding == "kl counts":
        token_loss = token_loss - cost
    token_loss = token_loss * kept
    loss = {
        "tokens": token_loss.sum() / kept.sum(),
        "positions": token_loss.mean(),
        "none": token_loss.sum(),
        "rows": token_loss.sum(1).mean(),
    }.get(mean, (token_loss.sum(1) / kept.sum(1)).mean())
    if padding == "kl counts":
        loss = loss + cost.mean()
    return -loss if sign == "plus" else loss


def grpo_loss(fn: Callable) -> None:
    """Check `fn(logprobs, old_logprobs, ref_logprobs, advantages, mask, clip_eps, beta)`; prints.

    Log-probs and mask (B, T), the mask 1.0 on completion tokens and 0.0 on the padding at the
    right; advantages (B,). The loss, a scalar, is a mean over the tokens of each completion, then
    over completions, with beta * k3 to the reference. Only `logprobs` may get a gradient.
    """
    cases = [
        # Ratios e, 1/e and 1; 1/e and e^2. r = 0, -1 and 1; -1 and 0.
        worked_case(
            logprobs=torch.tensor([[-1.0, -2.0, -1.0], [-2.0, -1.0, -2.0]]),
            old_logprobs=torch.tensor([[-2.0, -1.0, -1.0], [-1.0, -3.0, -1.0]]),
            ref_logprobs=torch.tensor([[-1.0, -1.0, -2.0], [-1.0, -1.0, -4.0]]),
            advantages=torch.tensor([2.0, -1.0]),
            mask=torch.tensor([[1.0, 1.0, 1.0], [1.0, 1.0, 0.0]]),
            clip_eps=0.25,
            beta=0.5,
        )
    ]
    generator = torch.Generator().manual_seed(0)
    # Three completions of up to three tokens: (B,) meets (B, T) without an error.
    for lengths, clip_eps, beta in (((3, 1, 2), 0.1, 0.1), ((2, 7, 4, 7), 0.3, 1.0)):
        mask = ragged_mask(lengths).float()
        steps, ref, old = torch.randn((3, *mask.shape), generator=generator)
        advantages = 2 * torch.randn(len(lengths), generator=generator)
        old = old.abs().neg()
        args = old + 0.5 * steps, old, old + 0.5 * ref, advantages, mask, clip_eps, beta
        text = f"a random batch (lengths {lengths}, clip_eps {clip_eps}, beta {beta})"
        cases.append(Case(args, text))
    judge(
        fn,
        reference=lambda logprobs, old_logprobs, ref_logprobs, advantages, mask, clip_eps, beta: (
            losses.grpo_loss(
                logprobs, old_logprobs, advantages, mask, ref_logprobs, beta, clip_eps
            )[0]
        ),
        cases=cases,
        success=f"loss and gradient equal utils.losses.grpo_loss on {len(cases)} batches.",
        grad_args=["logprobs", "old_logprobs", "ref_logprobs", "advantages"],
        error_hints={"must match the size": _SPREAD},
        **with_pairs(_grpo, _LOSS_MISTAKES),
    )
