"""Submissions to the exercises of lesson 00."""

from submissions import edits

K3 = """
def answer(logprobs, ref_logprobs):
    r = logprobs - ref_logprobs
    return torch.exp(-r) - 1 + r
"""
K3_VALUE = "torch.exp(-r) - 1 + r"
REINFORCE = """
def answer(logits, actions, rewards, baseline):
    probs = logits.softmax(0)
    one_hot = F.one_hot(actions, len(logits)).float()
    weights = rewards - baseline
    return (weights[:, None] * (one_hot - probs)).mean(0)
"""

_RIGHT_K3 = [
    ("", ""),
    (K3_VALUE, "torch.expm1(-r) + r"),
    (K3_VALUE, "(-r).exp().sub(1).add(r)"),
    ("ref_logprobs\n", "ref_logprobs.detach()\n"),
    (
        "r = logprobs - ref_logprobs\n    return torch.exp(-r) - 1 + r",
        "q = ref_logprobs - logprobs\n    return q.exp() - (1 + q)",
    ),
    ("r = logprobs - ref_logprobs", "r = (logprobs - ref_logprobs).double()"),
    (K3_VALUE, "torch.stack([torch.exp(-x) - 1 + x for x in r.flatten()]).view(r.shape)"),
    ("r = logprobs - ref_logprobs", "r = logprobs.clone()\n    r -= ref_logprobs"),
]

_RIGHT_REINFORCE = [
    ("", ""),
    (".mean(0)", ".sum(0) / len(actions)"),
    ("F.one_hot(actions, len(logits)).float()", "torch.eye(len(logits))[actions]"),
    (
        "(weights[:, None] * (one_hot - probs)).mean(0)",
        "weights @ (one_hot - probs) / len(weights)",
    ),
]

_WRONG_K3 = [
    (K3_VALUE, "torch.exp(r) - 1 - r", "Sign of the log-ratio flipped"),
    ("logprobs - ref_logprobs", "ref_logprobs - logprobs", "Sign of the log-ratio flipped"),
    ("logprobs - ref_logprobs", "logprobs / ref_logprobs", "Log-probs divided"),
    ("logprobs - ref_logprobs", "logprobs.exp() - ref_logprobs.exp()", "Probabilities subtracted"),
    (K3_VALUE, "(q := ref_logprobs / logprobs) - 1 - q.log()", "Log-probs divided"),
    ("logprobs - ref_logprobs", "logprobs.log() - ref_logprobs.log()", "Log of the log-probs"),
    (K3_VALUE, "r", "That is k1"),
    (K3_VALUE, "r**2 / 2", "That is k2"),
    (K3_VALUE, "torch.exp(-r) - 1", "+ r missing"),
    (K3_VALUE, "torch.exp(-r) + r", "- 1 missing"),
    (K3_VALUE, "-r - 1 + r", "exp missing"),
    (K3_VALUE, "torch.exp(-r) - 1 - r", "r subtracted instead of added"),
    (K3_VALUE, "ref_logprobs.exp() / logprobs.exp() - 1 + r", "Probabilities divided"),
    (
        "logprobs - ref_logprobs",
        "torch.log(logprobs.exp() / ref_logprobs.exp())",
        "Probabilities divided",
    ),
    (K3_VALUE, "r.exp() - 1 + r", "Minus lost inside exp"),
    (K3_VALUE, "torch.exp(-r) + 1 + r", "1 added instead of"),
    (K3_VALUE, "(torch.exp(-r) - 1 + r).mean()", "One number per token"),
    (K3_VALUE, "logprobs.exp() * r", "Weighted by the probability"),
    (K3_VALUE, "(torch.exp(-r) - 1 + r).sum(-1)", "One number per token"),
]

_WRONG_REINFORCE = [
    ("one_hot - probs", "one_hot", "- probs missing"),
    ("one_hot - probs", "one_hot * (1 - probs)", "Only the sampled tokens'"),
    (
        "(one_hot - probs)",
        "probs[actions][:, None] * (one_hot - probs)",
        "Gradient of the probability",
    ),
    ("F.one_hot(actions, len(logits))", "F.one_hot(actions)", "one_hot without the number"),
    ("rewards - baseline", "rewards", "Baseline not subtracted"),
    ("rewards - baseline", "rewards + baseline", "Baseline added"),
    ("rewards - baseline", "rewards - rewards.mean()", "Mean of these rewards"),
    (".mean(0)", ".sum(0)", "Sum instead of mean"),
    ("one_hot - probs", "probs - one_hot", "Sign flipped"),
    ("rewards - baseline", "baseline - rewards", "Sign flipped"),
    ("logits.softmax(0)", "logits.log_softmax(0)", "Log-probabilities in place"),
    ("logits.softmax(0)", "logits", "Logits in place"),
    ("logits.softmax(0)", "logits.sigmoid()", "Sigmoid in place"),
    ("logits.softmax(0)", "logits.exp() / logits.exp().sum()", "exp of the logits overflows"),
    (".mean(0)", ".mean()", "Averaged over the vocabulary"),
    (".mean(0)", ".mean(1)", "Averaged over the vocabulary"),
    (
        "(weights[:, None] * (one_hot - probs)).mean(0)",
        "weights.mean() * (one_hot - probs).mean(0)",
        "Mean weight times",
    ),
    (".mean(0)", ".sum(0) / len(logits)", "Divided by the number of tokens"),
]

_MUTANTS_K3 = [
    (K3_VALUE, "torch.exp(-r) - 1 + r.abs()"),
    (K3_VALUE, "torch.exp(-r) - 2 + r"),
    (K3_VALUE, "torch.exp(-r) - 1 + 2 * r"),
    (K3_VALUE, "torch.exp(-2 * r) - 1 + r"),
    (K3_VALUE, "torch.exp(-r).detach() - 1 + r"),
    (K3_VALUE, "torch.exp(-r) - 1 + r.detach()"),
    (K3_VALUE, "torch.exp(-r.abs()) - 1 + r"),
    (K3_VALUE, "(torch.exp(-r) - 1 + r) / 2"),
    (K3_VALUE, "(torch.exp(-r) - 1 + r).clamp(max=1)"),
    ("logprobs - ref_logprobs", "logprobs + ref_logprobs"),
    ("logprobs - ref_logprobs", "logprobs.detach() - ref_logprobs"),
]

_MUTANTS_REINFORCE = [
    ("one_hot - probs", "one_hot + probs"),
    ("one_hot - probs", "one_hot - 1"),
    ("one_hot - probs", "probs"),
    ("rewards - baseline", "rewards * baseline"),
    ("rewards - baseline", "(rewards - baseline).abs()"),
    ("rewards - baseline", "(rewards - baseline).sign()"),
    ("rewards - baseline", "rewards - baseline / 2"),
    (".mean(0)", ".median(0).values"),
]

_MORE_REINFORCE = [
    """
def answer(logits, actions, rewards, baseline):
    total = torch.zeros_like(logits)
    for a, r in zip(actions, rewards):
        direction = -logits.softmax(0)
        direction[a] += 1
        total += (r - baseline) * direction
    return total / len(actions)
""",
    """
def answer(logits, actions, rewards, baseline):
    leaf = logits.clone().detach().requires_grad_(True)
    loss = -((rewards - baseline) * torch.log_softmax(leaf, 0)[actions]).mean()
    loss.backward()
    return -leaf.grad
""",
    """
def answer(logits, actions, rewards, baseline):
    z = logits.numpy().astype(np.float64)
    p = np.exp(z - z.max())
    p = p / p.sum()
    one_hot = np.eye(len(z))[actions.numpy()]
    return torch.from_numpy(((rewards.numpy() - baseline)[:, None] * (one_hot - p)).mean(0))
""",
]
LEAVE_ONE_OUT = """
def answer(rewards, group_size):
    groups = rewards.view(-1, group_size)
    total = groups.sum(1, keepdim=True)
    others = (total - groups) / (group_size - 1)
    return (groups - others).flatten()
"""
_OTHERS = "(total - groups) / (group_size - 1)"

_RIGHT_LEAVE_ONE_OUT = [
    ("", ""),
    ("rewards.view(-1, group_size)", "rewards.reshape(len(rewards) // group_size, group_size)"),
    ("(groups - others).flatten()", "rewards - others.view(-1)"),
    ("groups.sum(1, keepdim=True)", "group_size * groups.mean(1)[:, None]"),
]

_WRONG_LEAVE_ONE_OUT = [
    (_OTHERS, "groups.mean(1, keepdim=True)", "Mean of the whole group"),
    (_OTHERS, "(total - groups) / group_size", "Own reward left out of the sum, but"),
    (_OTHERS, "total / (group_size - 1)", "Own reward not left out"),
    (_OTHERS, "total - groups", "Sum of the others"),
    (_OTHERS, "rewards.mean()", "The batch instead of the group"),
    ("groups.sum(1, keepdim=True)", "rewards.sum()", "The batch instead of the group"),
    ("(groups - others).flatten()", "others.flatten()", "Baseline returned"),
    ("(groups - others)", "(others - groups)", "Sign flipped"),
    (
        "(groups - others)",
        "((groups - others) / groups.std(1, keepdim=True))",
        "Divided by the std",
    ),
    ("(1, keepdim=True)", "(1)", "keepdim=True missing"),
    ("(1, keepdim=True)", "(0, keepdim=True)", "Sums over the wrong"),
    ("view(-1, group_size)", "view(group_size, -1)", "Groups mixed up"),
    (".flatten()", "", "Not flattened"),
]

_MUTANTS_LEAVE_ONE_OUT = [
    (_OTHERS, "(total - 2 * groups) / (group_size - 1)"),
    (_OTHERS, "(total - groups) / (group_size + 1)"),
    ("(groups - others)", "(groups - others).abs()"),
    ("(groups - others)", "(2 * groups - others)"),
]

_MORE_LEAVE_ONE_OUT = [
    """
def answer(rewards, group_size):
    result = []
    for i, reward in enumerate(rewards):
        first = i - i % group_size
        others = [rewards[j] for j in range(first, first + group_size) if j != i]
        result.append(reward - sum(others) / len(others))
    return torch.stack(result)
""",
    """
def answer(rewards, group_size):
    groups = rewards.view(-1, group_size)
    centred = groups - groups.mean(dim=1, keepdim=True)
    return (centred * group_size / (group_size - 1)).flatten()
""",
]
RIGHT = {
    "k3": edits(K3, _RIGHT_K3),
    "leave_one_out": [*edits(LEAVE_ONE_OUT, _RIGHT_LEAVE_ONE_OUT), *_MORE_LEAVE_ONE_OUT],
    "reinforce_gradient": [*edits(REINFORCE, _RIGHT_REINFORCE), *_MORE_REINFORCE],
}

WRONG = {
    "k3": edits(K3, _WRONG_K3),
    "leave_one_out": edits(LEAVE_ONE_OUT, _WRONG_LEAVE_ONE_OUT),
    "reinforce_gradient": edits(REINFORCE, _WRONG_REINFORCE),
}

MUTANTS = {
    "k3": edits(K3, _MUTANTS_K3),
    "leave_one_out": edits(LEAVE_ONE_OUT, _MUTANTS_LEAVE_ONE_OUT),
    "reinforce_gradient": edits(REINFORCE, _MUTANTS_REINFORCE),
}
