"""Watching a reinforcement-learning run: KL controllers, a stop before NaN, health checks.

What the metrics are called in TRL's logs: docs/monitor.md.
"""

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from utils.monitor.checks import CAUSE, CHECKS, FIRST_KNOB, METRICS, NotJudgedError


class AdaptiveKLController:
    """KL coefficient that moves until the KL meets a target (Ziegler et al. 2019, section 2.2).

    coef <- coef * (1 + clip(kl / target - 1, -0.2, 0.2) * n_samples / horizon)

    kl and target in nats a sequence; horizon and n_samples in completions: 1 for a whole batch
    would leave the coefficient where it is. `coef` is all its state.
    """

    def __init__(self, initial_coef: float, target: float, horizon: float) -> None:
        given = {"initial_coef": initial_coef, "target": target, "horizon": horizon}
        for name, value in given.items():
            if not 0 < value < math.inf:
                raise ValueError(
                    f"{name} must be finite and above 0, not {value}; a run without KL penalty "
                    "takes FixedKLController(0.0)"
                )
        self.coef, self.target, self.horizon = initial_coef, target, horizon

    def update(self, kl: float, n_samples: int) -> float:
        """The new coefficient; ValueError for a KL that is not finite or an update to 0."""
        if not math.isfinite(kl):
            raise ValueError(f"kl is {kl}: find out why before the next step (see check_finite)")
        if not 1 <= n_samples < 5 * self.horizon:
            raise ValueError(f"n_samples must be from 1 to below 5 horizons, not {n_samples}")
        self.coef *= 1 + min(max(kl / self.target - 1, -0.2), 0.2) * n_samples / self.horizon
        return self.coef


@dataclass
class FixedKLController:
    """A KL coefficient that stays as it is, with the interface of `AdaptiveKLController`."""

    coef: float

    def update(self, kl: float, n_samples: int) -> float:
        return self.coef


class Finding(NamedTuple):
    """One thing that is wrong with a run: a key of `CHECKS`, and the step where it first shows."""

    name: str
    step: int
    evidence: str
    cause: str
    first_knob: str


@dataclass(kw_only=True)
class RLMonitor:
    """The log of a PPO or GRPO run, and what is wrong with it.

    monitor = RLMonitor(max_kl=10.0); every step monitor.log(reward=..., kl=..., ...); then
    monitor.report().
    """

    window: int = 5  # steps in a mean, at least 3: one odd batch cannot trigger a check
    max_kl: float | None = None  # nats a sequence; None: 0.5 nats a token
    entropy_fraction: float = 0.15  # of the start: learning sharpens a policy to about a third
    history: list[dict[str, float]] = field(default_factory=list, repr=False)  # one dict a step
    caught: list[list] = field(default_factory=list, repr=False)  # [step, message] of check_finite

    def __post_init__(self) -> None:
        if self.window < 3:
            raise ValueError(f"window must be at least 3 steps, not {self.window}")

    def log(self, *, extra: Mapping[str, float] | None = None, **metrics: float | None) -> None:
        """One step of the run; each metric of `METRICS` is optional, None means not measured.

        `extra`: other numbers to keep, such as the loss. What is not finite is kept too, and is the
        finding "nan". TypeError for a name in the wrong place, ValueError for a value out of range.
        """
        extra = extra or {}
        if wrong := (metrics.keys() - METRICS.keys()) | (extra.keys() & METRICS.keys()):
            raise TypeError(
                f"{', '.join(sorted(wrong))}: arguments of log are {', '.join(METRICS)}; any other "
                "number goes into extra={...}, and only those"
            )
        given = {name: float(x) for name, x in (metrics | extra).items() if x is not None}
        for name in given.keys() & METRICS.keys():
            _, low, high = METRICS[name]
            if math.isfinite(given[name]) and not low - 1e-6 <= given[name] <= high + 1e-6:
                raise ValueError(f"{name} is {given[name]}: expected a value from {low} to {high}")
        self.history.append(given)

    def check_finite(
        self,
        loss: Tensor | float | Mapping[str, Tensor | float],
        model: nn.Module | Mapping[str, Tensor] | None = None,
    ) -> None:
        """FloatingPointError, also a finding, that names what is not finite: call before `step()`.

        loss: one, or name -> value. model: one after `backward()`, whose gradients and weights are
        checked too, or name -> gradient. ValueError for a model without any gradient.
        """
        values = dict(loss) if isinstance(loss, Mapping) else {"loss": loss}
        if isinstance(model, nn.Module):
            named = list(model.named_parameters())
            gradients = {f"gradient of {n}": p.grad for n, p in named if p.grad is not None}
            if not gradients:
                raise ValueError("no parameter has a gradient: call it after loss.backward()")
            values |= gradients | {f"weight {name}": p for name, p in named}
        else:
            values |= {f"gradient of {name}": gradient for name, gradient in (model or {}).items()}
        bad = []
        for name, value in values.items():
            x = torch.as_tensor(value).detach()
            nan, inf = int(x.isnan().sum()), int(x.isinf().sum())
            if nan or inf:
                what = f"{nan} NaN and {inf} infinite of {x.numel()}" if x.dim() else f"{x:g}"
                bad.append(f"{name} ({what})")
        if bad:
            message = (
                f"not finite: {', '.join(bad[:3])}{f' and {len(bad) - 3} more' * (len(bad) > 3)}. "
                "Leave out this step, or the optimizer writes it into the weights. Look for an "
                "overflow in half precision or a mean over an empty mask."
            )
            self.caught.append([len(self.history), message])
            raise FloatingPointError(message)

    def judge(self) -> tuple[list[Finding], dict[str, str]]:
        """The findings, the earliest first, and why which checks could not judge."""
        findings, unjudged = [], {}
        for name, check in CHECKS.items():
            try:
                if shown := check(self):
                    findings.append(Finding(name, *shown, CAUSE[name], FIRST_KNOB[name]))
            except NotJudgedError as reason:
                unjudged[name] = str(reason)
        return sorted(findings, key=lambda finding: finding.step), unjudged

    def findings(self) -> list[Finding]:
        """What is wrong, the earliest first: it may have caused the others."""
        return self.judge()[0]

    def report(self) -> None:
        """Print the findings, and which checks had too little to judge."""
        findings, unjudged = self.judge()
        plural = "" if len(findings) == 1 else "s"
        print(f"{len(self.history)} steps, {len(findings) or 'no'} finding{plural}")
        for name, step, evidence, cause, first_knob in findings:
            print(f"\n{name}, from step {step}\n  evidence:     {evidence}")
            print(f"  likely cause: {cause}\n  first knob:   {first_knob}")
        if unjudged:
            print("\nNot judged, too few values:")
            print("\n".join(f"  {name} ({reason})" for name, reason in unjudged.items()))

    def state_dict(self) -> dict[str, Any]:
        """The log, for a checkpoint or `json.dump`; the settings come from the code."""
        return copy.deepcopy({"history": self.history, "caught": self.caught})

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with a saved log; load it with the weights of the same step."""
        self.history, self.caught = copy.deepcopy((state["history"], state["caught"]))
