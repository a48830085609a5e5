"""Exercise of lesson 05: the group-relative advantages of GRPO."""

import torch

from exercises.calls import Case, worked_case
from exercises.judge import Exercise
from utils import advantages


def my_group_advantages(rewards, group_size):
    groups = rewards.view(-1, group_size)
    mean = groups.mean(1, keepdim=True)
    std = groups.std(1, keepdim=True)
    result = (groups - mean) / (std + 1e-4)
    return result.flatten()


_OWN = "a completion is compared with the others of its own prompt."
_EPS = "(reward - mean) / (std + 1e-4)"
_MISTAKES = f"""
Statistics of the batch instead of the group: {_OWN}
    groups.mean(1, keepdim=True) -> rewards.mean() ; groups.std(1, keepdim=True) -> rewards.std()
Mean of the batch instead of the group: {_OWN}
    groups.mean(1, keepdim=True) -> rewards.mean()
Std of the batch instead of the group: {_OWN}
    groups.std(1, keepdim=True) -> rewards.std()
Mean not subtracted: A = (reward - mean of the group) / std of the group.
    (groups - mean) -> groups
Parentheses missing: only the mean is divided. It is {_EPS}.
    (groups - mean) / -> groups - mean /
    (groups - mean) / (std + 1e-4) -> groups - mean / std
Mean of the other completions only: that is RLOO. GRPO subtracts the mean of the whole group.
    groups - mean -> groups - (mean * group_size - groups) / (group_size - 1)
Not divided by the std of the group: that is Dr. GRPO.
    / (std + 1e-4) ->
Divided by the variance: take its root, the std.
    groups.std -> groups.var
Population std (divided by group_size): take the sample std, divided by group_size - 1, as torch.std
does by default and TRL does.
    std(1, keepdim=True) -> std(1, keepdim=True, correction=0)
keepdim=True missing: mean or std is then (Q,), and meets (Q, group_size) at the wrong dimension, or
not at all.
    (1, keepdim=True) -> (1)
    mean(1, keepdim=True) -> mean(1)
    std(1, keepdim=True) -> std(1)
Groups mixed up: rewards are prompt-major, so rewards.view(-1, group_size) has one row per prompt.
    view(-1, group_size) -> view(group_size, -1) | view(group_size, -1).T
    view(-1, group_size) -> view(group_size, -1) ; (1, keepdim -> (0, keepdim
    view(-1, group_size) -> view(group_size, -1) ; (1, keepdim=True) -> (1)
Statistics over the wrong dimension: dim 1 of (Q, group_size) is the group, dim 0 the prompts.
    (1, keepdim -> (0, keepdim
Group statistics in the wrong order: repeat(group_size) gives a b a b; the completions of a prompt
stand side by side: a a b b is repeat_interleave(group_size).
    groups - mean -> rewards - mean.flatten().repeat(group_size) ;
        std + -> std.flatten().repeat(group_size) +
A group of equal rewards gives NaN, 0 / 0: add 1e-4 to the std before you divide, in parentheses.
    std + 1e-4 -> std
    (std + 1e-4) -> std + 1e-4
Nothing, or too little, added to the std: the mean of eight rewards of 0.1 is not quite 0.1, and
this rounding error is divided by a std as tiny. nan_to_num only hides 0 / 0. It is {_EPS}.
    (std + 1e-4) -> std ; result.flatten() -> result.nan_to_num(0.0).flatten()
    std + 1e-4 -> torch.where(std == 0, 1.0, std) | std + EPS | std.clamp(EPS) | std.clamp(1e-4)
Too much added to the std: that damps groups that differ little. It is {_EPS}.
    std + 1e-4 -> std + 1e-3 | std + 1e-2
The constant stands under the root: it is added to the std, not to the variance.
    groups.std(1, keepdim=True) -> (groups.var(1, keepdim=True) + 1e-4).sqrt() ; std + 1e-4 -> std
    groups.std(1, keepdim=True) -> (groups.var(1, keepdim=True) + 1e-8).sqrt() ; std + 1e-4 -> std
Advantages in another order than the rewards: the first group_size belong to the first prompt.
    result.flatten() -> result.T.flatten()
Sign flipped: a reward above the mean has a positive advantage.
    groups - mean -> mean - groups
"""


def _cases():
    # Sample std 3, then 0.
    yield worked_case(rewards=[1.0, 4.0, 7.0, 5.0, 5.0, 5.0], group_size=3)
    yield worked_case(rewards=[2.0, 6.0, 9.0, 3.0, 0.0, 20.0], group_size=2)
    yield worked_case(rewards=[0.1] * 8, group_size=8)
    # Std 2e-4, where what is added to it decides.
    yield worked_case(rewards=[0.0, 0.0002, 0.0004, 1.0, 0.0, 2.0, 0.3, 0.3, 0.3], group_size=3)
    generator = torch.Generator().manual_seed(0)
    for prompts, group_size in ((3, 4), (5, 3)):
        rewards = 10 * torch.randn(prompts, group_size, generator=generator)
        rewards[1] = 3.0
        text = f"random rewards ({prompts} prompts, group_size {group_size})"
        yield Case((rewards.flatten(), group_size), text)


_MIXED = "Groups mixed up? rewards.view(-1, group_size) is (Q, G), its statistics are (Q, 1)."
group_advantages = Exercise(
    reference=advantages.group_advantages,
    answer=my_group_advantages,
    mistakes=_MISTAKES,
    cases=list(_cases()),
    success="advantages equal utils.advantages.group_advantages",
    hints=dict.fromkeys(["must match the size", "invalid for input of size"], _MIXED),
    atol=1e-3,  # a mean of equal rewards may be off by a rounding error, here divided by 1e-4
)
