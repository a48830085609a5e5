"""Submissions to the exercise of lesson 04."""

from submissions import edits

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
_WRONG = [
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
    ("beta * margin", "beta * chosen_ratio - rejected_ratio", "beta on the chosen side only"),
    ("beta * margin", "chosen_ratio - beta * rejected_ratio", "beta on the rejected side only"),
    (*both(RATIOS, "({} - ref_{}) / {}_mask.sum(1)"), "Log-ratios divided by the length"),
    (*both(RATIOS, "({}.exp() / ref_{}.exp()).log()"), "Probabilities divided"),
    (
        LOSS,
        "-torch.sigmoid(beta * margin).clamp(min=1e-7).log().mean()",
        "sigmoid (or softmax), then log",
    ),
    (LOSS, "-torch.sigmoid(beta * margin).mean().log()", "Mean before the log:"),
]

_RIGHT = [
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


_MUTANTS = [
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

RIGHT = {
    "dpo_loss": edits(ANSWER, [*_RIGHT, ("beta * margin", "beta * margin.double()")]),
}
WRONG = {"dpo_loss": edits(ANSWER, _WRONG)}
MUTANTS = {"dpo_loss": edits(ANSWER, _MUTANTS)}
