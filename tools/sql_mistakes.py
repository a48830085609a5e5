"""Edits of a query that change its answer, as hasty writers make them, in its syntax tree.

Used by `tools.sql_verdicts`. An edit that would keep the answer by construction (DISTINCT dropped
on a key, a bound that no group can miss) is not made.
"""

import operator
import random
from collections.abc import Iterator

from sqlglot import exp

from tools.sql_rewrites import COMPARISONS, FLIPPED, OPPOSITE, Tree, own

STRICT = {exp.LT: exp.LTE, exp.GT: exp.GTE, exp.LTE: exp.LT, exp.GTE: exp.GT}
AGGREGATES = {exp.Sum: exp.Avg, exp.Avg: exp.Sum, exp.Max: exp.Min, exp.Min: exp.Max}

Columns = dict[str, dict[str, tuple[str, bool]]]  # table -> column -> type, whether it is a key


def _swap(node: exp.Expr, kind: type[exp.Expr]) -> None:
    node.replace(kind(this=node.this.copy(), expression=node.expression.copy()))


def _number(node: exp.Expr) -> bool:
    return isinstance(node, exp.Literal) and not node.is_string and node.this.isdigit()


def _tables(tree: Tree) -> dict[str, str]:
    """Alias -> table, of the whole query."""
    return {t.alias_or_name.lower(): t.name.lower() for t in tree.find_all(exp.Table)}


def _column_info(column: exp.Column, tree: Tree, columns: Columns) -> tuple[str, str, bool] | None:
    """Table, type and whether a key, of a column in the tree."""
    tables = _tables(tree)
    owners = [tables.get(column.table.lower())] if column.table else list(tables.values())
    for table in owners:
        known = columns.get(table or "", {}).get(column.name.lower())
        if known:
            return table, *known
    return None


def _conditions(tree: Tree) -> list[exp.Expr]:
    """Comparisons with a number or text, of columns that no other condition is about."""
    found = [
        n
        for n in tree.find_all(*COMPARISONS)
        if isinstance(n.expression, exp.Literal) and not isinstance(n.this, exp.Literal)
    ]
    named = [
        n.this.sql().lower() for n in tree.find_all(*COMPARISONS, exp.Between, exp.In, exp.Like)
    ]
    return [n for n in found if named.count(n.this.sql().lower()) == 1]


def _can_matter(node: exp.Expr, other: exp.Expr) -> bool:
    """Whether two bounds on COUNT(*) differ for some number of rows from 1 on."""
    if not isinstance(node.this, exp.Count):
        return True
    holds = {
        exp.EQ: operator.eq, exp.NEQ: operator.ne, exp.LT: operator.lt, exp.LTE: operator.le,
        exp.GT: operator.gt, exp.GTE: operator.ge,
    }  # fmt: skip

    def truth(each: exp.Expr) -> list[bool]:
        bound = float(each.expression.this)
        return [holds[type(each)](n, bound) for n in range(1, int(bound) + 4)]

    return truth(node)[: len(truth(other))] != truth(other)[: len(truth(node))]


def strictness(tree: Tree, columns: Columns, rng: random.Random) -> Iterator[Tree]:
    for i, node in enumerate(_conditions(tree)):
        if type(node) in STRICT:
            copy = tree.copy()
            mine = _conditions(copy)[i]
            other = STRICT[type(node)](this=mine.this.copy(), expression=mine.expression.copy())
            if _can_matter(mine, other):
                mine.replace(other)
                yield copy


def off_by_one(tree: Tree, columns: Columns, rng: random.Random) -> Iterator[Tree]:
    for i, node in enumerate(_conditions(tree)):
        if _number(node.expression):
            copy = tree.copy()
            mine = _conditions(copy)[i]
            other = mine.copy()
            step = rng.choice((1, -1)) if int(node.expression.this) > 1 else 1
            other.set("expression", exp.Literal.number(int(node.expression.this) + step))
            if _can_matter(mine, other):
                mine.replace(other)
                yield copy


def opposite(tree: Tree, columns: Columns, rng: random.Random) -> Iterator[Tree]:
    for i, node in enumerate(_conditions(tree)):
        if type(node) in OPPOSITE:
            copy = tree.copy()
            _swap(_conditions(copy)[i], FLIPPED[type(node)])
            yield copy


def and_to_or(tree: Tree, columns: Columns, rng: random.Random) -> Iterator[Tree]:
    for where in tree.find_all(exp.Where, exp.Having):
        node, other = where.this, {exp.And: exp.Or, exp.Or: exp.And}
        if type(node) in other:
            parts = [part.sql() for part in node.flatten()]
            if len(set(parts)) == len(parts) and len(parts) == 2:
                copy = tree.copy()
                _swap(
                    next(w for w in copy.find_all(type(where)) if w == where).this,
                    other[type(node)],
                )
                yield copy


def condition_dropped(tree: Tree, columns: Columns, rng: random.Random) -> Iterator[Tree]:
    alone = {id(n) for n in _conditions(tree)}
    for i, node in enumerate(tree.find_all(*COMPARISONS)):
        if id(node) in alone and isinstance(node.parent, exp.Connector | exp.Where | exp.Having):
            copy = tree.copy()
            mine = list(copy.find_all(*COMPARISONS))[i]
            if isinstance(mine.parent, exp.Connector):
                keep = mine.parent.expression if mine.arg_key == "this" else mine.parent.this
                mine.parent.replace(keep.copy())
            else:
                mine.parent.parent.set(mine.parent.arg_key, None)
            yield copy


def aggregate_swapped(tree: Tree, columns: Columns, rng: random.Random) -> Iterator[Tree]:
    fixed = {n.this.sql().lower() for n in tree.find_all(exp.EQ)}
    for i, node in enumerate(tree.find_all(*AGGREGATES)):
        if node.this.sql().lower() not in fixed:
            copy = tree.copy()
            mine = list(copy.find_all(*AGGREGATES))[i]
            mine.replace(AGGREGATES[type(mine)](this=mine.this.copy()))
            yield copy


def distinct_dropped(tree: Tree, columns: Columns, rng: random.Random) -> Iterator[Tree]:
    select = own(tree)
    if select is None or select.args.get("group"):
        return
    keys = [
        _column_info(c, tree, columns) for e in select.expressions for c in e.find_all(exp.Column)
    ]
    if any(info is None or info[2] for info in keys):
        return
    limit = select.args.get("limit")
    if select.args.get("distinct") and not (limit and limit.expression.this == "1"):
        if not select.find(exp.AggFunc):
            copy = tree.copy()
            copy.set("distinct", None)
            yield copy
    for i, node in enumerate(select.find_all(exp.Distinct)):
        if isinstance(node.parent, exp.Count):
            copy = tree.copy()
            mine = list(copy.find_all(exp.Distinct))[i]
            mine.replace(mine.expressions[0].copy())
            yield copy


def _turn(key: exp.Ordered) -> None:
    """ASC for DESC, without a word on NULLs."""
    desc = not key.args.get("desc")
    key.set("desc", desc)
    key.set("nulls_first", not desc)


def order_key(tree: Tree, columns: Columns, rng: random.Random) -> Iterator[Tree]:
    """The second key of ORDER BY dropped or turned."""
    select = own(tree)
    order = select.args.get("order") if select is not None else None
    if order is None or len(order.expressions) < 2:
        return
    first = order.expressions[0].this
    info = _column_info(first, tree, columns) if isinstance(first, exp.Column) else None
    groups = {
        e.sql() for e in (select.args["group"].expressions if select.args.get("group") else [])
    }
    shown = {each.unalias().sql() for each in select.expressions}
    if (info and info[2]) or first.sql() in groups or shown <= {first.sql()}:
        return
    copy = tree.copy()
    copy.args["order"].set("expressions", copy.args["order"].expressions[:1])
    yield copy
    copy = tree.copy()
    last = copy.args["order"].expressions[-1]
    _turn(last)
    yield copy


def order_turned(tree: Tree, columns: Columns, rng: random.Random) -> Iterator[Tree]:
    select = own(tree)
    order = select.args.get("order") if select is not None else None
    alone = select is not None and not select.args.get("group") and select.find(exp.AggFunc)
    if order is not None and not alone:
        copy = tree.copy()
        first = copy.args["order"].expressions[0]
        _turn(first)
        yield copy


def limit_changed(tree: Tree, columns: Columns, rng: random.Random) -> Iterator[Tree]:
    select = own(tree)
    limit = select.args.get("limit") if select is not None else None
    alone = select is not None and not select.args.get("group") and select.find(exp.AggFunc)
    if limit is not None and _number(limit.expression) and not alone:
        copy = tree.copy()
        copy.args["limit"].set("expression", exp.Literal.number(int(limit.expression.this) + 1))
        yield copy


def _replaceable(column: exp.Column) -> bool:
    inside = column.find_ancestor(exp.Count, exp.Exists, exp.EQ, exp.CTE)
    joins = isinstance(inside, exp.EQ) and isinstance(inside.expression, exp.Column)
    return not (isinstance(inside, exp.Count | exp.Exists) or joins)


def wrong_column(tree: Tree, columns: Columns, rng: random.Random) -> Iterator[Tree]:
    """A column replaced by another of its type that the query does not name."""
    named = {c.name.lower() for c in tree.find_all(exp.Column)}
    for i, column in enumerate(tree.find_all(exp.Column)):
        info = _column_info(column, tree, columns)
        if info is None or not _replaceable(column):
            continue
        table, kind, _ = info
        others = [
            name
            for name, (other, key) in columns[table].items()
            if other == kind and name not in named and not key
        ]
        if others and not isinstance(column.parent, exp.Group):
            copy = tree.copy()
            list(copy.find_all(exp.Column))[i].set("this", exp.to_identifier(rng.choice(others)))
            yield copy


def wrong_join(tree: Tree, columns: Columns, rng: random.Random) -> Iterator[Tree]:
    joins = [j for j in tree.find_all(exp.Join) if isinstance(j.args.get("on"), exp.EQ)]
    for i, join in enumerate(joins):
        info = _column_info(join.args["on"].this, tree, columns)
        if info is None:
            continue
        table, _, _ = info
        own = join.args["on"].this.name.lower()
        others = [name for name in columns[table] if name != own]
        if others:
            copy = tree.copy()
            mine = [j for j in copy.find_all(exp.Join) if isinstance(j.args.get("on"), exp.EQ)][i]
            mine.args["on"].this.set("this", exp.to_identifier(rng.choice(others)))
            yield copy


def set_operation(tree: Tree, columns: Columns, rng: random.Random) -> Iterator[Tree]:
    other = {exp.Intersect: exp.Union, exp.Except: exp.Intersect, exp.Union: exp.Intersect}
    if type(tree) in other:
        kind = other[type(tree)]
        yield kind(this=tree.this.copy(), expression=tree.expression.copy(), distinct=True)


def not_dropped(tree: Tree, columns: Columns, rng: random.Random) -> Iterator[Tree]:
    for i, _ in enumerate(tree.find_all(exp.Not)):
        copy = tree.copy()
        mine = list(copy.find_all(exp.Not))[i]
        mine.replace(mine.this.copy())
        yield copy


def text_changed(tree: Tree, columns: Columns, rng: random.Random) -> Iterator[Tree]:
    """Another text, or another place for it in LIKE."""
    for i, node in enumerate(tree.find_all(exp.EQ, exp.NEQ, exp.Like)):
        text = node.expression
        if isinstance(text, exp.Literal) and text.is_string and node.this.find(exp.Column):
            copy = tree.copy()
            mine = list(copy.find_all(exp.EQ, exp.NEQ, exp.Like))[i]
            like = isinstance(node, exp.Like)
            other = f"%{text.this.strip('%')}" if like else f"{text.this}s"
            mine.set("expression", exp.Literal.string(other))
            yield copy


MISTAKES = (
    text_changed, strictness, off_by_one, opposite, and_to_or, condition_dropped, aggregate_swapped,
    distinct_dropped, order_key, order_turned, limit_changed, wrong_column, wrong_join,
    set_operation, not_dropped,
)  # fmt: skip


def mistakes(tree: Tree, columns: Columns, rng: random.Random) -> Iterator[tuple[str, str]]:
    """(kind, text) of queries with another answer."""
    plain = tree.sql(dialect="sqlite")
    for edit in MISTAKES:
        for wrong in edit(tree, columns, rng):
            text = wrong.sql(dialect="sqlite")
            if text != plain:
                yield edit.__name__, text
