"""What is wrong with a reinforcement-learning run: a stop before NaN, and checks of its log.

A check compares means over a window of steps with the run's own start: odd steps and the noise of
sampling trigger nothing. It judges the end of the history: what a run recovered from is no finding.
The limits fit completions of 10 to 1,000 tokens; to change one, put another function in `CHECKS`.
"""

import copy
import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from statistics import fmean, median
from typing import NamedTuple

import torch
from torch import Tensor, nn

METRICS = (  # what TRL calls them: docs/monitor.md
    "reward",  # a completion; what the policy is trained on, without the KL penalty
    "true_reward",  # a completion; what it is meant for, such as accuracy
    "kl",  # nats a sequence, policy || reference
    "entropy",  # nats a token
    "grad_norm",  # before clipping
    "clip_fraction",  # of the tokens
    "length",  # tokens a completion
    "truncated",  # share of the completions
    "zero_spread",  # share of the groups whose rewards are all equal
    "value_explained_variance",  # share of the variance of the returns, at most 1
)
WINDOW = 5  # steps in a mean: one odd batch cannot trigger a check
MIN_POINTS = 6  # values that a trend of the whole run needs
RISE, FALL = 2.5, 4.0  # standard errors; a fall is sought in many windows and needs more
Shown = tuple[int, str] | None  # the step where something first shows, and the evidence
Limit = float | Callable[[list[float]], float]


class NotJudgedError(ValueError):
    """The log holds too little for a check."""


def series(run: "RLMonitor", *names: str, need: int = 0) -> list[list]:
    """The steps at which all these metrics were logged and finite, then the values of each."""
    rows = [(i, *(row.get(name, math.nan) for name in names)) for i, row in enumerate(run.history)]
    rows = [row for row in rows if all(map(math.isfinite, row))]
    if len(rows) < need:
        raise NotJudgedError(f"{' and '.join(names)}: {len(rows)} values, needs {need}")
    return [[row[column] for row in rows] for column in range(len(names) + 1)]


def rolling(values: list[float], window: int = WINDOW) -> list[float]:
    """Means of `window` successive values; entry i ends with value i + window - 1."""
    return [fmean(values[i : i + window]) for i in range(len(values) - window + 1)]


def since(bad: list[bool]) -> int | None:
    """From where on all are true, to the end; None where the last is not."""
    first = max((i + 1 for i, each in enumerate(bad) if not each), default=0)
    return first if first < len(bad) else None


def noise(values: list[float]) -> float:
    """Standard deviation of one value around its trend: 1.4826 median|x[i+1] - x[i]| / sqrt(2)."""
    steps = [abs(after - before) for before, after in zip(values, values[1:], strict=False)]
    return 1.4826 * median(steps) / math.sqrt(2)


def has_risen(values: list[float]) -> bool:
    """Whether the last third is `RISE` standard errors above the first window or first third."""
    third = len(values) // 3
    end, error = fmean(values[-third:]), RISE * noise(values)
    # A fast rise shows against the first steps, a slow one against a third.
    starts = [(fmean(values[:n]), n) for n in (min(WINDOW, third), third)]
    return any(end - mean > error * math.sqrt(1 / n + 1 / third) for mean, n in starts)


def is_solved(run: "RLMonitor") -> bool:
    """Whether the true reward is at most 1, as a share is, and nearly 1."""
    _, values = series(run, "true_reward")
    return bool(values) and max(values) <= 1 and fmean(values[-WINDOW:]) >= 0.95


def outside(
    run: "RLMonitor", name: str, low: Limit = -math.inf, high: Limit = math.inf, quiet: int = 0
) -> Shown:
    """Since when the mean of a metric, or of a ratio "kl/length", is outside [low, high].

    A limit may be a function of the first window; the first `quiet` values show nothing yet.
    """
    steps, values, *per = series(run, *name.split("/"), need=max(2 * WINDOW, quiet))
    if per:
        values = [value / max(n, 1) for value, n in zip(values, *per, strict=True)]
    low, high = (x(values[:WINDOW]) if callable(x) else x for x in (low, high))
    means = rolling(values)
    if (first := since([not low <= mean <= high for mean in means])) is None:
        return None
    limit = low if means[-1] < low else high
    return steps[max(first + WINDOW, quiet) - 1], f"{name} {means[-1]:.3g}, limit {limit:.3g}"


def nan(run: "RLMonitor") -> Shown:
    found = [tuple(caught) for caught in run.caught[:1]]
    for step, row in enumerate(run.history):
        if bad := [f"{name} is {x}" for name, x in row.items() if not math.isfinite(x)]:
            found.append((step, ", ".join(bad)))
    return min(found, default=None)


def reward_hacking(run: "RLMonitor") -> Shown:
    steps, proxy, true = series(run, "reward", "true_reward", need=MIN_POINTS)
    # Wide windows in long runs: the fall that matters is small beside the noise of one batch.
    window = min(max(WINDOW, len(steps) // 6), 5 * WINDOW, len(steps) // 2)
    rise, fall = (math.sqrt(2 / window) * x for x in (RISE * noise(proxy), FALL * noise(true)))
    proxy, true, bad = rolling(proxy, window), rolling(true, window), []
    for i in range(window, len(true)):
        best = max(range(i - window + 1), key=true.__getitem__)  # of the windows ended before
        drop = max(fall, 0.1 * abs(true[best]))  # a smaller loss is not worth an alarm
        bad.append(proxy[i] - proxy[best] > rise and true[best] - true[i] > drop)
    if (first := since(bad)) is None:
        return None
    evidence = f"the reward rose, the true reward fell from {true[best]:.3g} to {true[-1]:.3g}"
    return steps[first + 2 * window - 1], evidence


def entropy_collapse(run: "RLMonitor") -> Shown:
    # The second largest of the first values: a collapse within a few steps does not lower it.
    # At 0.02 and 35 tokens one answer has probability 1/2. A solved task needs no exploration.
    shown = outside(run, "entropy", lambda x: min(0.02, run.entropy_fraction * sorted(x)[-2]))
    return None if is_solved(run) else shown


def gradient_explosion(run: "RLMonitor") -> Shown:
    steps, norms = series(run, "grad_norm", need=2 * WINDOW)
    # A step in which every group has equal rewards has no gradient and says nothing.
    moved = [(step, norm) for step, norm in zip(steps, norms, strict=True) if norm > 0]
    windows = [moved[i : i + WINDOW] for i in range(len(moved) - WINDOW + 1)]
    # The second lowest of a window: spikes do not move it, nor a fast explosion the start.
    lows = [sorted(norm for _, norm in window)[1] for window in windows]
    # At any time, not only at the end: after the explosion a dead policy hardly moves.
    for window, low in zip(windows, lows, strict=True):
        if low > 10 * lows[0]:
            return window[-1][0], f"gradient norm above {low:.3g} (at the start {lows[0]:.3g})"
    return None


def length_drift(run: "RLMonitor") -> Shown:
    result = series(run, "true_reward")[1] or series(run, "reward")[1]
    # Longer because reasoning pays, or shorter and better, is no drift.
    if len(result) >= MIN_POINTS and has_risen(result):
        return None
    return outside(run, "length", lambda x: fmean(x) / 2, lambda x: fmean(x) * 2)


def reward_flat(run: "RLMonitor") -> Shown:
    steps, values = series(run, "reward", need=50)  # a slow start is no finding
    fine = has_risen(values) or is_solved(run)
    return None if fine else (steps[-1], f"no rise above the noise in {len(values)} steps")


CHECKS = {  # each returns what it found or None, or raises NotJudgedError
    "nan": nan,
    "reward_hacking": reward_hacking,
    "kl_explosion": lambda run: outside(run, "kl/length", high=0.5),  # nats a token
    "kl_negative": lambda run: outside(run, "kl", low=-0.1),
    "entropy_collapse": entropy_collapse,
    "gradient_explosion": gradient_explosion,
    "clip_fraction_high": lambda run: outside(run, "clip_fraction", high=0.3),  # PPO: below 0.2
    "length_drift": length_drift,
    # Truncated completions mostly have no answer; a rise of 0.1: they grow into their limit.
    "truncation": lambda run: outside(run, "truncated", high=lambda x: min(0.25, fmean(x) + 0.1)),
    # At 0.8 each useful group costs five.
    "zero_spread": lambda run: None if is_solved(run) else outside(run, "zero_spread", high=0.8),
    "reward_flat": reward_flat,
    "value_not_learning": lambda run: outside(run, "value_explained_variance", 0.1, quiet=30),
}
ADVICE = {  # the likely cause, and the first knob to turn
    "nan": ("overflow in half precision, or an empty mask", "log-probs in float32"),
    "reward_hacking": ("it found what the reward model wrongly likes", "raise kl_coef"),
    "kl_explosion": ("too large updates, or a low kl_coef", "a third of the learning rate"),
    "kl_negative": ("the sampler differs from the model", "same temperature, no top-p"),
    "entropy_collapse": ("certain before it tried other answers", "a lower learning rate"),
    "gradient_explosion": ("a few tokens rule the update", "clip at the norm of the first steps"),
    "clip_fraction_high": ("too many or too large updates a batch", "fewer epochs a batch"),
    "length_drift": ("length pays instead of the answer", "average the loss over tokens"),
    "truncation": ("too little room, or it forgot how to stop", "raise max_new_tokens"),
    "zero_spread": ("prompts too easy or too hard", "prompts that are solved sometimes"),
    "reward_flat": ("the reward does not tell answers apart", "read ten with their rewards"),
    "value_not_learning": ("a slow value model, or a wrong mask", "a higher rate for it"),
}


class Finding(NamedTuple):
    """One thing that is wrong with a run: a key of `CHECKS`, and the step where it first shows."""

    name: str
    step: int
    evidence: str


@dataclass(kw_only=True)
class RLMonitor:
    """The log of a PPO or GRPO run, and what is wrong with it: `log` every step, then `report`."""

    entropy_fraction: float = 0.15  # of the start: learning sharpens a policy to about a third
    history: list[dict[str, float]] = field(default_factory=list, repr=False)  # one dict a step
    caught: list[list] = field(default_factory=list, repr=False)  # [step, message] of check_finite

    def log(self, *, extra: Mapping[str, float] | None = None, **metrics: float | None) -> None:
        """One step of the run; None means not measured. extra: other numbers, such as the loss."""
        if unknown := metrics.keys() - set(METRICS):
            raise TypeError(f"{unknown} belongs into extra={{...}}: log takes {', '.join(METRICS)}")
        given = metrics | dict(extra or {})
        self.history.append({name: float(x) for name, x in given.items() if x is not None})

    def check_finite(self, loss: Tensor | float, model: nn.Module | None = None) -> None:
        """Before `step()`: FloatingPointError, also a finding, for what is not finite."""
        values = {"loss": torch.as_tensor(loss)}
        for name, weight in model.named_parameters() if model else ():
            values |= {f"gradient of {name}": weight.grad, f"weight {name}": weight}
        if bad := [n for n, x in values.items() if x is not None and not x.isfinite().all()]:
            message = f"{', '.join(bad[:3])} not finite ({len(bad)} in all): leave out this step"
            self.caught.append([len(self.history), message])
            raise FloatingPointError(message)

    def findings(self) -> list[Finding]:
        """What is wrong, the earliest first: it may have caused the others."""
        found = []
        for name, check in CHECKS.items():
            with suppress(NotJudgedError):
                if shown := check(self):
                    found.append(Finding(name, *shown))
        return sorted(found, key=lambda finding: finding.step)

    def report(self) -> None:
        """Print the findings, and of which metrics there were too few values for any check."""
        found, few = self.findings(), [m for m in METRICS if len(series(self, m)[0]) < 2 * WINDOW]
        print(f"{len(self.history)} steps, {len(found) or 'no'} finding{'s' * (len(found) > 1)}")
        for name, step, evidence in found:
            print(f"\n{name}, from step {step}: {evidence}")
            print("  likely cause: {}\n  first knob:   {}".format(*ADVICE[name]))
        if few:
            print(f"\nNot judged, fewer than {2 * WINDOW} values: {', '.join(few)}")

    def state_dict(self) -> dict[str, list]:
        """The log, for a checkpoint or `json.dump`; the settings come from the code."""
        return copy.deepcopy({"history": self.history, "caught": self.caught})

    def load_state_dict(self, state: dict[str, list]) -> None:
        self.history, self.caught = copy.deepcopy((state["history"], state["caught"]))
