"""Short reviews, good and bad, that start the same way: the opening gives nothing away.

Lesson 03 continues openings positively under a classifier's reward. On a GPU the same
interface reads IMDB.
"""

import random
from dataclasses import dataclass

from tasks.source import load_rows
from tasks.sql.names import pseudo_word

SPLITS = ("pretrain", "train", "test")

_TRAIN_THINGS = (
    "film book hotel meal phone concert game car play song cafe camera show album shop lamp".split()
)
_TEST_THINGS = "opera novel hostel dinner tablet parade".split()
_OPENINGS = (
    "I tried this {} last week.",
    "My sister told me about this {}.",
    "We paid for this {} in May.",
    "This {} was new to me.",
    "I had read about this {} before.",
    "It was my first {} of this kind.",
)
_GOOD = "great lovely superb charming brilliant perfect delightful wonderful".split()
_BAD = "awful dull terrible boring poor dreadful horrible weak".split()
_GOOD_LINES = (
    "It was {}.",
    "I loved it.",
    "Every part was {}.",
    "I smiled all the way through.",
    "I would pay for it again.",
    "The whole thing felt {}.",
    "My friends enjoyed it too.",
)
_BAD_LINES = (
    "It was {}.",
    "I hated it.",
    "Every part was {}.",
    "I wanted to leave early.",
    "I want my money back.",
    "The whole thing felt {}.",
    "My friends disliked it too.",
)


@dataclass(frozen=True)
class Review:
    """A review: a neutral opening, then its verdict. `label` is 1 for positive, 0 for negative."""

    opening: str
    verdict: str
    label: int

    @property
    def text(self) -> str:
        """Opening and verdict."""
        return f"{self.opening} {self.verdict}".strip()

    def document(self) -> tuple[str, str]:
        """Prompt and completion of the plain-text format that the base was trained on."""
        return f"Review: {self.opening}", f" {self.verdict}"


def make_examples(split: str, n: int, seed: int = 0) -> list[Review]:
    """`n` reviews, half of them positive on average; the test split reviews other things."""
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; known: {', '.join(SPLITS)}")
    rng = random.Random(f"reviews/{split}/{seed}")
    return [sample_example(rng, split) for _ in range(n)]


def sample_example(rng: random.Random, split: str) -> Review:
    """One random review of two or three sentences after the opening."""
    thing = rng.choice(_TEST_THINGS if split == "test" else _TRAIN_THINGS)
    if split == "pretrain" and rng.random() < 0.5:  # a made-up thing, to make copying general
        thing = pseudo_word(rng, _TEST_THINGS)
    label = rng.randint(0, 1)
    words, lines = (_GOOD, _GOOD_LINES) if label else (_BAD, _BAD_LINES)
    verdict = " ".join(
        line.format(rng.choice(words)) for line in rng.sample(lines, rng.choice((2, 3)))
    )
    return Review(rng.choice(_OPENINGS).format(thing), verdict, label)


def load_imdb(split: str, n: int | None = None, opening_words: int = 8) -> list[Review]:
    """The first `n` IMDB reviews (`text`, `label`), cut into an opening and the rest."""
    reviews = []
    for row in load_rows("imdb", split)[:n]:
        words = row["text"].split()
        opening, rest = words[:opening_words], words[opening_words:]
        reviews.append(Review(" ".join(opening), " ".join(rest), int(row["label"])))
    return reviews
