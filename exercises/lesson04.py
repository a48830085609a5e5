"""Exercise of lesson 04: the DPO loss from token log-probs."""

import torch
import torch.nn.functional as F

from exercises.calls import Case, ragged_mask, worked_case
from exercises.judge import Exercise
from exercises.shared import LOG_SIGMOID_MISTAKES
from utils import losses
from utils.logprobs import masked_sum


def my_dpo_loss(
    policy_chosen_logprobs,
    chosen_mask,
    policy_rejected_logprobs,
    rejected_mask,
    ref_chosen,
    ref_rejected,
    beta,
):
    chosen = (policy_chosen_logprobs * chosen_mask).sum(1)
    rejected = (policy_rejected_logprobs * rejected_mask).sum(1)
    chosen_ratio = chosen - ref_chosen
    rejected_ratio = rejected - ref_rejected
    d = beta * (chosen_ratio - rejected_ratio)
    return -F.logsigmoid(d).mean()


_SUM = "The log-prob of a completion is the sum of its token log-probs where the mask is 1."
_MARGIN = "It is (policy_chosen - ref_chosen) - (policy_rejected - ref_rejected)."
_INSIDE = "the loss is -log sigmoid(beta * margin)."
_MISTAKES = f"""
Mean log-prob instead of the sum. {_SUM}
    SIDE_mask).sum(1) -> SIDE_mask).sum(1) / SIDE_mask.sum(1)
Mean over all positions, padding too, instead of the sum. {_SUM}
    (policy_SIDE_logprobs * SIDE_mask).sum(1) -> policy_SIDE_logprobs.mean(1)
Mean over all positions instead of the sum. {_SUM}
    SIDE_mask).sum(1) -> SIDE_mask).mean(1)
Log-ratios divided by the length: DPO compares sums (dividing is another method's choice). {_SUM}
    SIDE_ratio = SIDE - ref_SIDE -> SIDE_ratio = (SIDE - ref_SIDE) / SIDE_mask.sum(1)
Mask ignored: padding counts in your sums. {_SUM}
    policy_SIDE_logprobs * SIDE_mask -> policy_SIDE_logprobs
Rejected tokens summed with chosen_mask: use rejected_mask for them.
    policy_rejected_logprobs * rejected_mask -> policy_rejected_logprobs * chosen_mask
Summed over the whole batch: sum each row, dim=1. {_SUM}
    SIDE_mask).sum(1) -> SIDE_mask).sum()
Only the last token of each completion. {_SUM}
    (policy_SIDE_logprobs * SIDE_mask).sum(1) ->
        policy_SIDE_logprobs.gather(1, SIDE_mask.sum(1, keepdim=True).long() - 1)[:, 0]
Probabilities added up, not log-probs: leave out the exp. {_SUM}
    policy_SIDE_logprobs * SIDE_mask -> policy_SIDE_logprobs.exp() * SIDE_mask
Reference terms missing: that compares with nothing. {_MARGIN}
    SIDE - ref_SIDE -> SIDE
Reference term missing: ref_chosen is not used. {_MARGIN}
    chosen - ref_chosen -> chosen
Reference term missing: ref_rejected is not used. {_MARGIN}
    rejected - ref_rejected -> rejected
Reference added (or ref_chosen and ref_rejected swapped). {_MARGIN}
    SIDE - ref_SIDE -> SIDE + ref_SIDE
Sign of ref_rejected: minus before the bracket turns it around. {_MARGIN}
    rejected - ref_rejected -> rejected + ref_rejected
Log-probs divided: the log of a ratio is a difference of logs. {_MARGIN}
    SIDE - ref_SIDE -> SIDE / ref_SIDE
Ratios instead of log-ratios: no exp. {_MARGIN}
    SIDE - ref_SIDE -> (SIDE - ref_SIDE).exp()
Probabilities divided: exp of a summed log-prob rounds to 0, and 0 / 0 is NaN. Subtract the
log-probs. {_MARGIN}
    SIDE - ref_SIDE -> (SIDE.exp() / ref_SIDE.exp()).log()
Sign flipped: chosen and rejected are swapped. {_MARGIN}
    chosen_ratio - rejected_ratio -> rejected_ratio - chosen_ratio
No difference between chosen and rejected. {_MARGIN}
    chosen_ratio - rejected_ratio -> chosen_ratio | -rejected_ratio | chosen_ratio + rejected_ratio
    F.logsigmoid(d) -> (F.logsigmoid(beta * chosen_ratio) + F.logsigmoid(-beta * rejected_ratio))
    F.logsigmoid(d) -> (F.logsigmoid(beta * chosen_ratio) - F.logsigmoid(beta * rejected_ratio))
beta not used: {_INSIDE}
    beta * (chosen -> (chosen
beta outside the sigmoid: {_INSIDE}
    beta * (chosen -> (chosen ; return -F -> return -beta * F
Divided by beta: {_INSIDE}
    beta * (chosen_ratio - rejected_ratio) -> (chosen_ratio - rejected_ratio) / beta
beta on the policy's terms only: it multiplies the whole margin.
    beta * (chosen_ratio - rejected_ratio) ->
        beta * (chosen - rejected) - (ref_chosen - ref_rejected)
beta on the chosen side only: it multiplies the whole margin.
    beta * (chosen_ratio - rejected_ratio) -> beta * chosen_ratio - rejected_ratio
beta on the rejected side only: it multiplies the whole margin.
    beta * (chosen_ratio - rejected_ratio) -> chosen_ratio - beta * rejected_ratio
beta ignored: you use 0.1 whatever beta is.
    d = beta -> d = 0.1
"""


def _reference(chosen, chosen_mask, rejected, rejected_mask, *rest):
    sums = masked_sum(chosen, chosen_mask, dim=1), masked_sum(rejected, rejected_mask, dim=1)
    return losses.dpo_loss(*sums, *rest)


def _cases():
    yield worked_case(
        policy_chosen_logprobs=[[-1.0, -2.0, -7.0], [-1.0, -1.0, -3.0]],
        chosen_mask=[[1.0, 1.0, 0.0], [1.0, 1.0, 1.0]],
        policy_rejected_logprobs=[[-2.0, -1.0, -3.0, -1.0], [-2.0, -4.0, -9.0, -5.0]],
        rejected_mask=[[1.0, 1.0, 1.0, 1.0], [1.0, 0.0, 0.0, 0.0]],
        ref_chosen=[-5.0, -4.0],
        ref_rejected=[-4.0, -3.0],
        beta=0.5,
    )
    # The policy is sure of the wrong order: sigmoid(-200) is 0 in float32, and so is e^-120.
    yield worked_case(
        policy_chosen_logprobs=[[-150.0, -70.0], [-121.0, -3.0]],
        chosen_mask=[[1.0, 1.0], [1.0, 0.0]],
        policy_rejected_logprobs=[[-4.0, -6.0], [-1.0, -3.0]],
        rejected_mask=[[1.0, 1.0], [1.0, 1.0]],
        ref_chosen=[-20.0, -120.0],
        ref_rejected=[-210.0, -6.0],
        beta=0.5,
    )
    generator = torch.Generator().manual_seed(0)
    for beta, *both in ((0.3, (4, 2, 5), (3, 7, 6)), (1.0, (3, 6, 2, 4), (5, 2, 6, 3))):
        args, refs = [], []
        for lengths in both:
            mask = ragged_mask(lengths)
            logprobs = -torch.randn(mask.shape, generator=generator).abs()
            args += [logprobs, mask]
            steps = torch.randn(len(lengths), generator=generator)
            refs.append((logprobs * mask).sum(1) + steps)
        yield Case((*args, *refs, beta), f"a random batch of {len(mask)} ragged pairs, beta {beta}")


dpo_loss = Exercise(
    reference=_reference,
    answer=my_dpo_loss,
    mistakes=_MISTAKES + LOG_SIGMOID_MISTAKES,
    cases=list(_cases()),
    success="loss and gradients equal utils.losses.dpo_loss of the summed log-probs,",
    grads=["policy_chosen_logprobs", "policy_rejected_logprobs"],
    hints={
        "must match the size": "ref_chosen and ref_rejected are (B,), one number per completion: "
        "sum the token log-probs of each row first, dim=1."
    },
)
