"""Compare the answer of SQL that a language model wrote with a reference query's.

Queries run in `tasks.sql.sandbox`, where they can do no harm, on a few small databases that
`tasks.sql.fill` fills so that wrong queries answer differently; the idea is that of Zhong et al.
(2020), "Semantic Evaluation for Text-to-SQL with Distilled Test Suites". Conventions:

- Column order counts, column names do not. NULL equals NULL, 1 equals 1.0, floats agree to 1e-9.
- Row order counts where the reference ("gold") query's outermost SELECT has ORDER BY and the
  database has no ties in it. A database in which the gold answer depends on the order in which
  rows are stored (LIMIT across a tie) is not used, unless all are so (LIMIT without ORDER BY).
- A gold answer that is empty, NULL or 0 in every database, or the same in all, proves nothing
  (`is_telling`): only the gold query's own text (up to spaces and case of words) then matches.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from tasks.sql.facts import Facts, joint
from tasks.sql.fill import fill
from tasks.sql.read import read_query
from tasks.sql.rows import same_rows
from tasks.sql.sandbox import MAX_ROWS, Answer, QueryFailed, Rows, admit, build, run
from tasks.sql.text import ContextError, Schema, Token, names_in, normal_form, parse_schema, phrases
from tasks.sql.wishes import Wishes

__all__ = [
    "Answer",
    "ContextError",
    "UnsupportedGoldError",
    "execution_match",
    "is_telling",
    "is_valid_sql",
    "run_query",
    "same_rows",
]

DATABASES = 6  # to compare on
MAX_TRIES = 18  # databases made to find that many without ties that matter


class UnsupportedGoldError(ValueError):
    """The reference query cannot be run on its context, so there is nothing to compare with."""


@dataclass(frozen=True)
class Database:
    """A filled database as the bytes of its file, and the gold query's answer."""

    image: bytes
    rows: Rows
    ordered: bool  # the order of `rows` counts
    stable: bool  # the answer does not depend on the order in which rows are stored


@dataclass(frozen=True)
class Reference:
    """What is kept of one context and gold query."""

    schema: Schema
    tokens: list[Token]
    facts: Facts
    databases: list[Database]

    @property
    def telling(self) -> bool:
        """Whether the answers hold anything, and are not the same in every database."""
        answers = {database.rows for database in self.databases}
        return len(answers) > 1 and any(cell for rows in answers for row in rows for cell in row)


def execution_match(context: str, predicted_sql: str, gold_sql: str) -> bool:
    """Whether the predicted query answers like the gold query on every database made for it.

    `context` is CREATE TABLE text. A prediction never raises: it is False if it fails, writes,
    loops or is no string. Raises ContextError or UnsupportedGoldError (both ValueError) when
    context or gold query cannot be run.

    >>> table = "CREATE TABLE singer (name TEXT, age INTEGER)"
    >>> gold = "SELECT name FROM singer WHERE age >= 20"
    >>> execution_match(table, "select s.name from singer s where not s.age < 20", gold)
    True
    >>> execution_match(table, "SELECT name FROM singer WHERE age > 20", gold)
    False
    """
    gold = _reference(context, gold_sql)
    try:
        sql, tokens = admit(predicted_sql, gold.schema)
        if normal_form(tokens) == normal_form(gold.tokens):
            return True
        if not gold.telling:
            return False
        return all(
            _answers_alike(sql, gold.schema, database)
            for database in itertools.chain(gold.databases, _extra_databases(gold, sql, tokens))
        )
    except QueryFailed:
        return False


def is_telling(context: str, gold_sql: str) -> bool:
    """Whether some database tells the gold query from one that returns nothing or a constant.

    Raises as `execution_match` does.
    """
    return _reference(context, gold_sql).telling


def is_valid_sql(context: str, sql: str) -> bool:
    """Whether a query parses and runs on this schema within the limits. Raises ContextError."""
    return not run_query(context, sql).failure


def run_query(context: str, sql: str, gold_sql: str | None = None, database: int = 0) -> Answer:
    """Answer of an untrusted query on one of the databases that serve to compare with a gold query.

    "SELECT * FROM ..." shows what they hold. Without `gold_sql` there is one database, filled with
    no query in mind. `sql` never raises; context and gold query do as in `execution_match`, and
    IndexError comes when there is no such database.
    """
    reference = _plain(context) if gold_sql is None else _reference(context, gold_sql)
    image = reference.databases[database].image
    try:
        admitted, _ = admit(sql, reference.schema)
        return run(image, reference.schema, admitted, MAX_ROWS)
    except QueryFailed as failed:
        return Answer(failure=failed.kind, message=str(failed))


def _answers_alike(sql: str, schema: Schema, database: Database) -> bool:
    """Whether a query gives the gold answer of a database. Raises QueryFailed."""
    rows = run(database.image, schema, sql, len(database.rows)).rows
    return same_rows(rows, database.rows, database.ordered)


def _order(tokens: list[Token]) -> tuple[int, int] | None:
    """Where the outermost query's ORDER BY begins and ends; None if it has none."""
    depth, start = 0, None
    for i, token in enumerate(tokens):
        depth += {"(": 1, ")": -1}.get(token.key, 0)
        if depth == 0 and token.key == "order":
            start = i
        elif start is not None and depth == 0 and token.key in ("limit", ";"):
            return start, i
    return None if start is None else (start, len(tokens))


def _break_ties(tokens: list[Token], columns: int, direction: str) -> str:
    """The query with its output columns as last keys of ORDER BY, or as it is without one."""
    texts, order = [token.text for token in tokens], _order(tokens)
    if order:
        texts.insert(order[1], "".join(f", {i + 1} {direction}" for i in range(columns)))
    return " ".join(texts)


def _database(
    schema: Schema, wishes: Wishes, tokens: list[Token], seed: str, style: int
) -> Database:
    """A filled database with the gold answer. Raises QueryFailed.

    Ties in ORDER BY show when they are broken in two ways; what else depends on the order in which
    rows are stored (LIMIT without ORDER BY, columns outside GROUP BY) when that is reversed.
    """
    tables = fill(schema, wishes, seed, style)
    image = build(schema, tables)
    if wishes.facts.steady:
        rows = run(image, schema, " ".join(token.text for token in tokens), MAX_ROWS).rows
        return Database(image, rows, ordered=False, stable=True)
    back = build(schema, {table: rows[::-1] for table, rows in tables.items()})
    answer = run(image, schema, " ".join(token.text for token in tokens), MAX_ROWS)
    directions = ("ASC", "DESC") if _order(tokens) else ("",)
    others = [
        run(back, schema, _break_ties(tokens, len(answer.columns), direction), MAX_ROWS).rows
        for direction in directions
    ]
    same, stable = (
        all(same_rows(answer.rows, rows, ordered) for rows in others) for ordered in (True, False)
    )
    return Database(image, answer.rows, bool(_order(tokens)) and same, stable)


def _databases(
    schema: Schema, wishes: Wishes, tokens: list[Token], seed: str, tries: int
) -> Iterator[Database]:
    """Databases of several styles, without those where the gold answer is too large."""
    for style in range(tries):
        try:
            database = _database(schema, wishes, tokens, seed, style)
        except QueryFailed as failed:
            if failed.kind != "limit":
                raise
        else:
            yield database


@lru_cache(maxsize=4096)  # about 12 KB each
def _reference(context: str, gold_sql: str) -> Reference:
    """Schema and databases for a gold query, made once."""
    schema = parse_schema(context)
    try:
        sql, tokens = admit(gold_sql, schema)
        facts = read_query(sql, tokens, schema)
        wishes = Wishes(schema, facts, seed=sql)
        found: list[Database] = []
        for database in _databases(schema, wishes, tokens, seed=sql, tries=MAX_TRIES):
            found.append(database)
            stable = [each for each in found if each.stable]
            ordered = sum(each.ordered for each in stable)
            if len(stable) >= DATABASES and (ordered > 1 or not _order(tokens)):
                break
        if not found:
            raise QueryFailed("limit", f"too much work, or more than {MAX_ROWS} rows")
    except QueryFailed as failed:
        raise UnsupportedGoldError(
            f"gold query {gold_sql!r} fails ({failed.kind}: {failed}); expected one SELECT that "
            f"runs in SQLite on {context!r}; correct the query or leave the example out"
        ) from None
    best = sorted(stable or found, key=lambda database: not database.ordered)
    return Reference(schema, tokens, facts, best[:DATABASES])


@lru_cache(maxsize=1024)
def _plain(context: str) -> Reference:
    """Schema and one database filled with no query in mind."""
    schema = parse_schema(context)
    image = build(
        schema, fill(schema, Wishes(schema, Facts(), seed=context), seed=context, style=0)
    )
    return Reference(schema, [], Facts(), [Database(image, (), ordered=False, stable=True)])


def _extra_databases(gold: Reference, sql: str, tokens: list[Token]) -> Iterator[Database]:
    """Stable databases with the prediction's literals too, if it has any that gold lacks.

    Asked for last: few wrong predictions get so far, and these databases are not kept.
    """
    names = names_in(gold.schema)
    if phrases(tokens, names) <= phrases(gold.tokens, names):
        return
    own = read_query(sql, tokens, gold.schema)
    if not own.asked() <= gold.facts.asked() or own.limit > gold.facts.limit:
        wishes = Wishes(gold.schema, joint(gold.facts, own), seed=sql)
        found = _databases(gold.schema, wishes, gold.tokens, seed="extra", tries=DATABASES)
        yield from (database for database in found if database.stable)
