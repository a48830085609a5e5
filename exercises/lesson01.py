"""Exercises of lesson 01: the masked SFT loss and the LoRA forward pass."""

import torch

from exercises.calls import Case, worked_case
from exercises.judge import Exercise
from utils import losses
from utils.chat import IGNORE


def my_sft_loss(logits, labels):
    logits, labels = logits[:, :-1], labels[:, 1:]
    kept = labels != IGNORE
    logprobs = logits.log_softmax(-1)
    chosen = logprobs.gather(-1, labels.clamp(min=0)[..., None])[..., 0]
    loss = -(chosen * kept).sum() / kept.sum()
    return loss


_DIVIDE = "divide by the number of labels that are not -100."
_SHIFT = "logits[:, :-1] predict labels[:, 1:]."
_SFT_MISTAKES = f"""
Mask ignored: positions labelled -100 (prompt, padding) count in your loss.
    labels != IGNORE -> labels == labels
Mask not shifted: you shifted the labels, but mask the position before them.
    logits, labels = -> before, logits, labels = labels[:, :-1], ; labels != -> before !=
Token 0 left out: it is a token like any other. Compare with -100: labels != -100.
    labels != IGNORE -> labels > 0
N counted before the shift: the first label is never predicted, so it does not count. Shift first.
    logits, labels = logits -> n, logits, labels = (labels != IGNORE).sum(), logits ;
        / kept.sum() -> / n
Mean over all positions instead of the masked ones: {_DIVIDE}
    / kept.sum() -> / kept.numel()
Mean over all labels instead of the masked ones: {_DIVIDE}
    logits, labels = logits -> n, logits, labels = labels.numel(), logits ; / kept.sum() -> / n
Sum instead of mean: {_DIVIDE}
    / kept.sum() ->
Mean of per-sequence means: that weighs the tokens of short sequences more. Average over all
completion tokens of the batch at once.
    (chosen * kept).sum() / kept.sum() -> ((chosen * kept).sum(1) / kept.sum(1)).mean()
Summed over each sequence, averaged over sequences: {_DIVIDE}
    / kept.sum() -> / len(kept)
No shift by one: {_SHIFT}
    logits[:, :-1], labels[:, 1:] -> logits, labels | logits[:, :-1], labels[:, :-1]
    logits[:, :-1], labels[:, 1:] -> logits[:, 1:], labels[:, 1:]
Shifted the wrong way: your logits have already seen the token they score. {_SHIFT}
    logits[:, :-1], labels[:, 1:] -> logits[:, 1:], labels[:, :-1]
Shifted twice: logits at t predict the label at t + 1.
    logits[:, :-1], labels[:, 1:] -> logits[:, :-2], labels[:, 2:]
The shift wraps around: roll pairs the last logits with the first label.
    logits[:, :-1], labels[:, 1:] -> logits, labels.roll(-1, 1)
softmax over the wrong axis: the vocabulary is the last one, dim=-1.
    log_softmax(-1) -> log_softmax(1) | log_softmax(0)
    logits[:, :-1] -> logits.log_softmax(1)[:, :-1] ; logits.log_softmax(-1) -> logits
Probabilities instead of log-probabilities: use log_softmax.
    log_softmax(-1) -> softmax(-1)
softmax twice: cross_entropy and log_softmax want logits, not probabilities.
    log_softmax(-1) -> softmax(-1).log_softmax(-1)
softmax, then log: tiny probabilities round to 0 (or exp overflows) and the log is lost. Use
log_softmax.
    log_softmax(-1) -> softmax(-1).log()
    logits.log_softmax(-1) -> (logits.exp() / logits.exp().sum(-1, keepdim=True)).log()
    logits.log_softmax(-1) -> (logits - logits.exp().sum(-1, keepdim=True).log())
    log_softmax(-1) -> softmax(-1).add(EPS).log() | softmax(-1).clamp(EPS).log()
Raw logits instead of log-probabilities: use log_softmax.
    logits.log_softmax(-1) -> logits
Wrong sign: the loss is minus the mean log-probability.
    loss = -( -> loss = (
That is the perplexity: leave out the exponential.
    return loss -> return loss.exp()
"""


def _sft_cases():
    logits = torch.arange(40.0).sin().reshape(2, 4, 5)
    labels = torch.tensor([[IGNORE, IGNORE, 1, 2], [IGNORE, 0, IGNORE, IGNORE]])
    text = f"logits = torch.arange(40.0).sin().reshape(2, 4, 5), labels = {labels.tolist()}"
    yield Case((logits, labels), text)
    generator = torch.Generator().manual_seed(0)
    # (prompt lengths, total lengths, logit scale): ragged; completions that start at the first
    # token, where a shift that wraps shows; logits so far apart that softmax underflows.
    for starts, ends, scale in (
        ((2, 3, 4), (7, 4, 6), 1),
        ((0, 0), (6, 3), 1),
        ((3, 2), (5, 8), 90),
    ):
        logits = torch.randn(len(ends), max(ends), 11, generator=generator) * scale
        labels = torch.randint(11, logits.shape[:2], generator=generator)
        at, start, end = torch.arange(max(ends)), *torch.tensor([starts, ends])[..., None]
        labels = labels.masked_fill((at < start) | (at >= end), IGNORE)
        yield Case((logits, labels), f"a random batch of {len(ends)} ragged sequences")


_NO_TOKEN = (
    "-100 is no token id, so it cannot be looked up: gather with labels.clamp(min=0), then leave "
    "these positions out of the mean."
)
sft_loss = Exercise(
    reference=losses.sft_loss,
    answer=my_sft_loss,
    styles=["(chosen * kept).sum() / kept.sum() -> chosen[kept].mean()"],
    mistakes=_SFT_MISTAKES,
    cases=list(_sft_cases()),
    success="loss and gradient equal utils.losses.sft_loss",
    grads=["logits"],
    hints={
        "-100 is out of bounds": _NO_TOKEN,
        "Class values must be non-negative": _NO_TOKEN,
        "must match the size": "gather leaves a last axis of size 1: take [..., 0]. And shift "
        "logits, labels and mask alike.",
        "Expected target size": "cross_entropy wants (N, V) and (N,): flatten both after the "
        "shift.",
    },
)


def my_lora_forward(x, weight, lora_a, lora_b, alpha):
    scale = alpha / len(lora_a)
    base = x @ weight.T
    update = x @ lora_a.T @ lora_b.T
    return base + scale * update


_UPDATE = "the update is multiplied by alpha / rank."
_LORA_MISTAKES = f"""
Forgot the scaling: {_UPDATE}
    alpha / len(lora_a) -> 1
Scaled by the rank without alpha: {_UPDATE}
    alpha / len(lora_a) -> 1 / len(lora_a) | len(lora_a)
Scaled by alpha without the rank: {_UPDATE}
    alpha / len(lora_a) -> alpha
Scaled by alpha * rank: divide by the rank.
    alpha / len(lora_a) -> alpha * len(lora_a)
Scaled by rank / alpha: it is alpha / rank.
    alpha / len(lora_a) -> len(lora_a) / alpha
Scaled by alpha / sqrt(rank) (rank-stabilised LoRA): not here.
    alpha / len(lora_a) -> alpha / len(lora_a) ** 0.5
Wrong rank: it is the first dimension of lora_a, not the second.
    alpha / len(lora_a) -> alpha / lora_a.shape[1]
Wrong rank: it is the second dimension of lora_b, not the first.
    alpha / len(lora_a) -> alpha / len(lora_b)
Base path dropped: add x @ weight.T to the update.
    base + scale * update -> scale * update
Scale on the base path instead of the update: {_UPDATE}
    base + scale * update -> scale * base + update
Base path scaled: only the update is multiplied by alpha / rank.
    base + scale * update -> scale * (base + update)
weight not transposed: W0 x for a row x is x @ weight.T.
    weight.T -> weight
A and B swapped: A (rank, in) maps x down, then B (out, rank) maps it up.
    lora_a.T @ lora_b.T -> lora_b.T @ lora_a.T
    x @ lora_a.T @ lora_b.T -> x @ (lora_a @ lora_b).T
Update transposed: B A x for a row x is x @ lora_a.T @ lora_b.T.
    lora_a.T @ lora_b.T -> lora_b @ lora_a
    x @ lora_a.T @ lora_b.T -> x @ (lora_b @ lora_a)
A and B not transposed: B A x for a row x is x @ lora_a.T @ lora_b.T.
    lora_a.T @ lora_b.T -> lora_a @ lora_b
    x @ lora_a.T @ lora_b.T -> x @ (lora_a @ lora_b)
"""


def _lora_cases():
    yield worked_case(
        x=[[1.0, 0.0, 2.0, 0.0], [0.0, 1.0, 0.0, -1.0]],
        weight=[[1.0, 0.0, 0.0, 1.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 1.0]],
        lora_a=[[1.0, 0.0, 1.0, 0.0], [0.0, 2.0, 0.0, 1.0]],
        lora_b=[[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]],
        alpha=6.0,
    )
    generator = torch.Generator().manual_seed(0)
    # (leading shape of x, in, out, rank, alpha): ragged; in = out, where a transposed update runs;
    # all equal, where even A and B swapped run.
    sizes = ((2, 3), 5, 7, 2, 8.0), ((4,), 6, 6, 3, 15.0), ((2,), 4, 4, 4, 10.0)
    for lead, n_in, n_out, rank, alpha in sizes:
        shapes = (*lead, n_in), (n_out, n_in), (rank, n_in), (n_out, rank)
        tensors = [torch.randn(shape, generator=generator) for shape in shapes]
        text = f"random inputs ({n_in} features in, {n_out} out, rank {rank}, alpha {alpha})"
        yield Case((*tensors, alpha), text)


lora_forward = Exercise(
    reference=lambda x, weight, lora_a, lora_b, alpha: (
        x @ (weight + alpha / len(lora_a) * lora_b @ lora_a).T
    ),
    answer=my_lora_forward,
    mistakes=_LORA_MISTAKES,
    cases=list(_lora_cases()),
    success="output and gradients equal W0 x + (alpha / rank) B A x",
    grads=["x", "lora_a", "lora_b"],
    hints={
        "cannot be multiplied": "The formula has a column x, here x holds rows: W0 x is "
        "x @ weight.T, and B A x is x @ lora_a.T @ lora_b.T. Merged, B A is lora_b @ lora_a, in "
        "this order.",
    },
)
