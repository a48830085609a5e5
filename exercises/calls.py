"""Calls of a learner's function: its inputs, what it did, and whether two did the same."""

import contextlib
import io
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Case:
    """Arguments of one call; `text` describes them to the learner, best as code they can paste."""

    args: tuple
    text: str


def worked_case(**arguments) -> Case:
    """A case to check by hand: the learner is shown the arguments. Lists become tensors."""
    shown = ", ".join(f"{name} = {value}" for name, value in arguments.items())
    args = [torch.tensor(v) if isinstance(v, list) else v for v in arguments.values()]
    return Case(tuple(args), shown)


def ragged_mask(lengths: Sequence[int]) -> torch.Tensor:
    """Rows of these lengths, padded on the right: float, (B, longest)."""
    return (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).float()


@dataclass
class Outcome:
    """What one call did: what it returned or raised, which inputs it overwrote, its gradients.

    `values` has one entry per result, `kind` is the type that was returned; `grads` is None where
    the results carry no gradient.
    """

    values: tuple = ()
    kind: str = ""
    error: BaseException | None = None
    overwritten: Sequence[int] = ()
    grads: Sequence[torch.Tensor] | None = None
    grad_error: Exception | None = None


def run(
    fn: Callable,
    case: Case,
    grad_args: Sequence[int] = (),
    mask: int | None = None,
    quiet: bool = True,
) -> Outcome:
    """Call `fn` on copies of the arguments; never raises, leaves the global random state alone.

    `mask`: the argument that is 0 where results do not count; they are set to 0 there. `quiet`
    drops what the function prints.
    """
    tensors = [i for i, a in enumerate(case.args) if isinstance(a, torch.Tensor)]
    leaves = [a.clone() if i in tensors else a for i, a in enumerate(case.args)]
    for i in grad_args:
        leaves[i].requires_grad_(True)
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.enable_grad())
        # Clones again: in-place work on a leaf would raise an error that teaches nothing here.
        inputs = [a.clone() if i in tensors else a for i, a in enumerate(leaves)]
        stack.enter_context(torch.random.fork_rng(devices=[]))
        stack.enter_context(warnings.catch_warnings(action="ignore"))
        if quiet:
            stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        try:
            result = fn(*inputs)
            values = _values(result)
        except (Exception, SystemExit) as error:  # whatever the learner's code raises is theirs
            return Outcome(error=error)
        outcome = Outcome(kind=type(result).__name__)
        try:
            outcome.grads = _grads(values, [leaves[i] for i in grad_args])
        except Exception as error:
            outcome.grad_error = error
    # Copies: a function may return the same buffer again and again.
    outcome.values = tuple(v.detach().clone() if _is_tensor(v) else v for v in values)
    if mask is not None:
        kept = case.args[mask].bool()
        outcome.values = tuple(
            v.where(kept, 0) if _is_tensor(v) and v.shape[-kept.ndim :] == kept.shape else v
            for v in outcome.values
        )
    outcome.overwritten = [i for i in tensors if not _same_bits(inputs[i], case.args[i])]
    return outcome


def _is_tensor(value: object) -> bool:
    return isinstance(value, torch.Tensor)


def _same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.shape == b.shape and a.detach().equal(b)


def _values(result: object) -> tuple:
    """One entry per result. Losses of `utils` return (loss, metrics): the metrics do not count."""
    if isinstance(result, list) and result and all(map(_is_tensor, result)):
        if len({v.shape for v in result}) == 1:
            result = torch.stack(result)
    values = result if isinstance(result, tuple) else (result,)
    if len(values) == 2 and isinstance(values[1], dict):
        return values[:1]
    return values


def as_many(values: tuple, n: int) -> tuple:
    """A list, or one tensor, in place of a tuple of n: whoever unpacks it gets the same."""
    if n > 1 and len(values) == 1 and isinstance(values[0], list | torch.Tensor):
        parts = values[0]
        if isinstance(parts, list) or parts.ndim:
            return tuple(parts) if len(parts) == n else values
    return values


def _grads(values: tuple, wanted: Sequence[torch.Tensor]) -> Sequence[torch.Tensor] | None:
    tracked = [v for v in values if _is_tensor(v) and v.requires_grad]
    if not (wanted and tracked):
        return None
    # A fixed, uneven weight for every element, so that no two gradients cancel.
    total = sum((v * (torch.arange(v.numel()) + 1).view(v.shape)).sum() for v in tracked)
    return torch.autograd.grad(total, wanted, materialize_grads=True)


def number(value: object) -> torch.Tensor | None:
    """A tensor of float64 of what a function returned, if it is made of numbers."""
    if _is_tensor(value) and (value.is_complex() or value.layout != torch.strided):
        return None
    try:
        return torch.as_tensor(value).detach().cpu().double()
    except Exception:  # not numbers
        return None


def close(a: object, b: object, atol: float = 1e-5) -> bool:
    """Equal up to rounding; lists, arrays and plain numbers count as tensors."""
    a, b = number(a), number(b)
    if a is None or b is None or a.shape != b.shape:
        return False
    return torch.allclose(a, b, rtol=1e-4, atol=atol, equal_nan=True)


def same(a: Outcome, b: Outcome, atol: float = 1e-5) -> bool:
    """Both returned the same values, or raised the same error."""
    if a.error or b.error:
        return type(a.error) is type(b.error) and str(a.error) == str(b.error)
    n = max(len(a.values), len(b.values))
    values, others = as_many(a.values, n), as_many(b.values, n)
    return len(values) == len(others) and all(
        close(x, y, atol) for x, y in zip(values, others, strict=True)
    )
