"""Exercises of lesson 03: the reward of each token, and the controller of the KL coefficient."""

import torch

from exercises.calls import Case, ragged_mask, worked_case
from exercises.judge import Exercise
from utils import advantages
from utils.kl import AdaptiveKLController


def my_rewards(scores, logprobs, ref_logprobs, mask, kl_coef):
    rewards = -kl_coef * (logprobs - ref_logprobs) * mask
    last = mask.sum(1).long() - 1
    rewards[torch.arange(len(rewards)), last] += scores
    return rewards


_PRICE = "Each token pays kl_coef * (logprobs - ref_logprobs)."
_LAST = "The score belongs to the last token whose mask is 1, and to no other."
_REWARD_MISTAKES = f"""
Sign of the price flipped: a token that is likelier than under the reference must pay, not earn.
{_PRICE}
    -kl_coef * (logprobs -> kl_coef * (logprobs
kl_coef not used. {_PRICE}
    -kl_coef * (logprobs - ref_logprobs) -> (ref_logprobs - logprobs)
No price for the KL: only the score is left. {_PRICE}
    -kl_coef * (logprobs - ref_logprobs) * mask -> torch.zeros_like(logprobs)
Reference left out: the log-prob itself is no distance from the reference. {_PRICE}
    logprobs - ref_logprobs -> logprobs
Probabilities subtracted: the price takes the difference of the *log*-probs, as they come in.
{_PRICE}
    logprobs - ref_logprobs -> logprobs.exp() - ref_logprobs.exp()
Log-probs divided: the log of a ratio is the difference of the logs. {_PRICE}
    logprobs - ref_logprobs -> logprobs / ref_logprobs
That is k3: here the price is k1, the plain log-ratio, whose gradient in the reward is right.
    (logprobs - ref_logprobs) -> ((ref_logprobs - logprobs).exp() - 1 + logprobs - ref_logprobs)
Absolute log-ratio: a token that is less likely than under the reference earns a little. {_PRICE}
    (logprobs - ref_logprobs) -> (logprobs - ref_logprobs).abs()
Price of the whole answer paid at its end: each token pays its own. {_PRICE}
    rewards = -kl_coef * (logprobs - ref_logprobs) * mask -> price, rewards = (
        (ref_logprobs - logprobs) * mask * kl_coef).sum(1), torch.zeros_like(logprobs) ;
        += scores -> += scores + price
Score on every token: a long answer would earn it many times. {_LAST}
    rewards[torch.arange(len(rewards)), last] += scores -> rewards = rewards + scores[:, None]
Score spread over the tokens of the answer. {_LAST}
    rewards[torch.arange(len(rewards)), last] += scores ->
        rewards = rewards + (scores / mask.sum(1))[:, None]
Score in the last column, which is padding in a shorter row. {_LAST}
    last = mask.sum(1).long() - 1 -> last = mask.shape[1] - 1
Score on the first token. {_LAST}
    last = mask.sum(1).long() - 1 -> last = 0
Score one token too early. {_LAST}
    last = mask.sum(1).long() - 1 -> last = mask.sum(1).long() - 2
Score of every row in every row's last columns: rewards[:, last] picks columns for all rows. {_LAST}
    rewards[torch.arange(len(rewards)), last] += scores -> rewards[:, last] += scores
Score in place of the last token's price: add it. {_LAST}
    += scores -> = scores
Score left out. {_LAST}
    += scores -> += 0
Score multiplied by kl_coef: the coefficient is the price of the KL only.
    += scores -> += kl_coef * scores
Score divided by the length of the answer: it is one number for the whole answer.
    += scores -> += scores / mask.sum(1)
"""


def _reward_cases():
    yield worked_case(
        scores=[3.0, -1.0],
        logprobs=[[-1.0, -2.0, -1.0], [-4.0, -2.0, -9.0]],
        ref_logprobs=[[-2.0, -1.0, -1.0], [-2.0, -3.0, -1.0]],
        mask=[[1.0, 1.0, 1.0], [1.0, 1.0, 0.0]],
        kl_coef=0.5,
    )
    generator = torch.Generator().manual_seed(0)
    for lengths, kl_coef in (((5, 1, 3), 0.2), ((2, 7), 1.5)):
        mask = ragged_mask(lengths)
        logprobs, ref_logprobs = -torch.randn((2, *mask.shape), generator=generator).abs()
        scores = torch.randn(len(lengths), generator=generator)
        text = f"a random batch (lengths {lengths}, kl_coef {kl_coef})"
        yield Case((scores, logprobs, ref_logprobs, mask, kl_coef), text)


kl_shaped_rewards = Exercise(
    reference=advantages.kl_shaped_rewards,
    answer=my_rewards,
    mistakes=_REWARD_MISTAKES,
    cases=list(_reward_cases()),
    success="rewards equal utils.advantages.kl_shaped_rewards",
    padding="mask",
    hints={
        "is out of bounds": f"The last token of a row of n tokens has index n - 1. {_LAST}",
        "used as indices must be long": "mask.sum(1) is a float: .long() makes indices of it.",
    },
)


def my_controller(coef, kl, target, n_samples, horizon):
    error = kl / target - 1
    error = min(max(error, -0.2), 0.2)
    return coef * (1 + error * n_samples / horizon)


_ERROR = "The error is kl / target - 1, clipped to [-0.2, 0.2]."
_FACTOR = "The new coefficient is coef * (1 + error * n_samples / horizon)."
_CONTROLLER_MISTAKES = f"""
Sign flipped: a KL above the target must raise the price. {_ERROR}
    kl / target - 1 -> 1 - kl / target
Target over KL: a KL above the target must raise the price. {_ERROR}
    kl / target - 1 -> target / kl - 1
Difference in place of a relative error. {_ERROR}
    kl / target - 1 -> kl - target
1 not subtracted: at the target the error is 0. {_ERROR}
    kl / target - 1 -> kl / target
No clip: one odd batch would move the price far. {_ERROR}
    min(max(error, -0.2), 0.2) -> error
Clipped from above only. {_ERROR}
    min(max(error, -0.2), 0.2) -> min(error, 0.2)
Clipped from below only. {_ERROR}
    min(max(error, -0.2), 0.2) -> max(error, -0.2)
Clipped to [0.8, 1.2]: these limits are for a ratio, which is around 1. {_ERROR}
    min(max(error, -0.2), 0.2) -> min(max(error, 0.8), 1.2)
Clipped too late: clip the error, then multiply by n_samples / horizon. {_ERROR}
    min(max(error, -0.2), 0.2) -> error ;
        error * n_samples / horizon -> min(max(error * n_samples / horizon, -0.2), 0.2)
n_samples left out: the horizon counts completions, not batches. {_FACTOR}
    error * n_samples / horizon -> error / horizon
horizon left out: the price would move at once. {_FACTOR}
    error * n_samples / horizon -> error
    error * n_samples / horizon -> error * n_samples
n_samples and horizon upside down. {_FACTOR}
    n_samples / horizon -> horizon / n_samples
Added to the coefficient in place of multiplied. {_FACTOR}
    coef * (1 + error * n_samples / horizon) -> coef + error * n_samples / horizon
The factor returned, not the coefficient. {_FACTOR}
    return coef * (1 -> return (1
The change returned, not the coefficient. {_FACTOR}
    (1 + error * n_samples / horizon) -> (error * n_samples / horizon)
"""


def _controller(coef, kl, target, n_samples, horizon):
    controller = AdaptiveKLController(float(coef), target, horizon)
    return torch.tensor(controller.update(float(kl), n_samples))


def _controller_cases():
    settings = [(0.1, kl, 5.0, 64, 256) for kl in (12.0, 5.5, 1.0, 5.0)]
    for coef, kl, target, n_samples, horizon in [*settings, (0.4, 2.2, 2.0, 300, 200)]:
        text = f"coef = torch.tensor({coef}), kl = torch.tensor({kl}), target = {target}, "
        text += f"n_samples = {n_samples}, horizon = {horizon}"
        yield Case((torch.tensor(coef), torch.tensor(kl), target, n_samples, horizon), text)


kl_controller = Exercise(
    reference=_controller,
    answer=my_controller,
    mistakes=_CONTROLLER_MISTAKES,
    cases=list(_controller_cases()),
    success="equal to utils.kl.AdaptiveKLController",
    atol=1e-6,
)
