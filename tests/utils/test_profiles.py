import dataclasses
import importlib.metadata
import platform
import random
import subprocess
import sys

import numpy as np
import pytest
import torch

from utils import profiles
from utils.profiles import PROFILES, get_profile, repo_root, seed_everything, versions


@pytest.fixture(autouse=True)
def no_settings(monkeypatch):
    for name in ("COURSE_PROFILE", "COURSE_DEVICE", "COURSE_BASE_MODEL"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def test_the_default_is_tiny_on_the_cpu():
    profile = get_profile()
    assert (profile.name, profile.base_model) == ("tiny", "assets/tiny/base")
    assert (profile.device, profile.dtype, profile.use_hub) == ("cpu", torch.float32, False)


def test_the_environment_chooses_and_an_argument_overrules_it(monkeypatch):
    monkeypatch.setenv("COURSE_PROFILE", "qwen3_4b")
    monkeypatch.setenv("COURSE_DEVICE", "cpu")
    assert get_profile().name == "qwen3_4b"
    assert get_profile("tiny").name == "tiny"


def test_an_empty_variable_counts_as_unset(monkeypatch):
    for name in ("COURSE_PROFILE", "COURSE_DEVICE", "COURSE_BASE_MODEL"):
        monkeypatch.setenv(name, "")
    assert get_profile() == PROFILES["tiny"]


@pytest.mark.parametrize("source", ["argument", "environment"])
def test_an_unknown_name_lists_the_known_ones(monkeypatch, source):
    if source == "environment":
        monkeypatch.setenv("COURSE_PROFILE", "large")
    with pytest.raises(
        ValueError, match="'large'.*tiny, smol, small, qwen3_4b.*COURSE_PROFILE=tiny"
    ):
        get_profile("large" if source == "argument" else None)


@pytest.mark.parametrize("name", ["small", "qwen3_4b"])
def test_without_a_gpu_the_large_profiles_say_so(no_gpu, name):
    with pytest.raises(RuntimeError, match="CUDA GPU.*COURSE_DEVICE=cpu"):
        get_profile(name)


def test_with_a_gpu_small_is_bfloat16_on_it(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    profile = get_profile("small")
    assert (profile.device, profile.dtype, profile.use_hub) == ("cuda", torch.bfloat16, True)
    assert profile.base_model == "Qwen/Qwen3-0.6B-Base"


@pytest.mark.parametrize(("gpu", "device"), [(True, "cuda"), (False, "cpu")])
def test_smol_takes_a_gpu_where_there_is_one(monkeypatch, gpu, device):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    profile = get_profile("smol")
    assert (profile.device, profile.dtype, profile.use_hub) == (device, torch.float32, True)
    monkeypatch.setenv("COURSE_DEVICE", "cpu")
    assert get_profile("smol").device == "cpu"


def test_small_on_the_cpu_with_a_local_model(monkeypatch, no_gpu):
    monkeypatch.setenv("COURSE_DEVICE", "cpu")
    monkeypatch.setenv("COURSE_BASE_MODEL", "/somewhere/model")
    profile = get_profile("small")
    assert (profile.device, profile.dtype) == ("cpu", torch.float32)
    assert (profile.name, profile.base_model) == ("small", "/somewhere/model")


def test_profiles_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        get_profile().seed = 1


def test_repo_root_from_this_file(request):
    assert repo_root() == request.path.parents[2]


def test_repo_root_from_the_working_directory(tmp_path, monkeypatch):
    """The package installed elsewhere, the notebook running in a clone."""
    clone = tmp_path / "a clone"
    (clone / "utils").mkdir(parents=True)
    (clone / "notebooks").mkdir()
    (clone / "pyproject.toml").touch()
    (clone / "utils/profiles.py").touch()
    installed = tmp_path / "site-packages/utils"
    installed.mkdir(parents=True)
    monkeypatch.setattr("utils.profiles.__file__", str(installed / "profiles.py"))
    monkeypatch.chdir(clone / "notebooks")
    assert repo_root() == clone
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="Clone"):
        repo_root()


def test_one_seed_fixes_every_generator():
    def draw():
        return random.random(), np.random.rand(), torch.rand(1).item()

    seed_everything(5)
    first = draw()
    seed_everything(5)
    assert draw() == first
    seed_everything(6)
    assert all(a != b for a, b in zip(draw(), first, strict=True))


def test_versions_name_the_installed_packages(monkeypatch):
    assert versions()["torch"] == importlib.metadata.version("torch")
    assert {"python", "transformers", "trl", "peft"} <= set(versions())

    def only_torch(package):
        if package != "torch":
            raise importlib.metadata.PackageNotFoundError(package)
        return "2.13.0"

    monkeypatch.setattr(importlib.metadata, "version", only_torch)
    assert versions() == {"python": platform.python_version(), "torch": "2.13.0"}


def test_seed_and_smoke_come_from_the_environment(monkeypatch):
    assert (get_profile("tiny").seed, get_profile("tiny").smoke) == (0, False)
    monkeypatch.setenv("COURSE_SEED", "7")
    monkeypatch.setenv("COURSE_SMOKE", "1")
    assert (get_profile("tiny").seed, get_profile("tiny").smoke) == (7, True)
    monkeypatch.setenv("COURSE_SEED", "-1")
    with pytest.raises(ValueError, match="COURSE_SEED must be a whole number"):
        get_profile("tiny")


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc is Linux's")
def test_freed_memory_is_used_again():
    code = """
import resource, torch
from utils import profiles
if {call}:
    assert profiles.keep_freed_memory()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(2):  # the first round warms up
    before = faults()
    for _ in range(10):
        torch.ones(16, 2**20)  # 64 MiB
print(faults() - before)
"""
    default, kept = (
        int(
            subprocess.run(
                [sys.executable, "-c", code.format(call=call)],
                capture_output=True,
                text=True,
                check=True,
            ).stdout
        )
        for call in (False, True)
    )
    assert kept < default / 4


def test_a_cpu_profile_keeps_freed_memory(monkeypatch):
    calls = []
    monkeypatch.setattr(profiles, "keep_freed_memory", lambda: calls.append(True))
    profiles.get_profile("tiny")
    assert calls


def test_another_c_library_is_no_error(monkeypatch):
    def no_library(name):
        raise OSError(name)

    monkeypatch.setattr(profiles.ctypes, "CDLL", no_library)
    assert profiles.keep_freed_memory() is False
