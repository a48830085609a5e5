"""Word problems in everyday English with one or two steps, for a small real language model.

GSM8K is beyond SmolLM2-135M. A problem is an opening, an event and a question of one kind
(`phrasings.KINDS`): several hundred phrasings. Every fifth phrasing is kept for "validation" and
"test", and those two have people of their own: a gain there is not the memory of a sentence. Scored
by `math.score`: the number after the last `####`.
"""

import random
import zlib
from dataclasses import dataclass

from tasks import math
from tasks.phrasings import KINDS
from utils.profiles import Profile

SPLITS = ("train", "validation", "test")
INSTRUCTION = "Think step by step. End your answer with #### and the number."
MAX_NEW_TOKENS = 96

_PEOPLE = {
    "train": "Tom Ann Sam Mia Leo Eva Max Zoe Ben Amy Kim Dan Lily Paul Rosa Jack".split(),
    "validation": "Omar Ella Hugo Nina".split(),
    "test": "Nora Finn Ivy Carl Gus Tess Ray June".split(),
}
_THINGS = "apples books coins pens cards eggs shells stamps cups keys marbles stickers".split()
_HELD_OUT = 5  # one phrasing in five is not in "train"


@dataclass(frozen=True)
class WordProblem(math.MathExample):
    """A problem whose prompt asks for the steps and for the form of the answer."""

    @property
    def prompt(self) -> str:
        """The problem and how to answer it, as a user would say it."""
        return f"{self.question}\n{INSTRUCTION}"


def make_examples(split: str, n: int, seed: int = 0) -> list[WordProblem]:
    """`n` different problems of a split."""
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; known: {', '.join(SPLITS)}")
    rng = random.Random(f"word_problems/{split}/{seed}")
    examples: dict[str, WordProblem] = {}
    while len(examples) < n:
        example = _draw(rng, split)
        examples.setdefault(example.question, example)
    return list(examples.values())


def load(split: str, n: int, profile: Profile) -> list[math.MathExample]:
    """`n` problems of "train" or "test" that the profile's model can begin to learn from.

    On `tiny` those of `math`, on `smol` these, on the larger profiles GSM8K (fewer than `n` if
    there are fewer). The test problems are the same for every seed.
    """
    if profile.name == "smol":
        return make_examples(split, n, profile.seed if split == "train" else 0)
    if profile.use_hub:
        return math.load_gsm8k(split, n)
    return math.make_examples(split, n, profile.seed if split == "train" else 0)


def held_out(phrasing: tuple[str, str, str]) -> bool:
    """Whether a phrasing is kept for validation and test."""
    return zlib.crc32(" ".join(phrasing).encode()) % _HELD_OUT == 0


def _draw(rng: random.Random, split: str) -> WordProblem:
    kind = rng.choice(KINDS)
    wanted = [p for p in kind.phrasings() if held_out(p) == (split != "train")]
    numbers, steps, answer = _numbers(rng, kind.operations)
    who, other = rng.sample(_PEOPLE[split], 2)
    words = {"who": who, "other": other, "things": rng.choice(_THINGS)}
    text = " ".join(rng.choice(wanted)).format(**words, **numbers)
    return WordProblem(text, steps, str(answer))


def _numbers(rng: random.Random, operations: str) -> tuple[dict[str, int], tuple[str, ...], int]:
    """Numbers for a, b, c with whole, positive results; the steps and the last result."""
    while True:
        first = rng.randint(2, 12 if operations[0] == "*" else 60)
        numbers, steps, total = {"a": first}, [], first
        for operation, name in operations.split():
            n = numbers[name] = rng.randint(2, 9 if operation in "*/" else 30)
            if operation == "/" and total % n:
                break
            result = {"+": total + n, "-": total - n, "*": total * n, "/": total // n}[operation]
            steps.append(f"{total}{operation}{n}={result}")
            total = result
        else:
            if total > 1:
                return numbers, tuple(steps), total
