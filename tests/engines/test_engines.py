"""The engines: what lesson 06 asks of them, without a GPU, vLLM or Unsloth.

vLLM and Unsloth are replaced by small objects here; `make test-engines` runs the real ones.
"""

import ast
import dataclasses
import json
import math
import os
import subprocess
import sys
import types
from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM
from trl import GRPOConfig, SFTConfig

import engines
from engines import defaults, machine, vllm_sampler
from engines.unsloth_engine import UnslothEngine, _real_logits
from engines.vllm_sampler import VllmSampler, rollout_from_outputs, sampling_params
from utils import models
from utils.logprobs import masked_mean
from utils.profiles import PROFILES, repo_root

torch.set_num_threads(1)
PROMPTS = [[5, 6, 7], [9, 10, 11, 12, 13]]
SMALL_LORA = {"rank": 4, "alpha": 8, "target_modules": ("q_proj", "down_proj")}


@pytest.fixture(scope="module")
def profile(tmp_path_factory, random_model, tokenizer):
    """The profile `small` on the CPU with a saved random Qwen3."""
    folder = tmp_path_factory.mktemp("engines") / "base"
    models.save_checkpoint(random_model, tokenizer, folder)
    small = PROFILES["small"]
    return dataclasses.replace(
        small, base_model=str(folder), device="cpu", dtype=torch.float32, rollout_batch=4
    )


@pytest.fixture
def engine(profile):
    return engines.load(profile, max_length=64, **SMALL_LORA)


def train(engine, seed=0):
    """Give the adapter an update, as training would."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in engine.adapter_weights():
            if ".lora_B." in name:
                weight.copy_(0.1 * torch.randn(weight.shape, generator=generator))


def gap(engine, rollout, temperature=1.0):
    difference = engine.trainer_logprobs(rollout, temperature) - rollout.logprobs
    return (difference * rollout.mask).abs().max().item()


# The first cell


def test_importing_the_engines_leaves_the_patched_packages_alone():
    code = "import sys; import engines; from utils import profiles; engines.check_machine('tiny');"
    code += "print([m for m in ('trl', 'transformers', 'peft', 'unsloth') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.fixture
def gpu_machine(monkeypatch):
    """A machine where everything fits, told to torch; tests spoil one thing each."""
    properties = SimpleNamespace(total_memory=80 * 2**30)
    monkeypatch.delenv("COURSE_DEVICE", raising=False)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(machine, "_driver_cuda", lambda: (13, 1))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: properties)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "a card")
    monkeypatch.setattr(machine.importlib.util, "find_spec", lambda name: object())
    for name in machine.PATCHED_BY_UNSLOTH:
        monkeypatch.delitem(sys.modules, name, raising=False)
    imported = []
    monkeypatch.setattr(machine.importlib, "import_module", imported.append)
    return SimpleNamespace(properties=properties, imported=imported)


def test_smol_runs_on_whatever_machine_there_is(monkeypatch):
    monkeypatch.delenv("COURSE_DEVICE", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    engines.check_machine("smol")


def test_a_fitting_machine_passes_and_only_the_4b_profile_imports_unsloth(gpu_machine):
    engines.check_machine("small")
    assert gpu_machine.imported == []
    engines.check_machine(PROFILES["qwen3_4b"])
    assert gpu_machine.imported == ["unsloth"]


def test_the_profile_comes_from_the_environment(gpu_machine, monkeypatch):
    monkeypatch.setenv("COURSE_PROFILE", "qwen3_4b")
    engines.check_machine()
    assert gpu_machine.imported == ["unsloth"]
    monkeypatch.setenv("COURSE_DEVICE", "cpu")  # the tests' way: transformers, whatever the profile
    engines.check_machine()
    assert gpu_machine.imported == ["unsloth"]
    with pytest.raises(ValueError, match="unknown profile 'big'"):
        engines.check_machine("big")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda m: m.setattr(torch.version, "cuda", None), "built without CUDA"),
        (lambda m: m.setattr(machine, "_driver_cuda", lambda: None), "no NVIDIA driver was found"),
        (lambda m: m.setattr(machine, "_driver_cuda", lambda: (12, 4)), "too old.*12.4.*13.0"),
        (lambda m: m.setattr(torch.cuda, "is_available", lambda: False), "torch sees no GPU"),
    ],
)
def test_what_is_wrong_with_the_gpu_is_said(spoil, said, gpu_machine, monkeypatch):
    spoil(monkeypatch)
    for name in ("small", "qwen3_4b"):
        with pytest.raises(RuntimeError, match=said):
            engines.check_machine(name)
    engines.check_machine("tiny")


@pytest.mark.parametrize(
    ("name", "gib", "fits"),
    [("small", 14.6, True), ("small", 11.9, False), ("qwen3_4b", 22.0, True)]
    + [("qwen3_4b", 15.8, False)],
)
def test_memory_is_compared_with_the_need(name, gib, fits, gpu_machine):
    gpu_machine.properties.total_memory = int(gib * 2**30)
    if fits:
        return engines.check_machine(name)
    needed = machine.NEEDED_MEMORY[name][0]
    with pytest.raises(RuntimeError, match=f"{needed:.1f} GiB.*a card has {gib:.1f} GiB"):
        engines.check_machine(name)


def test_missing_packages_and_late_imports_are_said(gpu_machine, monkeypatch):
    monkeypatch.setitem(sys.modules, "trl", types.ModuleType("trl"))
    with pytest.raises(RuntimeError, match="trl were imported before Unsloth.*Restart the kernel"):
        engines.check_machine("qwen3_4b")
    engines.check_machine("small")  # no Unsloth there, so the order does not matter
    monkeypatch.setitem(sys.modules, "unsloth", types.ModuleType("unsloth"))
    engines.check_machine("qwen3_4b")
    absent = {"vllm": None}
    monkeypatch.setattr(machine.importlib.util, "find_spec", lambda name: absent.get(name, object))
    with pytest.raises(RuntimeError, match=r"needs vllm,.*pip install -c constraints-gpu.txt"):
        engines.check_machine("qwen3_4b")


def test_an_unsloth_that_does_not_start_is_explained(gpu_machine, monkeypatch):
    def broken(name):
        raise NotImplementedError("needs torch accelerators")

    monkeypatch.setattr(machine.importlib, "import_module", broken)
    with pytest.raises(RuntimeError, match="does not start: needs torch accelerators"):
        engines.check_machine("qwen3_4b")


def test_the_driver_is_asked_for_its_cuda(monkeypatch):
    def driver(number, failed=0):
        def ask(pointer):
            pointer._obj.value = number
            return failed

        return lambda name: SimpleNamespace(cuDriverGetVersion=ask)

    monkeypatch.setattr(machine.ctypes, "CDLL", driver(12040))
    assert machine._driver_cuda() == (12, 4)
    monkeypatch.setattr(machine.ctypes, "CDLL", driver(13010, failed=100))
    assert machine._driver_cuda() is None

    def missing(name):
        raise OSError(name)

    monkeypatch.setattr(machine.ctypes, "CDLL", missing)
    assert machine._driver_cuda() is None


# The transformers engine


def test_a_fresh_adapter_is_the_base_and_trains_alone(engine, random_model):
    rollout = engine.rollout(PROMPTS, 3, 6, seed=1)
    without = engine.rollout(PROMPTS, 3, 6, seed=1, adapter=False)
    assert (engine.name, rollout.completion_ids.shape[0]) == ("transformers", 6)
    torch.testing.assert_close(rollout.logprobs, without.logprobs, atol=0, rtol=0)
    assert engine.peak_memory() is None
    trained = {name for name, p in engine.model.named_parameters() if p.requires_grad}
    assert trained == {name for name, _ in engine.adapter_weights()}
    assert len(trained) == 2 * 2 * 2  # A and B of two layers' two projections


def test_the_adapter_changes_what_is_sampled_and_can_be_left_out(engine):
    before = engine.rollout(PROMPTS, 3, 6, seed=1)
    train(engine)
    after = engine.rollout(PROMPTS, 3, 6, seed=1)
    assert not torch.equal(before.logprobs, after.logprobs)
    left_out = engine.rollout(PROMPTS, 3, 6, seed=1, adapter=False)
    torch.testing.assert_close(left_out.logprobs, before.logprobs, atol=0, rtol=0)
    assert engine.model.active_adapters == ["default"]
    again = engine.rollout(PROMPTS, 3, 6, seed=1)
    torch.testing.assert_close(again.logprobs, after.logprobs, atol=0, rtol=0)


@pytest.mark.parametrize("temperature", [1.0, 0.5, 0.0])
def test_the_trainer_agrees_with_the_sampler(engine, temperature, monkeypatch):
    train(engine)
    rollout = engine.rollout(PROMPTS, 3, 8, temperature=temperature, seed=2)
    assert gap(engine, rollout, temperature) < 1e-4
    whole = engine.trainer_logprobs(rollout, temperature)
    vocabulary = engine.model.config.vocab_size
    monkeypatch.setattr("engines.base.LOGITS_AT_ONCE", 4 * 8 * vocabulary)  # 4 rows at once
    torch.testing.assert_close(engine.trainer_logprobs(rollout, temperature), whole)
    train(engine, seed=1)
    assert gap(engine, rollout, temperature) > 1e-2


def test_stop_tokens_and_seeds_are_passed_on(engine):
    free = engine.rollout(PROMPTS, 4, 8, seed=3)
    stop = int(free.completion_ids[0, 0])
    stopped = engine.rollout(PROMPTS, 4, 8, seed=3, stop_ids=[stop])
    assert stopped.lengths[0] == 1 and stopped.finished[0]
    assert not torch.equal(
        engine.rollout(PROMPTS, 4, 8, seed=4).completion_ids, free.completion_ids
    )


def test_adapters_are_saved_and_loaded(engine, profile, tmp_path):
    with pytest.raises(ValueError, match="never trained"):
        engine.save_adapter(tmp_path / "adapter")
    assert not (tmp_path / "adapter").exists()
    train(engine)
    folder = engine.save_adapter(tmp_path / "adapter")
    assert sorted(f.name for f in tmp_path.iterdir()) == ["adapter"]  # nothing left beside it
    rollout = engine.rollout(PROMPTS, 3, 6, seed=1)
    other = engines.load(profile, max_length=64, seed=9, **SMALL_LORA)
    assert gap(other, rollout) > 1e-2
    other.load_adapter(folder)
    assert gap(other, rollout) < 1e-4
    with pytest.raises(ValueError, match="has r 4, this model has 8"):
        engines.load(
            profile, max_length=64, rank=8, alpha=8, target_modules=("q_proj", "down_proj")
        ).load_adapter(folder)
    with pytest.raises(FileNotFoundError, match="adapter_config.json and adapter_model"):
        other.load_adapter(tmp_path)
    weights = load_file(folder / "adapter_model.safetensors")
    renamed = {name.replace("layers.0", "layers.7"): weight for name, weight in weights.items()}
    save_file(renamed, folder / "adapter_model.safetensors")
    with pytest.raises(ValueError, match="tensors of other layers"):
        other.load_adapter(folder)


def test_a_failed_save_keeps_the_older_adapter(engine, tmp_path, monkeypatch):
    train(engine)
    folder = engine.save_adapter(tmp_path / "adapter")
    before = (folder / "adapter_model.safetensors").read_bytes()
    train(engine, seed=1)

    def interrupted(place):
        (place / "adapter_model.safetensors").write_bytes(b"half")
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(engine, "_write_adapter", interrupted)
        with pytest.raises(OSError, match="disk full"):
            engine.save_adapter(folder)
    assert (folder / "adapter_model.safetensors").read_bytes() == before
    rename = os.replace

    def second_rename_fails(source, target):
        if ".new-" in str(source):
            raise OSError("no power")
        rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr("utils.models.os.replace", second_rename_fails)
        with pytest.raises(OSError, match="no power"):
            engine.save_adapter(folder)
    assert (folder / "adapter_model.safetensors").read_bytes() == before
    assert sorted(f.name for f in tmp_path.iterdir()) == ["adapter"]
    engine.save_adapter(folder)
    assert (folder / "adapter_model.safetensors").read_bytes() != before


def test_merging_gives_an_ordinary_model_and_leaves_the_engine_alone(engine, tmp_path):
    train(engine)
    rollout = engine.rollout(PROMPTS, 3, 6, seed=1)
    folder = engine.merge(tmp_path / "merged")
    merged = AutoModelForCausalLM.from_pretrained(folder)
    assert not [name for name, _ in merged.named_parameters() if "lora" in name]
    ids = torch.tensor([PROMPTS[1] + rollout.completion_ids[-1].tolist()])
    with torch.no_grad():
        expected, got = engine.model(ids).logits, merged(ids).logits
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)
    assert gap(engine, rollout) < 1e-4
    models.load_tokenizer(dataclasses.replace(engine.profile, base_model=str(folder)))


def test_tags_can_become_tokens_with_trained_rows(profile, tmp_path):
    given = {"max_length": 64, "new_tokens": ["<work>", "</work>"], **SMALL_LORA}
    engine = engines.load(profile, **given)
    ids = engine.tokenizer.encode("<work>1</work>", add_special_tokens=False)
    assert len(ids) == 3 and engine.model.get_input_embeddings().weight.shape[0] > ids[-1]
    rows = [p for n, p in engine.model.named_parameters() if p.requires_grad and "lora" not in n]
    assert [tuple(row.shape) for row in rows] == [(2, engine.model.config.hidden_size)]
    train(engine)
    with torch.no_grad():
        rows[0].add_(0.5)
    rollout = engine.rollout([ids, PROMPTS[0]], 2, 6, seed=1)
    other = engines.load(profile, seed=4, **given)
    other.load_adapter(engine.save_adapter(tmp_path / "adapter"))
    assert gap(other, rollout) < 1e-4
    merged = AutoModelForCausalLM.from_pretrained(engine.merge(tmp_path / "merged"))
    whole = torch.tensor([ids + rollout.completion_ids[0].tolist()])
    with torch.no_grad():
        expected, got = engine.model(whole).logits, merged(whole).logits
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)


def test_it_runs_the_shipped_model():
    engine = engines.load(PROFILES["tiny"], max_length=128, rank=8, alpha=16)
    rollout = engine.rollout(PROMPTS, 2, 5)
    assert gap(engine, rollout) < 1e-4
    with pytest.raises(ValueError, match="exceeds the model's context of 1024"):
        engines.load(PROFILES["tiny"], max_length=5000)


def test_the_options_make_configs(engine, tmp_path):
    shared = {"output_dir": str(tmp_path), **engine.training_options()}
    config = GRPOConfig(**shared, **engine.grpo_options())
    assert (config.bf16, config.use_cpu, config.use_vllm) == (False, True, False)
    assert (config.top_p, config.top_k, config.min_p) == (1.0, 0, None)
    assert SFTConfig(**shared, **engine.sft_options()).loss_type == "nll"
    engine.tokenizer.eos_token = "<|im_end|>"
    assert engine.grpo_options([engine.tokenizer.eos_token_id, 0])
    with pytest.raises(ValueError, match="stops at tokenizer.eos_token"):
        engine.grpo_options([0])


# vLLM's answers as rollouts


def step(token, logprob):
    """One position of vLLM's log-probs: the sampled token, and perhaps more likely ones."""
    return {token: SimpleNamespace(logprob=logprob), token + 1: SimpleNamespace(logprob=-0.01)}


def answer(ids, logprobs):
    steps = [step(token, logprob) for token, logprob in zip(ids, logprobs, strict=True)]
    return SimpleNamespace(token_ids=tuple(ids), logprobs=steps)


def output(*answers):
    return SimpleNamespace(outputs=list(answers))


def test_outputs_become_a_rollout(tokenizer):
    stop = tokenizer.convert_tokens_to_ids("<|im_end|>")
    outputs = [
        output(answer([40, 41, stop], [-1.0, -2.0, -3.0]), answer([42], [-0.5])),
        output(answer([stop], [-4.0]), answer([43, 44, 45], [-0.1, -0.2, -0.3])),
    ]
    rollout = rollout_from_outputs(outputs, PROMPTS, 2, tokenizer, [stop])
    pad = tokenizer.pad_token_id
    assert rollout.prompt_ids.tolist() == [[pad, pad, 5, 6, 7], PROMPTS[1]]
    assert rollout.prompt_mask.tolist() == [[0, 0, 1, 1, 1], [1] * 5]
    assert rollout.completion_ids.tolist() == [
        [40, 41, stop],
        [42, pad, pad],
        [stop, pad, pad],
        [43, 44, 45],
    ]
    # The stop token counts: it was sampled, so it has a log-prob and is trained.
    assert rollout.mask.tolist() == [[1, 1, 1], [1, 0, 0], [1, 0, 0], [1, 1, 1]]
    assert rollout.mask.dtype == torch.float32
    expected = [[-1, -2, -3], [-0.5, 0, 0], [-4, 0, 0], [-0.1, -0.2, -0.3]]
    torch.testing.assert_close(rollout.logprobs, torch.tensor(expected, dtype=torch.float32))
    assert rollout.finished.tolist() == [True, False, True, False]
    assert rollout.lengths.tolist() == [3, 1, 1, 3]
    assert rollout.texts == [tokenizer.decode(ids) for ids in ([40, 41], [42], [], [43, 44, 45])]
    assert rollout.group_size == 2


def test_one_greedy_output_stands_for_its_group(tokenizer):
    outputs = [output(answer([40, 41], [-1.0, -2.0]))]
    rollout = rollout_from_outputs(outputs, PROMPTS[:1], 3, tokenizer, [0])
    assert rollout.completion_ids.tolist() == [[40, 41]] * 3


@pytest.mark.parametrize(
    ("outputs", "said"),
    [
        ([output(answer([4], [-1.0]))], "1 outputs for 2 prompts"),
        ([output(answer([4], [-1.0]))] + [output(*[answer([4], [-1.0])] * 3)], "3 outputs, not 2"),
        ([output(SimpleNamespace(token_ids=[4], logprobs=None))] * 2, "one log-prob each"),
        ([output(SimpleNamespace(token_ids=[4, 5], logprobs=[step(4, -1)]))] * 2, "one log-prob"),
        ([output(answer([], []))] * 2, "0 tokens"),
    ],
)
def test_outputs_that_do_not_fit_are_refused(outputs, said, tokenizer):
    with pytest.raises(ValueError, match=said):
        rollout_from_outputs(outputs, PROMPTS, 2, tokenizer, [0])


class FakeLLM:
    """vLLM's engine as far as the sampler uses it; samples from a transformers model."""

    def __init__(self, **settings):
        self.settings, self.requests, self.log = settings, [], []
        core = SimpleNamespace(shutdown=lambda: self.log.append("shutdown"))
        self.llm_engine = SimpleNamespace(engine_core=core)

    def generate(self, prompts, params, use_tqdm, lora_request=None):
        assert len(prompts) == len(params) and not use_tqdm
        self.params = params
        self.requests.append(lora_request)
        return [
            output(*(answer([40 + g, p["prompt_token_ids"][0]], [-1.0, -g]) for g in range(s.n)))
            for p, s in zip(prompts, params, strict=True)
        ]

    def collective_rpc(self, method, kwargs):
        self.log.append((method, kwargs))

    def reset_prefix_cache(self):
        self.log.append("reset")


@pytest.fixture
def fake_vllm(monkeypatch):
    """A module `vllm` whose classes keep what they were given."""
    module = types.ModuleType("vllm")
    module.LLM, module.SamplingParams = FakeLLM, lambda **given: SimpleNamespace(**given)
    request = types.ModuleType("vllm.lora.request")
    request.LoRARequest = lambda **given: SimpleNamespace(**given)
    monkeypatch.setitem(sys.modules, "vllm", module)
    monkeypatch.setitem(sys.modules, "vllm.lora", types.ModuleType("vllm.lora"))
    monkeypatch.setitem(sys.modules, "vllm.lora.request", request)


def test_sampling_parameters_leave_the_distribution_alone(fake_vllm):
    first, second = sampling_params(2, 4, 9, 0.7, seed=100, stop_ids=(3, 8))
    assert (first.n, first.temperature, first.max_tokens) == (4, 0.7, 9)
    assert (first.top_p, first.top_k, first.min_p) == (1.0, 0, 0.0)
    assert (first.logprobs, first.ignore_eos, first.detokenize) == (0, True, False)
    assert first.stop_token_ids == [3, 8]
    # vLLM seeds completion g of a prompt with seed + g: no two may share a seed.
    seeds = [p.seed + g for p in (first, second) for g in range(4)]
    assert len(set(seeds)) == 8
    assert sampling_params(1, 4, 9, 0.0, seed=0, stop_ids=[3])[0].n == 1


def test_the_vllm_sampler(fake_vllm, tokenizer, engine, tmp_path):
    with VllmSampler("folder", tokenizer, max_model_len=64, dtype="float32") as sampler:
        llm = sampler._llm
        assert llm.settings["logprobs_mode"] == "processed_logprobs"
        assert (llm.settings["dtype"], llm.settings["enable_lora"]) == ("float32", False)
        rollout = sampler.rollout(PROMPTS, 3, 6, stop_ids=[9])
        assert rollout.completion_ids.tolist() == [[40 + g, p] for p in (5, 9) for g in range(3)]
        assert rollout.finished.tolist() == [False] * 3 + [True] * 3
        sampler.rollout(PROMPTS, 3, 6)
        assert set(llm.params[0].stop_token_ids) == set(
            tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])
        )
        with pytest.raises(ValueError, match="takes no adapters"):
            sampler.rollout(PROMPTS, 3, 6, adapter=tmp_path)
        sampler.refresh("newer")
        assert llm.log == [("reload_weights", {"weights_path": "newer"}), "reset"]
    assert llm.log[-1] == "shutdown"


def test_the_vllm_sampler_knows_adapters_by_their_content(fake_vllm, tokenizer, engine, tmp_path):
    sampler = VllmSampler("folder", tokenizer, max_model_len=64, max_lora_rank=12)
    assert (sampler._llm.settings["enable_lora"], sampler._llm.settings["max_lora_rank"]) == (
        True,
        16,
    )
    folder = tmp_path / "adapter"
    for seed in (0, 1, 1, 0):
        train(engine, seed)
        engine.save_adapter(folder)
        sampler.rollout(PROMPTS, 1, 6, adapter=folder)
    sampler.rollout(PROMPTS, 1, 6)
    *sent, without = sampler._llm.requests
    assert [request.lora_int_id for request in sent] == [1, 2, 2, 1]
    assert [request.lora_name for request in sent[:2]] == ["adapter-1", "adapter-2"]
    assert sent[0].lora_path == str(folder) and without is None
    with pytest.raises(ValueError, match="without adapters"):
        sampler.refresh("newer")
    with pytest.raises(ValueError, match="up to rank 512"):
        VllmSampler("folder", tokenizer, max_model_len=64, max_lora_rank=600)


# The Unsloth engine, its model replaced by PEFT's with the methods that Unsloth attaches


@pytest.fixture
def unsloth_engine(profile, engine, fake_vllm):
    llm = FakeLLM()
    model = engine.model
    model.vllm_engine, model.fast_generate, model.saved = llm, llm.generate, []
    model.save_lora = lambda folder: (model.saved.append(folder), model.save_pretrained(folder))
    model.load_lora = lambda folder: SimpleNamespace(path=folder, number=len(model.saved))
    made = UnslothEngine(profile, model, engine.tokenizer)
    made.llm = llm
    return made


def test_unsloth_sends_the_adapter_to_vllm_when_it_has_changed(unsloth_engine):
    sent = unsloth_engine.llm.requests
    unsloth_engine.rollout(PROMPTS, 2, 6)
    assert sent == [None]  # B is 0: the base is the model
    train(unsloth_engine)
    unsloth_engine.rollout(PROMPTS, 2, 6)
    unsloth_engine.rollout(PROMPTS, 2, 6)
    assert [request.number for request in sent[1:]] == [1, 1]
    train(unsloth_engine, seed=1)
    rollout = unsloth_engine.rollout(PROMPTS, 2, 6)
    assert sent[-1].number == 2 and os.path.isdir(sent[-1].path)
    unsloth_engine.rollout(PROMPTS, 2, 6, adapter=False)
    assert sent[-1] is None and len(unsloth_engine.model.saved) == 2
    assert rollout.completion_ids.tolist() == [[40, 5], [41, 5], [40, 9], [41, 9]]


def test_unsloth_without_vllm_says_so(unsloth_engine):
    del unsloth_engine.model.vllm_engine
    with pytest.raises(RuntimeError, match="on a GPU only"):
        unsloth_engine.rollout(PROMPTS, 2, 6)


def test_unsloth_trainer_logprobs_are_those_of_the_other_engine(unsloth_engine, engine):
    train(engine)  # the same PEFT model
    rollout = engine.rollout(PROMPTS, 3, 8, temperature=0.8, seed=5)
    got = unsloth_engine.trainer_logprobs(rollout, 0.8)
    torch.testing.assert_close(got, engine.trainer_logprobs(rollout, 0.8), atol=1e-4, rtol=1e-4)
    assert masked_mean(got, rollout.mask) < 0


def test_unsloth_saves_through_its_own_method(unsloth_engine, tmp_path):
    train(unsloth_engine)
    folder = unsloth_engine.save_adapter(tmp_path / "adapter")
    assert len(unsloth_engine.model.saved) == 1
    assert (folder / "adapter_model.safetensors").is_file()


def test_hidden_states_are_switched_off_for_a_while(monkeypatch):
    name = "UNSLOTH_RETURN_HIDDEN_STATES"
    monkeypatch.setenv(name, "1")
    with _real_logits():
        assert os.environ[name] == "0"
    assert os.environ[name] == "1"
    monkeypatch.delenv(name)
    with pytest.raises(KeyError), _real_logits():
        raise KeyError
    assert name not in os.environ


def test_load_asks_unsloth_for_vllm_on_the_same_weights(
    profile, random_model, tokenizer, monkeypatch
):
    asked = {}

    class FastLanguageModel:
        @staticmethod
        def from_pretrained(**given):
            asked.update(given)
            model = AutoModelForCausalLM.from_pretrained(given["model_name"])
            if given["fast_inference"] and not asked.get("broken"):
                model.vllm_engine = FakeLLM()
            return model, None

        @staticmethod
        def get_peft_model(model, r, lora_alpha, target_modules, lora_dropout, bias, **more):
            asked.update(more)
            config = LoraConfig(r=r, lora_alpha=lora_alpha, target_modules=target_modules)
            return get_peft_model(model, config)

    fake = types.ModuleType("unsloth")
    fake.FastLanguageModel = FastLanguageModel
    monkeypatch.setitem(sys.modules, "unsloth", fake)
    large = dataclasses.replace(
        PROFILES["qwen3_4b"], base_model=profile.base_model, dtype=torch.float32
    )
    settings = {"rank": 4, "alpha": 8, "target_modules": ["q_proj"], "seed": 7}
    made = engines.load(large, max_length=64, **settings)
    assert (made.name, asked["fast_inference"], asked["load_in_4bit"]) == ("unsloth", True, False)
    assert (asked["max_seq_length"], asked["max_lora_rank"], asked["random_state"]) == (64, 4, 7)
    assert asked["use_gradient_checkpointing"] == "unsloth"
    with pytest.raises(ValueError, match="exceeds the model's context"):
        engines.load(large, max_length=9999, **settings)
    with pytest.raises(ValueError, match="new_tokens needs the transformers engine"):
        engines.load(large, max_length=64, new_tokens=["<a>"], **settings)
    asked["broken"] = True
    with pytest.raises(RuntimeError, match="without vLLM"):
        engines.load(large, max_length=64, **settings)
    on_cpu = dataclasses.replace(large, device="cpu")
    assert engines.load(on_cpu, max_length=64, **settings).name == "transformers"


# What Unsloth changes behind TRL's back


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_unsloth_options_are_fields_of_the_configs(unsloth_engine, device):
    unsloth_engine.profile = dataclasses.replace(unsloth_engine.profile, device=device)
    fields = {c: {f.name for f in dataclasses.fields(c)} for c in (GRPOConfig, SFTConfig)}
    shared = unsloth_engine.training_options()
    assert shared.keys() <= fields[GRPOConfig] & fields[SFTConfig]
    grpo, sft = unsloth_engine.grpo_options([7]), unsloth_engine.sft_options()
    assert grpo.keys() <= fields[GRPOConfig] and sft.keys() <= fields[SFTConfig]
    assert not shared.keys() & (grpo.keys() | sft.keys())  # or GRPOConfig(**a, **b) raises
    assert (grpo["min_p"], grpo["top_p"], grpo["top_k"]) == (0.0, 1.0, -1)
    assert grpo["generation_kwargs"] == {"stop_token_ids": [7]}
    assert grpo["vllm_importance_sampling_correction"] is True
    assert (grpo["use_vllm"], shared["bf16"]) == (device == "cuda", device == "cuda")


def test_what_unsloth_changes_is_set_or_left_to_the_lesson(unsloth_engine):
    choices = {"learning_rate", "weight_decay", "warmup_steps", "logging_steps"}
    choices |= {"per_device_train_batch_size", "gradient_accumulation_steps"}
    own = {"GRPOConfig": {"beta", "loss_type", "mask_truncated_completions"}, "SFTConfig": set()}
    for config, options in (
        ("GRPOConfig", unsloth_engine.grpo_options()),
        ("SFTConfig", unsloth_engine.sft_options()),
    ):
        given = unsloth_engine.training_options().keys() | options.keys()
        left = engines.changed_defaults(config).keys() - given
        assert left == choices | own[config]


def test_the_recorded_table(monkeypatch):
    table = engines.changed_defaults()
    assert table["learning_rate"] == (1e-6, 5e-5)
    assert table["optim"] == ("adamw_torch_fused", "adamw_8bit")
    assert table["vllm_importance_sampling_correction"] == (True, False)
    assert "num_generations" not in table  # 8 in both
    recorded = json.loads((repo_root() / defaults.RECORDED).read_text(encoding="utf-8"))
    assert (
        ast.literal_eval(repr(recorded["unsloth"]))
        in (repo_root() / "constraints-gpu.txt").read_text()
    )
    with pytest.raises(ValueError, match="no table for 'DPOConfig'"):
        engines.changed_defaults("DPOConfig")


def test_the_table_is_read_from_an_installed_unsloth(tmp_path, monkeypatch):
    (tmp_path / "models").mkdir()
    source = """
def _patch_trl_rl_trainers_impl(trainer_file):
    replacements = {"learning_rate": 1, "optim": "adamw_torch_fused", "not_a_field": 2}
    if transformers_version >= Version("5.0.0"):
        replacements["warmup_steps"] = 0.5
    else:
        replacements["warmup_ratio"] = 0.5
    if trainer_file == "grpo_trainer":
        replacements = {"beta": None}
    if trainer_file == "sft_trainer":
        replacements = {"packing": True}
"""
    (tmp_path / "models" / "rl.py").write_text(source, encoding="utf-8")
    found = SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr(defaults.importlib.util, "find_spec", lambda name: found)
    assert engines.changed_defaults() == {
        "beta": (0.0, None),
        "learning_rate": (1e-6, 1),
        "warmup_steps": (0, 0.5),
    }
    assert engines.changed_defaults("SFTConfig")["packing"] == (False, True)
    with pytest.raises(ValueError, match="Unsloth has moved them"):
        defaults.compare_defaults("x = 1", "GRPOConfig")


def test_ranks_are_those_that_vllm_serves():
    assert all(math.log2(rank).is_integer() or rank == 320 for rank in vllm_sampler.LORA_RANKS)


def test_row_logits_are_those_behind_the_log_probs(engine):
    rollout = engine.rollout(PROMPTS, 2, 5, seed=3)
    for row in range(len(rollout.texts)):
        logits = engine.row_logits(rollout, row)  # (t, V)
        tokens = rollout.completion_ids[row][: len(logits)]
        assert len(logits) == rollout.lengths[row]
        found = logits.log_softmax(-1).gather(1, tokens[:, None])[:, 0]
        torch.testing.assert_close(found, rollout.logprobs[row, : len(logits)], atol=1e-4, rtol=0)
