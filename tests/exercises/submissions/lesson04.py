"""Submissions to the exercises of lesson 04."""

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

LOGPROB_SUM = """
def answer(logits, input_ids, completion_mask):
    log_p = logits.log_softmax(-1)[:, :-1]
    token = log_p.gather(2, input_ids[:, 1:].unsqueeze(2)).squeeze(2)
    mask = completion_mask[:, 1:]
    return (token * mask).sum(1)
"""
_TOKEN = "log_p.gather(2, input_ids[:, 1:].unsqueeze(2)).squeeze(2)"
_RIGHT_SUM = [
    ("", ""),
    ("(token * mask).sum(1)", "torch.where(mask.bool(), token, 0.0).sum(-1)"),
    ("(token * mask).sum(1)", "torch.einsum('bt,bt->b', token, mask)"),
    ("(token * mask).sum(1)", "torch.stack([t[m.bool()].sum() for t, m in zip(token, mask)])"),
    (_TOKEN, "(log_p * F.one_hot(input_ids[:, 1:], log_p.shape[-1])).sum(-1)"),
    (
        _TOKEN,
        "-F.cross_entropy(logits[:, :-1].transpose(1, 2), input_ids[:, 1:], reduction='none')",
    ),
    (
        "logits.log_softmax(-1)[:, :-1]",
        "(logits - logits.logsumexp(-1, keepdim=True))[:, :-1]",
    ),
]
_WRONG_SUM = [
    (
        LOGPROB_SUM[LOGPROB_SUM.index("    log_p") : LOGPROB_SUM.index("    return")],
        "    log_p = logits.log_softmax(-1)\n"
        "    token = log_p.gather(2, input_ids.unsqueeze(2)).squeeze(2)\n"
        "    mask = completion_mask\n",
        "No shift by one",
    ),
    (
        LOGPROB_SUM[LOGPROB_SUM.index("    log_p") : LOGPROB_SUM.index("    return")],
        "    log_p = logits.log_softmax(-1)[:, 1:]\n"
        "    token = log_p.gather(2, input_ids[:, :-1].unsqueeze(2)).squeeze(2)\n"
        "    mask = completion_mask[:, :-1]\n",
        "Shift the wrong way round",
    ),
    ("completion_mask[:, 1:]", "completion_mask[:, :-1]", "Mask not shifted"),
    ("token * mask", "token", "Mask ignored"),
    ("completion_mask[:, 1:]", "(completion_mask[:, 1:] == 0)", "Mask upside down"),
    (".sum(1)", ".sum(1) / mask.sum(1)", "Mean log-prob instead"),
    (".sum(1)", ".mean(1)", "Mean over all positions"),
    (".sum(1)", ".sum()", "Summed over the whole batch"),
    (".sum(1)", ".sum(0)", "Summed over the rows"),
    ("(token * mask).sum(1)", "token * mask", "Not summed"),
    ("(token * mask)", "-(token * mask)", "Sign flipped"),
    ("logits.log_softmax(-1)", "logits", "Logits instead"),
    ("log_softmax(-1)", "softmax(-1)", "Probabilities instead"),
    ("log_softmax(-1)", "softmax(-1).log()", "softmax, then log"),
    ("logits.log_softmax(-1)", "(logits.softmax(-1) + 1e-8).log()", "softmax, then log"),
    (_TOKEN, "log_p.max(-1).values", "The most likely token"),
    ("logits.log_softmax(-1)[:, :-1]", "logits[:, :-1].log_softmax(1)", "softmax over the posi"),
]
_MUTANTS_SUM = [
    (".sum(1)", ".sum(1) * 2"),
    (".sum(1)", ".sum(1).detach()"),
    (".sum(1)", ".sum(1).clamp(min=-50)"),
    (".sum(1)", ".cumsum(1)[:, 0]"),
    ("token * mask", "token * mask.cumsum(1)"),
    ("token * mask", "token.abs() * mask"),
    ("log_softmax(-1)", "log_softmax(0)"),
    ("log_softmax(-1)", "mul(2).log_softmax(-1)"),
]

IMPLICIT = """
def answer(policy_logprobs, ref_logprobs, mask, beta):
    policy = (policy_logprobs * mask).sum(1)
    ref = (ref_logprobs * mask).sum(1)
    return beta * (policy - ref)
"""
_RIGHT_IMPLICIT = [
    ("", ""),
    ("beta * (policy - ref)", "beta * policy - beta * ref"),
    ("(policy_logprobs * mask).sum(1)", "torch.where(mask > 0, policy_logprobs, 0.0).sum(1)"),
    ("(policy_logprobs * mask).sum(1)", "policy_logprobs.masked_fill(mask == 0, 0).sum(-1)"),
    ("policy - ref", "policy - ref.detach()"),
    ("policy - ref", "policy.double() - ref"),
]
_WRONG_IMPLICIT = [
    ("policy - ref", "policy", "Reference missing"),
    ("policy - ref", "ref", "Policy missing"),
    ("policy - ref", "ref - policy", "Sign flipped"),
    ("policy - ref", "policy + ref", "Log-probs added"),
    ("beta * (policy - ref)", "beta * (policy - ref).exp()", "Ratio instead of log-ratio"),
    ("beta * (policy - ref)", "policy - ref", "beta not used"),
    ("beta * (policy - ref)", "(policy - ref) / beta", "Divided by beta"),
    ("beta * (policy - ref)", "beta * policy - ref", "beta on the policy's side"),
    ("policy - ref", "(policy - ref) / mask.sum(1)", "Mean over the tokens"),
    ("policy - ref", "(policy - ref) / mask.shape[1]", "Mean over all positions"),
    ("beta * (policy - ref)", "beta * (policy - ref).sum()", "Summed over the whole batch"),
    (
        "beta * (policy - ref)",
        "beta * (policy_logprobs - ref_logprobs).sum(1)",
        "Mask ignored",
    ),
    (
        "beta * (policy - ref)",
        "beta * ((policy_logprobs / ref_logprobs) * mask).sum(1)",
        "Log-probs divided",
    ),
    (
        "beta * (policy - ref)",
        "beta * ((policy_logprobs.exp() - ref_logprobs.exp()) * mask).sum(1)",
        "Probabilities subtracted",
    ),
    (
        "beta * (policy - ref)",
        "beta * (policy_logprobs - ref_logprobs) * mask",
        "Not summed",
    ),
]
_MUTANTS_IMPLICIT = [
    ("policy - ref", "(policy - ref).abs()"),
    ("policy - ref", "policy - 2 * ref"),
    ("policy - ref", "policy - ref.mean()"),
    ("policy - ref", "(policy - ref).clamp(min=-1)"),
    ("policy - ref", "(policy - ref).detach()"),
    ("beta * (", "beta ** 2 * ("),
]

DPOP = """
def answer(chosen_log_ratio, rejected_log_ratio, beta, dpop_lambda):
    lost = F.relu(-chosen_log_ratio)
    margin = beta * (chosen_log_ratio - rejected_log_ratio)
    return -F.logsigmoid(margin - beta * dpop_lambda * lost).mean()
"""
_DPOP_LOSS = "-F.logsigmoid(margin - beta * dpop_lambda * lost).mean()"
_RIGHT_DPOP = [
    ("", ""),
    ("F.relu(-chosen_log_ratio)", "torch.clamp(-chosen_log_ratio, min=0)"),
    ("F.relu(-chosen_log_ratio)", "-torch.clamp(chosen_log_ratio, max=0)"),
    ("F.relu(-chosen_log_ratio)", "(chosen_log_ratio.abs() - chosen_log_ratio) / 2"),
    (_DPOP_LOSS, "F.softplus(beta * dpop_lambda * lost - margin).mean()"),
    (
        "F.relu(-chosen_log_ratio)",
        "torch.where(chosen_log_ratio < 0, -chosen_log_ratio, torch.zeros_like(chosen_log_ratio))",
    ),
]
_WRONG_DPOP = [
    (
        "F.relu(-chosen_log_ratio)",
        "F.relu(chosen_log_ratio)",
        "Penalty for a chosen answer that became",
    ),
    ("F.relu(-chosen_log_ratio)", "F.relu(-rejected_log_ratio)", "Penalty on the rejected answer"),
    ("F.relu(-chosen_log_ratio)", "-chosen_log_ratio", "No max(0, ...)"),
    ("F.relu(-chosen_log_ratio)", "torch.clamp(-chosen_log_ratio, max=0)", "min instead of max"),
    (
        "F.relu(-chosen_log_ratio)",
        "F.relu(rejected_log_ratio - chosen_log_ratio)",
        "The whole margin",
    ),
    ("F.relu(-chosen_log_ratio)", "F.relu(-chosen_log_ratio) ** 2", "Penalty squared"),
    ("margin - beta * dpop", "margin + beta * dpop", "Penalty added"),
    ("margin - beta * dpop_lambda * lost", "margin", "Penalty left out"),
    ("beta * dpop_lambda * lost", "beta * lost", "lambda not used"),
    ("beta * dpop_lambda * lost", "dpop_lambda * lost", "beta not on the penalty"),
    ("margin - beta * dpop_lambda * lost", "beta * (margin - dpop_lambda * lost)", "beta twice."),
    (
        _DPOP_LOSS,
        "(beta * dpop_lambda * lost - F.logsigmoid(margin)).mean()",
        "Penalty outside the sigmoid",
    ),
    (
        "chosen_log_ratio - rejected_log_ratio",
        "rejected_log_ratio - chosen_log_ratio",
        "Chosen and rejected swap",
    ),
    (").mean()", ").sum()", "Sum instead of mean"),
    ("-F.logsigmoid", "F.logsigmoid", "Minus missing"),
    ("-F.logsigmoid(", "-torch.sigmoid(", "sigmoid without log"),
    (
        DPOP[DPOP.index("    margin") :],
        "    margin = chosen_log_ratio - rejected_log_ratio - dpop_lambda * lost\n"
        "    return -F.logsigmoid(margin).mean()\n",
        "beta not used",
    ),
    (_DPOP_LOSS, "-(margin - beta * dpop_lambda * lost).mean()", "No sigmoid"),
    (
        _DPOP_LOSS,
        "-torch.sigmoid(margin - beta * dpop_lambda * lost).log().mean()",
        "sigmoid (or softmax), then log",
    ),
    (
        _DPOP_LOSS,
        "-F.logsigmoid((margin - beta * dpop_lambda * lost).mean())",
        "Mean before the log-sigmoid",
    ),
    (
        _DPOP_LOSS,
        "-torch.sigmoid(margin - beta * dpop_lambda * lost).mean().log()",
        "Mean before the log:",
    ),
]
_MUTANTS_DPOP = [
    ("F.relu(-chosen_log_ratio)", "F.relu(-chosen_log_ratio).detach()"),
    ("F.relu(-chosen_log_ratio)", "F.softplus(-chosen_log_ratio)"),
    ("F.relu(-chosen_log_ratio)", "F.relu(1 - chosen_log_ratio)"),
    ("beta * dpop_lambda * lost", "beta * (dpop_lambda + 1) * lost"),
    (").mean()", ").median()"),
]

RIGHT = {
    "dpo_loss": edits(ANSWER, [*_RIGHT, ("beta * margin", "beta * margin.double()")]),
    "logprob_sum": edits(LOGPROB_SUM, _RIGHT_SUM),
    "implicit_reward": edits(IMPLICIT, _RIGHT_IMPLICIT),
    "dpop_loss": edits(DPOP, _RIGHT_DPOP),
}
WRONG = {
    "dpo_loss": edits(ANSWER, [*_WRONG, ("beta * margin", "beta * beta * margin", "beta twice:")]),
    "logprob_sum": edits(LOGPROB_SUM, _WRONG_SUM),
    "implicit_reward": edits(IMPLICIT, _WRONG_IMPLICIT),
    "dpop_loss": edits(DPOP, _WRONG_DPOP),
}
MUTANTS = {
    "dpo_loss": edits(ANSWER, _MUTANTS),
    "logprob_sum": edits(LOGPROB_SUM, _MUTANTS_SUM),
    "implicit_reward": edits(IMPLICIT, _MUTANTS_IMPLICIT),
    "dpop_loss": edits(DPOP, _MUTANTS_DPOP),
}
