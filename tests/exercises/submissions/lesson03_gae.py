"""Submissions to the exercise of lesson 03 on advantages."""

from submissions import edit

# What learners write.
ANSWER = """
def answer(rewards, values, mask, gamma, lam):
    rewards = rewards * mask
    values = values * mask
    T = rewards.shape[1]
    advantages = torch.zeros_like(rewards)
    following = torch.zeros(len(rewards))
    for t in reversed(range(T)):
        next_value = values[:, t + 1] if t + 1 < T else 0.0
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        following = delta + gamma * lam * following
        advantages[:, t] = following
    return advantages, advantages + values
"""
# The same, with the mask inside the loop.
MASKED_LATE = """
def answer(rewards, values, mask, gamma, lam):
    T = rewards.shape[1]
    advantages = torch.zeros_like(rewards)
    for t in reversed(range(T)):
        goes_on = mask[:, t + 1] if t + 1 < T else 0.0
        n = min(t + 1, T - 1)
        delta = rewards[:, t] + gamma * values[:, n] * goes_on - values[:, t]
        advantages[:, t] = delta + gamma * lam * advantages[:, n] * goes_on
    return advantages, advantages + values
"""
# Without a loop over the deltas.
VECTORS = """
def answer(rewards, values, mask, gamma, lam):
    rewards, values = rewards.where(mask.bool(), 0), values.where(mask.bool(), 0)
    next_values = F.pad(values[:, 1:], (0, 1))
    delta = (rewards + gamma * next_values - values) * mask
    T = mask.shape[1]
    steps = torch.arange(T)[None] - torch.arange(T)[:, None]
    weights = torch.triu((gamma * lam) ** steps.float().clamp(min=0))
    advantages = delta @ weights.T
    return advantages, advantages + values
"""
# One row, one token at a time, from the definition: sum_k (gamma lam)^k delta_(t+k).
LOOPS = """
def answer(rewards, values, mask, gamma, lam):
    advantages, returns = torch.zeros_like(rewards), torch.zeros_like(rewards)
    for b in range(len(rewards)):
        n = int(mask[b].sum())
        v = values[b, :n].tolist() + [0.0]
        delta = [rewards[b, t].item() + gamma * v[t + 1] - v[t] for t in range(n)]
        for t in range(n):
            total = sum((gamma * lam) ** (k - t) * delta[k] for k in range(t, n))
            advantages[b, t], returns[b, t] = total, total + v[t]
    return advantages, returns
"""
# The form with returns: R_t = reward_t + gamma * ((1 - lam) * value_(t+1) + lam * R_(t+1)).
RETURNS = """
@torch.no_grad()
def answer(rewards, values, mask, gamma, lam):
    returns = torch.zeros_like(rewards)
    after = value = torch.zeros(len(rewards))
    for t in range(rewards.shape[1] - 1, -1, -1):
        after = (rewards[:, t] + gamma * ((1 - lam) * value + lam * after)) * mask[:, t]
        value = values[:, t] * mask[:, t]
        returns[:, t] = after
    return returns - values, returns
"""

# With a list that is built from its end.
APPENDED = """
def answer(rewards, values, mask, gamma, lam):
    rewards, values = rewards * mask, values * mask
    listed, following, next_value = [], 0.0, 0.0
    for t in range(rewards.shape[1] - 1, -1, -1):
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        following = delta + gamma * lam * following
        next_value = values[:, t]
        listed.append(following)
    advantages = torch.stack(listed, 1).flip(1)
    return advantages, advantages + values
"""
# Through numpy, in float64.
NUMPY = """
def answer(rewards, values, mask, gamma, lam):
    r, v = ((x * mask).double().numpy() for x in (rewards, values))
    advantages = np.zeros_like(r)
    last, after = 0.0, 0.0
    for t in reversed(range(r.shape[1])):
        last = r[:, t] + gamma * after - v[:, t] + gamma * lam * last
        after = v[:, t]
        advantages[:, t] = last
    return torch.from_numpy(advantages), torch.from_numpy(advantages + v)
"""
# The loop of the text for one answer, copied.
ONE_ROW = """
def answer(rewards, values, mask, gamma, lam):
    rewards, values = rewards * mask, values * mask
    later, next_V, A = 0.0, 0.0, torch.zeros_like(values)
    for t in reversed(range(rewards.shape[1])):
        delta = rewards[0, t] + gamma * next_V - values[0, t]
        later = delta + gamma * lam * later
        A[0, t], next_V = later, values[0, t]
    return A, A + values
"""

REWARDS, VALUES = "    rewards = rewards * mask\n", "    values = values * mask\n"
NEXT = "values[:, t + 1] if t + 1 < T else 0.0"
DELTA = "rewards[:, t] + gamma * next_value - values[:, t]"
RECURSION = "delta + gamma * lam * following"
RETURN = "return advantages, advantages + values"
BEFORE = "(values[:, t - 1] if t else 0.0)"

# (source, passage, its replacement, how the message starts)
_WRONG = [
    (ANSWER, REWARDS + VALUES, "", "Mask ignored"),
    (ANSWER, REWARDS, "", "Mask ignored"),
    (ANSWER, VALUES, "", "Mask ignored"),
    (MASKED_LATE, "* lam * advantages[:, n] * goes_on", "* lam * advantages[:, n]", "Mask ignored"),
    (
        MASKED_LATE,
        "values[:, n] * goes_on",
        "values[:, n] * (t + 1 < T)",
        "Bootstraps past the end",
    ),
    (MASKED_LATE, "values[:, n] * goes_on", "values[:, n]", "Bootstraps past the end"),
    (
        MASKED_LATE,
        "values[:, n] * goes_on",
        "values.roll(-1, 1)[:, t]",
        "Bootstraps past the end",
    ),
    (ANSWER, NEXT, "values[:, (t + 1) % T]", "Bootstraps past the end"),
    (ANSWER, NEXT, "values[:, min(t + 1, T - 1)]", "Bootstraps past the end"),
    (VECTORS, "F.pad(values[:, 1:], (0, 1))", "values.roll(-1, 1)", "Bootstraps past the end"),
    (ANSWER, "gamma * next_value", "lam * next_value", "lambda and gamma swapped"),
    (ANSWER, REWARDS, REWARDS + "    gamma, lam = lam, gamma\n", "lambda and gamma swapped"),
    (ANSWER, "gamma * next_value", "gamma * lam * next_value", "lam in delta"),
    (ANSWER, "gamma * next_value", "next_value", "gamma missing in delta."),
    (ANSWER, "gamma * lam *", "lam *", "gamma missing in the recursion"),
    (ANSWER, REWARDS, REWARDS + "    gamma = 1\n", "gamma missing in delta and in the recursion"),
    (ANSWER, "gamma * lam *", "gamma *", "lam missing"),
    (ANSWER, "gamma * lam * following", "following", "gamma * lam missing"),
    (ANSWER, NEXT, "values[:, t]", "Off by one in values: you take value_t as"),
    (ANSWER, NEXT, BEFORE, "Off by one in values: you take value_(t-1) as"),
    (ANSWER, NEXT, "values[:, t - 1]", "Off by one in values: you take value_(t-1) as"),
    (
        ANSWER,
        DELTA,
        f"rewards[:, t] + gamma * values[:, t] - {BEFORE}",
        "Off by one in values: you subtract value_(t-1) and add value_t.",
    ),
    (
        MASKED_LATE,
        "gamma * values[:, n] * goes_on - values[:, t]",
        "gamma * (values * mask)[:, t] - values[:, t - 1]",
        "Off by one in values: you subtract value_(t-1) and add value_t.",
    ),
    (
        VECTORS,
        "gamma * next_values - values",
        "gamma * F.pad(values[:, 2:], (0, 2))[:, : values.shape[1]] - next_values",
        "Off by one in values: you subtract value_(t+1) and add value_(t+2).",
    ),
    (ANSWER, "+ gamma * next_value ", "", "Next value missing"),
    (ANSWER, " - values[:, t]", "", "Value not subtracted"),
    (ANSWER, DELTA, "rewards[:, t] - gamma * next_value + values[:, t]", "Signs of the two values"),
    (ANSWER, "rewards[:, t] +", "F.pad(rewards, (0, 1))[:, t + 1] +", "Off by one in rewards"),
    (ANSWER, RECURSION, "delta", "No recursion"),
    (ANSWER, "reversed(range(T))", "range(T)", "The recursion runs forward"),
    (VECTORS, "delta @ weights.T", "delta @ weights", "The recursion runs forward"),
    (
        VECTORS,
        "delta @ weights.T",
        "delta + gamma * lam * F.pad(delta[:, 1:], (0, 1))",
        "The recursion adds delta_(t+1)",
    ),
    (ANSWER, RETURN, "return advantages, advantages", "Returns without the values"),
    (ANSWER, RETURN, "return advantages, advantages - values", "Returns with the values"),
    (VECTORS, "advantages + values", "advantages + next_values", "Returns off by one"),
    (
        VECTORS,
        "advantages + values",
        "rewards @ torch.triu(gamma ** steps.float().clamp(min=0)).T",
        "Returns that are discounted sums of rewards",
    ),
    (ANSWER, RETURN, "return advantages + values, advantages", "Advantages and returns swapped"),
    (
        ANSWER,
        RETURN,
        """a = advantages[mask.bool()]
    return (advantages - a.mean()) / (a.std() + 1e-8), advantages + values""",
        "Advantages whitened",
    ),
    (
        ANSWER,
        RETURN,
        "return (advantages - advantages.mean()) / advantages.std(), advantages + values",
        "Advantages whitened",
    ),
    (ANSWER, "reversed(range(T))", "reversed(range(T - 1))", "Last token left out"),
    (
        ANSWER,
        RETURN,
        """advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
    return advantages, advantages + values""",
        "Advantages whitened",
    ),
    (ANSWER, "rewards[:, t] + gamma", "rewards[0, t] + gamma", "Rewards of row 0"),
    (ONE_ROW, "", "", "Only row 0 is filled"),
    (
        ANSWER,
        RETURN,
        "return advantages, rewards + gamma * F.pad(values[:, 1:], (0, 1))",
        "Returns that are one-step (TD)",
    ),
    (APPENDED, ".flip(1)", "", "Order of the tokens reversed"),
    (
        APPENDED,
        "stack(listed, 1).flip(1)\n    return advantages, advantages + values",
        "stack(listed, 1)\n    return advantages, (advantages.flip(1) + values).flip(1)",
        "Order of the tokens reversed",
    ),
]


_MUTANTS = [
    (ANSWER, "rewards * mask", "rewards * (1 - mask)"),
    (ANSWER, "values * mask", "values * (1 - mask)"),
    (ANSWER, "rewards * mask", "mask"),
    (ANSWER, "torch.zeros(len(rewards))", "torch.ones(len(rewards))"),
    (ANSWER, "reversed(range(T))", "reversed(range(1, T))"),
    (ANSWER, "values[:, t + 1] if", "values[:, t + 1].mean() if"),
    (ANSWER, "values[:, t + 1] if", "values[:, -1] if"),
    (ANSWER, "t + 1 < T", "t + 1 > T"),
    (ANSWER, "t + 1 < T", "t + 2 < T"),
    (ANSWER, "else 0.0", "else 1.0"),
    (ANSWER, "rewards[:, t] +", "rewards[:, t] -"),
    (ANSWER, "rewards[:, t] +", "rewards[:, -1] +"),
    (ANSWER, "rewards[:, t] +", "rewards.sum(1) +"),
    (ANSWER, "+ gamma * next_value", "- gamma * next_value"),
    (ANSWER, "+ gamma * next_value", "+ gamma + next_value"),
    (ANSWER, "+ gamma * next_value", "+ gamma**2 * next_value"),
    (ANSWER, "- values[:, t]", "+ values[:, t]"),
    (ANSWER, "- values[:, t]", "- values[:, 0]"),
    (ANSWER, RECURSION, "delta - gamma * lam * following"),
    (ANSWER, RECURSION, "delta + (gamma + lam) * following"),
    (ANSWER, RECURSION, "delta + gamma * lam**2 * following"),
    (ANSWER, RECURSION, "delta + gamma * (1 - lam) * following"),
    (ANSWER, RECURSION, "delta * gamma * lam + following"),
    (ANSWER, "advantages[:, t] = following", "advantages[:, t] = delta"),
    (ANSWER, "advantages[:, t] = following", "advantages[:, t - 1] = following"),
    (ANSWER, "advantages[:, t] = following", "advantages[:, t] = following.mean()"),
    (ANSWER, RETURN, "return advantages, values"),
    (ANSWER, RETURN, "return advantages, rewards + values"),
    (ANSWER, RETURN, "return advantages, advantages * values"),
    (ANSWER, RETURN, "return advantages, 2 * advantages + values"),
    (ANSWER, RETURN, "return -advantages, advantages + values"),
    (MASKED_LATE, "mask[:, t + 1] if", "mask[:, t] if"),
    (MASKED_LATE, "else 0.0", "else 1.0"),
    (VECTORS, "torch.triu(", "torch.tril("),
    (VECTORS, "values[:, 1:], (0, 1)", "values[:, :-1], (1, 0)"),
    (VECTORS, "values[:, 1:], (0, 1)", "values[:, 1:], (1, 0)"),
]

RIGHT = {
    "gae": [
        ANSWER,
        MASKED_LATE,
        VECTORS,
        LOOPS,
        RETURNS,
        APPENDED,
        NUMPY,
        # What stands at padding does not count; whoever unpacks a list or a stack gets the same.
        edit(ANSWER, RETURN, "return advantages + (1 - mask), advantages + values + (1 - mask)"),
        edit(ANSWER, RETURN, "return [advantages + 1 - mask, advantages + values]"),
        edit(ANSWER, RETURN, "return torch.stack([advantages, advantages + values + 1 - mask])"),
    ]
}
WRONG = {"gae": [(edit(source, old, new), name) for source, old, new, name in _WRONG]}
MUTANTS = {"gae": [edit(*change) for change in _MUTANTS]}
