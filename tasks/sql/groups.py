"""Plans for groups of rows whose COUNT, SUM, AVG, MAX or MIN is at, above or below a bound."""

import random

from tasks.sql.facts import Bound, Group, Term, Value
from tasks.sql.plans import Step
from tasks.sql.wishes import Plan, Wishes

MAX_ROWS = 250  # of a group
MANY = 40  # groups larger than this are made in few databases


def group_steps(wishes: Wishes, style: int, rng: random.Random) -> list[Step]:
    """Groups just inside and just outside of each bound after HAVING."""
    steps: list[Step] = []
    for group in wishes.facts.groups:
        for bound in dict.fromkeys(group.bounds):
            for values in _sizes(bound, style, rng):
                steps += _group(wishes, group, bound, values, style, rng)
    return steps


def _sizes(bound: Bound, style: int, rng: random.Random) -> list[list[Value]]:
    """For groups at the bound, one above, one below: the aggregated values of their rows."""
    number = bound.number
    if bound.aggregate == "COUNT":
        if not -1 <= number <= MAX_ROWS or (number > MANY and style % 3):
            return []
        sizes = [int(number) + step for step in (0, 1, -1)]
        return [[None] * size for size in sizes if size >= 0]
    found = []
    for total in (number, number + 1, number - 1):
        a, b = rng.sample(range(1, 10), 2)
        if bound.aggregate == "SUM":
            part = int(total / 3)
            found.append([part + a, part - b, total - 2 * part - a + b][style % 2 :])
            if style % 2:
                found[-1][0] += part + a
        elif bound.aggregate == "AVG":
            found.append([total - a, total + a, total][: 2 + style % 2])
        else:
            sign = -1 if bound.aggregate == "MAX" else 1
            found.append([total, total + sign * a, total + sign * b])
    return found


def _many(wishes: Wishes, group: Group, bound: Bound, style: int) -> int | None:
    """The source that has several rows in a group; the others have one."""
    facts = wishes.facts
    if bound.term and facts.root(bound.term) not in wishes.linked:
        return bound.term[0]
    free = [n for n in group.sources if not any(facts.sources[n] == t for t, _ in wishes.keyed)]
    free = free or group.sources
    return free[style % len(free)] if free else None


def _group(
    wishes: Wishes,
    group: Group,
    bound: Bound,
    values: list[Value],
    style: int,
    rng: random.Random,
) -> list[Step]:
    """The rows of one group, with these values in the aggregated column."""
    many = _many(wishes, group, bound, style)
    if many is None:
        return []
    facts, term = wishes.facts, bound.term and wishes.facts.root(bound.term)
    shared: Plan = {root: rng.choice(choices) for root, choices in wishes.good.items()}
    for root in [*sorted(wishes.linked), *map(facts.root, group.keys)]:
        if root not in shared:
            shared[root] = wishes.key()
    others = [n for n in range(len(facts.sources)) if n != many]
    steps: list[Step] = [(shared, others)]
    counted = bound.aggregate == "COUNT"
    for value in values:
        own: Plan = {} if counted else {term: value}
        if counted and term and term not in shared:
            own = {term: wishes.key()}
        steps.append((shared | own, [many]))
    return steps + _strays(wishes, bound, many, term, shared, steps, style, rng)


def _strays(
    wishes: Wishes,
    bound: Bound,
    many: int,
    term: Term | None,
    shared: Plan,
    steps: list[Step],
    style: int,
    rng: random.Random,
) -> list[Step]:
    """Rows of a group that must not count: NULL, a repeated value, a condition missed."""
    found: list[Step] = []
    if len(steps) < 2:
        return found
    if bound.distinct:
        found.append((steps[-1][0], [many]))
    elif term and term not in shared and wishes.nullable(term):
        found.append((shared | {term: None}, [many]))
    for root, values in wishes.near.items():
        bad = [value for value in values if value not in wishes.good[root]]
        if root[0] == many and bad:
            value = rng.choice(bad) if style % 2 else bad[0]  # first comes the literal itself
            found.append((steps[-1][0] | {root: value}, [many]))
    return found
