"""Every notebook runs under the profile `small`: random weights, data in the hub's format, CPU.

Checked: that the code path works from data to saved model. Not checked: that anything is learned.
"""

import copy
import json
import os
import shutil
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForSequenceClassification

from tools import gpu_check
from utils import models

pytestmark = [pytest.mark.notebooks, pytest.mark.slow]
ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
STAGES_BEFORE = {
    "02_reward_model": ("sft",),
    "03_ppo": ("sft", "reward_model"),
    "04_dpo": ("sft", "reward_model"),
    "05_grpo": ("sft",),
}
TRAINS_NOTHING = ("00_foundations", "07_self_test")
# The sources of these lessons start from Qwen2.5-0.5B-Instruct: it must fit too.
ALSO_QWEN2 = ("03_ppo", "05_grpo")
CASES = [(path, "random_base") for path in NOTEBOOKS]
CASES += [(path, "random_qwen2") for path in NOTEBOOKS if path.stem in ALSO_QWEN2]


@pytest.fixture(scope="session")
def random_base(tmp_path_factory, random_model, tokenizer):
    """A Qwen3 with random weights, saved to disk as a learner's download would be."""
    roomy = copy.deepcopy(random_model)  # lesson 06 asks for a context of 1,024 tokens
    roomy.config.max_position_embeddings = 2048
    return models.save_checkpoint(roomy, tokenizer, tmp_path_factory.mktemp("base") / "qwen3")


@pytest.fixture(scope="session")
def random_qwen2(tmp_path_factory, random_model, tokenizer):
    """The architecture of Qwen2.5 with random weights."""
    shape = random_model.config.to_dict()
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    names += ("num_key_value_heads", "vocab_size", "tie_word_embeddings", "initializer_range")
    config = Qwen2Config(**{name: shape[name] for name in names}, max_position_embeddings=2048)
    folder = tmp_path_factory.mktemp("base") / "qwen2"
    return models.save_checkpoint(Qwen2ForCausalLM(config), tokenizer, folder)


@pytest.fixture(scope="session")
def random_judge(tmp_path_factory, random_model, tokenizer):
    """A reward model with random weights."""
    config = Qwen3Config(**{**random_model.config.to_dict(), "num_labels": 1})
    judge = Qwen3ForSequenceClassification(config)
    return models.save_checkpoint(judge, tokenizer, tmp_path_factory.mktemp("judge") / "rm")


@pytest.fixture(scope="session")
def sample_data(tmp_path_factory):
    """The real samples where they are, else rows of the same format."""
    folder = tmp_path_factory.mktemp("data")
    gpu_check.make_data(folder)
    if real := os.environ.get("COURSE_DATA_DIR"):
        shutil.copytree(real, folder, dirs_exist_ok=True)
    return folder


@pytest.mark.parametrize(
    ("notebook", "base"), CASES, ids=[f"{path.stem}-{base}" for path, base in CASES]
)
def test_notebook_runs_under_small(
    notebook, base, request, random_judge, sample_data, tmp_path, monkeypatch
):
    base = request.getfixturevalue(base)
    settings = {
        "COURSE_PROFILE": "small",
        "COURSE_DEVICE": "cpu",
        "COURSE_BASE_MODEL": str(base),
        "COURSE_DATA_DIR": str(sample_data),
        "COURSE_RUNS": str(tmp_path),
        "COURSE_SMOKE": "1",
        "HF_HUB_OFFLINE": "1",
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    for stage in STAGES_BEFORE.get(notebook.stem, ()):  # what earlier lessons leave behind
        made = random_judge if stage == "reward_model" else base
        shutil.copytree(made, tmp_path / "small" / stage)
    given = {path.stat().st_ino for path in tmp_path.rglob("model.safetensors")}
    node = nbformat.read(notebook, as_version=4)
    NotebookClient(node, timeout=600, resources={"metadata": {"path": notebook.parent}}).execute()
    shown = [output for cell in node.cells for output in cell.get("outputs", [])]
    assert not [o for o in shown if o.output_type == "error"]
    assert sum("image/png" in o.get("data", {}) for o in shown) >= 1
    saved = {path.stat().st_ino for path in (tmp_path / "small").rglob("model.safetensors")}
    assert saved - given or notebook.stem in TRAINS_NOTHING


def test_lesson_06_runs_under_qwen3_4b_with_its_own_data(random_base, tmp_path, monkeypatch):
    """The profile's data, template and sizes; on a CPU transformers stands in for Unsloth."""
    rows = {
        "dapo_math/train": [
            {"prompt": f"What is {n} plus 1?", "solution": str(n + 1)} for n in range(200)
        ],
        "open_math/cot": [
            {
                "problem": f"What is {n} plus 2?",
                "expected_answer": str(n + 2),
                "generated_solution": f"<think>{n}+2={n + 2}</think>So {n + 2}.",
            }
            for n in range(40)
        ],
    }
    for name, lines in rows.items():
        target = tmp_path / "data" / f"{name}.jsonl"
        target.parent.mkdir(parents=True)
        target.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    settings = {
        "COURSE_PROFILE": "qwen3_4b",
        "COURSE_DEVICE": "cpu",
        "COURSE_BASE_MODEL": str(random_base),
        "COURSE_DATA_DIR": str(tmp_path / "data"),
        "COURSE_RUNS": str(tmp_path / "runs"),
        "COURSE_SMOKE": "1",
        "HF_HUB_OFFLINE": "1",
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    notebook = ROOT / "notebooks/06_qwen3_4b_grpo.ipynb"
    node = nbformat.read(notebook, as_version=4)
    NotebookClient(node, timeout=600, resources={"metadata": {"path": notebook.parent}}).execute()
    assert list((tmp_path / "runs/qwen3_4b/reasoning/merged").glob("model.safetensors"))
