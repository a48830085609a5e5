"""Check formatting, lint, unit tests and every notebook; run all of them even if one fails."""

import os
import subprocess
import sys
import time
from pathlib import Path

from run_notebooks import BUILD, ROOT, find_notebooks, use_fixed_env

NBVAL = ["pytest", "--nbval", "--nbval-current-env", "--nbval-sanitize-with", "tests/sanitize.cfg"]
NBVAL += ["--nbval-cell-timeout", "1800", "-p", "no:cacheprovider"]


def steps() -> list[tuple[str, list[str]]]:
    """Name and command (a module with its arguments) of each step."""
    checks = [
        ("format", ["ruff", "format", "--check", "."]),
        ("lint", ["ruff", "check", "."]),
        ("unit tests", ["pytest"]),
    ]
    notebooks = [path.relative_to(ROOT).as_posix() for path in find_notebooks()]
    return checks + [(name, [*NBVAL, name]) for name in notebooks]


def run_step(name: str, command: list[str]) -> tuple[str, bool, float]:
    """Run one step with its output shown; return its name, whether it passed and the seconds."""
    print(f"\n--- {name}", flush=True)
    # Each notebook stands alone, on the shipped checkpoints; the learner's runs/ stay untouched.
    os.environ["COURSE_RUNS"] = str(BUILD / "test_runs" / Path(name).stem)
    start = time.monotonic()
    passed = subprocess.run([sys.executable, "-m", *command], cwd=ROOT).returncode == 0
    return name, passed, time.monotonic() - start


def main() -> int:
    """Run every step; 1 if any failed."""
    use_fixed_env()
    results = [run_step(*step) for step in steps()]
    print("\n--- results")
    for name, passed, seconds in results:
        print(f"{name:<36} {'passed' if passed else 'FAILED'}  {seconds:5.0f} s")
    failed = sum(not passed for _, passed, _ in results)
    print(f"steps: {len(results) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
