"""Parse SQL that a model may have written, with `sqlglot`, within bounds."""

import logging
from collections import Counter

import sqlglot
from sqlglot import exp

from tasks.sql.facts import Value
from tasks.sql.text import Token

MAX_TOKENS = 400
MAX_DEPTH = 10  # of parentheses and CASE
MAX_PREFIXES = 40  # operators that nest without parentheses
MAX_JOINS = 7  # sqlglot tries 2**n readings of n joins without ON: 20 ms

FOLDED = {
    exp.Add: lambda a, b: a + b,
    exp.Sub: lambda a, b: a - b,
    exp.Mul: lambda a, b: a * b,
}

logging.getLogger("sqlglot").setLevel(logging.ERROR)  # its warnings are about other dialects


def parse(sql: str, tokens: list[Token]) -> exp.Query | None:
    """The syntax tree of an admitted query; None if it is too large or not understood."""
    depth = deepest = 0
    for token in tokens:
        depth += {"(": 1, "case": 1, ")": -1, "end": -1}.get(token.key, 0)
        deepest = max(deepest, depth)
    times = Counter(token.key for token in tokens)
    prefixes = sum(times[key] for key in ("not", "-", "+", "~", "interval", "exists"))
    if len(tokens) > MAX_TOKENS or deepest > MAX_DEPTH or prefixes > MAX_PREFIXES:
        return None
    if times["join"] > MAX_JOINS:
        return None
    try:
        tree = sqlglot.parse_one(sql, dialect="sqlite")
    except (sqlglot.errors.SqlglotError, RecursionError, ValueError):
        return None
    return tree if isinstance(tree, exp.Query) else None


def constant(node: exp.Expr) -> Value:
    """The value of a literal or of a sum or product of numbers; None for all else."""
    node = node.unnest()
    if isinstance(node, exp.Literal):
        if node.is_string:
            return node.this
        whole = node.this.isdigit() and len(node.this) < 20 and int(node.this) < 2**63
        return int(node.this) if whole else float(node.this)
    if isinstance(node, exp.Boolean):
        return int(node.this)
    if isinstance(node, exp.Neg):
        value = constant(node.this)
        return None if value is None or isinstance(value, str) else -value
    if type(node) in FOLDED:
        values = constant(node.this), constant(node.expression)
        if all(isinstance(value, int | float) for value in values):
            return FOLDED[type(node)](*values)
    return None


def spelled(value: Value) -> str:
    """A value as an SQL literal."""
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    return "NULL" if value is None else repr(value).replace("inf", "9e999")
