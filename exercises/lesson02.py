"""Exercise of lesson 02: the Bradley-Terry loss on the scores of a reward model."""

from collections.abc import Callable

import torch
import torch.nn.functional as F

from exercises.judge import Case, judge, ragged_mask, with_pairs, worked_case
from utils import losses, values

_LAST = "The reward of an answer is the score at its last token, the last whose mask is 1."
_TOKENS = f"Compared token by token, but an answer has one reward. {_LAST}"
_DIFFERENCE = (
    "No difference taken: Bradley-Terry compares, it is sigmoid(chosen reward - rejected reward)."
)
_NO_LOG = "sigmoid without log: the loss is the negative log-likelihood, -log sigmoid(difference)."
_UNDERFLOW = (
    "sigmoid, then log: sigmoid rounds to 0 (or exp overflows) at a large negative difference, and "
    "the log is lost. Use logsigmoid."
)
_BRADLEY_TERRY_MISTAKES = {
    "read": {
        "column": f"Reward read at a padding position: the last column. {_LAST}",
        "after": f"Reward read at a padding position: one after the last token. {_LAST}",
        "before": f"Reward read one position too early. {_LAST}",
        "first": f"Reward read at the first token. {_LAST}",
        "mean": f"Mean over the tokens instead of the last token. {_LAST}",
        "mean of all": f"Mean over all positions, padding too, instead of the last token. {_LAST}",
        "sum": f"Sum over the tokens instead of the last token. {_LAST}",
        "sum of all": f"Sum over all positions, padding too, instead of the last token. {_LAST}",
        "one mask": "Rejected answer read where the chosen one ends: use rejected_mask for it.",
        **dict.fromkeys(["tokens", "tokens, chosen mask", "tokens, both masks"], _TOKENS),
    },
    "difference": {
        "swapped": "Sign flipped: chosen and rejected are swapped. It is chosen - rejected.",
        **dict.fromkeys(["chosen", "rejected", "sum", "ratio"], _DIFFERENCE),
        **dict.fromkeys(["two terms", "two logs"], _DIFFERENCE),
        "chosen twice": "Both rewards come from chosen_scores: the difference is always 0.",
    },
    "log": {
        **dict.fromkeys(["sigmoid", "one minus"], _NO_LOG),
        "neither": "No sigmoid: minus the difference alone has no minimum. It is -log sigmoid.",
        **dict.fromkeys(["late", "1e-6", "1e-8", "1e-10", "1e-12", "bce"], _UNDERFLOW),
    },
    "mean": {
        "inside": "Mean before the log-sigmoid: take -logsigmoid of each pair, then the mean.",
        "before log": "Mean before the log: average the log-sigmoids, not the sigmoids.",
        "sum": "Sum instead of mean: divide by the number of pairs.",
    },
    "minus": {"none": "Minus missing: the loss is minus the mean log-sigmoid."},
}
_BRADLEY_TERRY_ERRORS = {
    "out of bounds": "The last token of a row stands at position mask.sum(1) - 1.",
}


def _read(scores, mask, read):
    """One reward a row, (B,), read at its last token or in the wrong way called `read`."""
    if read in ("column", "first"):
        return scores[:, {"column": -1, "first": 0}[read]]
    if "all" in read:
        mask = torch.ones_like(mask)
    if read.startswith(("mean", "sum")):
        total = (scores * mask).sum(1)
        return total / mask.sum(1) if read.startswith("mean") else total
    last = mask.sum(1, keepdim=True) - 1 + {"after": 1, "before": -1}.get(read, 0)
    return scores.gather(1, last.clamp(0, scores.shape[1] - 1))[:, 0]


def log_sigmoid(d: torch.Tensor, log: str = "") -> torch.Tensor:
    """log sigmoid(d), on request with the mistakes in it that lessons 02 and 04 name."""
    p = d.sigmoid()
    if log.startswith("1e"):
        return (p + float(log)).log()
    return {
        "sigmoid": p,
        "one minus": p - 1,
        "neither": d,
        "late": p.log(),
        "bce": p.log().clamp(min=-100),
    }.get(log, F.logsigmoid(d))


def _bradley_terry(
    chosen_scores,
    chosen_mask,
    rejected_scores,
    rejected_mask,
    read="last",
    difference="",
    log="",
    mean="",
    minus="",
):
    """The Bradley-Terry loss, with the mistakes named in `_BRADLEY_TERRY_MISTAKES` on request."""
    if read.startswith("tokens"):
        kept = {
            "tokens, chosen mask": chosen_mask,
            "tokens, both masks": chosen_mask * rejected_mask,
        }.get(read, torch.ones_like(chosen_mask))
        chosen, rejected = chosen_scores[kept.bool()], rejected_scores[kept.bool()]
    else:
        chosen = _read(chosen_scores, chosen_mask, read)
        ends = chosen_mask if read == "one mask" else rejected_mask
        rejected = _read(rejected_scores, ends, read)

    def score(d):
        """log sigmoid(d)."""
        return d.sigmoid().mean().log() if mean == "before log" else log_sigmoid(d, log)

    if difference in ("two terms", "two logs"):
        other = score(-rejected) if difference == "two terms" else -score(rejected)
        scores = score(chosen) + other
    else:
        d = {
            "swapped": rejected - chosen,
            "chosen": chosen,
            "rejected": -rejected,
            "sum": chosen + rejected,
            "ratio": chosen / rejected,
            "chosen twice": chosen - chosen,
        }.get(difference, chosen - rejected)
        scores = score(d.mean() if mean == "inside" else d)
    result = scores.sum() if mean == "sum" else scores.mean()
    return result if minus == "none" else -result


def bradley_terry_loss(fn: Callable) -> None:
    """Check `fn(chosen_scores, chosen_mask, rejected_scores, rejected_mask) -> scalar`; prints.

    Scores are what a scalar head returns at every token, chosen (B, L) and rejected (B, M); masks
    are integers of the same shapes, 1 on tokens, 0 on the padding at the right. The reward of an
    answer is the score at its last token; the loss is the mean of -log sigmoid of the difference.
    """

    def reference(chosen_scores, chosen_mask, rejected_scores, rejected_mask):
        chosen = values.last_token(chosen_scores, chosen_mask)
        rejected = values.last_token(rejected_scores, rejected_mask)
        return losses.bradley_terry_loss(chosen, rejected)[0]

    cases = [
        worked_case(
            chosen_scores=torch.tensor([[1.0, 3.0, -4.0], [5.0, -2.0, 1.0]]),
            chosen_mask=torch.tensor([[1, 1, 0], [1, 1, 1]]),
            rejected_scores=torch.tensor([[4.0, -1.0, 1.0], [-3.0, 2.0, 6.0]]),
            rejected_mask=torch.tensor([[1, 1, 1], [1, 1, 0]]),
        ),
        # The model is sure of the wrong order: sigmoid(-200) is 0 in float32.
        worked_case(
            chosen_scores=torch.tensor([[1.0, -100.0]]),
            chosen_mask=torch.tensor([[1, 1]]),
            rejected_scores=torch.tensor([[2.0, 100.0]]),
            rejected_mask=torch.tensor([[1, 1]]),
        ),
    ]
    generator = torch.Generator().manual_seed(0)
    for chosen_lengths, rejected_lengths in (((4, 2, 5), (3, 7, 6)), ((3, 6, 2, 4), (5, 2, 8, 3))):
        args = []
        for lengths in (chosen_lengths, rejected_lengths):
            mask = ragged_mask(lengths)
            args += [2 * torch.randn(mask.shape, generator=generator), mask.long()]
        cases.append(Case(tuple(args), f"a random batch of {len(lengths)} ragged pairs"))
    judge(
        fn,
        reference=reference,
        cases=cases,
        success="loss and gradients equal utils.losses.bradley_terry_loss of the scores at the "
        f"last tokens, on {len(cases)} batches.",
        grad_args=["chosen_scores", "rejected_scores"],
        error_hints=_BRADLEY_TERRY_ERRORS,
        **with_pairs(_bradley_terry, _BRADLEY_TERRY_MISTAKES),
    )
