"""Copy a stage that seed 0 left in `runs/` to `assets/`, with a model card.

python -m scripts.ship_checkpoint sft                   # tiny's, of `make seeds`
python -m scripts.ship_checkpoint grpo --profile smol   # an adapter, of `make real`
"""

import argparse
import json
import shutil
from collections.abc import Iterator
from functools import reduce
from pathlib import Path
from typing import Any

from safetensors import safe_open

from utils.models import ADAPTER, MADE_BY, whole_folder

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

LARGEST_ADAPTER = 5e6  # bytes
ADAPTER_CARD = """---
license: apache-2.0
base_model: {base}
library_name: peft
---
# SmolLM2-135M-Instruct, {stage}

A LoRA adapter in half precision, made by `notebooks/{notebook}.ipynb` with seed 0
(`make real NB={number}`) on top of the stage `{starts_from}`. Weights it was trained on: {weights}
({source}). Measured in that run:

| stage of the run | what | value |
|---|---|---|
{rows}

Measured {date}, {machine}, {versions}.
"""


def numbers(value: Any, path: str = "") -> Iterator[tuple[str, float]]:
    """Every single number in a summary, with its path; lists (curves) are left out."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from numbers(inner, f"{path}, {key}" if path else key)
    elif isinstance(value, int | float):
        yield path, value


def adapter_card(stage: str, folder: Path) -> str:
    """The card of an adapter for SmolLM2, from its results file and its own metadata."""
    notebook = Path(MADE_BY[stage]).stem
    results = json.loads((ROOT / f"benchmarks/results/{notebook}_smol.json").read_text())
    run = next(run for run in results["runs"] if run["seed"] == 0)
    with safe_open(folder / ADAPTER, "pt") as opened:
        said = opened.metadata()
    return ADAPTER_CARD.format(
        base=json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"],
        stage=stage,
        notebook=notebook,
        number=notebook[:2],
        starts_from=said["starts_from"],
        weights=said["weights"],
        source=said["source"],
        rows="\n".join(
            f"| {part} | {name} | {value:.4g} |"
            for part, summary in run["summary"].items()
            for name, value in numbers(summary)
        ),
        date=results["date"],
        machine=results["machine"],
        versions=", ".join(f"{name} {version}" for name, version in results["versions"].items()),
    )


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


def main(arguments: list[str] | None = None) -> None:
    """Copy whole or not at all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("stage", choices=[stage for stage in MADE_BY if stage != "base"])
    parser.add_argument("--profile", choices=("tiny", "smol"), default="tiny")
    args = parser.parse_args(arguments)
    tiny = args.profile == "tiny"
    if tiny and args.stage not in RESULTS:
        parser.error(f"the course ships no {args.stage} of tiny, only {', '.join(RESULTS)}")
    lesson = Path(MADE_BY[args.stage]).stem if tiny else ""  # real runs share one folder
    source = ROOT / "runs/seed_0" / lesson / args.profile / args.stage
    target = ROOT / "assets" / args.profile / args.stage
    if not (source / ("config.json" if tiny else ADAPTER)).is_file():
        command = "make seeds" if tiny else "make real"
        parser.error(f"no {source.relative_to(ROOT)}: run `{command}` for the notebook first")
    size = sum(file.stat().st_size for file in source.iterdir())
    if not tiny and size > LARGEST_ADAPTER:
        parser.error(f"{source.relative_to(ROOT)} has {size / 1e6:.1f} MB, more than 5: lower rank")
    with whole_folder(target) as fresh:
        shutil.copytree(source, fresh, dirs_exist_ok=True)
        text = card(args.stage) if tiny else adapter_card(args.stage, fresh)
        (fresh / "README.md").write_text(text, encoding="utf-8")
    print(f"{target.relative_to(ROOT)} is the {args.stage} of seed 0")


if __name__ == "__main__":
    main()
