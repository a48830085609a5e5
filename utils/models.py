"""Load and save the course's models: one folder a stage, safetensors only."""

import contextlib
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

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
    "base": "scripts/build_tiny.py",
    "sft": "notebooks/01_sft.ipynb",
    "reward_model": "notebooks/02_reward_model.ipynb",
}


def checkpoint_path(profile: Profile, stage: str) -> str:
    """Folder (or, for the base of a hub profile, hub id) of a stage's checkpoint.

    `stage` is "base", "sft" or "reward_model". Looks in `runs/<profile>/<stage>` (made by the
    learner), then in `assets/<profile>/<stage>` (shipped). The base is `profile.base_model`.
    Raises ValueError for an unknown stage, FileNotFoundError that lists where it looked.
    """
    if stage not in MADE_BY:
        raise ValueError(f"unknown stage {stage!r}; known: {', '.join(MADE_BY)}")
    if stage == "base":
        folder = Path(profile.base_model).expanduser()
        places = [folder] if folder.is_absolute() else [repo_root() / folder, Path.cwd() / folder]
    else:
        places = [runs_folder(profile) / stage, repo_root() / "assets" / profile.name / stage]
    for place in places:
        if (place / "config.json").is_file():
            return str(place)
    if stage == "base" and _is_hub_id(profile.base_model):
        return profile.base_model
    hint = f"{MADE_BY[stage]} makes it: run that first."
    if stage == "base" and os.environ.get("COURSE_BASE_MODEL"):
        hint = f"COURSE_BASE_MODEL={profile.base_model} must name a saved model or a hub id."
    raise FileNotFoundError(
        f"no {stage!r} checkpoint for profile {profile.name!r}: no config.json in "
        f"{' or '.join(map(str, places))}. {hint}"
    )


def _is_hub_id(name: str) -> bool:
    """`owner/name` could be a hub id; anything with another shape is a path."""
    return name.count("/") == 1 and name[0] not in "./~" and not name.endswith("/")


@contextlib.contextmanager
def _no_progress_bars() -> Iterator[None]:
    """transformers draws its bars for loading and saving on stderr: noise in a notebook."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


@contextlib.contextmanager
def _no_load_report() -> Iterator[None]:
    """transformers reports a head that it has to make up; here that head is wanted."""
    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)


def load_tokenizer(profile: Profile, stage: str = "base") -> PreTrainedTokenizerBase:
    """Tokenizer of a stage, with a pad token and a chat template.

    A tokenizer without a template gets the course's ChatML. Its padding side is left, as
    sampling needs it; the collate functions of `utils.chat` pad on the side they state.
    Raises ValueError when the tokenizer has no pad token and no `<|endoftext|>`.
    """
    tokenizer = AutoTokenizer.from_pretrained(
        checkpoint_path(profile, stage), trust_remote_code=False, padding_side="left"
    )
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


def load_policy(profile: Profile, stage: str = "base") -> PreTrainedModel:
    """Causal language model of a stage on the profile's device and dtype, in eval mode.

    Reads safetensors only and runs no code from the checkpoint. Call `.train()` to train it.
    Raises ValueError when weights are missing (transformers would make up random ones).
    """
    path = checkpoint_path(profile, stage)
    with _no_progress_bars():
        model, report = AutoModelForCausalLM.from_pretrained(
            path,
            output_loading_info=True,
            use_safetensors=True,
            trust_remote_code=False,
            dtype=profile.dtype,
            attn_implementation="sdpa",
        )
    missing = sorted(report["missing_keys"])
    if missing:
        raise ValueError(
            f"{path} is not a whole causal language model: {len(missing)} weights are missing, "
            f"among them {missing[0]}."
        )
    return model.to(profile.device).eval()


def load_reference(profile: Profile, stage: str = "sft") -> PreTrainedModel:
    """Frozen copy of a stage for the KL term: eval mode, no parameter requires a gradient."""
    return load_policy(profile, stage).requires_grad_(False)


def load_reward_model(profile: Profile, stage: str = "reward_model") -> PreTrainedModel:
    """A model with one scalar output a position, in eval mode; `model.score` is its head.

    From the stage "reward_model", or from a policy's stage ("sft"), whose backbone then gets a new
    head of zeros: every completion starts with the same reward. The head has no bias: a constant
    cancels in every comparison. Raises ValueError when weights of the backbone are missing.
    """
    path = checkpoint_path(profile, stage)
    with _no_progress_bars(), _no_load_report():
        model, report = AutoModelForSequenceClassification.from_pretrained(
            path,
            num_labels=1,
            output_loading_info=True,
            use_safetensors=True,
            trust_remote_code=False,
            dtype=profile.dtype,
            attn_implementation="sdpa",
        )
    missing = set(report["missing_keys"]) - {"score.weight"}
    if missing or (stage == "reward_model" and report["missing_keys"]):
        raise ValueError(
            f"{path} is not a whole reward model: weights are missing, among them "
            f"{min(report['missing_keys'])}."
        )
    if report["missing_keys"]:
        model.score.weight.data.zero_()
    return model.to(profile.device).eval()


def save_checkpoint(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, path: str | Path
) -> Path:
    """Write model and tokenizer to the folder `path`, whole or not at all.

    An older checkpoint at `path` is kept until the new one takes its place.
    Raises ValueError for a model with LoRA adapters: merge them first.
    """
    if any("lora" in name.lower() for name, _ in model.named_parameters()):
        raise ValueError("this model has LoRA adapters: merge them before saving a checkpoint")
    with whole_folder(path) as fresh:
        with _no_progress_bars():
            model.save_pretrained(fresh)
        tokenizer.save_pretrained(fresh)
        for file in fresh.iterdir():  # safetensors writes files that only the owner can read
            file.chmod((fresh / "config.json").stat().st_mode & 0o777)
    return Path(path).expanduser().absolute()


@contextlib.contextmanager
def whole_folder(folder: str | Path) -> Iterator[Path]:
    """A new folder that takes the place of `folder` when the block ends without an error.

    If anything fails on the way, an older folder is kept and the partial one removed.
    """
    path = Path(folder).expanduser().absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    token = uuid.uuid4().hex[:8]
    fresh, old = (path.with_name(f".{path.name}.{kind}-{token}") for kind in ("new", "old"))
    try:
        fresh.mkdir()
        yield fresh
        if path.exists():
            os.replace(path, old)  # a folder cannot replace a folder that is not empty
        os.replace(fresh, path)
    finally:
        if old.exists() and not path.exists():
            os.replace(old, path)
        for leftover in (fresh, old):
            shutil.rmtree(leftover, ignore_errors=True)
