"""Exercises of lesson 01: the masked SFT loss and the LoRA forward pass."""

from collections.abc import Callable

import torch

from exercises.judge import Case, judge, with_pairs
from utils import losses
from utils.chat import IGNORE

_SOFTMAX_LOG = (
    "softmax, then log: tiny probabilities round to 0 and the log is lost. Use log_softmax."
)
_DIVIDE = "divide by the number of labels that are not -100."
_SFT_MISTAKES = {
    "mask": {
        "ignored": "Mask ignored: positions labelled -100 (prompt, padding) count in your loss.",
        "unshifted": "Mask not shifted: you shifted the labels, but mask the position before them.",
    },
    "mean": {
        "positions": f"Mean over all positions instead of the masked ones: {_DIVIDE}",
        "labels": f"Mean over all labels instead of the masked ones: {_DIVIDE}",
        "none": f"Sum instead of mean: {_DIVIDE}",
        "sequences": "Mean of per-sequence means: that weighs the tokens of short sequences more. "
        "Average over all completion tokens of the batch at once.",
        "batch": f"Summed over each sequence, averaged over sequences: {_DIVIDE}",
    },
    "shift": {
        "none": "No shift by one: logits[:, :-1] predict labels[:, 1:].",
        "backwards": "Shifted the wrong way: your logits have already seen the token they score. "
        "Logits at t predict the label at t + 1.",
        "twice": "Shifted twice: logits at t predict the label at t + 1.",
        "wraps": "The shift wraps around: roll pairs the last logits with the first label.",
    },
    "score": {
        "softmax": "Probabilities instead of log-probabilities: use log_softmax.",
        "twice": "softmax twice: cross_entropy and log_softmax want logits, not probabilities.",
        "log": _SOFTMAX_LOG,
        "epsilon": _SOFTMAX_LOG,
        "logits": "Raw logits instead of log-probabilities: use log_softmax.",
    },
    "result": {
        "sign": "Wrong sign: the loss is minus the mean log-probability.",
        "exponential": "That is the perplexity: leave out the exponential.",
    },
}
_NOT_A_TOKEN = "Mask ignored: -100 is no token id, it marks a position that does not count."
_SFT_ERRORS = {
    "-100 is out of bounds": _NOT_A_TOKEN,
    "Class values must be non-negative": _NOT_A_TOKEN,
    "Expected target size": "cross_entropy wants (N, V) and (N,): flatten both after the shift.",
}


def _sft(logits, labels, shift="one", mask="", score="", mean="tokens", result=""):
    """The masked SFT loss, with the mistakes named in `_SFT_MISTAKES` on request."""
    if shift == "wraps":
        labels, shift = labels.roll(-1, 1), "none"
    n, step = labels.shape[1], {"none": 0, "one": 1, "twice": 2, "backwards": -1}[shift]
    targets, before = labels[:, max(step, 0) : n + min(step, 0)], labels[:, : n - abs(step)]
    logits = logits[:, max(-step, 0) : n - max(step, 0)]
    kept = (before if mask == "unshifted" else targets) != IGNORE
    kept = kept | (mask == "ignored")
    probs, logprobs = logits.softmax(-1), logits.log_softmax(-1)
    scores = {
        "softmax": probs,
        "twice": probs.log_softmax(-1),
        "log": probs.log(),
        "epsilon": (probs + 1e-8).log(),
        "logits": logits,
    }.get(score, logprobs)
    scores = scores.gather(-1, targets.clamp(min=0)[..., None])[..., 0].where(kept, 0.0)
    loss = -{
        "tokens": scores.sum() / kept.sum(),
        "positions": scores.mean(),
        "labels": scores.sum() / labels.numel(),
        "none": scores.sum(),
        "sequences": (scores.sum(1) / kept.sum(1)).mean(),
        "batch": scores.sum(1).mean(),
    }[mean]
    return {"sign": -loss, "exponential": loss.exp()}.get(result, loss)


def sft_loss(fn: Callable) -> None:
    """Check `fn(logits (B, L, V), labels (B, L)) -> scalar`, the masked SFT loss; prints."""
    logits = torch.arange(40.0).sin().reshape(2, 4, 5)
    labels = torch.tensor([[IGNORE, IGNORE, 1, 2], [IGNORE, 0, IGNORE, IGNORE]])
    text = f"logits = torch.arange(40.0).sin().reshape(2, 4, 5), labels = {labels.tolist()}"
    cases = [Case((logits, labels), text)]
    generator = torch.Generator().manual_seed(0)
    # (prompt lengths, total lengths, logit scale): ragged; completions that start at the first
    # token, where a shift that wraps shows; logits so far apart that softmax underflows.
    ragged = ((2, 3, 4), (7, 4, 6), 1), ((0, 0), (6, 3), 1), ((3, 2), (5, 8), 90)
    for starts, ends, scale in ragged:
        logits = torch.randn(len(ends), max(ends), 11, generator=generator) * scale
        labels = torch.randint(11, logits.shape[:2], generator=generator)
        at, start, end = torch.arange(max(ends)), *torch.tensor([starts, ends])[..., None]
        labels = labels.masked_fill((at < start) | (at >= end), IGNORE)
        cases.append(Case((logits, labels), f"a random batch of {len(ends)} ragged sequences"))
    judge(
        fn,
        reference=lambda logits, labels: losses.sft_loss(logits, labels)[0],
        cases=cases,
        success=f"loss and gradient equal utils.losses.sft_loss on {len(cases)} ragged batches.",
        grad_args=["logits"],
        error_hints=_SFT_ERRORS,
        **with_pairs(_sft, _SFT_MISTAKES),
    )


_NO_ALPHA = "Scaled by the rank without alpha: the update is multiplied by alpha / rank."
_LORA_MISTAKES = {
    "scale": {
        "none": "Forgot the scaling: the update is multiplied by alpha / rank.",
        "1 / rank": _NO_ALPHA,
        "rank": _NO_ALPHA,
        "alpha": "Scaled by alpha without the rank: the update is multiplied by alpha / rank.",
        "alpha * rank": "Scaled by alpha * rank: divide by the rank.",
        "rank / alpha": "Scaled by rank / alpha: it is alpha / rank.",
        "alpha / sqrt(rank)": "Scaled by alpha / sqrt(rank) (rank-stabilised LoRA): not here.",
        "alpha / in": "Wrong rank: it is the first dimension of lora_a, not the second.",
    },
    "update": {
        "swapped": "A and B swapped: A (rank, in) maps x down, then B (out, rank) maps it up.",
        "transposed": "Update transposed: B A x for a row x is x @ lora_a.T @ lora_b.T.",
        "plain": "A and B not transposed: B A x for a row x is x @ lora_a.T @ lora_b.T.",
    },
    "base": {
        "dropped": "Base path dropped: add x @ weight.T to the update.",
        "transposed": "weight not transposed: W0 x for a row x is x @ weight.T.",
        "scaled": "Base path scaled: only the update is multiplied by alpha / rank.",
    },
}


def _lora(x, weight, lora_a, lora_b, alpha, scale="alpha / rank", update="", base=""):
    """The LoRA forward, with the mistakes named in `_LORA_MISTAKES` on request."""
    rank, n_in = lora_a.shape
    scaling = {
        "none": 1.0,
        "1 / rank": 1 / rank,
        "rank": rank,
        "alpha": alpha,
        "alpha * rank": alpha * rank,
        "rank / alpha": rank / alpha,
        "alpha / sqrt(rank)": alpha / rank**0.5,
        "alpha / in": alpha / n_in,
    }.get(scale, alpha / rank)
    first, second = {
        "swapped": (lora_b.T, lora_a.T),
        "transposed": (lora_b, lora_a),
        "plain": (lora_a, lora_b),
    }.get(update, (lora_a.T, lora_b.T))
    h = x @ (weight if base == "transposed" else weight.T)
    h = h * {"dropped": 0.0, "scaled": scaling}.get(base, 1.0)
    return h + scaling * (x @ first @ second)


def lora_forward(fn: Callable) -> None:
    """Check `fn(x (..., in), weight (out, in), lora_a (rank, in), lora_b (out, rank), alpha)`.

    It returns W0 x + (alpha / rank) B A x, of shape (..., out). Prints the verdict.
    """
    shapes = {"x": (1, 3), "weight": (2, 3), "lora_a": (2, 3), "lora_b": (2, 2)}
    text = ", ".join(f"{name} = torch.ones{shape}" for name, shape in shapes.items())
    cases = [Case((*map(torch.ones, shapes.values()), 6.0), f"{text}, alpha = 6.0")]
    generator = torch.Generator().manual_seed(0)
    # (leading shape of x, in, out, rank, alpha): ragged; in = out, where a transposed update runs;
    # all equal, where even A and B swapped run.
    sizes = ((2, 3), 5, 7, 2, 8.0), ((4,), 6, 6, 3, 15.0), ((2,), 4, 4, 4, 10.0)
    for lead, n_in, n_out, rank, alpha in sizes:
        shapes = (*lead, n_in), (n_out, n_in), (rank, n_in), (n_out, rank)
        tensors = [torch.randn(shape, generator=generator) for shape in shapes]
        text = f"random inputs ({n_in} features in, {n_out} out, rank {rank}, alpha {alpha})"
        cases.append(Case((*tensors, alpha), text))
    judge(
        fn,
        reference=_lora,
        cases=cases,
        success=f"output and gradients equal W0 x + (alpha / rank) B A x in {len(cases)} cases.",
        grad_args=["x", "lora_a", "lora_b"],
        **with_pairs(_lora, _LORA_MISTAKES),
    )
