"""Exercise of lesson 06: weights for a sampler that differs from the model being trained."""

import torch

from exercises.calls import Case, ragged_mask, worked_case
from exercises.judge import Exercise
from exercises.shared import DIVIDED
from relatives import samplers


def my_importance_weights(logprobs, sampler_logprobs, mask, limit):
    gap = (logprobs - sampler_logprobs).detach()
    weights = gap.exp().clamp(max=limit)
    return weights * mask


_RATIO = (
    "It is exp(logprobs - sampler_logprobs): the model that is trained over the one that sampled."
)
_MISTAKES = f"""
Ratio upside down. {_RATIO}
    logprobs - sampler_logprobs -> sampler_logprobs - logprobs
The logarithm of the ratio: take exp of the difference.
    gap.exp() -> gap
Log-probs divided by each other. {_RATIO}
    logprobs - sampler_logprobs -> logprobs / sampler_logprobs ; gap.exp() -> gap
    logprobs - sampler_logprobs -> logprobs / sampler_logprobs
Probability of the model alone: divide by the sampler's, that is, subtract its log-prob first.
    logprobs - sampler_logprobs -> logprobs
{DIVIDED}
    logprobs - sampler_logprobs -> logprobs.exp() / sampler_logprobs.exp() ; gap.exp() -> gap
Not truncated: one token can weigh thousands. Cut at limit from above.
    .clamp(max=limit) ->
Cut at limit from below: the large weights are the dangerous ones. Cut from above, max=limit.
    clamp(max=limit) -> clamp(min=limit)
Truncated from below as well: a small weight is no danger. Only large ones are cut.
    clamp(max=limit) -> clamp(1 / limit, limit)
Truncated before exp: limit is for the weight, not for its logarithm.
    gap.exp().clamp(max=limit) -> gap.clamp(max=limit).exp()
Tokens above the limit weigh 0: here they keep the weight limit.
    weights * mask -> gap.exp() * (gap.exp() <= limit) * mask
Normalised weights: here they are neither divided by their sum nor by their mean.
    weights * mask -> weights * mask / (weights * mask).sum() * mask.sum()
    weights * mask -> weights * mask / (weights * mask).sum()
One weight for the whole completion (the product over its tokens): here each token has its own.
    .detach() -> .detach() * mask ; gap.exp() -> gap.sum(1, keepdim=True).expand_as(gap).exp()
Padding has a weight: multiply by the mask.
    weights * mask -> weights | (gap * mask).exp().clamp(max=limit)
"""


def _cases():
    yield worked_case(
        logprobs=[[-1.0, -0.5, -3.0], [-2.0, -110.0, -1.0]],
        sampler_logprobs=[[-1.5, -0.5, -1.0], [-8.0, -110.5, -2.0]],
        mask=[[1.0, 1.0, 1.0], [1.0, 1.0, 0.0]],
        limit=3.0,
    )
    generator = torch.Generator().manual_seed(0)
    for lengths, limit in (((4, 1, 3), 2.0), ((2, 5), 4.0)):
        mask = ragged_mask(lengths)
        ours, theirs = -3 * torch.rand(2, *mask.shape, generator=generator)
        text = f"random log-probs, completions of {lengths} tokens, limit {limit}"
        yield Case((ours, theirs, mask, limit), text)


importance_weights = Exercise(
    reference=samplers.importance_weights,
    answer=my_importance_weights,
    mistakes=_MISTAKES,
    cases=list(_cases()),
    success="weights equal relatives.samplers.importance_weights",
    grads=["logprobs", "sampler_logprobs"],
)
