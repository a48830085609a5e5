"""The facts of queries made ready for filling tables: values to set, columns to keep unique."""

import random
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from tasks.sql.facts import Facts, Group, Term, Value
from tasks.sql.text import Column, Schema
from tasks.sql.values import Choice, near, sort_out, sort_out_pairs

POOL = 250  # drawn values stand for the numbers below this
FRESH = 1000  # the numbers of keys that no drawn value has begin here


def shuffled(values: Iterable, rng: random.Random) -> list:
    """A shuffled copy; several times faster than `rng.sample`."""
    return sorted(values, key=lambda _: rng.random())


class Key(NamedTuple):
    """A number that each of the joined columns spells in its own type."""

    number: int


Plan = dict[Term, Value | Key]  # by the root of the terms that share the value


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
    mixed: dict[Term, list[Value]] = field(default_factory=dict)  # meet some: two queries differ
    unique: set[Term] = field(default_factory=set)  # roots of primary keys with conditions
    inside: list[list[Plan]] = field(default_factory=list)  # for each condition on two columns
    outside: list[list[Plan]] = field(default_factory=list)
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
        self.restart()
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
            tests[root] = tests.get(root, []) + [t for t in found if t not in tests.get(root, [])]
            columns.setdefault(root, self.column(term))
        for joint in self.facts.joints:
            roots = [self.facts.root(term) for term in joint.terms]
            pairs = sort_out_pairs(*map(self.column, joint.terms), joint)
            for side, found in zip((self.inside, self.outside), pairs, strict=True):
                side.append([dict(zip(roots, pair, strict=True)) for pair in found])
        for root, found in tests.items():
            choices = sort_out(columns[root], found, near(columns[root], found, rng))
            if choices:
                self._sides(root, choices)
                self.unique |= {root} if columns[root].unique else set()

    def _sides(self, root: Term, choices: list[Choice]) -> None:
        every = [value for value, met in choices if all(met)]
        some = [value for value, met in choices if any(met)]  # OR, IN
        self.near[root] = [value for value, _ in choices]
        self.good[root] = every or some or self.near[root]
        self.mixed[root] = [value for value, met in choices if any(met) and not all(met)]

    def _find_keyed(self, group: Group) -> None:
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

    def restart(self) -> None:
        """Forget what was drawn for another database."""
        self._pools, self.fresh = {}, FRESH

    def key(self) -> Key:
        """A key that no other row has; a multiple of 3 is a number in text columns too."""
        self.fresh += 3
        return Key(self.fresh // 3 * 3)

    def column(self, term: Term) -> Column:
        """The column of a term."""
        table, name = self.facts.place(term)
        return next(column for column in self.schema[table] if column.name.lower() == name)
