import re

import pytest
import torch
import torch.nn.functional as F

from exercises import check, lesson04

MESSAGES = {m for values in lesson04._DPO_MISTAKES.values() for m in values.values()}

# What learners write: summed log-probs, log-ratios, their difference.
ANSWER = """
def answer(
    policy_chosen_logprobs, chosen_mask, policy_rejected_logprobs, rejected_mask,
    ref_chosen, ref_rejected, beta,
):
    chosen = (policy_chosen_logprobs * chosen_mask).sum(1)
    rejected = (policy_rejected_logprobs * rejected_mask).sum(1)
    chosen_ratio = chosen - ref_chosen
    rejected_ratio = rejected - ref_rejected
    margin = chosen_ratio - rejected_ratio
    return -F.logsigmoid(beta * margin).mean()
"""
LOSS = "-F.logsigmoid(beta * margin).mean()"
SUMS = ANSWER[ANSWER.index("    chosen = ") : ANSWER.index("    chosen_ratio")]
RATIOS = ANSWER[ANSWER.index("    chosen_ratio") : ANSWER.index("    margin")]
MARGIN = "chosen_ratio - rejected_ratio"


def both(passage, template):
    """A change of both lines of a passage; `{}` stands for chosen and rejected."""
    left = "{}_ratio" if passage is RATIOS else "{}"
    line = f"    {left} = {template}\n"
    return passage, "".join(line.replace("{}", side) for side in ("chosen", "rejected"))


def summing(template):
    return both(SUMS, template.replace("LOGPROBS", "policy_{}_logprobs").replace("MASK", "{}_mask"))


# (passage of ANSWER, its replacement, how the message starts)
MISTAKES = [
    (*summing("(LOGPROBS * MASK).sum(1) / MASK.sum(1)"), "Mean log-prob instead of the sum."),
    (*summing("LOGPROBS.mean(1)"), "Mean over all positions, padding too"),
    (*summing("(LOGPROBS * MASK).mean(1)"), "Mean over all positions instead of the sum"),
    (*summing("LOGPROBS.sum(1)"), "Mask ignored"),
    ("rejected_logprobs * rejected_mask", "rejected_logprobs * chosen_mask", "Rejected tokens sum"),
    (*summing("(LOGPROBS * MASK).sum()"), "Summed over the whole batch"),
    (*summing("LOGPROBS[torch.arange(len(MASK)), MASK.long().sum(1) - 1]"), "Only the last token"),
    (*summing("(LOGPROBS.exp() * MASK).sum(1)"), "Probabilities added up"),
    (*both(RATIOS, "{}"), "Reference terms missing"),
    ("chosen - ref_chosen", "chosen", "Reference term missing: ref_chosen"),
    ("rejected - ref_rejected", "rejected", "Reference term missing: ref_rejected"),
    (*both(RATIOS, "{} + ref_{}"), "Reference added"),
    (
        RATIOS,
        "    chosen_ratio, rejected_ratio = chosen - ref_rejected, rejected - ref_chosen\n",
        "Reference added (or ref_chosen and ref_rejected swapped)",
    ),
    (MARGIN, "chosen - ref_chosen - rejected - ref_rejected", "Sign of ref_rejected"),
    (*both(RATIOS, "{} / ref_{}"), "Log-probs divided"),
    (*both(RATIOS, "({} - ref_{}).exp()"), "Ratios instead of log-ratios"),
    (MARGIN, "rejected_ratio - chosen_ratio", "Sign flipped: chosen and rejected"),
    (MARGIN, "chosen_ratio", "No difference between chosen and rejected"),
    (MARGIN, "-rejected_ratio", "No difference between chosen and rejected"),
    (MARGIN, "chosen_ratio + rejected_ratio", "No difference between chosen and rejected"),
    (
        LOSS,
        "-(F.logsigmoid(beta * chosen_ratio) + F.logsigmoid(-beta * rejected_ratio)).mean()",
        "No difference between chosen and rejected",
    ),
    ("beta * margin", "margin", "beta not used"),
    (LOSS, "-beta * F.logsigmoid(margin).mean()", "beta outside the sigmoid"),
    (LOSS, "-(beta * F.logsigmoid(margin)).mean()", "beta outside the sigmoid"),
    ("beta * margin", "margin / beta", "Divided by beta"),
    (
        "beta * margin",
        "beta * (chosen - rejected) - (ref_chosen - ref_rejected)",
        "beta on the policy's terms only",
    ),
    ("beta * margin", "0.1 * margin", "beta ignored"),
    (LOSS, "-torch.sigmoid(beta * margin).mean()", "sigmoid without log"),
    (LOSS, "(1 - torch.sigmoid(beta * margin)).mean()", "sigmoid without log"),
    (LOSS, "-(beta * margin).mean()", "No sigmoid"),
    (LOSS, "-torch.sigmoid(beta * margin).log().mean()", "sigmoid (or softmax), then log"),
    (
        LOSS,
        "-torch.stack([beta * chosen_ratio, beta * rejected_ratio]).softmax(0)[0].log().mean()",
        "sigmoid (or softmax), then log",
    ),
    (LOSS, "-(torch.sigmoid(beta * margin) + 1e-8).log().mean()", "sigmoid (or softmax), then log"),
    (LOSS, "torch.log(1 + torch.exp(-beta * margin)).mean()", "sigmoid (or softmax), then log"),
    (
        LOSS,
        "F.binary_cross_entropy(torch.sigmoid(beta * margin), torch.ones(len(margin)))",
        "sigmoid (or softmax), then log",
    ),
    (LOSS, "-F.logsigmoid(beta * margin.mean())", "Mean before the log-sigmoid"),
    (").mean()", ").sum()", "Sum instead of mean"),
    ("-F.", "F.", "Minus missing"),
]

RIGHT = [
    (LOSS, LOSS),
    (LOSS, "F.softplus(-beta * margin).mean()"),
    (LOSS, "F.softplus(beta * rejected_ratio - beta * chosen_ratio).mean()"),
    (LOSS, "-torch.stack([beta * chosen_ratio, beta * rejected_ratio]).log_softmax(0)[0].mean()"),
    (LOSS, "F.binary_cross_entropy_with_logits(beta * margin, torch.ones(len(margin)))"),
    (LOSS, "sum(-F.logsigmoid(beta * m) for m in margin) / len(margin)"),
    (MARGIN, "(chosen - rejected) - (ref_chosen - ref_rejected)"),
    (MARGIN, "chosen - ref_chosen.detach() - rejected + ref_rejected.detach()"),
    summing("torch.where(MASK.bool(), LOGPROBS, 0.0).sum(-1)"),
    summing("LOGPROBS.masked_fill(MASK == 0, 0).sum(dim=1)"),
    summing("torch.stack([x[m.bool()].sum() for x, m in zip(LOGPROBS, MASK)])"),
    summing("torch.einsum('bt,bt->b', LOGPROBS, MASK)"),
]


@pytest.mark.parametrize(("old", "new"), RIGHT)
def test_right(verdict, mutant, old, new):
    assert verdict(check.dpo_loss, mutant(ANSWER, old, new)) == (
        "Correct: loss and gradients equal utils.losses.dpo_loss of the summed log-probs, on 4 "
        "batches."
    )


@pytest.mark.parametrize(("old", "new", "name"), MISTAKES)
def test_mistake_is_named(verdict, mutant, old, new, name):
    out = verdict(check.dpo_loss, mutant(ANSWER, old, new))
    assert out.startswith(f"Not yet. {name}"), out
    assert len([m for m in MESSAGES if m in out]) == 1, out
    assert re.search(r"On policy_chosen_logprobs = .* you returned (-?\d+\.\d{4}|inf);", out)


def test_every_message_has_a_test():
    starts = [name for *_, name in MISTAKES]
    assert [m for m in MESSAGES if not any(m.startswith(start) for start in starts)] == []


def test_the_example_can_be_checked_by_hand(verdict, mutant):
    out = verdict(check.dpo_loss, mutant(ANSWER, "beta * margin", "margin"))
    # Log-ratios -3 + 5 = 2 and -5 + 4 = -1 (chosen), -6 + 4 = -2 and -2 + 3 = 1 (rejected).
    margins = torch.tensor([4.0, -2.0])
    expected, got = (-F.logsigmoid(scale * margins).mean() for scale in (0.5, 1.0))
    assert out.endswith(
        "On policy_chosen_logprobs = [[-1.0, -2.0, -7.0], [-1.0, -1.0, -3.0]], chosen_mask = "
        "[[1.0, 1.0, 0.0], [1.0, 1.0, 1.0]], policy_rejected_logprobs = [[-2.0, -1.0, -3.0], "
        "[-2.0, -4.0, -9.0]], rejected_mask = [[1.0, 1.0, 1.0], [1.0, 0.0, 0.0]], ref_chosen = "
        "[-5.0, -4.0], ref_rejected = [-4.0, -3.0], beta = 0.5 you returned "
        f"{got:.4f}; expected {expected:.4f}."
    )


def test_the_underflow_is_shown_where_it_happens(verdict, mutant):
    late = "-torch.sigmoid(beta * margin).log().mean()"
    out = verdict(check.dpo_loss, mutant(ANSWER, LOSS, late))
    assert "policy_chosen_logprobs = [[-150.0, -70.0]]" in out
    assert out.endswith("you returned inf; expected 200.0000.")


@pytest.mark.parametrize("first", [both(RATIOS, "{}"), summing("LOGPROBS.sum(1)")])
@pytest.mark.parametrize("second", [("beta * margin", "margin"), (").mean()", ").sum()")])
def test_two_mistakes_at_once(verdict, mutant, first, second):
    singles = [verdict(check.dpo_loss, mutant(ANSWER, *change)) for change in (first, second)]
    named = {m for m in MESSAGES for out in singles if m in out}
    out = verdict(check.dpo_loss, mutant(ANSWER.replace(*first), *second))
    assert {m for m in MESSAGES if m in out} == named
    assert len(named) == 2


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (LOSS, "None", "Not attempted yet"),
        (LOSS, "...", "Not attempted yet"),
        (LOSS, "-F.logsigmoid(beta * margin)", "Wrong shape: expected (), you returned (2,)."),
        (LOSS, f"{LOSS}, {{}}", "Return 1 value(s), not 2."),
        (LOSS, LOSS + ".item()", "Return a tensor, not a Python float"),
        (LOSS, LOSS + ".detach()", "The value is right, but the result carries no gradient"),
        (
            "rejected - ref_rejected",
            "rejected.detach() - ref_rejected",
            "The value is right, but no gradient reaches policy_rejected_logprobs",
        ),
        (
            "    chosen_ratio",
            "    policy_chosen_logprobs *= chosen_mask\n    chosen_ratio",
            "The value is right, but your function overwrites its input policy_chosen_logprobs",
        ),
        (LOSS, LOSS + " * 1.5", "The result differs, in a way this check has no name for"),
    ],
)
def test_other_complaints(verdict, mutant, old, new, message):
    out = verdict(check.dpo_loss, mutant(ANSWER, old, new))
    assert out.removeprefix("Not yet. ").startswith(message), out


def test_tokens_minus_a_sequence_get_a_hint(verdict, mutant):
    source = ANSWER.replace(*both(RATIOS, "policy_{}_logprobs - ref_{}"))
    out = verdict(check.dpo_loss, mutant(source))
    assert out.startswith("Not yet. Your function raised RuntimeError: The size of tensor a (3)")
    assert out.endswith("sum the token log-probs of each row first, dim=1.")


# Single-point changes of the answer that nobody would give a name.
MUTANTS = [
    ("chosen - ref_chosen", "chosen - 2 * ref_chosen"),
    ("chosen - ref_chosen", "chosen - ref_chosen.mean()"),
    ("rejected - ref_rejected", "rejected - ref_rejected.flip(0)"),
    ("beta * margin", "beta * margin.abs()"),
    ("beta * margin", "beta * margin - 1"),
    ("beta * margin", "beta ** 2 * margin"),
    ("beta * margin", "(beta * margin).clamp(min=-50)"),
    ("logsigmoid", "tanh"),
    (").mean()", ").median()"),
    (").mean()", ").max()"),
    (").mean()", ")[0]"),
    (").mean()", ").sum() / 2"),
    ("policy_chosen_logprobs * chosen_mask", "policy_chosen_logprobs"),
    ("policy_rejected_logprobs * rejected_mask", "policy_rejected_logprobs"),
    (").sum(1)\n    rejected = ", ").mean(1)\n    rejected = "),
    ("chosen - ref_chosen", "chosen.detach() - ref_chosen"),
]


@pytest.mark.parametrize(("old", "new"), MUTANTS)
def test_mutants_are_rejected(verdict, mutant, old, new):
    assert verdict(check.dpo_loss, mutant(ANSWER, old, new)).startswith("Not yet. ")
