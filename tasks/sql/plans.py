"""What is asked of the rows of a database: plans that set some columns of joined rows.

A plan is for one row of each table that the query names, joined: it meets all conditions, or all
but one, and that one just so. `tasks.sql.groups` adds plans for groups of rows.
"""

import random

from tasks.sql.facts import Term, Value
from tasks.sql.text import Column
from tasks.sql.values import number_in
from tasks.sql.wishes import Plan, Wishes, shuffled

# Rows for each value of a column, and with NULL: unequal, so that groups differ in size and ORDER
# BY COUNT(*) has few ties.
SHARES = (1, 2, 3, 4, 6, 8)
NULLS = 5
MAX_ONES = 48  # plans about one literal of one column

Step = tuple[Plan, list[int]]  # a plan, and the sources that get a row


class Planner:
    """Makes the plans of one style."""

    def __init__(self, wishes: Wishes, style: int, rng: random.Random):
        self.wishes, self.style, self.rng = wishes, style, rng

    def steps(self) -> list[Step]:
        """The plans of one style."""
        self.wishes.restart()
        every = list(range(len(self.wishes.sources)))
        own = list(range(len(self.wishes.facts.sources)))
        groups = self.style % 6 in (3, 5)  # groups are to decide, not single rows
        keys = {
            self.wishes.facts.root(key) for group in self.wishes.facts.groups for key in group.keys
        }
        near_plans = self._near_plans()
        bare = bool(self.wishes.near) and self.style % 6 in (4, 5)  # no rows that meet all
        base = 0 if bare else (sum(SHARES) + NULLS if groups else 10) + self.wishes.facts.limit
        steps: list[Step] = [(self._good(), every) for _ in range(base)]
        if bare:
            others = [source for source in every if source not in own]
            steps += [({}, others) for _ in range(10)]
        for plan in near_plans:
            plan = plan if bare else self._good() | plan
            for root in sorted(self.wishes.linked - plan.keys()):
                if not (groups and root in keys):
                    plan[root] = self.wishes.key()
            steps.append((self._loosen(plan), own))
        return steps

    def _good(self) -> Plan:
        """A plan that meets all conditions."""
        return {root: self.rng.choice(values) for root, values in self.wishes.good.items()}

    def _loosen(self, plan: Plan) -> Plan:
        """Let columns that are equal in some rows (NOT IN) be so in half of the plans."""
        for first, second in self.wishes.facts.loose:
            ends = [self.wishes.facts.root(first), self.wishes.facts.root(second)]
            if self.rng.random() < 0.5 and all(end in plan for end in ends):
                ends.sort(key=lambda end: end in self.wishes.near)
                plan[ends[0]] = plan[ends[1]]
        return plan

    def _free(self) -> list[tuple[Term, Column]]:
        """Columns that no condition and no join is about."""
        return [
            ((source, column.name.lower()), column)
            for source, table in enumerate(self.wishes.facts.sources)
            for column in self.wishes.schema[table]
            if (root := self.wishes.roots[source, column.name.lower()]) not in self.wishes.near
            and root not in self.wishes.linked
            and not (
                self.style % 3 == 0 and (table, column.name.lower()) in self.wishes.earlier_keys
            )
        ]

    def _near_plans(self) -> list[Plan]:
        """Plans about single literals: rows just inside and just outside of each condition."""
        good, near = self.wishes.good, self.wishes.near
        bad = {root: [v for v in near[root] if v not in good[root]] or near[root] for root in near}
        if near and self.style % 6 in (4, 5):
            return self._bad_plans(bad)
        plans: list[Plan] = []
        met: list[Plan] = [{}]
        free = self._free()
        # A column's first value is its literal: plans about literals come first.
        longest = max(map(len, near.values()), default=0)
        ones = [
            (root, near[root][i]) for i in range(longest) for root in near if i < len(near[root])
        ]
        most = MAX_ONES if len(self.wishes.facts.sources) < 3 else MAX_ONES // 2
        # MAX, MIN and LIMIT 1 look at one row only. So rows that should be left out get values
        # beyond those of all others: it shows when one is let in. And one row that meets all
        # conditions, another in each style, gets the next highest and lowest values.
        for i, (root, value) in enumerate(ones[:most]):
            plan, meets = {root: value}, value in good[root]
            if meets:
                met.append(plan)
            plans.append(plan if meets else plan | _extremes(free, 400, i, self.style, self.rng))
            if len(near) > 1 and i < 4 * len(near):  # the only condition met, or none: for OR
                others = {
                    other: self.rng.choice(values) for other, values in bad.items() if other != root
                }
                plans.append(
                    plan | others | _extremes(free, 600 if meets else 800, i, self.style, self.rng)
                )
        plans += self._pair_plans()
        if self.style % 6 != 3:
            spot = met[(self.style + 1) % len(met)]
            for turn in (0, 1):
                most = _extremes(free, 250, turn, self.style, self.rng)
                # Twins show that DISTINCT before ORDER BY ... LIMIT 1 takes any of equal texts.
                twin = {term: most[term] for term, column in free if column.kind == "text"}
                plans += [spot | most, spot | twin, spot | twin]
        return plans

    def _bad_plans(self, bad: dict[Term, list[Value]]) -> list[Plan]:
        """Plans none of which meets all conditions: answers may be empty."""
        literals = {r: [self.wishes.near[r][0]] * len(bad[r]) for r in bad if self.style % 2 == 0}
        edges = {root: literals.get(root, []) + bad[root] for root in bad}
        plans = [{root: self.rng.choice(edges[root]) for root in edges} for _ in range(12)]
        for root in sorted(
            bad.keys() & self.wishes.unique
        ):  # each value once, or few rows would stay
            for plan, value in zip(plans, shuffled(bad[root], self.rng), strict=False):
                plan[root] = value
        return [*plans, {root: values[0] for root, values in edges.items()}]

    def _pair_plans(self) -> list[Plan]:
        """Plans about columns that are compared with each other: equal, and apart by one."""
        plans: list[Plan] = []
        for first, second in self.wishes.facts.pairs:
            first, second = self.wishes.facts.root(first), self.wishes.facts.root(second)
            for step in (0, 1, -1):
                value = (
                    self.rng.choice(self.wishes.good[second])
                    if second in self.wishes.good
                    else self.rng.randrange(300)
                )
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
