"""The judge of all exercises: runs a learner's function, names its mistake, or confirms it.

An exercise is data (`Exercise`). Its mistakes are edits of the right answer: the judge makes the
wrong functions from them, and a learner whose function does the same as one of these gets its
message. The judge prints and never raises, whatever the learner's function does.
"""

import dis
import inspect
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations

from exercises.calls import Case, Outcome, run, same
from exercises.words import first_difference, gradients, raised, structure

SIDES = ("chosen", "rejected")
EPS = [f"1e-{n}" for n in (5, 6, 7, 8, 9, 10, 12)]


@dataclass(frozen=True, eq=False, repr=False)
class Exercise:
    """A right function, its inputs, and the mistakes that have a name.

    reference: what is right, called with the same arguments in the same order.
    answer: a right answer as a learner writes it. The mistakes are edits of its source.
    mistakes: text in which an unindented line is a message and each indented one below it an edit
        `old -> new` of the answer (` ; ` before a further one, eight spaces before the rest of a
        long line). Every `old` is replaced wherever it occurs. `old -> a | b` are two edits. SIDE
        stands for chosen and for rejected, both in one edit; EPS for one small number after the
        other.
    cases: the first is small enough to check by hand.
    success: the end of "Correct: ... on 4 batches."
    styles: edits that leave the answer right, under which a mistake gives other numbers.
    grads: arguments whose gradients are compared; one whose right gradient is 0 is a constant.
    hints: part of an exception's text -> what to say about it.
    padding: the argument that is 0 where results do not count.
    atol: how far off a right number may be.
    """

    reference: Callable
    answer: Callable
    mistakes: str
    cases: Sequence[Case]
    success: str
    styles: Sequence[str] = ()
    grads: Sequence[str] = ()
    hints: Mapping[str, str] = field(default_factory=dict)
    padding: str = ""
    atol: float = 1e-5
    known: dict = field(default_factory=dict)  # edits -> functions made from them

    def __call__(self, fn: Callable) -> None:
        """Print the verdict on the learner's function."""
        try:
            said = verdict(fn, self)
        except Exception as error:  # an object that fails when it is looked at
            said = f"Not yet. This cannot be judged: {type(error).__name__} when looking at it."
        print(textwrap.fill(said, 100, break_on_hyphens=False))

    @cached_property
    def parameters(self) -> list[str]:
        return list(inspect.signature(self.answer).parameters)

    @cached_property
    def wanted(self) -> list[Outcome]:
        """What is right in each case."""
        return [self.outcome(self.reference, case, grads=True) for case in self.cases]

    @cached_property
    def sources(self) -> list[str]:
        """The answer in each of its styles."""
        plain = textwrap.dedent(inspect.getsource(self.answer))
        return [plain, *(edited(plain, style) for style in self.styles)]

    @cached_property
    def edits(self) -> list[tuple[str, str]]:
        """(message, edit), in the order of the text."""
        found, message, ended = [], "", True
        lines = [line for line in textwrap.dedent(self.mistakes).splitlines() if line.strip()]
        for line in lines:
            if line.startswith("        "):
                found[-1] = (message, f"{found[-1][1]} {line.strip()}")
            elif line.startswith("    "):
                found.append((message, line.strip()))
                ended = True
            else:
                message = line if ended else f"{message} {line}"
                ended = False
        return [(message, edit) for message, edits in found for edit in _expanded(edits)]

    def wrong(self, *edits: str) -> list["Wrong"]:
        """The answer with these edits made, once for each style that has their passages."""
        if edits not in self.known:
            made = self.sources
            for edit in edits:
                made = [after for source in made if (after := edited(source, edit))]
            self.known[edits] = [Wrong(self, self.compiled(s)) for s in dict.fromkeys(made)]
        return self.known[edits]

    def compiled(self, source: str) -> Callable:
        scope = dict(self.answer.__globals__)
        exec(source, scope)
        return scope[self.answer.__name__]

    def outcome(self, fn: Callable, case: Case, grads: bool = False, quiet: bool = True) -> Outcome:
        grad_args = [self.parameters.index(name) for name in self.grads if grads]
        mask = self.parameters.index(self.padding) if self.padding else None
        return run(fn, case, grad_args, mask, quiet)


@dataclass
class Wrong:
    """A wrong function, and what it did in the cases in which it was tried."""

    exercise: Exercise
    fn: Callable
    outcomes: dict[int, Outcome] = field(default_factory=dict)

    def did(self, i: int) -> Outcome:
        if i not in self.outcomes:
            self.outcomes[i] = self.exercise.outcome(self.fn, self.exercise.cases[i])
        return self.outcomes[i]


def _expanded(edit: str) -> list[str]:
    """The edits that a line with `|` or EPS stands for."""
    start, arrow, new = edit.rpartition("->")
    edits = [f"{start}{arrow} {choice.strip()}" for choice in new.split(" | ")]
    return [e.replace("EPS", eps) for e in edits for eps in (EPS if "EPS" in e else [""])]


def edited(source: str, edit: str) -> str | None:
    """The source after an edit; None where a passage is missing."""
    if "SIDE" in edit:
        edit = " ; ".join(edit.replace("SIDE", side) for side in SIDES)
    for part in edit.split(" ;"):
        old, new = (text.strip() for text in part.split("->"))
        if old not in source:
            return None
        source = source.replace(old, new)
    return source


def computes(fn: Callable) -> bool:
    """Whether a function does anything: `pass`, `...` and `return None` do not."""
    code = getattr(inspect.unwrap(fn), "__code__", None)
    idle = ("RESUME", "NOP", "LOAD_CONST", "RETURN", "POP_TOP", "COPY_FREE_VARS", "CACHE")
    return bool(code) and any(not i.opname.startswith(idle) for i in dis.get_instructions(code))


def _unfinished(fn: Callable, exercise: Exercise, got: Sequence[Outcome]) -> str | None:
    """What to say to no function, to a stub, and to a function without `return`."""
    if not callable(fn):
        return f"Not yet. Pass the function itself, not a {type(fn).__name__}: without parentheses."
    try:
        inspect.signature(fn).bind(*exercise.cases[0].args)
    except TypeError:
        wanted = ", ".join(exercise.parameters)
        return (
            f"Not yet. Your function takes {inspect.signature(fn)}; it is called with ({wanted})."
        )
    except ValueError:  # a function in C without a signature
        pass
    if isinstance(got[0].error, NotImplementedError):
        return "Not attempted yet: the function returned None."
    empty = [bool(o.values) and all(v is None or v is ... for v in o.values) for o in got]
    if not any(empty):
        return None
    if all(empty) and not computes(fn):
        return "Not attempted yet: the function returned None."
    return (
        "Not yet. Your function computes something and then returns None: is a `return` missing? "
        f"On {exercise.cases[empty.index(True)].text}."
    )


def _names(exercise: Exercise, got: Sequence[Outcome]) -> tuple[str, ...] | None:
    """The messages of the mistake, or of the two, that explain what the function did."""
    pairs = [(a, b) for a, b in combinations(exercise.edits, 2) if a[0] != b[0]]
    if any(o.error for o in got):  # two mistakes that raise the same by chance explain nothing
        pairs = []
    for chosen in [*((edit,) for edit in exercise.edits), *pairs]:
        messages, edits = zip(*chosen, strict=True)
        for wrong in exercise.wrong(*edits):
            if all(same(o, wrong.did(i), exercise.atol) for i, o in enumerate(got)):
                return messages
    return None


def verdict(fn: Callable, exercise: Exercise) -> str:
    """The message for the learner's function: the first thing that is wrong with it, if any."""
    cases = exercise.cases
    # What the learner prints is shown for the first case only.
    got = [exercise.outcome(fn, case, True, quiet=i > 0) for i, case in enumerate(cases)]
    if complaint := _unfinished(fn, exercise, got):
        return complaint
    want = exercise.wanted
    for case, outcome, right in zip(cases, got, want, strict=True):
        if not same(outcome, right, exercise.atol):
            if names := _names(exercise, got):
                said = " ".join(names)
            elif outcome.error:
                return f"Not yet. {raised(fn, outcome.error, case.text, exercise.hints)}"
            elif complaint := structure(outcome, right):
                return f"Not yet. {complaint} On {case.text}."
            else:
                said = "The result differs from the right one."
            numbers = first_difference(outcome, right, exercise.atol)
            return f"Not yet. {said} On {case.text} {numbers}"
    for outcome, right in zip(got, want, strict=True):
        if complaint := structure(outcome, right):
            return f"Not yet. {complaint}"
        if outcome.overwritten:
            changed = ", ".join(exercise.parameters[i] for i in outcome.overwritten)
            return f"Not yet. The value is right, but your function overwrites its input {changed}."
    if exercise.grads and (complaint := gradients(exercise, got, want)):
        return f"Not yet. {complaint}"
    return f"Correct: {exercise.success} on {len(cases)} batches."
