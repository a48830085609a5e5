import sys
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import torch

from exercises import calls, check, judge

NAMES = [name for name in check.__all__ if name != "Quiz"]


@pytest.fixture(params=NAMES)
def exercise(request):
    return getattr(check, request.param)


def differs(exercise, wrong):
    return not all(
        calls.same(wrong.did(i), right, exercise.atol) for i, right in enumerate(exercise.wanted)
    )


def test_every_edit_changes_the_answer(exercise):
    for message, edit in exercise.edits:
        assert any(differs(exercise, wrong) for wrong in exercise.wrong(edit)), (message, edit)


def test_every_style_is_right(exercise):
    for source in exercise.sources:
        assert judge.verdict(exercise.compiled(source), exercise).startswith("Correct: ")


def test_every_mistake_is_told_from_the_others(exercise):
    made = [
        (message, wrong)
        for message, edit in exercise.edits
        for wrong in exercise.wrong(edit)
        if differs(exercise, wrong)
    ]
    for (a, first), (b, second) in combinations(made, 2):
        if a != b:
            cases = range(len(exercise.cases))
            assert not all(calls.same(first.did(i), second.did(i), exercise.atol) for i in cases), (
                a,
                b,
            )


def test_every_exercise_starts_with_a_case_small_enough_to_check_by_hand(exercise):
    first = exercise.cases[0]
    tensors = [a for a in first.args if isinstance(a, torch.Tensor) and a.ndim]
    assert all(a.numel() <= 40 for a in tensors)
    assert all(f"{name} = " in first.text for name in exercise.parameters)
    # With one row, or sizes that agree, a slip along a dimension does not show. By their nature a
    # head with one output has a single row, and a table may be square.
    one_row = [first.args[2]] if exercise is check.rewards else []
    assert all(len(a) >= 2 for a in tensors if not any(a is b for b in one_row))
    square = "table" in first.text
    assert square or all(len(set(a.shape)) == a.ndim for a in tensors if a.ndim > 1)


def test_the_reference_and_the_answer_are_judged_correct(exercise):
    for fn in (exercise.reference, exercise.answer):
        assert judge.verdict(fn, exercise).startswith("Correct: ")


def stub_that_raises(*args):
    raise NotImplementedError


@pytest.mark.parametrize(
    "stub", [stub_that_raises, lambda *a: None, lambda *a: ..., lambda *a: (..., ...)]
)
def test_not_attempted(exercise, stub):
    out = judge.verdict(stub, exercise)
    assert out == "Not attempted yet: the function returned None."


def test_works_under_no_grad(exercise):
    with torch.no_grad():
        fresh = replace(exercise, known={})
        assert judge.verdict(exercise.answer, fresh).startswith("Correct")
    assert judge.verdict(exercise.answer, fresh).startswith("Correct")


def test_output_is_deterministic_and_the_global_random_state_untouched(exercise):
    def noisy(*args):
        torch.rand(3)
        result = exercise.answer(*args)
        return tuple(1.5 * x for x in result) if isinstance(result, tuple) else 1.5 * result

    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = judge.verdict(noisy, exercise)
    assert first.startswith("Not yet. ")
    assert torch.get_rng_state().equal(before)
    torch.manual_seed(6)
    assert judge.verdict(noisy, exercise) == first


def test_lines_are_short(capsys, exercise):
    message, edit = exercise.edits[-1]
    exercise(exercise.wrong(edit)[0].fn)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) > 1 and max(map(len, lines)) <= 100


def test_an_input_that_is_overwritten_is_named(exercise):
    if not any(isinstance(a, torch.Tensor) for a in exercise.cases[0].args):
        assert exercise is check.think_rewards  # texts: nothing that could be overwritten in place
        return

    def careless(*args):
        result = exercise.answer(*args)
        next(a for a in args if isinstance(a, torch.Tensor)).data.zero_()
        return result

    out = judge.verdict(careless, exercise)
    changed = exercise.parameters[0]
    assert out.endswith(f"your function overwrites its input {changed}.")


def loops(*args):
    return [[loops] for _ in range(3)]


def recurses(*args):
    return recurses(*args)


def leaves(*args):
    sys.exit(1)


class Hostile:
    def __getattr__(self, name):
        raise RuntimeError("no")

    def __len__(self):
        raise RuntimeError("no")


@pytest.mark.parametrize(
    "fn",
    [
        loops,
        recurses,
        leaves,
        3,
        None,
        torch.zeros(2),
        lambda: 0,
        lambda *a: 1 / 0,
        lambda *a: "loss",
        lambda *a: {"loss": 1},
        lambda *a: {},
        lambda *a: (),
        lambda *a: [],
        lambda *a: [None, 1],
        lambda *a: (None, torch.zeros(1)),
        lambda *a: float("nan"),
        lambda *a: 10**400,
        lambda *a: np.array(["a"]),
        lambda *a: np.zeros(3),
        lambda *a: torch.zeros(0),
        lambda *a: torch.zeros(2, 3, 4, 5),
        lambda *a: torch.zeros(2, dtype=torch.complex64),
        lambda *a: torch.eye(3).to_sparse(),
        lambda *a: torch.ones(2, dtype=torch.bool),
        lambda *a: a[0].requires_grad_(),
        lambda *a: (x for x in a),
        lambda *a: Hostile(),
        lambda *a: (Hostile(), Hostile()),
        lambda *a: a[0].resize_(1),
        print,
        max,
        torch.Tensor,
    ],
)
def test_nothing_that_is_handed_in_makes_the_checker_raise(exercise, fn, capsys):
    exercise(fn)
    assert capsys.readouterr().out.split("\n")[-2].strip()
    assert "Correct" not in judge.verdict(fn, exercise)


class HostileFunction:
    def __getattribute__(self, name):
        raise RuntimeError("no")

    def __call__(self, *args):
        return None


class HostileError(Exception):
    def __str__(self):
        raise RuntimeError("no")


def raises_a_hostile_error(*args):
    raise HostileError


def test_not_even_what_fails_when_it_is_looked_at(capsys):
    for fn in (HostileFunction(), raises_a_hostile_error):
        check.k3(fn)
        out = capsys.readouterr().out
        assert out == "Not yet. This cannot be judged: RuntimeError when looking at it.\n"


def test_interrupting_still_works():
    def stopped(*args):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        check.k3(stopped)


def test_ragged_masks():
    assert calls.ragged_mask([1, 3]).tolist() == [[1, 0, 0], [1, 1, 1]]


# A small exercise: a * b + c, where c is a constant.


def product(a, b, c):
    return (a * b + c.detach()).sum()


SMALL = judge.Exercise(
    reference=product,
    answer=product,
    mistakes="""
    One added.
        c.detach() -> 1
    Two places,
    told in two lines.
        a * b -> a * b + b ;
            .sum() -> .sum() - 1
    Choices.
        a * b -> a / b | a**b
    """,
    cases=[calls.worked_case(a=[1.0, 2.0], b=[1.0, 3.0], c=[2.0, 1.0])],
    success="fine",
    grads=["a", "b", "c"],
    hints={"'missing'": "Look elsewhere."},
)
CASE = "On a = [1.0, 2.0], b = [1.0, 3.0], c = [2.0, 1.0]"


def small(fn, **changes):
    return judge.verdict(fn, replace(SMALL, known={}, **changes))


def test_the_text_of_the_mistakes_is_read():
    assert SMALL.edits == [
        ("One added.", "c.detach() -> 1"),
        ("Two places, told in two lines.", "a * b -> a * b + b ; .sum() -> .sum() - 1"),
        ("Choices.", "a * b -> a / b"),
        ("Choices.", "a * b -> a**b"),
    ]


def test_edits_of_both_sides_and_of_small_numbers():
    assert judge.edited("chosen + rejected", "SIDE -> SIDE_mask") == "chosen_mask + rejected_mask"
    assert judge.edited("a + b", "c -> d") is None
    assert judge._expanded("x -> x + EPS")[:2] == ["x -> x + 1e-5", "x -> x + 1e-6"]


def test_numbers_on_a_worked_case():
    assert small(lambda a, b, c: (b * a + c.detach()).sum()) == "Correct: fine on 1 batches."
    out = small(lambda a, b, c: (a * b + 1).sum())
    assert out == f"Not yet. One added. {CASE} you returned 9.0000; expected 10.0000."
    out = small(lambda a, b, c: (a / b + 1).sum())
    assert out.startswith(f"Not yet. One added. Choices. {CASE} you returned 3.6667;"), out
    out = small(lambda a, b, c: (a * b + c).sum() * 3)
    assert out == (
        f"Not yet. The result differs from the right one. {CASE} you returned 30.0000; expected "
        "10.0000."
    )


@pytest.mark.parametrize(
    ("fn", "message"),
    [
        (
            lambda a, b, c: (a * b + c).sum(),
            f"a gradient flows into c, meant as constant: use c.detach(). {CASE} that of c is "
            "[1.0, 1.0]; expected [0.0, 0.0].",
        ),
        (
            lambda a, b, c: (a.detach() * b + c.detach()).sum(),
            f"no gradient reaches a: was part of it detached? {CASE} that of a is [0.0, 0.0]; "
            "expected [1.0, 3.0].",
        ),
        (
            lambda a, b, c: (a * b + b - b.detach() + c.detach()).sum(),
            f"the gradient with respect to b is not. {CASE} that of b is [2.0, 3.0]; expected "
            "[1.0, 2.0].",
        ),
        (
            lambda a, b, c: (a * b.detach() + c).sum(),
            "no gradient reaches b: was part of it detached? Also, a gradient flows into c, meant "
            f"as constant: use c.detach(). {CASE} that of b is [0.0, 0.0]; expected [1.0, 2.0].",
        ),
        (
            lambda a, b, c: (a * b + c).sum().detach(),
            "the result carries no gradient: nothing would be learned. Was it detached, turned "
            "into a number, or computed under no_grad?",
        ),
    ],
)
def test_gradients(fn, message):
    assert small(fn) == f"Not yet. The value is right, but {message}"


def test_the_gradient_of_several_numbers_is_not_shown():
    """It is that of a weighted sum, which the learner has never seen."""
    exercise = dict(reference=lambda a, b, c: a * b + c.detach())
    out = small(lambda a, b, c: a * b + b - b.detach() + c.detach(), **exercise)
    assert out == "Not yet. The value is right, but the gradient with respect to b is not."


def test_a_result_that_has_to_be_constant():
    exercise = dict(reference=lambda a, b, c: (a * b).detach())
    assert small(lambda a, b, c: (a * b).detach(), **exercise).startswith("Correct")
    out = small(lambda a, b, c: a * b, **exercise)
    assert "a gradient flows into a and b, meant as constant: use a.detach() and b." in out


def backward_inside(a, b, c):
    loss = product(a, b, c)
    loss.backward()
    return loss


def test_going_backward_inside():
    out = small(backward_inside)
    assert out.startswith("Not yet. The value is right, but going backward through it raises Run")


@pytest.mark.parametrize(
    ("fn", "message"),
    [
        (lambda a, b, c: product(a, b, c).item(), "Return a tensor, not a Python float: no gradie"),
        (lambda a, b, c: product(a, b, c)[None], "Wrong shape: expected (), you returned (1,)."),
        (lambda a, b, c: (product(a, b, c), 1), "Return 1 value(s), not 2."),
        (
            lambda a, b, c: "loss",
            f"Return a tensor, not a Python str: no gradient flows through a str. {CASE}.",
        ),
        (lambda a, b, c: a * b, f"Wrong shape: expected (), you returned (2,). {CASE}."),
        (lambda a, b: a, "Your function takes (a, b); it is called with (a, b, c)."),
        (product(*(torch.ones(1),) * 3), "Pass the function itself, not a Tensor"),
        (lambda a, b, c: a @ torch.ones(3), "Your function raised RuntimeError: "),
    ],
)
def test_other_complaints(fn, message):
    assert small(fn).startswith(f"Not yet. {message}"), small(fn)


def without_return(a, b, c):
    total = a * b + c.detach()
    total.sum()


def returns_only_sometimes(a, b, c):
    if len(a) > 2:
        return product(a, b, c)


def test_a_forgotten_return_is_not_an_empty_stub():
    for fn in (without_return, returns_only_sometimes):
        out = small(fn)
        assert out == (
            "Not yet. Your function computes something and then returns None: is a `return` "
            f"missing? {CASE}."
        )


def fails(a, b, c):
    raise KeyError("missing")


def test_an_exception_is_shown_with_its_line_and_a_hint():
    out = small(fails)
    assert out == (
        "Not yet. Your function raised KeyError: 'missing' in the line `raise KeyError(\"missing\")"
        f"`. {CASE}. Look elsewhere."
    )


def test_an_exception_that_a_mistake_raises_too_gets_its_name():
    out = small(lambda a, b, c: a @ c[:1], mistakes="Too short.\n    a * b -> a @ c[:1]")
    assert out.startswith("Not yet. Too short. On a = [1.0, 2.0], b = [1.0, 3.0], c = [2.0, 1.0] y")


def test_prints_of_the_first_case_only(capsys):
    def talks(a, b, c):
        print("called")
        return product(a, b, c)

    assert small(talks, cases=SMALL.cases * 3).startswith("Correct")
    assert capsys.readouterr().out == "called\n"


def test_a_buffer_that_is_used_again():
    """What the first call returned is kept, though the second one writes over it."""
    buffer = torch.zeros(())
    cases = [*SMALL.cases, calls.worked_case(a=[1.0, 1.0], b=[1.0, 1.0], c=[0.0, 0.0])]

    def reuses(a, b, c):
        return buffer.copy_(product(a, b, c).detach())

    assert small(reuses, cases=cases, grads=()).startswith("Correct")


# Several results, and none with a gradient.


def doubled(x):
    return x + 1, 2 * x


PAIR = judge.Exercise(
    reference=doubled,
    answer=doubled,
    mistakes="Results swapped.\n    x + 1, 2 * x -> 2 * x, x + 1",
    cases=[calls.worked_case(x=[0.0, 1.0, 2.0])],
    success="both",
)


@pytest.mark.parametrize(
    "form", [tuple, list, torch.stack, lambda pair: np.stack([np.asarray(x) for x in pair])]
)
def test_what_unpacks_to_the_same_is_accepted(form):
    out = judge.verdict(lambda x: form((x + 1, 2 * x)), PAIR)
    if form.__name__ == "<lambda>":
        assert out.startswith("Not yet. Return 2 value(s), not 1.")
    else:
        assert out == "Correct: both on 1 batches."
    out = judge.verdict(lambda x: form((2 * x, x + 1)), PAIR)
    assert out.startswith("Not yet. Results swapped. On x = [0.0, 1.0, 2.0] you returned ") or (
        "Return 2 value(s)" in out
    )


def test_an_array_gets_a_true_reason():
    one = replace(PAIR, reference=lambda x: x + 1, answer=lambda x: x + 1, mistakes="", known={})
    for fn, kind in ((lambda x: (x + 1).numpy(), "ndarray"), (lambda x: [1.0, 2.0, 3.0], "list")):
        assert judge.verdict(fn, one) == (
            f"Not yet. Return a tensor, not a Python {kind}: torch.as_tensor makes one of it."
        )


def test_a_long_result_is_shown_where_it_differs():
    case = calls.Case((torch.arange(15.0).view(3, 5),), "x = torch.arange(15.0).view(3, 5)")
    exercise = replace(PAIR, cases=[case], mistakes="", known={})

    def off(x):
        y = 2 * x
        y[1, 2] += 0.5
        return x + 1, y

    assert judge.verdict(off, exercise) == (
        "Not yet. The result differs from the right one. On x = torch.arange(15.0).view(3, 5) you "
        "returned 14.5000 at [1, 2] of result 2; expected 14.0000 (1 of 15 numbers differ)."
    )


def test_a_difference_beyond_the_fourth_decimal_is_shown():
    out = small(lambda a, b, c: product(a, b, c) * 0 + 3e-5, reference=lambda a, b, c: a[0] * 0)
    assert out.endswith("you returned 0.00003000; expected 0.00000000."), out
