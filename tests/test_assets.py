"""The shipped checkpoints are what their cards say: small, Qwen3, and they can do the task."""

import json
import random
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from transformers import LlamaConfig, LlamaForCausalLM

from tasks import preferences, sql
from tools import docs_results
from utils import chat, evaluate, models, profiles, values

SMOL = sorted((Path(__file__).resolve().parents[1] / "assets/smol").glob("*/"))
ASSETS = Path(__file__).resolve().parents[1] / "assets/tiny"
ADAPTER_FILES = {models.ADAPTER, "adapter_config.json", "README.md"}
SMOLLM2 = {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30}
SMOLLM2 |= {"num_attention_heads": 9, "num_key_value_heads": 3, "vocab_size": 49152}
STAGES = {
    "base": ("Qwen3ForCausalLM", models.load_policy),
    "sft": ("Qwen3ForCausalLM", models.load_policy),
    "reward_model": ("Qwen3ForSequenceClassification", models.load_reward_model),
}


@pytest.fixture
def tiny(monkeypatch, tmp_path):
    """The profile `tiny` with the shipped checkpoints, whatever the learner has in `runs/`."""
    for name in ("COURSE_BASE_MODEL", "COURSE_DEVICE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COURSE_RUNS", str(tmp_path))
    return profiles.get_profile("tiny")


def answers(profile, stage, encode, n=60):
    """Greedy execution accuracy of a stage on a few held-out questions."""
    tokenizer, model = models.load_tokenizer(profile), models.load_policy(profile, stage)
    examples = sql.make_examples("test", n)
    return evaluate.evaluate_completions(
        model,
        tokenizer,
        [encode(tokenizer, e) for e in examples],
        lambda i, text: sql.score(examples[i], text),
        max_new_tokens=sql.MAX_NEW_TOKENS,
        temperature=0,
    )


@pytest.mark.parametrize("stage", STAGES)
def test_size_architecture_and_files(tiny, stage):
    folder = ASSETS / stage
    assert sum(file.stat().st_size for file in folder.iterdir()) < 8e6
    assert (folder / "README.md").is_file() and (folder / "model.safetensors").is_file()
    assert not [f for f in folder.iterdir() if f.suffix in (".bin", ".pt", ".pkl")]
    config = json.loads((folder / "config.json").read_text())
    architecture, load = STAGES[stage]
    assert config["architectures"] == [architecture]
    model = load(tiny, stage)
    assert sum(p.numel() for p in model.parameters()) < 3e6
    assert all(torch.isfinite(p).all() for p in model.parameters())


def test_the_tokenizer_is_qwens_kind(tiny):
    tokenizer = models.load_tokenizer(tiny)
    assert tokenizer.convert_ids_to_tokens(tokenizer("1234").input_ids) == list("1234")
    for text in ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>"):
        assert len(tokenizer(text).input_ids) == 1
    for text in ("naïve 价格 🙂\n\ttab", "SELECT a_b FROM c WHERE d >= 10"):
        assert tokenizer.decode(tokenizer(text).input_ids) == text
    messages = [{"role": "user", "content": "Hi"}]
    said = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert said == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"


def test_the_base_knows_sql_but_not_the_chat_format(tiny):
    own = answers(tiny, "base", lambda tokenizer, e: tokenizer.encode(e.document()[0]))
    in_chat = answers(tiny, "base", lambda tokenizer, e: chat.encode_prompt(tokenizer, e.prompt))
    assert own.accuracy > 0.6
    assert in_chat.accuracy < 0.1


def test_the_sft_model_answers_in_chat_and_stops(tiny):
    result = answers(tiny, "sft", lambda tokenizer, e: chat.encode_prompt(tokenizer, e.prompt))
    assert result.accuracy > 0.4
    assert result.stop_rate > 0.95


def test_the_reward_model_prefers_gold_queries_to_mistakes_on_unseen_tables(tiny):
    tokenizer, model = models.load_tokenizer(tiny), models.load_reward_model(tiny)
    pairs = preferences.from_corruptions(sql.make_examples("test", 100), random.Random(0))
    prompts = [chat.encode_prompt(tokenizer, pair.prompt) for pair in pairs]
    answers = [
        chat.encode_example(tokenizer, "", tiny.answer_prefix + side)
        for pair in pairs
        for side in (pair.chosen, pair.rejected)
    ]
    ids = [[t for t, m in zip(a.input_ids, a.completion_mask, strict=True) if m] for a in answers]
    pad_id = tokenizer.pad_token_id
    with torch.no_grad():
        rewards = values.completion_rewards(
            model, *chat.pad_left(prompts, pad_id), *chat.pad_right(ids, pad_id)
        ).view(-1, 2)
    assert (rewards[:, 0] > rewards[:, 1]).float().mean() > 0.8
    assert evaluate.auc(rewards.flatten(), torch.tensor([1, 0]).repeat(len(pairs))) > 0.75


def test_the_reward_models_card_says_what_it_cost():
    card = (ASSETS / "reward_model" / "README.md").read_text(encoding="utf-8")
    judged, gold = docs_results.SHIPPED_JUDGE
    assert f"{judged:,} answers judged by execution, {gold:,} gold queries" in card


def test_the_base_card_states_the_measurements():
    card = (ASSETS / "base" / "README.md").read_text(encoding="utf-8")
    for said in ("word problems, greedy", "text-to-SQL, unseen tables, sampled", "step by step"):
        assert said in card


@pytest.mark.parametrize("folder", SMOL, ids=[folder.name for folder in SMOL])
def test_a_shipped_adapter_fits_smollm2_and_says_where_it_comes_from(folder):
    assert sum(file.stat().st_size for file in folder.iterdir()) < 5e6
    assert {file.name for file in folder.iterdir()} == ADAPTER_FILES
    with torch.device("meta"):
        model = LlamaForCausalLM(LlamaConfig(**SMOLLM2))
    with safe_open(folder / models.ADAPTER, "pt") as opened:
        said, tensors = opened.metadata(), {n: opened.get_tensor(n) for n in opened.keys()}
    assert said["starts_from"] in models.MADE_BY and said["weights"]
    for name, tensor in tensors.items():
        assert tensor.dtype == torch.float16 and tensor.isfinite().all()
        module, _, part = name.removeprefix("base_model.model.").rpartition(".lora_")
        if part:
            linear = model.get_submodule(module)
            wide = linear.in_features if part == "A.weight" else linear.out_features
            assert wide in tensor.shape
    heads = [name for name in tensors if name.endswith("score.weight")]
    assert bool(heads) == (folder.name == "reward_model")
