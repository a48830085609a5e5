"""Edits of a query that keep its answer, and edits that change it, made in its syntax tree.

Used by `tools.sql_verdicts`. An edit that would keep the answer by construction (DISTINCT dropped
on a key, a bound that no group can miss) is not among the mistakes.
"""

import random
from collections.abc import Callable, Iterator

from sqlglot import exp

FLIPPED = {exp.LT: exp.GT, exp.GT: exp.LT, exp.LTE: exp.GTE, exp.GTE: exp.LTE, exp.EQ: exp.EQ}
STRICT = {exp.LT: exp.LTE, exp.GT: exp.GTE, exp.LTE: exp.LT, exp.GTE: exp.GT}
OPPOSITE = {exp.LT: exp.GTE, exp.GT: exp.LTE, exp.LTE: exp.GT, exp.GTE: exp.LT}
AGGREGATES = {exp.Sum: exp.Avg, exp.Avg: exp.Sum, exp.Max: exp.Min, exp.Min: exp.Max}
COMPARISONS = (exp.EQ, exp.NEQ, exp.LT, exp.LTE, exp.GT, exp.GTE)

Tree = exp.Query
Columns = dict[str, dict[str, tuple[str, bool]]]  # table -> column -> type, whether it is a key


def _swap(node: exp.Expr, kind: type[exp.Expr]) -> None:
    node.replace(kind(this=node.this.copy(), expression=node.expression.copy()))


def _own(tree: Tree) -> exp.Select | None:
    """The outermost SELECT, if it is one."""
    return tree if isinstance(tree, exp.Select) else None


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


# Right rewrites: each changes the tree it is given and says whether it did.


def and_reordered(tree: Tree, columns: Columns) -> bool:
    done = False
    for node in list(tree.find_all(exp.And, exp.Or)):
        if type(node.parent) is not type(node):
            parts = [part.copy() for part in node.flatten(unnest=False)]
            node.replace(
                type(node).__name__ == "And" and exp.and_(*parts[::-1]) or exp.or_(*parts[::-1])
            )
            done = True
            break
    return done


def sides_turned(tree: Tree, columns: Columns) -> bool:
    done = False
    for node in list(tree.find_all(*FLIPPED)):
        turned = FLIPPED[type(node)](this=node.expression.copy(), expression=node.this.copy())
        if not node.find(exp.Query):
            node.replace(turned)
            done = True
    return done


def aliases_renamed(tree: Tree, columns: Columns) -> bool:
    names: dict[str, str] = {}
    ctes = {cte.alias.lower() for cte in tree.find_all(exp.CTE)}
    tables = [t for t in tree.find_all(exp.Table) if t.name.lower() not in ctes]
    if len({t.alias_or_name.lower() for t in tables}) < len(tables):
        return False
    for i, table in enumerate(tables):
        names[table.alias_or_name.lower()] = f"zq{i}"
        table.set("alias", exp.TableAlias(this=exp.to_identifier(f"zq{i}")))
    for column in tree.find_all(exp.Column):
        if column.table.lower() in names:
            column.set("table", exp.to_identifier(names[column.table.lower()]))
    return bool(names)


def parentheses(tree: Tree, columns: Columns) -> bool:
    found = list(tree.find_all(*COMPARISONS))
    for node in found:
        node.replace(exp.Paren(this=node.copy()))
    return bool(found)


def between_to_bounds(tree: Tree, columns: Columns) -> bool:
    found = list(tree.find_all(exp.Between))
    for node in found:
        low = exp.GTE(this=node.this.copy(), expression=node.args["low"].copy())
        high = exp.LTE(this=node.this.copy(), expression=node.args["high"].copy())
        node.replace(exp.Paren(this=exp.and_(low, high)))
    return bool(found)


def in_to_or(tree: Tree, columns: Columns) -> bool:
    found = [node for node in tree.find_all(exp.In) if node.expressions]
    for node in found:
        parts = [exp.EQ(this=node.this.copy(), expression=e.copy()) for e in node.expressions]
        node.replace(exp.Paren(this=exp.or_(*parts)))
    return bool(found)


def equal_to_in(tree: Tree, columns: Columns) -> bool:
    found = [n for n in tree.find_all(exp.EQ) if isinstance(n.expression, exp.Literal)]
    for node in found:
        node.replace(exp.In(this=node.this.copy(), expressions=[node.expression.copy()]))
    return bool(found)


def not_opposite(tree: Tree, columns: Columns) -> bool:
    found = [n for n in tree.find_all(*OPPOSITE) if not n.find(exp.Query)]
    for node in found:
        other = OPPOSITE[type(node)](this=node.this.copy(), expression=node.expression.copy())
        node.replace(exp.Not(this=exp.Paren(this=other)))
    return bool(found)


def _plain_join(tree: Tree) -> exp.Select | None:
    """The outermost SELECT if it has joins with ON only, and no choice left to the order of rows."""
    select = _own(tree)
    if (
        select is None
        or not select.args.get("joins")
        or select.find(exp.Star)
        and not select.find(exp.Count)
    ):
        return None
    if any(not join.args.get("on") or join.side for join in select.args["joins"]):
        return None
    return None if select.args.get("limit") and not select.args.get("order") else select


def join_order_turned(tree: Tree, columns: Columns) -> bool:
    select = _plain_join(tree)
    if select is None or len(select.args["joins"]) != 1:
        return False
    first, join = select.args["from_"], select.args["joins"][0]
    one, two = first.this.copy(), join.this.copy()
    first.set("this", two)
    join.set("this", one)
    return True


def join_to_comma(tree: Tree, columns: Columns) -> bool:
    select = _plain_join(tree)
    if select is None:
        return False
    conditions = [join.args["on"].copy() for join in select.args["joins"]]
    for join in select.args["joins"]:
        join.set("on", None)
        join.set("kind", None)
        join.set("side", None)
    select.where(*conditions, copy=False)
    return True


def count_star(tree: Tree, columns: Columns) -> bool:
    """COUNT(x) -> COUNT(*) where x cannot be NULL: it is compared in the same WHERE."""
    select = _own(tree)
    where = select.args.get("where") if select is not None else None
    if where is None or where.find(exp.Or, exp.Not, exp.Is, exp.Query):
        return False
    compared = {c.sql() for n in where.find_all(*COMPARISONS, exp.Between) for c in [n.this]}
    found = [n for n in select.find_all(exp.Count) if n.this.sql() in compared]
    for node in found:
        node.set("this", exp.Star())
    return bool(found)


def count_one(tree: Tree, columns: Columns) -> bool:
    found = [n for n in tree.find_all(exp.Count) if isinstance(n.this, exp.Star)]
    for node in found:
        node.set("this", exp.Literal.number(1))
    return bool(found)


def distinct_to_group(tree: Tree, columns: Columns) -> bool:
    select = _own(tree)
    if select is None or not select.args.get("distinct"):
        return False
    if any(select.args.get(key) for key in ("group", "order", "limit")):
        return False
    if not all(isinstance(each.unalias(), exp.Column) for each in select.expressions):
        return False
    select.set("distinct", None)
    select.group_by(*[each.unalias().copy() for each in select.expressions], copy=False)
    return True


def subquery_to_cte(tree: Tree, columns: Columns) -> bool:
    found = next((n for n in tree.find_all(exp.In) if n.args.get("query")), None)
    if found is None or not isinstance(tree, exp.Select):
        return False
    inner = found.args["query"].this
    names = {t.alias_or_name.lower() for t in inner.find_all(exp.Table)}
    if any(c.table and c.table.lower() not in names for c in inner.find_all(exp.Column)):
        return False  # correlated
    inner = inner.copy()
    found.set("query", exp.Subquery(this=exp.select("*").from_("wcte")))
    tree.with_("wcte", as_=inner, copy=False)
    return True


REWRITES: dict[str, Callable[[Tree, Columns], bool]] = {
    edit.__name__: edit
    for edit in (
        and_reordered, sides_turned, aliases_renamed, parentheses, between_to_bounds, in_to_or,
        equal_to_in, not_opposite, join_order_turned, join_to_comma, count_star, count_one,
        distinct_to_group, subquery_to_cte,
    )
}  # fmt: skip


def rewrites(tree: Tree, columns: Columns) -> Iterator[tuple[str, str]]:
    """(kind, text) of queries with the same answer."""
    plain = tree.sql(dialect="sqlite")
    for kind, edit in REWRITES.items():
        copy = tree.copy()
        if edit(copy, columns):
            yield kind, copy.sql(dialect="sqlite")
    yield "quoted names", tree.sql(dialect="sqlite", identify=True)
    if "<>" in plain:
        yield "!=", plain.replace("<>", "!=")
    if not list(tree.find_all(exp.Order)):
        yield "wrapped", f"SELECT * FROM ({plain}) AS wq"
        yield "as a CTE", f"WITH wq AS ({plain}) SELECT * FROM wq"


# Mistakes: each yields trees.


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
    rules = {exp.EQ: "==", exp.NEQ: "!=", exp.LT: "<", exp.LTE: "<=", exp.GT: ">", exp.GTE: ">="}
    compare = {
        "==": lambda a, b: a == b, "!=": lambda a, b: a != b, "<": lambda a, b: a < b,
        "<=": lambda a, b: a <= b, ">": lambda a, b: a > b, ">=": lambda a, b: a >= b,
    }  # fmt: skip

    def truth(each: exp.Expr) -> list[bool]:
        bound = float(each.expression.this)
        return [compare[rules[type(each)]](n, bound) for n in range(1, int(bound) + 4)]

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
    select = _own(tree)
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


def order_key(tree: Tree, columns: Columns, rng: random.Random) -> Iterator[Tree]:
    """The second key of ORDER BY dropped or turned."""
    select = _own(tree)
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
    last.set("desc", not last.args.get("desc"))
    yield copy


def order_turned(tree: Tree, columns: Columns, rng: random.Random) -> Iterator[Tree]:
    select = _own(tree)
    order = select.args.get("order") if select is not None else None
    alone = select is not None and not select.args.get("group") and select.find(exp.AggFunc)
    if order is not None and not alone:
        copy = tree.copy()
        first = copy.args["order"].expressions[0]
        first.set("desc", not first.args.get("desc"))
        yield copy


def limit_changed(tree: Tree, columns: Columns, rng: random.Random) -> Iterator[Tree]:
    select = _own(tree)
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


MISTAKES = (
    strictness, off_by_one, opposite, and_to_or, condition_dropped, aggregate_swapped,
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
