"""Submissions to the exercises of lesson 02."""

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

HEAD = """
def answer(states, mask, weight):
    scores = (states * weight).sum(2)
    rows = torch.arange(len(mask))
    last = mask.sum(1) - 1
    return scores[rows, last]
"""
_SCORES, _READ = "(states * weight).sum(2)", "scores[rows, last]"

_RIGHT_HEAD = [
    ("", ""),
    (_SCORES, "F.linear(states, weight).squeeze(-1)"),
    (_READ, "scores.gather(1, last[:, None])[:, 0]"),
    (_READ, "torch.stack([s[m.bool()][-1] for s, m in zip(scores, mask)])"),
    (_READ, "states[rows, last] @ weight[0]"),
]

_WRONG_HEAD = [
    (_READ, "scores[:, -1]", "Reward read at a padding position: the last column."),
    (
        _READ,
        "F.pad(scores, (0, 1), mode='replicate')[rows, mask.sum(1)]",
        "Reward read one position too late",
    ),
    ("mask.sum(1) - 1", "mask.sum(1) - 2", "Reward read one position too early."),
    (_READ, "scores[:, 0]", "Reward read at the first token."),
    (_READ, "scores[:, last]", "Rows and positions mixed up"),
    (_READ, "scores[rows, mask.sum(1).max() - 1]", "Every row read where the longest"),
    (_READ, "(scores * mask).sum(1) / mask.sum(1)", "Mean over the tokens"),
    (_READ, "scores.mean(1)", "Mean over all positions, padding too"),
    (_READ, "(scores * mask).sum(1)", "Sum over the tokens"),
    (_READ, "scores.max(1).values", "The largest score"),
    (_READ, "(scores * mask).max(1).values", "The largest score"),
    (_READ, "torch.where(mask == 1, scores, -torch.inf).max(1).values", "The largest score"),
    (_READ, "scores", "A score for each token"),
    (_READ, "torch.sigmoid(scores[rows, last])", "Squeezed through a sigmoid"),
    (_READ, "-scores[rows, last]", "Minus too many"),
    (_SCORES, "states.sum(-1)", "The head is not applied"),
    (_READ, "(states @ weight.T)[rows, last]", "One dimension too many"),
]

_MUTANTS_HEAD = [
    (_SCORES, "(states + weight).sum(2)"),
    (_SCORES, "(states * weight).mean(2)"),
    (_SCORES, "(states.detach() * weight).sum(2)"),
    (_READ, "2 * scores[rows, last]"),
    (_READ, "scores[rows, last] - scores.mean()"),
    (_READ, "scores[rows, mask.argmin(1)]"),
]

BEST = """
def answer(rewards, verdicts, n):
    groups, right = rewards.reshape(-1, n), verdicts.reshape(-1, n)
    picked = groups.max(1).indices
    return right[torch.arange(len(right)), picked].mean()
"""
_GROUPS = "rewards.reshape(-1, n), verdicts.reshape(-1, n)"
_SHARE = "right[torch.arange(len(right)), picked].mean()"

_RIGHT_BEST = [
    ("", ""),
    ("groups.max(1).indices", "groups.sort(1).indices[:, -1]"),
    (_SHARE, "right[F.one_hot(picked, n).bool()].mean()"),
    (_SHARE, "sum(r[p] for r, p in zip(right, picked)) / len(right)"),
]
_WRONG_BEST = [
    (_SHARE, "right.max(1).values.mean()", "The oracle"),
    (_SHARE, "right.mean()", "A random choice"),
    ("groups.max(1).indices", "groups.min(1).indices", "The lowest reward picked"),
    (_SHARE, "groups.max(1).values.mean()", "The highest reward returned"),
    (_SHARE, "picked.float().mean()", "The place of the best answer returned"),
    (_GROUPS, "rewards, verdicts", "n ignored"),
    (_GROUPS, "rewards[:, :n], verdicts[:, :n]", "Only the first n answers"),
    (_GROUPS, "rewards.reshape(n, -1).T, verdicts.reshape(n, -1).T", "Groups mixed up"),
    (
        "    return " + _SHARE,
        "    return right.gather(1, groups.argmax(0, keepdim=True)).mean()",
        "Best over the wrong dimension",
    ),
    (_SHARE, "verdicts.flatten()[picked].mean()", "The place inside its group"),
    (_SHARE, "right[:, picked].mean()", "Rows and places mixed up"),
    (_SHARE, "right[picked].mean()", "Rows and places mixed up"),
    (_SHARE, "right[torch.arange(len(right)), picked].sum()", "Sum instead of mean"),
    (_SHARE, "right[torch.arange(len(right)), picked]", "One number for each group"),
]
_MUTANTS_BEST = [
    (_SHARE, "right[torch.arange(len(right)), picked].max()"),
    (_SHARE, "right[torch.arange(len(right)), picked - 1].mean()"),
    (_SHARE, "1 - right[torch.arange(len(right)), picked].mean()"),
    ("groups.max(1).indices", "groups.abs().max(1).indices"),
]

ERROR = """
def answer(stated, right, bins):
    total = 0.0
    for b in range(bins):
        low, high = b / bins, (b + 1) / bins
        inside = (stated >= low) & ((stated < high) | (b == bins - 1))
        if inside.sum() == 0:
            continue
        gap = (stated[inside].mean() - right[inside].mean()).abs()
        total += inside.sum() / len(stated) * gap
    return total
"""
_EMPTY = """        if inside.sum() == 0:
            continue
"""
_STEP = "total += inside.sum() / len(stated) * gap"

_RIGHT_ERROR = [
    ("", ""),
    ("(stated[inside].mean() - right[inside].mean())", "(stated[inside] - right[inside]).mean()"),
    ("inside.sum() / len(stated) * gap", "inside.double().mean() * gap"),
    ("low, high = b / bins, (b + 1) / bins", "low, high = torch.tensor([b, b + 1]) / bins"),
]
_INSIDE = "(stated >= low) & ((stated < high) | (b == bins - 1))"
_WRONG_ERROR = [
    (_INSIDE, "(stated > low) & (stated <= high)", "A stated probability of exactly 0"),
    (_INSIDE, "(stated >= low) & (stated <= high)", "A stated probability on an edge"),
    (_EMPTY, "", "Empty bins"),
    (_STEP, "total += gap / bins", "All bins weighted alike"),
    (_STEP, "total += gap", "Summed over bins without"),
    (_STEP, "total += inside.sum() * gap", "Numbers of pairs in place of shares"),
    (").abs()", ")", "Signs kept"),
    (").abs()", ").square()", "Squared gaps"),
    (_STEP, "total = max(total, gap)", "The largest gap only"),
    (" | (b == bins - 1)", "", "A stated probability of exactly 1"),
    ("(stated[inside].mean()", "((low + high) / 2", "The middle of the bin"),
    ("return total", "return (stated - right).abs().mean()", "Distance of each pair"),
    ("return total", "return ((stated - right) ** 2).mean()", "Squared distance"),
    ("return total", "return abs(stated.mean() - right.mean())", "One bin for all"),
]
_BY_ROUNDING = """
def answer(stated, right, bins):
    which = torch.clamp(torch.round(stated * bins), max=bins - 1)
    total = 0.0
    for b in which.unique():
        inside = which == b
        gap = (stated[inside].mean() - right[inside].mean()).abs()
        total += inside.sum() / len(stated) * gap
    return total
"""
_MUTANTS_ERROR = [
    (_STEP, "total += inside.sum() / len(stated) * 2 * gap"),
    ("(stated[inside].mean() - right", "(stated[inside].median() - right"),
    ("range(bins)", "range(1, bins)"),
    ("return total", "return 1 - total"),
]

RIGHT = {
    "best_of_n": edits(BEST, _RIGHT_BEST),
    "bradley_terry_loss": [
        *edits(ANSWER, [(LOSS, loss) for loss in _LOSSES]),
        *edits(ANSWER, [reading(read) for read in _READS]),
        *edits(ANSWER, [("chosen - rejected", "chosen.double() - rejected.double()")]),
    ],
    "calibration_error": edits(ERROR, _RIGHT_ERROR),
    "rewards": edits(HEAD, _RIGHT_HEAD),
}
WRONG = {
    "best_of_n": edits(BEST, _WRONG_BEST),
    "bradley_terry_loss": edits(ANSWER, _WRONG),
    "calibration_error": [
        *edits(ERROR, _WRONG_ERROR),
        (_BY_ROUNDING, "Bins cut by rounding"),
    ],
    "rewards": edits(HEAD, _WRONG_HEAD),
}
MUTANTS = {
    "best_of_n": edits(BEST, _MUTANTS_BEST),
    "bradley_terry_loss": edits(ANSWER, _MUTANTS),
    "calibration_error": edits(ERROR, _MUTANTS_ERROR),
    "rewards": edits(HEAD, _MUTANTS_HEAD),
}
