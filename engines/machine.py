"""Does this machine fit the profile? Asked in a notebook's first cell, before the slow part."""

import ctypes
import importlib
import importlib.util
import os
import sys

import torch

from utils.profiles import PROFILES, Profile

GIB = 2**30
# GiB that torch must report, and the class of card that reports it. Cards report less than their
# name says: a 24 GB card about 22 GiB, a 16 GB T4 about 14.6 GiB.
NEEDED_MEMORY = {"small": (14.0, "a 15 GB card, such as a T4"), "qwen3_4b": (21.5, "a 24 GB card")}
PATCHED_BY_UNSLOTH = ("trl", "transformers", "peft")


def engine_name(profile_name: str, device: str) -> str:
    """ "unsloth" for the 4B profile on a GPU, else "transformers"."""
    return "unsloth" if profile_name == "qwen3_4b" and device != "cpu" else "transformers"


def check_machine(profile: Profile | str | None = None) -> None:
    """Check GPU, memory, driver and packages for a profile; on `qwen3_4b` import Unsloth.

    profile: a profile or its name; by default what `COURSE_PROFILE` says, so that this can run
    before `get_profile`. Returns at once on `tiny` and with `COURSE_DEVICE=cpu`. Unsloth replaces
    parts of TRL, transformers and PEFT, so it has to be imported before them.
    Raises RuntimeError that says what is missing and what to do.
    """
    if isinstance(profile, Profile):
        name, device = profile.name, profile.device
    else:
        name = profile or os.environ.get("COURSE_PROFILE") or "tiny"
        if name not in PROFILES:
            raise ValueError(f"unknown profile {name!r}; known: {', '.join(PROFILES)}")
        device = os.environ.get("COURSE_DEVICE") or PROFILES[name].device
    if device in ("cpu", "auto"):  # `smol` runs on whatever there is
        return
    with_unsloth = engine_name(name, device) == "unsloth"
    if with_unsloth:
        _check_packages(name)
        _check_import_order()
    _check_gpu(name)
    if with_unsloth:
        _import_unsloth()


def _check_packages(name: str) -> None:
    missing = [p for p in ("unsloth", "vllm") if importlib.util.find_spec(p) is None]
    if missing:
        raise RuntimeError(
            f"profile {name!r} needs {' and '.join(missing)}, which this environment lacks. In the "
            "repository run: pip install -c constraints-gpu.txt -e '.[gpu]', then restart the "
            "kernel. COURSE_PROFILE=tiny runs without."
        )


def _check_import_order() -> None:
    early = [p for p in PATCHED_BY_UNSLOTH if p in sys.modules]
    if early and "unsloth" not in sys.modules:
        raise RuntimeError(
            f"{', '.join(early)} were imported before Unsloth, which has to patch them first. "
            "Restart the kernel and run this cell first."
        )


def _check_gpu(name: str) -> None:
    """Raise RuntimeError for no GPU, a driver too old for torch's CUDA, or too little memory."""
    built_for = torch.version.cuda
    if built_for is None:
        raise RuntimeError(
            f"profile {name!r} needs a CUDA GPU, and torch {torch.__version__} was built without "
            "CUDA. Install the CUDA build of torch, or use COURSE_PROFILE=tiny."
        )
    driver = _driver_cuda()
    if driver is None:
        raise RuntimeError(
            f"profile {name!r} needs a CUDA GPU, and no NVIDIA driver was found. On Colab choose "
            "a runtime with a GPU; elsewhere use COURSE_PROFILE=tiny."
        )
    if driver[0] < int(built_for.split(".")[0]):
        raise RuntimeError(
            f"the NVIDIA driver is too old: it serves CUDA {driver[0]}.{driver[1]}, and torch "
            f"{torch.__version__} was built for CUDA {built_for}. Update the driver, or use "
            "COURSE_PROFILE=tiny."
        )
    if not torch.cuda.is_available():
        raise RuntimeError(
            f"profile {name!r} needs a CUDA GPU; there is a driver (CUDA {driver[0]}.{driver[1]}) "
            "but torch sees no GPU. Check CUDA_VISIBLE_DEVICES and nvidia-smi, or use "
            "COURSE_PROFILE=tiny."
        )
    needed, card = NEEDED_MEMORY[name]
    found = torch.cuda.get_device_properties(0).total_memory / GIB
    if found < needed:
        raise RuntimeError(
            f"profile {name!r} needs a GPU with {needed:.1f} GiB of memory ({card}); "
            f"{torch.cuda.get_device_name(0)} has {found:.1f} GiB. Use a smaller profile: "
            "COURSE_PROFILE=small needs a 15 GB card, COURSE_PROFILE=tiny none."
        )


def _driver_cuda() -> tuple[int, int] | None:
    """The newest CUDA (major, minor) that the installed driver serves; None without a driver."""
    version = ctypes.c_int()
    library = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        failed = ctypes.CDLL(library).cuDriverGetVersion(ctypes.byref(version))
    except OSError:
        return None
    if failed or not version.value:
        return None
    return version.value // 1000, version.value % 1000 // 10


def _import_unsloth() -> None:
    try:
        importlib.import_module("unsloth")
    except (ImportError, NotImplementedError, RuntimeError) as error:
        raise RuntimeError(
            f"Unsloth is installed but does not start: {error}. Compare the installed versions "
            "with constraints-gpu.txt, restart the kernel and run this cell first."
        ) from error
