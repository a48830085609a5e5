"""SQL text taken apart without running it: tokens, dialect gaps, the schema of a context.

Used by `tasks.sql.compare` on text that a model wrote, so every pattern here is linear and nothing
recurses: hostile text can be wrong, not slow.
"""

import re
import sqlite3
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

TOKEN = re.compile(
    r"""(?P<space>[ \t\n\v\f\r]++|--[^\n]*+|/\*.*?(?:\*/|\Z))
      | (?P<blob>[xX]'[^']*+(?:'|\Z))
      | (?P<text>'(?:[^']|'')*+(?:'|\Z))
      | (?P<quoted>"(?:[^"]|"")*+(?:"|\Z)|`[^`]*+(?:`|\Z)|\[[^\]]*+(?:\]|\Z))
      | (?P<number>(?:[0-9]++(?:\.[0-9]*+)?|\.[0-9]++)(?:[eE][+-]?[0-9]++)?)
      | (?P<word>[A-Za-z_\x80-\U0010ffff][\w$\x80-\U0010ffff]*+)
      | (?P<param>[$:@\#?][\w$\x80-\U0010ffff]*+)
      | (?P<op><=|>=|<>|!=|==|\|\||.)""",
    re.VERBOSE | re.DOTALL,
)
# Words that SQLite takes as names only when they are quoted.
RESERVED = frozenset(
    """add all alter and as autoincrement between case check collate commit constraint create
    default deferrable delete distinct drop else escape except exists foreign from group
    having in index insert intersect into is isnull join limit not nothing notnull null on
    or order primary references returning select set table then to transaction union unique
    update using values when where""".split()
)
# After these an operand is due: a reserved word there is a name, unless operands can begin so.
OPERAND_DUE = frozenset(
    """select distinct all where and or not by on having like glob between is in from join as
    case when then else limit offset , ( = < > <= >= != + - / % ||""".split()
)
CLAUSES = frozenset("select from where on and or having order limit when then else".split())
OPERAND_START = frozenset("all case distinct exists not null select values".split())
CREATE_TABLE = re.compile(
    r'create (temp |temporary )?table (if not exists )?"(?:[^"]|"")*+" \(', re.IGNORECASE
)


class ContextError(ValueError):
    """The context is not CREATE TABLE text that SQLite can run."""


class Token(NamedTuple):
    """`kind` is a group of TOKEN; `key` is what to compare: words in lower case, `<>` as `!=`."""

    kind: str
    text: str
    key: str


class Column(NamedTuple):
    """`kind` says what to fill in: int, real, text or date. `unique`: it is the primary key."""

    name: str
    declared: str
    kind: str
    unique: bool
    nullable: bool


Schema = dict[str, list[Column]]  # by table name


def tokenize(sql: str, spaces: bool = False) -> list[Token]:
    """Split SQL text; white space and comments are tokens only with `spaces`."""
    same = {"<>": "!=", "==": "="}
    found = [(match.lastgroup, match.group()) for match in TOKEN.finditer(sql)]
    return [
        Token(kind, text, text.lower() if kind == "word" else same.get(text, text))
        for kind, text in found
        if spaces or kind != "space"
    ]


def normal_form(tokens: list[Token]) -> str:
    """One spelling for texts that differ in spaces, case of words or a final semicolon."""
    return " ".join(token.key for token in tokens).rstrip("; ")


def name_of(token: Token) -> str:
    """The lower-case name that a word or a quoted name spells, else an empty string."""
    if token.kind == "quoted":
        return unquote(token.text).lower()
    return token.key if token.kind == "word" else ""


def phrases(tokens: list[Token], names: set[str]) -> set[tuple[str, ...]]:
    """Names of the schema and functions in a query, and each literal with the name next to it.

    A query all of whose phrases another has asks for nothing that the other does not. A quick look
    only: nothing is parsed.
    """
    found: set[tuple[str, ...]] = set()
    names_at = [name if (name := name_of(token)) in names else "" for token in tokens]
    for i, token in enumerate(tokens):
        called = tokens[i + 1 : i + 2] and tokens[i + 1].key == "("
        if names_at[i] or (called and token.kind == "word" and token.key not in RESERVED):
            found.add((token.key if called else names_at[i],))
        elif token.kind in ("number", "text", "quoted"):
            text = token.text if token.kind == "number" else unquote(token.text)
            found.add((_next_to(i, tokens, names_at), text))
    return found


def _next_to(i: int, tokens: list[Token], names_at: list[str]) -> str:
    """The name that is compared with the literal at a place: before it, or else behind it."""
    for places in (range(i - 1, -1, -1), range(i + 1, len(tokens))):
        for place in places:
            if names_at[place]:
                return names_at[place]
            if tokens[place].key in CLAUSES:
                break
    return ""


def unquote(text: str) -> str:
    """What stands between quotes."""
    return text[1:-1].replace(text[0] * 2, text[0])


def quote(name: str) -> str:
    """Write any string as an SQL name."""
    return '"' + name.replace('"', '""') + '"'


def names_in(schema: Schema) -> set[str]:
    """Lower-case names of all tables and columns."""
    columns = {column.name.lower() for columns in schema.values() for column in columns}
    return columns | {table.lower() for table in schema}


def to_sqlite(sql: str, names: set[str]) -> str:
    """Close dialect gaps: reserved words as names, `AS $x`, OFFSET without LIMIT (PostgreSQL)."""
    parts, before, limited = [], "", False
    for kind, text, key in tokenize(sql, spaces=True):
        if kind == "word" and key in RESERVED and key in names:
            if before == "." or (before in OPERAND_DUE and key not in OPERAND_START):
                text, key = quote(text), ""
        elif kind == "param" and before == "as":
            text = quote(text)
        elif key == "offset" and not (limited or key in names or before in OPERAND_DUE):
            text = "LIMIT -1 OFFSET"
        limited = limited or key == "limit"
        parts.append(text)
        before = before if kind == "space" else key
    return "".join(parts)


def expansion(tokens: list[Token]) -> int:
    """Bound on how often SQLite may copy an inner query or expression while it compiles.

    A chain of CTEs that each name the one before twice doubles at each link, 2**20 copies in 600
    characters, and SQLite cannot be interrupted then. The bound is the product, over all bodies
    in parentheses, of how often the most frequent name of the body occurs.
    """
    product, bodies = 1, [Counter()]
    for i, token in enumerate(tokens):
        if token.key == "(":
            opens = i + 1 < len(tokens) and tokens[i + 1].key in ("select", "with")
            bodies.append(Counter() if opens else bodies[-1])
        elif token.key == ")" and len(bodies) > 1:
            body = bodies.pop()
            product *= 1 if body is bodies[-1] else max(body.values(), default=1)
        elif token.key == "*" or (name_of(token) and token.key not in RESERVED):
            bodies[-1][name_of(token)] += 1
    return product * max(bodies[0].values(), default=1)


def _statements(context: str) -> Iterator[str]:
    """Yield the statements of a context, table and column names quoted; semicolons may lack."""
    tokens, parts, depth = tokenize(context), [], 0
    for i, token in enumerate([*tokens, Token("op", ";", ";")]):
        before = tokens[i - 1].key if i else ";"
        after = tokens[i + 1].key if i + 1 < len(tokens) else ";"
        if depth == 0 and token.key in (";", "create"):
            if parts:
                yield " ".join(parts)
            parts = []
        constraint = token.key == "constraint" or after in ("(", "key")
        names_table = depth == 0 and before in ("table", "exists") and token.key != "if"
        names_column = depth == 1 and before in ("(", ",") and not constraint
        text = token.text
        if names_table or names_column:
            if token.kind in ("word", "quoted"):
                text = quote(text if token.kind == "word" else unquote(text))
        if token.key != ";":
            parts.append(text)
        depth += {"(": 1, ")": -1}.get(token.key, 0)


def _kind(declared: str) -> str:
    """What to fill into a column of a declared type, close to SQLite's affinity rules."""
    marks = {"INT": "int", "BOOL": "int", "DATE": "date", "TIME": "date", "REAL": "real"}
    marks |= {"FLOA": "real", "DOUB": "real", "DEC": "real", "NUM": "real"}
    return next((kind for mark, kind in marks.items() if mark in declared.upper()), "text")


def _columns(statement: str) -> tuple[str, list[Column]]:
    """Table name and columns of one CREATE TABLE statement, as SQLite reads it."""
    wanted = "expected 'CREATE TABLE name (column TYPE, ...)'; correct the context"
    if not CREATE_TABLE.match(statement):
        raise ContextError(f"not a table: {statement[:200]!r}; {wanted}")
    scratch = sqlite3.connect(":memory:")
    try:
        scratch.execute(statement)
        (table,) = scratch.execute("SELECT name FROM sqlite_master WHERE sql NOT NULL").fetchone()
        info = scratch.execute(f"PRAGMA table_info({quote(table)})").fetchall()
    except (sqlite3.Error, sqlite3.Warning, ValueError) as error:
        raise ContextError(f"{error} in {statement[:200]!r}; {wanted}") from None
    finally:
        scratch.close()
    one_key = sum(pk > 0 for *_, pk in info) == 1
    return table, [
        Column(name, declared, _kind(declared), bool(pk) and one_key, not (pk or not_null))
        for _, name, declared, not_null, _, pk in info
    ]


def parse_schema(context: str) -> Schema:
    """Read CREATE TABLE text; a table that comes twice has the columns of both.

    Types, primary keys and NOT NULL are kept, other constraints dropped: rows must be free to
    vary. Raises ContextError.
    """
    if not isinstance(context, str):
        raise ContextError(f"expected CREATE TABLE text, got {type(context).__name__}")
    schema: Schema = {}
    for statement in _statements(context):
        table, found = _columns(statement)
        table = next((known for known in schema if known.lower() == table.lower()), table)
        columns = schema.setdefault(table, [])
        known = {column.name.lower() for column in columns}
        columns += [column for column in found if column.name.lower() not in known]
    if not schema:
        raise ContextError("the context holds no CREATE TABLE statement; give the tables")
    return schema
