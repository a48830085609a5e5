"""The table of `make mutants`, its results, and the script that measures them."""

import json
from collections import Counter

import pytest

from tools import mutants
from tools.mutations import KINDS, MUTATIONS, Mutation

# What a wrong result would come from; a module that is added belongs here and into the table.
COVERED = {
    *(f"utils/losses/{name}.py" for name in ("policy", "preference", "supervised")),
    *("utils/losses/dpo.py", "utils/losses/grpo.py", "relatives/dpo.py", "relatives/grpo.py"),
    *(f"utils/{name}.py" for name in ("arguments", "advantages", "kl", "forward", "logprobs")),
    *(f"utils/{name}.py" for name in ("rollout", "cache", "chat", "values", "evaluate")),
    *("utils/monitor.py", "relatives/advantages.py", "relatives/samplers.py", "relatives/lora.py"),
    *(f"tasks/rewards/{name}.py" for name in ("extract", "gsm8k", "reasoning", "sales")),
    *(f"tasks/rewards/{name}.py" for name in ("number", "markup", "same", "formula")),
    *(
        "engines/resume.py",
        "tasks/sql/compare.py",
        "tasks/sql/task.py",
        "tasks/math.py",
        "tasks/identity.py",
    ),
}


def test_every_mistake_can_be_made():
    assert mutants.problems(MUTATIONS) == []


def test_there_are_enough_of_every_kind_in_every_module():
    assert len(MUTATIONS) >= 60
    assert Counter(m.kind for m in MUTATIONS).keys() == set(KINDS)
    assert {m.file for m in MUTATIONS} >= COVERED


def test_enough_are_caught_and_every_survivor_is_explained():
    document = json.loads(mutants.RESULTS.read_text(encoding="utf-8"))
    results = document["results"]
    assert mutants.complaints(MUTATIONS, results) == []
    assert {mutants.key_of(result) for result in results} == {m.key for m in MUTATIONS}
    assert document["rate"] == round(mutants.rate_of(results), 4) >= mutants.LEAST_RATE


MAX = "def larger(a, b):\n    return max(a, b)\n"
TEST = "from utils.few import larger\n\ndef test_larger():\n    assert larger(1, 2) == 2\n"


@pytest.fixture
def few(tmp_path):
    """A repository with one module and one test; a function that makes mistakes in it."""
    for path, text in {
        "utils/__init__.py": "",
        "utils/few.py": MAX,
        "tests/test_few.py": TEST,
        "pytest.ini": "[pytest]\n",
    }.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(text)

    def mistake(old="max(a", new="min(a", kind="min/max", tests=("test_few.py",), survives=""):
        return Mutation("utils/few.py", kind, old, new, tests, survives)

    return tmp_path, mistake


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"old": "max(c"}, "'max(c' occurs 0 times, not once"),
        ({"old": "a, b"}, "'a, b' occurs 2 times, not once"),
        ({"new": "max(("}, "the new text does not compile"),
        ({"kind": "typo"}, "kind 'typo', need one of arguments, axis"),
        ({"tests": ("test_many.py",)}, "no such tests: test_many.py"),
        ({"tests": ()}, "no such tests: none given"),
    ],
)
def test_a_mistake_that_cannot_be_made_is_named(few, change, message):
    folder, mistake = few
    (found,) = mutants.problems([mistake(**change)], folder)
    assert "few.py" in found and message in found
    assert mutants.problems([mistake()], folder) == []


def test_a_missing_file_and_a_repeated_mistake_are_named(few):
    folder, mistake = few
    assert "stands there 2 times" in mutants.problems([mistake(), mistake()], folder)[0]
    (folder / "utils/few.py").unlink()
    assert "few.py" in mutants.problems([mistake()], folder)[0]


def test_the_verdict_reads_pytests_status():
    assert mutants.verdict(0, "3 passed") == (False, "")
    summary = "...\nFAILED tests/test_x.py::TestA::test_b[a - b] - assert 1 == 2\n1 failed"
    assert mutants.verdict(1, summary) == (True, "tests/test_x.py::TestA::test_b")
    on_import = "ERROR tests/test_x.py - NameError: name 'y' is not defined"
    assert mutants.verdict(2, on_import) == (True, "tests/test_x.py")
    for status, output in ((1, "killed"), (5, "no tests ran"), (-9, summary)):
        with pytest.raises(RuntimeError, match=f"ended with status {status}"):
            mutants.verdict(status, output)


def test_mistakes_are_made_in_the_copy_and_taken_back(few, monkeypatch):
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    folder, mistake = few
    result = mutants.measure(mistake(), folder)
    assert result["caught"] and result["by"] == "tests/test_few.py::test_larger"
    assert mutants.key_of(result) == mistake().key
    missed = mutants.measure(mistake("max(a, b)", "b"), folder)
    assert not missed["caught"] and missed["by"] == ""
    endless = "    while True:\n        pass\n"
    monkeypatch.setattr(mutants.run_tests, "__defaults__", (2,))
    stopped = mutants.measure(mistake("    return max(a, b)\n", endless), folder)
    assert stopped["caught"] and stopped["by"] == "the time limit of 2 s"
    assert (folder / "utils/few.py").read_text() == MAX


def test_what_the_results_lack_is_named(few):
    _, mistake = few
    plain, explained = mistake(), mistake(new="max(b", survives="max is symmetric")

    def results(*caught):
        pairs = zip((plain, explained), caught, strict=False)
        return [{"file": m.file, "old": m.old, "new": m.new, "caught": c} for m, c in pairs]

    both = [plain, explained]
    assert mutants.complaints([plain], results(True)) == []
    assert mutants.complaints(both, results(True, False)) == ["50.0% were caught: need 95%"]
    assert "'max(a' has no result" in mutants.complaints(both, results(True))[0]
    assert "'max(a' -> 'min(a' was missed" in mutants.complaints([plain], results(False))[0]
    assert "drop its explanation" in mutants.complaints(both, results(True, True))[0]
