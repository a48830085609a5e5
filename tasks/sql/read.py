"""The facts of a query, read from its syntax tree.

What is not understood here only makes rows less telling.
"""

from collections.abc import Iterator

from sqlglot import exp

from tasks.sql.conditions import QUERIES, Conditions
from tasks.sql.facts import Facts, Group
from tasks.sql.scope import Outputs, Scope
from tasks.sql.syntax import constant, parse
from tasks.sql.text import Schema, Token

MAX_SOURCES = 8  # tables that get rows together
MAX_LIMIT = 80  # rows that are made for a LIMIT

# What makes an answer depend on the order in which rows are stored, or may.
UNSTEADY = (exp.Limit, exp.Offset, exp.Order, exp.Window, exp.GroupConcat, exp.Anonymous)


class Reader(Conditions):
    """Adds the facts of queries to `facts`."""

    def query(self, node: exp.Expr, outer: Scope | None = None) -> Outputs:
        """Read a SELECT, or several joined by UNION, INTERSECT or EXCEPT; its output columns."""
        if isinstance(node, exp.Subquery):
            return self.query(node.this, outer)
        scope = Scope(outer)
        for cte in node.ctes:
            outputs = self.query(cte.this, scope)
            names = [column.name.lower() for column in cte.args["alias"].args.get("columns") or []]
            names = names or [name for name, *_ in outputs]
            scope.ctes[cte.alias.lower()] = [
                (name, *output[1:]) for name, output in zip(names, outputs, strict=False)
            ]
        if isinstance(node, exp.Select):
            return self._select(node, scope)
        if not isinstance(node, exp.SetOperation):
            return []
        first, second = self.query(node.this, scope), self.query(node.expression, scope)
        if not isinstance(node, exp.Union):
            for (_, *mine), (_, *other) in zip(first, second, strict=False):
                self.link(self.term(*mine), self.term(*other), isinstance(node, exp.Except))
        self._limit(node)
        return first

    def _select(self, node: exp.Select, scope: Scope) -> Outputs:
        first, start = len(self.facts.sources), node.args.get("from_")
        joins = node.args.get("joins") or []
        for source in [*([start] if start else []), *joins]:
            self._source(source.this, scope)
        own = list(range(first, len(self.facts.sources)))
        outputs = [(each.alias_or_name.lower(), each.unalias(), scope) for each in node.expressions]
        scope.outputs = {each.alias.lower(): each.unalias() for each in node.expressions}
        scope.group = Group(own)
        self.facts.groups.append(scope.group)
        for join in joins:
            self._join(join, scope)
        for expression in node.expressions:
            self.inside(expression, scope)
        for clause in ("where", "having"):
            if node.args.get(clause):
                self.conditions(node.args[clause].this, scope)
        self._keys(node, scope)
        self._limit(node)
        return outputs

    def _keys(self, node: exp.Select, scope: Scope) -> None:
        """The keys of GROUP BY and ORDER BY, and the columns that GROUP BY leaves open."""
        group, order = node.args.get("group"), node.args.get("order")
        keys = [self._output(key, node) for key in group.expressions] if group else []
        ordered = [self._output(key.this, node) for key in order.expressions] if order else []
        for key in ordered:
            self.inside(key, scope)
        if ordered:
            self.facts.orders.append([self.term(key, scope) for key in ordered])
        shown = [*node.expressions, *ordered]
        shown += [node.args["having"]] if node.args.get("having") else []
        if not group and not any(each.find(exp.AggFunc) for each in shown):
            return
        scope.group.keys = [term for key in keys if (term := self.term(key, scope))]
        closed = {self.facts.root(key) for key in scope.group.keys}
        for column in self._columns(shown):
            term = self.term(column, scope)
            self.facts.steady &= bool(term) and self.facts.root(term) in closed
            if term and group:
                scope.group.bare.append(term)

    def _columns(self, nodes: list[exp.Expr]) -> Iterator[exp.Expr]:
        """Columns named outside of inner queries and aggregates."""
        apart = (*QUERIES, exp.AggFunc)
        for node in nodes:
            for found in node.walk(prune=lambda each: isinstance(each, apart)):
                if isinstance(found, exp.Column | exp.Star):
                    yield found

    def _source(self, node: exp.Expr, scope: Scope) -> None:
        name = node.alias_or_name.lower()
        if isinstance(node, exp.Subquery):
            scope.names[name] = self.query(node.this, scope)
        if not isinstance(node, exp.Table):
            return
        table = node.name.lower()
        inner = next((each.ctes[table] for each in scope.outwards() if table in each.ctes), None)
        if inner is not None:
            scope.names[name] = inner
        elif table in self.tables and len(self.facts.sources) < MAX_SOURCES:
            scope.names[name] = len(self.facts.sources)
            self.facts.sources.append(self.tables[table])
            self.facts.aliases.append(name)

    def _join(self, join: exp.Join, scope: Scope) -> None:
        if join.args.get("on"):
            self.conditions(join.args["on"], scope)
        names = {column.name.lower() for column in join.args.get("using") or []}
        number = scope.names.get(join.this.alias_or_name.lower())
        if join.args.get("method") == "NATURAL" and isinstance(number, int):
            names = self.columns[self.facts.sources[number]]
        for name in names:
            same = [n for n in scope.names.values() if isinstance(n, int)]
            same = [n for n in same if name in self.columns[self.facts.sources[n]]]
            for number in same[1:]:
                self.link((same[0], name), (number, name))

    def _limit(self, node: exp.Expr) -> None:
        for name in ("limit", "offset"):
            value = constant(node.args[name].expression) if node.args.get(name) else None
            if isinstance(value, int):
                self.facts.limit = max(self.facts.limit, min(value, MAX_LIMIT))

    def _output(self, key: exp.Expr, select: exp.Select) -> exp.Expr:
        """A key of GROUP BY or ORDER BY; a number stands for an output column."""
        number = constant(key) if isinstance(key, exp.Literal) else None
        if isinstance(number, int) and 0 < number <= len(select.expressions):
            return select.expressions[number - 1].unalias()
        return key


def read_query(sql: str, tokens: list[Token], schema: Schema) -> Facts:
    """The facts of an admitted query, given as text and tokens; none if it is not understood."""
    facts, tree = Facts(), parse(sql, tokens)
    if tree is not None:
        facts.steady = tree.find(*UNSTEADY) is None
        Reader(schema, facts).query(tree)
    return facts
