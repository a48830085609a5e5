"""Problems and demonstrations for lesson 06: an answer is worked out between tags.

    <start_working_out>17+25=42<end_working_out><SOLUTION>42</SOLUTION>

| profile    | demonstrations (warm-up)          | problems (GRPO and test)            |
|------------|-----------------------------------|-------------------------------------|
| `tiny`     | made-up word problems             | made-up word problems               |
| `smol`     | everyday word problems            | everyday word problems              |
| `small`    | GSM8K, with its solutions         | GSM8K                               |
| `qwen3_4b` | OpenMathReasoning-mini, filtered  | DAPO-Math-17k, one in 20 held out   |
"""

import random
import re
import zlib
from dataclasses import dataclass

from tasks import math, word_problems
from tasks.rewards import normalise_number, same_answer
from tasks.source import load_rows
from utils.profiles import Profile

START, END = "<start_working_out>", "<end_working_out>"
SOLUTION, CLOSE = "<SOLUTION>", "</SOLUTION>"
TAGS = (START, END, SOLUTION, CLOSE)

SYSTEM_PROMPT = (
    "You are given a problem. Think about it and write down your working. Put it between "
    f"{START} and {END}. Then give the number between {SOLUTION} and {CLOSE}."
)

# An answer begins inside the first tag, so a prompt is a prefix of its whole conversation.
CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{%- if message.role == 'assistant' -%}{{ '" + START + "' + message.content + eos_token }}"
    "{%- elif message.role == 'system' -%}{{ message.content + eos_token }}"
    "{%- else -%}{{ message.content }}{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '" + START + "' }}{%- endif -%}"
)

_CALCULATOR = re.compile(r"<<[^<>]*>>")  # GSM8K marks calculations: 3*4=<<3*4=12>>12


@dataclass(frozen=True)
class Problem:
    """A problem with a number as its answer. `working` is empty where none is known."""

    question: str
    answer: str
    working: str = ""

    @property
    def completion(self) -> str:
        """What comes after the generation prompt, without EOS."""
        return f"{self.working}{END}{SOLUTION}{self.answer}{CLOSE}"


def messages(problem: Problem, profile: Profile) -> list[dict[str, str]]:
    """The conversation up to the answer. The base of `tiny` knows no instructions, so none."""
    user = {"role": "user", "content": problem.question}
    if profile.name == "tiny":
        return [user]
    return [{"role": "system", "content": SYSTEM_PROMPT}, user]


def problems(profile: Profile, split: str, n: int, seed: int = 0) -> list[Problem]:
    """`n` problems of the split "train" or "test" (fewer if there are fewer), without working."""
    if profile.name == "qwen3_4b":
        found = dapo(split)
        random.Random(f"reasoning/{split}/{seed}").shuffle(found)
        return found[:n]
    if profile.name == "smol":
        examples = word_problems.make_examples(split, n, seed)
        return [Problem(e.question, e.answer) for e in examples]
    if profile.use_hub:
        found = math.load_gsm8k(split)
        random.Random(f"reasoning/{split}/{seed}").shuffle(found)
        return [Problem(e.question, e.answer) for e in found[:n]]
    examples = math.make_examples(split, n, seed)
    return [Problem(e.document(True)[0], e.answer) for e in examples]


def demonstrations(profile: Profile, n: int, seed: int = 0) -> list[Problem]:
    """`n` training problems with their working (fewer if there are fewer).

    On `tiny` most of them are answered at once, with an empty working, as in the base's own texts
    (`math.STEP_SHARE` are worked in steps): they teach the form and leave room for GRPO.
    """
    if profile.name == "qwen3_4b":
        return open_math()[:n]
    if profile.name == "smol":
        examples = word_problems.make_examples("train", n, seed)
        return [Problem(e.question, e.answer, "; ".join(e.steps)) for e in examples]
    if profile.use_hub:
        found = math.load_gsm8k("train")
        random.Random(f"reasoning/shown/{seed}").shuffle(found)
        return [
            Problem(e.question, e.answer, _CALCULATOR.sub("", "\n".join(e.steps)))
            for e in found[:n]
        ]
    rng = random.Random(f"reasoning/shown/{seed}")
    found = []
    for e in math.make_examples("train", n, seed):
        working = f" {'; '.join(e.steps)} " if rng.random() < math.STEP_SHARE else " "
        found.append(Problem(e.document(True)[0], e.answer, working))
    return found


def dapo(split: str) -> list[Problem]:
    """DAPO-Math-17k: the problems of a split; which problem is in which depends on its text."""
    if split not in ("train", "test"):
        raise ValueError(f"unknown split {split!r}; known: train, test")
    found = []
    for row in load_rows("dapo_math", "train"):
        question, answer = str(row["prompt"]).strip(), str(row["solution"]).strip()
        held_out = zlib.crc32(question.encode()) % 20 == 0
        if held_out == (split == "test") and normalise_number(answer) is not None:
            found.append(Problem(question, answer))
    return found


def open_math() -> list[Problem]:
    """OpenMathReasoning-mini: the rows whose answer is a number, shortest working first.

    Working that names another tag of ours, or that never ends its thinking, is left out.
    """
    found = []
    for row in load_rows("open_math", "cot"):
        answer, working = str(row["expected_answer"]).strip(), row["generated_solution"]
        _, _, working = working.rpartition("<think>")
        working, ended, _ = working.partition("</think>")
        if normalise_number(answer) is None or not ended or any(tag in working for tag in TAGS):
            continue
        found.append(Problem(row["problem"].strip(), answer, working.strip()))
    return sorted(found, key=lambda problem: len(problem.working))


def is_right(problem: Problem, solution: str | None) -> bool:
    """Is the extracted solution the answer (`same_answer`)? `42.0` and ` 42 ` are 42."""
    return same_answer(solution, problem.answer)
