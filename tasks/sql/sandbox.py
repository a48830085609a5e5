"""One untrusted SQL query, run on a copy of a small database where it can do no harm.

It can read the schema's tables and call listed functions, within bounds on text, work, memory and
rows. Each run has a connection of its own, so nothing can leak from one to the next.
"""

import itertools
import re
import sqlite3
from dataclasses import dataclass

from tasks.sql.text import Schema, Token, expansion, names_in, quote, to_sqlite, tokenize

MAX_CHARS = 2_000  # of a query
MAX_EXPANSION = 2_000  # of `sqltext.expansion`: a few milliseconds of SQLite's compiler
MAX_ROWS = 1_000  # of an answer
MAX_STEPS = 100_000  # instructions of SQLite's virtual machine in one run: 1 to 90 ms
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
# Deterministic, cheap, and not much longer output than input (no printf, zeroblob, hex). What a
# build of SQLite lacks is an error there.
FUNCTIONS = frozenset(
    """abs acos asin atan atan2 avg ceil ceiling char coalesce concat concat_ws cos count cume_dist
    date datetime degrees dense_rank exp first_value floor glob group_concat if ifnull iif instr
    julianday lag last_value lead length like ln log log10 log2 lower ltrim max min mod nth_value
    ntile nullif octet_length percent_rank pi pow power radians rank replace round row_number rtrim
    sign sin sqrt strftime string_agg substr substring sum tan time timediff total trim trunc typeof
    unicode unixepoch upper""".split()
)
# The present: no argument, a format alone, or 'now'.
CLOCK = re.compile(
    r"\b(?:date|datetime|julianday|strftime|time|timediff|unixepoch)\s*+"
    r"\(\s*+(?:\)|[^)]*'now')|\bstrftime\s*+\(\s*+'[^']*+'\s*+\)",
    re.IGNORECASE,
)
EXHAUSTED = (sqlite3.SQLITE_INTERRUPT, sqlite3.SQLITE_TOOBIG, sqlite3.SQLITE_NOMEM)

Rows = tuple[tuple, ...]


class QueryFailed(Exception):
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


def admit(sql: str, schema: Schema) -> tuple[str, list[Token]]:
    """Refuse what must not reach SQLite; return the query in SQLite's dialect, and its tokens."""
    if not isinstance(sql, str):
        raise QueryFailed("refused", f"expected SQL text, got {type(sql).__name__}")
    if len(sql) > MAX_CHARS:
        raise QueryFailed("refused", f"longer than {MAX_CHARS} characters")
    if any(char == "\0" or "\ud800" <= char <= "\udfff" for char in sql):
        raise QueryFailed("refused", "a NUL character or a lone surrogate")
    sql = to_sqlite(sql, names_in(schema))
    tokens = tokenize(sql)
    if not tokens or tokens[0].key not in ("select", "with"):
        raise QueryFailed("refused", "not a SELECT query")
    if CLOCK.search(sql):
        raise QueryFailed("refused", "the answer depends on the date")
    if expansion(tokens) > MAX_EXPANSION:
        raise QueryFailed("refused", "subqueries that multiply each other")
    return sql, tokens


def open_copy(image: bytes, schema: Schema) -> sqlite3.Connection:
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


def run(image: bytes, schema: Schema, sql: str, max_rows: int) -> Answer:
    """Run an admitted query. Raises QueryFailed and nothing else."""
    conn = open_copy(image, schema)
    try:
        cursor = conn.execute(sql)
        rows = tuple(cursor.fetchmany(max_rows + 1))
        columns = tuple(column[0] for column in cursor.description)
    except (MemoryError, RecursionError, OverflowError) as error:
        raise QueryFailed("limit", f"{type(error).__name__}: {error}") from None
    except (sqlite3.Error, sqlite3.Warning, ValueError) as error:
        code = getattr(error, "sqlite_errorcode", None)
        refused = code == sqlite3.SQLITE_AUTH or str(error).startswith("not authorized")
        kind = "refused" if refused else "limit" if code in EXHAUSTED else "error"
        raise QueryFailed(kind, str(error)) from None
    finally:
        conn.close()
    if len(rows) > max_rows:
        raise QueryFailed("limit", f"more than {max_rows} rows")
    return Answer(columns, rows)


def build(schema: Schema, tables: dict[str, list[tuple]]) -> bytes:
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
