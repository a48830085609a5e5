"""Exercises of lesson 00: the REINFORCE gradient, leave-one-out, the k3 estimate of the KL."""

import torch
import torch.nn.functional as F

from exercises.calls import Case, worked_case
from exercises.judge import Exercise
from exercises.shared import DIVIDED
from utils import kl
from utils.advantages import group_advantages


def my_k3(logprobs, ref_logprobs):
    r = logprobs - ref_logprobs
    return torch.exp(-r) - 1 + r


_K3 = "k3 is exp(-r) - 1 + r with r = logprobs - ref_logprobs."
_K3_MISTAKES = f"""
Sign of the log-ratio flipped: exp(r) - 1 - r estimates something else, not KL(policy || ref). {_K3}
    logprobs - ref_logprobs -> ref_logprobs - logprobs
Log-probs divided: the log of a ratio is the *difference* of the logs. {_K3}
    logprobs - ref_logprobs -> logprobs / ref_logprobs
    torch.exp(-r) - 1 + r -> ref_logprobs / logprobs - 1 - (ref_logprobs / logprobs).log()
Log of the log-probs: they are logs already, below 0, so it is NaN. Take their difference.
    logprobs - ref_logprobs -> logprobs.log() - ref_logprobs.log()
Probabilities subtracted: r is the difference of the log-probs, as they come in.
    logprobs - ref_logprobs -> logprobs.exp() - ref_logprobs.exp()
{DIVIDED}
    torch.exp(-r) -> ref_logprobs.exp() / logprobs.exp()
    logprobs - ref_logprobs -> (logprobs.exp() / ref_logprobs.exp()).log()
That is k1, r itself: unbiased, but often negative. {_K3}
    torch.exp(-r) - 1 + r -> r
That is k2, r^2 / 2: never negative, but biased. {_K3}
    torch.exp(-r) - 1 + r -> r**2 / 2
Minus lost inside exp: yours goes below 0. r has one sign inside exp, the other outside. {_K3}
    torch.exp(-r) -> torch.exp(r)
r subtracted instead of added: yours goes below 0. r has one sign inside exp, the other outside.
{_K3}
    - 1 + r -> - 1 - r
+ r missing: exp(-r) - 1 alone has expectation 0. {_K3}
    - 1 + r -> - 1
- 1 missing: where policy and reference agree, k3 is 0. {_K3}
    - 1 + r -> + r
1 added instead of subtracted: where policy and reference agree, k3 is 0. {_K3}
    - 1 + r -> + 1 + r
exp missing: -r - 1 + r is -1 everywhere. {_K3}
    torch.exp(-r) -> -r
Weighted by the probability: the tokens were drawn with it already. {_K3}
    torch.exp(-r) - 1 + r -> logprobs.exp() * r
One number per token, not their mean or sum: the same shape as the log-probs.
    torch.exp(-r) - 1 + r -> (torch.exp(-r) - 1 + r).mean() | (torch.exp(-r) - 1 + r).sum()
    torch.exp(-r) - 1 + r -> (torch.exp(-r) - 1 + r).mean(-1) | (torch.exp(-r) - 1 + r).sum(-1)
"""


def _k3_cases():
    # r = 1, -1, 0 and -2, 1, 2; e^-110 is 0 in float32.
    yield worked_case(
        logprobs=[[-1.0, -2.0, -0.5], [-3.0, -110.0, -1.0]],
        ref_logprobs=[[-2.0, -1.0, -0.5], [-1.0, -111.0, -3.0]],
    )
    generator = torch.Generator().manual_seed(0)
    for shape in ((7,), (3, 4)):
        args = [-4 * torch.rand(shape, generator=generator) - 0.1 for _ in range(2)]
        yield Case(tuple(args), f"random log-probs of shape {shape}")


k3 = Exercise(
    reference=kl.k3,
    answer=my_k3,
    mistakes=_K3_MISTAKES,
    cases=list(_k3_cases()),
    success="values and gradients equal utils.kl.k3",
    grads=["logprobs"],
)


def my_reinforce_gradient(logits, actions, rewards, baseline):
    probs = logits.softmax(0)
    directions = F.one_hot(actions, len(logits)) - probs
    weights = rewards - baseline
    return (weights[:, None] * directions).mean(0)


_SCORE = "The gradient of log pi(a) is one-hot(a) - probs."
_REINFORCE_MISTAKES = f"""
- probs missing: raising one token must lower the others. {_SCORE}
    len(logits)) - probs -> len(logits)).float()
Only the sampled tokens' entries moved: the others go down, too. {_SCORE}
    len(logits)) - probs -> len(logits)) * (1 - probs)
Gradient of the probability instead of its log: likely tokens come up often, so their probability
would count twice. {_SCORE}
    (weights[:, None] -> ((weights * probs[actions])[:, None]
Log-probabilities in place of probabilities: softmax, not log_softmax. {_SCORE}
    softmax(0) -> log_softmax(0)
Logits in place of probabilities: take their softmax first. {_SCORE}
    logits.softmax(0) -> logits
Sigmoid in place of softmax: the probabilities of the tokens add up to 1. {_SCORE}
    logits.softmax(0) -> logits.sigmoid()
exp of the logits overflows where they are large, and inf / inf is NaN: use softmax. {_SCORE}
    logits.softmax(0) -> logits.exp() / logits.exp().sum()
one_hot without the number of tokens: its width is then the largest action + 1. Use
one_hot(actions, len(logits)).
    F.one_hot(actions, len(logits)) -> F.one_hot(actions)
Baseline not subtracted: the weight of a sample is reward - baseline.
    rewards - baseline -> rewards
Baseline added: the weight of a sample is reward - baseline.
    rewards - baseline -> rewards + baseline
Mean of these rewards used as baseline: the one to subtract is given.
    rewards - baseline -> rewards - rewards.mean()
Sum instead of mean: divide by the number of samples.
    .mean(0) -> .sum(0)
Divided by the number of tokens: divide by the number of samples.
    .mean(0) -> .sum(0) / len(logits)
Averaged over the vocabulary: the result is one number per token of the vocabulary, (n_v,).
    .mean(0) -> .mean() | .mean(1)
Mean weight times mean direction: multiply sample by sample, then take the mean.
    (weights[:, None] * directions).mean(0) -> weights.mean() * directions.mean(0)
Sign flipped: that is the gradient of a loss, to go down. Asked for is that of the expected reward,
to go up.
    return ( -> return -(
"""


def _reinforce(logits, actions, rewards, baseline):
    leaf = logits.detach().requires_grad_()
    logprobs = leaf.log_softmax(0)[actions]
    return torch.autograd.grad(((rewards - baseline) * logprobs).mean(), leaf)[0]


def _reinforce_cases():
    yield worked_case(
        logits=[0.0, 0.0, 0.0, 0.0], actions=[0, 2, 0], rewards=[3.0, 1.0, 4.0], baseline=1.0
    )
    generator = torch.Generator().manual_seed(0)
    for vocabulary, n, baseline, shift in ((3, 5, 0.5, 0), (6, 4, -1.0, 100)):
        logits = torch.randn(vocabulary, generator=generator) + shift
        actions = torch.randint(vocabulary, (n,), generator=generator)
        rewards = 2 * torch.randn(n, generator=generator)
        text = f"random samples ({n} samples, {vocabulary} tokens, baseline {baseline}, logits "
        yield Case((logits, actions, rewards, baseline), f"{text}around {shift})")


reinforce_gradient = Exercise(
    reference=_reinforce,
    answer=my_reinforce_gradient,
    mistakes=_REINFORCE_MISTAKES,
    cases=list(_reinforce_cases()),
    success="equal to the gradient by autograd",
    hints={
        "must match the size": "The advantages are (n,), the directions (n, n_v): use "
        "(rewards - baseline)[:, None]. And one_hot needs the number of tokens, len(logits)."
    },
)


def my_leave_one_out(rewards, group_size):
    groups = rewards.view(-1, group_size)
    total = groups.sum(1, keepdim=True)
    others = (total - groups) / (group_size - 1)
    return (groups - others).flatten()


_OTHERS = "from each reward subtract the mean of the *other* rewards of its group."
_LEAVE_ONE_OUT_MISTAKES = f"""
Mean of the whole group: the completion is in it, which shrinks the gradient. It is: {_OTHERS}
    (total - groups) / (group_size - 1) -> total / group_size
Own reward left out of the sum, but counted: there are group_size - 1 others.
    / (group_size - 1) -> / group_size
Own reward not left out of the sum: {_OTHERS}
    (total - groups) -> total
Sum of the others instead of their mean: divide by group_size - 1.
    / (group_size - 1) ->
The batch instead of the group: completions of other prompts say nothing about this one.
    groups.sum(1, keepdim=True) -> rewards.sum()
    groups.sum(1, keepdim=True) -> rewards.sum() ; / (group_size - 1) -> / (len(rewards) - 1)
    (total - groups) / (group_size - 1) -> rewards.mean()
Baseline returned instead of the advantage: subtract it from the reward.
    (groups - others) -> others
Sign flipped: a completion that is better than the others must be above 0.
    (groups - others) -> (others - groups)
Divided by the std of the group: leave-one-out only subtracts.
    (groups - others) -> ((groups - others) / groups.std(1, keepdim=True))
    (groups - others) -> ((groups - others) / (groups.std(1, keepdim=True) + 1e-4))
keepdim=True missing: the sums are then (Q,), and meet (Q, group_size) at the wrong dimension, or
not at all.
    (1, keepdim=True) -> (1)
Sums over the wrong dimension: dim 1 of (Q, group_size) is the group, dim 0 the prompts.
    (1, keepdim -> (0, keepdim
Groups mixed up: rewards are prompt-major, so rewards.view(-1, group_size) has one row per prompt.
    view(-1, group_size) -> view(group_size, -1) | view(group_size, -1).T
    view(-1, group_size) -> view(group_size, -1) ; (1, keepdim -> (0, keepdim
Not flattened: the result is flat, as the rewards came, (Q * G,).
    .flatten() ->
"""


def _leave_one_out(rewards, group_size):
    return group_advantages(rewards, group_size, "none") * group_size / (group_size - 1)


def _leave_one_out_cases():
    yield worked_case(rewards=[2.0, 4.0, 9.0, 5.0, 5.0, 5.0], group_size=3)
    generator = torch.Generator().manual_seed(0)
    for prompts, group_size in ((3, 2), (2, 5), (4, 4)):
        rewards = 3 * torch.randn(prompts * group_size, generator=generator)
        text = f"random rewards ({prompts} prompts, group_size {group_size})"
        yield Case((rewards, group_size), text)


leave_one_out = Exercise(
    reference=_leave_one_out,
    answer=my_leave_one_out,
    mistakes=_LEAVE_ONE_OUT_MISTAKES,
    cases=list(_leave_one_out_cases()),
    success="equal to each reward minus the mean of its group's others",
)
