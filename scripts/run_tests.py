"""Check formatting, lint, unit tests and every notebook; run all of them even if one fails.

With --no-notebooks (`make check`) only what needs no notebook runs, on several cores.
"""

import argparse
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from scripts.run_notebooks import BUILD, ROOT, find_notebooks, use_fixed_env

NBVAL = ["pytest", "--nbval", "--nbval-current-env", "--nbval-sanitize-with", "tests/sanitize.cfg"]
NBVAL += ["--nbval-cell-timeout", "1800", "-p", "no:cacheprovider"]


SIDE_BY_SIDE = ["unit tests"]  # beside the notebooks; all else comes before them
WORKERS = min(4, os.cpu_count() or 1)  # each takes about 1 GB of memory
PARALLEL = ["-n", str(WORKERS), "--dist", "worksteal", "-m", "not notebooks"]


def steps(with_notebooks: bool = True) -> list[tuple[str, list[str]]]:
    """Name and command (a module with its arguments) of each step."""
    checks = [
        ("format", ["ruff", "format", "--check", "."]),
        ("lint", ["ruff", "check", "."]),
        ("unit tests", ["pytest"] if with_notebooks else ["pytest", *PARALLEL]),
    ]
    if not with_notebooks:
        return checks
    notebooks = [path.relative_to(ROOT).as_posix() for path in find_notebooks()]
    return checks + [(name, [*NBVAL, name]) for name in notebooks]


def run_step(name: str, command: list[str]) -> tuple[str, bool, float]:
    """Run one step; return its name, whether it passed and the seconds.

    Notebooks run beside other steps, so the output of each is shown when it has ended.
    """
    # Each notebook stands alone, on the shipped checkpoints; the learner's runs/ stay untouched.
    env = os.environ | {"COURSE_RUNS": str(BUILD / "test_runs" / Path(name).stem)}
    options: dict = {}
    if name in SIDE_BY_SIDE or name.endswith(".ipynb"):
        env["OMP_NUM_THREADS"] = "1"  # two small models side by side beat one on two threads
    if name.endswith(".ipynb"):
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        options |= {"encoding": "utf-8", "errors": "replace"}  # whatever the locale
    print(f"\n--- {name}", flush=True)
    start = time.monotonic()
    done = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, env=env, **options)
    seconds = time.monotonic() - start
    if done.stdout:
        print(f"\n--- {name} after {seconds:.0f} s\n{done.stdout}", flush=True)
    return name, done.returncode == 0, seconds


def main() -> int:
    """Run every step, unit tests and notebooks two at a time; 1 if any failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--no-notebooks", action="store_true", help="leave out what runs notebooks")
    use_fixed_env()
    plan = steps(with_notebooks=not parser.parse_args().no_notebooks)
    together = [s for s in plan if s[0] in SIDE_BY_SIDE or s[0].endswith(".ipynb")]
    results = [run_step(*step) for step in plan if step not in together]
    with ThreadPoolExecutor(max_workers=min(2, os.cpu_count() or 1)) as pool:
        results += pool.map(lambda step: run_step(*step), together)
    print("\n--- results")
    for name, passed, seconds in results:
        print(f"{name:<36} {'passed' if passed else 'FAILED'}  {seconds:5.0f} s")
    failed = sum(not passed for _, passed, _ in results)
    print(f"steps: {len(results) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
