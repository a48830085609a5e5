"""What goes wrong in reinforcement learning, as a run's history shows it; for `RLMonitor`.

The checks compare means over a window of steps with the run's own start, so that a few odd steps
and the noise of sampling trigger nothing. They judge the end of the history: what a run has
recovered from is no finding.
"""

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass

from utils.trends import History, Shown, has_risen, lasting, noise, rolling, series

MIN_POINTS = 6  # values that a trend of the whole run needs

# Finding -> its likely cause, and the first knob to try.
ADVICE = {
    "nan": (
        "half-precision overflow, or a mean over an empty mask",
        "call check_finite before every optimizer step; then log-probs in float32",
    ),
    "reward_hacking": (
        "the policy found what the reward model wrongly likes",
        "raise kl_coef; then train the reward model on completions of this policy",
    ),
    "kl_explosion": (
        "the updates are too large, or nothing holds the policy near the reference",
        "a third of the learning rate; then a higher kl_coef",
    ),
    "kl_negative": (
        "the completions do not come from the distribution that the log-probs describe",
        "sampler and forward pass: same weights, same temperature, no top-p, no dropout",
    ),
    "entropy_collapse": (
        "the policy became certain of one answer before it had tried others",
        "a lower learning rate; then an entropy bonus",
    ),
    "gradient_explosion": (
        "a few tokens with huge ratios or advantages rule the update",
        "clip the gradient norm at its value in the first steps; then a lower learning rate",
    ),
    "clip_fraction_high": (
        "each batch is used for too many or too large updates",
        "fewer epochs a batch; then a lower learning rate",
    ),
    "length_drift": (
        "the reward or the loss pays for length instead of the answer",
        "read ten completions; then average the loss over tokens, or score length in the reward",
    ),
    "truncation": (
        "max_new_tokens is too low for the answers, or the policy forgot how to stop",
        "raise max_new_tokens; then check that the mask keeps the stop token",
    ),
    "zero_spread": (
        "the prompts are too easy or too hard, or all samples of a prompt are the same",
        "prompts that are solved some of the time; then larger groups",
    ),
    "reward_flat": (
        "the reward does not tell completions apart, or the updates are too small",
        "print ten completions with their rewards; then a higher learning rate",
    ),
    "value_not_learning": (
        "the value model learns too slowly, or values and returns are not of the same tokens",
        "a higher learning rate for the value model; then check the mask of the returns",
    ),
}


@dataclass(kw_only=True)
class Thresholds:
    """When a check speaks up. The defaults fit completions of 10 to 1,000 tokens."""

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

    def __post_init__(self) -> None:
        if self.window < 3:
            raise ValueError(f"window must be at least 3 steps, not {self.window}")


def is_solved(history: History, limits: Thresholds) -> bool:
    """Whether the true reward is a share, from 0 to 1, and has reached `solved`."""
    _, values = series(history, "true_reward")
    share = len(values) > 0 and all(0 <= value <= 1 for value in values)
    return share and statistics.fmean(values[-limits.window :]) >= limits.solved


# --- the checks: each returns what it found or None, or raises NotJudgedError -------------


def _nan(history: History, limits: Thresholds) -> Shown | None:
    for step, row in enumerate(history):
        bad = [f"{name} is {value}" for name, value in row.items() if not math.isfinite(value)]
        if bad:
            return step, ", ".join(bad)
    return None


def _reward_hacking(history: History, limits: Thresholds) -> Shown | None:
    steps, proxy, true = series(history, "reward", "true_reward", need=MIN_POINTS)
    # Wide windows in long runs: the fall that matters is small beside the noise of one batch.
    window = min(max(limits.window, len(steps) // 6), 5 * limits.window, len(steps) // 2)
    error = math.sqrt(2 / window)
    least_gain = limits.rise_factor * error * noise(proxy)
    least_fall = limits.fall_factor * error * noise(true)
    proxy, true = rolling(proxy, window), rolling(true, window)
    best, since = 0, None
    for i in range(window, len(true)):
        best = max(best, i - window, key=true.__getitem__)  # of the windows that ended before
        fall, gain = true[best] - true[i], proxy[i] - proxy[best]
        if gain <= least_gain or fall <= max(least_fall, limits.min_drop * abs(true[best])):
            since = None
        elif since is None:
            since = i
    if since is None:
        return None
    return steps[since + window - 1], (
        f"from step {steps[best]} on, the reward rose from {proxy[best]:.3g} to {proxy[-1]:.3g} "
        f"while the true reward fell from {true[best]:.3g} to {true[-1]:.3g}"
    )


def _kl_explosion(history: History, limits: Thresholds) -> Shown | None:
    limit, unit = limits.max_kl, "sequence"
    if limit is None:
        limit, unit = limits.max_kl_per_token, "token"
        series(history, "kl", "length", need=2 * limits.window)  # says what is missing
        history = [
            {"kl": row["kl"] / max(row["length"], 1)} if {"kl", "length"} <= row.keys() else {}
            for row in history
        ]
    text = f"KL {{now:.3g}} nats a {unit} (limit {limit:.3g}, at the start {{start:.3g}})"
    return lasting(history, "kl", limits.window, lambda now, _: now > limit, text)


def _kl_negative(history: History, limits: Thresholds) -> Shown | None:
    text = "KL {now:.3g} nats a sequence, and a KL cannot be negative"
    return lasting(history, "kl", limits.window, lambda now, _: now < limits.min_kl, text)


def _entropy_collapse(history: History, limits: Thresholds) -> Shown | None:
    _, values = series(history, "entropy", need=limits.window)
    # The second largest of the first values: a collapse within a few steps does not lower it.
    start = sorted(values[: limits.window])[-2]
    limit = min(limits.entropy_floor, limits.entropy_fraction * start)
    text = f"entropy {{now:.2g}} nats a token (limit {limit:.2g}, at the start {start:.2g})"
    shown = lasting(history, "entropy", limits.window, lambda now, _: now < limit, text)
    return None if is_solved(history, limits) else shown


def _gradient_explosion(history: History, limits: Thresholds) -> Shown | None:
    steps, norms = series(history, "grad_norm", need=2 * limits.window)
    # A step in which every group has equal rewards has no gradient and says nothing.
    moved = [(step, norm) for step, norm in zip(steps, norms, strict=True) if norm > 0]
    start = None
    # At any time, not only at the end: after the explosion a dead policy hardly moves.
    for i in range(limits.window, len(moved) + 1):
        # The second lowest of a window: spikes do not move it, nor a fast explosion the start.
        low = sorted(norm for _, norm in moved[i - limits.window : i])[1]
        start = start or low
        if low > limits.gradient_factor * start:
            return moved[i - 1][0], f"gradient norm above {low:.3g} (at the start {start:.3g})"
    return None


def _clip_fraction_high(history: History, limits: Thresholds) -> Shown | None:
    limit = limits.max_clip_fraction
    text = f"{{now:.0%}} of the tokens are clipped (limit {limit:.0%}, at the start {{start:.0%}})"
    return lasting(history, "clip_fraction", limits.window, lambda now, _: now > limit, text)


def _length_drift(history: History, limits: Thresholds) -> Shown | None:
    def drifted(now: float, start: float) -> bool:
        return not start / limits.length_factor <= now <= start * limits.length_factor

    text = "mean length went from {start:.3g} to {now:.3g} tokens without a better result"
    shown = lasting(history, "length", limits.window, drifted, text)
    result = series(history, "true_reward")[1] or series(history, "reward")[1]
    if shown and len(result) >= MIN_POINTS and has_risen(result, limits.window, limits.rise_factor):
        return None  # longer because reasoning pays, or shorter and better
    return shown


def _truncation(history: History, limits: Thresholds) -> Shown | None:
    def too_many(now: float, start: float) -> bool:
        return now > min(limits.max_truncated, start + limits.truncated_rise)

    text = "{now:.0%} of the completions end at the limit (at the start {start:.0%})"
    return lasting(history, "truncated", limits.window, too_many, text)


def _zero_spread(history: History, limits: Thresholds) -> Shown | None:
    limit = limits.max_zero_spread
    text = "in {now:.0%} of the groups all rewards are equal (at the start {start:.0%})"
    shown = lasting(history, "zero_spread", limits.window, lambda now, _: now > limit, text)
    return None if is_solved(history, limits) else shown


def _reward_flat(history: History, limits: Thresholds) -> Shown | None:
    steps, values = series(history, "reward", need=max(limits.flat_steps, MIN_POINTS))
    if has_risen(values, limits.window, limits.rise_factor) or is_solved(history, limits):
        return None
    first, *_, last = rolling(values, limits.window)
    return steps[-1], f"reward {first:.3g} at the start, {last:.3g} after {len(values)} steps"


def _value_not_learning(history: History, limits: Thresholds) -> Shown | None:
    name, limit = "value_explained_variance", limits.min_explained_variance
    steps, _ = series(history, name, need=limits.value_steps)
    text = "the values explain {now:.2g} of the variance of the returns (1: all, 0: none)"
    shown = lasting(history, name, limits.window, lambda now, _: now < limit, text)
    return shown and (max(shown[0], steps[limits.value_steps - 1]), shown[1])


CHECKS: dict[str, Callable[[History, Thresholds], Shown | None]] = {
    "nan": _nan,
    "reward_hacking": _reward_hacking,
    "kl_explosion": _kl_explosion,
    "kl_negative": _kl_negative,
    "entropy_collapse": _entropy_collapse,
    "gradient_explosion": _gradient_explosion,
    "clip_fraction_high": _clip_fraction_high,
    "length_drift": _length_drift,
    "truncation": _truncation,
    "zero_spread": _zero_spread,
    "reward_flat": _reward_flat,
    "value_not_learning": _value_not_learning,
}
