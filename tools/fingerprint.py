"""What a stored result depends on, as hashes: the cells that ran, their modules, weights and pins.

    python -m tools.fingerprint            # which results are older than the code, and by what

`make seeds` and `make sweep` write a fingerprint beside their numbers. A result whose fingerprint
no longer matches is stale: `tests/tools/test_fingerprint.py` fails until it is measured again or
its change is written down in `benchmarks/accepted.json` with a reason and a run of one seed.

Cells and modules are compared without comments, docstrings and layout: what cannot change a number
changes no hash. Everything that a module imports from the project counts as well.
"""

import ast
import hashlib
import json
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import nbformat

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks/results"
ACCEPTED = ROOT / "benchmarks/accepted.json"
ROOMS = ("utils", "relatives", "tasks", "exercises", "engines")
STAGES = ("sft", "reward_model")  # shipped weights that a cell names; the base always counts
TAGS = {"sweep": "sweep", "smol": "real"}  # end of a results file's name -> tag of its cells
# Packages whose version decides a number; the others load, draw or test.
DECIDING = ("torch", "transformers", "trl", "peft", "datasets", "numpy", "tokenizers")
# Modules that show numbers and make none.
ONLY_SHOWN = ("utils.display", "utils.results", "exercises")


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def essence(source: str) -> str:
    """The program without comments, layout and docstrings."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr):
            first = body[0].value
            if isinstance(first, ast.Constant) and isinstance(first.value, str):
                body[:1] = [] if body[1:] else [ast.Pass()]
    return _dump(tree)


def _dump(node: Any) -> str:
    """Like `ast.dump`, but the same with each Python: fields that hold nothing are left out."""
    if isinstance(node, ast.AST):
        fields = [(name, value) for name, value in ast.iter_fields(node) if name != "kind"]
        parts = [f"{name}={_dump(value)}" for name, value in fields if value not in (None, [])]
        return f"{type(node).__name__}({', '.join(parts)})"
    if isinstance(node, list):
        return f"[{', '.join(map(_dump, node))}]"
    return repr(node)


def module_file(name: str) -> Path | None:
    """The file of a module of the project, or None for another library's."""
    path = ROOT.joinpath(*name.split("."))
    if name.partition(".")[0] not in ROOMS:
        return None
    for file in (path.with_suffix(".py"), path / "__init__.py"):
        if file.is_file():
            return file
    return None


def imported(source: str) -> Iterator[str]:
    """The project's modules that a program imports, at any depth of its text."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = [node.module or ""]
            names += [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            parts = name.split(".")
            yield from (
                dotted
                for n in range(1, len(parts) + 1)
                if module_file(dotted := ".".join(parts[:n])) is not None
            )


@cache
def _module(name: str) -> tuple[str, frozenset[str]]:
    """Hash of a module's program, and what it imports."""
    source = module_file(name).read_text(encoding="utf-8")
    return _hash(essence(source)), frozenset(imported(source))


def modules_behind(sources: Iterable[str]) -> dict[str, str]:
    """Every module of the project that the programs reach, with its hash."""
    todo = {name for source in sources for name in imported(source)}
    found: dict[str, str] = {}
    while todo:
        name = todo.pop()
        if name in found or any(name == o or name.startswith(f"{o}.") for o in ONLY_SHOWN):
            continue
        found[name], more = _module(name)
        todo |= more - found.keys()
    return dict(sorted(found.items()))


def cells_of(notebook: Path, tag: str | None = None) -> list[str]:
    """The code cells that run (with `tag`: those that carry it), notebook commands left out."""
    cells = nbformat.read(notebook, as_version=4).cells
    chosen = [
        c for c in cells if c.cell_type == "code" and (not tag or tag in c.metadata.get("tags", []))
    ]
    return [
        "\n".join(line for line in c.source.split("\n") if not line.lstrip().startswith(("!", "%")))
        for c in chosen
    ]


def weights_behind(sources: Iterable[str]) -> dict[str, str]:
    """Shipped checkpoints that the cells name, with the hash of their weights."""
    named = {
        node.value
        for source in sources
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Constant) and node.value in STAGES
    }
    found = {}
    for stage in ("base", *sorted(named)):
        file = ROOT / "assets/tiny" / stage / "model.safetensors"
        found[stage] = hashlib.sha256(file.read_bytes()).hexdigest()[:16]
    return found


def pins() -> dict[str, str]:
    """The pinned versions of the packages that decide a number."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pairs = (line.partition(" ; ")[0].partition("==")[::2] for line in lines)
    return {name: version for name, version in pairs if name in DECIDING}


def fingerprint(notebook: Path, tag: str | None = None) -> dict[str, dict[str, str]]:
    """What numbers from these cells depend on: kind -> name -> hash or version."""
    sources = cells_of(notebook, tag)
    return {
        "cells": {notebook.name: _hash("\n".join(map(essence, sources)))},
        "modules": modules_behind(sources),
        "weights": weights_behind(sources),
        "pins": pins(),
    }


def changes(before: dict, now: dict) -> list[tuple[str, str]]:
    """Kind and name of what differs between two fingerprints."""
    found = []
    for kind in now:
        old, new = before.get(kind, {}), now[kind]
        found += [(kind, n) for n in sorted(old.keys() | new.keys()) if old.get(n) != new.get(n)]
    return found


def key_of(made_by: dict) -> str:
    """The short name of a fingerprint."""
    return _hash(json.dumps(made_by, sort_keys=True))[:8]


def keys_of(lessons: Iterable[str]) -> dict[str, str]:
    """For each lesson the short name of what its whole notebook depends on."""
    return {name: key_of(fingerprint(ROOT / f"notebooks/{name}.ipynb")) for name in lessons}


def stale(file: Path) -> dict[str, list[str]]:
    """Runs of a results file that other code made -> what has changed since; empty when none.

    A run is `seed 0`, in a sweep `seed 0, NAME`. A change that `benchmarks/accepted.json` lists for
    this file counts as none while the changed part has the hash that was accepted.
    """
    document = json.loads(file.read_text(encoding="utf-8"))
    made_by = document.get("made_by", {})
    ending = file.stem.rpartition("_")[2]
    tag = document.get("tag") if ending == "chain" else TAGS.get(ending)
    now = fingerprint(ROOT / "notebooks" / document["notebook"], tag)
    known = {(a["kind"], a["name"]): a["hash"] for a in accepted() if a["result"] == file.name}

    def changed(key: str) -> list[str]:
        if key not in made_by:
            return ["made before fingerprints were kept"]
        after = made_by[key].get("after", {})
        today = now | ({"after": keys_of(after)} if after else {})
        found = changes(made_by[key], today)
        if tag == "real":  # these weights are not in the repository: no machine has to have them
            found = [(kind, name) for kind, name in found if kind != "weights"]
        return [
            f"{kind} {name}"
            for kind, name in found
            if known.get((kind, name)) != today[kind].get(name)
        ]

    found = {}
    for run in document["runs"]:
        by = run.get("by", "")
        keys = by if isinstance(by, dict) else {"": by}
        for variant, key in (keys or {"": ""}).items():
            name = f"seed {run['seed']}" + (f", {variant}" if variant else "")
            if reasons := changed(key):
                found[name] = reasons
    return found


def accepted() -> list[dict]:
    """Changes that cannot matter: `result`, `kind`, `name`, `hash`, `reason`, `checked`."""
    return json.loads(ACCEPTED.read_text(encoding="utf-8")) if ACCEPTED.exists() else []


def result_files() -> list[Path]:
    """The results of notebooks: those whose names begin with a lesson's number."""
    return sorted(RESULTS.glob("[0-9][0-9]_*.json"))


def main() -> int:
    """Print what is stale; 1 if anything is."""
    worst = 0
    for file in result_files():
        reasons = stale(file)
        worst |= bool(reasons)
        print(f"{file.name}: {len(reasons)} runs of older code" if reasons else f"{file.name}: ok")
        for run, changed in reasons.items():
            print(f"  {run}: {', '.join(changed)}")
    return worst


if __name__ == "__main__":
    sys.exit(main())
