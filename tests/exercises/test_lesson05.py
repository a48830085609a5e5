import math
import re

import pytest

from exercises import check, lesson05_advantages, lesson05_loss


def messages_of(table):
    return {m for values in table.values() for m in values.values()}


# Group-relative advantages. What learners write:
ADVANTAGES = """
def answer(rewards, group_size):
    groups = rewards.view(-1, group_size)
    mean = groups.mean(dim=1, keepdim=True)
    std = groups.std(dim=1, keepdim=True)
    advantages = (groups - mean) / (std + 1e-4)
    return advantages.view(-1)
"""
REPEATED = """
def answer(rewards, group_size):
    groups = rewards.view(-1, group_size)
    mean = groups.mean(dim=1).repeat_interleave(group_size)
    std = groups.std(dim=1).repeat_interleave(group_size)
    return (rewards - mean) / (std + 1e-4)
"""
SLOW = """
def answer(rewards, group_size):
    advantages = []
    for start in range(0, len(rewards), group_size):
        group = rewards[start : start + group_size].tolist()
        mean = sum(group) / len(group)
        variance = sum((r - mean) ** 2 for r in group) / (len(group) - 1)
        advantages += [(r - mean) / (variance**0.5 + 1e-4) for r in group]
    return torch.tensor(advantages)
"""
MEAN, STD = "groups.mean(dim=1, keepdim=True)", "groups.std(dim=1, keepdim=True)"
RESULT = "(groups - mean) / (std + 1e-4)"

# (source, passage of it, its replacement, how the message starts)
ADVANTAGE_MISTAKES = [
    (
        REPEATED,
        "groups.mean(dim=1).repeat_interleave(group_size)\n    std = "
        "groups.std(dim=1).repeat_interleave(group_size)",
        "rewards.mean()\n    std = rewards.std()",
        "Statistics of the batch instead of the group",
    ),
    (ADVANTAGES, MEAN, "rewards.mean()", "Mean of the batch"),
    (ADVANTAGES, "groups - mean", "groups", "Mean not subtracted"),
    (
        ADVANTAGES,
        MEAN,
        "(groups.sum(1, keepdim=True) - groups) / (group_size - 1)",
        "Mean of the other completions",
    ),
    (ADVANTAGES, STD, "rewards.std()", "Std of the batch"),
    (ADVANTAGES, RESULT, "groups - mean", "Not divided by the std"),
    (ADVANTAGES, ".std(", ".var(", "Divided by the variance"),
    (ADVANTAGES, STD, "groups.std(dim=1, keepdim=True, correction=0)", "Population std"),
    (ADVANTAGES, STD, "(groups - mean).square().mean(1, keepdim=True).sqrt()", "Population std"),
    (ADVANTAGES, "view(-1, group_size)", "view(group_size, -1)", "Groups mixed up"),
    (
        ADVANTAGES,
        f"{MEAN}\n    std = {STD}",
        "groups.mean(0)\n    std = groups.std(0)",
        "Groups mixed up",
    ),
    (
        ADVANTAGES,
        f"view(-1, group_size)\n    mean = {MEAN}\n    std = {STD}",
        "view(group_size, -1)\n    mean = groups.mean(0)\n    std = groups.std(0)",
        "Groups mixed up",
    ),
    (
        REPEATED,
        "groups.mean(dim=1).repeat_interleave(group_size)\n    std = "
        "groups.std(dim=1).repeat_interleave(group_size)",
        "groups.mean(dim=1).repeat(group_size)\n    std = groups.std(dim=1).repeat(group_size)",
        "Group statistics in the wrong order",
    ),
    (ADVANTAGES, "(std + 1e-4)", "std", "A group of equal rewards gives NaN"),
    (ADVANTAGES, "(std + 1e-4)", "std + 1e-4", "1e-4 is added to the quotient"),
    (ADVANTAGES, "groups - mean", "mean - groups", "Sign flipped"),
]


@pytest.mark.parametrize("source", [ADVANTAGES, REPEATED, SLOW])
@pytest.mark.parametrize(("old", "new"), [("1e-4", "1e-4"), ("1e-4", "1e-8"), ("1e-4", "1e-6")])
def test_right_advantages(verdict, mutant, source, old, new):
    out = verdict(check.group_advantages, mutant(source, old, new))
    assert out == "Correct: advantages equal utils.advantages.group_advantages on 4 batches."


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("std + 1e-4", "std.clamp(min=1e-6)"),
        (RESULT, "torch.where(std > 0, (groups - mean) / std, 0.0)"),
        (RESULT, "torch.nan_to_num((groups - mean) / std)"),
        (STD, "((groups - mean).square().sum(1, keepdim=True) / (group_size - 1)).sqrt()"),
        (STD, "torch.sqrt(groups.var(1, keepdim=True) + 1e-8)"),
        ("advantages.view(-1)", "advantages.flatten()"),
    ],
)
def test_other_right_advantages(verdict, mutant, old, new):
    assert verdict(check.group_advantages, mutant(ADVANTAGES, old, new)).startswith("Correct")


@pytest.mark.parametrize(("source", "old", "new", "name"), ADVANTAGE_MISTAKES)
def test_an_advantage_mistake_is_named(verdict, mutant, source, old, new, name):
    out = verdict(check.group_advantages, mutant(source, old, new))
    assert out.startswith(f"Not yet. {name}"), out
    named = messages_of(lesson05_advantages._ADVANTAGE_MISTAKES)
    assert len([m for m in named if m in out]) == 1, out
    assert re.search(r"On rewards = \[.*\], group_size = \d .*; expected \[.*\]\.$", out), out


def test_the_example_of_the_advantages_can_be_checked_by_hand(verdict, mutant):
    out = verdict(check.group_advantages, mutant(ADVANTAGES, "groups - mean", "mean - groups"))
    assert out.endswith(
        "On rewards = [1.0, 4.0, 7.0, 5.0, 5.0, 5.0], group_size = 3 you returned [1.0, 0.0, -1.0, "
        "0.0, 0.0, 0.0]; expected [-1.0, 0.0, 1.0, 0.0, 0.0, 0.0]."
    )


def test_two_advantage_mistakes_at_once(verdict, mutant):
    source = ADVANTAGES.replace("keepdim=True)\n    adv", "keepdim=True, correction=0)\n    adv")
    out = verdict(check.group_advantages, mutant(source, "(std + 1e-4)", "std"))
    assert "Population std" in out and "gives NaN" in out


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("return advantages.view(-1)", "return advantages", r"Wrong shape: expected \(6,\), you"),
        ("return advantages.view(-1)", "return", "^Not attempted yet"),
        ("return advantages.view(-1)", "...", "^Not attempted yet"),
        (
            "advantages.view(-1)",
            "advantages.view(-1).tolist()",
            "Return a tensor, not a Python list",
        ),
        ("groups - mean", "groups.sub_(mean)", "overwrites its input rewards"),
        (
            f"view(-1, group_size)\n    mean = {MEAN}",
            "view(group_size, -1)\n    mean = groups.mean(1).repeat_interleave(group_size)",
            "raised RuntimeError: The size of tensor a .* On rewards = .* Groups mixed up",
        ),
        (
            "rewards.view(-1, group_size)",
            "rewards.view(group_size, group_size)",
            "raised RuntimeError: shape .* On rewards = .* Groups mixed up",
        ),
    ],
)
def test_other_complaints_about_advantages(verdict, mutant, old, new, message):
    assert re.search(message, verdict(check.group_advantages, mutant(ADVANTAGES, old, new)))


# Single-point changes that nobody would give a name.
ADVANTAGE_MUTANTS = [
    ("1e-4", "1e-2"),
    ("1e-4", "1.0"),
    ("std + 1e-4", "std - 1e-2"),
    ("groups - mean", "groups + mean"),
    ("groups - mean", "(groups - mean).abs()"),
    (MEAN, "groups.median(dim=1, keepdim=True).values"),
    (MEAN, "groups.amin(dim=1, keepdim=True)"),
    (STD, "groups.amax(1, keepdim=True) - groups.amin(1, keepdim=True)"),
    (STD, "groups.abs().mean(dim=1, keepdim=True)"),
    (RESULT, "groups.softmax(1)"),
    (RESULT, "(groups - mean) * (std + 1e-4)"),
    (RESULT, "((groups - mean) / (std + 1e-4)).clamp(-1, 1)"),
    ("advantages.view(-1)", "advantages.T.flatten()"),
    ("advantages.view(-1)", "advantages.flip(0).flatten()"),
]


@pytest.mark.parametrize(("old", "new"), ADVANTAGE_MUTANTS)
def test_advantage_mutants_are_rejected(verdict, mutant, old, new):
    out = verdict(check.group_advantages, mutant(ADVANTAGES, old, new))
    assert out.startswith("Not yet. "), out


# The loss. What learners write:
LOSS = """
def answer(logprobs, old_logprobs, ref_logprobs, advantages, mask, clip_eps, beta):
    advantages = advantages.detach()
    old_logprobs = old_logprobs.detach()
    ref_logprobs = ref_logprobs.detach()
    A = advantages.unsqueeze(1)
    ratio = torch.exp(logprobs - old_logprobs)
    unclipped = ratio * A
    clipped = ratio.clamp(1 - clip_eps, 1 + clip_eps) * A
    objective = torch.min(unclipped, clipped)
    r = logprobs - ref_logprobs
    kl = torch.exp(-r) - 1 + r
    per_token = -objective + beta * kl
    per_sequence = (per_token * mask).sum(1) / mask.sum(1)
    return per_sequence.mean()
"""
MIN = "torch.min(unclipped, clipped)"
CLIPPED = "ratio.clamp(1 - clip_eps, 1 + clip_eps) * A"
K3 = "torch.exp(-r) - 1 + r"
PER_TOKEN = "-objective + beta * kl"
PER_SEQUENCE = "(per_token * mask).sum(1) / mask.sum(1)"
RETURN = "per_sequence.mean()"
DETACHED = [
    f"    {name} = {name}.detach()\n" for name in ("advantages", "old_logprobs", "ref_logprobs")
]

LOSS_MISTAKES = [
    (PER_TOKEN, "-objective - beta * kl", "KL sign flipped"),
    (PER_TOKEN, "-(objective + beta * kl)", "KL sign flipped"),
    (K3, "torch.exp(r) - 1 - r", "k3 reversed"),
    ("r = logprobs - ref_logprobs", "r = ref_logprobs - logprobs", "k3 reversed"),
    (K3, "r", "k1 taken for k3"),
    (K3, "-r", "k1, sign flipped"),
    (K3, "r**2 / 2", "k2 taken for k3"),
    (PER_TOKEN, "-objective", "No KL"),
    (PER_TOKEN, "-objective + kl", "beta ignored"),
    ("r = logprobs - ref_logprobs", "r = logprobs - old_logprobs", "KL to the old policy"),
    (PER_TOKEN, "-objective + beta * kl * ratio", "KL multiplied by the ratio"),
    ("advantages.unsqueeze(1)", "advantages", "Advantages not spread over tokens"),
    ("advantages.unsqueeze(1)", "advantages.unsqueeze(0)", "Advantages not spread over tokens"),
    (PER_SEQUENCE, "per_token.mean(1)", "Mask ignored: "),
    (
        f"{PER_TOKEN}\n    per_sequence = {PER_SEQUENCE}",
        f"-objective\n    per_sequence = {PER_SEQUENCE} + beta * kl.mean(1)",
        "Mask ignored in the KL",
    ),
    (PER_SEQUENCE, "(per_token * mask).sum() / mask.sum()", "Mean over the tokens of the batch"),
    (PER_SEQUENCE, "per_token[mask.bool()]", "Mean over the tokens of the batch"),
    (PER_SEQUENCE, "(per_token * mask).mean(1)", "Mean over all positions"),
    (PER_SEQUENCE, "(per_token * mask).sum(1)", "Summed over each completion"),
    (
        f"{PER_SEQUENCE}\n    return {RETURN}",
        "0\n    return (per_token * mask).sum()",
        "Sum instead of mean",
    ),
    (MIN, "torch.max(unclipped, clipped)", "max instead of min: "),
    (
        MIN,
        "torch.where(A > 0, torch.min(unclipped, clipped), torch.max(unclipped, clipped))",
        "max instead of min for negative advantages",
    ),
    (MIN, "clipped", "Only the clipped branch"),
    (MIN, "unclipped", "No clip"),
    (
        CLIPPED,
        "(logprobs - old_logprobs).clamp(-clip_eps, clip_eps).exp() * A",
        "Clip on the log ratio",
    ),
    (CLIPPED, "(ratio * A).clamp(1 - clip_eps, 1 + clip_eps)", "Clip on ratio * A"),
    ("1 - clip_eps, 1 + clip_eps", "0.8, 1.2", "clip_eps ignored"),
    ("logprobs - old_logprobs", "old_logprobs - logprobs", "Ratio inverted"),
    ("torch.exp(logprobs - old_logprobs)", "logprobs - old_logprobs", "Log ratio taken"),
    ("logprobs - old_logprobs", "logprobs", "old_logprobs not used"),
    ("logprobs - old_logprobs", "logprobs - ref_logprobs", "Ratio to the reference"),
    (
        "torch.exp(logprobs - old_logprobs)",
        "torch.exp(((logprobs - old_logprobs) * mask).sum(1) / mask.sum(1)).unsqueeze(1)",
        "One ratio a completion: that is GSPO",
    ),
    (RETURN, "-per_sequence.mean()", "Sign flipped"),
    (PER_TOKEN, "objective + beta * kl", "Sign of the objective flipped"),
    (DETACHED[0], "", "advantages not detached"),
    (DETACHED[1], "", "old_logprobs not detached"),
    (DETACHED[2], "", "ref_logprobs not detached"),
    ("".join(DETACHED), "", "old_logprobs and ref_logprobs and advantages not detached"),
]

RIGHT_LOSSES = [
    (RETURN, RETURN),
    (K3, "torch.exp(ref_logprobs - logprobs) - (ref_logprobs - logprobs) - 1"),
    (K3, "torch.expm1(-r) + r"),
    ("advantages.unsqueeze(1)", "advantages[:, None].expand(-1, logprobs.shape[1])"),
    ("advantages.unsqueeze(1)", "advantages.view(-1, 1)"),
    # As in TRL: the larger of two losses.
    (PER_TOKEN, "torch.max(-unclipped, -clipped) + beta * kl"),
    # The policy term and the KL, each averaged.
    (
        f"{PER_TOKEN}\n    per_sequence = {PER_SEQUENCE}",
        """-objective
    n = mask.sum(1)
    per_sequence = (per_token * mask).sum(1) / n + beta * (kl * mask).sum(1) / n""",
    ),
    (
        PER_SEQUENCE,
        "torch.stack([row[m.bool()].mean() for row, m in zip(per_token, mask)])",
    ),
    (
        CLIPPED,
        "torch.where(A > 0, (1 + clip_eps) * A, (1 - clip_eps) * A)",  # as in Spinning Up
    ),
    ("mask.sum(1)\n", "mask.sum(1).clamp(min=1)\n"),
    (PER_SEQUENCE, "torch.where(mask.bool(), per_token, 0.0).sum(1) / mask.sum(1)"),
]


@pytest.mark.parametrize(("old", "new"), RIGHT_LOSSES)
def test_right_losses(verdict, mutant, old, new):
    out = verdict(check.grpo_loss, mutant(LOSS, old, new))
    assert out == "Correct: loss and gradient equal utils.losses.grpo_loss on 3 batches."


@pytest.mark.parametrize(("old", "new", "name"), LOSS_MISTAKES)
def test_a_loss_mistake_is_named(verdict, mutant, old, new, name):
    out = verdict(check.grpo_loss, mutant(LOSS, old, new))
    assert out.startswith(f"Not yet. {name}"), out
    named = messages_of(lesson05_loss._LOSS_MISTAKES)
    assert len([m for m in named if m in out]) == ("not detached" not in name), out
    assert re.search(r"On logprobs = \[\[.*expected ", out), out


def test_the_example_of_the_loss_can_be_checked_by_hand(verdict, mutant):
    out = verdict(check.grpo_loss, mutant(LOSS, MIN, "unclipped"))
    e = math.e
    # A = 2: ratios e (clipped at 1.25), 1/e, 1; r = 0, -1, 1.
    # A = -1: ratios 1/e (clipped at 0.75), e^2; r = -1, 0.
    costs = 0.5 * ((e - 2) + 1 / e) / 3, 0.5 * (e - 2) / 2
    expected = ((-2 * (1.25 + 1 / e + 1) / 3 + costs[0]) + ((0.75 + e**2) / 2 + costs[1])) / 2
    unclipped = ((-2 * (e + 1 / e + 1) / 3 + costs[0]) + ((1 / e + e**2) / 2 + costs[1])) / 2
    assert out.endswith(
        "On logprobs = [[-1.0, -2.0, -1.0], [-2.0, -1.0, -2.0]], old_logprobs = [[-2.0, -1.0, "
        "-1.0], [-1.0, -3.0, -1.0]], ref_logprobs = [[-1.0, -1.0, -2.0], [-1.0, -1.0, -4.0]], "
        "advantages = [2.0, -1.0], mask = [[1.0, 1.0, 1.0], [1.0, 1.0, 0.0]], clip_eps = 0.25, "
        f"beta = 0.5 you returned {unclipped:.4f}; expected {expected:.4f}."
    )


def test_two_loss_mistakes_at_once(verdict, mutant):
    source = LOSS.replace("torch.min", "torch.max")
    out = verdict(check.grpo_loss, mutant(source, K3, "torch.exp(r) - 1 - r"))
    assert "max instead of min" in out and "k3 reversed" in out
    source = LOSS.replace("advantages.unsqueeze(1)", "advantages")
    out = verdict(check.grpo_loss, mutant(source, PER_TOKEN, "-objective - beta * kl"))
    assert "Advantages not spread" in out and "KL sign flipped" in out


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (RETURN, "None", "^Not attempted yet"),
        (RETURN, "...", "^Not attempted yet"),
        (RETURN, f"{RETURN}, {{}}", r"Return 1 value\(s\), not 2\."),
        (RETURN, "per_sequence", r"Wrong shape: expected \(\), you returned \(2,\)\."),
        (RETURN, f"{RETURN}.item()", "Return a tensor, not a Python float"),
        (RETURN, f"{RETURN}.detach()", "The value is right, but the result carries no gradient"),
        (K3, f"({K3}).detach()", "the gradient with respect to logprobs is not"),
        (
            "advantages.unsqueeze(1)",
            "torch.cat([advantages, advantages])",
            "raised RuntimeError: .* Advantages not spread over tokens",
        ),
    ],
)
def test_other_complaints_about_the_loss(verdict, mutant, old, new, message):
    out = verdict(check.grpo_loss, mutant(LOSS, old, new))
    assert re.search(message, out), out


LOSS_MUTANTS = [
    ("advantages.unsqueeze(1)", "advantages.abs().unsqueeze(1)"),
    ("advantages.unsqueeze(1)", "advantages.flip(0).unsqueeze(1)"),
    ("advantages.unsqueeze(1)", "(advantages - advantages.mean()).unsqueeze(1)"),
    ("advantages.unsqueeze(1)", "advantages.mean()"),
    ("torch.exp(logprobs - old_logprobs)", "torch.exp(logprobs - logprobs.detach())"),
    ("1 - clip_eps, 1 + clip_eps", "1 - clip_eps, 1 + clip_eps / 2"),
    ("1 - clip_eps, 1 + clip_eps", "1 - clip_eps / 2, 1 + clip_eps"),
    ("1 - clip_eps, 1 + clip_eps", "max=1 + clip_eps"),
    ("1 - clip_eps, 1 + clip_eps", "min=1 - clip_eps"),
    (K3, "torch.exp(-r) + r"),
    (K3, "torch.exp(-r) - 1 - r"),
    (K3, "r.abs()"),
    (K3, "torch.exp(r) - 1 + r"),
    (PER_TOKEN, "-objective + beta**2 * kl"),
    (PER_TOKEN, "-objective * beta + kl"),
    (PER_TOKEN, "-(1 - beta) * objective + beta * kl"),
    (PER_SEQUENCE, "(per_token * mask).sum(0) / mask.sum(0).clamp(min=1)"),
    (PER_SEQUENCE, "(per_token * mask).sum(1) / (mask.sum(1) + 1)"),
    (PER_SEQUENCE, "per_token.sum(1) / mask.sum(1)"),
    (RETURN, "per_sequence.max()"),
    (RETURN, "per_sequence.sum()"),
]


@pytest.mark.parametrize(("old", "new"), LOSS_MUTANTS)
def test_loss_mutants_are_rejected(verdict, mutant, old, new):
    out = verdict(check.grpo_loss, mutant(LOSS, old, new))
    assert out.startswith("Not yet. "), out
