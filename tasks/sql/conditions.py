"""The conditions of WHERE, ON, HAVING and CASE, read from a query's syntax tree."""

from sqlglot import exp

from tasks.sql.facts import Bound, Test, Value
from tasks.sql.scope import Names, Outputs, Scope
from tasks.sql.syntax import constant, spelled

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


class Conditions(Names):
    """Adds the conditions of a query to `facts`."""

    def query(self, node: exp.Expr, outer: Scope | None = None) -> Outputs:
        """Read an inner query; `tasks.sql.read` knows how."""
        raise NotImplementedError

    def inside(self, node: exp.Expr, scope: Scope) -> None:
        """Read the inner queries of an expression, and the conditions of CASE."""
        for found in node.walk(prune=lambda each: isinstance(each, (*QUERIES, exp.If))):
            if isinstance(found, QUERIES):
                self.query(found, scope)
            elif isinstance(found, exp.If):
                self.conditions(found.this, scope)

    def conditions(self, node: exp.Expr, scope: Scope, negated: bool = False) -> None:
        """Read a tree of conditions."""
        node = node.unnest()
        if isinstance(node, exp.Not):
            self.conditions(node.this, scope, not negated)
        elif isinstance(node, exp.Connector):
            for part in node.flatten():
                self.conditions(part, scope, negated)
        elif isinstance(node, exp.In) and node.args.get("query"):
            outputs = self.query(node.args["query"], scope)
            inner = self.term(*outputs[0][1:]) if outputs else None
            self.link(self.term(node.this, scope), inner, loose=negated)
            if negated and inner:
                self.facts.full.add(self.facts.place(inner))
        elif isinstance(node, exp.Exists):
            before, self.loose = self.loose, negated
            self.inside(node, scope)
            self.loose = before
        elif isinstance(node, exp.In | exp.Between):
            pairs = [("=", value) for value in node.expressions]
            if isinstance(node, exp.Between):
                pairs = [(">=", node.args["low"]), ("<=", node.args["high"])]
            read = [self._comparison(node.this, *pair, scope, negated) for pair in pairs]
            if not all(read):
                self._other(node, scope, negated)
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
        self.inside(node, scope)
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
