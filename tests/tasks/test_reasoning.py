import copy
import json
from dataclasses import replace

import pytest

from tasks import reasoning
from tasks.reasoning import CHAT_TEMPLATE, END, SOLUTION, START, SYSTEM_PROMPT, Problem
from tasks.rewards.reasoning import extract_solution, reasoning_rewards
from utils import profiles

TINY, SMOL, SMALL, LARGE = profiles.PROFILES.values()


@pytest.fixture
def templated(tokenizer):
    own = copy.deepcopy(tokenizer)  # the fixture is everybody's
    own.chat_template = CHAT_TEMPLATE
    return own


def write(folder, name, split, rows):
    target = folder / name / f"{split}.jsonl"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")


def test_the_template_to_the_letter(templated):
    chat = [
        *reasoning.messages(Problem("6*7?", "42"), SMALL),
        {"role": "assistant", "content": f"6*7=42{END}{SOLUTION}42</SOLUTION>"},
    ]
    text = templated.apply_chat_template(chat, tokenize=False)
    eos = templated.eos_token
    assert text == (f"{SYSTEM_PROMPT}{eos}6*7?{START}6*7=42{END}{SOLUTION}42</SOLUTION>{eos}")


@pytest.mark.parametrize("profile", [TINY, SMOL, SMALL, LARGE])
def test_a_prompt_is_a_prefix_of_its_conversation(templated, profile):
    problem = Problem("6*7?", "42", "6*7=42")
    chat = reasoning.messages(problem, profile)
    prompt = templated.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    whole = [*chat, {"role": "assistant", "content": problem.completion}]
    assert templated.apply_chat_template(whole, tokenize=False) == (
        prompt + problem.completion + templated.eos_token
    )
    assert prompt.endswith(START)


@pytest.mark.parametrize("profile", [TINY, SMOL])
def test_demonstrations_earn_all_points(profile):
    for problem in reasoning.demonstrations(profile, 50):
        points = reasoning_rewards(problem.completion, problem.answer)
        assert sum(points.values()) == 13.0
        assert reasoning.is_right(problem, extract_solution(problem.completion))


def test_smol_has_its_own_problems_and_every_demonstration_shows_its_steps():
    shown = reasoning.demonstrations(SMOL, 30, seed=4)
    assert [p.question for p in shown] == [
        p.question for p in reasoning.problems(SMOL, "train", 30, seed=4)
    ]
    assert all("=" in p.working and p.working.endswith(p.answer) for p in shown)
    assert not any(p.working for p in reasoning.problems(SMOL, "test", 30))


def test_most_tiny_demonstrations_show_no_steps():
    shown = reasoning.demonstrations(TINY, 400)
    worked = sum("=" in problem.working for problem in shown) / 400
    assert 0.2 < worked < 0.4
    assert all("=" in p.working or p.working == " " for p in shown)


def test_train_and_test_problems_differ_and_a_seed_repeats_them():
    train, test = (reasoning.problems(TINY, split, 300) for split in ("train", "test"))
    assert not {p.question for p in train} & {p.question for p in test}
    assert train == reasoning.problems(TINY, "train", 300)
    assert train != reasoning.problems(TINY, "train", 300, seed=1)
    assert all(not p.working for p in train + test)


def test_gsm8k_rows(tmp_path, monkeypatch):
    worked = "She has 3*4=<<3*4=12>>12 pens.\nThen 12+1,000=<<12+1000=1012>>1,012.\n#### 1,012"
    write(tmp_path, "gsm8k", "train", [{"question": "How many?", "answer": worked}])
    monkeypatch.setenv("COURSE_DATA_DIR", str(tmp_path))
    assert reasoning.problems(SMALL, "train", 5) == [Problem("How many?", "1012")]
    shown = reasoning.demonstrations(SMALL, 5)[0]
    assert shown.working == "She has 3*4=12 pens.\nThen 12+1,000=1,012."


def test_dapo_rows_are_split_by_their_text(tmp_path, monkeypatch):
    rows = [{"prompt": f" What is {n} + 1? ", "solution": f"{n + 1}"} for n in range(400)]
    rows.append({"prompt": "Which letter?", "solution": "B"})
    write(tmp_path, "dapo_math", "train", rows)
    monkeypatch.setenv("COURSE_DATA_DIR", str(tmp_path))
    train, test = (reasoning.problems(LARGE, split, 1000) for split in ("train", "test"))
    assert len(train) + len(test) == 400  # the letter is no number
    assert not {p.question for p in train} & {p.question for p in test}
    assert 5 <= len(test) <= 40
    assert all(p.question == p.question.strip() for p in train)
    with pytest.raises(ValueError, match="known: train, test"):
        reasoning.problems(LARGE, "validation", 3)


def test_open_math_rows_are_filtered(tmp_path, monkeypatch):
    def row(answer, solution):
        return {"problem": "P?", "expected_answer": answer, "generated_solution": solution}

    rows = [
        row("14", "<think>\nIt is long: 7+7=14.\n</think>\nSo 14."),
        row("14", "<think>7+7=14</think>"),
        row("x^2", "<think>Let me see.</think>"),
        row("3", "<think>I never stop"),
        row("3", f"<think>Put it in {SOLUTION}3</think>"),
    ]
    write(tmp_path, "open_math", "cot", rows)
    monkeypatch.setenv("COURSE_DATA_DIR", str(tmp_path))
    shown = reasoning.demonstrations(LARGE, 10)
    assert [p.working for p in shown] == ["7+7=14", "It is long: 7+7=14."]
    assert reasoning.demonstrations(LARGE, 1) == shown[:1]


@pytest.mark.parametrize(
    ("solution", "right"),
    [("42", True), (" 42.0 ", True), ("43", False), ("six", False), ("42/2", False)],
)
def test_right_is_the_same_number(solution, right):
    assert reasoning.is_right(Problem("?", "42"), solution) == right
    assert not reasoning.is_right(Problem("?", "42"), None)


def test_real_gsm8k_problems_are_read(data_dir):
    found = reasoning.problems(replace(SMALL, seed=0), "test", 2000)
    assert len(found) == 1319
    assert all(reasoning.is_right(p, p.answer) for p in found)
