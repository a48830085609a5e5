"""The facts of a query, read from its syntax tree.

What is not understood here only makes rows less telling.
"""

from collections.abc import Iterator

from sqlglot import exp

from tasks.sql.facts import Bound, Facts, Group, Test, Value
from tasks.sql.scope import Names, Outputs, Scope
from tasks.sql.syntax import constant, parse, spelled
from tasks.sql.text import Schema, Token

MAX_SOURCES = 8  # tables that get rows together
MAX_LIMIT = 80  # rows that are made for a LIMIT

OPERATORS = {
    exp.EQ: "=",
    exp.NEQ: "!=",
    exp.LT: "<",
    exp.LTE: "<=",
    exp.GT: ">",
    exp.GTE: ">=",
    exp.Is: "IS",
    exp.Like: "LIKE",
}
FLIPPED = {"<": ">", ">": "<", "<=": ">=", ">=": "<="}
AGGREGATES = {exp.Count: "COUNT", exp.Sum: "SUM", exp.Avg: "AVG", exp.Max: "MAX", exp.Min: "MIN"}
QUERIES = (exp.Select, exp.SetOperation)
# What makes an answer depend on the order in which rows are stored, or may.
UNSTEADY = (exp.Limit, exp.Offset, exp.Order, exp.Window, exp.GroupConcat, exp.Anonymous)


class Reader(Names):
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
            self._inside(expression, scope)
        for clause in ("where", "having"):
            if node.args.get(clause):
                self._conditions(node.args[clause].this, scope)
        self._keys(node, scope)
        self._limit(node)
        return outputs

    def _keys(self, node: exp.Select, scope: Scope) -> None:
        """The keys of GROUP BY and ORDER BY, and the columns that GROUP BY leaves open."""
        group, order = node.args.get("group"), node.args.get("order")
        keys = [self._output(key, node) for key in group.expressions] if group else []
        ordered = [self._output(key.this, node) for key in order.expressions] if order else []
        for key in ordered:
            self._inside(key, scope)
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
            self._conditions(join.args["on"], scope)
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

    def _inside(self, node: exp.Expr, scope: Scope) -> None:
        """Read the inner queries of an expression, and the conditions of CASE."""
        for found in node.walk(prune=lambda each: isinstance(each, (*QUERIES, exp.If))):
            if isinstance(found, QUERIES):
                self.query(found, scope)
            elif isinstance(found, exp.If):
                self._conditions(found.this, scope)

    def _conditions(self, node: exp.Expr, scope: Scope, negated: bool = False) -> None:
        """Read a tree of conditions."""
        node = node.unnest()
        if isinstance(node, exp.Not):
            self._conditions(node.this, scope, not negated)
        elif isinstance(node, exp.Connector):
            for part in node.flatten():
                self._conditions(part, scope, negated)
        elif isinstance(node, exp.In) and node.args.get("query"):
            outputs = self.query(node.args["query"], scope)
            inner = self.term(*outputs[0][1:]) if outputs else None
            self.link(self.term(node.this, scope), inner, loose=negated)
            if negated and inner:
                self.facts.full.add(self.facts.place(inner))
        elif isinstance(node, exp.Exists):
            before, self.loose = self.loose, negated
            self._inside(node, scope)
            self.loose = before
        elif isinstance(node, exp.In):
            for value in node.expressions:
                self._comparison(node.this, "=", value, scope, negated) or self._other(
                    node, scope, negated
                )
        elif isinstance(node, exp.Between):
            for op, side in ((">=", "low"), ("<=", "high")):
                self._comparison(node.this, op, node.args[side], scope, negated) or self._other(
                    node, scope, negated
                )
        elif type(node) not in OPERATORS or not self._comparison(
            node.this, OPERATORS[type(node)], node.expression, scope, negated
        ):
            self._other(node, scope, negated)

    def _comparison(
        self, left: exp.Expr, op: str, right: exp.Expr, scope: Scope, negated: bool
    ) -> bool:
        """Read `left op right` if it compares a column with a literal or another column."""
        if self._value(left, scope)[0] and not self._value(right, scope)[0]:
            left, op, right = right, FLIPPED.get(op, op), left
        (known, value), term = self._value(right, scope), self.term(left, scope)
        if term and known:
            sql = f"c {op} {spelled(value)}"
            sql = f"NOT ({sql})" if negated else sql
            self.facts.tests.setdefault(term, []).append(Test(sql, (value,), plain=True))
            return True
        other = self.term(right, scope)
        if term and other and op == "=":
            self.link(term, other)
        elif term and other:
            self.facts.pairs.append((term, other))
        return bool(term and other)

    def _value(self, node: exp.Expr, scope: Scope) -> tuple[bool, Value]:
        """Whether a node is a literal, and its value; "x" is text unless it names a column."""
        node = node.unnest()
        if isinstance(node, exp.Column) and not node.table and node.this.quoted:
            return self.named(node, scope) is None, node.name
        value = constant(node)
        return value is not None or isinstance(node, exp.Null), value

    def _other(self, node: exp.Expr, scope: Scope, negated: bool) -> None:
        """Read a condition on a group, one through functions, or one with an inner query."""
        sides = []
        for side in (node.this, node.expression) if isinstance(node, exp.Binary) else (node,):
            inner = self.query(side.unnest(), scope) if isinstance(side, exp.Subquery) else []
            sides.append(self.meaning(*inner[0][1:]) if inner else self.meaning(side, scope))
        terms = [side for side in sides if isinstance(side[0], int)]
        if len(sides) == 2 and len(terms) == 1:
            # `x = (SELECT MAX(y) ...)`: the x that are sought are among the y.
            shown = next(side for side in sides if not isinstance(side[0], int))
            if isinstance(shown[0], exp.Max | exp.Min) and isinstance(node, exp.EQ):
                self.link(terms[0], self.term(shown[0].this, shown[1]))
        numbers = [
            value
            for found in node.walk(prune=lambda each: constant(each) is not None)
            if isinstance(value := constant(found), int | float)
        ]
        for side in sides:
            if not isinstance(side[0], int):
                self._bounds(*side, numbers)
        if not node.find(*QUERIES):
            self._function(node, scope, negated)

    def _bounds(self, node: exp.Expr, scope: Scope, numbers: list[int | float]) -> None:
        """Note that the aggregates in an expression are compared with numbers."""
        for found in node.walk(prune=lambda each: isinstance(each, QUERIES)):
            if type(found) in AGGREGATES and scope.group:
                inner, distinct = found.this, isinstance(found.this, exp.Distinct)
                inner = inner.expressions[0] if distinct else inner
                term = self.term(inner, scope) if isinstance(inner, exp.Expr) else None
                scope.group.bounds += [
                    Bound(AGGREGATES[type(found)], distinct, term, number) for number in numbers
                ]

    def _function(self, node: exp.Expr, scope: Scope, negated: bool) -> None:
        """Note a condition in which functions stand around one column."""
        self._inside(node, scope)
        if node.find(exp.AggFunc):
            return
        copy, terms, literals = node.copy(), set(), []
        for found in list(copy.find_all(exp.Column)):
            known, value = self._value(found, scope)
            term = self.term(found, scope)
            if known:
                found.replace(exp.Literal.string(value))
            elif term:
                terms.add(term)
                found.replace(exp.column("c"))
            else:
                return
        for found in copy.find_all(exp.Literal, exp.Neg):
            literals.append(constant(found))
        if len(terms) == 1:
            sql = copy.sql(dialect="sqlite")
            sql = f"NOT ({sql})" if negated else sql
            test = Test(sql, tuple(each for each in literals if each is not None), plain=False)
            self.facts.tests.setdefault(terms.pop(), []).append(test)


def read_query(sql: str, tokens: list[Token], schema: Schema) -> Facts:
    """The facts of an admitted query, given as text and tokens; none if it is not understood."""
    facts, tree = Facts(), parse(sql, tokens)
    if tree is not None:
        facts.steady = tree.find(*UNSTEADY) is None
        Reader(schema, facts).query(tree)
    return facts
