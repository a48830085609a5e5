"""Submissions to the exercise of lesson 03 on the policy loss."""

from submissions import edits

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
_WRONG = [
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
    (ADVANTAGES, "", "The value is right, but a gradient flows into advantages, meant as constant"),
    (OLD, "", "The value is right, but a gradient flows into old_logprobs, meant as constant"),
    (
        ADVANTAGES + OLD,
        "",
        "The value is right, but a gradient flows into old_logprobs and advantages",
    ),
    (RATIO, "torch.exp(logprobs) / torch.exp(old_logprobs)", "Probabilities divided"),
    (RATIO, "torch.exp(logprobs - logprobs.detach())", "Ratio of the log-probs to themselves"),
    (LOSS, "-objective.sum() / mask.sum()", "Padding counts in the sum"),
]

_RIGHT = [
    (LOSS, LOSS),
    (LOSS, "-objective[mask.bool()].mean()"),
    (RATIO, "torch.exp((logprobs - old_logprobs).double())"),
    (
        LOSS,
        "-torch.cat([o[m > 0] for o, m in zip(objective, mask)]).sum() / mask.count_nonzero()",
    ),
    (LOSS, "-torch.einsum('bt,bt->', objective, mask) / mask.sum(), {'clip': 0.0}"),
    (RATIO, "logprobs.clone().sub_(old_logprobs).exp()"),
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


_MUTANTS = [
    (ADVANTAGES, "    advantages = advantages.detach().abs()\n"),
    (ADVANTAGES, "    advantages = advantages.detach() - advantages.detach().mean()\n"),
    (ADVANTAGES, "    advantages = -advantages.detach()\n"),
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
    (LOSS, "-(objective * mask).sum() / len(mask)"),
    (LOSS, "-(objective * mask).sum() / (mask.sum() - 1)"),
    (LOSS, "-(objective * mask).sum() * mask.sum()"),
    (LOSS, "-(objective * mask).max()"),
    (LOSS, "(-(objective * mask).sum() / mask.sum()).abs()"),
]

RIGHT = {"clipped_policy_loss": edits(ANSWER, _RIGHT)}
WRONG = {"clipped_policy_loss": edits(ANSWER, _WRONG)}
MUTANTS = {"clipped_policy_loss": edits(ANSWER, _MUTANTS)}
