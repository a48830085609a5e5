"""The rooms of the house: no import runs up or across, and `utils` stays thin."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# Room -> the rooms whose code it may import.
MAY_IMPORT = {
    "utils": {"utils"},
    "relatives": {"relatives", "utils"},
    "tasks": {"tasks", "utils"},
    "exercises": {"exercises", "relatives", "utils"},
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


# `utils` is thin


UTILS = {path.relative_to(ROOT).as_posix(): path for path in sorted((ROOT / "utils").rglob("*.py"))}


def long_functions(source: str, limit: int = 60) -> dict[str, int]:
    """Functions of more lines than the limit, decorators and docstring included."""
    found = {}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
            if node.end_lineno - first + 1 > limit:
                found[node.name] = node.end_lineno - first + 1
    return found


def test_utils_has_at_most_2500_lines():
    lines = {name: len(path.read_text("utf-8").splitlines()) for name, path in UTILS.items()}
    assert sum(lines.values()) <= 2500, lines


@pytest.mark.parametrize("name", UTILS)
def test_no_file_of_utils_has_more_than_250_lines(name):
    assert len(UTILS[name].read_text("utf-8").splitlines()) <= 250


@pytest.mark.parametrize("name", UTILS)
def test_no_function_of_utils_has_more_than_60_lines(name):
    assert long_functions(UTILS[name].read_text("utf-8")) == {}


def test_a_long_function_is_seen():
    body = "    pass\n" * 58
    assert long_functions(f"@d\ndef f():\n{body}") == {}
    assert long_functions(f"class C:\n  @d\n  def f():\n{body}    pass\n") == {"f": 61}


def test_pages_that_utils_names_exist():
    named = {
        page
        for path in UTILS.values()
        for page in re.findall(r"docs/\w+\.md", path.read_text("utf-8"))
    }
    assert {"docs/losses.md", "docs/kl.md"} <= named
    assert [page for page in sorted(named) if not (ROOT / page).is_file()] == []
