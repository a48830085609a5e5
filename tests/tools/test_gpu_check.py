"""make gpu-check on a CPU: what it prints, what it writes, and when it writes nothing."""

import copy
import json
import os
from dataclasses import replace

import nbformat
import pytest
import torch
from peft import LoraConfig, get_peft_model

from engines import sizes
from scripts import run_notebooks
from tools import gpu_check
from utils import rollout

SHAPE = sizes.ModelShape("Qwen3-0.6B", 32, 64, 4, 2, 1, 16, 1024)
SIZES = "--prompts 2 --group-size 2 --prompt-tokens 6 --completion-tokens 5 --micro-batch 3"
LOADS = """
from utils import models, profiles
from tasks import math
profile = profiles.get_profile()
assert (profile.name, profile.device, profile.smoke) == ("small", "cpu", True)
for stage in ("base", "sft"):
    assert models.load_policy(profile, stage).config.num_hidden_layers == 2
assert models.load_reward_model(profile).score.out_features == 1
assert len(math.load_gsm8k("train")) == 40
"""


@pytest.fixture(autouse=True)
def small_shape(monkeypatch):
    for name in ("COURSE_DATA_DIR", "COURSE_BASE_MODEL", "COURSE_DEVICE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(gpu_check, "SHAPES", {SHAPE.name: SHAPE})


@pytest.fixture
def course(tmp_path, monkeypatch):
    """A folder of notebooks of our own, in place of the course's."""
    (tmp_path / "notebooks").mkdir()
    monkeypatch.setattr(run_notebooks, "ROOT", tmp_path)

    def add(name, source):
        cells = [nbformat.v4.new_code_cell(source)]
        nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "notebooks" / name)

    return add


def check(tmp_path, *arguments):
    """Exit status, and what the results file holds (None without one)."""
    out = tmp_path / "results" / "gpu_check.json"
    smoke = ["--smoke", "--device", "cpu", "--layers", "2", *SIZES.split(), "--out", str(out)]
    status = gpu_check.main([*smoke, *arguments])
    return status, json.loads(out.read_text()) if out.exists() else None


MEASURED = {
    "parameters": 1,
    "layers": 2,
    "sampling": {"tokens_per_second": 1234.5, "peak_gib": 3.25, "computed_gib": 3.5},
    "training": {"tokens_per_second": 99.0, "peak_gib": None, "computed_gib": 7.0},
}


@pytest.fixture
def measured(monkeypatch):
    """Spares a test the measuring."""
    monkeypatch.setattr(gpu_check, "measure_apart", lambda plan: MEASURED)


@pytest.mark.slow
def test_measures_runs_the_notebooks_and_writes_everything(course, tmp_path, capsys):
    course("01_loads.ipynb", LOADS)
    before = dict(os.environ)
    status, results = check(tmp_path)
    assert status == 0, capsys.readouterr().out
    assert results["model"] == "Qwen3-0.6B, 2 layers, random weights"
    assert results["parameters"] == replace(SHAPE, layers=2).parameters
    assert results["tokens"] == {"rows": 4, "prompt": 6, "completion": 5}
    assert results["smoke"] is True and "torch" in results["versions"]
    for phase, tokens in (("sampling", 4 * 5), ("training", 4 * 11)):
        found = results[phase]
        assert found["tokens_per_second"] > 0 and found["peak_gib"] is None
        done = found["tokens_per_second"] * found["seconds"]
        # Seconds are stored to the hundredth.
        assert done == pytest.approx(tokens, abs=0.01 * found["tokens_per_second"])
    (run,) = results["notebooks"]
    assert (run["notebook"], run["failure"]) == ("01_loads.ipynb", "")
    assert dict(os.environ) == before
    shown = capsys.readouterr().out
    assert "| 1 of 1 run |" in shown and str(tmp_path) not in shown


def test_a_failed_notebook_is_reported_and_the_others_run(course, measured, tmp_path, capsys):
    course("00_fails.ipynb", "raise RuntimeError('no such luck')")
    course("01_runs.ipynb", "1 + 1")
    status, results = check(tmp_path)
    assert status == 1
    assert ["no such luck" in run["failure"] for run in results["notebooks"]] == [True, False]
    assert "| 1 of 2 run |" in capsys.readouterr().out


def test_only_the_notebooks_asked_for_run(course, measured, tmp_path):
    course("00_fails.ipynb", "raise RuntimeError('no such luck')")
    course("01_runs.ipynb", "1 + 1")
    status, results = check(tmp_path, "--notebooks", "01")
    assert status == 0 and [run["notebook"] for run in results["notebooks"]] == ["01_runs.ipynb"]


def test_without_a_gpu(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(torch.version, "cuda", None)
    out = tmp_path / "gpu_check.json"
    assert gpu_check.main(["--smoke", "--out", str(out)]) == 1
    assert "gpu-check: profile 'small' needs a CUDA GPU" in capsys.readouterr().err
    assert not out.exists()


def test_without_weights(course, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("COURSE_BASE_MODEL", str(tmp_path / "nothing"))
    out = tmp_path / "gpu_check.json"
    assert gpu_check.main(["--device", "cpu", "--out", str(out)]) == 1
    error = capsys.readouterr().err
    assert "no weights" in error and "--smoke" in error
    assert not out.exists()


def test_out_of_memory_names_an_option_of_this_script(course, monkeypatch, tmp_path, capsys):
    def fail(plan):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    # Logits of more than a GiB: chunking them would save most, and the script cannot.
    wide = replace(SHAPE, vocab=200_000)
    monkeypatch.setattr(gpu_check, "SHAPES", {SHAPE.name: wide})
    monkeypatch.setattr(gpu_check, "measure_apart", fail)
    sizes_given = ("--completion-tokens", "512", "--micro-batch", "8")
    assert check(tmp_path, *sizes_given) == (1, None)
    error = capsys.readouterr().err
    assert "no room for 2.00 GiB more" in error
    assert "Turn down first: micro_batch 8 -> 4" in error and "logits_chunk" not in error


def test_an_interrupted_run_leaves_the_old_file(course, monkeypatch, tmp_path):
    def stop(plan):
        raise KeyboardInterrupt

    out = tmp_path / "results" / "gpu_check.json"
    out.parent.mkdir()
    out.write_text('{"old": true}')
    monkeypatch.setattr(gpu_check, "measure_apart", stop)
    with pytest.raises(KeyboardInterrupt):
        check(tmp_path)
    assert out.read_text() == '{"old": true}' and list(out.parent.iterdir()) == [out]


def test_a_cpu_run_does_not_overwrite_the_gpus_results():
    assert gpu_check.parse(["--device", "cpu"]).out == gpu_check.ROOT / "build/gpu_check.json"
    assert gpu_check.parse([]).out == gpu_check.ROOT / "benchmarks/results/gpu_check.json"


def test_the_row_has_a_cell_for_each_head():
    versions = {name: "1.0" for name in ("torch", "transformers", "trl", "peft")}
    results = {
        "machine": {"device": "NVIDIA L4", "driver": "580.1"},
        "versions": versions,
        "model": "Qwen3-0.6B-Base",
        "date": "2026-11-21",
        "notebooks": [{"failure": ""}, {"failure": "cell [3]"}],
        **MEASURED,
    }
    head, line, row = (text.split(" | ") for text in gpu_check.table_row(results).splitlines())
    assert len(head) == len(line) == len(row)
    cells = dict(zip(head, row, strict=True))
    assert cells["notebooks under `small`"] == "1 of 2 run"
    assert cells["sampling, tokens/s"] == "1,234"
    assert cells["sampling, peak"] == "3.25 GiB measured, 3.5 GiB computed"
    assert cells["training, peak"] == "7.0 GiB computed"  # nothing is called measured that was not


def test_no_token_ends_a_measured_completion(random_model, tokenizer):
    generator = torch.Generator().manual_seed(0)
    given = (random_model, tokenizer, [[5, 6, 7]], 64, 64)
    ended = rollout.sample(*given, generator=generator).finished
    assert ended.any()  # the usual stop tokens would end some of 64
    sampled = rollout.sample(*given, generator=generator, stop_ids=gpu_check.NEVER)
    assert sampled.mask.all() and sampled.completion_ids.shape == (64, 64)


def test_micro_batches_add_up_to_the_whole_gradient(random_model, tokenizer):
    ids = [[5, 6, 7], [8, 9, 10]]
    sampled = rollout.sample(random_model, tokenizer, ids, 3, 4, stop_ids=gpu_check.NEVER)
    updated = []
    for micro_batch in (6, 4):  # 4 and 2 rows: parts of different size
        torch.manual_seed(0)
        lora = LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
        policy = get_peft_model(copy.deepcopy(random_model), lora)
        weights = [p for p in policy.parameters() if p.requires_grad]
        before = [p.detach().clone() for p in weights]
        gpu_check.train_step(policy, torch.optim.SGD(weights, lr=1.0), sampled, micro_batch)
        updated.append([p.detach() - q for p, q in zip(weights, before, strict=True)])
    assert max(change.abs().max().item() for change in updated[0]) > 1e-4
    torch.testing.assert_close(updated[1], updated[0], rtol=1e-3, atol=1e-6)
