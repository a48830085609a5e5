"""Watching a reinforcement-learning run: KL controllers, health checks, a stop before NaN."""

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from utils.health import ADVICE, CHECKS, Thresholds
from utils.trends import History, NotJudgedError, Shown

# Metrics with the range of their values. Rounding may leave it by a little.
METRICS = {
    "reward": (-math.inf, math.inf),  # what the policy is trained on, without the KL penalty
    "true_reward": (-math.inf, math.inf),  # what it is meant for, such as execution accuracy
    "kl": (-math.inf, math.inf),  # nats a sequence, policy || reference
    "entropy": (0, math.inf),  # nats a token
    "grad_norm": (0, math.inf),  # before clipping
    "clip_fraction": (0, 1),  # of the tokens
    "length": (0, math.inf),  # tokens a completion
    "truncated": (0, 1),  # of the completions
    "zero_spread": (0, 1),  # of the groups: all rewards equal
    "value_explained_variance": (-math.inf, 1),
}


class AdaptiveKLController:
    """KL coefficient that moves until the KL meets a target (Ziegler et al. 2019, section 2.2).

    error = clip(kl / target - 1, -0.2, 0.2)
    coef <- coef * (1 + error * n_samples / horizon)

    kl and target in nats a sequence; horizon in samples (completions). Passing 1 for a whole batch
    leaves the coefficient where it is. `coef` is all its state: save it, and start from it.
    Raises ValueError unless initial_coef, target and horizon are above 0.
    """

    def __init__(self, initial_coef: float, target: float, horizon: float) -> None:
        given = {"initial_coef": initial_coef, "target": target, "horizon": horizon}
        for name, value in given.items():
            if not 0 < value < math.inf:
                raise ValueError(
                    f"{name} must be finite and above 0, not {value} (a coefficient of 0 would "
                    "stay 0; for a run without KL penalty take FixedKLController(0.0))"
                )
        self.coef, self.target, self.horizon = initial_coef, target, horizon

    def update(self, kl: float, n_samples: int) -> float:
        """The new coefficient after `n_samples` completions with mean KL `kl`.

        Raises ValueError for a KL that is not finite, for n_samples below 1, and where one update
        could take the coefficient to 0 (n_samples of 5 horizons or more).
        """
        if not math.isfinite(kl):
            raise ValueError(f"kl is {kl}: find out why before the next step (see check_finite)")
        if not 1 <= n_samples < 5 * self.horizon:
            raise ValueError(
                f"n_samples is the number of completions in the batch, from 1 to below 5 horizons "
                f"({5 * self.horizon:g}), not {n_samples}"
            )
        error = min(max(kl / self.target - 1, -0.2), 0.2)
        self.coef *= 1 + error * n_samples / self.horizon
        return self.coef


@dataclass
class FixedKLController:
    """A KL coefficient that stays as it is, with the interface of `AdaptiveKLController`."""

    coef: float

    def update(self, kl: float, n_samples: int) -> float:
        """The coefficient."""
        return self.coef


def check_finite(
    loss: Tensor | float | Mapping[str, Tensor | float],
    model_or_gradients: nn.Module | Mapping[str, Tensor] | None = None,
) -> None:
    """Raise FloatingPointError that names what is not finite: call it before `optimizer.step()`.

    loss: one, or name -> value for several metrics. model_or_gradients: a model after `backward()`,
    whose gradients and weights are checked, or name -> gradient; None checks the loss alone.
    Raises ValueError for a model without any gradient: the call came before `backward()`.
    """
    values = loss if isinstance(loss, Mapping) else {"loss": loss}
    tensors = {name: torch.as_tensor(value).detach() for name, value in values.items()}
    if isinstance(model_or_gradients, nn.Module):
        named = list(model_or_gradients.named_parameters())
        gradients = {f"gradient of {n}": p.grad for n, p in named if p.grad is not None}
        if not gradients:
            raise ValueError("no parameter has a gradient: call check_finite after loss.backward()")
        tensors |= gradients | {f"weight {name}": p.detach() for name, p in named}
    elif model_or_gradients is not None:
        tensors |= {f"gradient of {name}": each for name, each in model_or_gradients.items()}
    bad = [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]
    if not bad:
        return
    shown = ", ".join(f"{name} ({_describe(tensors[name])})" for name in bad[:3])
    more = f" and {len(bad) - 3} more" if len(bad) > 3 else ""
    raise FloatingPointError(
        f"not finite: {shown}{more}. Leave out this step, or the optimizer writes it into the "
        "weights. Look for an overflow in half precision or a mean over an empty mask."
    )


def _describe(tensor: Tensor) -> str:
    """What is wrong with the values."""
    nan, inf = int(tensor.isnan().sum()), int(tensor.isinf().sum())
    return f"{nan} NaN and {inf} infinite of {tensor.numel()}" if tensor.dim() else f"{tensor:g}"


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong with a run."""

    name: str  # a key of `health.ADVICE`
    step: int  # where it first shows
    evidence: str
    cause: str  # the likely one
    first_knob: str  # to try first


@dataclass(kw_only=True)
class RLMonitor(Thresholds):
    """The log of a PPO or GRPO run, and what is wrong with it.

    monitor = RLMonitor(max_kl=10.0); every step monitor.log(reward=..., kl=..., ...); then
    monitor.report(). Any of `health.Thresholds` can be set. `history` has one dict a step.
    """

    history: History = field(default_factory=list, repr=False)
    caught: list[list] = field(default_factory=list, repr=False)  # [step, message] of check_finite

    def log(self, *, extra: Mapping[str, float] | None = None, **metrics: float | None) -> None:
        """One step of the run; each metric of `METRICS` is optional, None means not measured.

        `extra`: other numbers to keep in the history, such as the loss. What is not finite is kept
        too, and is the finding "nan". Raises TypeError for a name that is not in `METRICS` (in
        `extra`: that is) and ValueError for a finite value outside the range of its metric.
        """
        extra = extra or {}
        if wrong := (metrics.keys() - METRICS.keys()) | (extra.keys() & METRICS.keys()):
            raise TypeError(
                f"{', '.join(sorted(wrong))}: arguments of log are {', '.join(METRICS)}; any other "
                "number goes into extra={...}, and only those"
            )
        given = {name: float(x) for name, x in (metrics | extra).items() if x is not None}
        for name in given.keys() & METRICS.keys():
            low, high = METRICS[name]
            if math.isfinite(given[name]) and not low - 1e-6 <= given[name] <= high + 1e-6:
                raise ValueError(f"{name} is {given[name]}: expected a value from {low} to {high}")
        self.history.append(given)

    def check_finite(
        self,
        loss: Tensor | float | Mapping[str, Tensor | float],
        model_or_gradients: nn.Module | Mapping[str, Tensor] | None = None,
    ) -> None:
        """The function `check_finite`; what it raises also becomes the finding "nan"."""
        try:
            check_finite(loss, model_or_gradients)
        except FloatingPointError as error:
            self.caught.append([len(self.history), str(error)])
            raise

    def judge(self) -> tuple[dict[str, Shown], dict[str, str]]:
        """What the checks found in the history, and why which could not judge; by their names."""
        found, unjudged = {}, {}
        for name, check in CHECKS.items():
            try:
                if shown := check(self.history, self):
                    found[name] = shown
            except NotJudgedError as reason:
                unjudged[name] = str(reason)
        return found, unjudged

    def findings(self) -> list[Finding]:
        """What is wrong, the earliest first: it may have caused the others."""
        found, _ = self.judge()
        if self.caught:
            first = tuple(self.caught[0])
            found["nan"] = min(first, found.get("nan", first))
        findings = [Finding(name, *shown, *ADVICE[name]) for name, shown in found.items()]
        return sorted(findings, key=lambda finding: finding.step)

    def report(self) -> None:
        """Print the findings, and which checks had too little to judge."""
        findings, (_, unjudged) = self.findings(), self.judge()
        plural = "" if len(findings) == 1 else "s"
        print(f"{len(self.history)} steps, {len(findings) or 'no'} finding{plural}")
        for finding in findings:
            print(f"\n{finding.name}, from step {finding.step}")
            print(f"  evidence:     {finding.evidence}")
            print(f"  likely cause: {finding.cause}")
            print(f"  first knob:   {finding.first_knob}")
        if unjudged:
            print("\nNot judged, too few values:")
            for name, reason in unjudged.items():
                print(f"  {name} ({reason})")

    def state_dict(self) -> dict[str, Any]:
        """The log, for a checkpoint or `json.dump`; the thresholds come from the code."""
        return copy.deepcopy({"history": self.history, "caught": self.caught})

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with a saved log: the next `log` is the step after its last.

        Load it with the weights of the same step. Raises ValueError for anything else.
        """
        logs = [state.get("history"), state.get("caught")]
        if not all(isinstance(log, list) for log in logs):
            raise ValueError(
                f"expected what state_dict() returned, got a dict with {sorted(state)}"
            )
        self.history, self.caught = copy.deepcopy(logs)
