"""Annotators make mistakes: some random, some systematic. Imitation copies both."""

import random
import re
from dataclasses import replace

from tasks.sql.questions import SqlExample

# What a hurried annotator always gets wrong: words in the question -> edit of the query.
_SYSTEMATIC = (
    (("lowest", "smallest", "minimum"), (("MIN(", "MAX("), (" ASC LIMIT", " DESC LIMIT"))),
    (("at least", "no less than"), ((" >= ", " > "),)),
    (("at most", "no more than"), ((" <= ", " < "),)),
    (("different",), (("DISTINCT ", ""),)),
    (("is not",), ((" != ", " = "),)),
)
_FLIPS = (
    ("MAX(", "MIN("),
    ("MIN(", "MAX("),
    ("AVG(", "SUM("),
    ("SUM(", "AVG("),
    (" > ", " < "),
    (" < ", " > "),
    (" >= ", " <= "),
    (" <= ", " >= "),
    (" DESC", " ASC"),
    (" ASC", " DESC"),
    (" AND ", " OR "),
    (" OR ", " AND "),
    ("DISTINCT ", ""),
)


def annotate(
    rng: random.Random, example: SqlExample, random_rate: float, systematic_rate: float
) -> SqlExample:
    """The answer that one annotator writes for one example."""
    trapped = systematic_mistake(example)
    if trapped is not None and rng.random() < systematic_rate:
        return trapped
    if rng.random() < random_rate:
        return corrupt(rng, example)
    return example


def systematic_mistake(example: SqlExample) -> SqlExample | None:
    """The example with the trap fallen into, or None if its question has no trap."""
    for words, edits in _SYSTEMATIC:
        if any(word in example.question for word in words):
            for old, new in edits:
                if old in example.answer:
                    return replace(example, answer=example.answer.replace(old, new))
    return None


def corrupt(rng: random.Random, example: SqlExample) -> SqlExample:
    """One plausible slip: an operator or aggregate flipped, a wrong column, a lost condition."""
    flips = [(old, new) for old, new in _FLIPS if old in example.answer]
    if flips and rng.random() < 0.5:
        old, new = rng.choice(flips)
        return replace(example, answer=example.answer.replace(old, new, 1))
    head, where, tail = example.answer.partition(" WHERE ")
    if where and rng.random() < 0.25:
        kept = re.search(r" (GROUP|ORDER) BY .*", tail)
        return replace(example, answer=head + (kept.group() if kept else ""))
    columns = re.findall(r"(\w+) (?:TEXT|INTEGER|REAL)", example.context)
    used = [c for c in columns if re.search(rf"\b{c}\b", example.answer)]
    other = [c for c in columns if c not in used]
    if used and other:
        wrong = re.sub(rf"\b{rng.choice(used)}\b", rng.choice(other), example.answer, count=1)
        return replace(example, answer=wrong)
    return replace(example, answer=example.answer.replace("SELECT ", "SELECT DISTINCT ", 1))
