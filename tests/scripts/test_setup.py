"""`make` and the set-up script: what they tell a new user, and what they take for complete."""

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.specifiers import SpecifierSet

from scripts import setup_env

ROOT = Path(setup_env.ROOT)
GOOD = ((3, 12, 4), "/usr/bin/python3.12", True)


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A clone at a path with spaces; the script works on it."""
    folder = tmp_path / "my first clone"
    folder.mkdir()
    for name in ("pyproject.toml", "constraints.txt", "Makefile"):
        shutil.copy(ROOT / name, folder / name)
    venv = folder / ".venv"
    names = {"STAMP": "course-complete.json", "UNDERWAY": "course-underway"}
    for constant, name in names.items():
        monkeypatch.setattr(setup_env, constant, str(venv / name))
    monkeypatch.setattr(setup_env, "ROOT", str(folder))
    monkeypatch.setattr(setup_env, "VENV", str(venv))
    monkeypatch.setattr(setup_env, "chosen_indexes", lambda: ["some index"])
    return folder


class FakePip:
    """Stands in for the two commands that make an environment and fill it."""

    def __init__(self) -> None:
        self.exit, self.errors, self.installs = 0, "", 0

    def make_venv(self, command: list[str]) -> int:
        """`python -m venv`: a folder with a Python that answers what the script asks."""
        script = Path(command[-1], "bin/python")
        script.parent.mkdir()
        script.write_text('#!/bin/sh\ncd "${0%/bin/python}"; pwd; echo 3.11.9\n')
        script.chmod(0o755)
        return 0

    def install(self, command: list[str]) -> tuple[int, str]:
        """`pip install`: succeed, fail or be interrupted."""
        assert "constraints.txt" in command
        self.installs += 1
        if self.exit == 130:
            raise KeyboardInterrupt
        return self.exit, self.errors


@pytest.fixture
def pip(monkeypatch: pytest.MonkeyPatch) -> FakePip:
    """A pip whose answer a test chooses."""
    fake = FakePip()
    monkeypatch.setattr(setup_env.subprocess, "call", fake.make_venv)
    monkeypatch.setattr(setup_env, "run_shown", fake.install)
    return fake


def probes(*results: tuple) -> dict[str, tuple | None]:
    """Names of commands and what a probe of each finds."""
    return {f"python{i}": result for i, result in enumerate(results)}


def find_with(monkeypatch: pytest.MonkeyPatch, found: dict) -> str:
    """What `find_python` chooses among these commands."""
    monkeypatch.setattr(setup_env, "probe", found.get)
    return setup_env.find_python(list(found))


def test_python_too_old_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    found = probes(((3, 9, 1), "/usr/bin/python3", True), None, ((3, 14, 0), "/opt/py", True))
    with pytest.raises(setup_env.Trouble) as trouble:
        find_with(monkeypatch, found)
    text = str(trouble.value)
    assert "needs Python 3.11, 3.12 or 3.13" in text
    assert "3.9.1 (/usr/bin/python3)" in text and "3.14.0 (/opt/py)" in text


@pytest.mark.parametrize("first", [(3, 10, 9), (3, 14, 0)])
def test_a_supported_python_further_down_is_found(
    first: tuple, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    found = probes((first, "/first", True), ((3, 11, 2), "/no-venv", False), GOOD)
    assert find_with(monkeypatch, found) == "/usr/bin/python3.12"
    said = " ".join(capsys.readouterr().out.split())
    assert f"Python {'.'.join(map(str, first))} (/first) is not one of Python 3.11, 3.12" in said


@pytest.mark.parametrize("minor", [11, 12, 13])
def test_a_supported_python_is_taken_without_a_word(
    minor: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    found = probes(((3, minor, 0), "/first", True), GOOD)
    assert find_with(monkeypatch, found) == "/first"
    assert capsys.readouterr().out == ""


def test_every_place_names_the_same_pythons() -> None:
    """The set-up, the package, CI's matrix and the texts that name them."""
    supported = sorted(setup_env.SUPPORTED)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    allowed = SpecifierSet(project["requires-python"])
    minors = [(3, minor) for minor in range(6, 30) if f"3.{minor}.5" in allowed]
    assert minors == supported
    ci = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    names = [".".join(map(str, version)) for version in supported]
    assert ci["jobs"]["test"]["strategy"]["matrix"]["python"] == names
    assert setup_env.VERSIONS == f"Python {', '.join(names[:-1])} or {names[-1]}"
    for file in ("Makefile", ".ci/run"):
        assert setup_env.VERSIONS in (ROOT / file).read_text(), file
    detected = (ROOT / "Makefile").read_text().split("PYTHON ?=")[1].splitlines()[0]
    assert all(f"command -v python{name} " in detected for name in names)


def test_python_without_venv_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(setup_env.Trouble, match=r"apt install python3\.11-venv"):
        find_with(monkeypatch, probes(((3, 11, 2), "/usr/bin/python3", False)))


def test_probe_reads_a_real_python_and_survives_none() -> None:
    assert setup_env.probe(sys.executable) == (sys.version_info[:3], sys.executable, True)
    assert setup_env.probe("/no/such/python") is None
    assert setup_env.probe("false") is None


def test_the_script_has_no_syntax_newer_than_3_6() -> None:
    ast.parse(Path(setup_env.__file__).read_text(encoding="utf-8"), feature_version=(3, 6))


def test_disk_short_says_how_much() -> None:
    with pytest.raises(setup_env.Trouble) as trouble:
        setup_env.check_space(free=10**9, cuda=False)
    assert f"needs about {setup_env.SPACE_CPU / 1e9:.1f} GB" in str(trouble.value)
    assert "1.0 GB are free" in str(trouble.value)
    assert "PIP_EXTRA_INDEX_URL" not in str(trouble.value)


def test_disk_short_for_the_cuda_build_names_the_small_one() -> None:
    with pytest.raises(setup_env.Trouble, match="PIP_EXTRA_INDEX_URL"):
        setup_env.check_space(free=setup_env.SPACE_CUDA - 1, cuda=True)


def test_an_empty_variable_is_no_index(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(setup_env, "venv_python", lambda: sys.executable)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS"):
        monkeypatch.setenv(name, "")
    assert not setup_env.chosen_indexes()
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "file:///somewhere")
    assert setup_env.chosen_indexes()


def test_what_is_there_already_needs_no_space_again(capsys: pytest.CaptureFixture) -> None:
    setup_env.check_space(free=10**9, cuda=False, present=setup_env.SPACE_CPU)
    assert "needs about 0.5 GB" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("log", "kind", "words"),
    [
        ("Temporary failure in name resolution", setup_env.NoNetwork, "HTTPS_PROXY"),
        ("ERROR: HTTPSConnectionPool: Max retries exceeded", setup_env.NoNetwork, "PIP_INDEX_URL"),
        ("[SSL: CERTIFICATE_VERIFY_FAILED]", setup_env.NoNetwork, "PIP_CERT"),
        ("OSError: [Errno 28] No space left on device", setup_env.Trouble, "TMPDIR"),
        ("ERROR: ResolutionImpossible", setup_env.Trouble, "delete the folder .venv"),
        (
            "Max retries exceeded" + "\nfine" * 400 + "\nerror",
            setup_env.Trouble,
            "could not install",
        ),
    ],
)
def test_the_reason_of_a_failed_installation(log: str, kind: type, words: str) -> None:
    trouble = setup_env.why_pip_failed(log)
    assert type(trouble) is kind
    assert words in str(trouble)


def test_what_pip_says_is_shown_and_kept(capfd: pytest.CaptureFixture) -> None:
    command = [sys.executable, "-c", "import sys; print('out'); sys.exit('reason')"]
    assert setup_env.run_shown(command) == (1, "reason\n")
    assert capfd.readouterr() == ("out\n", "reason\n")


def test_second_run_installs_nothing(clone: Path, pip: FakePip) -> None:
    assert setup_env.main() == 0
    assert setup_env.main() == 0
    assert pip.installs == 1


@pytest.mark.parametrize("name", ["pyproject.toml", "constraints.txt"])
def test_new_pins_install_again(clone: Path, pip: FakePip, name: str) -> None:
    setup_env.main()
    (clone / name).write_text("changed")
    marker = clone / ".venv/kept"
    marker.touch()
    assert setup_env.main() == 0
    assert pip.installs == 2 and marker.exists(), "repaired in place"


def test_a_moved_clone_is_set_up_again(
    clone: Path, pip: FakePip, monkeypatch: pytest.MonkeyPatch
) -> None:
    setup_env.main()
    moved = clone.rename(clone.with_name("elsewhere"))
    for name in ("ROOT", "VENV", "STAMP", "UNDERWAY"):
        place = getattr(setup_env, name).replace(str(clone), str(moved))
        monkeypatch.setattr(setup_env, name, place)
    assert setup_env.main() == 0
    assert pip.installs == 2


@pytest.mark.parametrize("exit_code", [1, 130])
def test_a_failed_installation_is_not_taken_for_complete(
    clone: Path, pip: FakePip, exit_code: int
) -> None:
    pip.exit, pip.errors = exit_code, "some error"
    assert setup_env.main() == exit_code
    half_made = clone / ".venv/half-made"
    half_made.touch()
    pip.exit = 0
    assert setup_env.main() == 0
    assert pip.installs == 2 and not half_made.exists(), "made anew"


def test_a_network_failure_keeps_what_works(
    clone: Path, pip: FakePip, capsys: pytest.CaptureFixture
) -> None:
    setup_env.main()
    (clone / "constraints.txt").write_text("changed")
    pip.exit, pip.errors = 1, "Network is unreachable"
    (clone / ".venv/kept").touch()
    assert setup_env.main() == 1
    assert "could not be reached" in capsys.readouterr().err
    assert not (clone / ".venv/course-complete.json").exists()
    pip.exit = 0
    assert setup_env.main() == 0
    assert (clone / ".venv/kept").exists()


def test_an_interrupted_creation_is_not_taken_for_complete(clone: Path, pip: FakePip) -> None:
    (clone / ".venv/bin").mkdir(parents=True)
    (clone / ".venv/left-over").touch()
    assert setup_env.main() == 0
    assert not (clone / ".venv/left-over").exists()


def make(target: str, folder: Path, **env: str) -> subprocess.CompletedProcess:
    """Run make in a folder."""
    settings = {"PATH": os.environ["PATH"], **env}
    return subprocess.run(
        ["make", target], cwd=folder, env=settings, capture_output=True, text=True
    )


def test_help_lists_every_target(clone: Path) -> None:
    shown = set(re.findall(r"^  ([\w-]+) ", make("help", clone).stdout, re.MULTILINE))
    phony = re.search(r"^\.PHONY: (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[1]
    assert shown == set(phony.split())
    assert {"lab", "check", "test", "run", "execute", "lock", "badges", "clean"} <= shown


def test_make_with_nothing_but_an_old_python_says_what_is_missing(clone: Path) -> None:
    (clone / "scripts").mkdir()
    shutil.copy(setup_env.__file__, clone / "scripts")
    old = clone / "old python"
    old.write_text("#!/bin/sh\necho 'Found: an old one' >&2; exit 1\n")
    old.chmod(0o755)
    result = make("lab", clone, PYTHON=str(old))
    assert result.returncode != 0
    assert result.stderr.startswith("Found: an old one")
