import sys
from itertools import combinations

import pytest
import torch

from exercises import check, judge

EXERCISES = [
    check.k3,
    check.reinforce_gradient,
    check.sft_loss,
    check.lora_forward,
    check.bradley_terry_loss,
    check.gae,
    check.clipped_policy_loss,
    check.dpo_loss,
    check.group_advantages,
    check.grpo_loss,
    check.importance_weights,
]


@pytest.fixture(params=EXERCISES, ids=lambda exercise: exercise.__name__)
def exercise(request):
    return request.param


@pytest.fixture
def content(exercise, monkeypatch):
    """What the exercise hands to the judge: reference, cases, mistakes ..."""
    caught = {}
    lesson = sys.modules[exercise.__module__]
    with monkeypatch.context() as patch:
        patch.setattr(lesson, "judge", lambda fn, **kwargs: caught.update(kwargs))
        exercise(None)
    return caught


def test_every_check_is_tested_here():
    assert {e.__name__ for e in EXERCISES} | {"Quiz"} == set(check.__all__)


def test_every_mistake_is_told_from_the_right_answer_and_from_the_others(content):
    cases, messages = content["cases"], content["messages"]
    right = [judge.run(content["reference"], case) for case in cases]
    runs = []
    for names, wrong in content["mistakes"]:
        if len(names) == 1:
            outcomes = [judge.run(wrong, case) for case in cases]
            if not all(map(judge.same, outcomes, right)):  # in one style it may be no mistake
                runs.append((names[0], outcomes))
    assert {name for name, _ in runs} == set(messages)
    for (a, outcomes), (b, others) in combinations(runs, 2):
        if messages[a] != messages[b]:
            assert not all(map(judge.same, outcomes, others)), (a, b)


def test_every_value_in_a_table_of_mistakes_is_understood(content):
    """A value that the wrong function does not know would act like another one, or like none."""
    runs = {}
    for names, wrong in content["mistakes"]:
        if len(names) == 1:
            runs.setdefault(names[0], []).extend(judge.run(wrong, c) for c in content["cases"])
    for (a, outcomes), (b, others) in combinations(runs.items(), 2):
        assert not all(map(judge.same, outcomes, others)), (a, b)


def test_every_exercise_starts_with_a_case_small_enough_to_check_by_hand(content):
    first = content["cases"][0]
    assert all(a.numel() <= 40 for a in first.args if isinstance(a, torch.Tensor))
    assert all(f"{name} = " in first.text for name in judge_parameters(content["reference"]))
    assert not judge.run(content["reference"], first).error


def judge_parameters(reference):
    """The arguments a learner's function takes: those without a default."""
    code = reference.__code__
    return code.co_varnames[: code.co_argcount - len(reference.__defaults__ or ())]


def test_the_reference_is_judged_correct(verdict, exercise, content):
    assert verdict(exercise, content["reference"]).startswith("Correct: ")


def test_not_attempted(verdict, exercise):
    def stub(*args):
        raise NotImplementedError

    for fn in (stub, lambda *args: None, lambda *args: ..., lambda *args: (..., ...)):
        assert verdict(exercise, fn) == "Not attempted yet: the function returned None."


def test_works_under_no_grad(verdict, exercise, content):
    with torch.no_grad():
        assert verdict(exercise, content["reference"]).startswith("Correct")


def test_output_is_deterministic_and_the_global_random_state_untouched(verdict, exercise, content):
    def noisy(*args):
        torch.rand(3)
        result = content["reference"](*args)
        return tuple(1.5 * x for x in result) if isinstance(result, tuple) else 1.5 * result

    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = verdict(exercise, noisy)
    assert first.startswith("Not yet. ")
    assert torch.get_rng_state().equal(before)
    torch.manual_seed(6)
    assert verdict(exercise, noisy) == first


def test_lines_are_short(capsys, exercise, content):
    _, wrong = content["mistakes"][-1]
    exercise(wrong)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) > 1 and max(map(len, lines)) <= 100


def test_ragged_masks():
    assert judge.ragged_mask([1, 3]).tolist() == [[True, False, False], [True, True, True]]


# A small exercise: a * b + c, where c is a constant.


def small(fn, **changes):
    exercise = dict(
        reference=lambda a, b, c: (a * b + c.detach()).sum(),
        cases=[judge.worked_case(a=torch.tensor([1.0, 2.0]), b=torch.ones(2), c=torch.zeros(2))],
        mistakes=[(("minus",), lambda a, b, c: (a * b - 1).sum())],
        messages={"minus": "Minus one."},
        success="fine.",
        grad_args=["a", "b", "c"],
    )
    return judge.verdict(fn, **(exercise | changes))


CASE = "On a = [1.0, 2.0], b = [1.0, 1.0], c = [0.0, 0.0]"


def test_numbers_on_a_worked_case():
    assert small(lambda a, b, c: (a * b + c.detach()).sum()) == "Correct: fine."
    out = small(lambda a, b, c: (a * b - 1).sum())
    assert out == f"Not yet. Minus one. {CASE} you returned 1.0000; expected 3.0000."


@pytest.mark.parametrize(
    ("fn", "message"),
    [
        (
            lambda a, b, c: (a * b + c).sum(),
            "c not detached: the value is right, but a gradient flows into a constant. Use "
            f"c.detach(). {CASE} it is [1.0, 1.0]; expected [0.0, 0.0].",
        ),
        (
            lambda a, b, c: (a.detach() * b + c.detach()).sum(),
            "The value is right, but no gradient reaches a: was part of it detached? "
            f"{CASE} it is [0.0, 0.0]; expected [1.0, 1.0].",
        ),
        (
            lambda a, b, c: (a * b + b - b.detach() + c.detach()).sum(),
            "The value is right, but the gradient with respect to b is not. "
            f"{CASE} it is [2.0, 3.0]; expected [1.0, 2.0].",
        ),
        (
            lambda a, b, c: (a * b.detach() + c).sum(),
            "The value is right, but no gradient reaches b",
        ),
        (
            lambda a, b, c: (a * b + c).sum().detach(),
            "The value is right, but the result carries no gradient: nothing would be learned.",
        ),
    ],
)
def test_gradients(fn, message):
    out = small(fn)
    assert out.startswith(f"Not yet. {message}"), out


def test_gradients_of_several_numbers_are_not_shown():
    """They are those of a weighted sum, which the learner has never seen."""
    exercise = dict(reference=lambda a, b, c: a * b + c.detach(), mistakes=[])
    out = small(lambda a, b, c: a * b + b - b.detach() + c.detach(), **exercise)
    assert out == "Not yet. The value is right, but the gradient with respect to b is not."


def test_two_constants_that_leak_are_named_together():
    out = small(
        lambda a, b, c: (a * b + c).sum(), reference=lambda a, b, c: (a * b.detach() + c * 0).sum()
    )
    assert out.startswith("Not yet. b and c not detached: ")
    assert f"Use b.detach() and c.detach(). {CASE} it is [1.0, 2.0]; expected [0.0, 0.0]." in out


def test_functions_with_several_results_and_without_gradients():
    cases = [judge.Case((torch.arange(3.0),), "x = torch.arange(3.0)")]
    exercise = dict(
        reference=lambda x: (x + 1, x * 2),
        cases=cases,
        mistakes=[(("swapped",), lambda x: (x * 2, x + 1))],
        messages={"swapped": "Results swapped."},
        success="both.",
    )
    assert judge.verdict(lambda x: (x + 1, 2 * x), **exercise) == "Correct: both."
    assert judge.verdict(lambda x: (2 * x, x + 1), **exercise) == (
        "Not yet. Results swapped. On x = torch.arange(3.0) you returned [0.0, 2.0, 4.0], "
        "[1.0, 2.0, 3.0]; expected [1.0, 2.0, 3.0], [0.0, 2.0, 4.0]."
    )
    out = judge.verdict(lambda x: x + 1, **exercise)
    assert out.startswith("Not yet. Return 2 value(s), not 1.")


def test_an_exception_everywhere_matches_no_mistake():
    def fails(x):
        raise KeyError("missing")

    out = judge.verdict(
        fails,
        reference=lambda x: -x,
        cases=[judge.Case((torch.ones(2),), "x = torch.ones(2)")],
        mistakes=[(("fails",), fails)],
        messages={"fails": "It fails."},
        success="",
    )
    assert out == "Not yet. Your function raised KeyError: 'missing'. On x = torch.ones(2)."
