"""Unsloth's CPU backend, through `UnslothEngine`: as far as it goes, and where it stops.

The backend is made for SFT of text models. Its GRPOTrainer is TRL's own, around Unsloth's model;
the trainer that Unsloth generates, its kernels and vLLM inside the model exist on a GPU only.
"""

import sys

assert not {"transformers", "trl", "peft"} & sys.modules.keys(), (
    "Unsloth has to be imported first: run this file alone, with --confcutdir tests/engines/real"
)

import unsloth  # noqa: E402, I001

import inspect  # noqa: E402

import pytest  # noqa: E402
import torch  # noqa: E402
from datasets import Dataset  # noqa: E402
from peft import PeftModel, get_peft_model_state_dict  # noqa: E402
from safetensors.torch import load_file  # noqa: E402
from trl import GRPOConfig, GRPOTrainer, SFTConfig, SFTTrainer  # noqa: E402

from engines import LINEAR_LAYERS  # noqa: E402
from engines.base import Engine  # noqa: E402
from engines.unsloth_engine import UnslothEngine  # noqa: E402
from utils.logprobs import completion_logprobs  # noqa: E402
from utils.models import checkpoint_path, load_policy  # noqa: E402
from utils.profiles import get_profile  # noqa: E402
from utils.rollout import sample  # noqa: E402
from tasks import math as word_problems  # noqa: E402

PROFILE = get_profile("tiny")
END = "<|endoftext|>"  # ends the documents that the base has read
SAME = 1e-4  # nats: the same model through different code


def load_engine() -> UnslothEngine:
    """The tiny base with a fresh adapter, its documents' end as end-of-sequence token."""
    engine = UnslothEngine.load(
        PROFILE,
        max_length=256,
        rank=8,
        alpha=16,
        target_modules=list(LINEAR_LAYERS),
        seed=0,
        gpu_memory_utilization=0.5,
    )
    engine.tokenizer.eos_token = END
    return engine


@pytest.fixture(scope="module")
def engine() -> UnslothEngine:
    """One engine that the tests train further, in their order."""
    torch.set_num_threads(1)
    return load_engine()


@pytest.fixture(scope="module")
def plain():
    """The same base without Unsloth's loader."""
    return load_policy(PROFILE)


@pytest.fixture(scope="module")
def prompts(engine) -> list[list[int]]:
    """Word problems as the base reads them."""
    examples = word_problems.make_examples("train", 8)
    tokenizer = engine.tokenizer
    return [tokenizer.encode(e.document(True)[0], add_special_tokens=False) for e in examples]


def rollout_of(engine, model, prompts):
    generator = torch.Generator().manual_seed(0)
    return sample(model, engine.tokenizer, prompts, 4, 32, generator=generator)


def own_sampler(engine) -> dict:
    """The engine's GRPO options with TRL's sampler in place of vLLM, which understands others."""
    options = engine.grpo_options()
    assert options["use_vllm"] is False
    return options | {"top_k": 0, "min_p": None, "generation_kwargs": None}


def test_loading_gives_the_base_with_a_fresh_adapter(engine, plain, prompts, measure) -> None:
    assert isinstance(engine.model, PeftModel)
    weights = dict(engine.adapter_weights())
    assert len(weights) == 2 * len(LINEAR_LAYERS) * plain.config.num_hidden_layers
    assert all(bool(w.any()) == (".lora_A." in name) for name, w in weights.items())
    rollout = rollout_of(engine, plain, prompts)
    gap = (engine.trainer_logprobs(rollout) - rollout.logprobs).abs().max().item()
    measure("fresh adapter: largest gap to transformers, nats", gap)
    assert gap < SAME


def test_warm_up_sft_lowers_the_loss(engine, measure, tmp_path) -> None:
    """On worked solutions alone; the base answers most problems at once."""
    assert "_make_cpu_sft_trainer" in SFTTrainer.__qualname__, "Unsloth has put its own in place"
    examples = [e.document(True) for e in word_problems.make_examples("train", 64)]
    rows = [{"prompt": prompt, "completion": completion + END} for prompt, completion in examples]
    config = SFTConfig(
        output_dir=str(tmp_path),
        max_steps=20,
        per_device_train_batch_size=8,
        gradient_accumulation_steps=1,
        learning_rate=3e-3,
        lr_scheduler_type="constant",
        weight_decay=0.0,
        max_length=256,
        logging_steps=1,
        save_strategy="no",
        disable_tqdm=True,
        **engine.training_options(),
        **engine.sft_options(),
    )
    trainer = SFTTrainer(
        model=engine.model,
        args=config,
        processing_class=engine.tokenizer,
        train_dataset=Dataset.from_list(rows),
    )
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    first, last = (sum(part) / len(part) for part in (losses[:3], losses[-3:]))
    measure("SFT: loss of the first three steps", round(first, 3))
    measure("SFT: loss of the last three steps", round(last, 3))
    assert last < 0.8 * first
    assert all(w.any() for _, w in engine.adapter_weights())


def test_grpo_steps_raise_the_reward(engine, prompts, measure, tmp_path) -> None:
    """Rewarded: short answers. TRL's trainer, patched only in its config and fused head."""
    assert "Unsloth" not in GRPOTrainer.__name__
    before = {name: w.clone() for name, w in engine.adapter_weights()}
    config = GRPOConfig(
        output_dir=str(tmp_path),
        max_steps=20,
        per_device_train_batch_size=32,
        num_generations=8,
        gradient_accumulation_steps=1,
        learning_rate=3e-3,
        lr_scheduler_type="constant",
        weight_decay=0.0,
        beta=0.0,
        loss_type="dapo",
        mask_truncated_completions=False,
        max_completion_length=32,
        logging_steps=1,
        save_strategy="no",
        disable_tqdm=True,
        **engine.training_options(),
        **own_sampler(engine),
    )
    texts = [engine.tokenizer.decode(prompt) for prompt in prompts]
    trainer = GRPOTrainer(
        model=engine.model,
        args=config,
        processing_class=engine.tokenizer,
        reward_funcs=lambda completion_ids, **columns: [-len(ids) / 32 for ids in completion_ids],
        train_dataset=Dataset.from_list([{"prompt": text} for text in texts]),
    )
    trainer.train()
    rewards = [entry["reward"] for entry in trainer.state.log_history if "reward" in entry]
    first, last = (sum(part) / len(part) for part in (rewards[:3], rewards[-3:]))
    measure("GRPO: reward of the first three steps", round(first, 3))
    measure("GRPO: reward of the last three steps", round(last, 3))
    assert last > first + 0.1
    assert all(not torch.equal(w, before[name]) for name, w in engine.adapter_weights())


def test_the_adapter_is_saved_and_reloaded(engine, plain, prompts, measure, tmp_path) -> None:
    """Into a fresh Unsloth model and, without Unsloth's loader, into PEFT: the same log-probs."""
    folder = tmp_path / "adapter"
    folder.mkdir()
    Engine._write_adapter(engine, folder)  # PEFT's; Unsloth's needs vLLM, see below
    saved = load_file(folder / "adapter_model.safetensors")
    assert all(w.any() for w in saved.values()), "every A and every B was trained"
    fresh = load_engine()
    fresh.load_adapter(folder)
    restored = get_peft_model_state_dict(fresh.model)
    assert saved.keys() == restored.keys()
    assert all(torch.equal(saved[name], restored[name]) for name in saved)
    rollout = rollout_of(engine, engine.model, prompts)
    wanted = engine.trainer_logprobs(rollout)
    through_peft = PeftModel.from_pretrained(load_policy(PROFILE), str(folder)).eval()
    inputs = (rollout.prompt_ids, rollout.prompt_mask, rollout.completion_ids, rollout.mask)
    with torch.no_grad():
        others = {
            "our sampler": rollout.logprobs,
            "a reloaded Unsloth model": fresh.trainer_logprobs(rollout),
            "PEFT alone": completion_logprobs(through_peft, *inputs),
        }
    for name, logprobs in others.items():
        gap = (logprobs - wanted).abs().max().item()
        measure(f"trained adapter: largest gap to {name}, nats", gap)
        assert gap < SAME
    with engine.model.disable_adapter():
        assert (engine.trainer_logprobs(rollout) - wanted).abs().max() > 0.5


def test_the_merged_model_is_saved(engine, prompts, measure, tmp_path) -> None:
    """Unsloth merges into 16 bit; the log-probs move by what bfloat16 rounds."""
    from transformers import AutoModelForCausalLM

    engine.model.save_pretrained_merged(str(tmp_path), engine.tokenizer)
    merged = AutoModelForCausalLM.from_pretrained(tmp_path, dtype="auto")
    assert merged.dtype in (torch.bfloat16, torch.float16)
    rollout = rollout_of(engine, merged.float().eval(), prompts)
    gap = (engine.trainer_logprobs(rollout) - rollout.logprobs).abs().max().item()
    measure("merged to 16 bit: largest gap, nats", round(gap, 4))
    assert SAME < gap < 1.0


def test_fast_inference_needs_a_gpu(cannot) -> None:
    cannot(
        "FastLanguageModel.from_pretrained(fast_inference=True)",
        NotImplementedError,
        r"fast_inference \(vLLM\) needs a GPU",
        lambda: unsloth.FastLanguageModel.from_pretrained(
            checkpoint_path(PROFILE, "base"), fast_inference=True
        ),
    )


@pytest.mark.parametrize("name", ["vllm_engine", "fast_generate", "save_lora", "load_lora"])
def test_what_comes_with_fast_inference_is_missing(engine, cannot, name) -> None:
    cannot(
        f"model.{name}",
        AttributeError,
        f"no attribute '{name}'",
        lambda: getattr(engine.model, name),
    )


def test_the_engine_says_that_it_cannot_sample(engine, prompts, cannot) -> None:
    cannot(
        "UnslothEngine.rollout",
        RuntimeError,
        "on a GPU only",
        lambda: engine.rollout(prompts, 2, 8),
    )


def test_the_generated_grpo_trainer_is_missing(cannot) -> None:
    """On a GPU `trl.GRPOTrainer` is Unsloth's generated class with fields of its own."""
    assert inspect.getmodule(GRPOConfig).__name__ == "trl.trainer.grpo_config"
    cannot(
        "Unsloth's generated GRPOTrainer and GRPOConfig (vllm_sampling_params, changed defaults)",
        TypeError,
        "unexpected keyword argument 'vllm_sampling_params'",
        lambda: GRPOConfig(output_dir="unused", vllm_sampling_params=None),
    )


def test_trainers_cannot_be_patched_by_hand(cannot) -> None:
    def patch() -> None:
        from unsloth import PatchFastRL

        PatchFastRL("GRPO", unsloth.FastLanguageModel)

    cannot("unsloth.PatchFastRL", ImportError, "cannot import name 'PatchFastRL'", patch)
