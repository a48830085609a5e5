"""Run SQL that a language model wrote, safely, and compare its answer with a reference query's.

Answers are compared on a few small databases filled so that wrong queries answer differently
(`utils.sqlfill`), an idea from Zhong et al. (2020), "Semantic Evaluation for Text-to-SQL with
Distilled Test Suites". Conventions:

- Column order counts, column names do not. NULL equals NULL, 1 equals 1.0, floats agree to 1e-9.
- Row order counts where the reference ("gold") query's outermost SELECT has ORDER BY and the
  database has no ties in it. A database in which the gold answer depends on the order in which
  rows are stored (LIMIT across a tie) is not used, unless all are so (LIMIT without ORDER BY).
- A gold answer that is empty, NULL or 0 in every database proves nothing: only the gold query's
  own text (up to spaces and case of words) then matches.

The untrusted query gets a connection of its own on a copy of the data. It can only read the
schema's tables and call listed functions, within bounds on text, work, memory and rows.
"""

import itertools
import math
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from utils.sqlfill import Facts, fill, read_queries
from utils.sqltext import (
    ContextError,
    Schema,
    Token,
    expansion,
    names_in,
    normal_form,
    parse_schema,
    quote,
    to_sqlite,
    tokenize,
)

__all__ = [
    "Answer",
    "ContextError",
    "UnsupportedGoldError",
    "execution_match",
    "is_valid_sql",
    "run_query",
]

DATABASES = 6  # to compare on
MAX_TRIES = 18  # databases made to find that many without ties that matter
MAX_CHARS = 2_000  # of a query
MAX_EXPANSION = 2_000
MAX_ROWS = 1_000  # of an answer
MAX_STEPS = 100_000  # instructions of SQLite's virtual machine in one run: a few milliseconds
LIMITS = {
    sqlite3.SQLITE_LIMIT_LENGTH: 3_000,  # bytes of a string or row: bounds memory, and each step
    sqlite3.SQLITE_LIMIT_SQL_LENGTH: 4 * MAX_CHARS,
    sqlite3.SQLITE_LIMIT_COLUMN: 200,
    sqlite3.SQLITE_LIMIT_EXPR_DEPTH: 60,
    sqlite3.SQLITE_LIMIT_COMPOUND_SELECT: 10,
    sqlite3.SQLITE_LIMIT_VDBE_OP: 10_000,
    sqlite3.SQLITE_LIMIT_FUNCTION_ARG: 10,
    sqlite3.SQLITE_LIMIT_ATTACHED: 0,
    sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH: 200,
    sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER: 0,
}
# Deterministic, and not much longer output than input (no printf, zeroblob, hex).
FUNCTIONS = frozenset(
    """abs avg coalesce count date datetime dense_rank glob group_concat ifnull iif instr julianday
    length like lower ltrim max min nullif rank replace round row_number rtrim strftime substr
    substring sum time total trim typeof upper""".split()
)
CLOCKS = frozenset("date datetime julianday strftime time".split())
EXHAUSTED = (sqlite3.SQLITE_INTERRUPT, sqlite3.SQLITE_TOOBIG, sqlite3.SQLITE_NOMEM)

Rows = tuple[tuple, ...]


class UnsupportedGoldError(ValueError):
    """The reference query cannot be run on its context, so there is nothing to compare with."""


class _Failed(Exception):
    """An untrusted query gave no answer; `kind` as in Answer.failure."""

    def __init__(self, kind: str, message: str):
        super().__init__(message)
        self.kind = kind


@dataclass(frozen=True)
class Answer:
    """Rows of a query, or why there are none.

    `failure`: "" on success; "refused" (not one short SELECT; a forbidden function or table);
    "limit" (too much work, memory or rows); "error" (SQLite's own: syntax, unknown names).
    """

    columns: tuple[str, ...] = ()
    rows: Rows = ()
    failure: str = ""
    message: str = ""


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
    databases: list[Database]


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
        sql, tokens = _admit(predicted_sql, gold.schema)
        if normal_form(tokens) == normal_form(gold.tokens):
            return True
        if not any(cell for database in gold.databases for row in database.rows for cell in row):
            return False
        return all(
            _answers_alike(sql, gold.schema, database)
            for database in itertools.chain(gold.databases, _extra_databases(gold, tokens))
        )
    except _Failed:
        return False


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
        admitted, _ = _admit(sql, reference.schema)
        return _run(image, reference.schema, admitted, MAX_ROWS)
    except _Failed as failed:
        return Answer(failure=failed.kind, message=str(failed))


def _admit(sql: str, schema: Schema) -> tuple[str, list[Token]]:
    """Refuse what must not reach SQLite; return the query in SQLite's dialect, and its tokens."""
    if not isinstance(sql, str):
        raise _Failed("refused", f"expected SQL text, got {type(sql).__name__}")
    if len(sql) > MAX_CHARS:
        raise _Failed("refused", f"longer than {MAX_CHARS} characters")
    if any(char == "\0" or "\ud800" <= char <= "\udfff" for char in sql):
        raise _Failed("refused", "a NUL character or a lone surrogate")
    sql = to_sqlite(sql, names_in(schema))
    tokens = tokenize(sql)
    if not tokens or tokens[0].key not in ("select", "with"):
        raise _Failed("refused", "not a SELECT query")
    if "'now'" in sql.lower() and any(token.key in CLOCKS for token in tokens):
        raise _Failed("refused", "the answer depends on the date")
    if expansion(tokens) > MAX_EXPANSION:
        raise _Failed("refused", "subqueries that multiply each other")
    return sql, tokens


def _open(image: bytes, schema: Schema) -> sqlite3.Connection:
    """A fresh connection on a copy of a database, for one bounded read."""
    tables = {table.lower() for table in schema}

    def authorize(action: int, first: str, second: str, *_: str) -> int:
        allowed = action in (sqlite3.SQLITE_SELECT, sqlite3.SQLITE_RECURSIVE)
        if action == sqlite3.SQLITE_READ:
            # No column: COUNT(*) of a table or of a subquery, whose name is the query's own.
            unnamed = not second and not first.lower().startswith("sqlite_")
            allowed = first.lower() in tables or unnamed
        elif action == sqlite3.SQLITE_FUNCTION:
            allowed = second.lower() in FUNCTIONS
        return sqlite3.SQLITE_OK if allowed else sqlite3.SQLITE_DENY

    conn = sqlite3.connect(":memory:", isolation_level=None)
    conn.deserialize(image)
    conn.execute("PRAGMA query_only=ON")
    conn.execute("PRAGMA temp_store=MEMORY")  # no temporary files
    conn.execute("SELECT 1 FROM sqlite_master").fetchone()  # reads the schema, before the limits
    for limit, value in LIMITS.items():
        conn.setlimit(limit, value)
    conn.set_authorizer(authorize)
    ticks = itertools.count(1)
    conn.set_progress_handler(lambda: next(ticks) > MAX_STEPS // 1000, 1000)
    return conn


def _run(image: bytes, schema: Schema, sql: str, max_rows: int) -> Answer:
    """Run an admitted query. Raises _Failed and nothing else."""
    conn = _open(image, schema)
    try:
        cursor = conn.execute(sql)
        rows = tuple(cursor.fetchmany(max_rows + 1))
        columns = tuple(column[0] for column in cursor.description)
    except (MemoryError, RecursionError, OverflowError) as error:
        raise _Failed("limit", f"{type(error).__name__}: {error}") from None
    except (sqlite3.Error, sqlite3.Warning, ValueError) as error:
        code = getattr(error, "sqlite_errorcode", None)
        refused = code == sqlite3.SQLITE_AUTH or str(error).startswith("not authorized")
        kind = "refused" if refused else "limit" if code in EXHAUSTED else "error"
        raise _Failed(kind, str(error)) from None
    finally:
        conn.close()
    if len(rows) > max_rows:
        raise _Failed("limit", f"more than {max_rows} rows")
    return Answer(columns, rows)


def _build(schema: Schema, tables: dict[str, list[tuple]]) -> bytes:
    """The file of a database with these rows."""
    conn = sqlite3.connect(":memory:", isolation_level=None)
    conn.execute("PRAGMA page_size=1024")
    conn.execute("BEGIN")
    for table, columns in schema.items():
        declared = ", ".join(f"{quote(column.name)} {column.declared}" for column in columns)
        conn.execute(f"CREATE TABLE {quote(table)} ({declared})")
        places = ", ".join("?" * len(columns))
        conn.executemany(f"INSERT INTO {quote(table)} VALUES ({places})", tables[table])
    conn.execute("COMMIT")
    image = conn.serialize()
    conn.close()
    return image


def _sort_key(row: tuple) -> list[tuple]:
    """Order rows of mixed types: NULL, numbers, text, blobs."""
    ranks = {int: 1, float: 1, str: 2, bytes: 3}
    return [(0, 0) if cell is None else (ranks[type(cell)], cell) for cell in row]


def _same_cell(a: object, b: object) -> bool:
    """Equality of two values; floats may differ by 1e-9 of their size."""
    if a == b:
        return True
    numbers = isinstance(a, int | float) and isinstance(b, int | float)
    return numbers and float in (type(a), type(b)) and math.isclose(a, b, rel_tol=1e-9)


def same_rows(first: Rows, second: Rows, ordered: bool) -> bool:
    """Whether two answers hold the same rows, in the same order or as multisets."""
    if len(first) != len(second):
        return False
    if not ordered:
        first, second = sorted(first, key=_sort_key), sorted(second, key=_sort_key)
    return all(
        len(a) == len(b) and all(map(_same_cell, a, b)) for a, b in zip(first, second, strict=True)
    )


def _answers_alike(sql: str, schema: Schema, database: Database) -> bool:
    """Whether a query gives the gold answer of a database. Raises _Failed."""
    rows = _run(database.image, schema, sql, len(database.rows)).rows
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


def _databases(
    schema: Schema, facts: Facts, tokens: list[Token], seed: str, tries: int
) -> Iterator[Database]:
    """Filled databases with the answers of a gold query, stable or not. Raises _Failed.

    Ties in ORDER BY show when they are broken in two ways; what else depends on the order in which
    rows are stored (LIMIT without ORDER BY, columns outside GROUP BY) when that is reversed.
    """
    sql = " ".join(token.text for token in tokens)
    for style in range(tries):
        tables = fill(schema, facts, seed, style)
        image = _build(schema, tables)
        back = _build(schema, {table: rows[::-1] for table, rows in tables.items()})
        answer = _run(image, schema, sql, MAX_ROWS)
        up, down = (_break_ties(tokens, len(answer.columns), how) for how in ("ASC", "DESC"))
        others = [_run(back, schema, up, MAX_ROWS).rows, _run(back, schema, down, MAX_ROWS).rows]
        same, stable = (
            all(same_rows(answer.rows, rows, ordered) for rows in others)
            for ordered in (True, False)
        )
        yield Database(image, answer.rows, bool(_order(tokens)) and same, stable)


@lru_cache(maxsize=4096)  # about 12 KB each
def _reference(context: str, gold_sql: str) -> Reference:
    """Schema and databases for a gold query, made once."""
    schema = parse_schema(context)
    try:
        sql, tokens = _admit(gold_sql, schema)
        facts = read_queries([tokens], schema)
        found: list[Database] = []
        for database in _databases(schema, facts, tokens, seed=sql, tries=MAX_TRIES):
            found.append(database)
            if sum(each.stable for each in found) == DATABASES:
                break
    except _Failed as failed:
        raise UnsupportedGoldError(
            f"gold query {gold_sql!r} fails ({failed.kind}: {failed}); expected one SELECT that "
            f"runs in SQLite on {context!r}; correct the query or leave the example out"
        ) from None
    stable = [database for database in found if database.stable]
    return Reference(schema, tokens, stable or found[:DATABASES])


@lru_cache(maxsize=1024)
def _plain(context: str) -> Reference:
    """Schema and one database filled with no query in mind."""
    schema = parse_schema(context)
    image = _build(schema, fill(schema, Facts(), seed=context, style=0))
    return Reference(schema, [], [Database(image, (), ordered=False, stable=True)])


def _extra_databases(gold: Reference, tokens: list[Token]) -> Iterator[Database]:
    """Stable databases with the prediction's literals too, if it has any that gold lacks.

    Asked for last: few wrong predictions get so far, and these databases are not kept.
    """
    known = read_queries([gold.tokens], gold.schema)
    both = read_queries([tokens, gold.tokens], gold.schema)
    if both.literals() != known.literals() or both.limit > known.limit:
        found = _databases(gold.schema, both, gold.tokens, seed="extra", tries=DATABASES)
        yield from (database for database in found if database.stable)
