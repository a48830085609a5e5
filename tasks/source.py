"""Where real data comes from: a local file in `COURSE_DATA_DIR`, else the hub."""

import json
import os
from pathlib import Path
from typing import Any

# name -> (hub id, hub config, splits on the hub)
HUB = {
    "sql_create_context": ("b-mc2/sql-create-context", None, ("train",)),
    "gsm8k": ("openai/gsm8k", "main", ("train", "test")),
    "imdb": ("stanfordnlp/imdb", None, ("train", "test")),
    "ultrafeedback": ("trl-lib/ultrafeedback_binarized", None, ("train", "test")),
    "hh_rlhf": ("Anthropic/hh-rlhf", None, ("train", "test")),
    "dapo_math": ("open-r1/DAPO-Math-17k-Processed", "en", ("train",)),
    "open_math": ("unsloth/OpenMathReasoning-mini", None, ("cot",)),
    "medical": ("shibing624/DPO-En-Zh-20k-Preference", "zh", ("train",)),
}


class DataNotFoundError(RuntimeError):
    """A data set is neither in `COURSE_DATA_DIR` nor on the hub."""


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Rows of a JSON Lines file. A broken line is named with its number."""
    rows = []
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError as error:
                raise ValueError(
                    f"{path.name}, line {number}: not valid JSON ({error.msg}). Expected one "
                    "JSON object a line. Repair or delete that line."
                ) from error
    return rows


def load_rows(name: str, split: str) -> list[dict[str, Any]]:
    """Rows of data set `name`: `COURSE_DATA_DIR/name/split.jsonl` if there, else the hub.

    Raises DataNotFoundError that says where it looked, and KeyError for an unknown name.
    """
    if name not in HUB:
        raise KeyError(f"unknown data set {name!r}; known: {', '.join(sorted(HUB))}")
    path = local_file(name, split)
    if path is not None:
        return read_jsonl(path)
    hub_id, config, hub_splits = HUB[name]
    if split not in hub_splits:
        raise DataNotFoundError(
            f"{hub_id} has no split {split!r} on the hub (it has {', '.join(hub_splits)})"
            f"{_looked(name, split)}."
        )
    try:
        from datasets import load_dataset

        return list(load_dataset(hub_id, config, split=split))
    except Exception as error:  # the hub client raises many types: offline, gated, gone
        raise DataNotFoundError(
            f"could not load {hub_id} ({split}) from the hub: {type(error).__name__}"
            f"{_looked(name, split)}. Connect to the network, or put the file "
            f"{name}/{split}.jsonl in a folder and set COURSE_DATA_DIR to it."
        ) from error


def local_file(name: str, split: str) -> Path | None:
    """The file of a split in `COURSE_DATA_DIR`, or None if there is none."""
    folder = os.environ.get("COURSE_DATA_DIR")
    path = Path(folder or ".") / name / f"{split}.jsonl"
    return path if folder and path.is_file() else None


def _looked(name: str, split: str) -> str:
    if not os.environ.get("COURSE_DATA_DIR"):
        return "; COURSE_DATA_DIR is not set"
    return f"; COURSE_DATA_DIR has no file {name}/{split}.jsonl"
