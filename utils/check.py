"""Exercise checks: run the learner's function, name its mistake, or confirm that it is right.

An exercise is a correct function, a set of input cases, and wrong functions, each with a name. What
the learner's function returns is compared with what all of these return on the same inputs.
"""

import inspect
import os
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations

import torch

from utils import losses
from utils.chat import IGNORE


@dataclass(frozen=True)
class _Case:
    """Arguments of one call; `text` describes them to the learner, best as code they can paste."""

    args: tuple
    text: str


@dataclass
class _Outcome:
    """What one call did: what it returned or raised, which inputs it overwrote, its gradients."""

    result: object = None
    error: Exception | None = None
    overwritten: Sequence[int] = ()
    grads: Sequence[torch.Tensor | None] = ()

    @property
    def values(self) -> tuple:
        return self.result if isinstance(self.result, tuple) else (self.result,)


def _run(fn: Callable, case: _Case, grad_args: Sequence[int] = ()) -> _Outcome:
    """Call `fn` on copies of the arguments; never raises, leaves the global random state alone."""
    is_tensor = [isinstance(a, torch.Tensor) for a in case.args]
    leaves = [a.clone() if t else a for a, t in zip(case.args, is_tensor, strict=True)]
    for i in grad_args:
        leaves[i].requires_grad_(True)
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        # Clones again: in-place work on a leaf would raise an error that teaches nothing here.
        inputs = [a.clone() if t else a for a, t in zip(leaves, is_tensor, strict=True)]
        try:
            outcome = _Outcome(fn(*inputs))
            tracked = [v for v in outcome.values if getattr(v, "requires_grad", False)]
            if grad_args and tracked:
                # A fixed, uneven weight for every element, so that no two gradients cancel.
                total = sum(
                    (v * (torch.arange(v.numel()) + 1).view(v.shape)).sum() for v in tracked
                )
                wanted = [leaves[i] for i in grad_args]
                outcome.grads = torch.autograd.grad(total, wanted, allow_unused=True)
        except Exception as error:  # whatever the learner's code raises is theirs to read
            return _Outcome(error=error)
    outcome.overwritten = [
        i for i, t in enumerate(is_tensor) if t and not inputs[i].equal(case.args[i])
    ]
    return outcome


def _close(a: object, b: object) -> bool:
    """Equal up to float32 rounding; a Python number counts as a scalar tensor."""
    if not all(isinstance(v, (torch.Tensor, int, float)) for v in (a, b)):
        return False
    a, b = (torch.as_tensor(v).detach().cpu().double() for v in (a, b))
    return a.shape == b.shape and torch.allclose(a, b, rtol=1e-4, atol=1e-5, equal_nan=True)


def _same(a: _Outcome, b: _Outcome) -> bool:
    """Both raised, or both returned the same values."""
    if a.error or b.error:
        return bool(a.error and b.error)
    return len(a.values) == len(b.values) and all(map(_close, a.values, b.values))


def _show(outcome: _Outcome, verb: str) -> str:
    """Values with four decimals; the shape instead of the values of large tensors."""
    if outcome.error:
        return f"your function raised {type(outcome.error).__name__}: {outcome.error}"
    shown = []
    for value in outcome.values:
        if isinstance(value, torch.Tensor) and value.numel() > 12:
            shown.append(f"a tensor of shape {tuple(value.shape)}")
            continue
        if isinstance(value, torch.Tensor):
            value = torch.round(value.detach().cpu().double(), decimals=4).tolist()
        shown.append(f"{value:.4f}" if isinstance(value, float) else str(value))
    return f"{verb} {', '.join(shown)}"


def _structure(got: _Outcome, want: _Outcome) -> str | None:
    """What is wrong with the number, type or shape of the returned values, if anything."""
    if len(got.values) != len(want.values):
        return f"Return {len(want.values)} value(s), not {len(got.values)}."
    for value, right in zip(got.values, want.values, strict=True):
        if not isinstance(value, torch.Tensor):
            kind = type(value).__name__
            return f"Return a tensor, not a Python {kind}: no gradient flows through a {kind}."
        if value.shape != right.shape:
            return f"Wrong shape: expected {tuple(right.shape)}, you returned {tuple(value.shape)}."
    return None


def _gradient(got: _Outcome, want: _Outcome, names: Sequence[str]) -> str | None:
    """What is wrong with the gradients, if anything."""
    if not got.grads:
        return (
            "The value is right, but the result carries no gradient: nothing would be learned. "
            "Was it detached, turned into a number, or computed under no_grad?"
        )
    for name, grad, right in zip(names, got.grads, want.grads, strict=True):
        if grad is None:
            return f"The value is right, but no gradient reaches {name}: was part of it detached?"
        if not _close(grad, right):
            return f"The value is right, but the gradient with respect to {name} is not."
    return None


def _verdict(
    fn: Callable,
    *,
    reference: Callable,
    cases: Sequence[_Case],
    mistakes: Mapping[tuple, Callable],
    messages: Mapping[object, str],
    success: str,
    grad_args: Sequence[str] = (),
    error_hints: Mapping[str, str] | None = None,
) -> str:
    """The message for the learner's `fn`.

    `mistakes` maps names, each a key of `messages`, to the function that makes these mistakes; they
    are tried in order, so put single mistakes before combined ones. `grad_args` names the arguments
    of `reference` whose gradients are compared; `error_hints` maps parts of an exception's text to
    an explanation. The first case is the example that messages show where it tells the difference.
    """
    parameters = list(inspect.signature(reference).parameters)
    indices = [parameters.index(name) for name in grad_args]
    got = [_run(fn, case, indices) for case in cases]
    want = [_run(reference, case, indices) for case in cases]
    first = got[0]
    if isinstance(first.error, NotImplementedError) or (
        not first.error and (first.result is None or first.result is ...)
    ):
        return "Not attempted yet: the function returned None."
    differing = [i for i in range(len(cases)) if not _same(got[i], want[i])]
    if differing:
        i = differing[0]
        numbers = (
            f"On {cases[i].text} {_show(got[i], 'you returned')}; {_show(want[i], 'expected')}."
        )
        if not all(outcome.error for outcome in got):
            for names, wrong in mistakes.items():
                if all(_same(o, _run(wrong, case)) for o, case in zip(got, cases, strict=True)):
                    return f"Not yet. {' '.join(messages[name] for name in names)} {numbers}"
        if got[i].error:
            text = f"{type(got[i].error).__name__}: {got[i].error}"
            hints = [h for part, h in (error_hints or {}).items() if part in text]
            return " ".join([f"Not yet. Your function raised {text}. On {cases[i].text}.", *hints])
        unknown = "The result differs, in a way this check has no name for."
        return f"Not yet. {_structure(got[i], want[i]) or unknown} {numbers}"
    for outcome, right in zip(got, want, strict=True):
        if complaint := _structure(outcome, right):
            return f"Not yet. {complaint}"
        if outcome.overwritten:
            changed = ", ".join(parameters[i] for i in outcome.overwritten)
            return f"Not yet. The value is right, but your function overwrites its input {changed}."
        if grad_args and (complaint := _gradient(outcome, right, grad_args)):
            return f"Not yet. {complaint}"
    return f"Correct: {success}"


def _judge(fn: Callable, **exercise) -> None:
    """Print the verdict on the learner's `fn`; `exercise` as in `_verdict`."""
    print(textwrap.fill(_verdict(fn, **exercise), 100, break_on_hyphens=False))


def _with_pairs(wrong: Callable, options: Mapping[str, Mapping[str, str]]) -> dict:
    """`mistakes` and `messages` from a table option -> value -> message.

    `wrong(..., option=value)` makes that mistake. Every single one, then every pair of two options.
    """
    messages = {(o, v): text for o, values in options.items() for v, text in values.items()}
    mistakes = {((o, v),): partial(wrong, **{o: v}) for o, v in messages}
    for a, b in combinations(messages, 2):
        if a[0] != b[0]:
            mistakes[a, b] = partial(wrong, **dict([a, b]))
    return {"mistakes": mistakes, "messages": messages}


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
    cases = [_Case((logits, labels), text)]
    generator = torch.Generator().manual_seed(0)
    # (prompt lengths, total lengths, logit scale): ragged; completions that start at the first
    # token, where a shift that wraps shows; logits so far apart that softmax underflows.
    ragged = ((2, 3, 4), (7, 4, 6), 1), ((0, 0), (6, 3), 1), ((3, 2), (5, 8), 90)
    for starts, ends, scale in ragged:
        logits = torch.randn(len(ends), max(ends), 11, generator=generator) * scale
        labels = torch.randint(11, logits.shape[:2], generator=generator)
        at, start, end = torch.arange(max(ends)), *torch.tensor([starts, ends])[..., None]
        labels = labels.masked_fill((at < start) | (at >= end), IGNORE)
        cases.append(_Case((logits, labels), f"a random batch of {len(ends)} ragged sequences"))
    _judge(
        fn,
        reference=lambda logits, labels: losses.sft_loss(logits, labels)[0],
        cases=cases,
        success=f"loss and gradient equal utils.losses.sft_loss on {len(cases)} ragged batches.",
        grad_args=["logits"],
        error_hints=_SFT_ERRORS,
        **_with_pairs(_sft, _SFT_MISTAKES),
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
    cases = [_Case((*map(torch.ones, shapes.values()), 6.0), f"{text}, alpha = 6.0")]
    generator = torch.Generator().manual_seed(0)
    # (leading shape of x, in, out, rank, alpha): ragged; in = out, where a transposed update runs;
    # all equal, where even A and B swapped run.
    sizes = ((2, 3), 5, 7, 2, 8.0), ((4,), 6, 6, 3, 15.0), ((2,), 4, 4, 4, 10.0)
    for lead, n_in, n_out, rank, alpha in sizes:
        shapes = (*lead, n_in), (n_out, n_in), (rank, n_in), (n_out, rank)
        tensors = [torch.randn(shape, generator=generator) for shape in shapes]
        text = f"random inputs ({n_in} features in, {n_out} out, rank {rank}, alpha {alpha})"
        cases.append(_Case((*tensors, alpha), text))
    _judge(
        fn,
        reference=_lora,
        cases=cases,
        success=f"output and gradients equal W0 x + (alpha / rank) B A x in {len(cases)} cases.",
        grad_args=["x", "lora_a", "lora_b"],
        **_with_pairs(_lora, _LORA_MISTAKES),
    )


def claim(text: str, holds: object) -> None:
    """Print `text: True`; AssertionError if the claim does not hold.

    Under COURSE_SMOKE=1, where nothing is trained long enough to learn, it prints "not checked".
    """
    if os.environ.get("COURSE_SMOKE") == "1":
        print(f"{text}: not checked")
        return
    if not holds:
        raise AssertionError(f"{text}: False. The lesson's text is not true of this run.")
    print(f"{text}: True")
