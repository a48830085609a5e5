"""Exercise of lesson 02: the Bradley-Terry loss on the scores of a reward model."""

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
    hints={"out of bounds": "The last token of a row stands at position mask.sum(1) - 1."},
)
