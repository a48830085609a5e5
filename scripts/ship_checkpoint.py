"""Copy a stage that seed 0 of `make seeds` left in `runs/` to `assets/`, with a model card.

python -m scripts.ship_checkpoint sft
"""

import argparse
import json
import shutil
import uuid
from functools import reduce
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESULTS = {"sft": "01_sft", "reward_model": "02_reward_model"}  # stage -> notebook that makes it
STARTS_FROM = {"sft": "base", "reward_model": "sft"}
MEASURED = {
    "sft": "Execution accuracy on 500\nheld-out prompts about unseen tables",
    "reward_model": "Measured on 300\nheld-out prompts about unseen tables, 16 samples each",
}
# stage -> column of its card -> where the number is in a run's summary
COLUMNS = {
    "sft": {
        "greedy": ("SFT, full", "greedy"),
        "sampled (4 answers, temperature 1)": ("SFT, full", "sampled"),
    },
    "reward_model": {
        "pair accuracy": ("pair accuracy",),
        "AUC": ("AUC",),
        "accuracy of a random choice": ("random choice",),
        "of the best of 8": ("best of 8",),
    },
}
CARD = """---
license: apache-2.0
---
# tiny {stage}

Made by `notebooks/{notebook}.ipynb` with seed 0 from `assets/tiny/{start}`. {measured}, {by}:

| {head} |
|{rule}
{rows}

Measured {date}, {machine}, {versions}.
"""


def card(stage: str) -> str:
    """The model card of a stage, from its results file."""
    results = json.loads((ROOT / f"benchmarks/results/{RESULTS[stage]}.json").read_text())
    rows = []
    for run in results["runs"]:
        values = [reduce(dict.get, path, run["summary"]) for path in COLUMNS[stage].values()]
        rows.append(" | ".join([str(run["seed"]), *(f"{value:.3f}" for value in values)]))
    return CARD.format(
        stage=stage,
        notebook=RESULTS[stage],
        start=STARTS_FROM[stage],
        measured=MEASURED[stage],
        by="by seed (this checkpoint is seed 0)",
        head=" | ".join(["seed", *COLUMNS[stage]]),
        rule="---|" * (1 + len(COLUMNS[stage])),
        rows="\n".join(f"| {row} |" for row in rows),
        date=results["date"],
        machine=results["machine"],
        versions=", ".join(f"{name} {version}" for name, version in results["versions"].items()),
    )


def main() -> None:
    """Copy whole or not at all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("stage", choices=sorted(RESULTS))
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
