"""The table of `make lesson-mutants` and its results."""

import json
from collections import Counter

import pytest

from tools import lesson_mutants
from tools.lesson_mistakes import MISTAKES


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda m: f"{m.lesson} {m.kind}")
def test_every_mistake_can_be_made(mistake):
    node = lesson_mutants.mutated(mistake)
    assert mistake.new in "\n".join(cell.source for cell in node.cells)


def test_every_lesson_has_enough_and_none_twice():
    assert min(Counter(mistake.lesson for mistake in MISTAKES).values()) >= 8
    assert len({mistake.key for mistake in MISTAKES}) == len(MISTAKES)


def test_survivors_are_explained_and_enough_are_noticed():
    results = lesson_mutants.stored()
    measured = {result["lesson"] for result in results.values()}
    found = lesson_mutants.complaints(results)
    assert [line for line in found if line[7:9] in measured] == []


RESULT = {"lesson": "00", "old": "a", "new": "b", "caught": True}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, []),
        ({"caught": False}, ["was missed"]),
        (None, ["has no result"]),
    ],
)
def test_complaints(monkeypatch, change, said):
    made = [lesson_mutants.Mistake("00", "sign", "a", "b")]
    monkeypatch.setattr(lesson_mutants, "MISTAKES", made)
    results = {} if change is None else {made[0].key: RESULT | change}
    found = lesson_mutants.complaints(results)
    assert all(any(word in line for line in found) for word in said)
    assert bool(found) is bool(said)


def test_an_explained_survivor_passes_until_it_is_caught(monkeypatch):
    made = [lesson_mutants.Mistake("00", "sign", letter, "b", "cannot be seen") for letter in "ac"]
    monkeypatch.setattr(lesson_mutants, "MISTAKES", made)
    monkeypatch.setattr(lesson_mutants, "LEAST_RATE", 0.0)
    results = {m.key: RESULT | {"old": m.old, "caught": m.old == "c"} for m in made}
    (line,) = lesson_mutants.complaints(results)
    assert "drop its explanation" in line and "'c'" in line


def test_a_mistake_whose_text_is_not_there_is_refused():
    mistake = lesson_mutants.Mistake("00", "sign", "no such text", "x")
    with pytest.raises(ValueError, match="occurs 0 times"):
        lesson_mutants.mutated(mistake)


def test_results_are_stored_under_their_mistake(tmp_path, monkeypatch):
    file = tmp_path / "results.json"
    monkeypatch.setattr(lesson_mutants, "RESULTS", file)
    assert lesson_mutants.stored() == {}
    file.write_text(json.dumps({"results": [RESULT]}), encoding="utf-8")
    assert lesson_mutants.stored() == {("00", "a", "b"): RESULT}
