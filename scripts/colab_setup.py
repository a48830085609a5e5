"""Install the course from this clone into the kernel that runs it, as notebooks do on Colab.

The host's torch and numpy stay: replacing them takes minutes and breaks what is already loaded.
"""

import importlib
import importlib.metadata
import importlib.util
import runpy
import site
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROJECT = "post-training-workbook"
KEPT = ("torch", "torchvision", "torchaudio", "numpy")


def check_python() -> None:
    """RuntimeError in a sentence for a Python without the course's pins; pip's would be a page."""
    known = runpy.run_path(str(ROOT / "scripts/setup_env.py"))
    if sys.version_info[:2] not in known["SUPPORTED"]:
        raise RuntimeError(
            f"The course needs {known['VERSIONS']}; this session runs Python "
            f"{'.'.join(map(str, sys.version_info[:3]))}. Choose another runtime version "
            "(Runtime > Change runtime type), or fetch a newer copy of the course."
        )


def installed_versions() -> dict[str, str]:
    """Version of every installed distribution."""
    found = importlib.metadata.distributions()
    return {dist.name.lower().replace("-", "_"): dist.version for dist in found if dist.name}


def pip_install(kept: dict[str, str]) -> None:
    """Install this clone in editable form; RuntimeError with pip's last words where that fails."""
    with tempfile.TemporaryDirectory() as folder:
        pins = Path(folder) / "kept.txt"
        pins.write_text("".join(f"{name}=={version}\n" for name, version in kept.items()))
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--constraint", str(pins)]
        result = subprocess.run([*command, "--editable", str(ROOT)], capture_output=True, text=True)
    if result.returncode:
        have = ", ".join(f"{name} {version}" for name, version in kept.items())
        raise RuntimeError(
            f"pip could not install the course beside this host's {have}. The tested versions are "
            f"in {ROOT / 'pyproject.toml'}. pip said:\n{result.stderr.strip()[-1500:]}"
        )


def make_importable() -> None:
    """Let this kernel see what was installed after it started; RuntimeError where it cannot."""
    importlib.invalidate_caches()
    site.addsitedir(str(importlib.metadata.distribution(PROJECT).locate_file("")))
    spec = importlib.util.find_spec("utils")
    if spec is None or not Path(spec.origin or "").is_relative_to(ROOT):
        raise RuntimeError(f"Another package called utils hides the course's: {spec}")


def main() -> None:
    """Install unless this clone is installed already; ask for a restart where one is needed."""
    spec = importlib.util.find_spec("utils")
    if spec and Path(spec.origin or "").is_relative_to(ROOT):
        return
    check_python()
    before = installed_versions()
    pip_install({name: before[name] for name in KEPT if name in before})
    make_importable()
    after = installed_versions()
    stale = [name for name in before if before[name] != after.get(name) and name in sys.modules]
    if stale:
        raise RuntimeError(
            f"The course is installed, but older versions of {', '.join(stale)} are loaded. Choose "
            "Runtime > Restart session, then run this cell again."
        )


if __name__ == "__main__":
    main()
