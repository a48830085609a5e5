"""Plans for groups of rows whose COUNT, SUM, AVG, MAX or MIN is at, above or below a bound."""

import random

from tasks.sql.facts import Bound, Group, Term, Value
from tasks.sql.plans import Step
from tasks.sql.wishes import Key, Plan, Wishes

MAX_ROWS = 250  # of a group
MAX_ALL = 1_500  # rows of all groups of a database
MANY = 40  # groups larger than this are made in few databases


def group_steps(wishes: Wishes, style: int, rng: random.Random) -> list[Step]:
    """Groups just inside and just outside of each bound after HAVING."""
    steps: list[Step] = []
    for group in wishes.facts.groups:
        bounds = list(dict.fromkeys(group.bounds))
        for bound in bounds:
            for step in (0, 1, -1):
                for others in _others(bound, bounds):
                    wanted = {**others, bound: bound.number + step}
                    steps += Maker(wishes, group, bound, wanted, style, rng).steps()
                    if len(steps) > MAX_ALL:
                        return steps
    return steps


def _others(bound: Bound, bounds: list[Bound]) -> list[dict[Bound, float]]:
    """Where the other bounds of a group are to stand: all far above, or all far below."""
    kind = bound.aggregate, bound.term
    others = [each for each in bounds if (each.aggregate, each.term) != kind]
    far = [
        {b: b.number + (2 if b.aggregate == "COUNT" else 60) * sign for b in others}
        for sign in (1, -1)
    ]
    return far if others else [{}]


def _spread(aggregate: str, total: int | float, rows: int, rng: random.Random) -> list[Value]:
    """So many values with this sum, mean, largest or smallest value."""
    steps = [rng.randrange(-9, 10) for _ in range(rows - 1)]
    if aggregate in ("MAX", "MIN"):
        sign = -1 if aggregate == "MAX" else 1
        return [total, *(total + sign * (abs(step) + 1) for step in steps)]
    if aggregate == "AVG":
        return [*(total + step for step in steps), total - sum(steps)]
    parts = [int(total / rows) + step for step in steps]
    return [*parts, total - sum(parts)]


class Maker:
    """Makes the rows of one group in which each bound is given a number to reach."""

    def __init__(
        self,
        wishes: Wishes,
        group: Group,
        bound: Bound,
        wanted: dict[Bound, float],
        style: int,
        rng: random.Random,
    ):
        self.wishes, self.group, self.bound, self.wanted = wishes, group, bound, wanted
        self.style, self.rng = style, rng

    def steps(self) -> list[Step]:
        """The rows; none if the group would be too large."""
        many, rows = self._many(), self._rows()
        if many is None or not 0 <= rows <= MAX_ROWS or (rows > MANY and self.style % 3):
            return []
        facts = self.wishes.facts
        shared = {root: self.rng.choice(choices) for root, choices in self.wishes.good.items()}
        for root in [*sorted(self.wishes.linked), *map(facts.root, self.group.keys)]:
            if root not in shared:
                shared[root] = self.wishes.key()
        others = [n for n in range(len(facts.sources)) if n != many]
        found: list[Step] = [(shared, others)]
        columns: dict[Term, list[Value | Key]] = {}
        for bound, number in self.wanted.items():  # the bound that matters comes last
            term = bound.term and facts.root(bound.term)
            if term and bound.aggregate != "COUNT":
                columns[term] = _spread(bound.aggregate, number, rows, self.rng) if rows else []
            elif term and term not in shared:
                columns.setdefault(term, [self.wishes.key() for _ in range(rows)])
        for i in range(rows):
            found.append((shared | {term: column[i] for term, column in columns.items()}, [many]))
        return found + self._strays(many, shared, found) + self._twins(many, found)

    def _rows(self) -> int:
        """How many rows the group has."""
        counts = [int(n) for bound, n in self.wanted.items() if bound.aggregate == "COUNT"]
        return counts[-1] if counts else 2 + self.style % 2

    def _many(self) -> int | None:
        """The source that has several rows in a group; the others have one."""
        facts, term = self.wishes.facts, self.bound.term
        if term and facts.root(term) not in self.wishes.linked:
            return term[0]
        keyed = {table for table, _ in self.wishes.keyed}
        free = [n for n in self.group.sources if facts.sources[n] not in keyed]
        free = free or self.group.sources
        return free[self.style % len(free)] if free else None

    def _bad(self, root: Term) -> list[Value]:
        """One value that misses a condition: its literal, which comes first, or any."""
        good = self.wishes.good[root]
        bad = [value for value in self.wishes.near[root] if value not in good]
        mixed = [value for value in self.wishes.mixed[root] if value not in good]
        return [self.rng.choice(bad) if self.style % 2 else (mixed or bad)[0]] if bad else []

    def _strays(self, many: int, shared: Plan, steps: list[Step]) -> list[Step]:
        """Rows of a group that must not count: NULL, a repeated value, a condition missed."""
        found: list[Step] = []
        if len(steps) < 2:
            return found
        last, term = steps[-1][0], self.bound.term and self.wishes.facts.root(self.bound.term)
        if self.bound.distinct:
            found.append((last, [many]))
        elif term and term not in shared and self.wishes.column(term).nullable:
            found.append((shared | {term: None}, [many]))
        for root in self.wishes.near:
            if root[0] == many:
                found += [(last | {root: value}, [many]) for value in self._bad(root)]
        return found

    def _twins(self, many: int, steps: list[Step]) -> list[Step]:
        """Groups like this one whose joined rows miss a condition."""
        found: list[Step] = []
        for root in self.wishes.near:
            if root[0] != many and root[0] in self.group.sources:
                for value in self._bad(root):
                    keys = {key: self.wishes.key() for key in sorted(self.wishes.linked)}
                    keys = {key: new for key, new in keys.items() if key not in self.wishes.near}
                    found += [(plan | keys | {root: value}, sources) for plan, sources in steps]
        return found
