"""Text-to-SQL: a schema and a question in, one SQLite query out, scored by execution."""

from tasks.sql.task import (
    MAX_NEW_TOKENS,
    SPLITS,
    demonstrations,
    extract_sql,
    is_scorable,
    load,
    load_real,
    make_examples,
    parse_row,
    score,
    unscorable_because,
)

__all__ = [
    "MAX_NEW_TOKENS",
    "SPLITS",
    "demonstrations",
    "extract_sql",
    "is_scorable",
    "load",
    "load_real",
    "make_examples",
    "parse_row",
    "score",
    "unscorable_because",
]
