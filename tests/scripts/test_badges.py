"""`make badges` stamps badge and address into notebooks and README, again and again."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from scripts import stamp_badges

NOTEBOOKS = sorted((stamp_badges.ROOT / "notebooks").glob("*.ipynb"))
README = (
    "# Title\n\n<!-- badges -->\n<!-- /badges -->\n\nRun\n\n<!-- clone -->\n<!-- /clone -->\nend\n"
)


def small_notebook() -> str:
    """A notebook with a title and a set-up cell."""
    cells = [
        nbformat.v4.new_markdown_cell("# A title\n\nThe question."),
        nbformat.v4.new_code_cell(stamp_badges.SETUP_GUARD + "\nimport torch\n\ntorch.__version__"),
    ]
    return nbformat.writes(nbformat.v4.new_notebook(cells=cells)) + "\n"


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the notebooks and the README, and one small notebook."""
    folder = tmp_path / "a copy"
    (folder / "notebooks").mkdir(parents=True)
    for path in NOTEBOOKS:
        shutil.copy(path, folder / "notebooks" / path.name)
    (folder / "notebooks/99_small.ipynb").write_text(small_notebook(), encoding="utf-8")
    real = stamp_badges.ROOT / "README.md"
    text = real.read_text(encoding="utf-8") if real.exists() else README
    (folder / "README.md").write_text(text, encoding="utf-8")
    return folder


def contents(folder: Path) -> dict[str, str]:
    """Text of every file below a folder."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.name: path.read_text(encoding="utf-8") for path in files}


def test_every_notebook_and_the_readme_get_badge_and_address(copy: Path) -> None:
    stamp_badges.stamp(copy, "some-one/the.course")
    for path in (copy / "notebooks").glob("*.ipynb"):
        nb = nbformat.read(path, as_version=4)
        nbformat.validate(nb)
        target = f"/github/some-one/the.course/blob/main/notebooks/{path.name}"
        assert nb.cells[0].source.startswith("# ")
        assert nb.cells[0].source.count(f"](https://colab.research.google.com{target})") == 1
        set_up = [cell.source for cell in nb.cells if "REPO_URL = " in cell.source]
        assert 'REPO_URL = "https://github.com/some-one/the.course"' in set_up[0]
    readme = (copy / "README.md").read_text(encoding="utf-8")
    assert readme.count("git clone https://github.com/some-one/the.course\n") == 1
    assert readme.count("99_small.ipynb)") == 2


def test_stamping_twice_changes_nothing(copy: Path) -> None:
    stamp_badges.stamp(copy, "some-one/course")
    once = contents(copy)
    stamp_badges.stamp(copy, "some-one/course")
    assert contents(copy) == once


def test_a_new_address_replaces_the_old_one(copy: Path) -> None:
    stamp_badges.stamp(copy, "some-one/course")
    stamp_badges.stamp(copy, "other/workbook")
    fresh = "".join(contents(copy).values())
    assert "some-one" not in fresh and "other/workbook" in fresh


def test_only_badge_and_address_change(copy: Path) -> None:
    before = {path.name: json.loads(path.read_text()) for path in copy.rglob("*.ipynb")}
    stamp_badges.stamp(copy, "some-one/course")
    for path in copy.rglob("*.ipynb"):
        old, new = before[path.name], json.loads(path.read_text())
        assert {k: old[k] for k in old if k != "cells"} == {k: new[k] for k in new if k != "cells"}
        pairs = list(zip(old["cells"], new["cells"], strict=True))
        assert sum(a != b for a, b in pairs) <= 2
        assert all({**a, "source": 0} == {**b, "source": 0} for a, b in pairs)


@pytest.mark.parametrize(
    "repo", ["", "name", "a/b/c", "https://x/y", "a b/c", "a/", "-a/b", "a/.."]
)
def test_a_wrong_repo_is_named_and_nothing_is_touched(copy: Path, repo: str) -> None:
    before = contents(copy)
    with pytest.raises(ValueError, match="owner/name"):
        stamp_badges.stamp(copy, repo)
    assert contents(copy) == before


def test_a_readme_without_blocks_is_an_error_and_nothing_is_touched(copy: Path) -> None:
    (copy / "README.md").write_text("# Title\n")
    before = contents(copy)
    with pytest.raises(ValueError, match="<!-- badges -->"):
        stamp_badges.stamp(copy, "some-one/course")
    assert contents(copy) == before


def test_a_notebook_without_set_up_cell_is_an_error(copy: Path) -> None:
    path = copy / "notebooks/99_small.ipynb"
    path.write_text(path.read_text().replace("REPO_URL = ", "OTHER = "))
    with pytest.raises(ValueError, match="99_small.ipynb: 0 cells set REPO_URL"):
        stamp_badges.stamp(copy, "some-one/course")


def test_the_command_reports_errors_on_one_line(copy: Path) -> None:
    command = [sys.executable, "-m", "scripts.stamp_badges", "--root", str(copy), "nonsense"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=stamp_badges.ROOT)
    assert result.returncode == 1
    assert result.stderr == "REPO must look like owner/name, not 'nonsense'\n"


def test_a_stamped_notebook_passes_lint(copy: Path) -> None:
    for name in ("pyproject.toml", "notebooks/ruff.toml"):
        shutil.copy(stamp_badges.ROOT / name, copy / name)
    stamp_badges.stamp(copy, "a-rather-long-owner-of-things/post-training-workbook")
    ruff = [sys.executable, "-m", "ruff"]
    for command in (["check"], ["format", "--check"]):
        call = [*ruff, *command, "--no-cache", "notebooks/99_small.ipynb"]
        subprocess.run(call, cwd=copy, check=True)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_notebook_opens_with_the_same_guard(path: Path) -> None:
    cells = nbformat.read(path, as_version=4).cells
    set_up = next(cell.source for cell in cells if cell.cell_type == "code")
    unstamped = stamp_badges.URL_LINE.sub(r'\1""', set_up)
    assert f"{unstamped}\n".startswith(stamp_badges.SETUP_GUARD)
    assert len([line for line in set_up.splitlines() if line.strip()]) <= 15
