"""Exercises of lesson 04: sums of log-probs, the implicit reward, the DPO loss, DPOP's penalty."""

import torch
import torch.nn.functional as F

from exercises.calls import Case, ragged_mask, worked_case
from exercises.judge import Exercise
from exercises.shared import LOG_SIGMOID_MISTAKES
from relatives.dpo import dpo_variant_loss
from utils import losses
from utils.logprobs import masked_sum, token_logprobs


def my_logprob_sum(logits, input_ids, completion_mask):
    before = logits[:, :-1]
    logprobs = torch.log_softmax(before, dim=-1)
    ids = input_ids[:, 1:]
    token = logprobs.gather(-1, ids[..., None])[..., 0]
    counted = completion_mask[:, 1:]
    return (token * counted).sum(1)


_SHIFT = "logits[:, t] predicts the token at t + 1: drop the last logits and the first id."
_LOGPROB = "The log-prob of a token is log_softmax(logits, dim=-1) at its id."
_TOTAL = "It is the sum of the token log-probs where the mask is 1, one number per row."
_LOGPROB_SUM_MISTAKES = f"""
No shift by one: yours scores each token with the logits that have seen it. {_SHIFT}
    logits[:, :-1] -> logits ; input_ids[:, 1:] -> input_ids ;
        completion_mask[:, 1:] -> completion_mask
Shift the wrong way round. {_SHIFT}
    logits[:, :-1] -> logits[:, 1:] ; input_ids[:, 1:] -> input_ids[:, :-1] ;
        completion_mask[:, 1:] -> completion_mask[:, :-1]
    logits[:, :-1] -> logits[:, 1:] ; input_ids[:, 1:] -> input_ids[:, :-1]
Mask not shifted with the ids: completion_mask[:, 1:] stands beside input_ids[:, 1:].
    completion_mask[:, 1:] -> completion_mask[:, :-1]
Mask ignored: prompt and padding count in your sum. {_TOTAL}
    token * counted -> token
Mask upside down: it is 1 on the completion. {_TOTAL}
    completion_mask[:, 1:] -> 1 - completion_mask[:, 1:]
Mean log-prob instead of the sum. {_TOTAL}
    .sum(1) -> .sum(1) / counted.sum(1)
Mean over all positions instead of the sum. {_TOTAL}
    .sum(1) -> .mean(1)
Summed over the whole batch: sum each row, dim=1. {_TOTAL}
    .sum(1) -> .sum()
Summed over the rows (dim 0): sum each row, dim=1. {_TOTAL}
    .sum(1) -> .sum(0)
Not summed: one number per token. {_TOTAL}
    .sum(1) ->
Sign flipped: that is the negative log-likelihood. {_TOTAL}
    return (token -> return -(token
Logits instead of log-probs. {_LOGPROB}
    torch.log_softmax(before, dim=-1) -> before
Probabilities instead of log-probs. {_LOGPROB}
    torch.log_softmax -> torch.softmax
softmax, then log: a small probability rounds to 0, and its log is lost; a small number added, or a
clamp, only hides it. {_LOGPROB}
    torch.log_softmax(before, dim=-1) -> torch.softmax(before, dim=-1).log()
    torch.log_softmax(before, dim=-1) -> (torch.softmax(before, dim=-1) + EPS).log()
    torch.log_softmax(before, dim=-1) -> torch.softmax(before, dim=-1).clamp(EPS).log()
softmax over the positions: the vocabulary is the last dimension. {_LOGPROB}
    dim=-1 -> dim=1
The most likely token's log-prob: look up the one that stands in the text. {_LOGPROB}
    logprobs.gather(-1, ids[..., None])[..., 0] -> logprobs.max(-1).values
"""


def _logprob_sum(logits, input_ids, completion_mask):
    return masked_sum(token_logprobs(logits, input_ids), completion_mask[:, 1:], dim=1)


def _logprob_sum_cases():
    # log_softmax of (0, 0, -200) is (-ln 2, -ln 2, -200 - ln 2), of (0, -110, -200) it is itself.
    yield worked_case(
        logits=[
            [[5.0, 0.0, -200.0], [0.0, 0.0, -200.0], [0.0, -110.0, -200.0], [1.0, 1.0, -200.0]],
            [[0.0, 0.0, -200.0], [0.0, 3.0, -200.0], [2.0, 2.0, -200.0], [0.0, 9.0, -200.0]],
        ],
        input_ids=[[0, 1, 0, 1], [1, 0, 1, 0]],
        completion_mask=[[0.0, 0.0, 1.0, 1.0], [0.0, 1.0, 1.0, 0.0]],
    )
    generator = torch.Generator().manual_seed(0)
    for starts, lengths, vocabulary, scale in (
        ((1, 3, 2), (5, 4, 6), 7, 1),
        ((2, 1), (3, 4), 4, 9),
    ):
        upto, prompt = ragged_mask(lengths), torch.zeros(len(lengths), max(lengths))
        prompt[:, : max(starts)] = ragged_mask(starts)
        logits = scale * torch.randn(*upto.shape, vocabulary, generator=generator)
        ids = torch.randint(vocabulary, upto.shape, generator=generator)
        text = f"random logits of {len(lengths)} rows, {max(lengths)} tokens, {vocabulary} words"
        yield Case((logits, ids, upto - prompt), text)


logprob_sum = Exercise(
    reference=_logprob_sum,
    answer=my_logprob_sum,
    mistakes=_LOGPROB_SUM_MISTAKES,
    cases=list(_logprob_sum_cases()),
    success="values and gradients equal the sums of utils.logprobs.token_logprobs",
    grads=["logits"],
    hints={"Expected index": "the ids need one more dimension: ids[..., None] is (B, L - 1, 1)."},
)


def my_implicit_reward(policy_logprobs, ref_logprobs, mask, beta):
    log_ratio = policy_logprobs - ref_logprobs
    return beta * (log_ratio * mask).sum(1)


_IMPLICIT = "It is beta * (log pi - log ref), the log-probs summed over the completion's tokens."
_IMPLICIT_MISTAKES = f"""
Reference missing: how likely an answer is says nothing about its reward. {_IMPLICIT}
    policy_logprobs - ref_logprobs -> policy_logprobs
Policy missing. {_IMPLICIT}
    policy_logprobs - ref_logprobs -> ref_logprobs
Sign flipped: what the policy made likelier has a positive reward. {_IMPLICIT}
    policy_logprobs - ref_logprobs -> ref_logprobs - policy_logprobs
Log-probs added: the log of a ratio is a difference. {_IMPLICIT}
    policy_logprobs - ref_logprobs -> policy_logprobs + ref_logprobs
Log-probs divided: the log of a ratio is a difference of logs. {_IMPLICIT}
    policy_logprobs - ref_logprobs -> policy_logprobs / ref_logprobs
    policy_logprobs - ref_logprobs -> (policy_logprobs / ref_logprobs).log()
    beta * (log_ratio * mask).sum(1) ->
        beta * ((policy_logprobs * mask).sum(1) / (ref_logprobs * mask).sum(1)).log()
Ratio instead of log-ratio: no exp. {_IMPLICIT}
    policy_logprobs - ref_logprobs -> (policy_logprobs - ref_logprobs).exp()
    return beta * (log_ratio * mask).sum(1) -> return beta * (log_ratio * mask).sum(1).exp()
Probabilities subtracted. {_IMPLICIT}
    policy_logprobs - ref_logprobs -> policy_logprobs.exp() - ref_logprobs.exp()
Mask ignored: padding counts in your sum. {_IMPLICIT}
    log_ratio * mask -> log_ratio
Mean over the tokens instead of the sum. {_IMPLICIT}
    .sum(1) -> .sum(1) / mask.sum(1)
Mean over all positions instead of the sum. {_IMPLICIT}
    .sum(1) -> .mean(1)
Not summed: one reward per completion, (B,). {_IMPLICIT}
    .sum(1) ->
Summed over the whole batch: sum each row, dim=1. {_IMPLICIT}
    .sum(1) -> .sum()
beta not used. {_IMPLICIT}
    beta * (log_ratio -> (log_ratio
Divided by beta: beta is the price of a nat. {_IMPLICIT}
    beta * (log_ratio * mask).sum(1) -> (log_ratio * mask).sum(1) / beta
beta on the policy's side only: it multiplies the whole log-ratio.
    return beta -> return 1 ; policy_logprobs - ref_logprobs ->
        beta * policy_logprobs - ref_logprobs
"""


def _implicit_reward(policy_logprobs, ref_logprobs, mask, beta):
    return beta * (masked_sum(policy_logprobs, mask, 1) - masked_sum(ref_logprobs, mask, 1))


def _implicit_cases():
    yield worked_case(
        policy_logprobs=[[-1.0, -2.0, -110.0], [-0.5, -4.0, -7.0]],
        ref_logprobs=[[-2.0, -2.5, -112.0], [-1.5, -1.0, -3.0]],
        mask=[[1.0, 1.0, 1.0], [1.0, 1.0, 0.0]],
        beta=0.5,
    )
    generator = torch.Generator().manual_seed(0)
    for lengths, beta in (((4, 2, 5), 0.1), ((3, 6), 0.7)):
        mask = ragged_mask(lengths)
        both = [-3 * torch.rand(mask.shape, generator=generator) - 0.1 for _ in range(2)]
        yield Case((*both, mask, beta), f"random log-probs, {lengths} tokens, beta {beta}")


implicit_reward = Exercise(
    reference=_implicit_reward,
    answer=my_implicit_reward,
    mistakes=_IMPLICIT_MISTAKES,
    cases=list(_implicit_cases()),
    success="rewards and gradients equal beta times the summed log-ratio",
    grads=["policy_logprobs"],
)


def my_dpop_loss(chosen_log_ratio, rejected_log_ratio, beta, dpop_lambda):
    penalty = torch.clamp(-chosen_log_ratio, min=0)
    d = beta * (chosen_log_ratio - rejected_log_ratio - dpop_lambda * penalty)
    return -F.logsigmoid(d).mean()


_PENALTY = "The penalty is max(0, -chosen_log_ratio): what the chosen answer lost, in nats."
_PLACE = (
    "It stands inside: "
    "-log sigmoid(beta * (chosen_log_ratio - rejected_log_ratio - lambda * penalty))."
)
_DPOP_MISTAKES = f"""
Penalty for a chosen answer that became *more* likely. {_PENALTY}
    clamp(-chosen_log_ratio -> clamp(chosen_log_ratio
Penalty on the rejected answer. {_PENALTY}
    clamp(-chosen_log_ratio -> clamp(-rejected_log_ratio | clamp(rejected_log_ratio
No max(0, ...): a chosen answer that gained is paid for it. {_PENALTY}
    torch.clamp(-chosen_log_ratio, min=0) -> -chosen_log_ratio
min instead of max. {_PENALTY}
    min=0 -> max=0
The whole margin clamped instead of what the chosen answer lost. {_PENALTY}
    clamp(-chosen_log_ratio -> clamp(rejected_log_ratio - chosen_log_ratio
Penalty squared. {_PENALTY}
    torch.clamp(-chosen_log_ratio, min=0) -> torch.clamp(-chosen_log_ratio, min=0) ** 2
Penalty added to the margin, which rewards the loss. {_PLACE}
    - dpop_lambda * penalty -> + dpop_lambda * penalty
Penalty left out: that is plain DPO. {_PLACE}
    - dpop_lambda * penalty ->
lambda not used. {_PLACE}
    dpop_lambda * penalty -> penalty
beta not on the penalty. {_PLACE}
    beta * (chosen_log_ratio - rejected_log_ratio - dpop_lambda * penalty) ->
        beta * (chosen_log_ratio - rejected_log_ratio) - dpop_lambda * penalty
Penalty outside the sigmoid. {_PLACE}
    - dpop_lambda * penalty) -> ) ;
        -F.logsigmoid(d).mean() -> (beta * dpop_lambda * penalty - F.logsigmoid(d)).mean()
    - dpop_lambda * penalty) -> ) ;
        -F.logsigmoid(d).mean() -> (dpop_lambda * penalty - F.logsigmoid(d)).mean()
beta not used. {_PLACE}
    beta * ( -> (
beta twice. {_PLACE}
    d = beta -> d = beta * beta
    beta * (chosen_log_ratio - rejected_log_ratio - dpop_lambda ->
        beta * (beta * (chosen_log_ratio - rejected_log_ratio) - dpop_lambda
Chosen and rejected swapped in the margin. {_PLACE}
    chosen_log_ratio - rejected_log_ratio -> rejected_log_ratio - chosen_log_ratio
"""


def _dpop(chosen_log_ratio, rejected_log_ratio, beta, dpop_lambda):
    none = torch.zeros_like(chosen_log_ratio)
    options = {"loss_type": "dpop", "dpop_lambda": dpop_lambda}
    return dpo_variant_loss(chosen_log_ratio, rejected_log_ratio, none, none, beta, **options)


def _dpop_cases():
    yield worked_case(
        chosen_log_ratio=[2.0, -3.0], rejected_log_ratio=[-2.0, -7.0], beta=0.5, dpop_lambda=2.0
    )
    # sigmoid(-150) is 0 in float32.
    yield worked_case(
        chosen_log_ratio=[-30.0, 1.0, -2.0],
        rejected_log_ratio=[120.0, -4.0, 3.0],
        beta=0.5,
        dpop_lambda=5.0,
    )
    generator = torch.Generator().manual_seed(0)
    for n, beta, weight in ((4, 0.1, 5.0), (7, 0.6, 0.5)):
        ratios = [3 * torch.randn(n, generator=generator) for _ in range(2)]
        yield Case((*ratios, beta, weight), f"random log-ratios of {n} pairs, beta {beta}")


dpop_loss = Exercise(
    reference=_dpop,
    answer=my_dpop_loss,
    mistakes=_DPOP_MISTAKES + LOG_SIGMOID_MISTAKES,
    cases=list(_dpop_cases()),
    success="loss and gradients equal relatives.dpo",
    grads=["chosen_log_ratio", "rejected_log_ratio"],
)


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
_MARGIN = "The difference is (policy_chosen - ref_chosen) - (policy_rejected - ref_rejected)."
_INSIDE = "the loss is -log sigmoid(margin), and margin = beta * difference."
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
    SIDE - ref_SIDE -> SIDE / ref_SIDE | (SIDE / ref_SIDE).log()
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
beta on the policy's terms only: it multiplies the whole difference.
    beta * (chosen_ratio - rejected_ratio) ->
        beta * (chosen - rejected) - (ref_chosen - ref_rejected)
beta on the chosen side only: it multiplies the whole difference.
    beta * (chosen_ratio - rejected_ratio) -> beta * chosen_ratio - rejected_ratio
beta on the rejected side only: it multiplies the whole difference.
    beta * (chosen_ratio - rejected_ratio) -> chosen_ratio - beta * rejected_ratio
beta ignored: you use 0.1 whatever beta is.
    d = beta -> d = 0.1
beta twice: the margin already holds it; {_INSIDE}
    d = beta -> d = beta * beta
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
