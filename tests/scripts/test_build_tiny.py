"""The base's model card: intervals over problems, and tables that are renewed whole."""

import pytest
import torch

from scripts import build_tiny


def result(scores, texts):
    class Result:
        def __str__(self):
            return "0.500 [0.400, 0.600]"

    made = Result()
    made.scores, made.texts = scores, texts
    return made


def test_answers_to_one_problem_are_one_draw():
    scores = [torch.full((4,), float(i % 2)) for i in range(8)]
    texts = [["1+1=2 #### 2"] * 3 + ["#### 2"]] * 8
    worked, at_once = build_tiny.steps_pay(result(scores, texts))
    assert worked.startswith("| worked step by step | 0.750 | 0.500 [")
    low, high = (float(x) for x in worked.split("[")[1].rstrip("] |").split(", "))
    assert low <= 0.15 and high >= 0.85  # 24 independent answers would give about 0.3 to 0.7
    assert at_once.startswith("| answered at once | 0.250 | 0.500 [")


def test_only_the_tables_of_the_card_are_measured_again():
    card = (build_tiny.ROOT / "assets/tiny/base/README.md").read_text(encoding="utf-8")
    scores, texts = [torch.ones(2), torch.zeros(2)], [["1+1=2", "2"], ["=", "3"]]
    new = build_tiny.measured_again(card, {"word problems, sampled": result(scores, texts)})
    assert "| word problems, sampled | 0.500 [0.400, 0.600] |\n\nDo steps pay?" in new
    before, after = (text.partition("| task | accuracy |")[0] for text in (card, new))
    assert before == after and new.count("\n| ") == 1 + 1 + 1 + 2 and new.endswith("|\n")
    with pytest.raises(ValueError, match="two tables"):
        build_tiny.measured_again("no card", {})
