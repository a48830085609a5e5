"""Real runs on a made-up lesson and a random Llama: stages, resuming, what is stored."""

import json

import nbformat
import pytest

from relatives import lora
from scripts import run_real, run_seeds
from tools import fingerprint
from utils import models

CELLS = {
    "raise AssertionError('a cell without the tag was executed')": [],
    """
import os
import torch
from engines.resume import load_run, save_run
from relatives import lora
from utils import models, profiles
profile = profiles.get_profile()
profiles.seed_everything(profile.seed)
REAL = ["sft", "after SFT"]
IDS = torch.tensor([[5, 9, 11, 40, 3]])
""": ["real"],
    """
def train(progress, steps=6):
    policy = lora.inject_lora(models.load_policy(profile), 2, 4.0, ["q_proj"])
    optimizer = torch.optim.AdamW(lora.lora_parameters(policy), lr=1e-2)
    parts = {"policy": policy, "optimizer": optimizer}
    start, losses = load_run(progress.file, parts) or (0, [])
    for step in range(start, steps):
        if os.environ.get("STOP_AT") == str(step):
            raise KeyboardInterrupt
        progress(step, steps)
        loss = policy(IDS, labels=IDS).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        save_run(progress.file, step + 1, parts, losses)
    lora.save_adapter(policy, profiles.runs_folder(profile) / "sft", profile)
    return {"losses": losses, "steps": steps - start}
""": ["real", "nbval-ignore-output"],
    """
def run_real(stage, progress):
    if stage == "sft":
        return train(progress)
    return {"logit": models.load_policy(profile, "sft")(IDS).logits[0, -1, 7].item()}
""": ["real"],
}


@pytest.fixture
def lesson(tmp_path, monkeypatch, random_llama, tokenizer):
    """A repository with one lesson; returns its root. Nothing of the process changes for good."""
    for module in (run_real, run_seeds):
        monkeypatch.setattr(module, "ROOT", tmp_path)
    base = models.save_checkpoint(random_llama, tokenizer, tmp_path / "llama")
    said = {"source": "made up", "weights": "random", "versions": {}, "date": "today"}
    (base / lora.PROVENANCE).write_text(json.dumps(said))
    for name, value in {
        "COURSE_BASE_MODEL": str(base),
        "COURSE_DEVICE": "cpu",
        "COURSE_PROFILE": "",
        "COURSE_SEED": "",
        "COURSE_RUNS": "",
        "STOP_AT": "",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    cells = [nbformat.v4.new_code_cell(s, metadata={"tags": tags}) for s, tags in CELLS.items()]
    (tmp_path / "notebooks").mkdir()
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "notebooks/05_few.ipynb")
    return tmp_path


def stored(root):
    return json.loads((root / "benchmarks/results/05_few_smol.json").read_text())


def test_every_stage_is_stored_with_what_made_it(lesson, capsys):
    run_real.main(["05", "--seeds", "0", "3"])
    document = stored(lesson)
    assert [run["seed"] for run in document["runs"]] == [0, 3]
    for run in document["runs"]:
        assert set(run["summary"]) == set(run["seconds"]) == {"sft", "after SFT"}
        assert run["peak GB"]["sft"] > 0.1
        losses = run["summary"]["sft"]["losses"]
        assert losses[-1] < losses[0]
    assert document["runs"][0]["summary"] != document["runs"][1]["summary"]
    (made,) = document["made_by"].values()
    assert made["weights"] == {"source": "made up", "weights": "random"}
    assert "relatives.lora" in made["modules"]
    assert (lesson / "runs/seed_3/smol/sft/adapter_config.json").is_file()
    assert "05, seed 3, sft: begins (last time 0 min)" in capsys.readouterr().out


def test_an_interrupted_run_goes_on_where_it_was(lesson, monkeypatch):
    run_real.main(["05", "--seeds", "1"])
    whole = stored(lesson)["runs"][0]["summary"]
    monkeypatch.setenv("STOP_AT", "4")
    with pytest.raises(KeyboardInterrupt):
        run_real.main(["05", "--seeds", "1", "--again", "sft", "after SFT"])
    assert stored(lesson)["runs"][0]["summary"] == whole  # the older numbers stay
    unfinished = lesson / "runs/seed_1/smol/.05_sft.unfinished"
    assert unfinished.is_file()
    monkeypatch.setenv("STOP_AT", "")
    run_real.main(["05", "--seeds", "1", "--again", "sft", "after SFT"])
    again = stored(lesson)["runs"][0]["summary"]
    assert again["sft"] == {"losses": whole["sft"]["losses"], "steps": 2}  # bit for bit
    assert again["after SFT"] == whole["after SFT"]
    assert not unfinished.exists()


def test_what_is_up_to_date_is_not_measured_again(lesson, monkeypatch, capsys):
    run_real.main(["05"])
    monkeypatch.setenv("STOP_AT", "0")  # a second run would stop here
    run_real.main(["05"])
    assert "up to date" in capsys.readouterr().out
    notebook = lesson / "notebooks/05_few.ipynb"
    node = nbformat.read(notebook, as_version=4)
    node.cells[2].source = node.cells[2].source.replace("1e-2", "1e-3")
    nbformat.write(node, notebook)
    with pytest.raises(KeyboardInterrupt):
        run_real.main(["05"])


def test_one_stage_alone(lesson):
    run_real.main(["05", "--only", "sft"])
    assert set(stored(lesson)["runs"][0]["summary"]) == {"sft"}
    with pytest.raises(SystemExit, match="no stage 'rm'; there are: sft, after SFT"):
        run_real.main(["05", "--only", "rm"])


def test_a_lesson_that_takes_no_part_says_so(lesson):
    notebook = lesson / "notebooks/05_few.ipynb"
    nbformat.write(nbformat.v4.new_notebook(), notebook)
    with pytest.raises(SystemExit, match="no cells with the tag 'real'"):
        run_real.main(["05"])


def test_missing_weights_make_no_run_stale_but_code_does(lesson, monkeypatch):
    run_real.main(["05"])
    file = lesson / "benchmarks/results/05_few_smol.json"
    monkeypatch.setattr(fingerprint, "ROOT", lesson)  # its notebooks, and no module of ours
    monkeypatch.setattr(fingerprint, "pins", dict)
    monkeypatch.setattr(fingerprint, "weights_behind", lambda _: {"base": "tiny's"})
    document = json.loads(file.read_text())
    (made,) = document["made_by"].values()
    made |= {"modules": {}, "pins": {}}
    file.write_text(json.dumps(document))
    monkeypatch.setattr(fingerprint, "modules_behind", lambda _: {})
    assert fingerprint.stale(file) == {}
    monkeypatch.setattr(fingerprint, "modules_behind", lambda _: {"relatives.lora": "changed"})
    assert fingerprint.stale(file) == {
        "seed 0, sft": ["modules relatives.lora"],
        "seed 0, after SFT": ["modules relatives.lora"],
    }


def test_progress_names_the_time_left(monkeypatch, capsys, tmp_path):
    clock = iter([0.0, 100.0, 110.0, 140.0, 150.0])
    monkeypatch.setattr(run_real.time, "monotonic", lambda: next(clock))
    progress = run_real.Progress("05, seed 0, grpo", tmp_path / "file", later=600.0)
    for step in (20, 21, 24, 25):  # a resumed run: it begins at step 20, 100 s after loading
        progress(step, 40)
    shown = capsys.readouterr().out.splitlines()
    assert shown == [
        "05, seed 0, grpo: 21 of 40, 10.0 s each, 3 min left, then 10 min of later stages",
        "05, seed 0, grpo: 24 of 40, 10.0 s each, 3 min left, then 10 min of later stages",
    ]


def test_stages_that_were_never_measured_have_no_estimate(tmp_path):
    results = run_seeds.Results.__new__(run_seeds.Results)
    results.runs = {0: {"seconds": {"sft": 40, "dpo": 10}}, 1: {"seconds": {"sft": 60}}}
    assert run_real.known_seconds(results, ["sft", "dpo"]) == 70
    assert run_real.known_seconds(results, ["sft", "grpo"]) is None
    assert run_real.known_seconds(results, []) == 0


def test_the_peak_is_in_gigabytes():
    assert 0.05 < run_real.peak_gb() < 50
