"""Exercises of lesson 02: the scalar head, Bradley-Terry, best of N, the error of calibration."""

import torch
import torch.nn.functional as F

from exercises.calls import Case, ragged_mask, worked_case
from exercises.judge import Exercise
from exercises.shared import LOG_SIGMOID_MISTAKES
from utils import losses, values


def my_bradley_terry_loss(chosen_scores, chosen_mask, rejected_scores, rejected_mask):
    rows = torch.arange(len(chosen_scores))
    chosen_last, rejected_last = chosen_mask.sum(1) - 1, rejected_mask.sum(1) - 1
    chosen = chosen_scores[rows, chosen_last]
    rejected = rejected_scores[rows, rejected_last]
    d = chosen - rejected
    return -F.logsigmoid(d).mean()


_LAST = "The reward of an answer is the score at its last token, the last whose mask is 1."
_DIFFERENCE = "Bradley-Terry compares: it is sigmoid(chosen reward - rejected reward)."
_MISTAKES = f"""
Reward read at a padding position: the last column. {_LAST}
    SIDE_scores[rows, SIDE_last] -> SIDE_scores[:, -1]
Reward read at a padding position: one after the last token. {_LAST}
    SIDE_scores[rows, SIDE_last] ->
        F.pad(SIDE_scores, (0, 1), mode="replicate")[rows, SIDE_last + 1]
    .sum(1) - 1 -> .sum(1)
Reward read one position too early. {_LAST}
    .sum(1) - 1 -> .sum(1) - 2
Reward read at the first token. {_LAST}
    SIDE_scores[rows, SIDE_last] -> SIDE_scores[:, 0]
Rows and positions mixed up: scores[:, last] reads every row at the ends of all rows, (B, B). Pair
each row with its own end: scores[torch.arange(B), last], or gather. {_LAST}
    SIDE_scores[rows, SIDE_last] -> SIDE_scores[:, SIDE_last]
    SIDE_scores[rows, SIDE_last] -> SIDE_scores.gather(1, SIDE_last[None])
Mean over the tokens instead of the last token. {_LAST}
    SIDE_scores[rows, SIDE_last] -> (SIDE_scores * SIDE_mask).sum(1) / SIDE_mask.sum(1)
Mean over all positions, padding too, instead of the last token. {_LAST}
    SIDE_scores[rows, SIDE_last] -> SIDE_scores.mean(1) | (SIDE_scores * SIDE_mask).mean(1)
Sum over the tokens instead of the last token. {_LAST}
    SIDE_scores[rows, SIDE_last] -> (SIDE_scores * SIDE_mask).sum(1)
Sum over all positions, padding too, instead of the last token. {_LAST}
    SIDE_scores[rows, SIDE_last] -> SIDE_scores.sum(1)
Compared token by token, but an answer has one reward. {_LAST}
    SIDE_scores[rows, SIDE_last] -> SIDE_scores | SIDE_scores * SIDE_mask
    SIDE_scores[rows, SIDE_last] -> SIDE_scores[chosen_mask.bool()]
    SIDE_scores[rows, SIDE_last] -> SIDE_scores[(chosen_mask * rejected_mask).bool()]
Rejected answer read where the chosen one ends: use rejected_mask for it.
    [rows, rejected_last] -> [rows, chosen_last]
Sign flipped: chosen and rejected are swapped. It is chosen - rejected.
    chosen - rejected -> rejected - chosen
No difference taken: {_DIFFERENCE}
    d = chosen - rejected -> d = chosen | d = -rejected | d = chosen + rejected
    d = chosen - rejected -> d = chosen / rejected
    F.logsigmoid(d) -> (F.logsigmoid(chosen) + F.logsigmoid(-rejected))
    F.logsigmoid(d) -> (F.logsigmoid(chosen) - F.logsigmoid(rejected))
Both rewards come from chosen_scores: the difference is always 0.
    rejected_scores[rows, rejected_last] -> chosen_scores[rows, chosen_last]
"""


def _reference(chosen_scores, chosen_mask, rejected_scores, rejected_mask):
    chosen = values.last_token(chosen_scores, chosen_mask)
    rejected = values.last_token(rejected_scores, rejected_mask)
    return losses.bradley_terry_loss(chosen, rejected)


def _cases():
    yield worked_case(
        chosen_scores=[[1.0, 3.0, -4.0], [5.0, -2.0, 1.0]],
        chosen_mask=[[1, 1, 0], [1, 1, 1]],
        rejected_scores=[[4.0, -1.0, 1.0, 0.0], [-3.0, 2.0, 6.0, 5.0]],
        rejected_mask=[[1, 1, 1, 0], [1, 1, 0, 0]],
    )
    # The model is sure of the wrong order: sigmoid(-200) is 0 in float32.
    yield worked_case(
        chosen_scores=[[1.0, -100.0], [2.0, 1.0]],
        chosen_mask=[[1, 1], [1, 0]],
        rejected_scores=[[2.0, 100.0], [0.0, 3.0]],
        rejected_mask=[[1, 1], [1, 0]],
    )
    generator = torch.Generator().manual_seed(0)
    for chosen_lengths, rejected_lengths in (((4, 2, 5), (3, 7, 6)), ((3, 6, 2, 4), (5, 2, 6, 3))):
        args = []
        for lengths in (chosen_lengths, rejected_lengths):
            mask = ragged_mask(lengths).long()
            args += [2 * torch.randn(mask.shape, generator=generator), mask]
        yield Case(tuple(args), f"a random batch of {len(lengths)} ragged pairs")


bradley_terry_loss = Exercise(
    reference=_reference,
    answer=my_bradley_terry_loss,
    mistakes=_MISTAKES + LOG_SIGMOID_MISTAKES,
    cases=list(_cases()),
    success="loss and gradients equal utils.losses.bradley_terry_loss of the scores at the last "
    "tokens,",
    grads=["chosen_scores", "rejected_scores"],
    hints={
        "out of bounds": "The last token of a row stands at position mask.sum(1) - 1. "
        "Each row needs its own: scores[torch.arange(B), last]."
    },
)


def my_rewards(states, mask, weight):
    scores = (states @ weight.T)[..., 0]
    rows, last = torch.arange(len(mask)), mask.sum(1) - 1
    return scores[rows, last]


_READ = "scores[rows, last]"
_HEAD_MISTAKES = f"""
Reward read at a padding position: the last column. {_LAST}
    {_READ} -> scores[:, -1]
Reward read one position too late: positions count from 0. {_LAST}
    {_READ} -> F.pad(scores, (0, 1), mode="replicate")[rows, last + 1]
    .sum(1) - 1 -> .sum(1)
Reward read one position too early. {_LAST}
    .sum(1) - 1 -> .sum(1) - 2
Reward read at the first token. {_LAST}
    {_READ} -> scores[:, 0]
Rows and positions mixed up: scores[:, last] reads every row at the ends of all rows, (B, B). Pair
each row with its own end: scores[torch.arange(B), last], or gather. {_LAST}
    {_READ} -> scores[:, last] | scores.gather(1, last[None])
Every row read where the longest answer ends. {_LAST}
    {_READ} -> scores[rows, last.max()]
Mean over the tokens instead of the last token. {_LAST}
    {_READ} -> (scores * mask).sum(1) / mask.sum(1)
Mean over all positions, padding too. {_LAST}
    {_READ} -> scores.mean(1) | (scores * mask).mean(1)
Sum over the tokens instead of the last token. {_LAST}
    {_READ} -> (scores * mask).sum(1) | scores.sum(1)
The largest score of the answer, not the last one. {_LAST}
    {_READ} -> scores.amax(1) | (scores * mask).amax(1)
    {_READ} -> scores.masked_fill(mask == 0, -torch.inf).amax(1)
A score for each token, but an answer has one reward. {_LAST}
    {_READ} -> scores | scores * mask
Squeezed through a sigmoid: a reward may be any number; the sigmoid is of a *difference*.
    {_READ} -> scores[rows, last].sigmoid()
Minus too many: the head is a plain product of state and weight.
    {_READ} -> -scores[rows, last]
The head is not applied: the reward is the product of the state with the weight, not its sum.
    (states @ weight.T)[..., 0] -> states.sum(2)
One dimension too many: a head with one output gives (B, L, 1); take its only column, [..., 0].
    (states @ weight.T)[..., 0] -> (states @ weight.T)
"""


def _rewards(states, mask, weight):
    return values.last_token((states @ weight.T)[..., 0], mask)


def _head_cases():
    # Scores 1, 3, -4, 9 and 5, -2, 1, 6; the answers have three tokens and one.
    states = [[[1.0, 1.0, 2.0], [1.0, 2.0, 2.0], [0.0, -1.0, 2.0], [5.0, 2.0, 0.0]]]
    states += [[[3.0, 2.0, 2.0], [0.0, -1.0, 0.0], [1.0, 1.0, 2.0], [1.0, 3.0, 1.0]]]
    mask = [[1, 1, 1, 0], [1, 0, 0, 0]]
    yield worked_case(states=states, mask=mask, weight=[[1.0, 2.0, -1.0]])
    generator = torch.Generator().manual_seed(0)
    for lengths, width in (((4, 2, 5), 6), ((3, 6, 2, 4), 3), ((5, 5), 4)):
        mask = ragged_mask(lengths).long()
        states = torch.randn(*mask.shape, width, generator=generator)
        weight = torch.randn(1, width, generator=generator)
        yield Case((states, mask, weight), f"random states of {len(lengths)} answers")


rewards = Exercise(
    reference=_rewards,
    answer=my_rewards,
    mistakes=_HEAD_MISTAKES,
    cases=list(_head_cases()),
    success="rewards and gradients equal a linear head read by utils.values.last_token",
    grads=["states", "weight"],
    hints={
        "out of bounds": "The last token of a row stands at position mask.sum(1) - 1. "
        "Each row needs its own: scores[torch.arange(B), last].",
        "cannot be multiplied": "The states are (B, L, H), the weight (1, H): states @ weight.T.",
    },
)


def my_best_of_n(rewards, verdicts, n):
    groups, right = rewards.view(-1, n), verdicts.view(-1, n)
    picked = groups.argmax(1, keepdim=True)
    return right.gather(1, picked).mean()


_PICK = "The answer with the highest reward is returned, right or wrong."
_BEST_MISTAKES = f"""
The oracle: right as soon as one of the n answers is. But nobody knows the verdicts. {_PICK}
    right.gather(1, picked).mean() -> right.amax(1).mean()
A random choice: the mean of all verdicts does not look at the rewards. {_PICK}
    right.gather(1, picked).mean() -> right.mean()
The lowest reward picked. {_PICK}
    argmax -> argmin
The highest reward returned, not the verdict of the answer that has it.
    right.gather(1, picked).mean() -> groups.gather(1, picked).mean()
The place of the best answer returned, not its verdict: look it up in verdicts.
    right.gather(1, picked).mean() -> picked.float().mean()
n ignored: the best of all G answers. Cut them into groups of n.
    rewards.view(-1, n), verdicts.view(-1, n) -> rewards, verdicts
Only the first n answers of each prompt used: the other groups of n count too.
    rewards.view(-1, n), verdicts.view(-1, n) -> rewards[:, :n], verdicts[:, :n]
Groups mixed up: a group holds n neighbours of one prompt; view(n, -1) or a transpose mixes them.
    rewards.view(-1, n), verdicts.view(-1, n) -> rewards.reshape(n, -1).T, verdicts.reshape(n, -1).T
    rewards.view(-1, n), verdicts.view(-1, n) -> rewards.T.reshape(-1, n), verdicts.T.reshape(-1, n)
Best over the wrong dimension: compare the answers of a group, dimension 1.
    argmax(1, keepdim=True) -> argmax(0, keepdim=True)
The place inside its group used as a place in the whole list: gather within the group.
    right.gather(1, picked).mean() -> verdicts.flatten()[picked].mean()
Rows and places mixed up: right[:, picked] or right[picked] does not take each row at its own place.
Use gather.
    right.gather(1, picked).mean() -> right[:, picked[:, 0]].mean() | right[picked[:, 0]].mean()
Sum instead of mean: accuracy is the share of right answers.
    right.gather(1, picked).mean() -> right.gather(1, picked).sum()
One number for each group: accuracy is their mean.
    right.gather(1, picked).mean() -> right.gather(1, picked)[:, 0]
"""


def _best_of_n(rewards, verdicts, n):
    found = []
    for reward, verdict in zip(rewards, verdicts, strict=True):  # prompt by prompt
        for some, known in zip(reward.split(n), verdict.split(n), strict=True):
            found.append(known[int(some.argmax())])
    return torch.stack(found).mean()


def _best_cases():
    yield worked_case(
        rewards=[[0.5, 2.0, -1.0, 3.0], [1.0, -2.0, 0.0, -3.0]],
        verdicts=[[1.0, 0.0, 0.0, 1.0], [1.0, 1.0, 0.0, 1.0]],
        n=2,
    )
    generator = torch.Generator().manual_seed(0)
    for prompts, answers, n in ((5, 6, 3), (3, 8, 4), (4, 6, 2), (6, 4, 4)):
        rewards = torch.randn(prompts, answers, generator=generator)
        verdicts = (torch.rand(prompts, answers, generator=generator) < 0.5).float()
        yield Case((rewards, verdicts, n), f"random rewards ({prompts}, {answers}) with n = {n}")


best_of_n = Exercise(
    reference=_best_of_n,
    answer=my_best_of_n,
    mistakes=_BEST_MISTAKES,
    cases=list(_best_cases()),
    success="accuracy equals a loop over prompts and groups",
    hints={"out of bounds": "A place counts within its group: right.gather(1, picked)."},
)


def my_calibration_error(stated, right, bins):
    which = (stated * bins).long().clamp(max=bins - 1)
    error = torch.zeros(())
    for b in range(bins):
        inside = which == b
        if inside.any():
            gap = stated[inside].mean() - right[inside].mean()
            error = error + inside.float().mean() * gap.abs()
    return error


_BIN = (
    "It is the mean over bins, weighted by their share of the pairs, of |mean stated - mean right|."
)
_ERROR_MISTAKES = f"""
Empty bins: the mean of nothing is NaN. Leave them out.
    if inside.any(): -> if True:
All bins weighted alike, but most pairs lie in a few of them. {_BIN}
    inside.float().mean() * -> (1 / bins) *
    inside.float().mean() * -> (1 / len(which.unique())) *
Summed over bins without their weights. {_BIN}
    inside.float().mean() * gap -> gap
Numbers of pairs in place of shares: divide by the number of all pairs. {_BIN}
    inside.float().mean() -> inside.sum()
Signs kept: too sure in one bin and not sure enough in another cancel. {_BIN}
    gap.abs() -> gap
Squared gaps. {_BIN}
    gap.abs() -> gap.square()
The largest gap only. {_BIN}
    error = error + inside.float().mean() * gap.abs() -> error = torch.maximum(error, gap.abs())
A stated probability of exactly 0 falls out of the first bin: an edge belongs to the bin above it.
    inside = which == b -> inside = (stated > b / bins) & (stated <= (b + 1) / bins)
A stated probability on an edge counts in two bins: an edge belongs to the bin above it.
    inside = which == b -> inside = (stated >= b / bins) & (stated <= (b + 1) / bins)
A stated probability of exactly 1 falls out of the last bin: clamp the bin to bins - 1.
    .clamp(max=bins - 1) ->
Bins cut by rounding to the nearest: the first and the last would be half as wide. Round down.
    (stated * bins).long() -> (stated * bins).round().long()
The middle of the bin taken for what was stated: take the mean of what was stated in it.
    stated[inside].mean() - -> (b + 0.5) / bins -
Distance of each pair, without bins: that is the mean absolute error, which no calibrated judge
brings to 0. {_BIN}
    return error -> return (stated - right).abs().mean()
Squared distance of each pair, without bins: that is the Brier score. {_BIN}
    return error -> return (stated - right).square().mean()
One bin for all: the gap of the two means. {_BIN}
    return error -> return (stated.mean() - right.mean()).abs()
"""


def _calibration_error(stated, right, bins):
    which = torch.clamp(torch.floor(stated * bins), max=bins - 1).long()
    gaps = torch.zeros(bins).index_add(0, which, (stated - right).float())
    return gaps.abs().sum() / len(stated)


def _error_cases():
    yield worked_case(
        stated=[0.0, 0.25, 0.375, 0.875, 0.75, 1.0], right=[1.0, 0.0, 0.0, 1.0, 0.0, 1.0], bins=2
    )
    generator = torch.Generator().manual_seed(0)
    for n, bins, power in ((40, 5, 1.0), (25, 10, 0.2), (60, 4, 3.0)):
        stated = torch.rand(n, generator=generator) ** power
        right = (torch.rand(n, generator=generator) < stated.sqrt()).float()
        text = f"{n} random probabilities in {bins} bins"
        stated = torch.cat([stated, torch.tensor([0.5, 1.0])])  # a tie, and the last edge
        yield Case((stated, torch.cat([right, torch.zeros(2)]), bins), text)


calibration_error = Exercise(
    reference=_calibration_error,
    answer=my_calibration_error,
    mistakes=_ERROR_MISTAKES,
    cases=list(_error_cases()),
    success="equal to the error computed without a loop",
)
