"""What `make test` and `make check` run."""

import subprocess
import sys
from pathlib import Path

import pytest

from scripts import run_tests


def test_everything_is_in_test_and_no_notebook_in_check() -> None:
    whole, part = run_tests.steps(), run_tests.steps(with_notebooks=False)
    notebooks = sorted(path.name for path in (run_tests.ROOT / "notebooks").glob("*.ipynb"))
    assert [Path(name).name for name, _ in whole if name.endswith(".ipynb")] == notebooks
    assert dict(whole)["unit tests"] == ["pytest"], "all of them"
    assert [name for name, _ in part] == ["format", "lint", "unit tests"]
    assert part[:2] == whole[:2]


def test_check_leaves_out_the_unit_tests_that_execute_notebooks() -> None:
    files = ["tests/notebooks", "tests/scripts/test_badges.py"]
    command = [sys.executable, "-m", *dict(run_tests.steps(with_notebooks=False))["unit tests"]]
    command += ["--collect-only", "-q", "-n", "0", *files]
    result = subprocess.run(command, cwd=run_tests.ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "test_shape.py::" in result.stdout and "test_badges.py::" in result.stdout
    assert "test_small_profile.py::" not in result.stdout


@pytest.mark.parametrize("arguments", [[], ["--no-notebooks"]])
def test_a_failed_step_fails_the_run_and_the_others_run(arguments, monkeypatch, capsys) -> None:
    ran = []

    def run_step(name, command):
        ran.append(name)
        return name, name != "lint", 1.0

    monkeypatch.setattr(run_tests, "run_step", run_step)
    monkeypatch.setattr(run_tests, "use_fixed_env", lambda: None)
    monkeypatch.setattr(sys, "argv", ["run_tests", *arguments])
    assert run_tests.main() == 1
    expected = run_tests.steps(with_notebooks=not arguments)
    assert sorted(ran) == sorted(name for name, _ in expected)
    assert f"steps: {len(ran) - 1} passed, 1 failed" in capsys.readouterr().out
