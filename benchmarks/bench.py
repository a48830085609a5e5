"""Measure our speed and memory against TRL's and transformers', side by side.

    python benchmarks/bench.py              # all sections, or: make bench
    python benchmarks/bench.py grpo ppo     # these two, or: make bench BENCH="grpo ppo"
    python benchmarks/bench.py --trl 1.16.0 # against another release of TRL than the pinned one
    python benchmarks/bench.py --table      # print the tables of docs/speed.md

Writes `benchmarks/results/bench.json` (`bench_newest.json` with `--trl`) after each section; those
not run keep their numbers. Run it on a machine that does nothing else. `--quick` tests the code at
toy sizes and writes `build/bench_quick.json`: its numbers mean nothing.
"""

import argparse
import importlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "bench.json"
NEWEST_RESULTS = RESULTS.with_name("bench_newest.json")
QUICK_RESULTS = ROOT / "build" / "bench_quick.json"
# Section -> module with `make(section, quick) -> Section`, in the order of the table.
MODULES = {
    "sft": "supervised",
    "rm": "supervised",
    "dpo": "supervised",
    "ppo": "online",
    "grpo": "online",
    "sampling": "sampling",
    "update": "updates",
    "vocabulary": "updates",
    "growth": "growth",
}
TRAINERS = ("sft", "rm", "dpo", "grpo")  # sections that run with TRL's newest release too
FIXED_ENV = {
    "COURSE_PROFILE": "tiny",
    "COURSE_RUNS": str(ROOT / "build" / "bench_runs"),  # the shipped checkpoints, not a learner's
    "HF_DATASETS_OFFLINE": "1",
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "MPLBACKEND": "agg",
    "TOKENIZERS_PARALLELISM": "false",
    "TQDM_DISABLE": "1",
    "TRL_EXPERIMENTAL_SILENCE": "1",
}
DROPPED_ENV = ("COURSE_BASE_MODEL", "COURSE_DEVICE", "COURSE_SEED", "COURSE_SMOKE")


def use_fixed_env() -> None:
    """The settings every measurement is made under; before torch and transformers are loaded."""
    for name in DROPPED_ENV:
        os.environ.pop(name, None)
    os.environ.update(FIXED_ENV)


def use_trl(version: str) -> None:
    """Put a release of TRL before the pinned one, here and in child processes.

    Only TRL changes: the packages that it uses stay as they are pinned.
    """
    folder = ROOT / "build" / f"trl-{version}"
    if not folder.exists():
        fresh = folder.with_name(f"{folder.name}.new")  # an interrupted one is overwritten
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--upgrade"]
        subprocess.run([*command, "--target", str(fresh), f"trl=={version}"], check=True)
        fresh.rename(folder)
    sys.path.insert(0, str(folder))
    os.environ["PYTHONPATH"] = str(folder)


def load(path: Path) -> dict:
    """The sections measured so far, by name; none when there is no file."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def merge(path: Path, name: str, result: dict) -> None:
    """Put one section's result into the file, keep the others; written whole or not at all."""
    results = load(path) | {name: result}
    ordered = {section: results[section] for section in MODULES if section in results}
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps(ordered, indent=1) + "\n", encoding="utf-8")
    fresh.replace(path)


def make(name: str, quick: bool):
    """The section, with its models and data loaded."""
    from transformers import logging

    from utils import profiles

    profiles.keep_freed_memory()  # for every variant, theirs too: what is left is the method
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    return importlib.import_module(MODULES[name]).make(name, quick)


def run_section(name: str, quick: bool) -> dict:
    """Time first, then memory in processes of their own."""
    import measuring

    began = time.monotonic()
    found = measuring.circumstances()
    section = make(name, quick)
    rows = measuring.measure_times(section)
    command = [str(Path(__file__)), *(["--quick"] if quick else []), "--memory-of", name]
    memory = measuring.measure_memory(section, command)
    found |= {"settings": section.settings, "repeats": section.repeats}
    found |= {"rows": rows, "memory": memory} | section.conclude(rows, memory)
    return found | {"took_seconds": round(time.monotonic() - began)}


def main() -> None:
    """Run the sections that were asked for, or print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sections", nargs="*", help=f"of {', '.join(MODULES)}; default all")
    parser.add_argument("--quick", action="store_true", help="toy sizes, to test the code")
    parser.add_argument("--trl", metavar="VERSION", help=f"for {', '.join(TRAINERS)} only")
    parser.add_argument("--table", action="store_true", help="print the tables and stop")
    parser.add_argument("--out", type=Path, help=f"default {RESULTS.relative_to(ROOT)}")
    parser.add_argument("--memory-of", nargs=3, metavar=("SECTION", "VARIANT", "FILE"))
    args = parser.parse_args()
    unknown = sorted(set(args.sections) - set(MODULES))
    if unknown:
        parser.error(f"no section {', '.join(unknown)}; there are: {', '.join(MODULES)}")
    sections = args.sections or (TRAINERS if args.trl else MODULES)
    if args.trl and set(sections) - set(TRAINERS):
        parser.error(f"--trl is for {', '.join(TRAINERS)}: the others use the pinned TRL or none")
    results = NEWEST_RESULTS if args.trl else RESULTS
    out = args.out or (QUICK_RESULTS if args.quick else results)
    use_fixed_env()
    if args.trl:
        use_trl(args.trl)
    if args.table:
        import report

        print(report.table(load(out), load(NEWEST_RESULTS)))
    elif args.memory_of:
        import measuring

        name, variant, file = args.memory_of
        peaks = measuring.peaks_here(make(name, args.quick), variant)
        Path(file).write_text(json.dumps(peaks), encoding="utf-8")
    else:
        for name in sections:
            print(f"{name} ...", end=" ", flush=True)
            result = run_section(name, args.quick)
            merge(out, name, result)
            print(f"{result['took_seconds']} s", flush=True)
        print(f"wrote {os.path.relpath(out)}", file=sys.stderr)


if __name__ == "__main__":
    main()
