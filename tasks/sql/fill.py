"""Table rows on which wrong queries answer differently from a given query.

Rows come from what the query asks for: values that meet its conditions, values that just miss
them, values far away, NULLs, repeats and negative numbers. `tasks.sql.compare` runs the queries.
"""

import operator
import random
from collections.abc import Iterator
from dataclasses import dataclass, field

from tasks.sql.text import OPERAND_DUE, Column, Schema, Token, name_of, unquote

COMPARE = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "in": operator.eq,
    "between": operator.ge,  # its AND is read as <=
}
FLIPPED = {"<": ">", ">": "<", "<=": ">=", ">=": "<="}
CLAUSES = frozenset("select from where on group having order limit when then else".split())
WORDS = """amber birch cedar delta ember fjord grove haven islet jade knoll lotus maple north
    ocean pearl quartz river stone tidal umber vale willow zinc""".split()
# Rows for each value of a column, and with NULL: unequal, so that groups differ in size and ORDER
# BY COUNT(*) has few ties.
SHARES = (1, 2, 3, 4, 6, 8)
NULLS = 5
MAX_LIMIT = 80  # rows that are made for a LIMIT
MAX_ONES = 48  # rows about one literal of one column

Value = None | int | float | str
Plan = dict[str, Value]  # column name -> value


@dataclass
class Facts:
    """What queries ask for: literals by column, joined columns, ORDER BY columns, LIMIT."""

    conditions: dict[str, list[tuple[str, Value]]] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)  # joined columns -> their common name
    order_keys: set[str] = field(default_factory=set)
    limit: int = 0

    def add(self, column: str, op: str, value: Value) -> None:
        """Note that a column is compared with a literal."""
        self.conditions.setdefault(column, []).append((op, value))

    def common(self, column: str) -> str:
        """The name that stands for all columns joined with this one."""
        return self.links.get(column, column)

    def conditions_on(self, column: str) -> list[tuple[str, Value]]:
        """Conditions on a column or on one joined with it."""
        same = [key for key in self.conditions if self.common(key) == self.common(column)]
        return [condition for key in same for condition in self.conditions[key]]

    def literals(self) -> set[tuple[str, str]]:
        """Which column is compared with which value, whatever the operator."""
        pairs = ((name, value) for name, tests in self.conditions.items() for _, value in tests)
        return {(name, repr(value)) for name, value in pairs}


def literal(token: Token, columns: set[str]) -> Value:
    """Value of a literal, None for other tokens; like SQLite's, "x" is text unless a column."""
    if token.kind == "number":
        whole = token.text.isdigit() and len(token.text) < 16
        return int(token.text) if whole else float(token.text)
    if token.kind == "text" or (token.text[0] == '"' and name_of(token) not in columns):
        return unquote(token.text)
    return None


def read_queries(queries: list[list[Token]], schema: Schema) -> Facts:
    """Collect the facts of some queries.

    A literal belongs to the column before it in its condition (`age BETWEEN 20 AND 30`), or else
    after it (`20 < age`). Nothing is parsed: what is read wrongly only makes rows less telling.
    """
    facts = Facts()
    columns = {column.name.lower() for columns in schema.values() for column in columns}
    for tokens in queries:
        clause, column, op, early = "", "", "=", None  # early: a literal before its column
        for i, token in enumerate(tokens):
            key, name, value = token.key, name_of(token), literal(token, columns)
            if key in CLAUSES:
                # In `x IN (SELECT y`, x stays: y is joined to it.
                column = column if key == "select" and op == "in" else ""
                clause, early = key, None
            elif key == "and" and op == "between":
                op = "<="
            elif key in ("and", "or"):
                column, op, early = "", "=", None
            elif key in COMPARE or key == "like":
                op = key
            elif name in columns:
                if clause == "order":
                    facts.order_keys.add(name)
                elif column and op in ("=", "in"):
                    facts.links[name] = facts.links.setdefault(column, column)
                if early is not None:
                    facts.add(name, FLIPPED.get(op, op), early)
                column, early = name, None
            elif value is not None and clause == "limit":
                facts.limit = max(facts.limit, min(int(_number(value) or 0), MAX_LIMIT))
            elif value is not None and clause in ("where", "on", "when"):
                minus = i > 1 and tokens[i - 1].key == "-" and tokens[i - 2].key in OPERAND_DUE
                value = -value if minus and not isinstance(value, str) else value
                if column:
                    facts.add(column, op, value)
                early = None if column else value
    return facts


def _number(value: Value) -> int | float | None:
    """The number of moderate size that a literal spells, if it does."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    if not abs(number) < 1e15:
        return None
    return int(number) if number.is_integer() else number


def _like(pattern: str) -> list[str]:
    """Two strings that match a LIKE pattern."""
    return [pattern.replace("%", "").replace("_", "x"), pattern.replace("%", "a").replace("_", "b")]


def _near(kind: str, op: str, value: Value, rng: random.Random) -> list[Value]:
    """The literal itself first, then near misses and far values; strings in a text column."""
    number, text = _number(value), str(value)
    steps = [0, 1, -1, 1000, -1000, *rng.sample(range(2, 60), 3), *rng.sample(range(-60, -1), 3)]
    if kind in ("int", "real") and number is not None:
        near = [number + step for step in steps] + [-number]
        return near if kind == "real" else [round(v) for v in [*near, number - 0.5, number + 0.5]]
    if op == "like":
        hits = _like(text)
        return [*hits, hits[0][:-1], hits[0] + " x", rng.choice(WORDS)]
    if number is not None:
        return [
            text,
            *(str(number + step) for step in steps[1:]),
            text + "1",
            text[:-1],
            "-" + text,
        ]
    return [text, text + " x", text[:-1], text.swapcase(), rng.choice(WORDS)]


def _satisfies(value: Value, op: str, wanted: Value) -> bool:
    """Whether `value op wanted` holds for a value made by `_near`."""
    if op == "like":
        return value in _like(str(wanted))
    if isinstance(value, str):
        return COMPARE[op](value, str(wanted))
    return _number(wanted) is not None and COMPARE[op](value, _number(wanted))


def _choices(column: Column, facts: Facts, rng: random.Random) -> tuple[list[Value], list[Value]]:
    """Values near a column's literals: those that satisfy all its conditions, and all of them."""
    conditions = facts.conditions_on(column.name.lower())
    near = [v for op, value in conditions for v in _near(column.kind, op, value, rng)]
    met = [[_satisfies(value, *condition) for condition in conditions] for value in near]
    good = [value for value, tests in zip(near, met, strict=True) if all(tests)]
    some = [value for value, tests in zip(near, met, strict=True) if any(tests)]  # OR, IN
    return good or some or near, near


def _spell(column: Column, number: int | None) -> Value:
    """The value of a column that a number stands for; numbers that differ stay different."""
    if number is None or column.kind in ("int", "real"):
        return number
    if column.kind == "date":
        return f"20{number % 25:02}-{number % 12 + 1:02}-{number % 28 + 1:02}"
    # Every third is a number: text columns get summed, and joined with integers.
    return f"{WORDS[number % 24]} {number + 500}" if number % 3 else str(number)


def _draw(
    column: Column, pool: list[int], shares: tuple[int, ...], nulls: int, rng: random.Random
) -> Iterator[Value]:
    """Yield values of a column, over and over: each as often as its share, and some NULLs."""
    bag = [number for number, share in zip(pool, shares, strict=False) for _ in range(share)]
    bag += [None] * nulls
    while True:
        yield from (_spell(column, number) for number in rng.sample(bag, len(bag)))


def _extremes(columns: list[Column], least: int, turn: int, style: int, rng: random.Random) -> Plan:
    """Values beyond all that `_draw` yields, the more so the larger `least`.

    High or low by turns, for each column in another rhythm: or else one row would be the first
    under ORDER BY of any column.
    """
    plan: Plan = {}
    for i, column in enumerate(columns):
        size = rng.randrange(least, least + 150)
        high = (turn + style // (1 + i % 3) + i // 3) % 2 == 0
        plan[column.name] = size if high else -size
        if column.kind in ("text", "date"):
            plan[column.name] = f"zz {size}" if high else f"AA {999 - size:03}"
    return plan


def _plans(columns: list[Column], facts: Facts, style: int, rng: random.Random) -> list[Plan]:
    """What to set in each row of a table; `_draw` gives the rest."""
    good: dict[str, list[Value]] = {}
    near: dict[str, list[Value]] = {}
    for column in columns:
        meet, values = _choices(column, facts, rng)
        if values:
            good[column.name] = meet
            near[column.name] = values + [None] if column.nullable else values
    bad = {name: [v for v in near[name] if v not in good[name]] or near[name] for name in near}
    if near and style % 6 in (4, 5):  # without rows that meet all: answers may be empty
        literals = {name: [near[name][0]] * len(bad[name]) for name in near if style % 2 == 0}
        edges = {name: literals.get(name, []) + bad[name] for name in near}
        mixed = [{name: rng.choice(values) for name, values in edges.items()} for _ in range(12)]
        return [*mixed, {name: values[0] for name, values in edges.items()}]
    groups = style % 6 in (3, 5)  # groups are to decide, not single rows
    plans: list[Plan] = [{}] * ((sum(SHARES) + NULLS if groups else 10) + facts.limit)
    met: list[Plan] = [{}]
    free = [c for c in columns if c.name not in near and c.name.lower() not in facts.links]
    # A column's first value is its literal: rows about literals come first.
    longest = max(map(len, near.values()), default=0)
    ones = [(name, near[name][i]) for i in range(longest) for name in near if i < len(near[name])]
    # MAX, MIN and LIMIT 1 look at one row only. So rows that should be left out get values beyond
    # those of all others: it shows when one is let in. And one row that meets all conditions,
    # another in each style, gets the next highest and lowest values.
    for i, (name, value) in enumerate(ones[:MAX_ONES]):
        row, meets = {name: value}, value in good[name]
        if meets:
            met.append(row)
        plans.append(row if meets else row | _extremes(free, 400, i, style, rng))
        if len(near) > 1 and i < 4 * len(near):  # the only condition met, or none: matters to OR
            others = {other: rng.choice(values) for other, values in bad.items() if other != name}
            plans.append(row | others | _extremes(free, 600 if meets else 800, i, style, rng))
    if not groups:
        spot = met[(style + 1) % len(met)]
        plans += [spot | _extremes(free, 250, turn, style, rng) for turn in (0, 1)]
    return [{name: rng.choice(meet) for name, meet in good.items()} | plan for plan in plans]


def fill(schema: Schema, facts: Facts, seed: str, style: int) -> dict[str, list[tuple]]:
    """Rows for every table; the same arguments give the same rows everywhere.

    Styles take turns: 0 and 3 (mod 6) repeat values except in ORDER BY columns, so have no ties;
    2 repeats only what conditions ask for, and has no other NULLs than they do (NOT IN of a set
    with a NULL is never true); the others repeat values everywhere. Primary keys stay unique.
    """
    rng = random.Random(f"{style} {seed}")
    plans = {table: _plans(columns, facts, style, rng) for table, columns in schema.items()}
    size = max(map(len, plans.values())) + 4  # enough for `unique`, few enough for joins to meet
    pools: dict[str, list[int]] = {}
    tables: dict[str, list[tuple]] = {}
    for table, columns in schema.items():
        draws, once = {}, set()
        for column in columns:
            name = column.name.lower()
            if column.unique or (style % 3 == 0 and name in facts.order_keys):
                once.add(column.name)
            pool = pools.setdefault(facts.common(name), rng.sample(range(-200, 200), 200))
            joined = name in facts.links  # partners must be likely
            nulls = 0 if style % 6 == 2 or not column.nullable else 1 if joined else NULLS
            shares = SHARES if style % 6 == 3 else SHARES[-rng.randint(3, len(SHARES)) :]
            if style % 6 == 2 or column.name in once:
                shares = (1,) * size
            draws[column.name] = _draw(column, pool, shares, nulls, rng)
        rows = [{name: next(draw) for name, draw in draws.items()} | plan for plan in plans[table]]
        if style % 2 == 0:  # copies of rows, but for keys: what DISTINCT is about
            rows += [row | {name: next(draws[name]) for name in once} for row in rows[:4]]
        rng.shuffle(rows)
        seen: set[tuple[str, Value]] = set()
        tables[table] = []
        for row in rows:
            keys = {(name, row[name]) for name in once}
            if not keys & seen:
                tables[table].append(tuple(row.values()))
            seen |= keys
    return tables
