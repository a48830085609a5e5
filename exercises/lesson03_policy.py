"""Exercise of lesson 03: the clipped policy loss of PPO."""

from collections.abc import Callable

import torch

from exercises.judge import Case, judge, ragged_mask, with_pairs, worked_case
from utils import losses

_TOKENS = "divide by the number of tokens where the mask is 1."
_FROM_ONE = "clip the ratio itself to [1 - clip_eps, 1 + clip_eps]."
_ON_LOG = f"Clip on the log ratio: {_FROM_ONE}"
_BOTH = "the objective is the smaller of ratio * A and clipped ratio * A, whatever the sign of A."
_RATIO = "The ratio is exp(logprobs - old_logprobs)."
_POLICY_MISTAKES = {
    "pick": {
        "max": f"max instead of min: {_BOTH}",
        "max below 0": f"max instead of min for negative advantages: {_BOTH}",
        "clipped": f"Only the clipped branch: {_BOTH}",
        "unclipped": f"No clip: {_BOTH}",
    },
    "clip": {
        "log ratio": _ON_LOG,
        "log ratio around 1": _ON_LOG,
        "log ratio around 1, no exp": _ON_LOG,
        "product": "Clip on ratio * A: clip the ratio first, then multiply.",
        "around 0": f"Clip around 0: {_FROM_ONE}",
        "above": f"Clip for positive advantages only, without a lower bound: {_FROM_ONE}",
        "below": f"Clip for negative advantages only, without an upper bound: {_FROM_ONE}",
        "fixed": "clip_eps ignored: you clip at 0.2 whatever clip_eps is.",
    },
    "ratio": {
        "inverted": f"Ratio inverted. {_RATIO}",
        "log": f"Log ratio taken for the ratio. {_RATIO}",
        "shifted log": f"1 + log ratio taken for the ratio. {_RATIO}",
        "quotient": f"Log-probs divided by each other. {_RATIO}",
        "new": f"old_logprobs not used in the ratio. {_RATIO}",
    },
    "padding": {
        "counts": "Mask ignored: padding counts in your loss. Leave out where the mask is 0."
    },
    "mean": {
        "positions": f"Mean over all positions instead of tokens: {_TOKENS}",
        "none": f"Sum instead of mean: {_TOKENS}",
        "sequences": "Mean per sequence, then over sequences: that weighs the tokens of short "
        "completions more. Average over all tokens of the batch at once.",
        "batch": f"Summed over each sequence, averaged over sequences: {_TOKENS}",
    },
    "sign": {"plus": "Sign flipped: the loss is minus the objective."},
}


def _clipped_policy(
    logprobs,
    old_logprobs,
    advantages,
    mask,
    clip_eps,
    pick="min",
    clip="",
    ratio="",
    padding="",
    mean="tokens",
    sign="",
):
    """PPO's policy loss, with the mistakes named in `_POLICY_MISTAKES` on request."""
    log_ratio = old_logprobs - logprobs if ratio == "inverted" else logprobs - old_logprobs
    low, high = (0.8, 1.2) if clip == "fixed" else (1 - clip_eps, 1 + clip_eps)
    ratios = {
        "log": log_ratio,
        "shifted log": 1 + log_ratio,
        "quotient": logprobs / old_logprobs,
        "new": logprobs.exp(),
    }.get(ratio, log_ratio.exp())
    unclipped = ratios * advantages
    clipped = {
        "log ratio": log_ratio.clamp(-clip_eps, clip_eps).exp() * advantages,
        "log ratio around 1": log_ratio.clamp(low, high).exp() * advantages,
        "log ratio around 1, no exp": log_ratio.clamp(low, high) * advantages,
        "product": unclipped.clamp(low, high),
        "around 0": ratios.clamp(-clip_eps, clip_eps) * advantages,
        "above": ratios.clamp(max=high) * advantages,
        "below": ratios.clamp(min=low) * advantages,
    }.get(clip, ratios.clamp(low, high) * advantages)
    smaller, larger = torch.min(unclipped, clipped), torch.max(unclipped, clipped)
    objective = {
        "min": smaller,
        "max": larger,
        "max below 0": torch.where(advantages < 0, larger, smaller),
        "clipped": clipped,
        "unclipped": unclipped,
    }[pick]
    kept = torch.ones_like(mask) if padding == "counts" else mask
    objective = objective * kept
    loss = -{
        "tokens": objective.sum() / kept.sum(),
        "positions": objective.mean(),
        "none": objective.sum(),
        "sequences": (objective.sum(1) / kept.sum(1)).mean(),
        "batch": objective.sum(1).mean(),
    }[mean]
    return -loss if sign == "plus" else loss


def clipped_policy_loss(fn: Callable) -> None:
    """Check `fn(logprobs, old_logprobs, advantages, mask, clip_eps) -> scalar`; prints.

    All (B, T), the mask 1.0 on completion tokens and 0.0 on the padding at the right. The loss is a
    mean over the tokens of the batch. Only `logprobs` may get a gradient: `old_logprobs` and
    `advantages` are constants.
    """
    cases = [
        # One token for each sign of A and side of the clip: ratios e, e, 1/e and 1/e.
        worked_case(
            logprobs=torch.tensor([[-1.0, -1.0, -2.0], [-2.0, -1.0, -2.0]]),
            old_logprobs=torch.tensor([[-2.0, -2.0, -1.0], [-1.0, -3.0, -1.0]]),
            advantages=torch.tensor([[1.0, -2.0, 3.0], [-4.0, 5.0, 6.0]]),
            mask=torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, 0.0]]),
            clip_eps=0.2,
        ),
        worked_case(
            logprobs=torch.tensor([[-1.0, -2.0]]),
            old_logprobs=torch.tensor([[-2.0, -1.0]]),
            advantages=torch.tensor([[1.0, -2.0]]),
            mask=torch.ones(1, 2),
            clip_eps=0.5,
        ),
    ]
    generator = torch.Generator().manual_seed(0)
    for lengths, clip_eps in (((5, 1, 3), 0.1), ((2, 7, 4, 7), 0.3)):
        mask = ragged_mask(lengths).float()
        steps, advantages, old = torch.randn((3, *mask.shape), generator=generator)
        old = old.abs().neg()
        args = old + 0.5 * steps, old, advantages, mask, clip_eps
        cases.append(Case(args, f"a random batch (lengths {lengths}, clip_eps {clip_eps})"))
    judge(
        fn,
        reference=lambda logprobs, old_logprobs, advantages, mask, clip_eps: (
            losses.clipped_policy_loss(logprobs, old_logprobs, advantages, mask, clip_eps)[0]
        ),
        cases=cases,
        success="loss and gradient equal utils.losses.clipped_policy_loss on "
        f"{len(cases)} batches.",
        grad_args=["logprobs", "old_logprobs", "advantages"],
        **with_pairs(_clipped_policy, _POLICY_MISTAKES),
    )
