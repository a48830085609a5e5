"""A measurement starts from the shipped checkpoints, whatever other lessons have left."""

import nbformat
import pytest

from scripts import run_seeds, run_sweep

CELL = """
import os
from pathlib import Path
runs = Path(os.environ["COURSE_RUNS"])
summary = {"runs": str(runs), "left over": runs.exists(), "seed": os.environ["COURSE_SEED"]}
(runs / "tiny/sft").mkdir(parents=True)
VARIANTS = []
"""


@pytest.fixture
def notebook(tmp_path, monkeypatch):
    monkeypatch.setattr(run_seeds, "ROOT", tmp_path)
    monkeypatch.setenv("COURSE_SEED", "")
    monkeypatch.setenv("COURSE_RUNS", "")
    monkeypatch.setenv("COURSE_CLAIMS", "")
    cell = nbformat.v4.new_code_cell(CELL, metadata={"tags": ["sweep"]})
    (tmp_path / "notebooks").mkdir()
    path = tmp_path / "notebooks/02_few.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), path)
    return path


def test_each_lesson_and_seed_has_a_folder_of_its_own(notebook, tmp_path):
    (tmp_path / "runs/seed_1/tiny/sft").mkdir(parents=True)  # of an older command
    for _ in range(2):  # the second finds nothing of the first
        summary = run_seeds.run(notebook, 1)["summary"]
        own = str(tmp_path / "runs/seed_1/02_few")
        assert summary == {"runs": own, "left over": False, "seed": "1"}


def test_a_sweep_has_the_folder_of_its_lesson_and_a_real_run_that_of_its_seed(notebook, tmp_path):
    assert run_sweep.load_cells(notebook, 1)["runs"] == tmp_path / "runs/seed_1/02_few"
    notebook_real = nbformat.read(notebook, as_version=4)
    notebook_real.cells[0].metadata["tags"] = ["real"]
    nbformat.write(notebook_real, notebook)
    assert run_sweep.load_cells(notebook, 2, "real")["runs"] == tmp_path / "runs/seed_2"
