"""Run a notebook with several seeds and write what its `summary` holds to `benchmarks/results`.

    python -m scripts.run_seeds 01 --seeds 0 1 2      # or: make seeds NB=01

Checkpoints go to `runs/seed_<seed>/<notebook>/`. The notebook is executed as it is, with
COURSE_SEED set; nothing of it is written again here. A seed whose numbers were made by the code as
it is now is not measured again (`--again` does); how long the others will take is said beforehand.
"""

import argparse
import datetime
import json
import os
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import nbformat
import torch
from nbclient import NotebookClient

from benchmarks.measuring import processor
from scripts.whole_file import write_whole
from tools.fingerprint import fingerprint, key_of, keys_of
from utils import profiles

ROOT = Path(__file__).resolve().parents[1]


def seed_folder(notebook: Path, seed: int) -> Path:
    """A lesson's own COURSE_RUNS: it starts from the shipped checkpoints, whatever ran before."""
    return ROOT / "runs" / f"seed_{seed}" / notebook.stem


def run(notebook: Path, seed: int, folder: Path | None = None) -> dict:
    """Execute the notebook with one seed; return its `summary`, seconds and claims that are false.

    folder: of the checkpoints that earlier lessons left, in the place of an empty one.
    """
    node = nbformat.read(notebook, as_version=4)
    node.cells.append(nbformat.v4.new_code_cell("import json\n\nprint(json.dumps(summary))"))
    if folder is None:
        shutil.rmtree(folder := seed_folder(notebook, seed), ignore_errors=True)
    os.environ |= {"COURSE_SEED": str(seed), "COURSE_RUNS": str(folder)}
    os.environ["COURSE_CLAIMS"] = "print"  # the text is about seed 0; what others break is stored
    began = time.monotonic()
    NotebookClient(node, timeout=3600, resources={"metadata": {"path": notebook.parent}}).execute()
    summary = json.loads(node.cells[-1].outputs[0]["text"])
    done = {"seed": seed, "seconds": round(time.monotonic() - began), "summary": summary}
    outputs = [o.get("text", "") for c in node.cells for o in c.get("outputs", [])]
    false = [line for text in outputs for line in text.splitlines() if ": False here; " in line]
    return done | (
        {"false": [line.partition(": False here")[0] for line in false]} if false else {}
    )


def find_notebook(number: str) -> Path:
    """The notebook of a lesson; exits with the numbers that exist."""
    notebooks = sorted((ROOT / "notebooks").glob("*.ipynb"))
    found = [path for path in notebooks if path.name.startswith(f"{number}_")]
    if len(found) != 1:
        known = ", ".join(path.name[:2] for path in notebooks)
        raise SystemExit(f"no notebook {number!r}; there are: {known}")
    return found[0]


class Results:
    """The results file of a notebook: its runs, and the fingerprints of the code that made them.

    A run's `by` names its fingerprint in `made_by`; in a sweep it names one for each variant. Runs
    of older code stay until they are measured again. `weights`: where those come from that are not
    shipped with the course. `after`: the lessons whose stages it starts from, if they are not the
    shipped ones.
    """

    def __init__(
        self,
        out: Path,
        notebook: Path,
        tag: str | None = None,
        weights: dict | None = None,
        after: Sequence[str] = (),
    ) -> None:
        self.out, self.notebook, self.tag = out, notebook, tag
        document = json.loads(out.read_text(encoding="utf-8")) if out.exists() else {}
        self.runs = {run["seed"]: run for run in document.get("runs", [])}
        now = fingerprint(notebook, tag) | ({"weights": weights} if weights else {})
        now |= {"after": keys_of(after)} if after else {}
        self.key = key_of(now)
        self.made_by = document.get("made_by", {}) | {self.key: now}

    def seconds(self, *seeds: int) -> int:
        """What the last measurement of these seeds took, or the longest of the others."""
        took = {s: run["seconds"] for s, run in self.runs.items()}
        total = {s: sum(t.values()) if isinstance(t, dict) else t for s, t in took.items()}
        return sum(total.get(seed, max(total.values(), default=0)) for seed in seeds)

    def announce(self, seeds: Sequence[int]) -> None:
        """Say what will be measured, and how long it took the last time."""
        minutes = self.seconds(*seeds) / 60
        names = ", ".join(map(str, seeds)) or "none"
        print(f"{self.out.name}: seeds to measure: {names}; last time {minutes:.0f} minutes")

    def write(self) -> None:
        """All runs with what made them, machine and versions; whole or not at all."""
        used = set()
        for run in self.runs.values():
            by = run.get("by", "")
            used |= set(by.values()) if isinstance(by, dict) else {by}
        script = Path(sys.argv[0])
        results = {
            "notebook": self.notebook.name,
            "tag": self.tag,
            "command": " ".join(
                ["python -m", f"{script.parent.name}.{script.stem}", *sys.argv[1:]]
            ),
            "date": datetime.date.today().isoformat(),
            "machine": f"{processor()}, {os.cpu_count()} cores",
            "threads": torch.get_num_threads(),
            "versions": profiles.versions(),
            "made_by": {key: made for key, made in self.made_by.items() if key in used},
            "runs": [self.runs[seed] for seed in sorted(self.runs)],
        }
        self.out.parent.mkdir(parents=True, exist_ok=True)
        write_whole(self.out, json.dumps(results, indent=1) + "\n")


def measured(number: str | None, ending: str = "") -> list[tuple[Path, Path]]:
    """Notebook and results file of a lesson, or of every lesson that has such a file."""
    folder = ROOT / "benchmarks" / "results"
    if number:
        notebook = find_notebook(number)
        return [(notebook, folder / f"{notebook.stem}{ending}.json")]
    pairs = [
        (path, folder / f"{path.stem}{ending}.json")
        for path in sorted((ROOT / "notebooks").glob("*.ipynb"))
    ]
    return [(notebook, out) for notebook, out in pairs if out.exists()]


def main() -> None:
    """Run every seed that is stale; the file is written after each one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "notebook", nargs="?", help="number of the notebook, such as 01; all of them"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--again", action="store_true", help="measure what is up to date as well")
    args = parser.parse_args()
    plan = []
    for notebook, out in measured(args.notebook):
        results = Results(out, notebook)
        known = {seed for seed, run in results.runs.items() if run.get("by") == results.key}
        todo = [seed for seed in args.seeds if args.again or seed not in known]
        results.announce(todo)
        plan += [(results, seed) for seed in todo]
    for results, seed in plan:
        done = run(results.notebook, seed) | {"by": results.key}
        print(f"seed {seed}: {done['seconds']} s, {json.dumps(done['summary'])}", flush=True)
        results.runs[seed] = done
        results.write()


if __name__ == "__main__":
    main()
