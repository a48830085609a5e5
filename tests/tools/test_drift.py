"""Calls of the GPU branch fit the pinned packages, read from files: nothing needs a GPU.

A name or an argument that is gone fails here; nothing is skipped. What cannot be read off the text
is declared in the two tables below.
"""

import builtins
import dataclasses
import json
import pathlib
import re
from collections import Counter
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from engines import changed_defaults
from engines.base import Engine
from engines.unsloth_engine import UnslothEngine
from engines.vllm_sampler import VllmSampler
from tools import drift
from tools.drift_calls import PACKAGES, Call, collect
from tools.drift_signatures import Gone, Sources
from tools.lock import read_pins
from utils.monitor import RLMonitor
from utils.profiles import PROFILES

PINS = read_pins(drift.PINS)
SNAPSHOT = json.loads(drift.SNAPSHOT.read_text(encoding="utf-8"))
INSTALLED = {
    package: Path(find_spec(package).submodule_search_locations[0])
    for package in PACKAGES
    if package not in drift.GPU_ONLY
}
SOURCES = drift.Recorded(INSTALLED, SNAPSHOT)

# Arguments that the text hides behind ** or *: target -> the expressions that may stand there. The
# keys of the engines' options are checked in test_engines.py.
OPTIONS = "engine.training_options()"
STARRED = {
    "trl.GRPOConfig": (OPTIONS, "engine.grpo_options("),
    "trl.SFTConfig": (OPTIONS, "engine.sft_options()"),
}
# Methods whose object the text does not show and that belong to Python, torch or this repository.
OTHERS = {
    *("cuDriverGetVersion", "default_factory", "hexdigest", "tobytes", "update"),
    *("save_for_backward", "get_tensor", "metadata"),  # torch.autograd's ctx, safetensors' file
    *(name for kind in (str, bytes, list, dict, set, tuple, int, float) for name in dir(kind)),
    *(name for kind in (torch.Tensor, torch.nn.Module, torch.Generator) for name in dir(kind)),
    *(name for kind in (pathlib.Path, re.Match, Counter, Axes, Figure) for name in dir(kind)),
    *(name for kind in (Engine, VllmSampler, RLMonitor) for name in dir(kind)),
    *dir(builtins),
}


def version_of(package: str) -> str:
    return SNAPSHOT[package]["version"] if package in drift.GPU_ONLY else version(package)


@pytest.mark.parametrize("package", PACKAGES)
def test_versions_are_the_pinned_ones(package):
    assert version_of(package) == PINS[package.replace("_", "-")], "run make drift"


@pytest.mark.parametrize("row", drift.rows(SOURCES, dict.fromkeys(PACKAGES, "")), ids=str)
def test_every_call_fits(row):
    assert row[3] == "ok", f"{row[2]}: {row[3]}"


def test_the_calls_that_matter_are_found():
    found = {call.target for call in drift.calls()}
    expected = {
        "unsloth.FastLanguageModel.from_pretrained",
        "unsloth.FastLanguageModel.get_peft_model",
        "unsloth_zoo.vllm_utils.save_lora",
        "unsloth_zoo.vllm_utils.load_lora",
        "vllm.SamplingParams",
        "vllm.LLM",
        "vllm.LLM.generate",
        "vllm.lora.request.LoRARequest",
        "vllm.v1.worker.gpu_model_runner.GPUModelRunner.reload_weights",
        "peft.LoraConfig",
        "peft.get_peft_model",
    }
    assert expected <= found


def test_the_snapshot_holds_what_is_called_and_no_more():
    used = {call.target for call in drift.calls()} | drift.FIELDS.keys()
    for package, recorded in SNAPSHOT.items():
        ours = {target for target in used if target.split(".")[0] == package}
        assert recorded["signatures"].keys() == ours, "run make drift DRIFT_ARGS=--write"


def test_what_the_text_hides_is_declared():
    for call in drift.calls():
        declared = STARRED.get(call.target, ())
        hidden = [star for star in call.starred if not star.startswith(declared)]
        assert not hidden, f"{call}: declare {hidden} in STARRED and test its keys"
    unknown = {
        f"{call.where} {call.name}"
        for file in drift.code_files()
        for call in collect(file)[1]
        if call.name not in OTHERS
    }
    assert not unknown, "whose are they? METHODS in drift_calls.py, or OTHERS here"


@pytest.mark.parametrize("config", ["GRPOConfig", "SFTConfig"])
def test_the_lesson_sets_what_unsloth_changes(config, tokenizer):
    engine = object.__new__(UnslothEngine)  # options need neither Unsloth nor a model
    engine.profile, engine.tokenizer = PROFILES["qwen3_4b"], tokenizer
    own = engine.grpo_options() if config == "GRPOConfig" else engine.sft_options()
    given = engine.training_options().keys() | own.keys()
    for call in drift.calls():
        if call.target == f"trl.{config}":
            assert OPTIONS in call.starred, f"{call}: pass {OPTIONS}"
            missing = changed_defaults(config).keys() - given - set(call.keywords)
            assert not missing, f"{call}: Unsloth changes the defaults of {sorted(missing)}"


# The check itself must be able to fail


def problems(code: str, tmp_path: Path, sources: Sources = SOURCES) -> list[str]:
    file = tmp_path / "code.py"
    file.write_text(code, encoding="utf-8")
    return [drift.problem(call, sources) for call in collect(file)[0]]


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("from trl import GRPOConfig\nGRPOConfig(max_prompt_length=9)", "max_prompt_length"),
        ("from trl import GRPOConfig\nGRPOConfig(vllm_sampling_params=1)", "vllm_sampling_params"),
        ("from trl import SFTTrainer\nSFTTrainer(model, tokenizer=t)", "tokenizer"),
        ("from trl import SFTTrainer\nSFTTrainer(args=a)", "needs 'model'"),
        ("import trl\ntrl.DataCollatorForCompletionOnlyLM()", "trl has no DataCollator"),
        ("from trl import GRPOTrainer\nGRPOTrainer.step(a)", "GRPOTrainer has no step"),
        ("trainer.train(resume_from=True)", "resume_from"),
        ("from peft import LoraConfig as C\nC(rank=8)", "rank"),
        ("engine.model.disable_adapter(1)", "takes 0 positional"),
        ("from vllm import SamplingParams\nSamplingParams(minp=0.1)", "minp"),
        ("llm.generate(p, s, lora=r)", "'lora'"),
        ("llm.collective_rpc('reload_weights', kwargs={'path': p})", "'path'"),
        ("from unsloth import FastModel\nFastModel.for_training(m)", "not in signatures.json"),
    ],
)
def test_a_wrong_call_is_named(code, said, tmp_path):
    assert any(said in text for text in problems(code, tmp_path))


def test_right_calls_pass(tmp_path):
    code = """
from trl import GRPOConfig, GRPOTrainer
config = GRPOConfig(output_dir="x", use_vllm=True, learning_rate=1e-6, max_steps=1)
trainer = GRPOTrainer(model, reward, args=config, train_dataset=rows, processing_class=tokenizer)
trainer.train(resume_from_checkpoint=True)
engine.model.train(True)
"""
    assert problems(code, tmp_path) == ["", "", ""]


def call_of(target: str) -> Call:
    return next(call for call in drift.calls() if call.target == target)


@pytest.mark.parametrize(
    ("target", "argument"),
    [
        ("unsloth.FastLanguageModel.from_pretrained", "fast_inference"),
        ("vllm.SamplingParams", "ignore_eos"),
        ("vllm.LLM", "logprobs_mode"),
    ],
)
def test_an_argument_that_leaves_the_snapshot_is_missed(target, argument):
    changed = json.loads(json.dumps(SNAPSHOT))
    changed[target.split(".")[0]]["signatures"][target]["parameters"].remove(argument)
    sources = drift.Recorded(INSTALLED, changed)
    assert drift.problem(call_of(target), SOURCES) == ""
    assert drift.problem(call_of(target), sources) == f"no argument {argument!r}"


def test_a_renamed_function_is_missed():
    call = call_of("unsloth_zoo.vllm_utils.save_lora")
    renamed = dataclasses.replace(call, target="unsloth_zoo.vllm_utils.save_adapter")
    assert "save_adapter" in drift.problem(renamed, SOURCES)


def test_a_text_that_is_gone_is_missed():
    changed = json.loads(json.dumps(SNAPSHOT))
    changed["unsloth"]["texts"].remove("model.save_lora = ")
    table = drift.rows(drift.Recorded(INSTALLED, changed), dict.fromkeys(PACKAGES, ""))
    assert [row[2] for row in table if row[3] != "ok"] == ["text model.save_lora ="]


# Reading signatures from files


@pytest.fixture
def package(tmp_path):
    """A package with inheritance, a moved class, **kwargs that are handed on."""
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner/base.py").write_text(
        "class Base:\n    def run(self, data, *, times, loud=False): ...\n"
        "class Fields:\n    first: int\n    second: int = 2\n",
        encoding="utf-8",
    )
    (tmp_path / "top.py").write_text(
        "class Tool(Base):\n    def __init__(self, size, **more): ...\n"
        "    @staticmethod\n    def make(model, r=8): ...\n"
        "class Config(Fields):\n    third: str = ''\n"
        "async def go(a, /, b=1, *rest): ...\n",
        encoding="utf-8",
    )
    return Sources({"package": tmp_path})


def test_signatures_from_files(package):
    tool = package.signature("package.Tool")
    assert (tool.parameters, tool.required, tool.positional) == (("size",), ("size",), 1)
    run = package.signature("package.Tool.run")
    assert (run.parameters, run.positional) == (("data", "times", "loud"), 1)
    assert run.required == ("data", "times")
    assert package.signature("package.Tool.make").parameters == ("model", "r")
    config = package.signature("package.Config")
    assert (config.parameters, config.required) == (("first", "second", "third"), ("first",))
    assert package.signature("package.go").positional == 1000
    for target in ("package.Missing", "package.Tool.stop", "package.inner.missing"):
        with pytest.raises(Gone):
            package.signature(target)


def test_of_two_classes_the_named_home_counts(tmp_path):
    (tmp_path / "models").mkdir()
    for file, argument in (("_cpu.py", "small"), ("models/loader.py", "large")):
        text = f"class FastLanguageModel:\n    def __init__(self, {argument}): ...\n"
        (tmp_path / file).write_text(text, encoding="utf-8")
    found = Sources({"unsloth": tmp_path}).signature("unsloth.FastLanguageModel")
    assert found.parameters == ("large",)


def test_keyword_arguments_are_not_everything(package):
    call = Call("here", "package.Tool", ("size", "anything"), 0, ())
    assert drift.problem(call, package) == "no argument 'anything'"


def test_notebooks_are_read_cell_by_cell(tmp_path):
    cells = [
        {"cell_type": "code", "source": ["%matplotlib inline\n", "from trl import GRPOConfig\n"]},
        {"cell_type": "markdown", "source": ["not code ("]},
        {"cell_type": "code", "source": ["shared = engine.training_options() | {'beta': 0.0}"]},
        {"cell_type": "code", "source": ["shared |= {'epsilon': 0.2, **more}\n"]},
        {"cell_type": "code", "source": ["GRPOConfig(max_steps=1, **shared)"]},
    ]
    file = tmp_path / "lesson.ipynb"
    file.write_text(json.dumps({"cells": cells}), encoding="utf-8")
    (call,), _ = collect(file)
    assert (call.target, call.where) == ("trl.GRPOConfig", "lesson.ipynb:7")
    assert call.keywords == ("max_steps", "beta", "epsilon")
    assert call.starred == ("engine.training_options()", "more")
