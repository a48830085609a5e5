import json

import pytest
import torch

from utils import profiles, results

RUNS = [
    {"seed": 0, "summary": {"SFT": {"sampled": 0.5}, "PPO": {"sampled": 0.75, "kl": 0.0}}},
    {"seed": 7, "summary": {"SFT": {"sampled": 0.25}, "PPO": {"sampled": 0.625}, "AUC": 0.9}},
]


def test_numbers_of_each_seed_that_has_them():
    assert results.of_seeds(RUNS, "SFT", "sampled") == [0.5, 0.25]
    assert results.of_seeds(RUNS, "PPO", "kl") == [0.0]  # zero is a number
    assert results.of_seeds(RUNS, "AUC") == [0.9]
    assert results.of_seeds(RUNS, "DPO", "sampled") == []


def test_mean_and_text():
    assert results.mean_of(RUNS, "SFT", "sampled") == 0.375
    assert results.mean_of(RUNS, "DPO", "sampled") == ""
    assert results.each_of(RUNS, "SFT", "sampled") == "0.500, 0.250"
    assert results.seeds(RUNS) == "0, 7"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "repo_root", lambda: tmp_path)
    (tmp_path / "benchmarks/results").mkdir(parents=True)
    return tmp_path / "benchmarks/results"


def test_committed_runs_for_tiny_and_the_own_run_elsewhere(folder):
    tiny, qwen = profiles.PROFILES["tiny"], profiles.PROFILES["qwen3_4b"]
    own = {"GRPO": {"sampled": 0.1}}
    assert results.load_runs("03_ppo", tiny) == []
    assert results.load_runs("03_ppo", tiny, own) == [{"seed": 0, "summary": own}]
    (folder / "03_ppo.json").write_text(json.dumps({"runs": RUNS}), encoding="utf-8")
    assert results.load_runs("03_ppo", tiny, own) == RUNS
    assert results.load_runs("03_ppo", qwen, own) == [{"seed": 0, "summary": own}]


def test_claims_print_when_they_hold_and_raise_when_they_do_not(capsys, monkeypatch):
    for name in ("COURSE_SMOKE", "COURSE_PROFILE", "COURSE_CLAIMS"):
        monkeypatch.delenv(name, raising=False)
    results.claim("accuracy rose", torch.tensor(True))
    assert capsys.readouterr().out == "accuracy rose: True\n"
    with pytest.raises(AssertionError, match="accuracy rose: False"):
        results.claim("accuracy rose", False)
    monkeypatch.setenv("COURSE_PROFILE", "small")
    results.claim("accuracy rose", False)
    assert capsys.readouterr().out.startswith("accuracy rose: False here")
    monkeypatch.setenv("COURSE_SMOKE", "1")
    results.claim("accuracy rose", False)
    assert capsys.readouterr().out == "accuracy rose: not checked\n"


def differences(runs=RUNS):
    return [run["summary"]["PPO"]["sampled"] - run["summary"]["SFT"]["sampled"] for run in runs]


def test_a_stored_claim_says_where_it_is_from(capsys):
    results.stored("PPO gains", RUNS, differences(), n=300, own=0.2, floor=0.06)
    assert capsys.readouterr().out.splitlines() == [
        "PPO gains (stored, seeds 0, 7, n = 300: +0.250, +0.375; mean +0.312): True",
        "this run, +0.200, lies within 0.06 of the stored ones: True",
    ]


@pytest.mark.parametrize(
    ("found", "own", "said"),
    [
        ([0.25, -0.01], None, "PPO gains"),
        ([0.25, 0.0], None, "PPO gains"),
        ([], None, "PPO gains"),  # nothing is stored
        ([0.25, 0.375], 0.18, "this run"),
        ([0.25, 0.375], 0.45, "this run"),
    ],
)
def test_a_stored_claim_can_fail(found, own, said, monkeypatch):
    for name in ("COURSE_SMOKE", "COURSE_PROFILE", "COURSE_CLAIMS"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(AssertionError, match=said):
        results.stored("PPO gains", RUNS, found, n=300, own=own, floor=0.06)
