"""The ranges in pyproject.toml, both constraints files and environment.yml agree."""

import re
import tomllib

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tools import lock

PROJECT = tomllib.loads((lock.ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
FILES = ["constraints.txt", "constraints-gpu.txt"]
LINUX_311, LINUX_312 = (
    lock.environments()[lock.PATCHES.index(full)] for full in ("3.11.14", "3.12.12")
)


def pins(name: str, env: dict[str, str]) -> dict[str, str]:
    """Version of each package that a constraints file pins in a marker environment."""
    lines = (lock.ROOT / name).read_text(encoding="utf-8").splitlines()
    wanted = [Requirement(line) for line in lines if line and not line.startswith("#")]
    chosen = [r for r in wanted if r.marker is None or r.marker.evaluate(env)]
    assert len({r.name for r in chosen}) == len(chosen), "a package is pinned twice"
    return {canonicalize_name(r.name): str(r.specifier) for r in chosen}


def ranges(*extras: str) -> list[Requirement]:
    """The project's own requirements, with those of its extras."""
    optional = PROJECT["optional-dependencies"]
    texts = PROJECT["dependencies"] + [text for extra in extras for text in optional[extra]]
    return [Requirement(text) for text in texts]


def conda_pip_lines() -> list[str]:
    """What environment.yml tells pip."""
    conda = yaml.safe_load((lock.ROOT / "environment.yml").read_text(encoding="utf-8"))
    return next(entry["pip"] for entry in conda["dependencies"] if isinstance(entry, dict))


@pytest.mark.parametrize("env", [LINUX_311, LINUX_312], ids=["3.11", "3.12"])
@pytest.mark.parametrize(
    ("name", "extras"), [("constraints.txt", ["dev"]), ("constraints-gpu.txt", ["dev", "gpu"])]
)
def test_ranges_contain_the_pins(name: str, extras: list[str], env: dict[str, str]) -> None:
    pinned = pins(name, env)
    for wanted in ranges(*extras):
        pin = pinned[canonicalize_name(wanted.name)]
        assert pin.startswith("=="), f"{name} does not pin {wanted.name}: {pin}"
        assert Version(pin[2:]) in wanted.specifier, f"{wanted} does not allow {pin} of {name}"


@pytest.mark.parametrize("env", lock.environments(), ids=lambda env: "-".join(env.values()))
def test_cpu_and_gpu_pin_the_same_versions(env: dict[str, str]) -> None:
    cpu, gpu = (pins(name, env) for name in FILES)
    differing = {name for name in cpu.keys() & gpu.keys() if cpu[name] != gpu[name]}
    assert not differing
    assert not {"unsloth", "vllm"} & cpu.keys(), "the CPU set must stay light"


def test_environment_names_and_pins_the_ten_packages() -> None:
    gpu = pins("constraints-gpu.txt", LINUX_311)
    ten = {"jupyterlab", "torch", "transformers", "trl", "peft"}
    ten |= {"datasets", "unsloth", "vllm", "matplotlib", "nbval"}
    lines = conda_pip_lines()
    assert set(lines) == {f"{name}{gpu[name]}" for name in ten} | {
        "-c constraints-gpu.txt",
        "-e .[dev,gpu]",
    }


def test_environment_python_is_supported() -> None:
    text = (lock.ROOT / "environment.yml").read_text(encoding="utf-8")
    version = re.search(r"- python=([\d.]+)", text)[1]
    assert Version(version) in Requirement(f"x{PROJECT['requires-python']}").specifier


@pytest.mark.parametrize("name", [*FILES, "environment.yml"])
def test_locks_name_no_place_and_no_local_build(name: str) -> None:
    text = (lock.ROOT / name).read_text(encoding="utf-8")
    assert not re.search(r"://|--(extra-)?index|--find-links|file:|\+cpu|\+cu", text)


def test_short_markers_mean_the_same() -> None:
    long = "x==1 ; (python_full_version < '3.12' and sys_platform == 'darwin') or "
    long += "(python_full_version < '3.12' and sys_platform == 'linux')"
    assert lock.short_line(long) == "x==1 ; python_full_version < '3.12'"
    odd = "x==1 ; platform_machine == 'x86_64' and python_full_version == '3.11.4'"
    marker = lock.short_line(odd).partition(" ; ")[2]
    assert lock.holds_on(marker) == lock.holds_on(odd.partition(" ; ")[2])
