"""What a notebook claims, and numbers of several seeds from benchmarks/results."""

import json
import os
from functools import reduce

from utils.profiles import Profile, repo_root


def claim(text: str, holds: object) -> None:
    """Print `text: True`; AssertionError if the claim does not hold on the profile `tiny`.

    On other profiles, or with COURSE_CLAIMS=print, it prints False and the notebook goes on. Under
    COURSE_SMOKE=1, where nothing is trained long enough to learn, it prints "not checked".
    """
    tiny = (os.environ.get("COURSE_PROFILE") or "tiny") == "tiny"
    if os.environ.get("COURSE_SMOKE") == "1":
        print(f"{text}: not checked")
    elif holds:
        print(f"{text}: True")
    elif tiny and os.environ.get("COURSE_CLAIMS") != "print":
        raise AssertionError(f"{text}: False. The lesson's text is not true of this run.")
    else:
        print(f"{text}: False here; it was measured on `tiny`, from the shipped checkpoints.")


def stored(
    text: str, runs: list[dict], gains: list[float], n: int, own: float | None = None, floor=0.0
) -> None:
    """Claim that stored gains, one per seed, are above 0; print seeds, n, each gain and the mean.

    n: answers behind each gain. own: the gain of the run just made; it must not lie further than
    the noise floor outside the stored ones. Where nothing is stored the claim fails.
    """
    each, mean = ", ".join(f"{gain:+.3f}" for gain in gains), sum(gains) / max(1, len(gains))
    where = f"stored, seeds {seeds(runs)}, n = {n}: {each}; mean {mean:+.3f}"
    claim(f"{text} ({where})", bool(gains) and min(gains) > 0)
    if own is not None:
        near = bool(gains) and min(gains) - floor <= own <= max(gains) + floor
        claim(f"this run, {own:+.3f}, lies within {floor} of the stored ones", near)


def load_runs(name: str, profile: Profile, summary: dict | None = None) -> list[dict]:
    """The runs of `benchmarks/results/<name>.json`: `{"seed": …, "summary": {…}}`, one a seed.

    The files hold runs of `tiny`. For another profile, or where there is no file, the only run is
    `summary`, the one just made (no run at all without it).
    """
    file = repo_root() / f"benchmarks/results/{name}.json"
    if profile.name == "tiny" and file.exists():
        return json.loads(file.read_text(encoding="utf-8"))["runs"]
    return [] if summary is None else [{"seed": profile.seed, "summary": summary}]


def seeds(runs: list[dict]) -> str:
    """The seeds of the runs, for a table's head: `0, 1, 2`."""
    return ", ".join(str(run["seed"]) for run in runs)


def of_seeds(runs: list[dict], *keys: str) -> list[float]:
    """The number under `summary[keys[0]][keys[1]]…`, for each seed that has it."""
    found = [reduce(lambda tree, key: tree.get(key, {}), keys, run["summary"]) for run in runs]
    return [value for value in found if value != {}]


def mean_of(runs: list[dict], *keys: str) -> float | str:
    """Mean over the seeds that have the number; an empty cell where none has."""
    found = of_seeds(runs, *keys)
    return sum(found) / len(found) if found else ""


def each_of(runs: list[dict], *keys: str) -> str:
    """The numbers themselves, for a table's cell: `0.720, 0.706, 0.725`."""
    return ", ".join(f"{value:.3f}" for value in of_seeds(runs, *keys))
