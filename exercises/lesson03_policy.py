"""Exercise of lesson 03: the clipped policy loss of PPO."""

import torch

from exercises.calls import Case, ragged_mask, worked_case
from exercises.judge import Exercise
from exercises.shared import CLIP_MISTAKES
from utils import losses


def my_policy_loss(logprobs, old_logprobs, advantages, mask, clip_eps):
    old_logprobs, advantages = old_logprobs.detach(), advantages.detach()
    ratio = torch.exp(logprobs - old_logprobs)
    clipped = ratio.clamp(1 - clip_eps, 1 + clip_eps) * advantages
    objective = torch.min(ratio * advantages, clipped)
    return -(objective * mask).sum() / mask.sum()


_TOKENS = "divide by the number of tokens where the mask is 1."
_MISTAKES = f"""
Mask ignored: padding counts in your loss. Leave out where the mask is 0.
    (objective * mask).sum() / mask.sum() -> objective.mean()
Padding counts in the sum, though not in the number of tokens: multiply by the mask first.
    (objective * mask).sum() -> objective.sum()
Mean over all positions instead of tokens: {_TOKENS}
    / mask.sum() -> / mask.numel()
Sum instead of mean: {_TOKENS}
    / mask.sum() ->
Mean per sequence, then over sequences: that weighs the tokens of short completions more. Average
over all tokens of the batch at once.
    (objective * mask).sum() / mask.sum() -> ((objective * mask).sum(1) / mask.sum(1)).mean()
Summed over each sequence, averaged over sequences: {_TOKENS}
    / mask.sum() -> / len(mask)
Sign flipped: the loss is minus the objective.
    return -( -> return (
"""


def _cases():
    # Every sign of A on either side of the clip; e^-110 is 0 in float32.
    yield worked_case(
        logprobs=[[-1.0, -1.0, -2.0], [-2.0, -110.0, -2.0]],
        old_logprobs=[[-2.0, -2.0, -1.0], [-1.0, -111.0, -1.0]],
        advantages=[[1.0, -2.0, 3.0], [-4.0, 5.0, 6.0]],
        mask=[[1.0, 1.0, 1.0], [1.0, 1.0, 0.0]],
        clip_eps=0.25,
    )
    generator = torch.Generator().manual_seed(0)
    for lengths, clip_eps in (((5, 1, 3), 0.1), ((2, 7, 4, 7), 0.3)):
        mask = ragged_mask(lengths)
        steps, advantages, old = torch.randn((3, *mask.shape), generator=generator)
        old = old.abs().neg()
        args = old + 0.5 * steps, old, advantages, mask, clip_eps
        yield Case(args, f"a random batch (lengths {lengths}, clip_eps {clip_eps})")


clipped_policy_loss = Exercise(
    reference=losses.clipped_policy_loss,
    answer=my_policy_loss,
    mistakes=CLIP_MISTAKES + _MISTAKES,
    cases=list(_cases()),
    success="loss and gradient equal utils.losses.clipped_policy_loss",
    grads=["logprobs", "old_logprobs", "advantages"],
)
