"""What every section of the benchmark is measured with: turns, spread, peak memory, machine."""

import ctypes
import datetime
import gc
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from utils import profiles

Point = dict  # sizes, such as {"prompts": 32, "group_size": 8}
# What a run returns: "seconds" (one number a step) and other lists of numbers, and "curves".
Measured = dict
MEGABYTE = 1e6


@dataclass
class Section:
    """Variants that do the same work, and the points at which they are compared.

    Every variant runs once at `warm_up`, unmeasured, then `repeats` times at each point in turn:
    ours, theirs, ours, theirs. Peak memory is measured at `memory_points`. `settings` says what
    was done; `conclude(rows, memory)` adds what follows from all.
    """

    settings: dict
    variants: dict[str, Callable[[Point], Measured]]
    points: list[Point]
    warm_up: Point
    repeats: int = 3
    memory_points: list[Point] = field(default_factory=list)
    conclude: Callable[[list[dict], list[dict]], dict] = lambda rows, memory: {}


def spread(numbers: list[float]) -> dict:
    """Median and quartiles with the number of measurements, to four significant digits."""
    if not numbers:
        raise ValueError("nothing was measured: a run needs at least two steps, the first warms up")
    low, middle, high = (
        statistics.quantiles(numbers, n=4, method="inclusive") if len(numbers) > 1 else numbers * 3
    )
    quartiles = {"median": middle, "q1": low, "q3": high}
    return {key: float(f"{x:.4g}") for key, x in quartiles.items()} | {"n": len(numbers)}


def gaps(ends: list[float]) -> list[float]:
    """Seconds of each step from the times at which steps ended; the first step warms up."""
    return [later - earlier for earlier, later in zip(ends, ends[1:], strict=False)]


def summarise(runs: list[Measured]) -> dict:
    """The lists of all repeats, each as a spread; curves as in the first repeat."""
    found: dict = {
        key: spread([x for run in runs for x in run[key]]) for key in runs[0] if key != "curves"
    }
    if "curves" in runs[0]:
        curves = runs[0]["curves"].items()
        found["curves"] = {name: [float(f"{x:.6g}") for x in curve] for name, curve in curves}
    return found


def measure_times(section: Section) -> list[dict]:
    """A row for each point: what each variant took, measured in turns."""
    for run in section.variants.values():
        run(section.warm_up)
    rows = []
    for point in section.points:
        runs: dict[str, list[Measured]] = {name: [] for name in section.variants}
        for _ in range(section.repeats):
            for name, run in section.variants.items():
                runs[name].append(run(point))
        rows.append({"point": point, "variants": {k: summarise(v) for k, v in runs.items()}})
    return rows


# Memory


def resident(key: str) -> int:
    """Bytes of this process in memory: now ("VmRSS") or at most ("VmHWM"). Linux only."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return 1024 * int(re.search(rf"^{key}:\s+(\d+) kB", status, re.MULTILINE)[1])


def peak_of(work: Callable[[], object]) -> int:
    """Bytes by which `work` raises this process's memory above what it had before, at the peak.

    What the allocator holds in reserve is given back first, and the kernel's high-water mark is
    reset, so that the peak of earlier work does not hide this one's. `ru_maxrss` would not do: it
    cannot be reset and a child starts with its parent's.
    """
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    before = resident("VmRSS")
    work()
    return max(0, resident("VmHWM") - before)


def peaks_here(section: Section, variant: str) -> list[float]:
    """Peak megabytes at each memory point, of a second run: imports and buffers are not counted."""
    run, found = section.variants[variant], []
    for point in section.memory_points:
        run(point)
        found.append(round(peak_of(lambda point=point: run(point)) / MEGABYTE, 1))
    return found


def measure_memory(section: Section, command: list[str]) -> list[dict]:
    """A row for each memory point; `command + [variant, file]` measures a variant by itself."""
    if not section.memory_points or not Path("/proc/self/clear_refs").exists():
        return []  # Linux alone says what a process used at most since a given moment
    rows = [{"point": point, "peak_megabytes": {}} for point in section.memory_points]
    for variant in section.variants:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "peaks.json"
            done = subprocess.run(
                [sys.executable, *command, variant, str(file)],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
            if done.returncode:
                raise RuntimeError(f"memory of {variant!r} not measured:\n{done.stderr[-2000:]}")
            peaks = json.loads(file.read_text(encoding="utf-8"))
        for row, peak in zip(rows, peaks, strict=True):
            row["peak_megabytes"][variant] = peak
    return rows


# Circumstances


def processor() -> str:
    """The processor's name, as the system gives it."""
    if Path("/proc/cpuinfo").exists():
        found = re.search(
            r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE
        )
        if found:
            return found[1]
    return platform.processor() or platform.machine()


def circumstances() -> dict:
    """Date, machine, threads, how busy the machine was, and versions."""
    return {
        "date": datetime.date.today().isoformat(),
        "machine": {
            "system": f"{platform.system()} {platform.machine()}",
            "processor": processor(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "load_before": round(os.getloadavg()[0], 2),
            "keeps_freed_memory": profiles.keep_freed_memory(),
        },
        "versions": profiles.versions(),
    }
