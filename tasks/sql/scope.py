"""What a name means at a place of a query: a column of a table, or an expression."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from sqlglot import exp

from tasks.sql.facts import Facts, Group, Term
from tasks.sql.text import Schema


@dataclass
class Scope:
    """Names that a SELECT can see. A source is a number, or the columns of an inner query."""

    outer: "Scope | None"
    names: "dict[str, int | Outputs]" = field(default_factory=dict)  # by alias
    outputs: dict[str, exp.Expr] = field(default_factory=dict)  # by alias of an output column
    ctes: "dict[str, Outputs]" = field(default_factory=dict)
    group: Group | None = None

    def outwards(self) -> "Iterator[Scope]":
        """This scope and those around it."""
        scope: Scope | None = self
        while scope:
            yield scope
            scope = scope.outer


Outputs = list[tuple[str, exp.Expr, Scope]]  # name, expression, where its names are known


class Names:
    """Finds the columns that names stand for."""

    def __init__(self, schema: Schema, facts: Facts):
        self.facts = facts
        self.loose = False  # inside NOT EXISTS
        self.tables = {table.lower(): table for table in schema}
        self.columns = {
            table: {column.name.lower() for column in columns} for table, columns in schema.items()
        }

    def named(self, node: exp.Column, scope: Scope) -> tuple[exp.Expr, Scope] | Term | None:
        """What a column name means: a term, or the expression of an inner query's column."""
        name, prefix = node.name.lower(), node.table.lower()
        for at in scope.outwards():
            for alias, known in at.names.items():
                if prefix not in ("", alias):
                    continue
                if isinstance(known, int):
                    if name in self.columns[self.facts.sources[known]]:
                        return known, name
                else:
                    for output, *meaning in known:
                        if output == name:
                            return tuple(meaning)
            if not prefix and name in at.outputs and at.outputs[name] is not node:
                return at.outputs[name], at
        return None

    def meaning(self, node: exp.Expr, scope: Scope) -> tuple[exp.Expr, Scope] | Term:
        """A term if the node is a column of a table, else an expression and where it stands."""
        for _ in range(8):
            node = node.unnest()
            found = self.named(node, scope) if isinstance(node, exp.Column) else None
            if found is None:
                break
            if isinstance(found[0], int):
                return found
            node, scope = found
        return node, scope

    def term(self, node: exp.Expr, scope: Scope) -> Term | None:
        found = self.meaning(node, scope)
        return found if isinstance(found[0], int) else None

    def link(self, first: Term | None, second: Term | None, loose: bool = False) -> None:
        """Note that two columns are equal; loosely, that they are so in some rows."""
        if first and second and (loose or self.loose):
            self.facts.loose.append((first, second))
        elif first and second:
            self.facts.link(first, second)
