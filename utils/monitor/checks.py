"""What goes wrong in reinforcement learning, as the log of a run shows it.

A check compares means over a window of steps with the run's own start: odd steps and the noise of
sampling trigger nothing. It judges the end of the history: what a run recovered from is no finding.
The limits fit completions of 10 to 1,000 tokens; to change one, put another function in `CHECKS`.
"""

import math
from collections.abc import Callable
from statistics import fmean, median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from utils.monitor import RLMonitor

INF = math.inf
METRICS = {  # unit, lowest and highest value; rounding may leave the range by a little
    "reward": ("a completion", -INF, INF),  # what the policy is trained on, without the KL penalty
    "true_reward": ("a completion", -INF, INF),  # what it is meant for, such as accuracy
    "kl": ("nats a sequence", -INF, INF),  # policy || reference
    "entropy": ("nats a token", 0, INF),
    "grad_norm": ("before clipping", 0, INF),
    "clip_fraction": ("of the tokens", 0, 1),
    "length": ("tokens a completion", 0, INF),
    "truncated": ("of the completions", 0, 1),
    "zero_spread": ("of the groups", 0, 1),  # all rewards equal
    "value_explained_variance": ("of the variance of the returns", -INF, 1),
}
MIN_POINTS = 6  # values that a trend of the whole run needs
RISE, FALL = 2.5, 4.0  # standard errors; a fall is sought in many windows and needs more
Shown = tuple[int, str]  # the step where something first shows, and the evidence


class NotJudgedError(ValueError):
    """The log holds too little for a check."""


def series(run: "RLMonitor", *names: str, need: int = 0) -> list[list]:
    """The steps at which all these metrics were logged and finite, then the values of each."""
    rows = [(i, *(row.get(name, math.nan) for name in names)) for i, row in enumerate(run.history)]
    rows = [row for row in rows if all(map(math.isfinite, row))]
    if len(rows) < need:
        raise NotJudgedError(f"{' and '.join(names)}: {len(rows)} values, needs {need}")
    return [[row[column] for row in rows] for column in range(len(names) + 1)]


def rolling(values: list[float], window: int) -> list[float]:
    """Means of `window` successive values; entry i ends with value i + window - 1."""
    return [fmean(values[i : i + window]) for i in range(len(values) - window + 1)]


def since(bad: list[bool]) -> int | None:
    """From where on all are true, to the end; None where the last is not."""
    start = max((i + 1 for i, each in enumerate(bad) if not each), default=0)
    return start if start < len(bad) else None


def noise(values: list[float]) -> float:
    """Standard deviation of one value around its trend: 1.4826 median|x[i+1] - x[i]| / sqrt(2)."""
    steps = [abs(after - before) for before, after in zip(values, values[1:], strict=False)]
    return 1.4826 * median(steps) / math.sqrt(2)


def has_risen(values: list[float], window: int) -> bool:
    """Whether the last third is `RISE` standard errors above the first window or first third.

    Both, because a fast rise shows against the first steps and a slow one against a third.
    """
    third = len(values) // 3
    end, error = fmean(values[-third:]), RISE * noise(values)
    starts = [(fmean(values[:n]), n) for n in (min(window, third), third)]
    return any(end - start > error * math.sqrt(1 / n + 1 / third) for start, n in starts)


def is_solved(run: "RLMonitor") -> bool:
    """Whether the true reward is a share, from 0 to 1, and nearly 1."""
    _, values = series(run, "true_reward")
    share = bool(values) and 0 <= min(values) and max(values) <= 1
    return share and fmean(values[-run.window :]) >= 0.95


def outside(
    run: "RLMonitor",
    name: str,
    low: Callable | float = -INF,
    high: Callable | float = INF,
    quiet: int = 0,
) -> Shown | None:
    """Since when the mean over a window has been outside [low, high].

    name: a metric or a ratio of two, "kl/length". low, high: numbers, or functions of the values in
    the first window. quiet: so many values show nothing yet.
    """
    steps, values, *per = series(run, *name.split("/"), need=max(2 * run.window, quiet))
    if per:
        values = [value / max(n, 1) for value, n in zip(values, *per, strict=True)]
    low, high = (x(values[: run.window]) if callable(x) else x for x in (low, high))
    means = rolling(values, run.window)
    first = since([not low <= mean <= high for mean in means])
    if first is None:
        return None
    limit, unit = (low if means[-1] < low else high), METRICS.get(name, ("nats a token",))[0]
    evidence = f"{name} {means[-1]:.3g} {unit} (limit {limit:.3g}, at the start {means[0]:.3g})"
    return steps[max(first + run.window, quiet) - 1], evidence


def nan(run: "RLMonitor") -> Shown | None:
    found = [tuple(caught) for caught in run.caught[:1]]
    for step, row in enumerate(run.history):
        if bad := [f"{name} is {x}" for name, x in row.items() if not math.isfinite(x)]:
            found.append((step, ", ".join(bad)))
    return min(found, default=None)


def reward_hacking(run: "RLMonitor") -> Shown | None:
    steps, proxy, true = series(run, "reward", "true_reward", need=MIN_POINTS)
    # Wide windows in long runs: the fall that matters is small beside the noise of one batch.
    window = min(max(run.window, len(steps) // 6), 5 * run.window, len(steps) // 2)
    rise, fall = (math.sqrt(2 / window) * x for x in (RISE * noise(proxy), FALL * noise(true)))
    proxy, true, bad = rolling(proxy, window), rolling(true, window), []
    for i in range(window, len(true)):
        best = max(range(i - window + 1), key=true.__getitem__)  # of the windows ended before
        drop = max(fall, 0.1 * abs(true[best]))  # a smaller loss is not worth an alarm
        bad.append(proxy[i] - proxy[best] > rise and true[best] - true[i] > drop)
    if (first := since(bad)) is None:
        return None
    return steps[first + 2 * window - 1], (
        f"from step {steps[best]} on, the reward rose from {proxy[best]:.3g} to {proxy[-1]:.3g} "
        f"while the true reward fell from {true[best]:.3g} to {true[-1]:.3g}"
    )


def kl_explosion(run: "RLMonitor") -> Shown | None:
    if run.max_kl is None:  # nats a token: to be surer of the reference's own answers costs less
        return outside(run, "kl/length", high=0.5)
    return outside(run, "kl", high=run.max_kl)


def entropy_collapse(run: "RLMonitor") -> Shown | None:
    def limit(first: list[float]) -> float:  # at 0.02 and 35 tokens one answer has probability 1/2
        # The second largest of the first values: a collapse within a few steps does not lower it.
        return min(0.02, run.entropy_fraction * sorted(first)[-2])

    shown = outside(run, "entropy", low=limit)
    return None if is_solved(run) else shown  # there is nothing left to explore


def gradient_explosion(run: "RLMonitor") -> Shown | None:
    steps, norms = series(run, "grad_norm", need=2 * run.window)
    # A step in which every group has equal rewards has no gradient and says nothing.
    moved = [(step, norm) for step, norm in zip(steps, norms, strict=True) if norm > 0]
    start = None
    # At any time, not only at the end: after the explosion a dead policy hardly moves.
    for i in range(run.window, len(moved) + 1):
        # The second lowest of a window: spikes do not move it, nor a fast explosion the start.
        low = sorted(norm for _, norm in moved[i - run.window : i])[1]
        start = start or low
        if low > 10 * start:
            return moved[i - 1][0], f"gradient norm above {low:.3g} (at the start {start:.3g})"
    return None


def length_drift(run: "RLMonitor") -> Shown | None:
    shown = outside(run, "length", lambda first: fmean(first) / 2, lambda first: fmean(first) * 2)
    result = series(run, "true_reward")[1] or series(run, "reward")[1]
    # Longer because reasoning pays, or shorter and better, is no drift.
    return None if len(result) >= MIN_POINTS and has_risen(result, run.window) else shown


def truncation(run: "RLMonitor") -> Shown | None:
    # Such completions have no end and mostly no answer; a rise of 0.1: they grow into the limit.
    return outside(run, "truncated", high=lambda first: min(0.25, fmean(first) + 0.1))


def zero_spread(run: "RLMonitor") -> Shown | None:
    shown = outside(run, "zero_spread", high=0.8)  # each useful group costs five
    return None if is_solved(run) else shown


def reward_flat(run: "RLMonitor") -> Shown | None:
    steps, values = series(run, "reward", need=50)  # a slow start is no finding
    if has_risen(values, run.window) or is_solved(run):
        return None
    first, *_, last = rolling(values, run.window)
    return steps[-1], f"reward {first:.3g} at the start, {last:.3g} after {len(values)} steps"


# Each returns what it found or None, or raises NotJudgedError.
CHECKS: dict[str, Callable[["RLMonitor"], Shown | None]] = {
    "nan": nan,
    "reward_hacking": reward_hacking,
    "kl_explosion": kl_explosion,
    "kl_negative": lambda run: outside(run, "kl", low=-0.1),
    "entropy_collapse": entropy_collapse,
    "gradient_explosion": gradient_explosion,
    "clip_fraction_high": lambda run: outside(run, "clip_fraction", high=0.3),  # PPO: below 0.2
    "length_drift": length_drift,
    "truncation": truncation,
    "zero_spread": zero_spread,
    "reward_flat": reward_flat,
    "value_not_learning": lambda run: outside(run, "value_explained_variance", 0.1, quiet=30),
}
CAUSE = {
    "nan": "half-precision overflow, or a mean over an empty mask",
    "reward_hacking": "the policy found what the reward model wrongly likes",
    "kl_explosion": "the updates are too large, or nothing holds the policy near the reference",
    "kl_negative": "the completions are not from the distribution that the log-probs describe",
    "entropy_collapse": "the policy became certain of one answer before it had tried others",
    "gradient_explosion": "a few tokens with huge ratios or advantages rule the update",
    "clip_fraction_high": "each batch is used for too many or too large updates",
    "length_drift": "the reward or the loss pays for length instead of the answer",
    "truncation": "max_new_tokens is too low for the answers, or the policy forgot how to stop",
    "zero_spread": "prompts too easy or too hard, or all samples of a prompt are the same",
    "reward_flat": "the reward does not tell completions apart, or the updates are too small",
    "value_not_learning": "a slow value model, or values and returns are not of the same tokens",
}
FIRST_KNOB = {
    "nan": "check_finite before every optimizer step; then log-probs in float32",
    "reward_hacking": "raise kl_coef; then train the reward model on this policy's completions",
    "kl_explosion": "a third of the learning rate; then a higher kl_coef",
    "kl_negative": "sampler and forward pass: same weights, temperature, no top-p, no dropout",
    "entropy_collapse": "a lower learning rate; then an entropy bonus",
    "gradient_explosion": "clip the norm at its value in the first steps; then a lower rate",
    "clip_fraction_high": "fewer epochs a batch; then a lower learning rate",
    "length_drift": "read ten completions; average the loss over tokens, or reward brevity",
    "truncation": "raise max_new_tokens; then check that the mask keeps the stop token",
    "zero_spread": "prompts that are solved some of the time; then larger groups",
    "reward_flat": "print ten completions with their rewards; then a higher learning rate",
    "value_not_learning": "a higher rate for the value model; then the mask of the returns",
}
