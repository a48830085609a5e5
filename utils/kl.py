"""KL divergences estimated from sampled tokens, and the coefficient of their penalty.

k1, k2 and k3 estimate KL(policy || ref) from tokens x that the policy sampled (Schulman 2020). With
r = log policy(x) - log ref(x):

| estimate | formula         | expectation              | below 0 | spread         |
|----------|-----------------|--------------------------|---------|----------------|
| k1       | r               | the KL                   | yes     | large          |
| k2       | r^2 / 2         | close to the KL if small | no      | small          |
| k3       | exp(-r) - 1 + r | the KL                   | no      | small near ref |

A good estimate of the *value* need not be a good *loss*: whose gradient is whose, in docs/kl.md.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from utils.arguments import positive


def k1(
    logprobs: Float[Tensor, "*shape"], ref_logprobs: Float[Tensor, "*shape"]
) -> Float[Tensor, "*shape"]:
    """r = logprobs - ref_logprobs, in nats. Often negative."""
    return logprobs - ref_logprobs


def k2(
    logprobs: Float[Tensor, "*shape"], ref_logprobs: Float[Tensor, "*shape"]
) -> Float[Tensor, "*shape"]:
    """r^2 / 2 with r = logprobs - ref_logprobs, in nats. Biased."""
    return (logprobs - ref_logprobs).square() / 2


def k3(
    logprobs: Float[Tensor, "*shape"], ref_logprobs: Float[Tensor, "*shape"]
) -> Float[Tensor, "*shape"]:
    """exp(-r) - 1 + r with r = logprobs - ref_logprobs, in nats.

    For r below -88.7 in float32 the value is inf and its gradient -inf. Mask such positions
    *before* this function: dropped behind it, 0 * inf makes their gradient NaN.
    """
    r = logprobs - ref_logprobs
    return torch.expm1(-r) + r  # expm1: exp(-r) - 1 would lose all digits of a small r


@dataclass
class FixedKLController:
    """A KL coefficient that stays as it is."""

    coef: float

    def update(self, kl: float, n_samples: int) -> float:
        return self.coef


@dataclass
class AdaptiveKLController:
    """KL coefficient that moves until the KL meets a target (Ziegler et al. 2019, section 2.2).

    coef <- coef * (1 + clip(kl / target - 1, -0.2, 0.2) * n_samples / horizon)

    kl and target in nats a sequence; horizon and n_samples in completions: 1 for a whole batch
    would leave the coefficient where it is. `coef` is all its state.
    """

    coef: float
    target: float
    horizon: float

    def update(self, kl: float, n_samples: int) -> float:
        positive(coef=self.coef, target=self.target, horizon=self.horizon, n_samples=n_samples)
        if not math.isfinite(kl):
            raise ValueError(f"kl is {kl}: find out why before the next step")
        self.coef *= 1 + min(max(kl / self.target - 1, -0.2), 0.2) * n_samples / self.horizon
        return self.coef
