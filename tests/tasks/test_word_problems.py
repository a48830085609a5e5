"""Word problems for SmolLM2: right answers, many phrasings, splits that share none of them."""

import re

import pytest

from tasks import math, word_problems
from tasks.phrasings import KINDS
from tasks.word_problems import SPLITS, make_examples
from utils.profiles import PROFILES

EXAMPLES = {split: make_examples(split, 400) for split in SPLITS}


def skeleton(question):
    """The phrasing: without numbers, people and things."""
    people = {name for names in word_problems._PEOPLE.values() for name in names}
    words = "|".join(sorted(people) + list(word_problems._THINGS))
    return re.sub(rf"\d+|\b({words})\b", "_", question)


@pytest.mark.parametrize("split", SPLITS)
def test_the_steps_lead_to_the_answer(split):
    for example in EXAMPLES[split]:
        last = None
        for step in example.steps:
            a, operation, b, result = re.fullmatch(r"(\d+)([-+*/])(\d+)=(\d+)", step).groups()
            a, b, result = int(a), int(b), int(result)
            assert last in (None, a)
            assert a == {"+": result - b, "-": result + b, "/": result * b}.get(operation, a)
            assert operation != "*" or a * b == result
            last = result
        assert str(last) == example.answer and last > 1
        assert 1 <= len(example.steps) <= 2
        assert math.score(example, example.worked) == 1
        assert math.score(example, f"#### {last + 1}") == 0


@pytest.mark.parametrize("split", SPLITS)
def test_every_number_of_the_story_is_used(split):
    for example in EXAMPLES[split]:
        told = re.findall(r"\d+", example.question)
        used = [n for i, s in enumerate(example.steps) for n in re.findall(r"\d+", s)[i > 0 : 2]]
        assert sorted(told) == sorted(used)
        assert "{" not in example.question


def test_there_are_several_hundred_phrasings_and_each_kind_is_held_out_too():
    assert sum(len(kind.phrasings()) for kind in KINDS) > 400
    for kind in KINDS:
        kept = [word_problems.held_out(p) for p in kind.phrasings()]
        assert 0 < sum(kept) < len(kept) / 2


def test_no_phrasing_and_no_person_of_train_is_in_the_other_splits():
    many = make_examples("train", 3000)
    train = {skeleton(e.question) for e in many}
    assert len(train) > 250
    for split in ("validation", "test"):
        assert not train & {skeleton(e.question) for e in EXAMPLES[split]}
        for name in word_problems._PEOPLE["train"]:
            assert not any(re.search(rf"\b{name}\b", e.question) for e in EXAMPLES[split])
    people = word_problems._PEOPLE
    assert not set(people["validation"]) & set(people["test"])


def test_a_seed_gives_the_same_problems_and_another_seed_others():
    assert make_examples("train", 50, 1) == make_examples("train", 50, 1)
    ours, others = (make_examples("train", 50, seed) for seed in (1, 2))
    assert len({e.question for e in ours}) == 50
    assert not {e.question for e in ours} >= {e.question for e in others}


def test_the_prompt_asks_for_the_form_that_is_scored():
    example = EXAMPLES["test"][0]
    assert example.prompt.startswith(example.question) and "####" in example.prompt


def test_an_unknown_split_lists_the_known_ones():
    with pytest.raises(ValueError, match="'dev'.*train, validation, test"):
        make_examples("dev", 1)


def test_a_profile_gets_problems_of_its_size(monkeypatch):
    smol = PROFILES["smol"]
    assert word_problems.load("test", 5, smol) == make_examples("test", 5)
    monkeypatch.setattr(math, "load_gsm8k", lambda split, n: f"GSM8K {split} {n}")
    assert word_problems.load("train", 3, PROFILES["small"]) == "GSM8K train 3"
    assert word_problems.load("test", 4, PROFILES["tiny"]) == math.make_examples("test", 4)
