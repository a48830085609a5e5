"""Table rows on which wrong queries answer differently from a given query.

Rows come from what the query asks for: values that meet its conditions, values that just miss
them, values far away, NULLs, repeats and negative numbers. `tasks.sql.plans` says what is asked
of which rows, `tasks.sql.compare` runs the queries.
"""

import random
from collections.abc import Iterator

from tasks.sql.facts import Value
from tasks.sql.groups import group_steps
from tasks.sql.plans import NULLS, SHARES, Planner
from tasks.sql.text import Column, Schema
from tasks.sql.values import WORDS
from tasks.sql.wishes import Key, Plan, Wishes, shuffled


def _spell(column: Column, number: int | None) -> Value:
    """The value of a column that a number stands for; numbers that differ stay different."""
    if number is None or column.kind in ("int", "real"):
        return number
    if column.kind == "date":
        return f"20{number // 336 % 100:02}-{number % 12 + 1:02}-{number // 12 % 28 + 1:02}"
    # Every third is a number: text columns get summed, and joined with integers.
    return f"{WORDS[number % 24]} {number + 500}" if number % 3 else str(number)


def _draw(
    column: Column, pool: list[int], shares: tuple[int, ...], nulls: int, rng: random.Random
) -> Iterator[Value]:
    """Yield values of a column, over and over: each as often as its share, and some NULLs."""
    bag = [number for number, share in zip(pool, shares, strict=False) for _ in range(share)]
    bag += [None] * nulls
    while True:
        yield from (_spell(column, number) for number in shuffled(bag, rng))


def _draws(
    columns: list[Column], wishes: Wishes, table: str, style: int, size: int, rng: random.Random
) -> dict[str, Iterator[Value]]:
    """For each column of a table, an endless supply of values."""
    draws, offset, once = {}, rng.randrange(4), wishes.once(table, style)
    for i, column in enumerate(columns):
        name = column.name.lower()
        pool = wishes.pool(name, rng)
        joined = name in wishes.joined  # partners must be likely
        nulls = 0 if style % 6 == 2 or not column.nullable else 1 if joined else NULLS
        if (table, name) in wishes.facts.full and style % 6 != 1:
            nulls = 0
        # 3 to 6 values, in neighbouring columns not as many: COUNT(DISTINCT) tells them apart.
        few = 3 + (offset + i + i // 4 * (1 + style)) % 4
        shares = SHARES if style % 6 == 3 else SHARES[-few:]
        if style % 6 == 2 or name in once:
            shares = (1,) * size
        elif style % 3 == 0 and (table, name) in wishes.earlier_keys:
            shares = (1, 1, 1)
        draws[name] = _draw(column, pool, shares, nulls, rng)
    return draws


def _row(plan: Plan, source: int, columns: list[Column], wishes: Wishes) -> dict[str, Value]:
    """What a plan sets in the row of one source."""
    row: dict[str, Value] = {}
    for column in columns:
        term = wishes.roots.get((source, column.name.lower()))
        if term in plan:
            value = plan[term]
            row[column.name.lower()] = (
                _spell(column, value.number) if isinstance(value, Key) else value
            )
    return row


def fill(schema: Schema, wishes: Wishes, seed: str, style: int) -> dict[str, list[tuple]]:
    """Rows for every table; the same arguments give the same rows everywhere.

    Styles take turns: 0 and 3 (mod 6) repeat values except in ORDER BY columns, so have no ties;
    2 repeats only what conditions ask for, and has no other NULLs than they do (NOT IN of a set
    with a NULL is never true); the others repeat values everywhere. Primary keys stay unique.
    """
    rng = random.Random(f"{style} {seed}")
    steps = Planner(wishes, style, rng).steps()
    if style % 6 not in (4, 5):
        steps += group_steps(wishes, style, rng)
    made: dict[str, list[dict[str, Value]]] = {table: [] for table in schema}
    for plan, sources in steps:
        for source in sources:
            table = wishes.sources[source]
            made[table].append(_row(plan, source, schema[table], wishes))
    size = max(map(len, made.values())) + 4  # enough for `once`, few enough for joins to meet
    return {
        table: _table(table, schema[table], made[table], wishes, style, size, rng)
        for table in schema
    }


def _table(
    table: str,
    columns: list[Column],
    planned: list[dict[str, Value]],
    wishes: Wishes,
    style: int,
    size: int,
    rng: random.Random,
) -> list[tuple]:
    """The rows of one table: what is planned, and drawn values for the rest."""
    draws, once = _draws(columns, wishes, table, style, size, rng), wishes.once(table, style)
    rows = [{name: next(draw) for name, draw in draws.items()} | plan for plan in planned]
    if style % 2 == 0:  # copies of rows, but for keys: what DISTINCT is about
        rows += [row | {name: next(draws[name]) for name in once} for row in rows[:2] + rows[-2:]]
    rows = shuffled(rows, rng)
    for keys, shown in wishes.settled(table):
        first: dict[tuple, dict[str, Value]] = {}
        for row in rows:  # GROUP BY keys, but SELECT other columns: one value for each key
            known = first.setdefault(tuple(row[key] for key in keys), row)
            row.update({name: known[name] for name in shown})
    seen: set[tuple[str, Value]] = set()
    kept = []
    for row in rows:
        keys = {(name, row[name]) for name in once}
        if not keys & seen:
            kept.append(tuple(row.values()))
        seen |= keys
    return kept
