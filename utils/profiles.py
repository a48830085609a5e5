"""Profiles: which model, device and sizes a notebook runs with. `COURSE_PROFILE` chooses."""

import contextlib
import ctypes
import importlib.metadata
import os
import platform
import random
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch


@dataclass(frozen=True)
class Profile:
    """Where and how large a notebook runs. Training settings live in the notebook's config."""

    name: str
    base_model: str  # folder (relative to the repository) or hub id
    device: str  # "auto": a GPU where there is one
    dtype: torch.dtype
    use_hub: bool  # True: real data sets (COURSE_DATA_DIR, else the hub); False: generated ones
    max_length: int  # tokens of prompt and completion together
    max_new_tokens: int  # tokens a completion may have in evaluation
    rollout_batch: int  # rows decoded at once (memory of the key-value cache)
    answer_prefix: str = ""  # before each demonstrated answer; see `tiny`
    eval_prompts: int = 500
    seed: int = 0
    smoke: bool = False  # COURSE_SMOKE=1: tiny sizes, to test the code and not the learning


SMOL = "runs/models/SmolLM2-135M-Instruct"  # `make model` puts it there
PROFILES = {
    profile.name: profile
    for profile in (
        # tiny's tokenizer has one token for " SELECT" and needs three rare ones for "SELECT".
        Profile("tiny", "assets/tiny/base", "cpu", torch.float32, False, 256, 64, 512, " "),
        Profile("smol", SMOL, "auto", torch.float32, True, 512, 128, 64, eval_prompts=300),
        Profile("small", "Qwen/Qwen3-0.6B-Base", "cuda", torch.bfloat16, True, 1024, 256, 64),
        Profile("qwen3_4b", "Qwen/Qwen3-4B-Base", "cuda", torch.bfloat16, True, 2048, 1024, 32),
    )
}


def get_profile(name: str | None = None) -> Profile:
    """The profile called `name`, else `COURSE_PROFILE`, else `tiny`.

    `COURSE_DEVICE` overrides the device (on "cpu" the dtype becomes float32), `COURSE_BASE_MODEL`
    the base model (a folder or a hub id), `COURSE_SEED` the seed. On a CPU it also calls
    `keep_freed_memory`. RuntimeError when the device is missing.
    """
    name = name or os.environ.get("COURSE_PROFILE") or "tiny"
    if name not in PROFILES:
        names = ", ".join(PROFILES)
        raise ValueError(f"unknown profile {name!r}; known: {names}: COURSE_PROFILE=tiny, say")
    profile = PROFILES[name]
    best = "cuda" if torch.cuda.is_available() else "cpu"
    device = os.environ.get("COURSE_DEVICE") or profile.device.replace("auto", best)
    seed = os.environ.get("COURSE_SEED") or str(profile.seed)
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise RuntimeError(
            f"profile {name!r} needs a CUDA GPU and torch {torch.__version__} sees none. Use "
            "COURSE_PROFILE=tiny on this machine. COURSE_DEVICE=cpu runs the same code on the "
            "CPU, for tests: with the real model it would take hours."
        )
    if not seed.isdecimal():
        raise ValueError(f"COURSE_SEED must be a whole number such as 0, not {seed!r}")
    if device == "cpu":
        keep_freed_memory()
    return replace(
        profile,
        base_model=os.environ.get("COURSE_BASE_MODEL") or profile.base_model,
        device=device,
        dtype=torch.float32 if device == "cpu" else profile.dtype,
        seed=int(seed),
        smoke=os.environ.get("COURSE_SMOKE") == "1",
    )


def keep_freed_memory() -> bool:
    """Let this process keep the memory of freed tensors for the next ones; False if it cannot.

    By default glibc gives each large buffer back to the system, which clears its pages for the
    next one; a small model frees thousands a second. The process holds on to its peak. Linux only.
    """
    try:
        libc = ctypes.CDLL("libc.so.6")
        mmap_threshold, trim_threshold = -3, -1  # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD of malloc.h
        kept = libc.mallopt(mmap_threshold, 2**30), libc.mallopt(trim_threshold, 2**31 - 1)
    except (OSError, AttributeError):  # another system, or another C library
        return False
    return all(kept)


def repo_root() -> Path:
    """The folder of the repository: above this file, else (installed) above the working one."""
    here = Path(__file__).resolve()
    for folder in [*here.parents, Path.cwd(), *Path.cwd().parents]:
        if (folder / "pyproject.toml").is_file() and (folder / "utils/profiles.py").is_file():
            return folder
    raise FileNotFoundError(
        f"the course's repository is neither above {here.parent} nor above {Path.cwd()}. Clone "
        "it, run `pip install -e .` in it, and start from inside it."
    )


def runs_folder(profile: Profile) -> Path:
    """Where a profile's checkpoints go: `COURSE_RUNS`, else `runs` in the repository."""
    return Path(os.environ.get("COURSE_RUNS") or repo_root() / "runs") / profile.name


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch (CPU and every GPU)."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide results; missing ones are left out."""
    found = {"python": platform.python_version()}
    for package in ("torch", "transformers", "trl", "peft", "datasets", "unsloth", "vllm"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found
