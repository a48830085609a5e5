"""Word problems in everyday English with one or two steps, for a small real language model.

GSM8K is beyond SmolLM2-135M; here it is right now and then, which is where RL can begin. A problem
is an opening, an event and a question of one kind (`KINDS`): several hundred phrasings. Every fifth
phrasing is kept for "validation" and "test", and those two have people of their own: a gain there
is not the memory of a sentence. Scored by `math.score`: the number after the last `####`.
"""

import itertools
import random
import zlib
from dataclasses import dataclass

from tasks import math
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
class Kind:
    """Problems whose answer is `a` after some operations: "*b +c" means (a * b) + c."""

    operations: str
    openings: tuple[str, ...]
    events: tuple[str, ...]
    questions: tuple[str, ...]

    def phrasings(self) -> list[tuple[str, str, str]]:
        """Every way to tell such a problem."""
        return list(itertools.product(self.openings, self.events, self.questions))


@dataclass(frozen=True)
class WordProblem(math.MathExample):
    """A problem whose prompt asks for the steps and for the form of the answer."""

    @property
    def prompt(self) -> str:
        """The problem and how to answer it, as a user would say it."""
        return f"{self.question}\n{INSTRUCTION}"


_HAS = (
    "{who} has {a} {things}.",
    "There are {a} {things} in {who}'s bag.",
    "{who} starts the day with {a} {things}.",
    "This morning {who} counted {a} {things}.",
)
_NOW = (
    "How many {things} does {who} have now?",
    "How many {things} are there now?",
    "What is the number of {things} at the end?",
)
_BOXES = (
    "{who} has {a} boxes.",
    "There are {a} boxes on {who}'s shelf.",
    "{who} carries {a} boxes into the house.",
    "A shop sends {a} boxes to {who}.",
)
_EACH = (
    "Each box holds {b} {things}.",
    "There are {b} {things} in every box.",
    "{who} finds {b} {things} in each of them.",
)
_IN_ALL = (
    "How many {things} are there in all?",
    "How many {things} does {who} have in total?",
    "What is the total number of {things}?",
)
KINDS = (
    Kind(
        "+b",
        _HAS,
        (
            "{other} gives {who} {b} more.",
            "Then {who} buys another {b}.",
            "Later {who} finds {b} more.",
            "After lunch {who} gets {b} more from {other}.",
        ),
        _NOW,
    ),
    Kind(
        "-b",
        _HAS,
        (
            "{who} gives {b} of them to {other}.",
            "Then {b} of them get lost.",
            "{who} sells {b} at the market.",
            "{other} takes {b} away.",
        ),
        (*_NOW, "How many {things} are left?"),
    ),
    Kind(
        "+b",
        (
            "{who} has {a} {things}.",
            "{who} collected {a} {things}.",
            "{a} {things} belong to {who}.",
        ),
        ("{other} has {b} {things}.", "{other} brings {b} more.", "{b} others belong to {other}."),
        (
            "How many {things} do they have together?",
            "How many {things} do {who} and {other} have in total?",
            "If they put them together, how many {things} is that?",
        ),
    ),
    Kind(
        "-b",
        (
            "{who} has {a} {things}.",
            "{who} collected {a} {things}.",
            "{a} {things} belong to {who}.",
        ),
        ("{other} has only {b}.", "{other} collected {b}.", "{b} {things} belong to {other}."),
        (
            "How many more {things} does {who} have than {other}?",
            "By how many {things} is {who} ahead of {other}?",
            "How many fewer {things} does {other} have?",
        ),
    ),
    Kind("*b", _BOXES, _EACH, _IN_ALL),
    Kind(
        "/b",
        (*_HAS[:3], "{who} puts {a} {things} on the table."),
        (
            "{who} shares them equally among {b} friends.",
            "They are put into {b} bags, the same number in each.",
            "{b} children get the same number each, and none is left.",
        ),
        (
            "How many {things} are in one share?",
            "What is the size of one part?",
            "How many {things} is that for each?",
        ),
    ),
    Kind(
        "*b",
        (
            "{who} reads {a} pages every day.",
            "Every day {who} walks {a} miles.",
            "{who} earns {a} dollars a day.",
            "{who} does {a} sums each day.",
        ),
        ("This goes on for {b} days.", "{who} keeps it up for {b} days.", "{b} days go by."),
        ("How many is that in total?", "What does it come to in all?", "What is the total?"),
    ),
    Kind(
        "*b",
        (
            "A ticket costs {a} dollars.",
            "The price of one cake is {a} dollars.",
            "A shop asks {a} dollars for a toy.",
        ),
        ("{who} buys {b} of them.", "{who} and {other} need {b}.", "{who} orders {b} for a party."),
        (
            "How many dollars is that?",
            "How much do they cost together, in dollars?",
            "What is the total price in dollars?",
        ),
    ),
    Kind(
        "+b -c",
        _HAS,
        (
            "{who} buys {b} more and gives {c} to {other}.",
            "{other} brings {b} more, but {c} get lost.",
            "Then {who} finds {b} more and sells {c}.",
        ),
        _NOW,
    ),
    Kind(
        "*b +c",
        _BOXES,
        (
            "Each box holds {b} {things}, and there are {c} more outside.",
            "There are {b} {things} in every box and {c} on the table.",
            "Every box has {b} {things}; {other} brings {c} more.",
        ),
        _IN_ALL,
    ),
    Kind(
        "*b -c",
        _BOXES,
        (
            "Each box holds {b} {things}, but {c} of them break.",
            "There are {b} {things} in every box. {who} gives {c} to {other}.",
            "Every box has {b} {things}; {other} takes {c} away.",
        ),
        (
            "How many {things} are left?",
            "How many {things} remain?",
            "What is the number left over?",
        ),
    ),
    Kind(
        "-b /c",
        _HAS,
        (
            "{who} keeps {b} and shares the rest equally among {c} friends.",
            "After {b} are lost, the others go into {c} bags, the same number in each.",
        ),
        ("How many {things} are in one share?", "How many {things} is that for each?"),
    ),
)


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
