"""The set-up cell installs the course from a clone into a running kernel, as on Colab."""

import json
import os
import shutil
import subprocess
import sysconfig
import venv
from pathlib import Path

import pytest

from scripts import stamp_badges

ROOT = stamp_badges.ROOT
SKIPPED = shutil.ignore_patterns(".*", "build", "runs", "*.egg-info", "__pycache__", "assets")
# No index: what the host lacks cannot be fetched unnoticed. In the environment pip reads the second
# one as `build_isolation = 0`; the host's own setuptools then builds the course.
OFFLINE = {"PIP_NO_INDEX": "1", "PIP_NO_BUILD_ISOLATION": "0"}
AFTER_THE_GUARD = """
import torch
import utils.profiles as profiles
print(json.dumps({"file": profiles.__file__, "root": str(profiles.repo_root()),
                  "torch": torch.__version__, "executable": sys.executable}))
"""


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A git repository with the work tree's present files, at a path with a space."""
    folder = tmp_path_factory.mktemp("colab") / "the origin"
    shutil.copytree(ROOT, folder, ignore=SKIPPED)
    git = ["git", "-c", "user.name=test", "-c", "user.email=test@example.org", "-C", str(folder)]
    subprocess.run([*git, "init", "--quiet"], check=True)
    subprocess.run([*git, "add", "."], check=True)
    subprocess.run([*git, "commit", "--quiet", "-m", "the course"], check=True)
    return folder


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment that has the dependencies, as Colab has most, but not the course."""
    folder = tmp_path_factory.mktemp("host") / "venv"
    venv.create(folder, with_pip=False, symlinks=True)
    packages = sysconfig.get_path("purelib", vars={"base": str(folder)})
    # A .pth line adds the packages to the path without following their own .pth files, so the
    # course that is installed beside them in editable form stays out of sight.
    Path(packages, "host.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "bin/python"


def run_cell(cell: str, host: Path, folder: Path, **extra: str) -> subprocess.CompletedProcess:
    """Run a cell in IPython in the host's environment, as on Colab but without an index."""
    script = (
        "import json, sys\nfrom IPython.core.interactiveshell import InteractiveShell\n"
        "shell = InteractiveShell.instance(colors='NoColor')\n"
        "shell.user_ns.update(json=json, sys=sys)\n"
        f"result = shell.run_cell({cell!r})\nsys.exit(0 if result.success else 1)\n"
    )
    dropped = ("COURSE_REPO", "PYTHONPATH", "VIRTUAL_ENV")
    env = {name: value for name, value in os.environ.items() if name not in dropped}
    env |= {"COLAB_RELEASE_TAG": "release-colab", "IPYTHONDIR": str(folder / "ipython"), **OFFLINE}
    command = [str(host), "-c", script]
    return subprocess.run(command, cwd=folder, env=env | extra, capture_output=True, text=True)


@pytest.mark.slow
def test_set_up_cell_installs_the_clone_into_the_running_kernel(
    origin: Path, host: Path, tmp_path: Path
) -> None:
    cell = stamp_badges.SETUP_GUARD + AFTER_THE_GUARD
    first = run_cell(cell, host, tmp_path, COURSE_REPO=origin.as_uri())
    assert first.returncode == 0, first.stdout + first.stderr
    seen = json.loads(first.stdout.splitlines()[-1])
    assert seen["file"] == str(tmp_path / "course/utils/profiles.py")
    assert seen["root"] == str(tmp_path / "course")
    assert seen["executable"] == str(host)
    again = run_cell(cell, host, tmp_path, COURSE_REPO=origin.as_uri())
    assert again.returncode == 0, again.stdout + again.stderr
    assert json.loads(again.stdout.splitlines()[-1]) == seen
    assert "fatal" not in again.stdout + again.stderr, "cloned a second time"


def test_unstamped_set_up_cell_names_the_cure(host: Path, tmp_path: Path) -> None:
    result = run_cell(stamp_badges.SETUP_GUARD, host, tmp_path)
    assert result.returncode == 1
    assert "make badges REPO=owner/name" in result.stdout.splitlines()[-1]


def test_set_up_cell_does_nothing_outside_colab(host: Path, tmp_path: Path) -> None:
    cell = stamp_badges.SETUP_GUARD.replace("COLAB_RELEASE_TAG", "NOT_SET_ANYWHERE")
    assert run_cell(cell, host, tmp_path).returncode == 0
    assert not (tmp_path / "course").exists()


def test_a_host_with_an_untested_torch_is_told(origin: Path, host: Path, tmp_path: Path) -> None:
    narrowed = tmp_path / "narrowed"
    shutil.copytree(origin, narrowed)
    project = narrowed / "pyproject.toml"
    project.write_text(project.read_text().replace('"torch>=2.11,<2.15"', '"torch>=99"'))
    script = [str(host), str(narrowed / "scripts/colab_setup.py")]
    env = os.environ | OFFLINE
    result = subprocess.run(script, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert result.returncode == 1
    assert "could not install the course beside this host's torch" in result.stderr
