"""The set-up cell installs the course from a clone into a running kernel, as on Colab."""

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from scripts import colab_setup, setup_env, stamp_badges

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


# --- every supported Python, with what a host may have installed before -----------------

# What Colab has had since August 2026, and a host that is ahead of the pins.
HOSTS = {
    "Colab": {"torch": "2.11.0+cu128", "transformers": "5.15.0", "peft": "0.20.0"},
    "ahead": {"torch": "2.14.1+cu130", "transformers": "5.20.0", "peft": "0.25.0"},
}
SEEN = """
from importlib.metadata import version
names = ["torch", "numpy", "transformers", "peft", "trl", "post-training-workbook"]
print(json.dumps({name: version(name) for name in names} | {"utils": utils.__file__,
                 "python": list(sys.version_info[:2]), "torch module": torch.__version__}))
"""


def closure(*names: str) -> dict[str, importlib.metadata.Distribution]:
    """Installed distributions by name, with all that they need."""
    found: dict[str, importlib.metadata.Distribution] = {}
    wanted = list(names)
    while wanted:
        name = canonicalize_name(wanted.pop())
        if name not in found:
            found[name] = importlib.metadata.distribution(name)
            needs = [Requirement(text) for text in found[name].requires or []]
            wanted += [
                n.name for n in needs if n.marker is None or n.marker.evaluate({"extra": ""})
            ]
    return found


def stand_in(folder: Path, name: str, version: str) -> Path:
    """A wheel of a package that has nothing but its name and version."""
    module = name.replace("-", "_")
    wheel = folder / f"{module}-{version}-py3-none-any.whl"
    info = f"{module}-{version}.dist-info"
    files = {
        f"{module}/__init__.py": f"__version__ = {version!r}\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{file},,\n" for file in [*files, f"{info}/RECORD"])
    with zipfile.ZipFile(wheel, "w") as archive:
        for file, text in {**files, f"{info}/RECORD": record}.items():
            archive.writestr(file, text)
    return wheel


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that stands for the package index: every pin, as a stand-in."""
    folder = tmp_path_factory.mktemp("index")
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            pin = Requirement(line)
            stand_in(folder, pin.name, str(pin.specifier).removeprefix("=="))
    return folder


def find_python(version: tuple[int, int]) -> str:
    """A Python of this version: the running one, on PATH or any of pyenv's. Skips without one."""
    name = ".".join(map(str, version))
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")).glob(f"versions/{name}.*")
    for command in [sys.executable, f"python{name}", *(str(home / "bin/python") for home in pyenv)]:
        found = setup_env.probe(command)
        if found and found[0][:2] == version:
            return found[1]
    pytest.skip(f"no Python {name} on this machine")


@pytest.fixture(params=setup_env.SUPPORTED, ids=lambda version: ".".join(map(str, version)))
def bare_host(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A fresh environment of a supported Python with pip, setuptools and IPython only."""
    folder = tmp_path / "host"
    subprocess.run([find_python(request.param), "-m", "venv", "--without-pip", folder], check=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    for dist in closure("ipython", "pip", "setuptools").values():
        tops = {file.parts[0] for file in dist.files or [] if file.parts[0] not in ("..", "bin")}
        for top in tops - {"__pycache__"}:
            if not (packages / top).exists():
                (packages / top).symlink_to(dist.locate_file(top))
    return folder / "bin/python"


def preinstall(host: Path, folder: Path, packages: dict[str, str]) -> None:
    """What the host has before the cell runs."""
    folder.mkdir()
    wheels = [stand_in(folder, name, version) for name, version in packages.items()]
    command = [host, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", *wheels]
    subprocess.run(command, check=True, env=os.environ | {"PIP_CONFIG_FILE": os.devnull})


def run_on_host(
    cell: str, host: Path, tmp_path: Path, origin: Path, index: Path
) -> subprocess.CompletedProcess:
    """The set-up cell, with stand-ins for the index."""
    extra = {"COURSE_REPO": origin.as_uri(), "PIP_FIND_LINKS": str(index)}
    extra["PIP_CONFIG_FILE"] = os.devnull  # no constraints of this machine
    return run_cell(cell, host, tmp_path, **extra)


@pytest.mark.slow
@pytest.mark.parametrize("name", HOSTS)
def test_the_cell_takes_the_hosts_torch_and_the_pinned_libraries(
    name: str,
    bare_host: Path,
    origin: Path,
    index: Path,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    version = request.node.callspec.params["bare_host"]
    before = HOSTS[name] | {"numpy": "2.1.3"}
    preinstall(bare_host, tmp_path / "before", before)
    cell = stamp_badges.SETUP_GUARD + "import utils, torch" + SEEN
    result = run_on_host(cell, bare_host, tmp_path, origin, index)
    assert result.returncode == 0, result.stdout + result.stderr
    seen = json.loads(result.stdout.splitlines()[-1])
    assert seen["torch"] == seen["torch module"] == before["torch"]
    assert seen["numpy"] == before["numpy"]
    for package, start in (("transformers", "5.17."), ("peft", "0.21."), ("trl", "1.12.")):
        assert seen[package].startswith(start)
    assert seen["utils"] == str(tmp_path / "course/utils/__init__.py")
    assert tuple(seen["python"]) == version


@pytest.mark.slow
@pytest.mark.parametrize("bare_host", [sys.version_info[:2]], indirect=True)
def test_an_older_library_that_is_loaded_asks_for_a_restart(
    bare_host: Path, origin: Path, index: Path, tmp_path: Path
) -> None:
    preinstall(bare_host, tmp_path / "before", HOSTS["Colab"])
    cell = "import transformers\n" + stamp_badges.SETUP_GUARD
    result = run_on_host(cell, bare_host, tmp_path, origin, index)
    assert result.returncode == 1
    assert "older versions of transformers are loaded" in result.stdout
    assert "Restart session" in result.stdout
    again = run_on_host(cell + "import utils, torch" + SEEN, bare_host, tmp_path, origin, index)
    assert again.returncode == 0, again.stdout + again.stderr


@pytest.mark.parametrize("version", [(3, 10, 12), (3, 14, 0)])
def test_an_unsupported_python_gets_a_sentence(
    version: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(colab_setup.sys, "version_info", version)
    monkeypatch.setattr(colab_setup.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(colab_setup, "pip_install", lambda kept: pytest.fail("asked pip"))
    with pytest.raises(RuntimeError) as error:
        colab_setup.main()
    said = str(error.value)
    assert said.startswith(
        "The course needs Python 3.11, 3.12 or 3.13; this session runs Python 3.1"
    )
    assert ".".join(map(str, version)) in said and "Runtime > Change runtime type" in said
