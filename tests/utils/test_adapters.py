"""Adapters: what LoRA trained, saved alone and added again; SmolLM2's architecture."""

import copy
import json
from dataclasses import replace

import pytest
import torch
from peft import PeftModel
from safetensors import safe_open
from transformers import LlamaForSequenceClassification

from relatives import lora
from relatives.lora import inject_lora, lora_parameters, merge_lora, save_adapter, train_token_rows
from utils import models
from utils.models import ADAPTER, load_policy, load_reward_model, load_tokenizer
from utils.profiles import get_profile

TARGETS = ["q_proj", "v_proj", "down_proj"]
IDS = torch.tensor([[5, 9, 11, 40, 3]])


@pytest.fixture
def profile(tmp_path, monkeypatch, random_llama, tokenizer):
    """The profile `smol` over a random base on disk, and an empty folder for runs."""
    folder = tmp_path / "llama"
    models.save_checkpoint(random_llama, tokenizer, folder)
    (folder / lora.PROVENANCE).write_text(json.dumps({"weights": "random", "versions": {}}))
    monkeypatch.setenv("COURSE_BASE_MODEL", str(folder))
    monkeypatch.setenv("COURSE_DEVICE", "cpu")
    monkeypatch.setenv("COURSE_RUNS", str(tmp_path / "runs"))
    return get_profile("smol")


def trained(model, targets=TARGETS, seed=1):
    """The model with adapters that say something."""
    model = inject_lora(model, 4, 12.0, targets)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for parameter in lora_parameters(model):
            parameter.data.normal_(std=0.1)
    return model


def stage(profile, name):
    return models.runs_folder(profile) / name


def logits(model):
    with torch.no_grad():
        return model(IDS).logits


def test_a_saved_adapter_is_added_to_the_base_again(profile, random_llama):
    policy = trained(load_policy(profile))
    save_adapter(policy, stage(profile, "sft"), profile)
    loaded = load_policy(profile, "sft")
    torch.testing.assert_close(logits(loaded), logits(merge_lora(policy)), rtol=0, atol=5e-3)
    assert (logits(loaded) - logits(random_llama)).abs().max() > 0.1  # far more than rounding
    assert not loaded.training and all(p.requires_grad for p in loaded.parameters())
    assert [n for n, _ in loaded.named_parameters()] == [
        n for n, _ in random_llama.named_parameters()
    ]
    assert loaded.dtype == torch.float32
    assert load_tokenizer(profile, "sft").get_vocab() == load_tokenizer(profile).get_vocab()


def test_loading_an_adapter_asks_no_hub(profile, recwarn, monkeypatch):
    path = save_adapter(trained(load_policy(profile)), stage(profile, "sft"), profile)
    config = json.loads((path / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = "HuggingFaceTB/SmolLM2-135M-Instruct"
    (path / "adapter_config.json").write_text(json.dumps(config))

    def hub(*_, **__):
        raise AssertionError("the hub was asked")

    monkeypatch.setattr("peft.utils.other.hf_hub_download", hub, raising=False)
    monkeypatch.setattr("peft.utils.save_and_load.check_file_exists_on_hf_hub", hub)
    load_policy(profile, "sft")
    assert [str(w.message) for w in recwarn] == []


def test_a_second_adapter_starts_from_the_first(profile):
    save_adapter(trained(load_policy(profile)), stage(profile, "sft"), profile)
    policy = trained(load_policy(profile, "sft"), ["o_proj"], seed=2)
    save_adapter(policy, stage(profile, "grpo"), profile, starts_from="sft")
    loaded = load_policy(profile, "grpo")
    torch.testing.assert_close(logits(loaded), logits(merge_lora(policy)), rtol=0, atol=5e-3)
    assert (logits(loaded) - logits(load_policy(profile, "sft"))).abs().max() > 0.05


def test_a_reward_models_adapter_has_its_head(profile):
    save_adapter(trained(load_policy(profile)), stage(profile, "sft"), profile)
    judge = trained(load_reward_model(profile, "sft"), seed=3)
    judge.score.weight.requires_grad_(True).data.normal_()
    save_adapter(judge, stage(profile, "reward_model"), profile, starts_from="sft")
    loaded = load_reward_model(profile)
    assert type(loaded) is LlamaForSequenceClassification
    torch.testing.assert_close(logits(loaded), logits(merge_lora(judge)), rtol=0, atol=2e-2)
    assert logits(loaded).abs().max() > 0.2


def test_a_policys_adapter_is_no_reward_model(profile):
    save_adapter(trained(load_policy(profile)), stage(profile, "reward_model"), profile)
    with pytest.raises(ValueError, match="score.weight has no counterpart"):
        load_reward_model(profile)


@pytest.mark.filterwarnings("ignore:Found missing adapter keys")
def test_an_adapter_of_another_shape_is_refused(profile):
    path = save_adapter(trained(load_policy(profile)), stage(profile, "sft"), profile)
    config = json.loads((path / "adapter_config.json").read_text())
    config["target_modules"] = [*config["target_modules"], "model.layers.0.mlp.up_proj"]
    (path / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="does not fit: .*up_proj.* has no counterpart"):
        load_policy(profile, "sft")


def test_peft_reads_the_file(profile, random_llama):
    policy = trained(load_policy(profile))
    path = save_adapter(policy, stage(profile, "sft"), profile)
    theirs = PeftModel.from_pretrained(copy.deepcopy(random_llama), path).eval()
    torch.testing.assert_close(logits(theirs), logits(policy), rtol=0, atol=5e-3)


def test_a_merged_adapter_can_be_trained_and_saved_as_a_whole_model(profile, tokenizer):
    save_adapter(trained(load_policy(profile)), stage(profile, "sft"), profile)
    loaded = load_policy(profile, "sft")
    models.save_checkpoint(loaded, tokenizer, stage(profile, "dpo"))
    assert torch.equal(logits(load_policy(profile, "dpo")), logits(loaded))


def test_the_file_is_small_and_says_where_it_comes_from(profile):
    path = save_adapter(trained(load_policy(profile)), stage(profile, "sft"), profile)
    assert {file.name for file in path.iterdir()} == {ADAPTER, "adapter_config.json"}
    with safe_open(path / ADAPTER, "pt") as opened:
        metadata = opened.metadata()
        assert {opened.get_tensor(name).dtype for name in opened.keys()} == {torch.float16}
    assert metadata == {"format": "pt", "starts_from": "base", "weights": "random"}
    assert (path / ADAPTER).stat().st_mode & 0o044 == 0o044


def test_rank_8_on_all_layers_of_the_real_size_is_below_5_megabytes():
    """30 layers of width 576, 3 of 9 heads for keys, 1536 inside: the numbers of SmolLM2-135M."""
    widths = [(576, 576), (576, 192), (576, 192), (576, 576), (576, 1536), (576, 1536), (1536, 576)]
    assert 2 * 8 * 30 * sum(a + b for a, b in widths) < 5e6


def test_what_an_adapter_would_lose_is_named(profile):
    policy = trained(load_policy(profile))
    train_token_rows(policy, [1])
    with pytest.raises(ValueError, match="embed_tokens.weight.*save it merged"):
        save_adapter(policy, stage(profile, "sft"), profile)
    with pytest.raises(ValueError, match="no LoRA layers"):
        save_adapter(load_policy(profile), stage(profile, "sft"), profile)
    assert not stage(profile, "sft").exists()


def test_an_interrupted_save_leaves_the_older_adapter(profile, monkeypatch):
    policy = trained(load_policy(profile))
    path = save_adapter(policy, stage(profile, "sft"), profile)
    before = (path / ADAPTER).read_bytes()

    def fail(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(lora, "save_file", fail)
    with pytest.raises(KeyboardInterrupt):
        save_adapter(policy, stage(profile, "sft"), profile)
    assert (path / ADAPTER).read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == ["sft"]


def test_provenance_of_a_folder_and_of_the_hub(profile):
    assert lora.provenance(profile) == {"weights": "random", "versions": {}}
    on_hub = replace(profile, base_model="owner/name")
    assert lora.provenance(on_hub) == {"source": "owner/name", "weights": "as published"}


def test_the_adapter_names_the_model_and_not_a_folder(profile):
    file = models.repo_root() / profile.base_model / lora.PROVENANCE
    file.write_text(json.dumps({"model": "owner/name"}))
    path = save_adapter(trained(load_policy(profile)), stage(profile, "sft"), profile)
    config = json.loads((path / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "owner/name"
