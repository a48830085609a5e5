"""The chain: each stage starts from the one before, and only what is stale runs again."""

import json

import nbformat
import pytest

from scripts import run_chain, run_seeds
from tools import fingerprint

WHOLE = """
import os
from pathlib import Path
from utils.results import claim
runs = Path(os.environ["COURSE_RUNS"]) / "tiny"
before = {name: (runs / name / "seen").read_text() for name in ("sft", "reward_model")
          if (runs / name).is_dir()}
leaves = {"01": "sft", "02": "reward_model"}.get("LESSON")
if leaves:
    (runs / leaves).mkdir(parents=True, exist_ok=True)
    (runs / leaves / "seen").write_text("LESSON " + os.environ["COURSE_SEED"])
claim("never true", False)
summary = {"before": before}
"""
SWEEP = (
    WHOLE.replace("claim(", "VARIANTS = ['DPO as in 4.6', 'GRPO on SQL as in 5.9'] #")
    + """
def run_variant(name):
    return {"name": name, "before": before}
"""
)


@pytest.fixture
def course(tmp_path, monkeypatch):
    """Five lessons that write down what they start from."""
    for module in (run_chain, run_seeds, fingerprint):
        monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(fingerprint, "ACCEPTED", tmp_path / "none.json")
    for name in ("COURSE_SEED", "COURSE_RUNS", "COURSE_CLAIMS", "COURSE_PROFILE"):
        monkeypatch.setenv(name, "")
    monkeypatch.chdir(tmp_path)
    for folder in ("notebooks", "benchmarks/results", "assets/tiny/base"):
        (tmp_path / folder).mkdir(parents=True)
    for stage in ("base", "sft", "reward_model"):
        (tmp_path / "assets/tiny" / stage).mkdir(exist_ok=True)
        (tmp_path / "assets/tiny" / stage / "model.safetensors").write_bytes(b"shipped")
    (tmp_path / "constraints.txt").write_text("torch==2.13.0\n")
    names = ("01_sft", "02_reward_model", "03_ppo", "04_dpo", "05_grpo")
    for name in names:
        source = (SWEEP if name > "04" else WHOLE).replace("LESSON", name[:2])
        cell = nbformat.v4.new_code_cell(source, metadata={"tags": ["sweep"]})
        nbformat.write(nbformat.v4.new_notebook(cells=[cell]), tmp_path / f"notebooks/{name}.ipynb")
    return tmp_path


def stored(course, name):
    return json.loads((course / f"benchmarks/results/{name}.json").read_text())["runs"][0]


def test_each_stage_starts_from_the_one_before(course, capsys):
    run_chain.main(["--seeds", "3"])
    assert stored(course, "01_sft")["summary"] == {"before": {}}
    sft, judge = {"sft": "01 3"}, {"sft": "01 3", "reward_model": "02 3"}
    assert stored(course, "02_reward_model_chain")["summary"] == {"before": sft}
    assert stored(course, "03_ppo_chain")["summary"] == {"before": judge}
    assert stored(course, "03_ppo_chain")["false"] == ["never true"]
    for name, variant in (("04_dpo", "DPO as in 4.6"), ("05_grpo", "GRPO on SQL as in 5.9")):
        assert stored(course, f"{name}_chain")["summary"] == {"name": variant, "before": judge}
    for file in (course / "benchmarks/results").iterdir():
        assert fingerprint.stale(file) == {}

    capsys.readouterr()
    run_chain.main(["--seeds", "3"])
    assert capsys.readouterr().out == "seed 3: lessons none\n"


def test_another_reward_model_makes_what_follows_stale_and_needs_no_other_sft(course):
    run_chain.main(["--seeds", "3"])
    notebook = course / "notebooks/02_reward_model.ipynb"
    node = nbformat.read(notebook, as_version=4)
    node.cells[0].source += "\nx = 1"
    nbformat.write(node, notebook)
    results = course / "benchmarks/results"
    assert fingerprint.stale(results / "01_sft.json") == {}
    assert fingerprint.stale(results / "03_ppo_chain.json") == {"seed 3": ["after 02_reward_model"]}
    folder = course / "runs/chain_3"
    todo = [stage.lesson for stage in run_chain.to_run(3, folder)]
    assert todo == ["02", "03", "04", "05"]
    (folder / "tiny/sft/seen").unlink()
    (folder / "tiny/sft").rmdir()
    assert [stage.lesson for stage in run_chain.to_run(3, folder)][:2] == ["01", "02"]


def test_an_accepted_change_of_an_earlier_lesson_counts(course, monkeypatch):
    run_chain.main(["--seeds", "3"])
    notebook = course / "notebooks/02_reward_model.ipynb"
    node = nbformat.read(notebook, as_version=4)
    node.cells[0].source += "\nx = 1"
    nbformat.write(node, notebook)
    now = fingerprint.keys_of(["02_reward_model"])["02_reward_model"]
    entry = {"result": "03_ppo_chain.json", "kind": "after", "name": "02_reward_model", "hash": now}
    (course / "none.json").write_text(json.dumps([entry]))
    results = course / "benchmarks/results"
    assert fingerprint.stale(results / "03_ppo_chain.json") == {}
    assert fingerprint.stale(results / "04_dpo_chain.json") != {}
