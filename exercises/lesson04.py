"""Exercise of lesson 04: the DPO loss from token log-probs."""

from collections.abc import Callable

import torch

from exercises.judge import Case, judge, ragged_mask, with_pairs, worked_case
from exercises.lesson02 import log_sigmoid
from utils import losses
from utils.logprobs import masked_sum

_SUM = "The log-prob of a completion is the sum of its token log-probs where the mask is 1."
_MARGIN = "It is (policy_chosen - ref_chosen) - (policy_rejected - ref_rejected)."
_DIFFERENCE = f"No difference between chosen and rejected. {_MARGIN}"
_INSIDE = "the loss is -log sigmoid(beta * margin)."
_NO_LOG = "sigmoid without log: the loss is the negative log-likelihood, -log sigmoid."
_UNDERFLOW = (
    "sigmoid (or softmax), then log: the probability rounds to 0 (or exp overflows) at a large "
    "negative margin, and the log is lost. Use logsigmoid."
)
_DPO_MISTAKES = {
    "sums": {
        "mean": f"Mean log-prob instead of the sum. {_SUM}",
        "mean of all": f"Mean over all positions, padding too, instead of the sum. {_SUM}",
        "masked mean of all": f"Mean over all positions instead of the sum. {_SUM}",
        "padding": f"Mask ignored: padding counts in your sums. {_SUM}",
        "one mask": "Rejected tokens summed with chosen_mask: use rejected_mask for them.",
        "batch": f"Summed over the whole batch: sum each row, dim=1. {_SUM}",
        "last": f"Only the last token of each completion. {_SUM}",
        "exp": f"Probabilities added up, not log-probs: leave out the exp. {_SUM}",
    },
    "reference": {
        "none": f"Reference terms missing: that compares with nothing. {_MARGIN}",
        "no chosen": f"Reference term missing: ref_chosen is not used. {_MARGIN}",
        "no rejected": f"Reference term missing: ref_rejected is not used. {_MARGIN}",
        "added": f"Reference added (or ref_chosen and ref_rejected swapped). {_MARGIN}",
        "one added": f"Sign of ref_rejected: minus before the bracket turns it around. {_MARGIN}",
        "quotient": f"Log-probs divided: the log of a ratio is a difference of logs. {_MARGIN}",
        "ratio": f"Ratios instead of log-ratios: no exp. {_MARGIN}",
    },
    "margin": {
        "swapped": f"Sign flipped: chosen and rejected are swapped. {_MARGIN}",
        **dict.fromkeys(["chosen", "rejected", "sum", "two terms"], _DIFFERENCE),
    },
    "beta_use": {
        "none": f"beta not used: {_INSIDE}",
        "outside": f"beta outside the sigmoid: {_INSIDE}",
        "divides": f"Divided by beta: {_INSIDE}",
        "policy": "beta on the policy's terms only: it multiplies the whole margin.",
        "fixed": "beta ignored: you use 0.1 whatever beta is.",
    },
    "log": {
        **dict.fromkeys(["sigmoid", "one minus"], _NO_LOG),
        "neither": "No sigmoid: minus the margin alone has no minimum. It is -log sigmoid.",
        **dict.fromkeys(["late", "1e-6", "1e-8", "1e-10", "1e-12", "bce"], _UNDERFLOW),
    },
    "mean": {
        "inside": "Mean before the log-sigmoid: take -logsigmoid of each pair, then the mean.",
        "sum": "Sum instead of mean: divide by the number of pairs.",
    },
    "minus": {"none": "Minus missing: the loss is minus the mean log-sigmoid."},
}
_DPO_ERRORS = {
    "must match the size": "ref_chosen and ref_rejected are (B,), one number a completion: sum the "
    "token log-probs of each row first, dim=1.",
}


def _sum(logprobs, mask, sums):
    """One log-prob a completion, (B,), or the wrong number called `sums`."""
    if sums == "exp":
        logprobs = logprobs.exp()
    if sums == "last":
        return logprobs.gather(1, mask.long().sum(1, keepdim=True) - 1)[:, 0]
    if sums == "batch":
        return (logprobs * mask).sum().expand(len(mask))
    if sums in ("padding", "mean of all"):
        mask = torch.ones_like(mask)
    total = (logprobs * mask).sum(1)
    if sums == "masked mean of all":
        return total / mask.shape[1]
    return total / mask.sum(1) if sums.startswith("mean") else total


def _dpo(
    policy_chosen_logprobs,
    chosen_mask,
    policy_rejected_logprobs,
    rejected_mask,
    ref_chosen,
    ref_rejected,
    beta,
    sums="",
    reference="",
    margin="",
    beta_use="",
    log="",
    mean="",
    minus="",
):
    """The DPO loss, with the mistakes named in `_DPO_MISTAKES` on request."""
    chosen = _sum(policy_chosen_logprobs, chosen_mask, sums)
    ends = chosen_mask if sums == "one mask" else rejected_mask
    rejected = _sum(policy_rejected_logprobs, ends, sums)
    scale = {"none": 1.0, "outside": 1.0, "divides": 1 / beta, "fixed": 0.1}.get(beta_use, beta)
    if beta_use == "policy":  # scaled by beta again below
        ref_chosen, ref_rejected = ref_chosen / beta, ref_rejected / beta
    chosen, rejected = {
        "none": (chosen, rejected),
        "no chosen": (chosen, rejected - ref_rejected),
        "no rejected": (chosen - ref_chosen, rejected),
        "added": (chosen + ref_chosen, rejected + ref_rejected),
        "one added": (chosen - ref_chosen, rejected + ref_rejected),
        "quotient": (chosen / ref_chosen, rejected / ref_rejected),
        "ratio": ((chosen - ref_chosen).exp(), (rejected - ref_rejected).exp()),
    }.get(reference, (chosen - ref_chosen, rejected - ref_rejected))

    if margin == "two terms":
        scores = log_sigmoid(scale * chosen, log) + log_sigmoid(-scale * rejected, log)
    else:
        z = scale * {
            "swapped": rejected - chosen,
            "chosen": chosen,
            "rejected": -rejected,
            "sum": chosen + rejected,
        }.get(margin, chosen - rejected)
        scores = log_sigmoid(z.mean() if mean == "inside" else z, log)
    result = scores.sum() if mean == "sum" else scores.mean()
    if beta_use == "outside":
        result = beta * result
    return result if minus == "none" else -result


def dpo_loss(fn: Callable) -> None:
    """Check `fn(policy_chosen_logprobs, chosen_mask, policy_rejected_logprobs, rejected_mask, ...)`

    The other arguments are ref_chosen, ref_rejected and beta; `fn` returns a scalar, the mean over
    the pairs. Prints. Token log-probs of the policy, chosen (B, T) and rejected (B, U), with masks
    of these shapes: 1.0 on completion tokens, 0.0 on the padding at the right. The reference's
    log-probs (B,) are already summed.
    """

    def reference(
        policy_chosen_logprobs,
        chosen_mask,
        policy_rejected_logprobs,
        rejected_mask,
        ref_chosen,
        ref_rejected,
        beta,
    ):
        chosen = masked_sum(policy_chosen_logprobs, chosen_mask, dim=1)
        rejected = masked_sum(policy_rejected_logprobs, rejected_mask, dim=1)
        return losses.dpo_loss(chosen, rejected, ref_chosen, ref_rejected, beta)[0]

    cases = [
        worked_case(
            policy_chosen_logprobs=torch.tensor([[-1.0, -2.0, -7.0], [-1.0, -1.0, -3.0]]),
            chosen_mask=torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 1.0]]),
            policy_rejected_logprobs=torch.tensor([[-2.0, -1.0, -3.0], [-2.0, -4.0, -9.0]]),
            rejected_mask=torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, 0.0]]),
            ref_chosen=torch.tensor([-5.0, -4.0]),
            ref_rejected=torch.tensor([-4.0, -3.0]),
            beta=0.5,
        ),
        # The policy is sure of the wrong order: sigmoid(-200) is 0 in float32.
        worked_case(
            policy_chosen_logprobs=torch.tensor([[-150.0, -70.0]]),
            chosen_mask=torch.tensor([[1.0, 1.0]]),
            policy_rejected_logprobs=torch.tensor([[-4.0, -6.0]]),
            rejected_mask=torch.tensor([[1.0, 1.0]]),
            ref_chosen=torch.tensor([-20.0]),
            ref_rejected=torch.tensor([-210.0]),
            beta=0.5,
        ),
    ]
    generator = torch.Generator().manual_seed(0)
    for chosen_lengths, rejected_lengths, beta in (
        ((4, 2, 5), (3, 7, 6), 0.3),
        ((3, 6, 2, 4), (5, 2, 8, 3), 1.0),
    ):
        args, refs = [], []
        for lengths in (chosen_lengths, rejected_lengths):
            mask = ragged_mask(lengths).float()
            logprobs = -torch.randn(mask.shape, generator=generator).abs()
            args += [logprobs, mask]
            steps = torch.randn(len(lengths), generator=generator)
            refs.append((logprobs * mask).sum(1) + steps)
        text = f"a random batch of {len(lengths)} ragged pairs, beta {beta}"
        cases.append(Case((*args, *refs, beta), text))
    judge(
        fn,
        reference=reference,
        cases=cases,
        success="loss and gradients equal utils.losses.dpo_loss of the summed log-probs, on "
        f"{len(cases)} batches.",
        grad_args=["policy_chosen_logprobs", "policy_rejected_logprobs"],
        error_hints=_DPO_ERRORS,
        **with_pairs(_dpo, _DPO_MISTAKES),
    )
