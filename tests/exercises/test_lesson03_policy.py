import math
import re

import pytest

from exercises import check, lesson03_policy

MESSAGES = {m for values in lesson03_policy._POLICY_MISTAKES.values() for m in values.values()}

# What learners write.
ANSWER = """
def answer(logprobs, old_logprobs, advantages, mask, clip_eps):
    advantages = advantages.detach()
    old_logprobs = old_logprobs.detach()
    ratio = torch.exp(logprobs - old_logprobs)
    unclipped = ratio * advantages
    clipped = ratio.clamp(1 - clip_eps, 1 + clip_eps) * advantages
    objective = torch.min(unclipped, clipped)
    return -(objective * mask).sum() / mask.sum()
"""
RATIO = "torch.exp(logprobs - old_logprobs)"
CLIPPED = "ratio.clamp(1 - clip_eps, 1 + clip_eps) * advantages"
MIN = "torch.min(unclipped, clipped)"
LOSS = "-(objective * mask).sum() / mask.sum()"
ADVANTAGES = "    advantages = advantages.detach()\n"
OLD = "    old_logprobs = old_logprobs.detach()\n"

# (passage of ANSWER, its replacement, how the message starts)
MISTAKES = [
    (MIN, "torch.max(unclipped, clipped)", "max instead of min: "),
    (
        MIN,
        "torch.where(advantages > 0, torch.min(unclipped, clipped), torch.max(unclipped, clipped))",
        "max instead of min for negative advantages",
    ),
    (MIN, "ratio.clamp(1 - clip_eps, 1 + clip_eps) * advantages", "Only the clipped branch"),
    (MIN, "unclipped", "No clip"),
    (
        CLIPPED,
        "(logprobs - old_logprobs).clamp(-clip_eps, clip_eps).exp() * advantages",
        "Clip on the log ratio",
    ),
    (
        CLIPPED,
        "(logprobs - old_logprobs).clamp(1 - clip_eps, 1 + clip_eps).exp() * advantages",
        "Clip on the log ratio",
    ),
    (
        CLIPPED,
        "(logprobs - old_logprobs).clamp(1 - clip_eps, 1 + clip_eps) * advantages",
        "Clip on the log ratio",
    ),
    (CLIPPED, "unclipped.clamp(1 - clip_eps, 1 + clip_eps)", "Clip on ratio * A"),
    (CLIPPED, "ratio.clamp(-clip_eps, clip_eps) * advantages", "Clip around 0"),
    ("1 - clip_eps, 1 + clip_eps", "max=1 + clip_eps", "Clip for positive advantages only"),
    (
        MIN,
        "torch.where(advantages > 0, torch.min(unclipped, clipped), unclipped)",
        "Clip for positive advantages only",
    ),
    ("1 - clip_eps, 1 + clip_eps", "min=1 - clip_eps", "Clip for negative advantages only"),
    ("1 - clip_eps, 1 + clip_eps", "0.8, 1.2", "clip_eps ignored"),
    (RATIO, "torch.exp(old_logprobs - logprobs)", "Ratio inverted"),
    (RATIO, "logprobs - old_logprobs", "Log ratio taken for the ratio"),
    (RATIO, "1 + logprobs - old_logprobs", "1 + log ratio taken for the ratio"),
    (RATIO, "logprobs / old_logprobs", "Log-probs divided by each other"),
    (RATIO, "torch.exp(logprobs)", "old_logprobs not used"),
    (LOSS, "-objective.mean()", "Mask ignored"),
    (LOSS, "-(objective * mask).mean()", "Mean over all positions"),
    (LOSS, "-(objective * mask).sum()", "Sum instead of mean"),
    (LOSS, "-((objective * mask).sum(1) / mask.sum(1)).mean()", "Mean per sequence"),
    (LOSS, "-(objective * mask).sum(1).mean()", "Summed over each sequence"),
    (LOSS, "(objective * mask).sum() / mask.sum()", "Sign flipped"),
    (ADVANTAGES, "", "advantages not detached"),
    (OLD, "", "old_logprobs not detached"),
    (ADVANTAGES + OLD, "", "old_logprobs and advantages not detached"),
]

RIGHT = [
    (LOSS, LOSS),
    (LOSS, "-objective[mask.bool()].mean()"),
    (RATIO, "torch.exp(logprobs) / torch.exp(old_logprobs)"),
    (
        CLIPPED,
        """((logprobs - old_logprobs).clamp(
        torch.log(torch.tensor(1 - clip_eps)), torch.log(torch.tensor(1 + clip_eps))
    ).exp() * advantages)""",
    ),
    # As in TRL: the larger of two losses.
    (LOSS, "(torch.max(-unclipped, -clipped) * mask).sum() / mask.sum()"),
    # As in Spinning Up: min(ratio * A, g(A)).
    (
        CLIPPED,
        "torch.where(advantages > 0, (1 + clip_eps) * advantages, (1 - clip_eps) * advantages)",
    ),
    (
        MIN,
        """torch.stack([
        torch.stack([u if u <= c else c for u, c in zip(row, other)])
        for row, other in zip(unclipped, clipped)
    ])""",
    ),
]


@pytest.mark.parametrize(("old", "new"), RIGHT)
def test_right(verdict, mutant, old, new):
    out = verdict(check.clipped_policy_loss, mutant(ANSWER, old, new))
    assert out == "Correct: loss and gradient equal utils.losses.clipped_policy_loss on 4 batches."


@pytest.mark.parametrize(("old", "new", "name"), MISTAKES)
def test_mistake_is_named(verdict, mutant, old, new, name):
    out = verdict(check.clipped_policy_loss, mutant(ANSWER, old, new))
    assert out.startswith(f"Not yet. {name}"), out
    assert len([m for m in MESSAGES if m in out]) == ("not detached" not in name), out
    if "not detached" in name:
        assert re.search(r"On logprobs = .* it is \[\[.*\]\]; expected \[\[0\.0, .*\]\]\.$", out)
    else:
        numbers = r"On logprobs = .* you returned -?\d+\.\d{4}; expected -?\d+\.\d{4}\.$"
        assert re.search(numbers, out), out


def test_the_example_can_be_checked_by_hand(verdict, mutant):
    out = verdict(check.clipped_policy_loss, mutant(ANSWER, MIN, "unclipped"))
    # Ratios e, e, 1/e, 1/e and A = 1, -2, 3, -4: the clip acts on the first and the last.
    e = math.e
    expected = -(1.2 - 2 * e + 3 / e - 4 * 0.8) / 4
    assert out.endswith(
        "On logprobs = [[-1.0, -1.0, -2.0], [-2.0, -1.0, -2.0]], old_logprobs = [[-2.0, -2.0, "
        "-1.0], [-1.0, -3.0, -1.0]], advantages = [[1.0, -2.0, 3.0], [-4.0, 5.0, 6.0]], mask = "
        "[[1.0, 1.0, 1.0], [1.0, 0.0, 0.0]], clip_eps = 0.2 you returned "
        f"{-(e - 2 * e + 3 / e - 4 / e) / 4:.4f}; expected {expected:.4f}."
    )


def test_two_mistakes_at_once(verdict, mutant):
    source = ANSWER.replace("torch.min", "torch.max")
    out = verdict(check.clipped_policy_loss, mutant(source, LOSS, "-objective.mean()"))
    assert "max instead of min" in out and "Mask ignored" in out
    inverted = ANSWER.replace("logprobs - old_logprobs", "old_logprobs - logprobs")
    clip = "(old_logprobs - logprobs).clamp(-clip_eps, clip_eps).exp() * advantages"
    out = verdict(check.clipped_policy_loss, mutant(inverted, CLIPPED, clip))
    assert "Clip on the log ratio" in out and "Ratio inverted" in out


def test_a_wrong_value_comes_before_a_missing_detach(verdict, mutant):
    source = ANSWER.replace(ADVANTAGES, "")
    out = verdict(check.clipped_policy_loss, mutant(source, "torch.min", "torch.max"))
    assert out.startswith("Not yet. max instead of min")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (LOSS, LOSS + ", {}", "Return 1 value(s), not 2."),
        (LOSS, "-objective * mask", "Wrong shape: expected (), you returned (2, 3)."),
        (LOSS, f"({LOSS}).item()", "Return a tensor, not a Python float"),
        (RATIO, RATIO + ".detach()", "The value is right, but the result carries no gradient"),
        (
            CLIPPED,
            CLIPPED + " + (unclipped - unclipped.detach())",
            "The value is right, but the gradient with respect to logprobs is not.",
        ),
    ],
)
def test_other_complaints(verdict, mutant, old, new, message):
    out = verdict(check.clipped_policy_loss, mutant(ANSWER, old, new))
    assert out.startswith(f"Not yet. {message}"), out


# Single-point changes that nobody would give a name.
MUTANTS = [
    (ADVANTAGES, "    advantages = advantages.detach().abs()\n"),
    (ADVANTAGES, "    advantages = advantages.detach() - advantages.detach().mean()\n"),
    (ADVANTAGES, "    advantages = -advantages.detach()\n"),
    (OLD, "    old_logprobs = logprobs.detach()\n"),
    ("torch.exp(logprobs", "torch.expm1(logprobs"),
    ("torch.exp(logprobs", "torch.sigmoid(logprobs"),
    ("logprobs - old_logprobs", "logprobs + old_logprobs"),
    ("logprobs - old_logprobs", "(logprobs - old_logprobs).mean(1, keepdim=True)"),
    ("logprobs - old_logprobs", "(logprobs - old_logprobs).abs()"),
    ("ratio * advantages\n    clipped", "ratio + advantages\n    clipped"),
    ("ratio * advantages\n    clipped", "advantages\n    clipped"),
    ("ratio * advantages\n    clipped", "ratio.detach() * advantages\n    clipped"),
    ("1 - clip_eps, 1 + clip_eps", "1 + clip_eps, 1 - clip_eps"),
    ("1 - clip_eps, 1 + clip_eps", "1 - clip_eps, 1"),
    ("1 - clip_eps, 1 + clip_eps", "1, 1 + clip_eps"),
    ("1 - clip_eps, 1 + clip_eps", "clip_eps, 1 + clip_eps"),
    ("1 - clip_eps, 1 + clip_eps", "1 - clip_eps, 2 + clip_eps"),
    ("1 - clip_eps, 1 + clip_eps", "1 - clip_eps / 2, 1 + clip_eps / 2"),
    (CLIPPED, "ratio.clamp(1 - clip_eps, 1 + clip_eps)"),
    (CLIPPED, "ratio.clamp(1 - clip_eps, 1 + clip_eps) * advantages.abs()"),
    (CLIPPED, CLIPPED.replace("ratio.", "ratio.detach().") + " + 0.1"),
    (MIN, "unclipped + clipped"),
    (MIN, "(unclipped + clipped) / 2"),
    (MIN, "torch.min(unclipped.detach(), clipped)"),
    (LOSS, "-(objective * (1 - mask)).sum() / mask.sum()"),
    (LOSS, "-(objective + mask).sum() / mask.sum()"),
    (LOSS, "-objective.sum() / mask.sum()"),
    (LOSS, "-(objective * mask).sum() / len(mask)"),
    (LOSS, "-(objective * mask).sum() / (mask.sum() - 1)"),
    (LOSS, "-(objective * mask).sum() * mask.sum()"),
    (LOSS, "-(objective * mask).max()"),
    (LOSS, "(-(objective * mask).sum() / mask.sum()).abs()"),
]


@pytest.mark.parametrize(("old", "new"), MUTANTS)
def test_mutants_are_rejected(verdict, mutant, old, new):
    assert verdict(check.clipped_policy_loss, mutant(ANSWER, old, new)).startswith("Not yet. ")
