"""Answers are found where they stand, and only there."""

import pytest

from utils.rewards import extract_hash_answer
from utils.tasks import math


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("17*2=34 #### 34", "34"),
        ("#### 1,002", "1002"),
        ("####-7", "-7"),
        ("#### $12.50 a day", "12.50"),
        ("first #### 3 then #### 4", "4"),
        ("first #### 3 then ####", None),
        ("no marker 5", None),
        ("", None),
        ("####\n\n  8", "8"),
        ("#### seven", None),
        ("#### ٣", None),  # not an ASCII digit
    ],
)
def test_extract_hash_answer(text, answer):
    assert extract_hash_answer(text) == answer


def test_extraction_is_linear_in_hostile_text():
    assert extract_hash_answer("#### " * 200_000 + "9") == "9"
    assert extract_hash_answer("####" + "9" * 1_000_000).isdigit()


def test_word_problem_scores():
    example = math.MathExample("q", ("1+1=2",), "2")
    assert math.score(example, " 1+1=2 #### 2") == 1.0
    assert math.score(example, " 1+1=2 #### 3") == 0.0
    assert math.score(example, " 2") == 0.0


def test_gsm8k_gold_answers_are_right(data_dir):
    import json

    rows = [json.loads(line) for line in (data_dir / "gsm8k/test.jsonl").open(encoding="utf-8")]
    examples = math.load_gsm8k("test")
    assert all(math.score(e, row["answer"]) for e, row in zip(examples, rows, strict=True))
