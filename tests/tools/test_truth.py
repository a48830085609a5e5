"""The matrix of `make truth`: no public function without its checks, no check without a row."""

import json
import re
from collections import Counter

import pytest

from tools import truth


def test_every_cell_has_a_test_or_a_reason():
    assert truth.problems(truth.marked_in_source()) == []


def test_the_rows_are_the_public_functions():
    rows = truth.public_functions()
    assert rows["dpo_loss"] == "losses.dpo_loss" and rows["gae"] == "advantages.gae"
    assert {"k1", "sequential_kl", "entropy", "masked_whiten", "sft_loss"} <= set(rows)
    # Not what a module only imports, and not its helpers.
    assert not {"masked_sum_", "_kept", "per_sequence", "Cache"} & set(rows)


def test_a_new_function_without_marks_is_missing(monkeypatch):
    def k4(logprobs, ref_logprobs):
        return logprobs

    k4.__module__ = "utils.kl"
    monkeypatch.setattr(truth.kl, "k4", k4, raising=False)
    found = truth.problems(truth.marked_in_source())
    assert "k4: needs a slow loop or an enumeration" in found
    assert "k4: needs a test of its gradient, or that none flows" in found


def test_a_loss_that_the_package_forgot_is_missing(monkeypatch):
    from utils.losses import preference

    monkeypatch.setattr(preference, "other_loss", lambda: None, raising=False)
    assert "other_loss: needs a slow loop or an enumeration" in truth.problems(Counter())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({("gae", "gradient"): None}, "gae: needs a test of its gradient, or that none flows"),
        ({("gae", "trl"): None}, "gae, trl: neither a test nor a reason"),
        ({("tdpo_loss", "trl"): 1}, "tdpo_loss, trl: has a test and a reason for having none"),
        ({("gae", "speed"): 1}, "gae, speed: no such public function or kind"),
        ({("gea", "loop"): 1}, "gea, loop: no such public function or kind"),
    ],
)
def test_holes_and_strays_are_named(change, message):
    cells = truth.marked_in_source()
    for cell, count in change.items():
        cells.pop(cell, None)
        if count:
            cells[cell] = count
    assert truth.problems(cells) == [message]


def test_the_table_shows_what_passed_failed_and_is_absent():
    outcomes = {
        ("tdpo_loss", "loop"): Counter(passed=9),
        ("gae", "loop"): Counter(passed=3, failed=1),
    }
    lines = truth.table(outcomes).splitlines()
    assert lines[0].split("|")[1].strip() == "function"
    row = {line.split("|")[1].strip(): line for line in lines if line.startswith("| `")}
    tdpo = [cell.strip() for cell in row["`relatives.dpo.tdpo_loss`"].split("|")[2:-1]]
    assert tdpo[0] == "9 passed" and tdpo[1].startswith("— [") and tdpo[3] == "MISSING"
    number = tdpo[2].strip("— []")
    assert f"- [{number}] TRL 1.12 has no TDPO" in lines
    assert "1 failed, 3 passed" in row["`advantages.gae`"]


def test_what_is_stored_is_what_is_shown_until_the_markers_change(tmp_path, monkeypatch):
    cells = Counter({("gae", "loop"): 2, ("gae", "gradient"): 1, ("k1", "trl"): 1})
    monkeypatch.setattr(truth, "RESULTS", tmp_path / "truth.json")
    monkeypatch.setattr(truth, "marked_in_source", lambda: cells)
    truth.write_results({cell: Counter(passed=10 * n) for cell, n in cells.items()})
    document = json.loads(truth.RESULTS.read_text())
    assert document["functions"]["gae"]["loop"] == {"tests": 20, "markers": 2}
    text = truth.stored_table(document)
    assert re.search(r"`advantages.gae` +\| 20 passed +\| MISSING +\| MISSING +\| 10 passed", text)
    assert f"Run on {document['date']}: {document['machine']}, torch " in text
    assert truth.stale(document) == []
    cells[("gae", "loop")] = 3
    cells[("k2", "loop")] = cells.pop(("k1", "trl"))
    assert truth.stale(document) == [
        "gae, loop: 2 markers were run, 3 stand in the tests",
        "k1, trl: 1 markers were run, 0 stand in the tests",
        "k2, loop: 0 markers were run, 1 stand in the tests",
    ]


@pytest.mark.parametrize("trouble", ["status", "cell", "skipped"])
def test_nothing_is_stored_when_something_is_wrong(tmp_path, monkeypatch, capsys, trouble):
    monkeypatch.setattr(truth, "RESULTS", tmp_path / "truth.json")
    monkeypatch.setattr(truth, "use_fixed_env", lambda: None)
    outcomes = {cell: Counter(passed=n) for cell, n in truth.marked_in_source().items()}

    def run(options, plugins):
        plugins[0].outcomes = outcomes
        return 1 if trouble == "status" else 0

    monkeypatch.setattr(truth.pytest, "main", run)
    if trouble == "cell":
        del outcomes["gae", "trl"]
    if trouble == "skipped":
        outcomes["gae", "trl"] = Counter(passed=1, skipped=1)
    assert truth.main() == 1
    assert "Nothing was stored." in capsys.readouterr().err and not truth.RESULTS.exists()
    outcomes["gae", "trl"] = Counter(passed=1)
    if trouble != "status":
        assert truth.main() == 0 and truth.RESULTS.exists()


TESTS = """
import pytest

@pytest.mark.truth("gae", "loop", "gradient")
@pytest.mark.parametrize("x", [1, 2])
def test_right(x): pass

@pytest.mark.truth("gae", "trl")
@pytest.mark.truth("k1", "trl")
def test_wrong(): assert False

@pytest.mark.truth("k2", "loop")
def test_left_out(): pytest.skip("not here")

@pytest.fixture
def broken(): raise RuntimeError

@pytest.mark.truth("k3", "loop")
def test_without_fixture(broken): pass

def test_unmarked(): assert False
"""


def test_outcomes_are_counted_by_cell(tmp_path):
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n    truth(function, *kinds): x\n")
    (tmp_path / "test_some.py").write_text(TESTS)
    recorder = truth.Recorder()
    options = ["-p", "no:cacheprovider", "-p", "no:terminal", str(tmp_path)]
    assert pytest.main(options, plugins=[recorder]) == 1
    assert recorder.outcomes == {
        ("gae", "loop"): Counter(passed=2),
        ("gae", "gradient"): Counter(passed=2),
        ("gae", "trl"): Counter(failed=1),
        ("k1", "trl"): Counter(failed=1),
        ("k2", "loop"): Counter(skipped=1),
        ("k3", "loop"): Counter(failed=1),
    }
    assert not recorder.passed_everywhere()
