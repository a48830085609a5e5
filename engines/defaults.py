"""Which defaults of TRL's configs Unsloth replaces: read from its source, or recorded from it."""

import ast
import dataclasses
import importlib.util
import json
from enum import Enum
from pathlib import Path
from typing import Any

from utils.profiles import repo_root

RECORDED = "assets/unsloth_defaults.json"  # written by tools/drift.py from the pinned wheels
TRAINER_FILES = {"GRPOConfig": "grpo_trainer", "SFTConfig": "sft_trainer"}
Changed = dict[str, tuple[Any, Any]]


def changed_defaults(config: str = "GRPOConfig") -> Changed:
    """{field: (TRL's default, Unsloth's default)} for the fields whose default Unsloth replaces.

    Set each of them yourself and the config means the same with and without Unsloth. Read from
    the installed Unsloth, without importing it; where there is none, the recorded table of the
    pinned version. None in the second place of `loss_type`, `beta` and
    `mask_truncated_completions` means that Unsloth decides later: an explicit loss_type="dapo"
    makes it set mask_truncated_completions=True and epsilon_high=0.28 unless both are given.
    Raises ValueError for another config than GRPOConfig and SFTConfig.
    """
    if config not in TRAINER_FILES:
        raise ValueError(f"no table for {config!r}; there is one for {', '.join(TRAINER_FILES)}")
    installed = importlib.util.find_spec("unsloth")
    if installed and installed.submodule_search_locations:
        source = Path(installed.submodule_search_locations[0]) / "models" / "rl.py"
        return compare_defaults(source.read_text(encoding="utf-8"), config)
    recorded = json.loads((repo_root() / RECORDED).read_text(encoding="utf-8"))
    return {name: tuple(pair) for name, pair in recorded[config].items()}


def compare_defaults(rl_source: str, config: str) -> Changed:
    """The same from the text of Unsloth's `models/rl.py` and the installed TRL.

    Raises ValueError when the text holds no table of replacements any more.
    """
    import trl

    fields = {field.name: _default(field) for field in dataclasses.fields(getattr(trl, config))}
    replaced = _replacements(rl_source, TRAINER_FILES[config])
    return {
        name: (fields[name], value)
        for name, value in sorted(replaced.items())
        if name in fields and (type(fields[name]), fields[name]) != (type(value), value)
    }


def _default(field: dataclasses.Field) -> Any:
    made = field.default_factory is not dataclasses.MISSING
    value = field.default_factory() if made else field.default
    return value.value if isinstance(value, Enum) else value


def _replacements(rl_source: str, trainer_file: str) -> dict[str, Any]:
    """The entries of the `replacements` tables that apply to a trainer under transformers 5."""
    found: dict[str, Any] = {}
    for function in ast.walk(ast.parse(rl_source)):
        if isinstance(function, ast.FunctionDef) and "_patch_trl_rl_trainers" in function.name:
            _collect(function.body, trainer_file, found)
    if not found:
        raise ValueError("no `replacements` in unsloth/models/rl.py: Unsloth has moved them")
    return found


def _collect(body: list[ast.stmt], trainer_file: str, found: dict[str, Any]) -> None:
    for node in body:
        if isinstance(node, ast.If):
            test = ast.unparse(node.test)
            if test in (
                f"trainer_file == '{trainer_file}'",
                "transformers_version >= Version('5.0.0')",
            ):
                _collect(node.body, trainer_file, found)
        elif isinstance(node, ast.Assign):
            target, value = node.targets[0], node.value
            if ast.unparse(target) == "replacements" and isinstance(value, ast.Dict):
                found |= ast.literal_eval(value)
            elif isinstance(target, ast.Subscript) and ast.unparse(target.value) == "replacements":
                found[ast.literal_eval(target.slice)] = ast.literal_eval(value)
