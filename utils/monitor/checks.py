"""What goes wrong in reinforcement learning, as the log of a run shows it.

A check compares means over a window of steps with the run's own start: odd steps and the noise of
sampling trigger nothing. It judges the end of the history: what a run recovered from is no finding.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import fmean, median

INF = math.inf
METRICS = {  # unit, and the range of the values; rounding may leave it by a little
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
Shown = tuple[int, str]  # the step where something first shows, and the evidence


class NotJudgedError(ValueError):
    """The log holds too little for a check."""


@dataclass(kw_only=True)
class Log:
    """The numbers of a run, and when a check speaks up: at 10 to 1,000 tokens a completion."""

    window: int = 5  # steps in a mean: one odd batch cannot trigger a check
    fall_factor: float = 4.0  # standard errors of a fall: many windows are compared
    rise_factor: float = 2.5  # standard errors of a rise: a single comparison needs fewer
    max_kl: float | None = None  # nats a sequence; None: the next line decides, with the length
    max_kl_per_token: float = 0.5  # nats: to be surer of the reference's own answers costs less
    min_kl: float = -0.1  # nats a sequence: a KL is not negative, nor its mean over many samples
    entropy_floor: float = 0.02  # nats a token: at 35 tokens one answer has half the probability
    entropy_fraction: float = 0.15  # of the start: learning sharpens a policy to about a third
    gradient_factor: float = 10.0  # times the start, in four of five steps: spikes are normal
    max_clip_fraction: float = 0.3  # healthy PPO stays below 0.2
    length_factor: float = 2.0  # times the start, or its inverse, without a better result
    max_truncated: float = 0.25  # such completions have no end and mostly no answer
    truncated_rise: float = 0.1  # above the start: the answers grow into the limit
    max_zero_spread: float = 0.8  # of the groups: each useful one costs five
    solved: float = 0.95  # true reward, a share: from here certainty and equal groups are right
    min_drop: float = 0.1  # of the true reward's best: a smaller loss is not worth an alarm
    flat_steps: int = 50  # a slow start is no finding
    value_steps: int = 30  # a value model that starts from scratch needs some
    min_explained_variance: float = 0.1  # below it the values hardly help the advantages
    history: list[dict[str, float]] = field(default_factory=list, repr=False)  # one dict a step

    def __post_init__(self) -> None:
        if self.window < 3:
            raise ValueError(f"window must be at least 3 steps, not {self.window}")

    def series(self, *names: str, need: int = 0) -> list[list]:
        """The steps at which all these metrics were logged and finite, then the values of each."""
        rows = [(i, *(row.get(n, math.nan) for n in names)) for i, row in enumerate(self.history)]
        rows = [row for row in rows if all(map(math.isfinite, row))]
        if len(rows) < need:
            raise NotJudgedError(f"{' and '.join(names)}: {len(rows)} values, needs {need}")
        return [[row[column] for row in rows] for column in range(len(names) + 1)]

    def first(self, name: str) -> list[float]:
        """The first window of a metric; NotJudgedError with fewer values than two windows."""
        return self.series(name, need=2 * self.window)[1][: self.window]

    def beyond(
        self, name: str, low: float = -INF, high: float = INF, per_token=False, quiet: int = 0
    ) -> Shown | None:
        """Since when the mean over a window has been outside [low, high].

        per_token: divided by the length. Nothing shows within the first `quiet` values.
        """
        names = (name, "length") if per_token else (name,)
        steps, values, *lengths = self.series(*names, need=max(2 * self.window, quiet))
        if per_token:
            values = [value / max(n, 1) for value, n in zip(values, *lengths, strict=True)]
        means = rolling(values, self.window)
        first = since([not low <= mean <= high for mean in means])
        if first is None:
            return None
        limit, unit = (low if means[-1] < low else high), METRICS[name][0]
        return steps[max(first + self.window, quiet) - 1], (
            f"{name} {means[-1]:.3g} {'nats a token' if per_token else unit} "
            f"(limit {limit:.3g}, at the start {means[0]:.3g})"
        )

    def is_solved(self) -> bool:
        """Whether the true reward is a share, from 0 to 1, and has reached `solved`."""
        _, values = self.series("true_reward")
        share = bool(values) and 0 <= min(values) and max(values) <= 1
        return share and fmean(values[-self.window :]) >= self.solved


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


def has_risen(values: list[float], window: int, factor: float) -> bool:
    """Whether the last third is `factor` standard errors above the first window or first third.

    Both, because a fast rise shows against the first steps and a slow one against a third.
    """
    third = len(values) // 3
    end, error = fmean(values[-third:]), factor * noise(values)
    starts = [(fmean(values[:n]), n) for n in (min(window, third), third)]
    return any(end - start > error * math.sqrt(1 / n + 1 / third) for start, n in starts)


def nan(log: Log) -> Shown | None:
    for step, row in enumerate(log.history):
        if bad := [f"{name} is {x}" for name, x in row.items() if not math.isfinite(x)]:
            return step, ", ".join(bad)
    return None


def reward_hacking(log: Log) -> Shown | None:
    steps, proxy, true = log.series("reward", "true_reward", need=MIN_POINTS)
    # Wide windows in long runs: the fall that matters is small beside the noise of one batch.
    window = min(max(log.window, len(steps) // 6), 5 * log.window, len(steps) // 2)
    error = math.sqrt(2 / window)
    rise, fall = log.rise_factor * error * noise(proxy), log.fall_factor * error * noise(true)
    proxy, true = rolling(proxy, window), rolling(true, window)
    bad = []
    for i in range(window, len(true)):
        best = max(range(i - window + 1), key=true.__getitem__)  # of the windows ended before
        drop = max(fall, log.min_drop * abs(true[best]))
        bad.append(proxy[i] - proxy[best] > rise and true[best] - true[i] > drop)
    if (first := since(bad)) is None:
        return None
    return steps[first + 2 * window - 1], (
        f"from step {steps[best]} on, the reward rose from {proxy[best]:.3g} to {proxy[-1]:.3g} "
        f"while the true reward fell from {true[best]:.3g} to {true[-1]:.3g}"
    )


def kl_explosion(log: Log) -> Shown | None:
    if log.max_kl is None:
        return log.beyond("kl", high=log.max_kl_per_token, per_token=True)
    return log.beyond("kl", high=log.max_kl)


def entropy_collapse(log: Log) -> Shown | None:
    # The second largest of the first values: a collapse within a few steps does not lower it.
    start = sorted(log.first("entropy"))[-2]
    limit = min(log.entropy_floor, log.entropy_fraction * start)
    return None if log.is_solved() else log.beyond("entropy", low=limit)


def gradient_explosion(log: Log) -> Shown | None:
    steps, norms = log.series("grad_norm", need=2 * log.window)
    # A step in which every group has equal rewards has no gradient and says nothing.
    moved = [(step, norm) for step, norm in zip(steps, norms, strict=True) if norm > 0]
    start = None
    # At any time, not only at the end: after the explosion a dead policy hardly moves.
    for i in range(log.window, len(moved) + 1):
        # The second lowest of a window: spikes do not move it, nor a fast explosion the start.
        low = sorted(norm for _, norm in moved[i - log.window : i])[1]
        start = start or low
        if low > log.gradient_factor * start:
            return moved[i - 1][0], f"gradient norm above {low:.3g} (at the start {start:.3g})"
    return None


def length_drift(log: Log) -> Shown | None:
    start = fmean(log.first("length"))
    result = log.series("true_reward")[1] or log.series("reward")[1]
    if len(result) >= MIN_POINTS and has_risen(result, log.window, log.rise_factor):
        return None  # longer because reasoning pays, or shorter and better
    return log.beyond("length", start / log.length_factor, start * log.length_factor)


def truncation(log: Log) -> Shown | None:
    start = fmean(log.first("truncated"))
    return log.beyond("truncated", high=min(log.max_truncated, start + log.truncated_rise))


def zero_spread(log: Log) -> Shown | None:
    shown = log.beyond("zero_spread", high=log.max_zero_spread)
    return None if log.is_solved() else shown  # all answers right: equal groups are too


def reward_flat(log: Log) -> Shown | None:
    steps, values = log.series("reward", need=max(log.flat_steps, MIN_POINTS))
    if has_risen(values, log.window, log.rise_factor) or log.is_solved():
        return None
    first, *_, last = rolling(values, log.window)
    return steps[-1], f"reward {first:.3g} at the start, {last:.3g} after {len(values)} steps"


def value_not_learning(log: Log) -> Shown | None:
    limit, quiet = log.min_explained_variance, log.value_steps
    return log.beyond("value_explained_variance", low=limit, quiet=quiet)


# Each returns what it found or None, or raises NotJudgedError.
CHECKS: dict[str, Callable[[Log], Shown | None]] = {
    "nan": nan,
    "reward_hacking": reward_hacking,
    "kl_explosion": kl_explosion,
    "kl_negative": lambda log: log.beyond("kl", low=log.min_kl),
    "entropy_collapse": entropy_collapse,
    "gradient_explosion": gradient_explosion,
    "clip_fraction_high": lambda log: log.beyond("clip_fraction", high=log.max_clip_fraction),
    "length_drift": length_drift,
    "truncation": truncation,
    "zero_spread": zero_spread,
    "reward_flat": reward_flat,
    "value_not_learning": value_not_learning,
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
