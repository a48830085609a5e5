import re
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F

torch.set_num_threads(1)


@pytest.fixture
def verdict(capsys) -> Callable:
    """verdict(exercise, fn): what the learner sees, as one line."""

    def run(exercise: Callable, fn: Callable) -> str:
        assert exercise(fn) is None
        return re.sub(r"\s+", " ", capsys.readouterr().out).strip()

    return run


@pytest.fixture
def mutant() -> Callable:
    """mutant(source, old, new): the function `answer` of the source with one passage replaced."""

    def build(source: str, old: str = "", new: str = "") -> Callable:
        if old:
            assert source.count(old) == 1, f"{old!r} must occur once"
            source = source.replace(old, new)
        scope = {"torch": torch, "F": F}
        exec(source, scope)
        return scope["answer"]

    return build
