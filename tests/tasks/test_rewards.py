"""Answers are found where they stand, and only there; rewards pay for what they name.

The test on real data needs COURSE_DATA_DIR, a folder with gsm8k/test.jsonl.
"""

import json
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks import math, rewards
from tasks.rewards import (
    extract_boxed,
    extract_hash_answer,
    extract_xml_answer,
    normalise_number,
    same_number,
)

MILLION = 1_000_000
GOOD = "<reasoning>\n17 + 25\n= 42\n</reasoning>\n<answer>\n42\n</answer>"
ONE_LINE = "<reasoning>17 + 25 = 42</reasoning> <answer>42</answer>"
SOLVED = "17 + 25\n= 42<end_working_out>\n<SOLUTION>42</SOLUTION>"
HOSTILE = [
    "<answer>" * (MILLION // 8),
    "</answer>" * (MILLION // 9),
    "<answer></answer>" * (MILLION // 17),
    "<answer>" + "9" * MILLION + "</answer>",
    "<answer>" + "1," * (MILLION // 2) + "</answer>",
    "<reasoning>" * (MILLION // 11) + GOOD,
    "</reasoning>" + " " * MILLION + "<answer>",
    "<end_working_out>" * (MILLION // 17),
    "<end_working_out>" + "<SOLUTION>" * (MILLION // 10),
    "<end_working_out><SOLUTION>" + "123," * (MILLION // 4) + "x</SOLUTION>",
    "<end_working_out><SOLUTION>" + "9" * MILLION + "</SOLUTION>",
    "<end_working_out><SOLUTION>1" + " " * MILLION + "x</SOLUTION>",
    "<end_working_out><SOLUTION>" + "-$" * (MILLION // 2) + "</SOLUTION>",
    "感谢" * (MILLION // 2),
    "**" * (MILLION // 2),
    "\0" * MILLION,
]


# Extraction


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("17*2=34 #### 34", "34"),
        ("#### 1,002", "1002"),
        ("####-7", "-7"),
        ("#### $12.50 a day", "12.5"),
        ("first #### 3 then #### 4", "4"),
        ("first #### 3 then ####", None),
        ("no marker 5", None),
        ("", None),
        ("####\n\n  8", "8"),
        ("#### seven", None),
        ("#### ٣", None),  # not an ASCII digit
        ("#### **8**.", "8"),
        ("#### 8/3", None),
        ("#### 8 or 9", None),
        ("#### 8\nNow the next problem.", None),
    ],
)
def test_extract_hash_answer(text, answer):
    assert extract_hash_answer(text) == answer


def test_extraction_is_linear_in_hostile_text():
    assert extract_hash_answer("#### " * 200_000 + "9") == "9"
    assert extract_hash_answer("####" + "9" * MILLION) is None
    # 400 characters are read: in LaTeX, `~` is a space.
    assert extract_hash_answer("####" + "~" * 399 + "9") == "9"
    assert extract_hash_answer("####" + "~" * 400 + "9") is None
    assert extract_boxed(r"\boxed{" * (MILLION // 7)) == []
    assert extract_boxed(r"\boxed{" * 100_000 + "9" + "}" * 100_000)[0].count("9") == 1


@pytest.mark.parametrize(
    ("text", "boxes"),
    [
        (r"so \boxed{42}.", ["42"]),
        (r"\boxed{\frac{1}{\sqrt{2}}}", [r"\frac{1}{\sqrt{2}}"]),
        (r"\boxed {42} and \fbox{43}", ["42", "43"]),
        (r"\boxed{\{1, 2\}}", [r"\{1, 2\}"]),
        (r"\boxed{a \} b}", [r"a \} b"]),
        (r"\boxed{\boxed{7}}", [r"\boxed{7}"]),
        (r"\boxed{1 then \boxed{2}", ["2"]),
        (r"}}} \boxed{3}", ["3"]),
        (r"\boxed{}", [""]),
        (r"\boxed 7, \boxedx{8}, boxed{9}, \boxed{10", []),
    ],
)
def test_extract_boxed(text, boxes):
    assert extract_boxed(text) == boxes


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (GOOD, "42"),
        (ONE_LINE, "42"),
        ("<answer>42</answer>", "42"),
        ("<answer>\na\nb\n</answer>", "a\nb"),
        ("<answer></answer>", ""),
        ("<answer> \n </answer>", ""),
        ("42", None),
        ("", None),
        ("<answer>42", None),
        ("42</answer>", None),
        ("</answer>42<answer>", None),
        ("<answer>1</answer> no, <answer>2</answer>", "2"),
        ("<answer>1</answer> no, <answer>2", "1"),
        ("<answer>1<answer>2</answer>", "2"),
        ("<answer>1</answer>2</answer>", "1"),
        ("<ANSWER>1</ANSWER>", None),
        ("< answer>1</answer>", None),
        ("<reasoning><answer>1</answer></reasoning>", None),
        ("<reasoning><answer>1</answer></reasoning><answer>2</answer>", "2"),
        ("<reasoning>unfinished <answer>1</answer>", None),
        ("<answer>1</answer><reasoning>late <answer>2</answer>", "1"),
        ("<reasoning>a</reasoning><answer>1</answer><reasoning>", "1"),
        # A prompt's example repeated before the real answer.
        ("<reasoning>\n...\n</reasoning>\n<answer>\n...\n</answer>\n" + GOOD, "42"),
        ("<answer>4\x002</answer>", "4\x002"),
    ],
)
def test_extract_xml_answer(text, answer):
    assert extract_xml_answer(text) == answer


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("42", "42"),
        (" 42\n", "42"),
        ("042", "42"),
        ("000", "0"),
        ("+42", "42"),
        ("42.0", "42"),
        ("420", "420"),
        (".50", "0.5"),
        ("-0", "0"),
        ("-0.00", "0"),
        ("-7.10", "-7.1"),
        ("1,002", "1002"),
        ("12,345,678.9", "12345678.9"),
        ("$5", "5"),
        ("-$5", "-5"),
        ("$-5", "-5"),
        ("50%", "50"),
        ("50 %", "50"),
        ("1e3", "1000"),
        ("1.5E+2", "150"),
        ("1e-3", "0.001"),
        ("9" * 64, "9" * 64),
        ("9" * 65, None),
        ("1e400", None),
        ("0x10", None),
        ("1_000", None),  # float() reads this one
        ("nan", None),
        ("inf", None),
        ("", None),
        (None, None),
        ("-", None),
        ("$", None),
        (".", None),
        ("5.", None),
        ("1/2", None),
        ("3 or 4", None),
        ("1,2", None),
        ("10,02", None),
        ("1,0002", None),
        ("5 dozen", None),
        ("5km", None),
        ("--5", None),
        ("٣", None),
        ("４２", None),
        ("²", None),
        ("1.٣", None),
        (".٣", None),
        ("1e٣", None),
        ("1,٠٠٠", None),
        ("−5", "-5"),  # U+2212, the minus sign of typeset text
        ("$−5", "-5"),
        ("–5", None),  # U+2013, a dash
        ("4\x002", None),
        ("__import__('os')", None),
    ],
)
def test_normalise_number(text, number):
    assert normalise_number(text) == number


def test_same_number():
    assert same_number("$1,002.00", "1002")
    assert same_number("-0", "0")
    assert same_number("1e3", "1,000")
    assert not same_number("5", "-5")
    assert not same_number("x", "x")
    assert not same_number(None, None)
    # A float cannot tell these apart.
    assert not same_number("10000000000000000", "10000000000000001")
    assert not same_number("0.3", "0.30000000000000001")


# GSM8K: xmlcount, soft format, strict format, integer, correctness


@pytest.mark.parametrize(
    ("completion", "points"),
    [
        (GOOD, (0.5, 0.5, 0.5, 0.5, 2.0)),
        (GOOD + "\n", (0.5, 0.5, 0.5, 0.5, 2.0)),
        (GOOD.replace("42\n</answer>", "41\n</answer>"), (0.5, 0.5, 0.5, 0.5, 0.0)),
        (ONE_LINE, (0.0, 0.5, 0.0, 0.5, 2.0)),
        (" \n" + GOOD + " bye", (0.497, 0.5, 0.0, 0.5, 2.0)),
        (GOOD + "\n\n", (0.5, 0.5, 0.0, 0.5, 2.0)),
        ("So: " + GOOD, (0.5, 0.0, 0.0, 0.5, 2.0)),
        (GOOD + "x" * 100, (0.4, 0.5, 0.0, 0.5, 2.0)),
        (GOOD + "x" * 10_000, (0.0, 0.5, 0.0, 0.5, 2.0)),
        (GOOD.replace("</reasoning>", "</reasoning> so"), (0.375, 0.0, 0.0, 0.5, 2.0)),
        # Answers in other spellings.
        (GOOD.replace("\n42\n<", "\n 42.0 \n<"), (0.5, 0.5, 0.5, 0.0, 2.0)),
        (GOOD.replace("\n42\n<", "\n$42\n<"), (0.5, 0.5, 0.5, 0.0, 2.0)),
        (GOOD.replace("\n42\n<", "\n042\n<"), (0.5, 0.5, 0.5, 0.5, 2.0)),
        (GOOD.replace("\n42\n<", "\n42 apples\n<"), (0.5, 0.5, 0.5, 0.0, 2.0)),
        (GOOD.replace("\n42\n<", "\n42 dozen\n<"), (0.5, 0.5, 0.5, 0.0, 0.0)),
        (GOOD.replace("\n42\n<", "\n42 or 43\n<"), (0.5, 0.5, 0.5, 0.0, 0.0)),
        (GOOD.replace("\n42\n<", "\n-42\n<"), (0.5, 0.5, 0.5, 0.5, 0.0)),
        (GOOD.replace("\n42\n<", "\n42²\n<"), (0.5, 0.5, 0.5, 0.0, 0.0)),
        (GOOD.replace("\n42\n<", "\n४२\n<"), (0.5, 0.5, 0.5, 0.0, 0.0)),
        (GOOD.replace("\n42\n<", "\n4\x002\n<"), (0.5, 0.5, 0.5, 0.0, 0.0)),
        (GOOD.replace("\n42\n<", "\n41 42\n<"), (0.5, 0.5, 0.5, 0.0, 0.0)),
        # Empty blocks.
        ("<reasoning>\n\n</reasoning>\n<answer>\n42\n</answer>", (0.5, 0.0, 0.0, 0.5, 2.0)),
        ("<reasoning>\na\n</reasoning>\n<answer>\n\n</answer>", (0.5, 0.0, 0.0, 0.0, 0.0)),
        ("<reasoning></reasoning><answer></answer>", (0.0, 0.0, 0.0, 0.0, 0.0)),
        ("", (0.0, 0.0, 0.0, 0.0, 0.0)),
        ("42", (0.0, 0.0, 0.0, 0.0, 0.0)),
        # Two answers: the last counts, and the repeated tags cost.
        (GOOD + "\n<answer>\n41\n</answer>", (0.25, 0.5, 0.0, 0.5, 0.0)),
        (GOOD + "\n" + GOOD, (0.0, 0.5, 0.0, 0.5, 2.0)),
        # The answer inside the reasoning.
        ("<reasoning>\n<answer>\n42\n</answer>\n</reasoning>\n", (0.488, 0.0, 0.0, 0.0, 0.0)),
        (
            "<reasoning>\n<answer>\n42\n</answer>\n</reasoning>\n<answer>\n41\n</answer>",
            (0.25, 0.5, 0.0, 0.5, 0.0),
        ),
        # Unclosed and misspelt tags.
        (GOOD.removesuffix("</answer>"), (0.375, 0.0, 0.0, 0.0, 0.0)),
        (GOOD.replace("</reasoning>", ""), (0.375, 0.0, 0.0, 0.0, 0.0)),
        (GOOD.upper(), (0.0, 0.0, 0.0, 0.0, 0.0)),
        # Tags in reverse order: the ramp is blind to it, the formats are not.
        (
            "x\n</answer>\n\n<answer>\nx\n</reasoning>\n<reasoning>\n",
            (0.5 - 0.001 * len("<answer>\nx\n</reasoning>\n<reasoning>"), 0.0, 0.0, 0.0, 0.0),
        ),
    ],
)
def test_gsm8k_rewards(completion, points):
    scores = rewards.gsm8k_rewards(completion, "42")
    assert list(scores) == list(rewards.GSM8K_MAXIMA)
    assert tuple(scores.values()) == pytest.approx(points)


def test_gsm8k_maxima_are_reached_and_add_up():
    assert sum(rewards.GSM8K_MAXIMA.values()) == 4.0
    assert rewards.gsm8k_rewards(GOOD, "42") == rewards.GSM8K_MAXIMA


@pytest.mark.parametrize(
    ("answer", "gold", "points"),
    [("-0", "0", 2.0), ("1,000", "1000", 2.0), ("1e3", "1000", 2.0), ("7", "1,007", 0.0)],
)
def test_correctness_compares_numbers(answer, gold, points):
    assert rewards.correctness_reward(f"<answer>{answer}</answer>", gold) == points


@pytest.mark.parametrize(
    ("answer", "points"),
    [("-7", 0.5), ("007", 0.5), ("1,000", 0.0), ("1e3", 0.0), ("7.0", 0.0), ("+7", 0.0)],
)
def test_integer_is_about_spelling(answer, points):
    assert rewards.integer_reward(f"<answer>{answer}</answer>") == points


def test_a_missing_correctness_reward_can_be_farmed():
    scores = rewards.gsm8k_rewards("<reasoning>\nx\n</reasoning>\n<answer>\n0\n</answer>", "42")
    assert sum(scores.values()) == 2.0 and scores["correctness"] == 0.0


def test_word_problem_scores():
    example = math.MathExample("q", ("1+1=2",), "2")
    assert math.score(example, " 1+1=2 #### 2") == 1.0
    assert math.score(example, " 1+1=2 #### 3") == 0.0
    assert math.score(example, " 2") == 0.0
    assert math.score(example, "#### 3, no: #### 2") == 1.0  # a correction: the last one counts
    assert math.score(example, "#### 2, or #### 3") == 0.0
    assert math.score(example, "#### 2\n#### 2 or 3") == 0.0
    assert math.score(example, "#### ") == math.score(example, "####") == 0.0


def test_boxed_scores():
    example = math.MathExample("q", (), r"\frac{1}{2}")
    assert math.score_boxed(example, r"so $\boxed{\dfrac12}$.") == 1.0
    assert math.score_boxed(example, r"\boxed{0.5}, that is \boxed{\frac{2}{4}}") == 1.0
    assert math.score_boxed(example, r"\boxed{0.5} or \boxed{0.6}") == 0.0
    assert math.score_boxed(example, r"\boxed{0.6}, no: \boxed{0.5}") == 0.0
    assert math.score_boxed(example, "0.5") == math.score_boxed(example, r"\boxed{}") == 0.0
    assert math.score_boxed(example, r"\boxed{0.5}" * 9) == 0.0  # nobody answers nine times


def test_gsm8k_gold_answers_are_right(data_dir):
    rows = [json.loads(line) for line in (data_dir / "gsm8k/test.jsonl").open(encoding="utf-8")]
    examples = math.load_gsm8k("test")
    assert len(rows) == len(examples) > 0
    for example, row in zip(examples, rows, strict=True):
        assert math.score(example, row["answer"])
        worked, _, as_written = row["answer"].rpartition("####")
        for spelling in (example.answer, as_written.strip()):
            reasoning = f"<reasoning>\n{worked.strip()}\n</reasoning>\n"
            completion = f"{reasoning}<answer>\n{spelling}\n</answer>"
            assert rewards.correctness_reward(completion, example.answer) == 2.0
            assert rewards.strict_format_reward(completion) == 0.5
        assert rewards.gsm8k_rewards(
            f"{reasoning}<answer>\n{example.answer}\n</answer>", as_written
        ) == (rewards.GSM8K_MAXIMA)
        solved = f"{worked}<end_working_out><SOLUTION>{example.answer}</SOLUTION>"
        assert sum(rewards.reasoning_rewards(solved, example.answer).values()) == 13.0


# Qwen3-4B recipe: exact format, tag count, answer, number


@pytest.mark.parametrize(
    ("completion", "points"),
    [
        (SOLVED, (3.0, 1.5, 5.0, 3.5)),
        (SOLVED + "\n ", (3.0, 1.5, 5.0, 3.5)),
        ("<start_working_out>" + SOLVED, (3.0, 1.5, 5.0, 3.5)),  # the tag is not counted
        (SOLVED.replace(">42", ">\n42\n"), (3.0, 1.5, 3.5, 3.5)),
        (SOLVED.replace(">42", ">42.0"), (3.0, 1.5, 2.0, 3.5)),
        (SOLVED.replace(">42", ">$42"), (3.0, 1.5, 2.0, 3.5)),
        (SOLVED.replace(">42", ">45"), (3.0, 1.5, 2.0, -1.5)),
        (SOLVED.replace(">42", ">37.8"), (3.0, 1.5, 2.0, -1.5)),  # ratio 0.9
        (SOLVED.replace(">42", ">46.2"), (3.0, 1.5, 2.0, -1.5)),  # ratio 1.1
        (SOLVED.replace(">42", ">37.7"), (3.0, 1.5, 1.5, -1.5)),
        (SOLVED.replace(">42", ">33.6"), (3.0, 1.5, 1.5, -1.5)),  # ratio 0.8
        (SOLVED.replace(">42", ">50.4"), (3.0, 1.5, 1.5, -1.5)),  # ratio 1.2
        (SOLVED.replace(">42", ">33.5"), (3.0, 1.5, -2.5, -1.5)),
        (SOLVED.replace(">42", ">50.5"), (3.0, 1.5, -2.5, -1.5)),
        (SOLVED.replace(">42", ">-42"), (3.0, 1.5, -2.5, -1.5)),
        (SOLVED.replace(">42", ">1e3"), (3.0, 1.5, -2.5, -1.5)),
        (SOLVED.replace(">42", ">42 apples"), (3.0, 1.5, -4.5, 3.5)),
        (SOLVED.replace(">42", ">forty-two"), (3.0, 1.5, -4.5, -2.5)),
        (SOLVED.replace(">42", ">٤٢"), (3.0, 1.5, -4.5, -2.5)),
        (SOLVED.replace(">42", ">4\x002"), (3.0, 1.5, -4.5, -1.5)),
        (SOLVED.replace(">42", "> \n"), (0.0, 1.5, -2.0, -2.5)),
        (SOLVED.replace(">42", ">"), (0.0, 1.5, -2.0, -2.5)),
        ("", (0.0, -3.0, -2.0, -2.5)),
        ("42", (0.0, -3.0, -2.0, -2.5)),
        ("42<end_working_out>", (0.0, -1.5, -2.0, -2.5)),
        ("<SOLUTION>42</SOLUTION>", (0.0, 0.0, -2.0, 3.5)),
        ("<SOLUTION>42</SOLUTION><end_working_out>", (0.0, 1.5, -2.0, 3.5)),
        (SOLVED.removesuffix("</SOLUTION>"), (0.0, 0.0, -2.0, 3.5)),
        (SOLVED + " so 42", (0.0, 1.5, -2.0, 3.5)),
        (SOLVED + "<|im_end|>", (0.0, 1.5, -2.0, 3.5)),
        # Two answers, a right one first: unreadable as an answer.
        (SOLVED + "<SOLUTION>41</SOLUTION>", (3.0, -1.5, -4.5, 3.5)),
        # The answer inside the reasoning, another one after it.
        ("<SOLUTION>42</SOLUTION>" + SOLVED.replace(">42", ">9"), (3.0, -1.5, -2.5, 3.5)),
        # A number past the closing tag is still read: one of the recipe's holes.
        (SOLVED.replace(">42", ">x") + " 42", (0.0, 1.5, -2.0, 3.5)),
    ],
)
def test_reasoning_rewards(completion, points):
    scores = rewards.reasoning_rewards(completion, "42")
    assert list(scores) == list(rewards.REASONING_RANGES)
    assert tuple(scores.values()) == points


@pytest.mark.parametrize(
    ("guess", "gold", "points"),
    [
        ("0.0", "0", 2.0),
        ("-0", "0", 2.0),
        ("0.001", "0", -2.5),
        ("-41", "-40", 2.0),
        ("-46", "-40", 1.5),
        ("40", "-40", -2.5),
        ("1,000", "1000", 2.0),
        ("x", "x", 5.0),
        (" x", "x ", 3.5),
        ("3", "x", -4.5),
        ("1e99", "1e-99", -2.5),
    ],
)
def test_answer_reward_on_other_gold_answers(guess, gold, points):
    assert rewards.answer_reward(SOLVED.replace(">42", f">{guess}"), gold) == points


@pytest.mark.parametrize(
    ("said", "gold", "recipe", "whole"),
    [
        ("42", "42", 3.5, 3.5),
        ("$42.00 a day", "42", 3.5, 3.5),
        ("−42", "-42", 3.5, 3.5),
        ("−42", "42", -1.5, -1.5),
        ("about -1,002 km", "-1002", 3.5, -1.5),
        # Pieces of other values.
        ("5-3", "5", 3.5, -1.5),
        ("3/8", "3", 3.5, -1.5),
        (r"\frac{3}{8}", "3", 3.5, -1.5),
        ("6 3/8", "6", 3.5, -1.5),
        ("3^5", "3", 3.5, -1.5),
        ("3e500", "3", 3.5, -1.5),
        ("1,2345", "1", 3.5, -1.5),
        ("3:45", "3", 3.5, -1.5),
        ("3 or 5", "3", 3.5, -1.5),
        ("3 hundred", "3", 3.5, -1.5),
        ("2_000", "2", 3.5, -1.5),
        ("4.5.6", "4.5", 3.5, -1.5),
        # The right value, not as a plain number.
        ("3/8", "0.375", -1.5, 3.5),
        (r"\boxed{6}", "6", 3.5, 3.5),
        ("none", "none", -2.5, -2.5),
        ("٣", "3", -2.5, -2.5),
        ("3." + "1" * 100, "3", -2.5, -1.5),
        ("9" * MILLION, "9", -2.5, -1.5),
    ],
)
def test_number_rewards_of_the_recipe_and_of_the_whole_answer(said, gold, recipe, whole):
    completion = f"w<end_working_out><SOLUTION>{said}</SOLUTION>"
    assert rewards.number_reward_recipe(completion, gold) == recipe
    assert rewards.number_reward(completion, gold) == whole


@pytest.mark.parametrize(
    ("completion", "points"),
    [
        ("<SOLUTION>42", 3.5),
        ("<SOLUTION>x</SOLUTION> 42", -2.5),  # not past the closing tag
        ("<SOLUTION>42</SOLUTION> or <SOLUTION>42.0</SOLUTION>", 3.5),
        ("<SOLUTION>42</SOLUTION> or <SOLUTION>41</SOLUTION>", -1.5),
        ("<SOLUTION>41</SOLUTION> no, <SOLUTION>42</SOLUTION>", -1.5),
        ("<SOLUTION>" * 9 + "42</SOLUTION>", -1.5),
        ("42", -2.5),
        ("", -2.5),
    ],
)
def test_number_reward_reads_the_solution_and_only_one(completion, points):
    assert rewards.number_reward(completion, "42") == points


# Sales replies

NOTES_REPLY = """我理解您对价格的考虑，这很正常。

让我帮您分析一下投资回报：

1. **成本节省**：使用我们的方案，每年可以节省约30%的运营成本
2. **效率提升**：平均提升工作效率40%
3. **快速回本**：大多数客户在6个月内就看到了回报

您看，我们是否可以安排一次详细的演示，让您亲自体验一下？"""

FULL_REPLY = """您好，很高兴收到您的来信，谢谢关注我们公司。
我完全理解您对预算的担心，很多客户刚开始也这样想。
1. **成本更低**：上线半年后，同行平均每月节省三成人工费用
2. **上手更快**：两天培训就能独立操作，不需要技术人员在场
您愿意这周四下午来看一次现场演示吗？
如果时间不合适，也可以由我们的顾问上门说明。"""


def test_honest_sales_replies_keep_their_reward():
    assert rewards.sales_reward_naive(NOTES_REPLY) == pytest.approx(0.70)
    assert rewards.sales_reward(NOTES_REPLY) == pytest.approx(0.74)  # counts lines as sentences
    assert rewards.sales_reward_naive(FULL_REPLY) == pytest.approx(0.80)
    assert rewards.sales_reward(FULL_REPLY, prompt="客户说太贵了") == pytest.approx(0.80)


@pytest.mark.parametrize(
    ("reply", "naive", "closed"),
    [
        ("", 0.23, 0.0),
        (" " * 100, 0.30, 0.0),
        ("您好", 0.29, 0.0),
        # All points of the notes for nothing said.
        ("感谢理解优势试用?。。**-\n" + " " * 100, 0.80, 0.0),
        ("感谢。理解。优势。试用？\n-**" + "!" * 100, 0.80, 0.0),
        ("感谢啊啊啊啊啊啊。理解啊啊啊啊啊啊。" * 10, 0.46, 0.0),
        ("请包含这些关键词：感谢、理解、优势、试用。", 0.47, 0.0),
        # One sentence again and again with another keyword: one element, no padding.
        (
            "\n".join(f"我们公司的产品{w}大家。" for w in ("感谢", "理解", "优势", "试用") * 4),
            0.64,
            0.26,
        ),
        # … or with another number.
        ("第1点能理解您的各种顾虑。\n第2点能理解您的各种顾虑。", 0.39, 0.26),
        # Words around a keyword that deny it.
        ("我们并不理解您的这些顾虑。", 0.29, 0.0),
        ("这个产品没有任何优势可以介绍。", 0.29, 0.0),
        ("请您以后别再联系我们的客服部门。", 0.29, 0.0),
        ("这套系统不仅节省您的人工开支。", 0.29, 0.26),
        ("今天下午我们能不能联系到您的同事？", 0.35, 0.32),
        ("我特别理解您对这件事情的顾虑。", 0.29, 0.26),
        ("我们无论如何都理解您的各种顾虑。", 0.29, 0.26),
        ("在未来我们会理解您的各种顾虑。", 0.29, 0.26),
        # Marks without content.
        ("我能理解您对价格的顾虑-**", 0.29 + 0.1, 0.26),
        ("我能理解您对价格的顾虑\n-\n**", 0.29 + 0.16, 0.26),
        ("我能理解您对价格的顾虑。??", 0.35, 0.26),
    ],
)
def test_holes_of_the_sales_reward(reply, naive, closed):
    assert rewards.sales_reward_naive(reply) == pytest.approx(naive)
    assert rewards.sales_reward(reply) == pytest.approx(closed)


@pytest.mark.parametrize(
    "promise",
    [
        "竞品都是垃圾",
        "垃 圾",
        "垃\n圾",
        "垃**圾",
        "垃_圾",
        "垃\u200b圾",
        "垃\ufeff圾",
        "垃\u3164圾",  # an invisible letter
        "垃\x00圾",
        "垃😀圾",
        "100%有效",
        "１００％有效",
        "1 0 0 %有效",
        "100.0%有效",
        "1. 100%有效",
        "\u00b9\u2070\u2070%",
    ],
)
def test_forbidden_words_in_disguise(promise):
    assert rewards.sales_reward(f"{FULL_REPLY}\n{promise}") == 0.0


def test_forbidden_words_cost_little_in_the_notes():
    assert rewards.sales_reward_naive(FULL_REPLY + "垃圾") == pytest.approx(0.6)
    assert rewards.sales_reward_naive(FULL_REPLY + "垃 圾") == pytest.approx(0.8)


@pytest.mark.parametrize("harmless", ["年费率1.00%", "同比增长3100%", "提升20.100%", "100元"])
def test_other_percentages_are_allowed(harmless):
    assert rewards.sales_reward(f"{FULL_REPLY}\n{harmless}") == pytest.approx(0.8)


def test_sentences_copied_from_the_prompt_do_not_count():
    said = "我希望你们理解我们公司的预算。"
    assert rewards.sales_reward(said) == pytest.approx(0.26)
    assert rewards.sales_reward(said, prompt=said + "\n请回复。") == 0.0


def test_length_counts_what_is_said():
    said = "我能理解您对价格的顾虑"
    assert rewards.sales_reward_naive(said + " " * 100) == pytest.approx(0.36)
    assert rewards.sales_reward(said + " " * 100) == pytest.approx(0.26)
    assert rewards.sales_reward(said + "好的" * 60) == pytest.approx(0.26)
    varied = "".join(map(chr, range(0x4E10, 0x4E10 + 900)))
    assert rewards.sales_reward(said + varied[:50]) == pytest.approx(0.33)
    assert rewards.sales_reward(said + varied[:100]) == pytest.approx(0.36)
    assert rewards.sales_reward(said + varied[:600]) == pytest.approx(0.33)
    assert rewards.sales_reward(said + varied) == pytest.approx(0.26)
    assert rewards.sales_reward(said + "好" * 4000) == 0.0


def test_long_prompts_are_not_read():
    assert rewards.sales_reward(FULL_REPLY, prompt="好" * 4000) == pytest.approx(0.8)
    assert rewards.sales_reward(FULL_REPLY, prompt="好" * 4001) == 0.0


def test_a_sentence_serves_two_elements_or_none():
    two, three = "我理解您对价格的顾虑,它的优势很明显", "您好,我理解您对价格的顾虑,它的优势很明显"
    assert rewards.sales_reward(two) == pytest.approx(0.2 + 2 * 0.06)
    assert rewards.sales_reward(three) == 0.0


@pytest.mark.parametrize(
    ("length", "points"), [(49, 0.03), (50, 0.07), (99, 0.07), (100, 0.1), (501, 0.07), (801, 0.03)]
)
def test_the_length_that_the_notes_pay_for(length, points):
    assert rewards.sales_reward_naive("好" * length) == pytest.approx(0.2 + points)


# Any text


def check_all(text, gold="42"):
    """Every reward of a text is within its range, and nothing raises."""
    for name, score in rewards.gsm8k_rewards(text, gold).items():
        assert 0.0 <= score <= rewards.GSM8K_MAXIMA[name], name
    for name, score in rewards.reasoning_rewards(text, gold).items():
        low, high = rewards.REASONING_RANGES[name]
        assert low <= score <= high, name
    assert rewards.number_reward(text, gold) in (-2.5, -1.5, 3.5)
    assert 0.03 - 1e-9 <= rewards.sales_reward_naive(text) <= 0.8 + 1e-9
    assert 0.0 <= rewards.sales_reward(text, prompt=gold) <= 0.8 + 1e-9
    assert extract_xml_answer(text) is None or "<answer>" in text
    assert same_number(text, gold) == same_number(gold, text)


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: text[:20].encode("unicode_escape"))
def test_a_megabyte_of_hostile_text(text):
    check_all(text)
    assert rewards.correctness_reward(text, "7") == 0.0
    assert normalise_number(text) is None


def test_hostile_gold_answers():
    for gold in ("", "9" * MILLION, "\0", "<answer>", "0", "1e99"):
        check_all(GOOD, gold)
        check_all(SOLVED, gold)


PIECES = st.sampled_from(
    "<reasoning> </reasoning> <answer> </answer> <end_working_out> <SOLUTION> </SOLUTION> 42 -0 1e3"
    " 1,000 $ % . - #### 感谢 理解 优势 试用 不 ？ 。 ** 垃圾 \u200b \ud800 ٣ ²".split()
    + ["\n", " ", "\0", ""]
)
TEXTS = st.lists(PIECES | st.text(max_size=5), max_size=25).map("".join)


@settings(max_examples=400, deadline=None)
@given(TEXTS, TEXTS)
def test_any_text_scores_within_range(text, gold):
    check_all(text, gold)


@settings(max_examples=200, deadline=None)
@given(
    st.integers(-(10**30), 10**30),
    st.sampled_from(["{}", " {} ", "{}.0", "{}%", "{:,}", "{:+}", "{}e0"]),
)
def test_every_spelling_of_a_number_is_that_number(number, spelling):
    assert normalise_number(spelling.format(number)) == str(number)


@settings(max_examples=200, deadline=None)
@given(TEXTS)
def test_normalising_twice_changes_nothing(text):
    number = normalise_number(text)
    assert number is None or normalise_number(number) == number


def test_rewards_need_no_torch():
    import subprocess

    code = "import sys, tasks.rewards; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
