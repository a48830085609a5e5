"""Word problems with two or three steps of whole-number arithmetic.

Splits: "pretrain" and "train" share their people and things, "pretrain" adds made-up ones (a model
that has only seen names of one token fails on longer ones); "test" has its own.

The base model saw some of them worked step by step and most answered at once, which is
what lets GRPO discover that steps pay (lesson 05). Answers end in `#### N`, as in GSM8K.
"""

import random
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

from tasks.rewards import after_hashes, extract_boxed, extract_hash_answer, same_answer
from tasks.source import load_rows
from tasks.sql.names import pseudo_word

SPLITS = ("pretrain", "train", "test")
MAX_NEW_TOKENS = 48
STEPS = (2, 3)  # calculations of a problem
STEP_SHARE = 0.3  # share of base documents that are worked step by step

_TRAIN_PEOPLE = "Tom Ann Sam Mia Leo Eva Max Zoe Ben Amy Kim Dan Lily Paul Rosa Jack".split()
_TEST_PEOPLE = "Nora Finn Ivy Carl Gus Tess Ray June".split()
_TRAIN_ITEMS = "apples books coins pens cards eggs shells stamps cups keys nuts balls".split()
_TEST_ITEMS = "marbles ribbons candles buttons".split()
_HELD_OUT = {person.lower() for person in _TEST_PEOPLE} | {item[:-1] for item in _TEST_ITEMS}


@dataclass(frozen=True)
class MathExample:
    """One word problem. `steps` are its calculations, `answer` its final number."""

    question: str
    steps: tuple[str, ...]
    answer: str

    @property
    def prompt(self) -> str:
        """The problem, as a user would say it."""
        return self.question

    @property
    def worked(self) -> str:
        """The answer with its steps."""
        return f"{'; '.join(self.steps)} #### {self.answer}"

    def document(self, with_steps: bool) -> tuple[str, str]:
        """Prompt and completion of the plain-text format that the base was trained on."""
        completion = self.worked if with_steps else f"#### {self.answer}"
        return f"Question: {self.question}\nAnswer:", f" {completion}"


def make_examples(
    split: str, n: int, seed: int = 0, steps: Sequence[int] = STEPS
) -> list[MathExample]:
    """`n` problems. The test split has people, things and number sequences of its own.

    steps: how many calculations a problem may need. The base model saw problems of `STEPS` only.
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; known: {', '.join(SPLITS)}")
    rng = random.Random(f"math/{split}/{seed}")
    examples: dict[str, MathExample] = {}
    while len(examples) < n:
        example = sample_example(rng, split, steps)
        examples.setdefault(example.question, example)
    return list(examples.values())


def sample_example(rng: random.Random, split: str, steps: Sequence[int] = STEPS) -> MathExample:
    """One random problem; draws again until its numbers belong to the split."""
    while True:
        example = _draw(rng, split, steps)
        # One number sequence in eight is kept for the test split, whatever the story around it.
        held_out = zlib.crc32("; ".join(example.steps).encode()) % 8 == 0
        if held_out == (split == "test"):
            return example


def score(example: MathExample, completion: str) -> float:
    """1.0 if what follows the last `####` is the answer (`same_answer`), else 0.0.

    All of it: `#### 7 or 8` and `#### 7/2` begin with the answer 7 and are not 7.
    """
    return float(same_answer(after_hashes(completion), example.answer))


def score_boxed(example: MathExample, completion: str) -> float:
    """1.0 if the completion has a `\\boxed{…}` and every one is the answer, else 0.0.

    Two boxes with different answers are a guess and a second guess: no point for either.
    """
    boxes = extract_boxed(completion)
    return float(0 < len(boxes) <= 8 and all(same_answer(b, example.answer) for b in boxes))


def load_gsm8k(split: str, n: int | None = None) -> list[MathExample]:
    """The first `n` GSM8K problems, from `COURSE_DATA_DIR` or the hub.

    Gold answers are numbers, stored as `normalise_number` spells them (`$1,002.00` as `1002`).
    Another gold answer raises ValueError with the number of its row.
    """
    examples = []
    for number, row in enumerate(load_rows("gsm8k", split)[:n], 1):
        worked, found, said = row["answer"].rpartition("####")
        answer = extract_hash_answer(row["answer"])
        if answer is None:
            wrong = f"{said.strip()[:80]!r} is not a number" if found else "there is no `####`"
            raise ValueError(
                f"gsm8k/{split}, row {number}: {wrong}. Expected a solution that ends in `#### "
                "NUMBER`, as in `#### 42`. Write the number as a decimal, or leave the row out."
            )
        steps = tuple(line.strip() for line in worked.splitlines() if line.strip())
        examples.append(MathExample(row["question"], steps, answer))
    return examples


def load_math500(n: int | None = None) -> list[MathExample]:
    """The first `n` MATH-500 problems, from `COURSE_DATA_DIR` or the hub.

    Rows with `problem`, `solution` and `answer`, in LaTeX. Solutions end in
    `\\boxed{answer}`: score them with `score_boxed`.
    """
    examples = []
    for number, row in enumerate(load_rows("math500", "test")[:n], 1):
        steps = tuple(line.strip() for line in row["solution"].splitlines() if line.strip())
        example = MathExample(row["problem"], steps, row["answer"].strip())
        if not same_answer(example.answer, example.answer):
            raise ValueError(
                f"math500/test, row {number}: the answer {example.answer[:80]!r} cannot be "
                "compared. Expected a number or a formula in LaTeX. Leave the row out."
            )
        examples.append(example)
    return examples


def _draw(rng: random.Random, split: str, counts: Sequence[int]) -> MathExample:
    test = split == "test"
    who = rng.choice(_TEST_PEOPLE if test else _TRAIN_PEOPLE)
    what = rng.choice(_TEST_ITEMS if test else _TRAIN_ITEMS)
    if split == "pretrain" and rng.random() < 0.6:
        who, what = pseudo_word(rng, _HELD_OUT).capitalize(), pseudo_word(rng, _HELD_OUT) + "s"
    total = rng.randint(10, 60)
    story, steps = [f"{who} has {total} {what}."], []
    for _ in range(rng.choice(counts)):
        sentence, step, total = _step(rng, who, what, total)
        story.append(sentence)
        steps.append(step)
    story.append(f"How many {what} does {who} have now?")
    return MathExample(" ".join(story), tuple(steps), str(total))


def _step(rng: random.Random, who: str, what: str, total: int) -> tuple[str, str, int]:
    """One event of the story: what is said, the calculation, the new total."""
    operation = rng.choice("+-*" if total < 40 else "+-")
    if operation == "+":
        n = rng.randint(5, 60)
        said = rng.choice(
            (f"{who} buys {n} more.", f"{who} finds {n} more.", f"{who} gets {n} more.")
        )
        return said, f"{total}+{n}={total + n}", total + n
    if operation == "-":
        n = rng.randint(1, max(1, total - 1))
        said = rng.choice((f"{who} gives away {n}.", f"{who} loses {n}.", f"{who} sells {n}."))
        return said, f"{total}-{n}={total - n}", total - n
    n = rng.choice((2, 3))
    said = f"The number of {what} becomes {n} times as many."
    return said, f"{total}*{n}={total * n}", total * n
