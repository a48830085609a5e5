"""The shape of a lesson: a main part that can be read in one sitting, and cells that fit a screen."""

import re

import nbformat
import pytest

from scripts.run_notebooks import ROOT

LESSONS = sorted((ROOT / "notebooks").glob("0[0-5]_*.ipynb"))
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
