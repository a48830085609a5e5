"""What the judge says: about values, shapes, exceptions and gradients."""

import traceback
from collections.abc import Callable, Mapping, Sequence

import torch

from exercises.calls import Outcome, as_many, close, number

SHOWN = 12  # longer results are shown at the first place where they differ


def _show(value: torch.Tensor, decimals: int = 4) -> str:
    shown = torch.round(value.detach().cpu().double(), decimals=decimals).tolist()
    return f"{shown:.{decimals}f}" if isinstance(shown, float) else str(shown)


def first_difference(got: Outcome, want: Outcome, atol: float) -> str:
    """What a call returned or raised and what was expected, or the first place that differs."""
    if got.error:
        return f"your function raised {type(got.error).__name__}: {got.error}"
    values = as_many(got.values, len(want.values))
    if len(values) != len(want.values):
        return f"you returned {len(values)} value(s)."
    for n, (value, right) in enumerate(zip(values, want.values, strict=True), 1):
        value = number(value)
        if value is None or value.shape != right.shape:
            return (
                f"you returned {_shape_of(value)}; expected a tensor of shape {tuple(right.shape)}."
            )
        if right.numel() > SHOWN and not close(value, right, atol):
            off = ~torch.isclose(value, right.double(), rtol=1e-4, atol=atol, equal_nan=True)
            at = [int(i) for i in off.nonzero()[0]]
            which = f"of result {n} " if len(want.values) > 1 else ""
            return (
                f"you returned {_show(value[tuple(at)])} at {at} {which}; expected "
                f"{_show(right[tuple(at)])} ({int(off.sum())} of {off.numel()} numbers differ)."
            ).replace(" ;", ";")
    for decimals in (4, 8):  # more where four do not tell the two apart
        said, right = (
            ", ".join(_show(number(v), decimals) for v in vs) for vs in (values, want.values)
        )
        if said != right:
            break
    return f"you returned {said}; expected {right}."


def _shape_of(value: torch.Tensor | None) -> str:
    return "no numbers" if value is None else f"a tensor of shape {tuple(value.shape)}"


def structure(got: Outcome, want: Outcome) -> str | None:
    """What is wrong with the number, type or shape of the returned values, if anything."""
    values = as_many(got.values, len(want.values))
    if len(values) != len(want.values):
        return f"Return {len(want.values)} value(s), not {len(values)}."
    for value, right in zip(values, want.values, strict=True):
        if not isinstance(value, torch.Tensor) or (got.kind == "list" and len(want.values) == 1):
            kind = got.kind if len(want.values) == 1 else type(value).__name__
            why = "torch.as_tensor makes one of it."
            if want.grads is not None:
                why = f"no gradient flows through a {kind}."
            return f"Return a tensor, not a Python {kind}: {why}"
        if value.shape != right.shape:
            return f"Wrong shape: expected {tuple(right.shape)}, you returned {tuple(value.shape)}."
    return None


def raised(fn: Callable, error: BaseException, text: str, hints: Mapping[str, str]) -> str:
    """What the learner's function raised, in which of its lines, and what that means."""
    said = f"{type(error).__name__}: {error}"
    file = getattr(getattr(fn, "__code__", None), "co_filename", None)
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == file]
    line = frames[-1].line or "" if frames else ""
    where = f" in the line `{line}`" if 0 < len(line) <= 100 else ""
    meaning = [hint for part, hint in hints.items() if part in said]
    return " ".join([f"Your function raised {said}{where}. On {text}.", *meaning])


def gradients(exercise, got: Sequence[Outcome], want: Sequence[Outcome]) -> str | None:
    """What is wrong with the gradients, argument by argument, if anything.

    An argument whose right gradient is 0 in every case is meant to be a constant.
    """
    for outcome in got:
        if outcome.grad_error:
            return (
                "The value is right, but going backward through it raises "
                f"{type(outcome.grad_error).__name__}: {outcome.grad_error}"
            )
    learns = any(grad.any() for right in want for grad in right.grads or ())
    if learns and any(outcome.grads is None for outcome in got):
        return (
            "The value is right, but the result carries no gradient: nothing would be learned. "
            "Was it detached, turned into a number, or computed under no_grad?"
        )
    leaks, missing, off, first = [], [], [], None
    for k, name in enumerate(exercise.grads):
        pairs = [(_grad(g, w, k), _grad(w, g, k)) for g, w in zip(got, want, strict=True)]
        wrong = [i for i, pair in enumerate(pairs) if not close(*pair)]
        if wrong:
            constant = not any(right.any() for _, right in pairs)
            silent = not any(grad.any() for grad, _ in pairs)
            (leaks if constant else missing if silent else off).append(name)
            first = first or (name, exercise.cases[wrong[0]].text, *pairs[wrong[0]])
    if not first:
        return None
    said = []
    if missing:
        said.append(f"no gradient reaches {' and '.join(missing)}: was part of it detached?")
    if off:
        said.append(f"the gradient with respect to {' and '.join(off)} is not.")
    if leaks:
        said.append(
            f"a gradient flows into {' and '.join(leaks)}, meant as constant: use "
            f"{' and '.join(f'{name}.detach()' for name in leaks)}."
        )
    said = f"The value is right, but {' Also, '.join(said)}"
    name, text, grad, right = first
    if any(v.ndim for v in want[0].values) or grad.numel() > SHOWN:
        return said  # the gradient of what `run` sums up would tell the learner nothing
    return f"{said} On {text} that of {name} is {_show(grad)}; expected {_show(right)}."


def _grad(outcome: Outcome, other: Outcome, k: int) -> torch.Tensor:
    """The gradient of argument k; 0 where the result carries none."""
    if outcome.grads is not None:
        return outcome.grads[k]
    return torch.zeros_like(other.grads[k]) if other.grads is not None else torch.zeros(())
