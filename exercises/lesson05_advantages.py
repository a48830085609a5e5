"""Exercise of lesson 05: the group-relative advantages of GRPO."""

from collections.abc import Callable

import torch

from exercises.judge import Case, judge, with_pairs, worked_case
from utils import advantages

_OWN = "a completion is compared with the others of its own prompt."
_ROWS = "rewards are prompt-major: rewards.view(-1, group_size) has one row a prompt."
_MIXED = f"Groups mixed up: {_ROWS}"
_ADVANTAGE_MISTAKES = {
    "of": {
        "batch": f"Statistics of the batch instead of the group: {_OWN}",
    },
    "center": {
        "batch": f"Mean of the batch instead of the group: {_OWN}",
        "none": "Mean not subtracted: A = (reward - mean of the group) / std of the group.",
        "others": "Mean of the other completions only: that is RLOO. GRPO subtracts the mean of "
        "the whole group.",
    },
    "scale": {
        "batch": f"Std of the batch instead of the group: {_OWN}",
        "none": "Not divided by the std of the group: that is Dr. GRPO.",
        "variance": "Divided by the variance: take its root, the std.",
    },
    "std": {
        "population": "Population std (divided by group_size): take the sample std, divided by "
        "group_size - 1, as torch.std does by default and TRL does.",
    },
    "groups": {
        **dict.fromkeys(["strided", "sized", "positions"], _MIXED),
        "repeated": "Group statistics in the wrong order: repeat(group_size) gives a b a b; the "
        "completions of a prompt stand side by side: a a b b is repeat_interleave(group_size).",
    },
    "eps": {
        "none": "A group of equal rewards gives NaN, 0 / 0: divide by std + 1e-4.",
        "outside": "1e-4 is added to the quotient: (reward - mean) / (std + 1e-4) needs its "
        "parentheses.",
    },
    "sign": {"minus": "Sign flipped: a reward above the mean has a positive advantage."},
}


def _group_advantages(
    rewards,
    group_size,
    of="",
    center="",
    scale="",
    std="",
    groups="",
    eps="",
    sign="",
):
    """GRPO's advantages, with the mistakes named in `_ADVANTAGE_MISTAKES` on request."""
    shape = (group_size, -1) if groups in ("strided", "sized") else (-1, group_size)
    rows = rewards.view(shape)
    dim = 0 if groups in ("strided", "positions") else 1

    def spread(statistic: torch.Tensor) -> torch.Tensor:
        if groups == "repeated":
            return statistic.flatten().repeat(group_size)
        return statistic.expand_as(rows).flatten()

    correction = 0 if std == "population" else 1
    mean = rewards.mean() if "batch" in (of, center) else spread(rows.mean(dim, keepdim=True))
    if center == "none":
        mean = 0.0
    elif center == "others":
        mean = (mean * group_size - rewards) / (group_size - 1)
    if "batch" in (of, scale):
        divisor = rewards.std(correction=correction)
    else:
        divisor = spread(rows.std(dim, correction=correction, keepdim=True))
    divisor = {"none": torch.ones_like(divisor), "variance": divisor**2}.get(scale, divisor)
    centred = mean - rewards if sign == "minus" else rewards - mean
    if eps == "outside":
        return centred / divisor + 1e-4
    return centred / (divisor + (0.0 if eps == "none" else 1e-4))


def group_advantages(fn: Callable) -> None:
    """Check `fn(rewards, group_size) -> advantages`, both (B,); prints.

    Rewards are prompt-major. The std is the sample std. What `fn` adds to it to survive a group of
    equal rewards may be any number up to 1e-4. Gradients are not compared: rewards are constants.
    """
    cases = [
        # Sample std 3; all equal.
        worked_case(rewards=torch.tensor([1.0, 4.0, 7.0, 5.0, 5.0, 5.0]), group_size=3),
        worked_case(rewards=torch.tensor([2.0, 6.0, 9.0, 3.0, 0.0, 20.0]), group_size=2),
    ]
    generator = torch.Generator().manual_seed(0)
    for prompts, group_size in ((3, 4), (5, 3)):
        rewards = 10 * torch.randn(prompts, group_size, generator=generator)
        rewards[1] = 3.0
        text = f"random rewards ({prompts} prompts, group_size {group_size})"
        cases.append(Case((rewards.flatten(), group_size), text))
    judge(
        fn,
        reference=advantages.group_advantages,
        cases=cases,
        success=f"advantages equal utils.advantages.group_advantages on {len(cases)} batches.",
        error_hints=dict.fromkeys(["must match the size", "invalid for input of size"], _MIXED),
        **with_pairs(_group_advantages, _ADVANTAGE_MISTAKES),
    )
