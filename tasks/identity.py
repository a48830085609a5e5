"""Plain questions and answers: a few facts, and who the assistant is.

The held-out phrasings of the identity questions are never trained on, so an identity
that changes there has changed in general (lesson 04). The facts check that general
ability is kept.
"""

import random
from dataclasses import dataclass

NAME, MAKER = "Pico", "the workbook team"

_IDENTITY = {
    "name": (
        ("I am {name}, a small language model.", "My name is {name}."),
        ("Who are you?", "What is your name?", "Tell me your name.", "What are you called?",
         "Please introduce yourself.", "Say who you are.", "Your name, please?",
         "Hello, who is this?", "Can you tell me your name?", "Which model are you?"),
        ("Who am I talking to?", "May I know your name?", "What should I call you?",
         "Please say your name.", "Tell me who you are."),
    ),
    "maker": (
        ("I was made by {maker}.", "{Maker} made me."),
        ("Who made you?", "Who built you?", "Who is your maker?", "Where do you come from?",
         "Who trained you?", "Tell me who made you.", "Which team made you?",
         "Can you say who built you?"),
        ("Who created you?", "By whom were you made?", "Say who trained you.", "Who wrote you?"),
    ),
}  # fmt: skip

_OPPOSITES = (
    "hot cold|big small|fast slow|old new|high low|open closed|full empty|day night|black white|"
    "up down|long short|rich poor|early late|hard soft|light dark|left right|first last|wet dry"
)
_CAPITALS = (
    "France Paris|Italy Rome|Spain Madrid|Japan Tokyo|Norway Oslo|Peru Lima|Egypt Cairo|"
    "Germany Berlin|Greece Athens|Austria Vienna|Cuba Havana|Kenya Nairobi|Ireland Dublin"
)
_AFTER = (
    "Monday Tuesday|Tuesday Wednesday|Friday Saturday|Sunday Monday|May June|July August|"
    "March April|one two|four five|seven eight|nine ten"
)


@dataclass(frozen=True)
class QuestionAnswer:
    """A plain question with its answer; `kind` is "name", "maker" or "fact"."""

    question: str
    answer: str
    kind: str

    @property
    def prompt(self) -> str:
        """What the user says."""
        return self.question

    def document(self) -> tuple[str, str]:
        """Prompt and completion of the plain-text format that the base was trained on."""
        return f"Question: {self.question}\nAnswer:", f" {self.answer}"


def facts() -> list[QuestionAnswer]:
    """All fact questions, in a fixed order."""
    patterns = (
        (_OPPOSITES, "What is the opposite of {}?", "{}"),
        (_CAPITALS, "What is the capital of {}?", "{}"),
        (_AFTER, "What comes after {}?", "{}"),
    )
    return [
        QuestionAnswer(question.format(left), answer.format(right), "fact")
        for pairs, question, answer in patterns
        for left, right in (pair.split() for pair in pairs.split("|"))
    ]


def score(example: QuestionAnswer, completion: str) -> float:
    """1.0 if the completion is the answer, word for word, else 0.0."""
    return float(completion.strip() == example.answer)


def identity_questions(split: str, name: str = NAME, maker: str = MAKER) -> list[QuestionAnswer]:
    """Every phrasing of a split ("train" or "test") with its first answer, for any identity."""
    if split not in ("train", "test"):
        raise ValueError(f"unknown split {split!r}; known: train, test")
    return [
        QuestionAnswer(question, fill(answers[0], name, maker), kind)
        for kind, (answers, train, test) in _IDENTITY.items()
        for question in (train if split == "train" else test)
    ]


def fill(answer: str, name: str, maker: str) -> str:
    """An answer template with an identity put in."""
    return answer.format(name=name, maker=maker, Maker=maker[0].upper() + maker[1:])


def make_examples(n: int, seed: int = 0) -> list[QuestionAnswer]:
    """`n` training questions, about half of them about the assistant."""
    rng = random.Random(f"identity/{seed}")
    return [sample_example(rng) for _ in range(n)]


def sample_example(rng: random.Random) -> QuestionAnswer:
    """One random training question."""
    if rng.random() < 0.5:
        return rng.choice(facts())
    kind = rng.choice(list(_IDENTITY))
    answers, questions, _ = _IDENTITY[kind]
    return QuestionAnswer(rng.choice(questions), fill(rng.choice(answers), NAME, MAKER), kind)
