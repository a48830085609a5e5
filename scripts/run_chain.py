"""Train the stages of lessons 01 to 05 anew with each seed, each stage from the one before.

    python -m scripts.run_chain --seeds 0 1 2      # or: make chain

`make seeds` starts every lesson from the shipped checkpoints, so its spread leaves out that of the
stages before. Here a seed trains its own SFT model, its reward model from that, and PPO, DPO and
GRPO from these. Results go to `benchmarks/results/<lesson>_chain.json`; lesson 01 starts from the
base in any case, so its numbers are those of `01_sft.json`. A claim that another start makes false
is stored, and stops nothing. An interrupted chain goes on after its last stage.
"""

import argparse
import json
import os
import time
from pathlib import Path
from typing import NamedTuple

from scripts.run_seeds import ROOT, Results, find_notebook, run
from scripts.run_sweep import load_cells


class Stage(NamedTuple):
    """A lesson's part in the chain."""

    lesson: str
    variant: str | None = None  # of its sweep; None: the whole notebook
    leaves: str | None = None  # the checkpoint that later stages start from


CHAIN = (
    Stage("01", leaves="sft"),
    Stage("02", leaves="reward_model"),
    Stage("03"),
    Stage("04", "DPO as in 4.6"),
    Stage("05", "GRPO on SQL as in 5.9"),
)


def results_of(stage: Stage) -> Results:
    """The results file of a stage, and the key of the code as it is now."""
    notebook = find_notebook(stage.lesson)
    ending = "" if stage.lesson == CHAIN[0].lesson else "_chain"
    before = () if stage.lesson == CHAIN[0].lesson else ("01_sft", "02_reward_model")
    out = ROOT / "benchmarks/results" / f"{notebook.stem}{ending}.json"
    tag = "sweep" if stage.variant else None
    return Results(out, notebook, tag, after=[name for name in before if name < notebook.stem])


def to_run(seed: int, folder: Path) -> list[Stage]:
    """The stages that are stale, and those before them whose checkpoint is gone."""
    stale = [s for s in CHAIN if (r := results_of(s)).runs.get(seed, {}).get("by") != r.key]
    gone = [s for s in CHAIN if s.leaves and not (folder / "tiny" / s.leaves).is_dir()]
    return [
        s for s in CHAIN if s in stale or (s in gone and any(s.lesson < t.lesson for t in stale))
    ]


def run_stage(stage: Stage, seed: int, folder: Path) -> None:
    """Run one stage and store its numbers."""
    results = results_of(stage)
    if stage.variant is None:
        done = run(results.notebook, seed, folder)
    else:
        began = time.monotonic()
        os.chdir(results.notebook.parent)
        summary = load_cells(results.notebook, seed, folder=folder)["run_variant"](stage.variant)
        done = {"seed": seed, "seconds": round(time.monotonic() - began), "summary": summary}
    results.runs[seed] = done | {"by": results.key}
    results.write()
    print(f"seed {seed}, lesson {stage.lesson}: {json.dumps(done['summary'])}", flush=True)


def main(arguments: list[str] | None = None) -> None:
    """Every stage of every seed; each file is written after each stage."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    args = parser.parse_args(arguments)
    for seed in args.seeds:
        folder = ROOT / "runs" / f"chain_{seed}"
        todo = to_run(seed, folder)
        print(f"seed {seed}: lessons {', '.join(s.lesson for s in todo) or 'none'}", flush=True)
        for stage in todo:
            run_stage(stage, seed, folder)


if __name__ == "__main__":
    main()
