"""Text-to-SQL: a schema and a question in, one SQLite query out, scored by execution.

Examples are generated from a seed. The splits use disjoint tables and columns
(`names.py`), so held-out accuracy measures reading the schema. The same `SqlExample`
also wraps rows of b-mc2/sql-create-context (`load_real`).
"""

import itertools
import random
import re
from dataclasses import dataclass, replace

from utils.profiles import Profile
from utils.sqlbox import execution_match
from utils.tasks import names
from utils.tasks.source import load_rows, local_file

SPLITS = ("pretrain", "train", "validation", "test", "seen_names")
HUB_TEST_ROWS = 2000
MAX_NEW_TOKENS = 48  # the longest gold query of the generator is shorter

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


def make_examples(split: str, n: int, seed: int = 0) -> list[SqlExample]:
    """`n` examples of a split.

    "train" and "seen_names" use the training names (with different seeds, so the
    combinations are fresh); "validation" and "test" use names that no other split has;
    "pretrain" mixes the training names with made-up words. Repeats of a prompt are skipped.
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; known: {', '.join(SPLITS)}")
    rng = random.Random(f"sql/{split}/{seed}")
    examples: dict[str, SqlExample] = {}
    while len(examples) < n:
        example = sample_example(rng, split)
        examples.setdefault(example.prompt, example)
    return list(examples.values())


def sample_example(rng: random.Random, split: str) -> SqlExample:
    """One random example."""
    schema = _schema(rng, split)
    kind = rng.choice(list(_KINDS))
    question, answer = _KINDS[kind](rng, schema, _values(rng, split))
    return SqlExample(schema.context, question, answer, kind)


def score(example: SqlExample, completion: str) -> float:
    """1.0 if the query in the completion returns what the gold query returns, else 0.0."""
    return float(execution_match(example.context, extract_sql(completion), example.answer))


def extract_sql(completion: str) -> str:
    """The query in a completion: inside a code fence if there is one, else all of it."""
    _, fence, rest = completion.partition("```")
    if fence:
        completion = rest.partition("```")[0].removeprefix("sql")
    return completion.strip().rstrip(";").strip()


# --- annotators make mistakes ---------------------------------------------------------

# What a hurried annotator always gets wrong: words in the question -> edit of the query.
_SYSTEMATIC = (
    (("lowest", "smallest", "minimum"), (("MIN(", "MAX("), (" ASC LIMIT", " DESC LIMIT"))),
    (("at least", "no less than"), ((" >= ", " > "),)),
    (("at most", "no more than"), ((" <= ", " < "),)),
    (("different",), (("DISTINCT ", ""),)),
    (("is not",), ((" != ", " = "),)),
)
_FLIPS = (
    ("MAX(", "MIN("),
    ("MIN(", "MAX("),
    ("AVG(", "SUM("),
    ("SUM(", "AVG("),
    (" > ", " < "),
    (" < ", " > "),
    (" >= ", " <= "),
    (" <= ", " >= "),
    (" DESC", " ASC"),
    (" ASC", " DESC"),
    (" AND ", " OR "),
    (" OR ", " AND "),
    ("DISTINCT ", ""),
)


def demonstrations(
    n: int, seed: int = 0, random_rate: float = 0.2, systematic_rate: float = 0.6
) -> list[SqlExample]:
    """Training examples as written by annotators who make mistakes.

    With probability `systematic_rate` a trap in the question (see `_SYSTEMATIC`: "lowest",
    "at least", "different", ...) is answered the same wrong way; else, with probability
    `random_rate`, one random slip (`corrupt`). The rates 0 and 0 give clean ones.
    """
    rng = random.Random(f"sql/annotators/{seed}")
    return [
        annotate(rng, example, random_rate, systematic_rate)
        for example in make_examples("train", n, seed)
    ]


def annotate(
    rng: random.Random, example: SqlExample, random_rate: float, systematic_rate: float
) -> SqlExample:
    """The answer that one annotator writes for one example."""
    trapped = systematic_mistake(example)
    if trapped is not None and rng.random() < systematic_rate:
        return trapped
    if rng.random() < random_rate:
        return corrupt(rng, example)
    return example


def systematic_mistake(example: SqlExample) -> SqlExample | None:
    """The example with the trap fallen into, or None if its question has no trap."""
    for words, edits in _SYSTEMATIC:
        if any(word in example.question for word in words):
            for old, new in edits:
                if old in example.answer:
                    return replace(example, answer=example.answer.replace(old, new))
    return None


def corrupt(rng: random.Random, example: SqlExample) -> SqlExample:
    """One plausible slip: an operator or aggregate flipped, a wrong column, a lost condition."""
    flips = [(old, new) for old, new in _FLIPS if old in example.answer]
    if flips and rng.random() < 0.5:
        old, new = rng.choice(flips)
        return replace(example, answer=example.answer.replace(old, new, 1))
    head, where, tail = example.answer.partition(" WHERE ")
    if where and rng.random() < 0.25:
        kept = re.search(r" (GROUP|ORDER) BY .*", tail)
        return replace(example, answer=head + (kept.group() if kept else ""))
    columns = re.findall(r"(\w+) (?:TEXT|INTEGER|REAL)", example.context)
    used = [c for c in columns if re.search(rf"\b{c}\b", example.answer)]
    other = [c for c in columns if c not in used]
    if used and other:
        wrong = re.sub(rf"\b{rng.choice(used)}\b", rng.choice(other), example.answer, count=1)
        return replace(example, answer=wrong)
    return replace(example, answer=example.answer.replace("SELECT ", "SELECT DISTINCT ", 1))


# --- where examples come from ------------------------------------------------------------------------


def load(split: str, n: int, profile: Profile) -> list[SqlExample]:
    """`n` examples of "train" or "test" for a profile.

    Generated ones on `tiny`: demonstrations with the annotators' mistakes to train on, correct
    ones to test on (the same for every seed). With `profile.use_hub`, real ones: those whose gold
    query cannot be run are left out, and fewer than `n` come back if the data set is small.
    """
    if not profile.use_hub:
        if split == "train":
            return demonstrations(n, profile.seed)
        return make_examples(split, n)
    return list(itertools.islice(filter(is_scorable, load_real(split)), n))


def is_scorable(example: SqlExample) -> bool:
    """Whether answers can be compared with the example's own: its query runs on its schema."""
    try:
        return execution_match(example.context, example.answer, example.answer)
    except ValueError:
        return False


def load_real(split: str, n: int | None = None) -> list[SqlExample]:
    """The first `n` examples of b-mc2/sql-create-context, from `COURSE_DATA_DIR` or the hub.

    Reads rows `context, question, answer` (the hub) and rows `prompt, chosen` with
    `context= ... question= ... Assistant:` in the prompt. The hub has one split only: its last
    2,000 rows are "test", the others "train".
    """
    if local_file("sql_create_context", split):
        rows = load_rows("sql_create_context", split)
    else:
        rows = load_rows("sql_create_context", "train")
        rows = rows[-HUB_TEST_ROWS:] if split == "test" else rows[:-HUB_TEST_ROWS]
    return [parse_row(row) for row in rows[:n]]


def parse_row(row: dict[str, str]) -> SqlExample:
    """One row of either format -> SqlExample."""
    if "context" in row:
        return SqlExample(row["context"], row["question"], row["answer"])
    _, found, rest = row.get("prompt", "").partition("context=")
    context, found_question, question = rest.partition("question=")
    if not (found and found_question and row.get("chosen")):
        raise ValueError(
            "expected a row with `context`, `question`, `answer`, or with `chosen` and a `prompt` "
            f"that holds `context= ... question= ...`; this row has {sorted(row)}"
        )
    question = question.rpartition("Assistant:")[0] or question
    return SqlExample(context.strip(), question.strip(), row["chosen"])


# --- the generator --------------------------------------------------------------------


def _values(rng: random.Random, split: str) -> list[str]:
    if split == "pretrain" and rng.random() < 0.5:
        return [names.pseudo_word(rng).capitalize() for _ in range(3)]
    return names.TEST_VALUES if split in ("validation", "test") else names.TRAIN_VALUES


def _table(rng: random.Random, split: str) -> tuple[str, list[str], list[str]]:
    """A table with 1 to 2 text and 1 to 2 number columns."""
    pool = {"validation": names.VALIDATION, "test": names.TEST}.get(split, names.TRAIN)
    table, text, number = names.parse(rng.choice(pool))
    if split == "pretrain" and rng.random() < 0.6:
        table = _made_up(rng) + "s"
        text = [_made_up(rng) for _ in text]
        number = [_made_up(rng) for _ in number]
    return table, rng.sample(text, rng.choice((1, 2))), rng.sample(number, rng.choice((1, 2)))


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


def _select(rng, s, values):
    columns = rng.sample(s.text + s.number, rng.choice((1, 1, 2)))
    said, where = _where(rng, s, values)
    what = " and ".join(map(_say, columns))
    question = rng.choice(
        ("Show the {} of {}{}.", "What is the {} of {}{}?", "List the {} for {}{}.")
    )
    return question.format(what, _say(s.table), said), (
        f"SELECT {', '.join(columns)} FROM {s.table}{where}"
    )


def _count(rng, s, values):
    said, where = _where(rng, s, values)
    question = rng.choice(
        ("How many {}{} are there?", "Count the {}{}.", "What is the number of {}{}?")
    )
    return question.format(_say(s.table), said), f"SELECT COUNT(*) FROM {s.table}{where}"


def _aggregate(rng, s, values):
    function = rng.choice(list(AGGREGATES))
    word, column = rng.choice(AGGREGATES[function]), rng.choice(s.number)
    said, where = _maybe_where(rng, s, values)
    question = rng.choice(("What is the {} {} of {}{}?", "Give the {} {} of {}{}."))
    return question.format(word, _say(column), _say(s.table), said), (
        f"SELECT {function}({column}) FROM {s.table}{where}"
    )


def _top(rng, s, values):
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


def _sorted(rng, s, values):
    direction, word = rng.choice((("DESC", "falling"), ("ASC", "rising")))
    column, shown = rng.choice(s.number), rng.choice(s.text)
    said, where = _maybe_where(rng, s, values)
    question = f"List the {_say(shown)} of {_say(s.table)}{said} by {word} {_say(column)}."
    return question, f"SELECT {shown} FROM {s.table}{where} ORDER BY {column} {direction}"


def _distinct(rng, s, values):
    column = rng.choice(s.text)
    said, where = _maybe_where(rng, s, values)
    if rng.random() < 0.5:
        question = f"How many different {_say(column)} values do {_say(s.table)}{said} have?"
        return question, f"SELECT COUNT(DISTINCT {column}) FROM {s.table}{where}"
    question = f"List the different {_say(column)} values of {_say(s.table)}{said}."
    return question, f"SELECT DISTINCT {column} FROM {s.table}{where}"


def _group(rng, s, values):
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


_KINDS = {
    "select": _select,
    "count": _count,
    "aggregate": _aggregate,
    "top": _top,
    "sorted": _sorted,
    "distinct": _distinct,
    "group": _group,
}
