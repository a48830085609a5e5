"""The rooms of the house: no import runs up or across, and `utils` stays thin."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# Room -> the rooms whose code it may import.
MAY_IMPORT = {
    "utils": {"utils"},
    "tasks": {"tasks", "utils"},
    "exercises": {"exercises", "utils"},
    "engines": {"engines", "utils"},
}
ROOMS = {*MAY_IMPORT, "scripts", "tools", "benchmarks", "tests"}


def rooms_imported(source: str) -> set[str]:
    """The rooms that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add((node.module or "").partition(".")[0])
    return found & ROOMS


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_no_arrow_runs_up_or_across(room):
    wrong = {
        path.relative_to(ROOT).as_posix(): sorted(rooms)
        for path in (ROOT / room).rglob("*.py")
        if (rooms := rooms_imported(path.read_text(encoding="utf-8")) - MAY_IMPORT[room])
    }
    assert wrong == {}


@pytest.mark.parametrize(
    "source",
    ["import tasks", "from tasks.sql import score", "def f():\n    import tasks.sql as s"],
)
def test_an_import_is_seen_wherever_it_stands(source):
    assert rooms_imported(source) == {"tasks"}
