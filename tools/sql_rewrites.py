"""Edits of a query that keep its answer, made in its syntax tree. Used by `tools.sql_verdicts`."""

from collections.abc import Callable, Iterator

from sqlglot import exp

FLIPPED = {exp.LT: exp.GT, exp.GT: exp.LT, exp.LTE: exp.GTE, exp.GTE: exp.LTE, exp.EQ: exp.EQ}
OPPOSITE = {exp.LT: exp.GTE, exp.GT: exp.LTE, exp.LTE: exp.GT, exp.GTE: exp.LT}
SIDES = ("this", "expression")
COMPARISONS = (exp.EQ, exp.NEQ, exp.LT, exp.LTE, exp.GT, exp.GTE)

Tree = exp.Query


def own(tree: Tree) -> exp.Select | None:
    """The outermost SELECT, if it is one."""
    return tree if isinstance(tree, exp.Select) else None


# Each changes the tree it is given and says whether it did.


def and_reordered(tree: Tree) -> bool:
    node = tree.find(exp.And, exp.Or)
    if node is None:
        return False
    parts = [part.copy() for part in node.flatten(unnest=False)]
    node.replace((exp.and_ if isinstance(node, exp.And) else exp.or_)(*reversed(parts)))
    return True


def sides_turned(tree: Tree) -> bool:
    apart = (exp.Query, *COMPARISONS)
    found = [n for n in tree.find_all(*FLIPPED) if not any(n.args[s].find(*apart) for s in SIDES)]
    for node in found:
        kind = FLIPPED[type(node)]
        node.replace(kind(this=node.expression.copy(), expression=node.this.copy()))
    return bool(found)


def aliases_renamed(tree: Tree) -> bool:
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


def parentheses(tree: Tree) -> bool:
    found = list(tree.find_all(*COMPARISONS))
    for node in found:
        node.replace(exp.Paren(this=node.copy()))
    return bool(found)


def between_to_bounds(tree: Tree) -> bool:
    found = list(tree.find_all(exp.Between))
    for node in found:
        low = exp.GTE(this=node.this.copy(), expression=node.args["low"].copy())
        high = exp.LTE(this=node.this.copy(), expression=node.args["high"].copy())
        node.replace(exp.Paren(this=exp.and_(low, high)))
    return bool(found)


def in_to_or(tree: Tree) -> bool:
    found = [node for node in tree.find_all(exp.In) if node.expressions]
    for node in found:
        parts = [exp.EQ(this=node.this.copy(), expression=e.copy()) for e in node.expressions]
        node.replace(exp.Paren(this=exp.or_(*parts)))
    return bool(found)


def equal_to_in(tree: Tree) -> bool:
    found = [n for n in tree.find_all(exp.EQ) if isinstance(n.expression, exp.Literal)]
    for node in found:
        node.replace(exp.In(this=node.this.copy(), expressions=[node.expression.copy()]))
    return bool(found)


def not_opposite(tree: Tree) -> bool:
    found = [n for n in tree.find_all(*OPPOSITE) if not n.find(exp.Query)]
    for node in found:
        other = OPPOSITE[type(node)](this=node.this.copy(), expression=node.expression.copy())
        node.replace(exp.Not(this=exp.Paren(this=other)))
    return bool(found)


def _plain_join(tree: Tree) -> exp.Select | None:
    """The outermost SELECT if its joins all have ON, and no choice is left to the order of rows."""
    select = own(tree)
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


def join_order_turned(tree: Tree) -> bool:
    select = _plain_join(tree)
    if select is None or len(select.args["joins"]) != 1:
        return False
    first, join = select.args["from_"], select.args["joins"][0]
    one, two = first.this.copy(), join.this.copy()
    first.set("this", two)
    join.set("this", one)
    return True


def join_to_comma(tree: Tree) -> bool:
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


def count_star(tree: Tree) -> bool:
    """COUNT(x) -> COUNT(*) where x cannot be NULL: it is compared in the same WHERE."""
    select = own(tree)
    where = select.args.get("where") if select is not None else None
    if where is None or where.find(exp.Or, exp.Not, exp.Is, exp.Query):
        return False
    compared = {c.sql() for n in where.find_all(*COMPARISONS, exp.Between) for c in [n.this]}
    found = [n for n in select.find_all(exp.Count) if n.this.sql() in compared]
    for node in found:
        node.set("this", exp.Star())
    return bool(found)


def count_one(tree: Tree) -> bool:
    found = [n for n in tree.find_all(exp.Count) if isinstance(n.this, exp.Star)]
    for node in found:
        node.set("this", exp.Literal.number(1))
    return bool(found)


def distinct_to_group(tree: Tree) -> bool:
    select = own(tree)
    if select is None or not select.args.get("distinct"):
        return False
    if any(select.args.get(key) for key in ("group", "order", "limit")):
        return False
    if not all(isinstance(each.unalias(), exp.Column) for each in select.expressions):
        return False
    select.set("distinct", None)
    select.group_by(*[each.unalias().copy() for each in select.expressions], copy=False)
    return True


def subquery_to_cte(tree: Tree) -> bool:
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


REWRITES: dict[str, Callable[[Tree], bool]] = {
    edit.__name__: edit
    for edit in (
        and_reordered, sides_turned, aliases_renamed, parentheses, between_to_bounds, in_to_or,
        equal_to_in, not_opposite, join_order_turned, join_to_comma, count_star, count_one,
        distinct_to_group, subquery_to_cte,
    )
}  # fmt: skip


def rewrites(tree: Tree) -> Iterator[tuple[str, str]]:
    """(kind, text) of queries with the same answer."""
    plain = tree.sql(dialect="sqlite")
    for kind, edit in REWRITES.items():
        copy = tree.copy()
        if edit(copy):
            yield kind, copy.sql(dialect="sqlite")
    yield "quoted names", tree.sql(dialect="sqlite", identify=True)
    if "<>" in plain:
        yield "!=", plain.replace("<>", "!=")
    if not list(tree.find_all(exp.Order)):
        yield "wrapped", f"SELECT * FROM ({plain}) AS wq"
        yield "as a CTE", f"WITH wq AS ({plain}) SELECT * FROM wq"
