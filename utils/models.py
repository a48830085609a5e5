"""Load and save the course's models: one folder a stage, safetensors only."""

import contextlib
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import safe_open
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging

from utils.chat import CHAT_TEMPLATE
from utils.profiles import Profile, repo_root, runs_folder

MADE_BY = {
    "base": "`make model` (smol) or scripts/build_tiny.py (tiny)",
    "sft": "notebooks/01_sft.ipynb",
    "reward_model": "notebooks/02_reward_model.ipynb",
    "ppo": "notebooks/03_ppo.ipynb",
    "dpo": "notebooks/04_dpo.ipynb",
    "grpo": "notebooks/05_grpo.ipynb",
}
ADAPTER = "adapter_model.safetensors"  # in the place of a whole model: `lora.save_adapter`
HEAD = "base_model.model.score.weight"  # a reward model's, in an adapter


def checkpoint_path(profile: Profile, stage: str) -> str:
    """Folder (or, for the base of a hub profile, hub id) of a stage's checkpoint.

    `stage` is a key of `MADE_BY`. Looks in `runs/<profile>/<stage>` (made by the learner), then in
    `assets/<profile>/<stage>` (shipped). The base is `profile.base_model`.
    """
    if stage not in MADE_BY:
        raise ValueError(f"unknown stage {stage!r}; known: {', '.join(MADE_BY)}")
    hint = f"{MADE_BY[stage]} makes it: run that first."
    places = [runs_folder(profile) / stage, repo_root() / "assets" / profile.name / stage]
    if stage == "base":
        name = profile.base_model
        places = [folder / Path(name).expanduser() for folder in (repo_root(), Path.cwd())]
        if os.environ.get("COURSE_BASE_MODEL"):
            hint = f"COURSE_BASE_MODEL={name} must name a saved model or a hub id."
    for place in places:
        if (place / "config.json").is_file() or (place / ADAPTER).is_file():
            return str(place)
    if stage == "base" and re.fullmatch(r"[^./~][^/]*/[^/]+", name):  # owner/name
        return name
    raise FileNotFoundError(
        f"no {stage!r} checkpoint for profile {profile.name!r}: no config.json in "
        f"{' or '.join(map(str, dict.fromkeys(places)))}. {hint}"
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the bars of transformers, and its report of weights that are missing: see `_load`."""
    bars, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def load_tokenizer(profile: Profile, stage: str = "base") -> PreTrainedTokenizerBase:
    """Tokenizer of a stage, with a pad token and a chat template.

    A tokenizer without a template gets the course's ChatML. Its padding side is left, as
    sampling needs it; the collate functions of `utils.chat` pad on the side they state.
    """
    path = checkpoint_path(profile, stage)
    path = checkpoint_path(profile, "base") if _starts_from(path) else path  # no token is new
    tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False, padding_side="left")
    if tokenizer.chat_template is None:
        tokenizer.chat_template = CHAT_TEMPLATE
    if tokenizer.pad_token is None:
        if "<|endoftext|>" not in tokenizer.get_vocab():
            raise ValueError(
                f"the tokenizer of {profile.base_model} has no pad token and no '<|endoftext|>' "
                "to use as one. Set tokenizer.pad_token and save it with the model."
            )
        tokenizer.pad_token = "<|endoftext|>"
    return tokenizer


def _starts_from(path: str) -> str | None:
    """The stage that the adapter in a folder is added to; None for a whole model."""
    if not (Path(path) / ADAPTER).is_file():
        return None
    with safe_open(Path(path) / ADAPTER, "pt") as opened:
        return opened.metadata().get("starts_from", "base")


def _merged(model: PreTrainedModel, path: str, with_head: bool) -> PreTrainedModel:
    """The model with the adapter of a folder folded into its weights: an ordinary model again."""
    from peft import PeftModel, get_peft_model_state_dict  # slow, and only for adapters

    adapted = PeftModel.from_pretrained(model, path)
    wanted = set(get_peft_model_state_dict(adapted, save_embedding_layers=False))
    with safe_open(Path(path) / ADAPTER, "pt") as opened:
        unfit = (wanted | ({HEAD} if with_head else set())) ^ set(opened.keys())
    if unfit:
        raise ValueError(f"the adapter in {path} does not fit: {min(unfit)} has no counterpart")
    return adapted.merge_and_unload().requires_grad_(True).eval()


def _load(
    auto: type, profile: Profile, stage: str, may_miss: str = "", **options: Any
) -> tuple[PreTrainedModel, bool]:
    """The model of a stage in eval mode, and whether its weight `may_miss` is missing.

    Reads safetensors only and runs no code from the checkpoint. Raises ValueError when other
    weights are missing: transformers would make up random ones.
    """
    path = checkpoint_path(profile, stage)
    if start := _starts_from(path):
        model, is_new = _load(auto, profile, start, "score.weight", **options)
        with_head = stage == "reward_model"
        return _merged(model, path, with_head), is_new and not with_head
    options |= {"dtype": profile.dtype, "attn_implementation": "sdpa", "use_safetensors": True}
    with _quiet():
        model, report = auto.from_pretrained(
            path, output_loading_info=True, trust_remote_code=False, **options
        )
    if missing := sorted(set(report["missing_keys"]) - {may_miss}):
        kind = f"a whole {model.__class__.__name__}: {len(missing)} weights are missing"
        raise ValueError(f"{path} is not {kind}, among them {missing[0]}.")
    return model.to(profile.device).eval(), bool(report["missing_keys"])


def load_policy(profile: Profile, stage: str = "base") -> PreTrainedModel:
    """Causal language model of a stage on the profile's device and dtype, in eval mode."""
    return _load(AutoModelForCausalLM, profile, stage)[0]


def load_reference(profile: Profile, stage: str = "sft") -> PreTrainedModel:
    """Frozen copy of a stage for the KL term: eval mode, no parameter requires a gradient."""
    return load_policy(profile, stage).requires_grad_(False)


def load_reward_model(profile: Profile, stage: str = "reward_model") -> PreTrainedModel:
    """A model with one scalar output a position, in eval mode; `model.score` is its head.

    From the stage "reward_model", or from a policy's stage ("sft"), whose backbone then gets a new
    head of zeros, without a bias: a constant cancels in every comparison.
    """
    head = "" if stage == "reward_model" else "score.weight"
    kind = AutoModelForSequenceClassification
    model, is_new = _load(kind, profile, stage, may_miss=head, num_labels=1)
    if is_new:
        model.score.weight.data.zero_()
    return model


def save_checkpoint(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, path: str | Path
) -> Path:
    """Write model and tokenizer to the folder `path`, whole or not at all: see `whole_folder`."""
    if any("lora" in name.lower() for name, _ in model.named_parameters()):
        raise ValueError("this model has LoRA adapters: merge them before saving a checkpoint")
    with whole_folder(path) as fresh, _quiet():
        model.save_pretrained(fresh)
        tokenizer.save_pretrained(fresh)
    return Path(path).expanduser().absolute()


@contextlib.contextmanager
def whole_folder(folder: str | Path) -> Iterator[Path]:
    """A new folder that takes the place of `folder` when the block ends without an error.

    If anything fails on the way, an older folder is kept and the partial one removed.
    """
    path = Path(folder).expanduser().absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    token = uuid.uuid4().hex[:8]  # two may save at once
    fresh, old = (path.with_name(f".{path.name}.{kind}-{token}") for kind in ("new", "old"))
    try:
        fresh.mkdir()
        yield fresh
        for file in filter(Path.is_file, fresh.rglob("*")):
            file.chmod(fresh.stat().st_mode & 0o666)  # safetensors' are for the owner only
        if path.exists():
            os.replace(path, old)  # a folder cannot replace a folder that is not empty
        os.replace(fresh, path)
    finally:
        if old.exists() and not path.exists():
            os.replace(old, path)
        for leftover in (fresh, old):
            shutil.rmtree(leftover, ignore_errors=True)
