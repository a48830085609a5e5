"""Run a notebook with several seeds and write what its `summary` holds to `benchmarks/results`.

    python scripts/run_seeds.py 01 --seeds 0 1 2      # or: make seeds NB=01

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

from utils import profiles

ROOT = Path(__file__).resolve().parents[1]


def run(notebook: Path, seed: int) -> dict:
    """Execute the notebook with one seed; return its `summary`, and the seconds it took."""
    node = nbformat.read(notebook, as_version=4)
    node.cells.append(nbformat.v4.new_code_cell("print(json.dumps(summary))"))
    os.environ |= {"COURSE_SEED": str(seed), "COURSE_RUNS": str(ROOT / "runs" / f"seed_{seed}")}
    began = time.monotonic()
    NotebookClient(node, timeout=3600, resources={"metadata": {"path": notebook.parent}}).execute()
    summary = json.loads(node.cells[-1].outputs[0]["text"])
    return {"seed": seed, "seconds": round(time.monotonic() - began), "summary": summary}


def main() -> None:
    """Run every seed, write one file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("notebook", help="number of the notebook, such as 01")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--keep", action="store_true", help="keep the file's runs of other seeds")
    args = parser.parse_args()
    found = sorted((ROOT / "notebooks").glob(f"{args.notebook}_*.ipynb"))
    if len(found) != 1:
        known = ", ".join(sorted(p.name[:2] for p in (ROOT / "notebooks").glob("*.ipynb")))
        parser.error(f"no notebook {args.notebook!r}; there are: {known}")
    out = ROOT / "benchmarks" / "results" / f"{found[0].stem}.json"
    old = json.loads(out.read_text(encoding="utf-8"))["runs"] if args.keep else []
    runs = [result for result in old if result["seed"] not in args.seeds]
    for seed in args.seeds:
        runs.append(run(found[0], seed))
        print(
            f"seed {seed}: {runs[-1]['seconds']} s, {json.dumps(runs[-1]['summary'])}", flush=True
        )
    results = {
        "notebook": found[0].name,
        "date": datetime.date.today().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": profiles.versions(),
        "runs": sorted(runs, key=lambda result: result["seed"]),
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    fresh = out.with_suffix(".new")
    fresh.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    fresh.replace(out)
    print(f"wrote {out.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
