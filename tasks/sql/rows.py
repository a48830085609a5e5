"""Equality of two answers: as lists or as multisets of rows."""

import math

from tasks.sql.sandbox import Rows


def _sort_key(row: tuple) -> list[tuple]:
    """Order rows of mixed types: NULL, numbers, text, blobs."""
    ranks = {int: 1, float: 1, str: 2, bytes: 3}
    return [(0, 0) if cell is None else (ranks[type(cell)], cell) for cell in row]


def _same_cell(a: object, b: object) -> bool:
    """Equality of two values; floats may differ by 1e-9 of their size."""
    if a == b:
        return True
    numbers = isinstance(a, int | float) and isinstance(b, int | float)
    return numbers and float in (type(a), type(b)) and math.isclose(a, b, rel_tol=1e-9)


def same_rows(first: Rows, second: Rows, ordered: bool) -> bool:
    """Whether two answers hold the same rows, in the same order or as multisets."""
    if len(first) != len(second):
        return False
    if not ordered:
        first, second = sorted(first, key=_sort_key), sorted(second, key=_sort_key)
    return all(
        len(a) == len(b) and all(map(_same_cell, a, b)) for a, b in zip(first, second, strict=True)
    )
