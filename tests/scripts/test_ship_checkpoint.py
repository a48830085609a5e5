"""An adapter is shipped with a card that says what it is and what was measured."""

import json
import shutil

import pytest
import torch

from relatives import lora
from scripts import ship_checkpoint
from utils import models, profiles

RESULTS = {
    "date": "2026-11-28",
    "machine": "x86_64, 2 cores",
    "versions": {"torch": "2.13.0"},
    "runs": [
        {"seed": 1, "summary": {"grpo": {"sampled": 0.9}}},
        {"seed": 0, "summary": {"grpo": {"sampled": 0.27, "curve": [1, 2], "by": {"n": 300}}}},
    ],
}


@pytest.fixture
def root(tmp_path, monkeypatch, random_llama, tokenizer):
    """A repository where `make real` has left an adapter and its results."""
    monkeypatch.setattr(ship_checkpoint, "ROOT", tmp_path)
    base = models.save_checkpoint(random_llama, tokenizer, tmp_path / "llama")
    said = {"source": "a package", "weights": "4-bit weights dequantised"}
    (base / lora.PROVENANCE).write_text(json.dumps(said))
    monkeypatch.setenv("COURSE_BASE_MODEL", str(base))
    monkeypatch.setenv("COURSE_DEVICE", "cpu")
    monkeypatch.setenv("COURSE_RUNS", str(tmp_path / "runs/seed_0"))
    results = tmp_path / "benchmarks/results/05_grpo_smol.json"
    results.parent.mkdir(parents=True)
    results.write_text(json.dumps(RESULTS))
    return tmp_path


def leave_adapter(rank):
    profile = profiles.get_profile("smol")
    policy = lora.inject_lora(models.load_policy(profile), rank, 8.0, ["q_proj", "down_proj"])
    folder = models.runs_folder(profile) / "grpo"
    return lora.save_adapter(policy, folder, profile, starts_from="base")


def test_the_card_says_what_was_measured_and_on_which_weights(root, monkeypatch):
    source = leave_adapter(4)
    ship_checkpoint.main(["grpo", "--profile", "smol"])
    shipped = root / "assets/smol/grpo"
    card = (shipped / "README.md").read_text()
    for said in ("4-bit weights dequantised", "a package", "stage `base`", "make real NB=05"):
        assert said in card
    assert "| grpo | sampled | 0.27 |" in card and "| grpo | by, n | 300 |" in card
    assert "0.9" not in card and "curve" not in card  # another seed; a list
    shutil.rmtree(source)
    monkeypatch.setattr("utils.models.repo_root", lambda: root)
    ids = torch.tensor([[3, 4]])
    policy = models.load_policy(profiles.get_profile("smol"), "grpo")
    assert policy(ids).logits.shape[:2] == (1, 2)


def test_a_large_adapter_is_refused(root, monkeypatch, capsys):
    leave_adapter(4)
    monkeypatch.setattr(ship_checkpoint, "LARGEST_ADAPTER", 100)
    with pytest.raises(SystemExit):
        ship_checkpoint.main(["grpo", "--profile", "smol"])
    assert "lower rank" in capsys.readouterr().err
    assert not (root / "assets").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["sft", "--profile", "smol"], "no runs/seed_0/smol/sft: run `make real`"),
        (["sft"], "no runs/seed_0/01_sft/tiny/sft: run `make seeds`"),
        (["dpo"], "ships no dpo of tiny, only sft, reward_model"),
    ],
)
def test_what_is_not_there_is_named(root, capsys, arguments, said):
    with pytest.raises(SystemExit):
        ship_checkpoint.main(arguments)
    assert said in capsys.readouterr().err
