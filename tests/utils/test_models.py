import os
import shutil

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import Qwen3ForCausalLM
from transformers.utils import logging

from relatives.lora import inject_lora, merge_lora
from utils.models import (
    checkpoint_path,
    load_policy,
    load_reference,
    load_tokenizer,
    save_checkpoint,
)
from utils.profiles import get_profile


@pytest.fixture
def root(tmp_path, monkeypatch):
    """An empty repository and working directory, no settings from outside."""
    for name in ("COURSE_PROFILE", "COURSE_DEVICE", "COURSE_BASE_MODEL"):
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "a clone"
    folder.mkdir()
    monkeypatch.setattr("utils.models.repo_root", lambda: folder)
    monkeypatch.setenv("COURSE_RUNS", str(folder / "runs"))
    monkeypatch.chdir(tmp_path)
    return folder


@pytest.fixture
def model(make_model, tokenizer):
    return make_model(len(tokenizer))


def touch(folder):
    folder.mkdir(parents=True)
    (folder / "config.json").touch()
    return str(folder)


def contents(folder):
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


def same_weights(a, b):
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


# --- where a checkpoint is


def test_a_stage_is_taken_from_runs_before_assets(root):
    shipped = touch(root / "assets/tiny/sft")
    assert checkpoint_path(get_profile(), "sft") == shipped
    made = touch(root / "runs/tiny/sft")
    assert checkpoint_path(get_profile(), "sft") == made


def test_a_folder_without_a_config_is_no_checkpoint(root):
    shipped = touch(root / "assets/tiny/sft")
    (root / "runs/tiny/sft").mkdir(parents=True)
    assert checkpoint_path(get_profile(), "sft") == shipped


def test_the_tiny_base_is_in_the_repository(root):
    base = touch(root / "assets/tiny/base")
    assert checkpoint_path(get_profile(), "base") == base


def test_a_missing_stage_lists_the_places_and_the_notebook(root):
    with pytest.raises(FileNotFoundError) as error:
        checkpoint_path(get_profile(), "sft")
    for part in (root / "runs/tiny/sft", root / "assets/tiny/sft", "notebooks/01_sft.ipynb"):
        assert str(part) in str(error.value)


def test_a_missing_tiny_base_is_not_sought_on_the_hub(root):
    with pytest.raises(FileNotFoundError, match="scripts/build_tiny.py"):
        checkpoint_path(get_profile(), "base")


def test_a_base_that_was_not_fetched_names_the_command(root, monkeypatch):
    monkeypatch.setenv("COURSE_DEVICE", "cpu")
    with pytest.raises(FileNotFoundError, match="models/SmolLM2-135M-Instruct.*`make model`"):
        load_policy(get_profile("smol"))


def test_the_base_of_a_hub_profile_is_the_hub_id_or_a_local_folder(root, monkeypatch):
    monkeypatch.setenv("COURSE_DEVICE", "cpu")
    assert checkpoint_path(get_profile("small"), "base") == "Qwen/Qwen3-0.6B-Base"
    folder = touch(root / "random model")
    monkeypatch.setenv("COURSE_BASE_MODEL", folder)
    assert checkpoint_path(get_profile("small"), "base") == folder


@pytest.mark.parametrize("name", ["/not/there", "./there", "there", "not/there/"])
def test_a_base_folder_that_is_not_there_is_named(root, monkeypatch, name):
    monkeypatch.setenv("COURSE_BASE_MODEL", name)
    with pytest.raises(FileNotFoundError, match="COURSE_BASE_MODEL=" + name):
        checkpoint_path(get_profile(), "base")


def test_an_unknown_stage_lists_the_known_ones(root):
    with pytest.raises(ValueError, match="'kto'.*base, sft, reward_model, ppo"):
        checkpoint_path(get_profile(), "kto")


# --- loading


def test_what_was_saved_is_loaded(root, model, tokenizer, capfd):
    save_checkpoint(model, tokenizer, root / "runs/tiny/sft")
    policy = load_policy(get_profile(), "sft")
    assert same_weights(policy, model)
    assert not policy.training
    assert all(p.requires_grad for p in policy.parameters())
    assert policy.dtype == torch.float32
    assert policy.config._attn_implementation == "sdpa"
    text = "SELECT 12<|im_end|>"
    assert load_tokenizer(get_profile(), "sft").encode(text) == tokenizer.encode(text)
    assert capfd.readouterr() == ("", "")  # no progress bars in the notebook
    assert logging.is_progress_bar_enabled()


def test_the_profile_sets_the_dtype(root, model, tokenizer, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    profile = get_profile("small")
    save_checkpoint(model, tokenizer, root / "runs/small/sft")
    loaded = {}
    monkeypatch.setattr(
        Qwen3ForCausalLM, "to", lambda self, device: loaded.update(device=device) or self
    )
    assert load_policy(profile, "sft").dtype == torch.bfloat16
    assert loaded == {"device": "cuda"}


def test_the_reference_is_frozen(root, model, tokenizer):
    save_checkpoint(model, tokenizer, root / "runs/tiny/sft")
    reference = load_reference(get_profile())
    assert not reference.training
    assert not any(p.requires_grad for p in reference.parameters())


def test_pickled_weights_are_refused(root, model, tokenizer):
    path = save_checkpoint(model, tokenizer, root / "runs/tiny/sft")
    (path / "model.safetensors").unlink()
    torch.save(model.state_dict(), path / "pytorch_model.bin")
    with pytest.raises(OSError, match="safetensors"):
        load_policy(get_profile(), "sft")


def test_a_checkpoint_with_missing_weights_is_refused(root, model, tokenizer):
    path = save_checkpoint(model, tokenizer, root / "runs/tiny/sft")
    whole = model.state_dict()
    kept = {k: v for k, v in whole.items() if "layers.1.mlp" not in k and k != "lm_head.weight"}
    model.save_pretrained(path, state_dict=kept)
    with pytest.raises(ValueError, match="3 weights are missing.*layers.1.mlp"):
        load_policy(get_profile(), "sft")


def test_load_tokenizer_adds_what_is_missing_and_keeps_what_is_there(root, model, tokenizer):
    path = save_checkpoint(model, tokenizer, root / "runs/tiny/sft")
    bare = load_tokenizer(get_profile(), "sft")
    bare.chat_template, bare.pad_token, bare.padding_side = None, None, "right"
    save_checkpoint(model, bare, path)
    loaded = load_tokenizer(get_profile(), "sft")
    message = [{"role": "user", "content": "Hi"}]
    text = loaded.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
    assert text == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert (loaded.pad_token, loaded.padding_side) == ("<|endoftext|>", "left")

    bare.chat_template, bare.pad_token = "mine", "<|im_start|>"
    save_checkpoint(model, bare, path)
    loaded = load_tokenizer(get_profile(), "sft")
    assert (loaded.chat_template, loaded.pad_token) == ("mine", "<|im_start|>")


# --- saving: whole or not at all


def test_saving_replaces_an_older_checkpoint_entirely(root, model, make_model, tokenizer):
    path = save_checkpoint(model, tokenizer, root / "runs/tiny/sft")
    (path / "left_over.txt").touch()
    other = make_model(len(tokenizer), seed=1)
    save_checkpoint(other, tokenizer, path)
    assert same_weights(load_policy(get_profile(), "sft"), other)
    assert not (path / "left_over.txt").exists()
    assert os.listdir(path.parent) == ["sft"]


def test_a_relative_path_and_a_missing_parent_work(root, model, tokenizer, monkeypatch):
    monkeypatch.chdir(root)
    save_checkpoint(model, tokenizer, "runs/tiny/sft")
    assert (root / "runs/tiny/sft/config.json").is_file()


def test_others_may_read_a_checkpoint(root, model, tokenizer):
    old = os.umask(0o022)
    try:
        path = save_checkpoint(model, tokenizer, root / "sft")
    finally:
        os.umask(old)
    assert {file.stat().st_mode & 0o777 for file in path.iterdir()} == {0o644}
    assert path.stat().st_mode & 0o777 == 0o755


def fail_half_way(monkeypatch, where):
    if where == "model":

        def save(self, folder, **kwargs):
            (folder / "config.json").write_text("half")
            raise OSError("disk full")

        monkeypatch.setattr(Qwen3ForCausalLM, "save_pretrained", save)
    elif where == "tokenizer":

        def save(self, folder, **kwargs):
            raise KeyboardInterrupt

        monkeypatch.setattr("transformers.PreTrainedTokenizerBase.save_pretrained", save)
    else:  # the last step: the old checkpoint is aside, the new one not in place
        replace, calls = os.replace, []

        def replace_once(source, target):
            calls.append(source)
            if len(calls) == where:
                raise OSError("no")
            replace(source, target)

        monkeypatch.setattr("utils.models.os.replace", replace_once)


@pytest.mark.parametrize("where", ["model", "tokenizer", 1, 2])
def test_when_saving_fails_the_old_checkpoint_stays(
    root, model, make_model, tokenizer, monkeypatch, where
):
    path = save_checkpoint(model, tokenizer, root / "runs/tiny/sft")
    before = contents(path)
    fail_half_way(monkeypatch, where)
    with pytest.raises((OSError, KeyboardInterrupt)):
        save_checkpoint(make_model(len(tokenizer), seed=1), tokenizer, path)
    assert contents(path) == before
    assert os.listdir(path.parent) == ["sft"]


@pytest.mark.parametrize("where", ["model", "tokenizer", 1])
def test_when_the_first_save_fails_nothing_is_left(root, model, tokenizer, monkeypatch, where):
    fail_half_way(monkeypatch, where)
    with pytest.raises((OSError, KeyboardInterrupt)):
        save_checkpoint(model, tokenizer, root / "runs/tiny/sft")
    assert os.listdir(root / "runs/tiny") == []


def test_saving_twice_at_once_keeps_one_of_the_two(root, model, tokenizer, monkeypatch):
    """A second save may finish while the first one writes: neither touches the other's files."""
    path, save, nested = root / "sft", Qwen3ForCausalLM.save_pretrained, []

    def slow(self, folder, **kwargs):
        if not nested:
            nested.append(True)
            save_checkpoint(model, tokenizer, path)
        save(self, folder, **kwargs)

    monkeypatch.setattr(Qwen3ForCausalLM, "save_pretrained", slow)
    save_checkpoint(model, tokenizer, path)
    assert os.listdir(root) == ["sft"]
    assert (path / "model.safetensors").is_file()


@pytest.mark.parametrize("kind", ["by hand", "peft"])
def test_adapters_must_be_merged_first(root, model, tokenizer, kind):
    path = root / "sft"
    if kind == "by hand":
        adapted = inject_lora(model, rank=2, alpha=4, target_modules=["q_proj"])
    else:
        adapted = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"]))
    with pytest.raises(ValueError, match="merge"):
        save_checkpoint(adapted, tokenizer, path)
    merged = merge_lora(adapted) if kind == "by hand" else adapted.merge_and_unload()
    save_checkpoint(merged, tokenizer, path)
    shutil.copytree(path, root / "runs/tiny/sft")
    assert same_weights(load_policy(get_profile(), "sft"), merged)
