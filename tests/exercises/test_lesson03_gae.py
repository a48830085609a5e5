import re

import pytest

from exercises import check, lesson03_gae

MESSAGES = {m for values in lesson03_gae._GAE_MISTAKES.values() for m in values.values()}

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

REWARDS, VALUES = "    rewards = rewards * mask\n", "    values = values * mask\n"
NEXT = "values[:, t + 1] if t + 1 < T else 0.0"
DELTA = "rewards[:, t] + gamma * next_value - values[:, t]"
RECURSION = "delta + gamma * lam * following"
RETURN = "return advantages, advantages + values"
BEFORE = "(values[:, t - 1] if t else 0.0)"

# (source, passage, its replacement, how the message starts)
MISTAKES = [
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
]


@pytest.mark.parametrize("source", [ANSWER, MASKED_LATE, VECTORS, LOOPS, RETURNS])
def test_right(verdict, mutant, source):
    out = verdict(check.gae, mutant(source))
    assert out == "Correct: advantages and returns equal utils.advantages.gae on 4 batches."


def test_what_stands_at_padding_does_not_count(verdict, mutant):
    fn = mutant(ANSWER, RETURN, "return advantages + (1 - mask), advantages + values + (1 - mask)")
    assert verdict(check.gae, fn).startswith("Correct")


@pytest.mark.parametrize(("source", "old", "new", "name"), MISTAKES)
def test_mistake_is_named(verdict, mutant, source, old, new, name):
    out = verdict(check.gae, mutant(source, old, new))
    assert out.startswith(f"Not yet. {name}"), out
    assert len([m for m in MESSAGES if m in out]) == 1, out
    assert re.search(r"On rewards = .* you returned \[\[.*\]\]; expected \[\[.*\]\]\.$", out)


def test_the_example_can_be_checked_by_hand(verdict, mutant):
    out = verdict(check.gae, mutant(ANSWER, RECURSION, "delta"))
    # delta: 1 + 3/2 - 1, 0 + 1/2 - 3, 2 - 1; each advantage adds 1/8 of the next one.
    assert out.endswith(
        "On rewards = [[1.0, 0.0, 2.0, 4.0]], values = [[1.0, 3.0, 1.0, 8.0]], mask = [[1.0, 1.0, "
        "1.0, 0.0]], gamma = 0.5, lam = 0.25 you returned [[1.5, -2.5, 1.0, 0.0]], [[2.5, 0.5, "
        "2.0, 0.0]]; expected [[1.2031, -2.375, 1.0, 0.0]], [[2.2031, 0.625, 2.0, 0.0]]."
    )


def test_two_mistakes_at_once(verdict, mutant):
    source = ANSWER.replace("gamma * next_value", "lam * next_value")
    out = verdict(check.gae, mutant(source, RETURN, "return advantages, advantages"))
    assert "lambda and gamma swapped" in out and "Returns without the values" in out


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (RETURN, "return advantages", "Return 2 value(s), not 1."),
        (RETURN, "return advantages, None", "Return a tensor, not a Python NoneType"),
        (RETURN, "return advantages, advantages.sum(1)", "Wrong shape: expected (1, 4), you"),
        (
            REWARDS,
            "    rewards *= mask\n",
            "The value is right, but your function overwrites its input rewards.",
        ),
        ("t + 1 < T", "t < T", "Your function raised IndexError"),
    ],
)
def test_other_complaints(verdict, mutant, old, new, message):
    out = verdict(check.gae, mutant(ANSWER, old, new))
    assert out.startswith(f"Not yet. {message}"), out


# Single-point changes that nobody would give a name.
MUTANTS = [
    (ANSWER, "rewards * mask", "rewards * (1 - mask)"),
    (ANSWER, "values * mask", "values * (1 - mask)"),
    (ANSWER, "rewards * mask", "mask"),
    (ANSWER, "torch.zeros(len(rewards))", "torch.ones(len(rewards))"),
    (ANSWER, "reversed(range(T))", "reversed(range(1, T))"),
    (ANSWER, "reversed(range(T))", "reversed(range(T - 1))"),
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


@pytest.mark.parametrize(("source", "old", "new"), MUTANTS)
def test_mutants_are_rejected(verdict, mutant, source, old, new):
    assert verdict(check.gae, mutant(source, old, new)).startswith("Not yet. ")
