import re

import pytest
import torch
import torch.nn.functional as F

from exercises import check, lesson02

MESSAGES = {m for values in lesson02._BRADLEY_TERRY_MISTAKES.values() for m in values.values()}

# What learners write: the score at the last token of each row, one loss a pair, the mean.
ANSWER = """
def answer(chosen_scores, chosen_mask, rejected_scores, rejected_mask):
    rows = torch.arange(len(chosen_scores))
    chosen = chosen_scores[rows, chosen_mask.sum(1) - 1]
    rejected = rejected_scores[rows, rejected_mask.sum(1) - 1]
    return -F.logsigmoid(chosen - rejected).mean()
"""
LOSS = "-F.logsigmoid(chosen - rejected).mean()"
BODY = ANSWER[ANSWER.index("    chosen = ") : ANSWER.index("    return")]


def reading(template):
    """A change of both lines that read a reward; `{}` stands for chosen and rejected."""
    lines = [f"    {side} = {template.replace('{}', side)}\n" for side in ("chosen", "rejected")]
    return BODY, "".join(lines)


# (passage of ANSWER, its replacement, how the message starts)
MISTAKES = [
    (*reading("{}_scores[:, -1]"), "Reward read at a padding position: the last column."),
    (
        *reading("F.pad({}_scores, (0, 1), mode='replicate')[rows, {}_mask.sum(1)]"),
        "Reward read at a padding position: one after the last token.",
    ),
    (*reading("{}_scores[rows, {}_mask.sum(1) - 2]"), "Reward read one position too early."),
    (*reading("{}_scores[:, 0]"), "Reward read at the first token."),
    (*reading("({}_scores * {}_mask).sum(1) / {}_mask.sum(1)"), "Mean over the tokens"),
    (*reading("{}_scores.mean(1)"), "Mean over all positions, padding too"),
    (*reading("({}_scores * {}_mask).sum(1)"), "Sum over the tokens"),
    (*reading("{}_scores.sum(1)"), "Sum over all positions, padding too"),
    (*reading("{}_scores"), "Compared token by token"),
    (*reading("{}_scores[chosen_mask.bool()]"), "Compared token by token"),
    (*reading("{}_scores[(chosen_mask * rejected_mask).bool()]"), "Compared token by token"),
    ("rejected_mask.sum", "chosen_mask.sum", "Rejected answer read where the chosen one ends"),
    ("chosen - rejected", "rejected - chosen", "Sign flipped: chosen and rejected"),
    ("chosen - rejected", "chosen", "No difference taken"),
    ("chosen - rejected", "-rejected", "No difference taken"),
    ("chosen - rejected", "chosen + rejected", "No difference taken"),
    ("chosen - rejected", "chosen / rejected", "No difference taken"),
    (LOSS, "-(F.logsigmoid(chosen) + F.logsigmoid(-rejected)).mean()", "No difference taken"),
    (LOSS, "-(F.logsigmoid(chosen) - F.logsigmoid(rejected)).mean()", "No difference taken"),
    ("= rejected_scores[rows, rejected", "= chosen_scores[rows, chosen", "Both rewards come from"),
    (LOSS, "-torch.sigmoid(chosen - rejected).mean()", "sigmoid without log"),
    (LOSS, "(1 - torch.sigmoid(chosen - rejected)).mean()", "sigmoid without log"),
    (LOSS, "-(chosen - rejected).mean()", "No sigmoid"),
    (LOSS, "-torch.sigmoid(chosen - rejected).log().mean()", "sigmoid, then log"),
    (LOSS, "-(torch.sigmoid(chosen - rejected) + 1e-8).log().mean()", "sigmoid, then log"),
    (LOSS, "-torch.sigmoid(chosen - rejected).clamp(1e-12).log().mean()", "sigmoid, then log"),
    (LOSS, "torch.log(1 + torch.exp(rejected - chosen)).mean()", "sigmoid, then log"),
    (
        LOSS,
        "F.binary_cross_entropy(torch.sigmoid(chosen - rejected), torch.ones(len(rows)))",
        "sigmoid, then log",
    ),
    (LOSS, "-F.logsigmoid((chosen - rejected).mean())", "Mean before the log-sigmoid"),
    (LOSS, "-F.logsigmoid(chosen.mean() - rejected.mean())", "Mean before the log-sigmoid"),
    (LOSS, "-torch.sigmoid(chosen - rejected).mean().log()", "Mean before the log:"),
    (").mean()", ").sum()", "Sum instead of mean"),
    ("-F.", "F.", "Minus missing"),
]

RIGHT = [
    LOSS,
    "F.softplus(rejected - chosen).mean()",
    "-(chosen - torch.logaddexp(chosen, rejected)).mean()",
    "-torch.stack([chosen, rejected], 1).log_softmax(1)[:, 0].mean()",
    "F.binary_cross_entropy_with_logits(chosen - rejected, torch.ones(len(rows)))",
    "sum(-F.logsigmoid(c - r) for c, r in zip(chosen, rejected)) / len(rows)",
]
READS = [
    "{}_scores[rows, {}_mask.sum(1) - 1]",
    "{}_scores.gather(1, {}_mask.sum(1, keepdim=True) - 1).squeeze(1)",
    "{}_scores[rows, {}_mask.cumsum(1).argmax(1)]",
    "torch.stack([s[m.bool()][-1] for s, m in zip({}_scores, {}_mask)])",
    "({}_scores * ({}_mask - F.pad({}_mask[:, 1:], (0, 1)))).sum(1)",
]


@pytest.mark.parametrize("loss", RIGHT)
def test_right(verdict, mutant, loss):
    out = verdict(check.bradley_terry_loss, mutant(ANSWER, LOSS, loss))
    assert out == (
        "Correct: loss and gradients equal utils.losses.bradley_terry_loss of the scores at the "
        "last tokens, on 4 batches."
    )


@pytest.mark.parametrize("read", READS)
def test_right_ways_to_read_the_last_token(verdict, mutant, read):
    assert verdict(check.bradley_terry_loss, mutant(ANSWER, *reading(read))).startswith("Correct")


@pytest.mark.parametrize(("old", "new", "name"), MISTAKES)
def test_mistake_is_named(verdict, mutant, old, new, name):
    out = verdict(check.bradley_terry_loss, mutant(ANSWER, old, new))
    assert out.startswith(f"Not yet. {name}"), out
    assert len([m for m in MESSAGES if m in out]) == 1, out
    assert re.search(r"On chosen_scores = .* you returned (-?\d+\.\d{4}|inf|nan); expected", out)


def test_the_example_can_be_checked_by_hand(verdict, mutant):
    out = verdict(check.bradley_terry_loss, mutant(ANSWER, *reading("{}_scores[:, -1]")))
    # The last tokens score 3 and 1 (chosen), 1 and 2 (rejected); the last columns -4, 1 and 1, 6.
    expected, read = -F.logsigmoid(torch.tensor([[2.0, -1.0], [-5.0, -5.0]])).mean(1)
    assert out.endswith(
        "On chosen_scores = [[1.0, 3.0, -4.0], [5.0, -2.0, 1.0]], chosen_mask = [[1, 1, 0], "
        "[1, 1, 1]], rejected_scores = [[4.0, -1.0, 1.0], [-3.0, 2.0, 6.0]], rejected_mask = "
        f"[[1, 1, 1], [1, 1, 0]] you returned {read:.4f}; expected {expected:.4f}."
    )


def test_the_underflow_is_shown_where_it_happens(verdict, mutant):
    out = verdict(
        check.bradley_terry_loss,
        mutant(ANSWER, LOSS, "-torch.sigmoid(chosen - rejected).log().mean()"),
    )
    assert "chosen_scores = [[1.0, -100.0]]" in out
    assert out.endswith("you returned inf; expected 200.0000.")


def test_two_mistakes_at_once(verdict, mutant):
    old, new = reading("{}_scores[:, -1]")
    source = ANSWER.replace(old, new)
    out = verdict(check.bradley_terry_loss, mutant(source, ").mean()", ").sum()"))
    assert out.startswith("Not yet. Reward read at a padding position: the last column.")
    assert "Sum instead of mean" in out


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (LOSS, "-F.logsigmoid(chosen - rejected)", "Wrong shape: expected (), you returned (2,)."),
        (LOSS, LOSS + ".item()", "Return a tensor, not a Python float"),
        (LOSS, LOSS + ".detach()", "The value is right, but the result carries no gradient"),
        (
            "chosen - rejected",
            "chosen - rejected.detach()",
            "The value is right, but no gradient reaches rejected_scores",
        ),
        ("chosen_mask.sum(1) - 1", "chosen_mask.sum(1)", "Your function raised IndexError"),
        (
            "rejected = rejected_scores",
            "rejected = torch.stack([chosen_scores, rejected_scores])[1]",
            "Your function raised RuntimeError: stack expects each tensor to be equal size",
        ),
    ],
)
def test_other_complaints(verdict, mutant, old, new, message):
    out = verdict(check.bradley_terry_loss, mutant(ANSWER, old, new))
    assert out.startswith(f"Not yet. {message}"), out
    if "IndexError" in message:
        assert out.endswith("The last token of a row stands at position mask.sum(1) - 1.")


# Single-point changes of the answer that nobody would give a name.
MUTANTS = [
    ("chosen_mask.sum(1) - 1", "chosen_mask.sum(1) - 2"),
    ("rejected_mask.sum(1) - 1", "rejected_mask.sum(1) - 2"),
    ("chosen_mask.sum(1) - 1", "-1"),
    ("rejected_mask.sum(1) - 1", "-1"),
    ("chosen_mask.sum(1) - 1", "chosen_mask.sum(1) * 0"),
    ("chosen_mask.sum(1) - 1", "chosen_mask.sum() - 1"),
    ("chosen_mask.sum(1) - 1", "rejected_mask.sum(1) - 1"),
    ("chosen_mask.sum(1) - 1", "chosen_mask.argmax(1)"),
    ("rejected_mask.sum(1) - 1", "rejected_mask.argmin(1)"),
    ("chosen - rejected", "2 * (chosen - rejected)"),
    ("chosen - rejected", "(chosen - rejected).abs()"),
    ("chosen - rejected", "(chosen - rejected).clamp(min=-50)"),
    ("chosen - rejected", "chosen - rejected - 1"),
    ("chosen - rejected", "chosen - rejected.mean()"),
    ("chosen - rejected", "chosen - rejected.flip(0)"),
    ("chosen - rejected", "chosen.detach() - rejected"),
    ("chosen - rejected", "chosen - rejected.detach()"),
    ("logsigmoid", "tanh"),
    ("logsigmoid", "relu"),
    (").mean()", ").median()"),
    (").mean()", ").max()"),
    (").mean()", ").sum() / 2"),
    (").mean()", ")[0]"),
]


@pytest.mark.parametrize(("old", "new"), MUTANTS)
def test_mutants_are_rejected(verdict, mutant, old, new):
    assert verdict(check.bradley_terry_loss, mutant(ANSWER, old, new)).startswith("Not yet. ")
