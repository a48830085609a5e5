"""Run a lesson's main cells on a real model; write `benchmarks/results/NN_name_smol.json`.

    python -m scripts.run_real 05 --seeds 0 1 2      # or: make real NB=05 SEEDS="0 1 2"

How a lesson takes part: its cells with the tag `real` are executed once a seed under the profile
`smol`, as they are, and define

    REAL = ["sft", "after SFT", ...]            # stages, in order
    def run_real(stage, progress): -> dict      # JSON: what is stored of the stage

`progress(step, steps)` in a loop prints the time left; `progress.file` is where the loop may keep
an unfinished run (`engines.resume.save_run`, `load_run`) every few updates. What one stage leaves
for the next goes to `runs_folder(profile)` (`lora.save_adapter`). A finished stage is stored at
once: after an interruption the same command goes on. Beside the numbers stand the weights that they
come from and the fingerprint of the code. COURSE_BASE_MODEL chooses other weights.
"""

import argparse
import json
import os
import resource
import sys
import time
from pathlib import Path

from relatives import lora
from scripts.run_seeds import ROOT, Results, find_notebook
from scripts.run_sweep import load_cells
from utils import profiles

PROFILE, TAG = "smol", "real"
WEIGHTS = (
    "model",
    "source",
    "weights",
    "revision",
    "sha256 of model.safetensors",
)  # of `provenance.json`
EVERY = 30.0  # seconds between two lines of progress


class Progress:
    """Prints how far a stage is, and about how long it and the later stages will take."""

    def __init__(self, label: str, file: Path, later: float | None) -> None:
        self.label, self.file, self.later = label, file, later
        self.began = self.said = time.monotonic()
        self.first: int | None = None  # the first step of this process: an earlier one did others

    def __call__(self, step: int, steps: int) -> None:
        """`step` of `steps` begins."""
        now = time.monotonic()
        if self.first is None:
            self.first, self.began = step, now
        done = step - self.first
        if not done or now - self.said < EVERY:
            return
        self.said, each = now, (now - self.began) / done
        left = f"{each * (steps - step) / 60:.0f} min left"
        if self.later:
            left += f", then {self.later / 60:.0f} min of later stages"
        print(f"{self.label}: {step} of {steps}, {each:.1f} s each, {left}", flush=True)


def known_seconds(results: Results, stages: list[str]) -> float | None:
    """How long these stages took the last time; None where one was never measured."""
    took = [
        max(
            (run["seconds"][stage] for run in results.runs.values() if stage in run["seconds"]),
            default=None,
        )
        for stage in stages
    ]
    return None if None in took else sum(took)


def peak_gb() -> float:
    """The most memory that this process has held so far, GB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (1e9 if sys.platform == "darwin" else 1e6), 2)  # bytes there, kB elsewhere


def measure(results: Results, seed: int, args: argparse.Namespace) -> None:
    """Every stage of one seed that is stale; the file is written after each one."""
    names = load_cells(results.notebook, seed, TAG)
    if not {"REAL", "run_real"} <= names.keys():
        raise SystemExit(
            f"{results.notebook.name} has no cells with the tag {TAG!r} that define REAL and "
            "run_real: see the first lines of scripts/run_real.py"
        )
    stages = names["REAL"]
    if unknown := set([*args.only, *args.again]) - set(stages):
        raise SystemExit(f"no stage {min(unknown)!r}; there are: {', '.join(stages)}")
    run = results.runs.setdefault(seed, {"seed": seed})
    for key in ("seconds", "peak GB", "summary", "by"):
        run.setdefault(key, {})
    todo = [s for s in args.only or stages if run["by"].get(s) != results.key or s in args.again]
    for number, stage in enumerate(todo):
        label = f"{results.notebook.stem[:2]}, seed {seed}, {stage}"
        folder = profiles.runs_folder(profiles.get_profile())
        file = folder / f".{results.notebook.stem[:2]}_{stage.replace(' ', '_')}.unfinished"
        before = known_seconds(results, [stage])
        last = f" (last time {before / 60:.0f} min)" if before is not None else ""
        print(f"{label}: begins{last}", flush=True)
        progress = Progress(label, file, known_seconds(results, todo[number + 1 :]))
        began = time.monotonic()
        summary = names["run_real"](stage, progress)
        run["summary"][stage] = json.loads(json.dumps(summary))  # fails here, not in the file
        run["seconds"][stage] = round(time.monotonic() - began)
        run["peak GB"][stage] = peak_gb()
        run["by"][stage] = results.key
        results.write()
        file.unlink(missing_ok=True)
        print(
            f"{label}: {run['seconds'][stage]} s, {json.dumps(run['summary'][stage])}", flush=True
        )


def weights() -> dict:
    """Where the weights come from; stored beside the numbers."""
    said = lora.provenance(profiles.get_profile())
    return {key: said[key] for key in WEIGHTS if key in said}


def main(arguments: list[str] | None = None) -> None:
    """Measure the seeds one after the other."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("notebook", help="number of the notebook, such as 05")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--only", nargs="+", default=[], help="these stages, not all")
    parser.add_argument("--again", nargs="+", default=[], help="stages to measure once more")
    args = parser.parse_args(arguments)
    os.environ["COURSE_PROFILE"] = PROFILE
    notebook = find_notebook(args.notebook)
    out = ROOT / "benchmarks" / "results" / f"{notebook.stem}_{PROFILE}.json"
    results = Results(out, notebook, TAG, weights=weights())
    os.chdir(notebook.parent)
    for seed in args.seeds:
        measure(results, seed, args)
    print(f"{out.name} is up to date for seeds {', '.join(map(str, args.seeds))}")


if __name__ == "__main__":
    main()
