"""The shape of a lesson: a main part for one sitting, cells that fit, tables that are seen."""

import ast
import re

import nbformat
import pytest

from scripts.run_notebooks import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
LESSONS = [path for path in NOTEBOOKS if path.name < "06"]
# Read at another time, or at another pace: answers that unfold, code, tables, formulas, pictures.
NOT_PROSE = re.compile(
    r"<details>.*?</details>|```.*?```|\$\$.*?\$\$|\$[^$]+\$|^\|.*?$|!\[[^\]]*\]\([^)]*\)",
    re.DOTALL | re.MULTILINE,
)


def main_part(path):
    """The cells before the first appendix."""
    cells = []
    for cell in nbformat.read(path, as_version=4).cells:
        before, appendix, _ = cell.source.partition("## Appendix")
        if before.strip():
            cells.append((cell.cell_type, before))
        if appendix and cell.cell_type == "markdown":
            break
    return cells


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_a_lesson_fits_its_limits(path):
    cells = main_part(path)
    prose = " ".join(NOT_PROSE.sub(" ", text) for kind, text in cells if kind == "markdown")
    lines = [len(text.splitlines()) for kind, text in cells if kind == "code"]
    assert len(re.findall(r"[A-Za-z0-9][\w'’.-]*", prose)) <= 2600
    assert len(cells) <= 80
    assert max(lines) <= 40


SHOWN = ("before_after_table", "show_mask", "compared")  # they return what only a last line shows


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_table_that_is_made_is_shown(path):
    lost = []
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "code" and not re.search(r"^\s*[%!]", cell.source, re.MULTILINE):
            for node in ast.parse(cell.source).body[:-1]:
                call = node.value if isinstance(node, ast.Expr) else None
                name = ast.unparse(call.func) if isinstance(call, ast.Call) else ""
                lost += [f"{cell.id}: {name}"] if name.rpartition(".")[2] in SHOWN else []
    assert lost == []
