"""How the everyday word problems are told: openings, events and questions of each kind."""

import itertools
from dataclasses import dataclass


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
