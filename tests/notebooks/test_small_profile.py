"""Every notebook runs under `small` and `smol`: random weights, data in the hub's format, CPU.

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
from transformers import Qwen2Config

from tools import small_profile

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
CASES = [(path, "small", "random_qwen3") for path in NOTEBOOKS]
CASES += [(path, "small", "random_qwen2") for path in NOTEBOOKS if path.stem in ALSO_QWEN2]
CASES += [(path, "smol", "random_smollm2") for path in NOTEBOOKS]


@pytest.fixture(scope="session")
def random_qwen3(tmp_path_factory, random_model, tokenizer):
    """Policy and reward model with random weights, on disk as a learner's download would be."""
    config = copy.deepcopy(random_model.config)
    config.max_position_embeddings = 2048  # lesson 06 asks for a context of 1,024 tokens
    folder = tmp_path_factory.mktemp("qwen3")
    small_profile.make_models(folder, config, tokenizer)
    return folder


@pytest.fixture(scope="session")
def random_qwen2(tmp_path_factory, random_model, tokenizer):
    """The architecture of Qwen2.5 with random weights."""
    shape = random_model.config.to_dict()
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    names += ("num_key_value_heads", "vocab_size", "tie_word_embeddings", "initializer_range")
    names += ("pad_token_id", "eos_token_id")
    config = Qwen2Config(**{name: shape[name] for name in names}, max_position_embeddings=2048)
    folder = tmp_path_factory.mktemp("qwen2")
    small_profile.make_models(folder, config, tokenizer)
    return folder


@pytest.fixture(scope="session")
def random_smollm2(tmp_path_factory, random_llama, speaks_like_smol):
    """The architecture of SmolLM2 with random weights, and its chat template."""
    folder = tmp_path_factory.mktemp("smollm2")
    small_profile.make_models(folder, random_llama.config, speaks_like_smol)
    return folder


@pytest.fixture(scope="session")
def sample_data(tmp_path_factory):
    """The real samples where they are, else rows of the same format."""
    folder = tmp_path_factory.mktemp("data")
    small_profile.make_data(folder)
    if real := os.environ.get("COURSE_DATA_DIR"):
        shutil.copytree(real, folder, dirs_exist_ok=True)
    return folder


@pytest.fixture
def execute(monkeypatch):
    """Runs a notebook with some settings; returns its outputs."""

    def run(notebook, settings):
        for name, value in settings.items():
            monkeypatch.setenv(name, value)
        node = nbformat.read(notebook, as_version=4)
        place = {"metadata": {"path": notebook.parent}}
        NotebookClient(node, timeout=600, resources=place).execute()
        return [output for cell in node.cells for output in cell.get("outputs", [])]

    return run


@pytest.mark.parametrize(
    ("notebook", "profile", "made"),
    CASES,
    ids=[f"{path.stem}-{profile}-{made}" for path, profile, made in CASES],
)
def test_notebook_runs_under(notebook, profile, made, request, execute, sample_data, tmp_path):
    made = request.getfixturevalue(made)
    stages = STAGES_BEFORE.get(notebook.stem, ())
    small_profile.leave_stages(made, tmp_path, stages, profile)
    settings = small_profile.settings(made, sample_data, tmp_path, profile)
    shown = execute(notebook, settings)
    assert not [o for o in shown if o.output_type == "error"]
    assert sum("image/png" in o.get("data", {}) for o in shown) >= 1
    # What earlier lessons left are links, and this does not follow them.
    saved = list((tmp_path / profile).rglob("*model.safetensors"))
    assert saved or notebook.stem in TRAINS_NOTHING


def test_lesson_06_runs_under_qwen3_4b_with_its_own_data(random_qwen3, execute, tmp_path):
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
    data, runs = tmp_path / "data", tmp_path / "runs"
    settings = small_profile.settings(random_qwen3, data, runs, profile="qwen3_4b")
    execute(ROOT / "notebooks/06_qwen3_4b_grpo.ipynb", settings)
    assert list((tmp_path / "runs/qwen3_4b/reasoning/merged").glob("model.safetensors"))
