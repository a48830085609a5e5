"""Run a notebook with several seeds and write what its `summary` holds to `benchmarks/results`.

    python -m scripts.run_seeds 01 --seeds 0 1 2      # or: make seeds NB=01

Checkpoints go to `runs/seed_<seed>/`.
The notebook is executed as it is, with COURSE_SEED set; nothing of it is written again here.
"""

import argparse
import datetime
import json
import os
import platform
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

from scripts.whole_file import write_whole
from utils import profiles

ROOT = Path(__file__).resolve().parents[1]


def run(notebook: Path, seed: int) -> dict:
    """Execute the notebook with one seed; return its `summary`, and the seconds it took."""
    node = nbformat.read(notebook, as_version=4)
    node.cells.append(nbformat.v4.new_code_cell("import json\n\nprint(json.dumps(summary))"))
    os.environ |= {"COURSE_SEED": str(seed), "COURSE_RUNS": str(ROOT / "runs" / f"seed_{seed}")}
    began = time.monotonic()
    NotebookClient(node, timeout=3600, resources={"metadata": {"path": notebook.parent}}).execute()
    summary = json.loads(node.cells[-1].outputs[0]["text"])
    return {"seed": seed, "seconds": round(time.monotonic() - began), "summary": summary}


def find_notebook(number: str) -> Path:
    """The notebook of a lesson; exits with the numbers that exist."""
    notebooks = sorted((ROOT / "notebooks").glob("*.ipynb"))
    found = [path for path in notebooks if path.name.startswith(f"{number}_")]
    if len(found) != 1:
        known = ", ".join(path.name[:2] for path in notebooks)
        raise SystemExit(f"no notebook {number!r}; there are: {known}")
    return found[0]


def write_results(out: Path, notebook: Path, runs: list[dict]) -> None:
    """Runs with date, machine and versions; the file is written whole or not at all."""
    results = {
        "notebook": notebook.name,
        "date": datetime.date.today().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": profiles.versions(),
        "runs": sorted(runs, key=lambda run: run["seed"]),
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    write_whole(out, json.dumps(results, indent=1) + "\n")


def main() -> None:
    """Run every seed; the file is written after each one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("notebook", help="number of the notebook, such as 01")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--keep", action="store_true", help="keep the file's runs of other seeds")
    args = parser.parse_args()
    notebook = find_notebook(args.notebook)
    out = ROOT / "benchmarks" / "results" / f"{notebook.stem}.json"
    old = json.loads(out.read_text(encoding="utf-8"))["runs"] if args.keep else []
    runs = [result for result in old if result["seed"] not in args.seeds]
    for seed in args.seeds:
        runs.append(run(notebook, seed))
        print(
            f"seed {seed}: {runs[-1]['seconds']} s, {json.dumps(runs[-1]['summary'])}", flush=True
        )
        write_results(out, notebook, runs)
    print(f"wrote {out.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
