"""What learners hand in, exercise by exercise: code as they write it, right and wrong.

Each table of a module maps the name of an exercise to a list:

RIGHT    sources of right answers
WRONG    (source, start of the message)
MUTANTS  sources of answers that are wrong in a way that has no name
"""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F

SCOPE = {"torch": torch, "F": F, "np": np}  # what a source knows


def edit(source: str, old: str = "", new: str = "") -> str:
    """The source with one passage replaced."""
    assert not old or source.count(old) == 1, f"{old!r} must occur once, not {source.count(old)}"
    return source.replace(old, new) if old else source


def edits(source: str, changes: list[tuple]) -> list:
    """For each (old, new) the changed source; for each (old, new, name) also the name."""
    made = [(edit(source, old, new), *name) for old, new, *name in changes]
    return [m if len(m) > 1 else m[0] for m in made]


def answer_of(source: str) -> Callable:
    """The function `answer` of a source."""
    scope = dict(SCOPE)
    exec(source, scope)
    return scope["answer"]


def lookup(table: str, exercise: str) -> list:
    """The entries of all modules for an exercise."""
    from submissions import (  # a cycle
        lesson00,
        lesson01,
        lesson01_loop,
        lesson02,
        lesson03_gae,
        lesson03_policy,
        lesson03_reward,
        lesson04,
        lesson05,
        lesson06,
    )

    modules = (
        lesson00,
        lesson01,
        lesson01_loop,
        lesson02,
        lesson03_gae,
        lesson03_policy,
        lesson03_reward,
        lesson04,
        lesson05,
        lesson06,
    )
    return [entry for module in modules for entry in getattr(module, table).get(exercise, [])]
