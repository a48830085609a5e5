"""Every submission gets its verdict: right ones are confirmed, mistakes get their name."""

import re

import pytest
from submissions import answer_of, lookup

from exercises import check
from exercises.judge import verdict

NAMES = [name for name in check.__all__ if name != "Quiz"]
RIGHT = [(name, answer) for name in NAMES for answer in lookup("RIGHT", name)]
WRONG = [(name, *entry) for name in NAMES for entry in lookup("WRONG", name)]
MUTANTS = [(name, answer) for name in NAMES for answer in lookup("MUTANTS", name)]
# What the judge says of itself, not a named mistake.
OWN = "The value is right", "The result differs"


def judged(name, submission):
    fn = submission if callable(submission) else answer_of(submission)
    return verdict(fn, getattr(check, name))


@pytest.mark.parametrize(("name", "submission"), RIGHT)
def test_right_answers_in_any_style_are_confirmed(name, submission):
    exercise = getattr(check, name)
    expected = f"Correct: {exercise.success} on {len(exercise.cases)} batches."
    assert judged(name, submission) == expected


@pytest.mark.parametrize("name", NAMES)
def test_there_are_three_right_answers_beside_the_exercises_own(name):
    assert len(lookup("RIGHT", name)) >= 4


@pytest.mark.parametrize(("name", "submission", "start"), WRONG)
def test_a_mistake_gets_its_name_and_numbers(name, submission, start):
    out = judged(name, submission)
    assert out.startswith(f"Not yet. {start}"), out
    messages = {message for message, _ in getattr(check, name).edits}
    named = [m for m in messages if m in out]
    assert len(named) == (not start.startswith(OWN)), out
    if named:
        shown = r" On .*(you returned .*; expected .*|your function raised .*|value\(s\))\.?$"
        assert re.search(shown, out), out


@pytest.mark.parametrize(("name", "submission"), MUTANTS)
def test_a_mistake_without_a_name_is_refused(name, submission):
    assert judged(name, submission).startswith("Not yet. ")


@pytest.mark.parametrize("name", NAMES)
def test_every_named_mistake_is_submitted_by_somebody(name):
    starts = [start for _, start in lookup("WRONG", name)]
    messages = {message for message, _ in getattr(check, name).edits}
    assert [m for m in messages if not any(m.startswith(s) for s in starts)] == []


def test_two_mistakes_at_once_are_both_named():
    for name, a, b in (
        ("k3", "Sign of the log-ratio", "- 1 missing"),
        ("gae", "lambda and gamma swapped", "Returns without the values"),
        ("clipped_policy_loss", "max instead of min: ", "Mask ignored"),
        ("dpo_loss", "Reference terms missing", "beta not used"),
        ("group_advantages", "Population std", "A group of equal rewards gives NaN"),
        ("grpo_loss", "k3 reversed", "max instead of min: "),
        ("sft_loss", "No shift by one", "Sum instead of mean"),
    ):
        exercise = getattr(check, name)
        first, second = (
            next((m, e) for m, e in exercise.edits if m.startswith(start)) for start in (a, b)
        )
        (wrong, *_) = exercise.wrong(first[1], second[1])
        out = verdict(wrong.fn, exercise)
        assert first[0] in out and second[0] in out, out


def test_the_worked_cases_can_be_checked_by_hand():
    # GAE: delta = 1.5, -2.5, 1 and -1.5, 4, -3, -1; each advantage adds 1/8 of the next one.
    out = judged("gae", lambda r, v, m, g, lam: (r * 0, r * 0))
    assert "expected [[1.2031, -2.375, 1.0, 0.0], [-1.0488, 3.6094, -3.125, -1.0]]" in out
    # Group advantages: mean 4, std 3.
    out = judged("group_advantages", lambda rewards, n: rewards)
    assert "expected [-1.0, 0.0, 1.0, 0.0, 0.0, 0.0]." in out
    # LoRA: the base plus 6 / 2 times the update.
    out = judged("lora_forward", lambda x, w, a, b, alpha: x @ w.T)
    assert "you returned [[1.0, 0.0, 2.0], [-1.0, 1.0, -1.0]]" in out
    assert "expected [[10.0, 0.0, 11.0], [-1.0, 4.0, 2.0]]." in out
    # REINFORCE: (2 (1, 0, 0, 0) + 0 + 3 (1, 0, 0, 0) - 5 (1, 1, 1, 1) / 4) / 3.
    out = judged("reinforce_gradient", lambda logits, *rest: logits)
    assert "expected [1.25, -0.4167, -0.4167, -0.4167]." in out
    # k3: r = 1, -1, 0, -2, 1, 2.
    out = judged("k3", lambda p, q: p - q)
    assert "expected [[0.3679, 0.7183, 0.0], [4.3891, 0.3679, 1.1353]]." in out


def test_eight_rewards_of_a_tenth_are_worth_nothing():
    out = judged("group_advantages", answer_of(lookup("RIGHT", "group_advantages")[0]))
    assert out.startswith("Correct")
    for submission, start in lookup("WRONG", "group_advantages"):
        if "nan_to_num" in submission:
            out = judged("group_advantages", submission)
            assert "On rewards = [0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1], group_size = 8" in out
            assert start in out


GATHER = """
def answer(logits, labels):
    token = logits[:, :-1].log_softmax(-1).gather(-1, labels[:, 1:, None])[..., 0]
    return -token[labels[:, 1:] != -100].mean()
"""
SHIFTED_ONLY = """
def answer(logits, labels):
    return F.cross_entropy(logits[:, :-1], labels[:, 1:])
"""
ONE_HOT = """
def answer(logits, labels):
    return -(logits[:, :-1].log_softmax(-1) * F.one_hot(labels[:, 1:], logits.shape[-1])).sum()
"""
OTHER_IGNORED = """
def answer(logits, labels):
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-1)
"""
TOKENS_MINUS_SUMS = """
def answer(chosen, chosen_mask, rejected, rejected_mask, ref_chosen, ref_rejected, beta):
    return -F.logsigmoid(beta * (chosen - ref_chosen - rejected + ref_rejected)).mean()
"""
AFTER_THE_END = """
def answer(chosen_scores, chosen_mask, rejected_scores, rejected_mask):
    chosen = chosen_scores.gather(1, chosen_mask.sum(1, keepdim=True))
    rejected = rejected_scores.gather(1, rejected_mask.sum(1, keepdim=True))
    return -F.logsigmoid(chosen - rejected).mean()
"""
NO_COLUMN = """
def answer(logits, actions, rewards, baseline):
    return ((rewards - baseline) * (F.one_hot(actions, len(logits)) - logits.softmax(0))).mean(0)
"""
SQUARE = """
def answer(rewards, group_size):
    groups = rewards.view(group_size, group_size)
    return (groups - groups.mean(1, keepdim=True)).flatten()
"""


@pytest.mark.parametrize(
    ("name", "submission", "hint"),
    [
        ("sft_loss", GATHER, "-100 is no token id, so it cannot be looked up: gather with labels"),
        ("sft_loss", ONE_HOT, "-100 is no token id"),
        ("sft_loss", OTHER_IGNORED, "-100 is no token id"),
        ("sft_loss", SHIFTED_ONLY, "cross_entropy wants (N, V) and (N,)"),
        (
            "reinforce_gradient",
            NO_COLUMN,
            "directions (n, n_v): use (rewards - baseline)[:, None].",
        ),
        ("dpo_loss", TOKENS_MINUS_SUMS, "sum the token log-probs of each row first, dim=1."),
        ("bradley_terry_loss", AFTER_THE_END, "stands at position mask.sum(1) - 1."),
        ("group_advantages", SQUARE, "rewards.view(-1, group_size) is (Q, G)"),
    ],
)
def test_an_exception_comes_with_a_hint(name, submission, hint):
    out = judged(name, submission)
    assert out.startswith("Not yet. Your function raised "), out
    assert hint in out and "Mask ignored" not in out and "Traceback" not in out
