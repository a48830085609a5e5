"""What queries ask for: tables, joined columns, conditions, bounds on groups.

`tasks.sql.read` collects it, `tasks.sql.fill` makes rows about it.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

Value = None | int | float | str
Term = tuple[int, str]  # number of a source, lower-case column name


class Test(NamedTuple):
    """A condition on one column: SQL text in which the column is `c`, and its literals."""

    sql: str
    literals: tuple[Value, ...]
    plain: bool  # `column op literal`, no function around the column


class Bound(NamedTuple):
    """A condition on a group: `aggregate(term) op number`; no term for COUNT(*)."""

    aggregate: str
    distinct: bool
    term: Term | None
    number: int | float


@dataclass
class Group:
    """A SELECT: its sources, GROUP BY keys, bounds on aggregates."""

    sources: list[int]
    keys: list[Term] = field(default_factory=list)
    bounds: list[Bound] = field(default_factory=list)
    bare: list[Term] = field(default_factory=list)  # shown, and in no aggregate


@dataclass
class Facts:
    """What queries ask for. A source is one mention of a table after FROM or JOIN."""

    sources: list[str] = field(default_factory=list)  # the table of each
    aliases: list[str] = field(default_factory=list)
    links: dict[Term, Term] = field(default_factory=dict)  # columns that are equal
    loose: list[tuple[Term, Term]] = field(default_factory=list)  # equal in some rows: NOT IN
    tests: dict[Term, list[Test]] = field(default_factory=dict)
    pairs: list[tuple[Term, Term]] = field(default_factory=list)  # columns compared by < or !=
    groups: list[Group] = field(default_factory=list)
    orders: list[list[Term | None]] = field(default_factory=list)  # None: no column
    full: set[tuple[str, str]] = field(default_factory=set)  # inside NOT IN: a NULL empties it
    limit: int = 0
    steady: bool = False  # the answer cannot depend on the order in which rows are stored

    def root(self, term: Term) -> Term:
        """The term that stands for all that are linked with this one."""
        while term in self.links:
            term = self.links[term]
        return term

    def link(self, first: Term, second: Term) -> None:
        """Note that two columns are equal in a row of the join."""
        first, second = self.root(first), self.root(second)
        if first != second:
            self.links[max(first, second)] = min(first, second)

    def place(self, term: Term) -> tuple[str, str]:
        """Table and column of a term."""
        return self.sources[term[0]], term[1]

    def asked(self) -> set[tuple]:
        """Which column is compared with which values, which group with which bound."""
        tests = {
            (self.place(term), test.plain, tuple(sorted(map(repr, test.literals))))
            for term, tests in self.tests.items()
            for test in tests
        }
        bounds = (bound for group in self.groups for bound in group.bounds)
        return tests | {(b.aggregate, b.term and self.place(b.term), b.number) for b in bounds}

    def add(self, other: "Facts") -> None:
        """Add the facts of another query; what must be the same source in both becomes one."""
        places: list[int] = []
        for table, alias in zip(other.sources, other.aliases, strict=True):
            same = [n for n, known in enumerate(self.sources) if known == table and n not in places]
            alone = len(same) == 1 and other.sources.count(table) == 1
            named = [n for n in same if alone or self.aliases[n] == alias]
            places.append(named[0] if named else len(self.sources))
            if not named:
                self.sources.append(table)
                self.aliases.append(alias)

        def moved(term: Term) -> Term:
            return places[term[0]], term[1]

        for term, tests in other.tests.items():
            known = self.tests.setdefault(moved(term), [])
            known += [test for test in tests if test not in known]
        for pair in other.links.items():
            self.link(*map(moved, pair))
        self.loose += [(moved(a), moved(b)) for a, b in other.loose]
        self.pairs += [(moved(a), moved(b)) for a, b in other.pairs]
        self.orders += [[term and moved(term) for term in order] for order in other.orders]
        self.full |= other.full
        self.limit = max(self.limit, other.limit)
        for group in other.groups:
            bounds = [
                bound._replace(term=bound.term and moved(bound.term)) for bound in group.bounds
            ]
            keys, bare = list(map(moved, group.keys)), list(map(moved, group.bare))
            self.groups.append(Group([places[n] for n in group.sources], keys, bounds, bare))


def joint(first: Facts, second: Facts) -> Facts:
    """The facts of two queries together; steady if the first is."""
    both = Facts()
    both.add(first)
    both.add(second)
    both.steady = first.steady
    return both
