"""Exercise of lesson 05: the loss of GRPO."""

import torch

from exercises.calls import Case, ragged_mask, worked_case
from exercises.judge import Exercise
from exercises.shared import CLIP_MISTAKES, DIVIDED
from utils import kl, losses


def my_grpo_loss(logprobs, old_logprobs, advantages, mask, ref_logprobs, beta, clip_eps):
    old_logprobs, ref_logprobs = old_logprobs.detach(), ref_logprobs.detach()
    advantages = advantages.detach().unsqueeze(1)
    ratio = torch.exp(logprobs - old_logprobs)
    clipped = ratio.clamp(1 - clip_eps, 1 + clip_eps) * advantages
    objective = torch.min(ratio * advantages, clipped)
    cost = kl.k3(logprobs, ref_logprobs)
    per_token = beta * cost - objective
    loss = ((per_token * mask).sum(1) / mask.sum(1)).mean()
    return loss


_FIRST = "average over the tokens of each completion, then over completions."
_RATIO = "The ratio is exp(logprobs - old_logprobs)."
_K3 = "with r = logprobs - ref_logprobs, k3 is exp(-r) - 1 + r."
_ADDED = "the loss is -objective + beta * k3: a KL costs."
_MISTAKES = f"""
KL sign flipped, so that a KL is rewarded: {_ADDED}
    beta * cost - objective -> -beta * cost - objective
k3 reversed: you take exp(r) - 1 - r; {_K3}
    kl.k3(logprobs, ref_logprobs) -> kl.k3(ref_logprobs, logprobs)
Minus lost in k3: {_K3}
    kl.k3(logprobs, ref_logprobs) -> (logprobs - ref_logprobs).exp() - 1 + logprobs - ref_logprobs
    kl.k3(logprobs, ref_logprobs) -> (ref_logprobs - logprobs).exp() - 1 - logprobs + ref_logprobs
k3 without - 1: {_K3}
    kl.k3(logprobs, ref_logprobs) -> kl.k3(logprobs, ref_logprobs) + 1
k1 taken for k3: {_K3}
    kl.k3(logprobs -> kl.k1(logprobs
k1, sign flipped, taken for k3: {_K3}
    kl.k3(logprobs -> -kl.k1(logprobs
k2 taken for k3: {_K3}
    kl.k3(logprobs -> kl.k2(logprobs
{DIVIDED}
    kl.k3(logprobs, ref_logprobs) ->
        ref_logprobs.exp() / logprobs.exp() - 1 + logprobs - ref_logprobs
No KL: {_ADDED}
    beta * cost - objective -> -objective
beta ignored: {_ADDED}
    beta * cost - objective -> cost - objective
KL to the old policy instead of the reference: {_K3}
    kl.k3(logprobs, ref_logprobs) -> kl.k3(logprobs, old_logprobs)
KL multiplied by the ratio (TRL's default): here it is beta * k3.
    beta * cost -> beta * cost * ratio
KL averaged over the tokens of the batch: it belongs to each token, so {_FIRST}
    beta * cost - objective -> -objective ;
        loss = ( -> loss = beta * (cost * mask).sum() / mask.sum() + (
KL averaged over all positions, where padding counts as 0: it belongs to each token, so {_FIRST}
    beta * cost - objective -> -objective ;
        loss = ( -> loss = beta * (cost * mask).mean() + (
Mask ignored in the KL: padding counts. Add the KL to each token first.
    beta * cost - objective -> -objective ; loss = ( -> loss = beta * cost.mean() + (
    beta * cost - objective -> -objective ; loss = ( -> loss = beta * cost.mean(1).mean() + (
Advantages not spread over tokens: (B,) meets (B, T) at its last dimension, the tokens. Use
advantages.unsqueeze(1), (B, 1): all tokens of a completion share its advantage.
    .unsqueeze(1) ->
    .unsqueeze(1) -> .unsqueeze(0)
Mask ignored: padding counts in your loss. Leave out where the mask is 0.
    (per_token * mask).sum(1) / mask.sum(1) -> per_token
Padding counts in the sums, though not in the number of tokens: multiply by the mask first.
    (per_token * mask).sum(1) -> per_token.sum(1)
Mean over the tokens of the batch: that weighs long completions more, as in DAPO. GRPO weighs
completions the same: {_FIRST}
    ((per_token * mask).sum(1) / mask.sum(1)).mean() -> (per_token * mask).sum() / mask.sum()
Mean over all positions instead of tokens: {_FIRST}
    / mask.sum(1) -> / mask.shape[1]
Sum instead of mean: {_FIRST}
    ((per_token * mask).sum(1) / mask.sum(1)).mean() -> (per_token * mask).sum()
Sum over completions instead of their mean: {_FIRST}
    / mask.sum(1)).mean() -> / mask.sum(1)).sum()
Summed over each completion, averaged over completions: {_FIRST}
    ((per_token * mask).sum(1) / mask.sum(1)).mean() -> (per_token * mask).sum() / len(mask)
Ratio to the reference instead of the old policy. {_RATIO}
    logprobs - old_logprobs -> logprobs - ref_logprobs
One ratio per completion: that is GSPO. {_RATIO}
    torch.exp(logprobs - old_logprobs) -> torch.exp(
        ((logprobs - old_logprobs) * mask).sum(1, keepdim=True) / mask.sum(1, keepdim=True))
Sign flipped: the loss is minus the objective, plus beta * k3.
    return loss -> return -loss
Sign of the objective flipped: the loss is minus it, plus beta * k3.
    cost - objective -> cost + objective
"""


def _cases():
    # Ratios e, 1/e and 1; 1/e, e and e^2. r = 0, -1 and 1; -1, 1 and 0. e^-110 is 0 in float32.
    yield worked_case(
        logprobs=[[-1.0, -2.0, -1.0, -3.0], [-2.0, -110.0, -1.0, -2.0]],
        old_logprobs=[[-2.0, -1.0, -1.0, -1.0], [-1.0, -111.0, -3.0, -1.0]],
        advantages=[2.0, -1.0],
        mask=[[1.0, 1.0, 1.0, 0.0], [1.0, 1.0, 1.0, 1.0]],
        ref_logprobs=[[-1.0, -1.0, -2.0, -1.0], [-1.0, -111.0, -1.0, -4.0]],
        beta=0.5,
        clip_eps=0.25,
    )
    generator = torch.Generator().manual_seed(0)
    # Three completions of up to three tokens: (B,) meets (B, T) without an error.
    for lengths, clip_eps, beta in (((3, 1, 2), 0.1, 0.1), ((2, 7, 4, 7), 0.3, 1.0)):
        mask = ragged_mask(lengths)
        steps, ref, old = torch.randn((3, *mask.shape), generator=generator)
        advantages = 2 * torch.randn(len(lengths), generator=generator)
        old = old.abs().neg()
        args = old + 0.5 * steps, old, advantages, mask, old + 0.5 * ref, beta, clip_eps
        yield Case(args, f"a random batch (lengths {lengths}, beta {beta}, clip_eps {clip_eps})")


grpo_loss = Exercise(
    reference=losses.grpo_loss,
    answer=my_grpo_loss,
    mistakes=_MISTAKES + CLIP_MISTAKES,
    cases=list(_cases()),
    success="loss and gradient equal utils.losses.grpo_loss",
    grads=["logprobs", "old_logprobs", "advantages", "ref_logprobs"],
    hints={
        "must match the size": "Advantages not spread over tokens? (B,) meets (B, T) at the tokens;"
        " advantages.unsqueeze(1) is (B, 1)."
    },
)
