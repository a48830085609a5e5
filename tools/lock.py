"""Write constraints.txt, constraints-gpu.txt and environment.yml from the ranges in pyproject.toml.

Usage: python -m tools.lock [--upgrade NAME ...]

Pins already in the two files are kept as long as the ranges allow them; `--upgrade NAME` lets that
package move to the newest version that fits. The GPU set is resolved first and the CPU set takes
its versions, so a package has the same version in both.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from packaging.markers import Marker
from packaging.requirements import Requirement

from scripts.whole_file import write_whole

ROOT = Path(__file__).resolve().parent.parent
NAMED = [
    *("jupyterlab", "torch", "transformers", "trl", "peft"),
    *("datasets", "unsloth", "vllm", "matplotlib", "nbval"),
]
HEADERS = {
    "constraints.txt": "the CPU set with JupyterLab and the test tools",
    "constraints-gpu.txt": "the GPU set: the CPU set, Unsloth and vLLM",
}
SYSTEMS = {
    "linux-x86_64": {"sys_platform": "linux", "platform_machine": "x86_64"},
    "linux-aarch64": {"sys_platform": "linux", "platform_machine": "aarch64"},
    "mac": {"sys_platform": "darwin", "platform_machine": "arm64"},
}
SYSTEM_MARKERS = [
    "",
    "sys_platform == 'linux'",
    "sys_platform == 'darwin'",
    "sys_platform == 'linux' and platform_machine == 'x86_64'",
    "sys_platform == 'linux' and platform_machine == 'aarch64'",
]
PATCHES = ["3.11.0", "3.11.4", "3.11.5", "3.11.14", "3.12.0", "3.12.12", "3.13.0", "3.13.9"]


def environments() -> list[dict[str, str]]:
    """Marker environments of the supported systems and Pythons."""
    names = {"linux": "Linux", "darwin": "Darwin"}
    return [
        {"python_full_version": full, "python_version": full[:4]}
        | {"platform_system": names[system["sys_platform"]], **system}
        for system in SYSTEMS.values()
        for full in PATCHES
    ]


def holds_on(marker: str) -> list[bool]:
    """Where, among the supported environments, a marker holds."""
    return [not marker or Marker(marker).evaluate(env) for env in environments()]


def short_line(line: str) -> str:
    """A line of the lock with the shortest marker that says the same on what is supported."""
    pin, _, marker = line.partition(" ; ")
    terms = dict.fromkeys(re.findall(r"python_full_version [<>=!]+ '[0-9.]+'", marker))
    for version in ["", *terms]:
        for system in SYSTEM_MARKERS:
            short = " and ".join(filter(None, [version, system]))
            if holds_on(short) == holds_on(marker):
                return f"{pin} ; {short}" if short else pin
    return line


def compile_lock(extras: list[str], target: Path, upgrade: list[str], limit: Path | None) -> None:
    """Resolve the project with `extras` for all supported Pythons and write `target` whole."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / target.name
        if target.exists():
            output.write_text(target.read_text(encoding="utf-8"), encoding="utf-8")
        command = [sys.executable, "-m", "uv", "pip", "compile", "pyproject.toml", "--quiet"]
        command += ["--universal", "--python-version", "3.11", "--no-header", "--no-annotate"]
        command += ["--no-emit-index-url", "--no-emit-find-links", "--output-file", str(output)]
        command += [part for extra in extras for part in ("--extra", extra)]
        command += [part for name in upgrade for part in ("--upgrade-package", name)]
        command += ["--constraints", str(limit)] if limit else []
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        pins = [short_line(line) for line in output.read_text(encoding="utf-8").splitlines()]
    note = f"# Exact versions for Python 3.11 to 3.13, {HEADERS[target.name]}.\n"
    write_whole(target, note + "# Written by `make lock`; do not edit.\n" + "\n".join(pins) + "\n")


def read_pins(path: Path) -> dict[str, str]:
    """Version of each package in a constraints file, for the conda Python on Linux."""
    env = environments()[PATCHES.index("3.11.14")]
    lines = path.read_text(encoding="utf-8").splitlines()
    wanted = [Requirement(line) for line in lines if line and not line.startswith("#")]
    chosen = [r for r in wanted if r.marker is None or r.marker.evaluate(env)]
    return {r.name: str(r.specifier).removeprefix("==") for r in chosen}


def environment_text(pins: dict[str, str]) -> str:
    """The conda environment: Python from conda, everything else from pip under the GPU pins."""
    named = "\n".join(f"      - {name}=={pins[name]}" for name in NAMED)
    return f"""\
# The full environment for one NVIDIA GPU on Linux. Written by `make lock`; do not edit.
# From the root of the repository: conda env create -f environment.yml
name: post-training-workbook
channels:
  - conda-forge
  - nodefaults
dependencies:
  - python=3.11
  - pip
  - pip:
      - -c constraints-gpu.txt
{named}
      - -e .[dev,gpu]
"""


def main() -> int:
    """Resolve both sets and write the three files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--upgrade", nargs="*", default=[], metavar="NAME")
    upgrade = parser.parse_args().upgrade
    cpu, gpu = ROOT / "constraints.txt", ROOT / "constraints-gpu.txt"
    try:
        compile_lock(["dev", "gpu"], gpu, upgrade, None)
        compile_lock(["dev"], cpu, upgrade, gpu)
    except subprocess.CalledProcessError as error:
        print("No set of versions fits the ranges in pyproject.toml (see above).", file=sys.stderr)
        return error.returncode
    write_whole(ROOT / "environment.yml", environment_text(read_pins(gpu)))
    print("Wrote constraints-gpu.txt, constraints.txt and environment.yml.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
