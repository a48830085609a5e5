"""Submissions to the exercise of lesson 02."""

from submissions import edits

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
_WRONG = [
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
    (LOSS, "-torch.sigmoid(chosen - rejected).log().mean()", "sigmoid (or softmax), then log"),
    (
        LOSS,
        "-(torch.sigmoid(chosen - rejected) + 1e-8).log().mean()",
        "sigmoid (or softmax), then log",
    ),
    (
        LOSS,
        "-torch.sigmoid(chosen - rejected).clamp(1e-12).log().mean()",
        "sigmoid (or softmax), then log",
    ),
    (LOSS, "torch.log(1 + torch.exp(rejected - chosen)).mean()", "sigmoid (or softmax), then log"),
    (
        LOSS,
        "F.binary_cross_entropy(torch.sigmoid(chosen - rejected), torch.ones(len(rows)))",
        "sigmoid (or softmax), then log",
    ),
    (LOSS, "-F.logsigmoid((chosen - rejected).mean())", "Mean before the log-sigmoid"),
    (LOSS, "-F.logsigmoid(chosen.mean() - rejected.mean())", "Mean before the log-sigmoid"),
    (LOSS, "-torch.sigmoid(chosen - rejected).mean().log()", "Mean before the log:"),
    (").mean()", ").sum()", "Sum instead of mean"),
    ("-F.", "F.", "Minus missing"),
    (*reading("{}_scores[:, {}_mask.sum(1) - 1]"), "Rows and positions mixed up"),
    (*reading("({}_scores * {}_mask).mean(1)"), "Mean over all positions"),
    (
        LOSS,
        "-torch.sigmoid(chosen - rejected).clamp(min=1e-7).log().mean()",
        "sigmoid (or softmax), then log",
    ),
    (
        LOSS,
        "-(torch.sigmoid(chosen - rejected) + 1e-6).log().mean()",
        "sigmoid (or softmax), then log",
    ),
    (
        LOSS,
        "-(chosen.exp() / (chosen.exp() + rejected.exp())).log().mean()",
        "sigmoid (or softmax), then log",
    ),
]

_LOSSES = [
    LOSS,
    "F.softplus(rejected - chosen).mean()",
    "-(chosen - torch.logaddexp(chosen, rejected)).mean()",
    "-torch.stack([chosen, rejected], 1).log_softmax(1)[:, 0].mean()",
    "F.binary_cross_entropy_with_logits(chosen - rejected, torch.ones(len(rows)))",
    "sum(-F.logsigmoid(c - r) for c, r in zip(chosen, rejected)) / len(rows)",
]
_READS = [
    "{}_scores[rows, {}_mask.sum(1) - 1]",
    "{}_scores.gather(1, {}_mask.sum(1, keepdim=True) - 1).squeeze(1)",
    "{}_scores[rows, {}_mask.cumsum(1).argmax(1)]",
    "torch.stack([s[m.bool()][-1] for s, m in zip({}_scores, {}_mask)])",
    "({}_scores * ({}_mask - F.pad({}_mask[:, 1:], (0, 1)))).sum(1)",
]


# Single-point changes that nobody would give a name.
_MUTANTS = [
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

RIGHT = {
    "bradley_terry_loss": [
        *edits(ANSWER, [(LOSS, loss) for loss in _LOSSES]),
        *edits(ANSWER, [reading(read) for read in _READS]),
        *edits(ANSWER, [("chosen - rejected", "chosen.double() - rejected.double()")]),
    ]
}
WRONG = {"bradley_terry_loss": edits(ANSWER, _WRONG)}
MUTANTS = {"bradley_terry_loss": edits(ANSWER, _MUTANTS)}
