"""What is asked of the rows of a database: plans that set some columns of joined rows.

A plan is for one row of each table that the query names, joined: it meets all conditions, or all
but one, and that one just so. `tasks.sql.groups` adds plans for groups of rows.
"""

import random
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from tasks.sql.facts import Facts, Term, Value
from tasks.sql.text import Column, Schema
from tasks.sql.values import Choice, near, number_in, sort_out

# Rows for each value of a column, and with NULL: unequal, so that groups differ in size and ORDER
# BY COUNT(*) has few ties.
SHARES = (1, 2, 3, 4, 6, 8)
NULLS = 5
MAX_ONES = 48  # plans about one literal of one column
POOL = 250  # drawn values stand for the numbers below this
FRESH = 1000  # the numbers of keys that no drawn value has begin here


def shuffled(values: Iterable, rng: random.Random) -> list:
    """A shuffled copy; several times faster than `rng.sample`."""
    return sorted(values, key=lambda _: rng.random())


class Key(NamedTuple):
    """A number that each of the joined columns spells in its own type."""

    number: int


Plan = dict[Term, Value | Key]  # by the root of the terms that share the value
Step = tuple[Plan, list[int]]  # a plan, and the sources that get a row


@dataclass
class Wishes:
    """The facts of some queries, made ready for filling: done once, used for each style."""

    schema: Schema
    facts: Facts
    seed: str
    sources: list[str] = field(init=False)  # of the queries, then tables that they do not name
    roots: dict[Term, Term] = field(default_factory=dict)
    good: dict[Term, list[Value]] = field(default_factory=dict)  # meet all conditions
    near: dict[Term, list[Value]] = field(default_factory=dict)
    linked: set[Term] = field(default_factory=set)  # roots of columns that are joined
    joined: set[str] = field(default_factory=set)  # their names
    earlier_keys: set[tuple[str, str]] = field(default_factory=set)  # of ORDER BY, but the last
    last_keys: set[tuple[str, str]] = field(default_factory=set)
    keyed: set[tuple[str, str]] = field(default_factory=set)  # what GROUP BY needs unique
    numbers: list[int] = field(default_factory=list)  # what drawn values are made of
    fresh: int = FRESH

    def __post_init__(self) -> None:
        facts, named = self.facts, set(self.facts.sources)
        self.sources = [*facts.sources, *(table for table in self.schema if table not in named)]
        for source, table in enumerate(self.sources):
            for column in self.schema[table]:
                term = source, column.name.lower()
                self.roots[term] = facts.root(term)
        ends = [*facts.links.items(), *facts.loose]
        self.linked = {facts.root(term) for pair in ends for term in pair}
        self.joined = {term[1] for pair in ends for term in pair}
        self._common = self._common_names(ends)
        self._pools: dict[str, list[int]] = {}
        rng = random.Random(f"near {self.seed}")
        self.numbers = shuffled(range(-POOL, POOL), rng)
        self._choose(rng)
        for order in facts.orders:
            terms = [term for term in order if term]
            self.last_keys |= {facts.place(term) for term in order[-1:] if term}
            self.earlier_keys |= {facts.place(term) for term in terms[:-1]}
        self.earlier_keys -= self.last_keys
        for group in facts.groups:
            self._find_keyed(group)

    def _common_names(self, ends: list[tuple[Term, Term]]) -> dict[str, str]:
        """Joined columns draw from one pool: the name that stands for theirs."""
        common: dict[str, str] = {}
        for (_, first), (_, second) in ends:
            old, new = common.get(second, second), common.get(first, first)
            common |= {first: new, second: new}
            common |= {name: new for name, known in common.items() if known == old}
        return common

    def _choose(self, rng: random.Random) -> None:
        """Values near the conditions of each column, and those that meet them all."""
        tests: dict[Term, list] = {}
        columns: dict[Term, Column] = {}
        for term, found in self.facts.tests.items():
            root = self.facts.root(term)
            table, name = self.facts.place(term)
            tests[root] = tests.get(root, []) + [t for t in found if t not in tests.get(root, [])]
            columns.setdefault(root, next(c for c in self.schema[table] if c.name.lower() == name))
        for root, found in tests.items():
            choices = sort_out(columns[root], found, near(columns[root], found, rng))
            if choices:
                self._sides(root, choices)

    def _sides(self, root: Term, choices: list[Choice]) -> None:
        every = [value for value, met in choices if all(met)]
        some = [value for value, met in choices if any(met)]  # OR, IN
        self.near[root] = [value for value, _ in choices]
        self.good[root] = every or some or self.near[root]

    def _find_keyed(self, group) -> None:
        """Find columns that must be unique, or else which row GROUP BY shows would be chance.

        `SELECT s.name, COUNT(*) FROM ride r JOIN station s ON ... GROUP BY r.station` means that
        a station has one name.
        """
        keys = {self.facts.root(key) for key in group.keys}
        for source, name in group.bare if len(group.sources) > 1 else ():
            if self.roots.get((source, name)) in keys:
                continue
            for column in self.schema[self.sources[source]]:
                if self.roots[source, column.name.lower()] in keys:
                    self.keyed.add((self.sources[source], column.name.lower()))

    def settled(self, table: str) -> list[tuple[list[str], list[str]]]:
        """GROUP BY keys of a table queried alone, and columns that depend on them."""
        found = []
        for group in self.facts.groups:
            if len(group.sources) == 1 and group.keys and self.sources[group.sources[0]] == table:
                keys = [name for _, name in group.keys]
                shown = [name for _, name in group.bare if name not in keys]
                found += [(keys, shown)] * bool(shown)
        return found

    def once(self, table: str, style: int) -> list[str]:
        """Columns in which no value comes twice."""
        found = [column.name.lower() for column in self.schema[table] if column.unique]
        names = [column.name.lower() for column in self.schema[table]]
        if style % 3 == 0:
            found += [name for name in names if (table, name) in self.last_keys]
        found += [name for name in names if (table, name) in self.keyed]
        return list(dict.fromkeys(found))

    def pool(self, name: str, rng: random.Random) -> list[int]:
        """Numbers that stand for the values of a column and of those joined with it."""
        name = self._common.get(name, name)
        if name not in self._pools:
            start = rng.randrange(len(self.numbers))
            self._pools[name] = self.numbers[start:] + self.numbers[:start]
        return self._pools[name]

    def key(self) -> Key:
        """A key that no other row has; a multiple of 3 is a number in text columns too."""
        self.fresh += 3
        return Key(self.fresh // 3 * 3)

    def steps(self, style: int, rng: random.Random) -> list[Step]:
        """The plans of one style."""
        self._pools, self.fresh = {}, FRESH
        every = list(range(len(self.sources)))
        own = list(range(len(self.facts.sources)))
        groups = style % 6 in (3, 5)  # groups are to decide, not single rows
        keys = {self.facts.root(key) for group in self.facts.groups for key in group.keys}
        near_plans = self._near_plans(style, rng)
        bare = bool(self.near) and style % 6 in (4, 5)  # no rows that meet all
        base = 0 if bare else (sum(SHARES) + NULLS if groups else 10) + self.facts.limit
        steps: list[Step] = [(self._complete({}, rng), every) for _ in range(base)]
        if bare:
            others = [source for source in every if source not in own]
            steps += [({}, others) for _ in range(10)]
        for plan in near_plans:
            kept = {} if bare else self._complete({}, rng)
            plan = kept | plan
            for root in self.linked - plan.keys():
                if not (groups and root in keys):
                    plan[root] = self.key()
            steps.append((self._loosen(plan, rng), own))
        return steps

    def nullable(self, term: Term) -> bool:
        """Whether the column of a term may be NULL."""
        table, name = self.facts.place(term)
        return next(c.nullable for c in self.schema[table] if c.name.lower() == name)

    def _complete(self, plan: Plan, rng: random.Random) -> Plan:
        return {root: rng.choice(values) for root, values in self.good.items()} | plan

    def _loosen(self, plan: Plan, rng: random.Random) -> Plan:
        """Let columns that are equal in some rows (NOT IN) be so in half of the plans."""
        for first, second in self.facts.loose:
            first, second = self.facts.root(first), self.facts.root(second)
            if rng.random() < 0.5 and second not in self.near:
                plan[second] = plan[first]
            elif rng.random() < 0.5 and first not in self.near:
                plan[first] = plan[second]
        return plan

    def _free(self, style: int) -> list[tuple[Term, Column]]:
        """Columns that no condition and no join is about."""
        return [
            ((source, column.name.lower()), column)
            for source, table in enumerate(self.facts.sources)
            for column in self.schema[table]
            if (root := self.roots[source, column.name.lower()]) not in self.near
            and root not in self.linked
            and not (style % 3 == 0 and (table, column.name.lower()) in self.earlier_keys)
        ]

    def _near_plans(self, style: int, rng: random.Random) -> list[Plan]:
        """Plans about single literals: rows just inside and just outside of each condition."""
        good, near = self.good, self.near
        bad = {root: [v for v in near[root] if v not in good[root]] or near[root] for root in near}
        if near and style % 6 in (4, 5):  # without rows that meet all: answers may be empty
            literals = {r: [near[r][0]] * len(bad[r]) for r in near if style % 2 == 0}
            edges = {root: literals.get(root, []) + bad[root] for root in near}
            mixed = [{root: rng.choice(edges[root]) for root in edges} for _ in range(12)]
            return [*mixed, {root: values[0] for root, values in edges.items()}]
        plans: list[Plan] = []
        met: list[Plan] = [{}]
        free = self._free(style)
        # A column's first value is its literal: plans about literals come first.
        longest = max(map(len, near.values()), default=0)
        ones = [
            (root, near[root][i]) for i in range(longest) for root in near if i < len(near[root])
        ]
        most = MAX_ONES if len(self.facts.sources) < 3 else MAX_ONES // 2
        # MAX, MIN and LIMIT 1 look at one row only. So rows that should be left out get values
        # beyond those of all others: it shows when one is let in. And one row that meets all
        # conditions, another in each style, gets the next highest and lowest values.
        for i, (root, value) in enumerate(ones[:most]):
            plan, meets = {root: value}, value in good[root]
            if meets:
                met.append(plan)
            plans.append(plan if meets else plan | _extremes(free, 400, i, style, rng))
            if len(near) > 1 and i < 4 * len(near):  # the only condition met, or none: for OR
                others = {
                    other: rng.choice(values) for other, values in bad.items() if other != root
                }
                plans.append(plan | others | _extremes(free, 600 if meets else 800, i, style, rng))
        plans += self._pair_plans(rng)
        if style % 6 != 3:
            spot = met[(style + 1) % len(met)]
            plans += [spot | _extremes(free, 250, turn, style, rng) for turn in (0, 1)]
        return plans

    def _pair_plans(self, rng: random.Random) -> list[Plan]:
        """Plans about columns that are compared with each other: equal, and apart by one."""
        plans: list[Plan] = []
        for first, second in self.facts.pairs:
            first, second = self.facts.root(first), self.facts.root(second)
            for step in (0, 1, -1):
                value = rng.choice(self.good[second]) if second in self.good else rng.randrange(300)
                number = number_in(value)
                other = value if number is None else number + step
                plans.append({first: other, second: value})
        return plans


def _extremes(
    free: list[tuple[Term, Column]], least: int, turn: int, style: int, rng: random.Random
) -> Plan:
    """Values beyond all that are drawn, the more so the larger `least`.

    High or low by turns, for each column in another rhythm: or else one row would be the first
    under ORDER BY of any column.
    """
    plan: Plan = {}
    for i, (term, column) in enumerate(free):
        size = rng.randrange(least, least + 150)
        high = (turn + style // (1 + i % 3) + i // 3) % 2 == 0
        plan[term] = size if high else -size
        if column.kind in ("text", "date"):
            plan[term] = f"zz {size}" if high else f"AA {999 - size:03}"
    return plan
