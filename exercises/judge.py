"""Exercise checks: run the learner's function, name its mistake, or confirm that it is right.

An exercise is a correct function, a set of input cases, and wrong functions, each with a name. What
the learner's function returns is compared with what all of these return on the same inputs.
"""

import inspect
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations

import torch


@dataclass(frozen=True)
class Case:
    """Arguments of one call; `text` describes them to the learner, best as code they can paste."""

    args: tuple
    text: str


def worked_case(**arguments: torch.Tensor | float) -> Case:
    """A case to check by hand: the learner is shown the arguments themselves, tensors as lists."""
    shown = {k: v.tolist() if isinstance(v, torch.Tensor) else v for k, v in arguments.items()}
    return Case(tuple(arguments.values()), ", ".join(f"{k} = {v}" for k, v in shown.items()))


def ragged_mask(lengths: Sequence[int]) -> torch.Tensor:
    """Rows of these lengths, padded on the right: bool, (B, longest)."""
    return torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]


@dataclass
class Outcome:
    """What one call did: what it returned or raised, which inputs it overwrote, its gradients."""

    result: object = None
    error: Exception | None = None
    overwritten: Sequence[int] = ()
    grads: Sequence[torch.Tensor] = ()

    @property
    def values(self) -> tuple:
        return self.result if isinstance(self.result, tuple) else (self.result,)


def run(fn: Callable, case: Case, grad_args: Sequence[int] = ()) -> Outcome:
    """Call `fn` on copies of the arguments; never raises, leaves the global random state alone."""
    is_tensor = [isinstance(a, torch.Tensor) for a in case.args]
    leaves = [a.clone() if t else a for a, t in zip(case.args, is_tensor, strict=True)]
    for i in grad_args:
        leaves[i].requires_grad_(True)
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        # Clones again: in-place work on a leaf would raise an error that teaches nothing here.
        inputs = [a.clone() if t else a for a, t in zip(leaves, is_tensor, strict=True)]
        try:
            outcome = Outcome(fn(*inputs))
            tracked = [v for v in outcome.values if getattr(v, "requires_grad", False)]
            if grad_args and tracked:
                # A fixed, uneven weight for every element, so that no two gradients cancel.
                total = sum(
                    (v * (torch.arange(v.numel()) + 1).view(v.shape)).sum() for v in tracked
                )
                wanted = [leaves[i] for i in grad_args]
                outcome.grads = torch.autograd.grad(total, wanted, materialize_grads=True)
        except Exception as error:  # whatever the learner's code raises is theirs to read
            return Outcome(error=error)
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


def same(a: Outcome, b: Outcome) -> bool:
    """Both raised, or both returned the same values."""
    if a.error or b.error:
        return bool(a.error and b.error)
    return len(a.values) == len(b.values) and all(map(_close, a.values, b.values))


def _show(value: object) -> str:
    """Four decimals; the shape instead of the values of large tensors."""
    if isinstance(value, torch.Tensor):
        if value.numel() > 12:
            return f"a tensor of shape {tuple(value.shape)}"
        value = torch.round(value.detach().cpu().double(), decimals=4).tolist()
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def _show_outcome(outcome: Outcome, verb: str) -> str:
    """What a call returned or raised, as a part of a sentence."""
    if outcome.error:
        return f"your function raised {type(outcome.error).__name__}: {outcome.error}"
    return f"{verb} {', '.join(map(_show, outcome.values))}"


def _structure(got: Outcome, want: Outcome) -> str | None:
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


def _gradient(got: Outcome, want: Outcome, names: Sequence[str], text: str) -> str | None:
    """What is wrong with the gradients in the case called `text`, if anything.

    Where the right gradient is 0 throughout, the argument is meant to be a constant.
    """
    if not got.grads:
        return (
            "The value is right, but the result carries no gradient: nothing would be learned. "
            "Was it detached, turned into a number, or computed under no_grad?"
        )
    triples = zip(names, got.grads, want.grads, strict=True)
    wrong = [(name, grad, right) for name, grad, right in triples if not _close(grad, right)]
    leaks = [name for name, _, right in wrong if not right.any()]
    for name, grad, right in wrong:
        if name in leaks:
            complaint = (
                f"{' and '.join(leaks)} not detached: the value is right, but a gradient flows "
                f"into a constant. Use {' and '.join(f'{leak}.detach()' for leak in leaks)}."
            )
        elif not grad.any():
            complaint = (
                f"The value is right, but no gradient reaches {name}: was part of it detached?"
            )
        else:
            complaint = f"The value is right, but the gradient with respect to {name} is not."
        if any(value.ndim for value in want.values):
            return complaint  # the gradient of what `run` sums up would tell the learner nothing
        return f"{complaint} On {text} it is {_show(grad)}; expected {_show(right)}."
    return None


def verdict(
    fn: Callable,
    *,
    reference: Callable,
    cases: Sequence[Case],
    mistakes: Sequence[tuple[tuple, Callable]],
    messages: Mapping[object, str],
    success: str,
    grad_args: Sequence[str] = (),
    error_hints: Mapping[str, str] | None = None,
) -> str:
    """The message for the learner's `fn`.

    `mistakes`: names, keys of `messages`, each with a function that makes these mistakes; they are
    tried in order, so put single mistakes before combined ones. `grad_args` names the arguments of
    `reference` whose gradients are compared, constants last; `error_hints` maps parts of an
    exception's text to an explanation. Messages show the first case that tells the difference.
    """
    parameters = list(inspect.signature(reference).parameters)
    indices = [parameters.index(name) for name in grad_args]
    got = [run(fn, case, indices) for case in cases]
    want = [run(reference, case, indices) for case in cases]
    first = got[0]
    if isinstance(first.error, NotImplementedError) or (
        not first.error and all(value is None or value is ... for value in first.values)
    ):
        return "Not attempted yet: the function returned None."
    differing = [i for i in range(len(cases)) if not same(got[i], want[i])]
    if differing:
        i = differing[0]
        numbers = (
            f"On {cases[i].text} {_show_outcome(got[i], 'you returned')}; "
            f"{_show_outcome(want[i], 'expected')}."
        )
        if not all(outcome.error for outcome in got):
            for names, wrong in mistakes:
                if all(same(o, run(wrong, case)) for o, case in zip(got, cases, strict=True)):
                    return f"Not yet. {' '.join(messages[name] for name in names)} {numbers}"
        if got[i].error:
            text = f"{type(got[i].error).__name__}: {got[i].error}"
            hints = [h for part, h in (error_hints or {}).items() if part in text]
            return " ".join([f"Not yet. Your function raised {text}. On {cases[i].text}.", *hints])
        unknown = "The result differs, in a way this check has no name for."
        return f"Not yet. {_structure(got[i], want[i]) or unknown} {numbers}"
    for case, outcome, right in zip(cases, got, want, strict=True):
        if complaint := _structure(outcome, right):
            return f"Not yet. {complaint}"
        if outcome.overwritten:
            changed = ", ".join(parameters[i] for i in outcome.overwritten)
            return f"Not yet. The value is right, but your function overwrites its input {changed}."
        if grad_args and (complaint := _gradient(outcome, right, grad_args, case.text)):
            return f"Not yet. {complaint}"
    return f"Correct: {success}"


def judge(fn: Callable, **exercise) -> None:
    """Print the verdict on the learner's `fn`; `exercise` as in `verdict`."""
    print(textwrap.fill(verdict(fn, **exercise), 100, break_on_hyphens=False))


def with_pairs(
    wrong: Callable,
    options: Mapping[str, Mapping[str, str]],
    styles: Sequence[Mapping[str, str]] = ({},),
) -> dict:
    """`mistakes` and `messages` from a table option -> value -> message.

    `wrong(..., option=value)` makes that mistake. Every single one, then every pair of two options;
    each in all `styles`, arguments of `wrong` under which one mistake gives different numbers.
    """
    messages = {(o, v): text for o, values in options.items() for v, text in values.items()}
    pairs = [(a, b) for a, b in combinations(messages, 2) if a[0] != b[0]]
    mistakes = [
        (names, partial(wrong, **dict(names), **style))
        for names in [*((name,) for name in messages), *pairs]
        for style in styles
    ]
    return {"mistakes": mistakes, "messages": messages}
