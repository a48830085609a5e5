"""Random questions about random schemas, with a query that answers each."""

import random
import re
from dataclasses import dataclass

from tasks.sql import names

COMPARISONS = {
    ">": ("above", "greater than", "over"),
    "<": ("below", "less than", "under"),
    ">=": ("at least", "no less than"),
    "<=": ("at most", "no more than"),
    "=": ("equal to", "exactly"),
}
AGGREGATES = {
    "MAX": ("highest", "largest", "maximum"),
    "MIN": ("lowest", "smallest", "minimum"),
    "AVG": ("average", "mean"),
    "SUM": ("total", "combined"),
}
ORDERS = {"DESC": ("highest", "largest"), "ASC": ("lowest", "smallest")}


# Splits with made-up names too: trained on few names, a model remembers them and stops copying.
MADE_UP = ("pretrain", "train")
AMBIGUOUS = {"case", "distinct", "exists", "not", "null", "select", "values"}


@dataclass(frozen=True)
class SqlExample:
    """One question about one schema. `answer` is a query that answers it."""

    context: str  # CREATE TABLE text
    question: str
    answer: str
    kind: str = "real"

    @property
    def prompt(self) -> str:
        """What the user says: the schema, then the question."""
        return f"{self.context}\n{self.question}"

    def document(self) -> tuple[str, str]:
        """Prompt and completion of the plain-text format that the base was trained on."""
        return f"{self.context}\nQuestion: {self.question}\nSQL:", f" {self.answer}"


@dataclass(frozen=True)
class Schema:
    """The table that a question is about, and the CREATE TABLE text that the model sees."""

    table: str
    text: list[str]
    number: list[str]
    context: str


def sample_example(rng: random.Random, split: str) -> SqlExample:
    """One random example."""
    schema = _schema(rng, split)
    kind = rng.choice(list(KINDS))
    question, answer = KINDS[kind](rng, schema, _values(rng, split))
    if re.search(r"\ball\b", answer):  # a made-up name that SQLite reads as a keyword in a query
        return sample_example(rng, split)
    return SqlExample(schema.context, question, answer, kind)


def _values(rng: random.Random, split: str) -> list[str]:
    if split in MADE_UP and rng.random() < 0.5:
        return [names.pseudo_word(rng).capitalize() for _ in range(3)]
    return names.TEST_VALUES if split in ("validation", "test") else names.TRAIN_VALUES


def _table(rng: random.Random, split: str) -> tuple[str, list[str], list[str]]:
    """A table with 1 to 2 text and 1 to 2 number columns."""
    pool = {"validation": names.VALIDATION, "test": names.TEST}.get(split, names.TRAIN)
    table, text, number = names.parse(rng.choice(pool))
    if split in MADE_UP and rng.random() < 0.6:
        table = _made_up(rng) + "s"
        text = [_made_up(rng) for _ in text]
        number = [_made_up(rng) for _ in number]
    text, number = rng.sample(text, rng.choice((1, 2))), rng.sample(number, rng.choice((1, 2)))
    columns = {*text, *number}
    # A made-up word may come twice, or mean something else where a column is due, like `case`.
    if len(columns) < len(text) + len(number) or columns & AMBIGUOUS:
        return _table(rng, split)
    return table, text, number


def _made_up(rng: random.Random) -> str:
    word = names.pseudo_word(rng)
    return f"{word}_{names.pseudo_word(rng)}" if rng.random() < 0.2 else word


def _schema(rng: random.Random, split: str) -> Schema:
    table, text, number = _table(rng, split)
    statements = [_create(rng, table, text, number)]
    if rng.random() < 0.2:  # a second table that the question is not about
        other, other_text, other_number = _table(rng, split)
        if other != table:
            statements.append(_create(rng, other, other_text[:1], other_number[:1]))
            rng.shuffle(statements)
    return Schema(table, text, number, "; ".join(statements))


def _create(rng: random.Random, table: str, text: list[str], number: list[str]) -> str:
    columns = [f"{c} TEXT" for c in text]
    columns += [f"{c} {rng.choice(('INTEGER', 'INTEGER', 'REAL'))}" for c in number]
    rng.shuffle(columns)
    return f"CREATE TABLE {table} ({', '.join(columns)})"


def _say(name: str) -> str:
    """A column or table name as a person would say it."""
    return name.replace("_", " ")


def _number(rng: random.Random) -> int:
    return rng.choice((rng.randint(1, 99), rng.randint(1, 99), rng.randint(100, 999)))


def _condition(rng: random.Random, s: Schema, values: list[str]) -> tuple[str, str]:
    """One condition, as said and as written: ("whose age is above 20", "age > 20")."""
    if rng.random() < 0.4:
        column, value = rng.choice(s.text), rng.choice(values)
        if rng.random() < 0.3:
            return f"whose {_say(column)} is not {value}", f"{column} != '{value}'"
        said = rng.choice((f"whose {_say(column)} is {value}", f"with {_say(column)} {value}"))
        return said, f"{column} = '{value}'"
    column, low = rng.choice(s.number), _number(rng)
    if rng.random() < 0.15:
        high = low + rng.randint(1, 50)
        return (
            f"with {_say(column)} between {low} and {high}",
            f"{column} BETWEEN {low} AND {high}",
        )
    operator = rng.choice(list(COMPARISONS))
    phrase = rng.choice(COMPARISONS[operator])
    said = rng.choice(
        (f"whose {_say(column)} is {phrase} {low}", f"with {_say(column)} {phrase} {low}")
    )
    return said, f"{column} {operator} {low}"


def _where(rng: random.Random, s: Schema, values: list[str], two: float = 0.2) -> tuple[str, str]:
    """A WHERE clause with one condition, or with two joined by AND or OR."""
    said, written = _condition(rng, s, values)
    if rng.random() < two:
        joint = rng.choice(("and", "or"))
        said2, written2 = _condition(rng, s, values)
        if written2.split()[0] != written.split()[0]:  # the same column could contradict itself
            said, written = f"{said} {joint} {said2}", f"{written} {joint.upper()} {written2}"
    return f" {said}", f" WHERE {written}"


def _maybe_where(rng: random.Random, s: Schema, values: list[str]) -> tuple[str, str]:
    return _where(rng, s, values) if rng.random() < 0.5 else ("", "")


def _select(rng: random.Random, s: Schema, values: list[str]) -> tuple[str, str]:
    columns = rng.sample(s.text + s.number, rng.choice((1, 1, 2)))
    said, where = _where(rng, s, values)
    what = " and ".join(map(_say, columns))
    question = rng.choice(
        ("Show the {} of {}{}.", "What is the {} of {}{}?", "List the {} for {}{}.")
    )
    return question.format(what, _say(s.table), said), (
        f"SELECT {', '.join(columns)} FROM {s.table}{where}"
    )


def _count(rng: random.Random, s: Schema, values: list[str]) -> tuple[str, str]:
    said, where = _where(rng, s, values)
    question = rng.choice(
        ("How many {}{} are there?", "Count the {}{}.", "What is the number of {}{}?")
    )
    return question.format(_say(s.table), said), f"SELECT COUNT(*) FROM {s.table}{where}"


def _aggregate(rng: random.Random, s: Schema, values: list[str]) -> tuple[str, str]:
    function = rng.choice(list(AGGREGATES))
    word, column = rng.choice(AGGREGATES[function]), rng.choice(s.number)
    said, where = _maybe_where(rng, s, values)
    question = rng.choice(("What is the {} {} of {}{}?", "Give the {} {} of {}{}."))
    return question.format(word, _say(column), _say(s.table), said), (
        f"SELECT {function}({column}) FROM {s.table}{where}"
    )


def _top(rng: random.Random, s: Schema, values: list[str]) -> tuple[str, str]:
    direction = rng.choice(list(ORDERS))
    word, column, shown = rng.choice(ORDERS[direction]), rng.choice(s.number), rng.choice(s.text)
    limit = rng.choice((1, 1, 2, 3, 5))
    if limit == 1:
        question = rng.choice(
            (
                f"Which {_say(shown)} of {_say(s.table)} has the {word} {_say(column)}?",
                f"Show the {_say(shown)} with the {word} {_say(column)} among {_say(s.table)}.",
            )
        )
    else:
        question = (
            f"Show the {_say(shown)} of the {limit} {_say(s.table)} with the {word} {_say(column)}."
        )
    return question, f"SELECT {shown} FROM {s.table} ORDER BY {column} {direction} LIMIT {limit}"


def _sorted(rng: random.Random, s: Schema, values: list[str]) -> tuple[str, str]:
    direction, word = rng.choice((("DESC", "falling"), ("ASC", "rising")))
    column, shown = rng.choice(s.number), rng.choice(s.text)
    said, where = _maybe_where(rng, s, values)
    question = f"List the {_say(shown)} of {_say(s.table)}{said} by {word} {_say(column)}."
    return question, f"SELECT {shown} FROM {s.table}{where} ORDER BY {column} {direction}"


def _distinct(rng: random.Random, s: Schema, values: list[str]) -> tuple[str, str]:
    column = rng.choice(s.text)
    said, where = _maybe_where(rng, s, values)
    if rng.random() < 0.5:
        question = f"How many different {_say(column)} values do {_say(s.table)}{said} have?"
        return question, f"SELECT COUNT(DISTINCT {column}) FROM {s.table}{where}"
    question = f"List the different {_say(column)} values of {_say(s.table)}{said}."
    return question, f"SELECT DISTINCT {column} FROM {s.table}{where}"


def _group(rng: random.Random, s: Schema, values: list[str]) -> tuple[str, str]:
    column = rng.choice(s.text)
    if rng.random() < 0.5:
        question = rng.choice(
            (f"How many {_say(s.table)} are there for each {_say(column)}?",
             f"Count the {_say(s.table)} by {_say(column)}.")
        )  # fmt: skip
        return question, f"SELECT {column}, COUNT(*) FROM {s.table} GROUP BY {column}"
    function, number = rng.choice(list(AGGREGATES)), rng.choice(s.number)
    word = rng.choice(AGGREGATES[function])
    question = f"What is the {word} {_say(number)} of {_say(s.table)} for each {_say(column)}?"
    return question, f"SELECT {column}, {function}({number}) FROM {s.table} GROUP BY {column}"


KINDS = {
    "select": _select,
    "count": _count,
    "aggregate": _aggregate,
    "top": _top,
    "sorted": _sorted,
    "distinct": _distinct,
    "group": _group,
}
