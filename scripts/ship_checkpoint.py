"""Copy a stage that seed 0 of `make seeds` left in `runs/` to `assets/`, with a model card.

python scripts/ship_checkpoint.py sft
"""

import argparse
import json
import shutil
import uuid
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# stage -> the notebook that makes it, and the row of its results that describes it
MADE_BY = {"sft": ("01_sft", "SFT, full")}
CARD = """---
license: apache-2.0
---
# tiny {stage}

Made by `notebooks/{notebook}.ipynb` with seed 0 from `assets/tiny/base`. Execution accuracy on 500
held-out prompts about unseen tables, by seed (this checkpoint is seed 0):

| seed | greedy | sampled (4 answers, temperature 1) |
|---|---|---|
{rows}

Measured {date}, {machine}, {versions}.
"""


def card(stage: str) -> str:
    """The model card of a stage, from its results file."""
    notebook, row = MADE_BY[stage]
    results = json.loads((ROOT / f"benchmarks/results/{notebook}.json").read_text())
    scores = [(run["seed"], run["summary"][row]) for run in results["runs"]]
    return CARD.format(
        stage=stage,
        notebook=notebook,
        rows="\n".join(f"| {n} | {s['greedy']:.3f} | {s['sampled']:.3f} |" for n, s in scores),
        date=results["date"],
        machine=results["machine"],
        versions=", ".join(f"{name} {version}" for name, version in results["versions"].items()),
    )


def main() -> None:
    """Copy whole or not at all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("stage", choices=sorted(MADE_BY))
    stage = parser.parse_args().stage
    source, target = ROOT / "runs/seed_0/tiny" / stage, ROOT / "assets/tiny" / stage
    if not (source / "config.json").is_file():
        parser.error(f"no {source.relative_to(ROOT)}: run `make seeds` for the notebook first")
    fresh = target.with_name(f".{stage}.{uuid.uuid4().hex[:8]}")
    shutil.copytree(source, fresh)
    (fresh / "README.md").write_text(card(stage), encoding="utf-8")
    shutil.rmtree(target, ignore_errors=True)
    fresh.rename(target)
    print(f"{target.relative_to(ROOT)} is the {stage} of seed 0")


if __name__ == "__main__":
    main()
