"""Submissions to the exercises of lesson 05."""

from submissions import edit, edits

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
NUMPY = """
def answer(rewards, group_size):
    groups = rewards.numpy().reshape(-1, group_size)
    mean, std = groups.mean(1, keepdims=True), groups.std(1, ddof=1, keepdims=True)
    return torch.tensor((groups - mean) / (std + 1e-4)).reshape(-1)
"""
SLICES = """
def answer(rewards, group_size):
    out = rewards.clone()
    for i in range(0, len(out), group_size):
        group = out[i : i + group_size]
        group -= group.mean()
        group /= group.std() + 1e-4
    return out
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
        "Statistics over the wrong dimension",
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
    (ADVANTAGES, "(std + 1e-4)", "std + 1e-4", "A group of equal rewards gives NaN"),
    (ADVANTAGES, "groups - mean", "mean - groups", "Sign flipped"),
    (ADVANTAGES, RESULT, "groups - mean / (std + 1e-4)", "Parentheses missing"),
    (ADVANTAGES, RESULT, "groups - mean / std", "Parentheses missing"),
    (ADVANTAGES, "1e-4", "1e-8", "Nothing, or too little"),
    (REPEATED, "1e-4", "1e-6", "Nothing, or too little"),
    (SLOW, "1e-4", "1e-3", "Too much added"),
    (ADVANTAGES, "std + 1e-4", "std.clamp(min=1e-6)", "Nothing, or too little"),
    (
        ADVANTAGES,
        RESULT,
        "torch.where(std > 0, (groups - mean) / std, 0.0)",
        "Nothing, or too little",
    ),
    (ADVANTAGES, RESULT, "torch.nan_to_num((groups - mean) / std)", "Nothing, or too little"),
    (
        ADVANTAGES,
        f"{STD}\n    advantages = {RESULT}",
        "groups.var(1, keepdim=True)\n    advantages = (groups - mean) / (std + 1e-4).sqrt()",
        "The constant stands under the root",
    ),
    (
        ADVANTAGES,
        f"{MEAN}\n    std = {STD}",
        "groups.mean(1)\n    std = groups.std(1)",
        "keepdim=True missing",
    ),
    (ADVANTAGES, MEAN, "groups.mean(dim=1)", "keepdim=True missing"),
    (ADVANTAGES, "advantages.view(-1)", "advantages.T.flatten()", "Advantages in another order"),
    (ADVANTAGES, STD, "groups.std(dim=1)", "keepdim=True missing"),
    (
        ADVANTAGES,
        "view(-1, group_size)",
        "view(group_size, -1).T.contiguous()",
        "Groups mixed up",
    ),
]


ADVANTAGE_MUTANTS = [
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
    ("advantages.view(-1)", "advantages.flip(0).flatten()"),
]


# The loss. What learners write:
LOSS = """
def answer(logprobs, old_logprobs, advantages, mask, ref_logprobs, beta, clip_eps):
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
        "One ratio per completion: that is GSPO",
    ),
    (RETURN, "-per_sequence.mean()", "Sign flipped"),
    (PER_TOKEN, "objective + beta * kl", "Sign of the objective flipped"),
    (
        DETACHED[0],
        "",
        "The value is right, but a gradient flows into advantages, meant as constant",
    ),
    (
        DETACHED[1],
        "",
        "The value is right, but a gradient flows into old_logprobs, meant as constant",
    ),
    (
        DETACHED[2],
        "",
        "The value is right, but a gradient flows into ref_logprobs, meant as constant",
    ),
    (
        "".join(DETACHED),
        "",
        "The value is right, but a gradient flows into old_logprobs and advantages and ref_",
    ),
    (
        f"{PER_TOKEN}\n    per_sequence = {PER_SEQUENCE}",
        f"-objective\n    per_sequence = {PER_SEQUENCE} + beta * (kl * mask).sum() / mask.sum()",
        "KL averaged over the tokens of the batch",
    ),
    (
        f"{PER_TOKEN}\n    per_sequence = {PER_SEQUENCE}",
        f"-objective\n    per_sequence = {PER_SEQUENCE} + beta * (kl * mask).mean()",
        "KL averaged over all positions",
    ),
    (
        "logprobs - old_logprobs",
        "logprobs - logprobs.detach()",
        "Ratio of the log-probs to themselves",
    ),
    (
        "torch.exp(logprobs - old_logprobs)",
        "logprobs.exp() / old_logprobs.exp()",
        "Probabilities divided",
    ),
    (K3, "ref_logprobs.exp() / logprobs.exp() - 1 + r", "Probabilities divided"),
    ("torch.exp(logprobs - old_logprobs)", "logprobs / old_logprobs", "Log-probs divided"),
    ("torch.exp(logprobs - old_logprobs)", "1 + logprobs - old_logprobs", "1 + log ratio"),
    (K3, "torch.exp(-r) + r", "k3 without - 1"),
    (K3, "torch.exp(-r) - 1 - r", "Minus lost in k3"),
    (K3, "torch.exp(r) - 1 + r", "Minus lost in k3"),
    ("1 - clip_eps, 1 + clip_eps", "-clip_eps, clip_eps", "Clip around 0"),
    ("1 - clip_eps, 1 + clip_eps", "max=1 + clip_eps", "Clip for positive"),
    ("1 - clip_eps, 1 + clip_eps", "min=1 - clip_eps", "Clip for negative"),
    (PER_SEQUENCE, "per_token.sum(1) / mask.sum(1)", "Padding counts in the sums"),
    (RETURN, "per_sequence.sum()", "Sum over completions"),
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
    ("torch.exp(logprobs - old_logprobs)", "torch.exp((logprobs - old_logprobs).double())"),
]


LOSS_MUTANTS = [
    ("advantages.unsqueeze(1)", "advantages.abs().unsqueeze(1)"),
    ("advantages.unsqueeze(1)", "advantages.flip(0).unsqueeze(1)"),
    ("advantages.unsqueeze(1)", "(advantages - advantages.mean()).unsqueeze(1)"),
    ("advantages.unsqueeze(1)", "advantages.mean()"),
    ("1 - clip_eps, 1 + clip_eps", "1 - clip_eps, 1 + clip_eps / 2"),
    ("1 - clip_eps, 1 + clip_eps", "1 - clip_eps / 2, 1 + clip_eps"),
    (K3, "r.abs()"),
    (PER_TOKEN, "-objective + beta**2 * kl"),
    (PER_TOKEN, "-objective * beta + kl"),
    (PER_TOKEN, "-(1 - beta) * objective + beta * kl"),
    (PER_SEQUENCE, "(per_token * mask).sum(0) / mask.sum(0).clamp(min=1)"),
    (PER_SEQUENCE, "(per_token * mask).sum(1) / (mask.sum(1) + 1)"),
    (RETURN, "per_sequence.max()"),
]

# A reward for a thought and a right answer. What learners write:
REWARD = """
def answer(completions, answers):
    found = []
    for text, gold in zip(completions, answers):
        text = text.strip()
        parts = text.split("</think>")
        ok = text.startswith("<think>") and text.count("<think>") == 1 and len(parts) == 2
        ok = ok and parts[0].replace("<think>", "").strip() != ""
        ok = ok and parts[1].strip() == gold
        found.append(1.0 if ok else 0.0)
    return torch.tensor(found)
"""
PATTERN = """
def answer(completions, answers):
    import re
    pattern = r"\\s*<think>((?:(?!</?think>).)*)</think>((?:(?!</?think>).)*)"
    rewards = torch.zeros(len(completions))
    for i, text in enumerate(completions):
        found = re.fullmatch(pattern, text, re.DOTALL)
        if found and found[1].strip() and found[2].strip() == answers[i]:
            rewards[i] = 1
    return rewards
"""
POSITIONS = """
def answer(completions, answers):
    def one(text, gold):
        if text.count("<think>") != 1 or text.count("</think>") != 1:
            return 0.0
        start, end = text.index("<think>"), text.index("</think>")
        if text[:start].strip() or not text[start + 7 : end].strip():
            return 0.0
        return float(text[end + 8 :].strip() == gold)

    return torch.tensor([one(t, a) for t, a in zip(completions, answers)])
"""
PLAIN = """
def answer(completions, answers):
    rewards = []
    for text, gold in zip(completions, answers):
        before, _, rest = text.partition("<think>")
        thought, _, said = rest.partition("</think>")
        form = text.count("<think>") == 1 and text.count("</think>") == 1
        form = form and before.strip() == "" and thought.strip() != ""
        correct = said.strip() == gold
        rewards.append(float(form and correct))
    return torch.tensor(rewards)
"""
ANSWERED = "parts[1].strip() == gold"
THOUGHT = """        ok = ok and parts[0].replace("<think>", "").strip() != ""\n"""
FOUND = "1.0 if ok else 0.0"
BEGINS = 'text.startswith("<think>")'

REWARD_MISTAKES = [
    (REWARD, ANSWERED, "gold in text", "A hole: the answer may stand anywhere"),
    (REWARD, ANSWERED, "gold in parts[1]", "A hole: 42 is in 142"),
    (REWARD, ANSWERED, "parts[1].strip().startswith(gold)", "A hole: 42 or 43 begins"),
    (REWARD, ANSWERED, "parts[1].strip().endswith(gold)", "A hole: 142 ends in 42"),
    (REWARD, ANSWERED, "parts[1].strip() in gold", "A hole: no answer at all"),
    (
        POSITIONS,
        'text.count("<think>") != 1 or text.count("</think>") != 1',
        '"<think>" not in text or "</think>" not in text',
        "A hole: a tag may occur twice",
    ),
    (POSITIONS, "or not text[start + 7 : end].strip()", "", "A hole: an empty thought"),
    (POSITIONS, "text[:start].strip() or ", "", "A hole: text before the thought"),
    (POSITIONS, "text[end + 8 :].strip()", "text[end + 8 :]", "White space around the answer"),
    (POSITIONS, "text[:start].strip()", "text[:start]", "White space before the thought"),
    (POSITIONS, "text[end + 8 :].strip() == gold", "True", "Right or wrong is left out"),
    (
        POSITIONS,
        """        if text.count("<think>") != 1 or text.count("</think>") != 1:
            return 0.0
        start, end = text.index("<think>"), text.index("</think>")
        if text[:start].strip() or not text[start + 7 : end].strip():
            return 0.0
        return float(text[end + 8 :].strip() == gold)""",
        """        if text.count("</think>") != 1:
            return 0.0
        thought, said = text.split("</think>")
        return float(thought.strip() != "" and said.strip() == gold)""",
        "A hole: an opening tag",
    ),
    (REWARD, FOUND, "float(text.split('</think>')[-1].strip() == gold)", "The form is left out"),
    (PLAIN, "float(form and correct)", "0.5 * form + 0.5 * correct", "Half a reward"),
    (REWARD, FOUND, "0.0 if ok else 1.0", "Right and wrong are swapped"),
    (
        POSITIONS,
        "zip(completions, answers)",
        "zip(completions, [answers[0]] * len(answers))",
        "All",
    ),
]

REWARD_MUTANTS = [
    (FOUND, "0.5 if ok else 0.0"),
    (FOUND, "1.0 if ok else -1.0"),
    ("len(parts) == 2", "len(parts) >= 2"),
    (THOUGHT, ""),
    (BEGINS, "True"),
    ("        text = text.strip()\n", ""),
    (ANSWERED, "parts[1].strip()"),
    (ANSWERED, "parts[0].strip() == gold"),
]

RIGHT = {
    "think_rewards": [REWARD, PATTERN, POSITIONS, PLAIN, edit(REWARD, FOUND, "float(ok)")],
    "group_advantages": [
        ADVANTAGES,
        REPEATED,
        SLOW,
        NUMPY,
        SLICES,
        edit(ADVANTAGES, STD, "(groups - mean).square().sum(1, True).div(group_size - 1).sqrt()"),
        edit(ADVANTAGES, "rewards.view", "rewards.double().view"),
        edit(ADVANTAGES, "rewards.view(-1, group_size)", "torch.stack(rewards.split(group_size))"),
    ],
    "grpo_loss": edits(LOSS, RIGHT_LOSSES),
}
WRONG = {
    "think_rewards": [(edit(source, old, new), name) for source, old, new, name in REWARD_MISTAKES],
    "group_advantages": [
        (edit(source, old, new), name) for source, old, new, name in ADVANTAGE_MISTAKES
    ],
    "grpo_loss": edits(LOSS, LOSS_MISTAKES),
}
MUTANTS = {
    "think_rewards": edits(REWARD, REWARD_MUTANTS),
    "group_advantages": edits(ADVANTAGES, ADVANTAGE_MUTANTS),
    "grpo_loss": edits(LOSS, LOSS_MUTANTS),
}
