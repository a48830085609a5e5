"""Run the variants of a notebook with several seeds and write them to `benchmarks/results`.

    python -m scripts.run_sweep 04 --seeds 0 1 2      # or: make sweep NB=04

The notebook says what is compared: its cells with the tag `sweep` define `VARIANTS`, a list of
names, and `run_variant(name) -> dict`. Those cells are executed once a seed, as they are; nothing
of them is written again here. What the code as it is now has measured is kept: an interrupted sweep
goes on, and a change of the code measures everything again.
"""

import argparse
import json
import os
import time
from pathlib import Path

import nbformat

from scripts.run_seeds import Results, measured, seed_folder


def load_cells(notebook: Path, seed: int, tag: str = "sweep", folder: Path | None = None) -> dict:
    """Execute the cells with the tag, with a seed; return what they define.

    folder: of the checkpoints that earlier lessons left.
    """
    folder = folder or seed_folder(notebook, seed)
    if tag == "real":  # a stage starts from what earlier lessons left with the same seed
        folder = folder.parent
    os.environ |= {"COURSE_SEED": str(seed), "COURSE_RUNS": str(folder)}
    names: dict = {"__name__": f"__{tag}__"}
    for cell in nbformat.read(notebook, as_version=4).cells:
        if cell.cell_type == "code" and tag in cell.metadata.get("tags", []):
            exec(compile(cell.source, f"{notebook.name}:{cell.id}", "exec"), names)  # noqa: S102
    return names


def main() -> None:
    """Every variant with every seed; the file is written after each one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "notebook", nargs="?", help="number of the notebook, such as 04; all of them"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", default=[], help="these variants, not all")
    parser.add_argument("--again", nargs="*", default=[], help="variants to measure once more")
    args = parser.parse_args()
    for notebook, out in measured(args.notebook, "_sweep"):
        results = Results(out, notebook, "sweep")
        results.announce(args.seeds)
        sweep(results, args)


def sweep(results: Results, args: argparse.Namespace) -> None:
    """Every variant of one notebook that is stale."""
    os.chdir(results.notebook.parent)
    for seed in args.seeds:
        names = load_cells(results.notebook, seed)
        empty = {"seed": seed, "seconds": {}, "summary": {}, "by": {}}
        run = results.runs.setdefault(seed, empty)
        by = run.setdefault("by", {})
        for kept in (run["summary"], run["seconds"], by):  # variants that the notebook has no more
            for variant in kept.keys() - set(names["VARIANTS"]):
                del kept[variant]
        for variant in args.only or names["VARIANTS"]:
            if by.get(variant) == results.key and variant not in args.again:
                continue
            began = time.monotonic()
            run["summary"][variant] = names["run_variant"](variant)
            run["seconds"][variant] = round(time.monotonic() - began)
            by[variant] = results.key
            print(f"seed {seed}, {variant}: {json.dumps(run['summary'][variant])}", flush=True)
            results.write()


if __name__ == "__main__":
    main()
