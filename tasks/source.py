"""Where real data comes from: a local file in `COURSE_DATA_DIR`, else the hub."""

import json
import os
from pathlib import Path
from typing import Any

# name -> (hub id, hub config, splits on the hub)
HUB = {
    "sql_create_context": ("b-mc2/sql-create-context", None, ("train",)),
    "gsm8k": ("openai/gsm8k", "main", ("train", "test")),
    "math500": ("HuggingFaceH4/MATH-500", None, ("test",)),
    "imdb": ("stanfordnlp/imdb", None, ("train", "test")),
    "ultrafeedback": ("trl-lib/ultrafeedback_binarized", None, ("train", "test")),
    "hh_rlhf": ("Anthropic/hh-rlhf", None, ("train", "test")),
    "dapo_math": ("open-r1/DAPO-Math-17k-Processed", "en", ("train",)),
    "open_math": ("unsloth/OpenMathReasoning-mini", None, ("cot",)),
    "medical": ("shibing624/DPO-En-Zh-20k-Preference", "zh", ("train",)),
}


class DataNotFoundError(RuntimeError):
    """A data set is neither in `COURSE_DATA_DIR` nor on the hub."""


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Rows of a `.jsonl` file, one JSON object a line, or of a `.json` file, one array of objects.

    Raises ValueError with file, line or row, and what to do for anything else.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")  # programs on Windows may put a mark in front
    except UnicodeDecodeError as error:
        raise ValueError(f"{path.name} is not UTF-8 text: {error}. Save it as UTF-8.") from error
    if path.suffix == ".json":
        expected = "Expected one JSON array of objects; one object a line belongs in a .jsonl file."
        rows = _parse(text, path.name, expected)
        if not isinstance(rows, list):
            raise ValueError(f"{path.name}: a JSON {_kind(rows)}. {expected}")
        placed = [(f"{path.name}, row {number}", row) for number, row in enumerate(rows, 1)]
    else:
        expected = "Expected one JSON object a line. Repair or delete that line."
        if text.lstrip().startswith("["):
            expected = f"The file is one JSON array: rename it to {path.stem}.json."
        lines = [(f"{path.name}, line {n}", line) for n, line in enumerate(text.split("\n"), 1)]
        placed = [(at, _parse(line, at, expected)) for at, line in lines if line.strip()]
    if not placed:
        raise ValueError(f"{path.name} has no rows. {expected}")
    for place, row in placed:
        if not isinstance(row, dict):
            raise ValueError(f"{place}: a JSON {_kind(row)}. {expected}")
    return [row for _, row in placed]


def _parse(text: str, place: str, expected: str) -> Any:
    """A JSON value; ValueError that names the place where it is none, or gives a key twice."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        row = dict(pairs)
        if len(row) < len(pairs):
            twice = next(key for key, _ in pairs if sum(key == other for other, _ in pairs) > 1)
            raise ValueError(f"the key {twice!r} is there twice")
        return row

    try:
        return json.loads(text, object_pairs_hook=unique)
    except json.JSONDecodeError as error:
        raise ValueError(f"{place}: not valid JSON ({error.msg}). {expected}") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{place}: {error}. {expected}") from error


def _kind(value: Any) -> str:
    """JSON's name for the kind of a value."""
    kinds = {dict: "object", list: "array", str: "string", bool: "boolean", type(None): "null"}
    return kinds.get(type(value), "number")


def load_rows(name: str, split: str) -> list[dict[str, Any]]:
    """Rows of data set `name`: `split.jsonl` or `.json` in `COURSE_DATA_DIR/name`, else the hub.

    Raises DataNotFoundError that says where it looked, and KeyError for an unknown name.
    """
    if name not in HUB:
        raise KeyError(f"unknown data set {name!r}; known: {', '.join(sorted(HUB))}")
    path = local_file(name, split)
    if path is not None:
        return read_rows(path)
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
    paths = [Path(folder or ".") / name / f"{split}{suffix}" for suffix in (".jsonl", ".json")]
    there = [path for path in paths if folder and path.is_file()]
    if len(there) > 1:
        raise ValueError(
            f"both {name}/{split}.jsonl and {split}.json are there: remove one of them"
        )
    return there[0] if there else None


def _looked(name: str, split: str) -> str:
    if not os.environ.get("COURSE_DATA_DIR"):
        return "; COURSE_DATA_DIR is not set"
    return f"; COURSE_DATA_DIR has no file {name}/{split}.jsonl or .json"
