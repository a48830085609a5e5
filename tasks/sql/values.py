"""Values near the literals of a condition, and on which side of it SQLite puts each.

A condition on a column need not be `column op literal`: `strftime('%Y', day) = '2010'` has dates of
2009, 2010 and 2011 near it. Values are guessed from the literals; SQLite says which meet it.
"""

import itertools
import random
import re
from typing import NamedTuple

from tasks.sql.facts import Test, Value
from tasks.sql.sandbox import QueryFailed, build, run
from tasks.sql.text import Column

WORDS = """amber birch cedar delta ember fjord grove haven islet jade knoll lotus maple north
    ocean pearl quartz river stone tidal umber vale willow zinc""".split()
NUMBER = re.compile(
    r"\s*[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?\s*", re.ASCII
)
DATE = re.compile(r"([0-9]{4})-([0-9]{2})-([0-9]{2})", re.ASCII)
MAX_LENGTH = 80  # of a string that is made for a condition on its length
MOST = 6  # values kept on each side of a condition through functions


class Choice(NamedTuple):
    """A value for a column, and which of the column's conditions it meets."""

    value: Value
    met: tuple[bool, ...]


def number_in(value: Value) -> int | float | None:
    """The finite number that a literal spells, if it does."""
    if isinstance(value, str):
        if not NUMBER.fullmatch(value):
            return None
        value = float(value) if not value.strip().lstrip("+-").isdigit() else int(value)
    if value is None or not -1e300 < value < 1e300:
        return None
    whole = isinstance(value, int) or (value.is_integer() and abs(value) < 2**53)
    return int(value) if whole else value


def _numbers(value: int | float, kind: str, rng: random.Random) -> list[Value]:
    """A number first, then near misses and far ones; 64 bits hold them."""
    steps = [1, -1, 1000, -1000, *rng.sample(range(2, 60), 3), *rng.sample(range(-60, -1), 3)]
    if isinstance(value, float) and abs(value) >= 2**53:
        return [value, value * 1.5, value / 2, -value]
    near = [value + step for step in steps] + [-value]
    if isinstance(value, float) and kind == "int":
        return [value, *(round(each) for each in [*near, value - 0.5, value + 0.5])]
    return [value, *(each for each in near if abs(each) < 2**63)]


def _texts(value: Value, test: Test, rng: random.Random) -> list[Value]:
    """A text first, then near misses."""
    text, number = str(value), number_in(value)
    if " LIKE " in test.sql:
        hits = [text.replace("%", "").replace("_", "x"), text.replace("%", "a").replace("_", "b")]
        return [*hits, hits[0][:-1], hits[0][1:], hits[0] + " x", "x " + hits[0], rng.choice(WORDS)]
    if number is not None:
        near = _numbers(number, "text", rng)
        return [value, *map(str, near[1:]), text + "1", text[:-1], "-" + text]
    return [text, text + " x", text[:-1], text.swapcase(), rng.choice(WORDS)]


def _dates(literals: tuple[Value, ...]) -> list[str]:
    """Days around all dates, years, months and days of the month among some literals."""
    found = [tuple(map(int, match)) for each in literals for match in DATE.findall(str(each))]
    texts = [str(each) for each in literals if "%" not in str(each)]
    parts = [int(digits) for text in texts for digits in re.findall(r"[0-9]{1,4}", text)]
    years = [n for n in parts if 1000 <= n <= 9998] or [2010]
    small = [n for n in parts if 0 < n <= 31]
    for year, month in itertools.product(years, [n for n in small if n <= 12] or [6]):
        day = next((n for n in small if n != month), 15)
        found += [(year, month, day), (year, day % 12 or 12, month)]
    steps = [(0, 0, 0), (0, 0, 1), (0, 0, -1), (0, 1, 0), (0, -1, 0), (1, 0, 0), (-1, 0, 0)]
    days = [
        (year + y, (month + m - 1) % 12 + 1, (day + d - 1) % 28 + 1)
        for (year, month, day), (y, m, d) in itertools.product(found[:6], steps)
    ]
    return [f"{year:04}-{month:02}-{day:02}" for year, month, day in days]


def _through_functions(kind: str, test: Test) -> list[Value]:
    """Values that may meet or just miss a condition in which functions stand around the column."""
    numbers = [n for each in test.literals if (n := number_in(each)) is not None and abs(n) < 1e9]
    sums = {*numbers, *(-n for n in numbers), *(n * n for n in numbers), *range(-3, 8)}
    for a, b in itertools.permutations(numbers[:4], 2):
        sums |= {a + b, a - b, a * b} | ({a / b} if b else set())
    sums |= {abs(n) ** 0.5 for n in numbers}
    near = sorted({n + step for n in sums for step in (0, 1, -1, 0.5, -0.5)})
    if kind == "int":
        return sorted({round(n) for n in near})
    if kind == "real":
        return near
    texts = [each for each in test.literals if isinstance(each, str)]
    plain = [text.strip("%").replace("_", "x") for text in texts]
    spelled = [
        each
        for text in plain
        for each in (text, text.upper(), text.lower(), text.title(), f" {text} ", text[:-1])
    ]
    joined = [a + b for a, b in itertools.permutations(plain[:4], 2)]
    around = [f"{text} x" for text in plain] + [f"x {text}" for text in plain]
    lengths = {int(n) + step for n in numbers for step in (-1, 0, 1) if 0 < n <= MAX_LENGTH}
    long = [(WORDS[n % 24] * 20)[:n] for n in sorted(lengths)]
    long += [f"{text}{'xyzuvw' * 20}"[:n] for text in plain for n in lengths if n > len(text)][:20]
    whole = [str(n) for n in near if n == int(n)] + [f"{n} x" for n in numbers]
    return [*spelled, *joined, *around, *long, *_dates(test.literals), *whole, "", *WORDS[:2]]


def near(column: Column, tests: list[Test], rng: random.Random) -> list[Value]:
    """Values near the literals of some tests, those of the tests themselves first."""
    found: list[Value] = []
    for test in tests:
        if not test.plain:
            found += _through_functions(column.kind, test)
        for value in test.literals if test.plain else ():
            number = number_in(value)
            if value is None:
                found += [None, _any(column)]
            elif column.kind in ("int", "real") and number is not None:
                found += _numbers(number, column.kind, rng)
            elif column.kind == "date" and DATE.match(str(value)):
                found += [value, *_dates((value,))[1:], *_texts(value, test, rng)]
            else:
                found += _texts(value, test, rng)
    if column.nullable:
        found.append(None)
    return list(dict.fromkeys(found))


def _any(column: Column) -> Value:
    return 7 if column.kind in ("int", "real") else WORDS[5]


def sort_out(column: Column, tests: list[Test], values: list[Value]) -> list[Choice]:
    """Ask SQLite which tests each value meets, in a column of this type."""
    schema = {"v": [column._replace(name="n", declared="INTEGER"), column._replace(name="c")]}
    rows = list(enumerate(values))
    image = build(schema, {"v": rows})

    def met(used: list[Test]) -> list[tuple]:
        shown = ", ".join(f"({test.sql})" for test in used)
        return run(image, schema, f"SELECT c, {shown} FROM v ORDER BY n", len(rows)).rows

    try:
        found = met(tests)
    except QueryFailed:
        try:
            found = met(tests := [test for test in tests if test.plain])
        except QueryFailed:
            return []
    choices = [Choice(value, tuple(each == 1 for each in truths)) for value, *truths in found]
    return _boundary(choices) if not all(test.plain for test in tests) else choices


def _boundary(choices: list[Choice]) -> list[Choice]:
    """A few values for each way of meeting some tests, those first that differ from a neighbour."""
    edges = [
        i
        for i, choice in enumerate(choices)
        if any(choices[j].met != choice.met for j in (i - 1, i + 1) if 0 <= j < len(choices))
    ]
    kept: dict[tuple[bool, ...], list[Choice]] = {}
    for i in [*edges, *range(len(choices))]:
        some = kept.setdefault(choices[i].met, [])
        if len(some) < MOST and choices[i] not in some:
            some.append(choices[i])
    return [each for group in itertools.zip_longest(*kept.values()) for each in group if each]
