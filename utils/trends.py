"""Trends in the history of a run: a list of dicts, one a step, metric -> value."""

import math
import statistics
from collections.abc import Callable

History = list[dict[str, float]]
Shown = tuple[int, str]  # the step where something first shows, and the evidence


class NotJudgedError(ValueError):
    """The history holds too little for a check."""


def series(history: History, *names: str, need: int = 0) -> list[list]:
    """The steps at which all these metrics were logged and finite, then the values of each.

    Raises NotJudgedError when there are fewer than `need`.
    """
    rows = [(i, *(row.get(name, math.nan) for name in names)) for i, row in enumerate(history)]
    rows = [row for row in rows if all(map(math.isfinite, row))]
    if len(rows) < need:
        raise NotJudgedError(f"{' and '.join(names)}: {len(rows)} values, needs {need}")
    return [[row[column] for row in rows] for column in range(len(names) + 1)]


def rolling(values: list[float], window: int) -> list[float]:
    """Means of `window` successive values; entry i ends with value i + window - 1."""
    return [statistics.fmean(values[i : i + window]) for i in range(len(values) - window + 1)]


def noise(values: list[float]) -> float:
    """Standard deviation of one value around its trend: 1.4826 median|x[i+1] - x[i]| / sqrt(2).

    Differences of neighbours and a median, so that neither a slow trend nor an outlier counts.
    """
    steps = [abs(after - before) for before, after in zip(values, values[1:], strict=False)]
    return 1.4826 * statistics.median(steps) / math.sqrt(2)


def has_risen(values: list[float], window: int, factor: float) -> bool:
    """Whether the last third is `factor` standard errors above the first window or first third.

    Both, because a fast rise shows against the first steps and a slow one against a third. Needs
    6 values.
    """
    third = len(values) // 3
    end, error = statistics.fmean(values[-third:]), factor * noise(values)
    return any(
        end - statistics.fmean(values[:n]) > error * math.sqrt(1 / n + 1 / third)
        for n in (min(window, third), third)
    )


def lasting(
    history: History,
    name: str,
    window: int,
    is_bad: Callable[[float, float], bool],
    evidence: str,
) -> Shown | None:
    """Since which step `is_bad(now, start)` has held until the end, and the evidence filled in.

    now and start are means over a window: the one that ends at a step, and the first. Raises
    NotJudgedError with fewer values than two windows.
    """
    steps, values = series(history, name, need=2 * window)
    means, since = rolling(values, window), None
    for i, mean in enumerate(means):
        if not is_bad(mean, means[0]):
            since = None
        elif since is None:
            since = i
    if since is None:
        return None
    return steps[since + window - 1], evidence.format(now=means[-1], start=means[0])
