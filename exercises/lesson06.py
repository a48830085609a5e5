"""Exercise of lesson 06: weights for a sampler that differs from the model being trained."""

from collections.abc import Callable

import torch

from exercises.judge import Case, judge, ragged_mask, with_pairs, worked_case
from utils import logprobs

_MISTAKES = {
    "ratio": {
        "inverse": "Ratio upside down: the model that is trained over the one that sampled, "
        "exp(logprobs - sampler_logprobs).",
        "log": "The logarithm of the ratio: take exp of the difference.",
        "no difference": "Probability of the model alone: divide by the sampler's, that is, "
        "subtract its log-prob first.",
    },
    "cut": {
        "none": "Not truncated: one token can weigh thousands. Cut at limit from above.",
        "both sides": "Truncated from below as well: a small weight is no danger. Only large "
        "ones are cut.",
        "log": "Truncated before exp: limit is for the weight, not for its logarithm.",
        "dropped": "Tokens above the limit weigh 0: here they keep the weight limit.",
    },
    "level": {
        "sequence": "One weight for the whole completion (the product over its tokens): here each "
        "token has its own.",
    },
    "where": {"all": "Padding has a weight: multiply by the mask."},
}


def _importance_weights(
    logprobs,
    sampler_logprobs,
    mask,
    limit,
    ratio="",
    cut="",
    level="",
    where="",
):
    """The truncated weights, with the mistakes named in `_MISTAKES` on request."""
    gap = (logprobs - sampler_logprobs).detach()
    gap = {"inverse": -gap, "no difference": logprobs.detach()}.get(ratio, gap)
    if level == "sequence":
        gap = (gap * mask).sum(1, keepdim=True).expand_as(gap)
    if cut == "log":
        gap = gap.clamp(max=limit)
    weights = gap if ratio == "log" else gap.exp()
    if cut == "both sides":
        weights = weights.clamp(1 / limit, limit)
    elif cut == "dropped":
        weights = weights.where(weights <= limit, torch.zeros_like(weights))
    elif not cut:
        weights = weights.clamp(max=limit)
    return weights if where == "all" else weights * mask


def importance_weights(fn: Callable) -> None:
    """Check `fn(logprobs, sampler_logprobs, mask, limit) -> weights`, (B, T); prints."""
    cases = [
        worked_case(
            logprobs=torch.tensor([[-1.0, -0.5, -3.0], [-2.0, -0.25, -1.0]]),
            sampler_logprobs=torch.tensor([[-1.5, -0.5, -1.0], [-8.0, -0.5, -2.0]]),
            mask=torch.tensor([[1.0, 1.0, 1.0], [1.0, 1.0, 0.0]]),
            limit=3.0,
        )
    ]
    generator = torch.Generator().manual_seed(0)
    for lengths, limit in (((4, 1, 3), 2.0), ((2, 5), 4.0)):
        mask = ragged_mask(lengths).float()
        ours, theirs = -3 * torch.rand(2, *mask.shape, generator=generator)
        text = f"random log-probs, completions of {lengths} tokens, limit {limit}"
        cases.append(Case((ours, theirs, mask, limit), text))
    judge(
        fn,
        reference=logprobs.importance_weights,
        cases=cases,
        success=f"weights equal utils.logprobs.importance_weights on {len(cases)} batches.",
        **with_pairs(_importance_weights, _MISTAKES),
    )
