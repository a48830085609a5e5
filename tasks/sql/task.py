"""Text-to-SQL: a schema and a question in, one SQLite query out, scored by execution.

Examples are generated from a seed (`sql_questions.py`). The splits use disjoint tables and columns
(`names.py`), so held-out accuracy measures reading the schema. The same `SqlExample` also wraps
rows of b-mc2/sql-create-context (`load_real`).
"""

import itertools
import random
import re

from tasks.source import load_rows, local_file
from tasks.sql.annotators import annotate
from tasks.sql.compare import execution_match, is_telling
from tasks.sql.questions import SqlExample, sample_example
from utils.profiles import Profile

SPLITS = ("pretrain", "train", "validation", "test", "seen_names")
HUB_TEST_ROWS = 2000
SQL_TAG = re.compile(r"\s*(?:[a-z]{0,12}sql|sqlite3?|postgres|mariadb)\b", re.IGNORECASE)
OTHER_TAG = re.compile(r"(?!select\b|with\b)[a-z0-9+#-]{1,20}(?=[ \t]*\r?\n)", re.IGNORECASE)
MAX_NEW_TOKENS = 48  # the longest gold query of the generator is shorter


def make_examples(split: str, n: int, seed: int = 0) -> list[SqlExample]:
    """`n` examples of a split.

    "pretrain" and "train" mix the training names with made-up words, "seen_names" has the training
    names in fresh combinations; "validation" and "test" use names that no other split has.
    Repeats of a prompt are skipped.
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; known: {', '.join(SPLITS)}")
    rng = random.Random(f"sql/{split}/{seed}")
    examples: dict[str, SqlExample] = {}
    while len(examples) < n:
        example = sample_example(rng, split)
        examples.setdefault(example.prompt, example)
    return list(examples.values())


def score(example: SqlExample, completion: str) -> float:
    """1.0 if the query in the completion returns what the gold query returns, else 0.0."""
    return float(execution_match(example.context, extract_sql(completion), example.answer))


def extract_sql(completion: str) -> str:
    """The query in a completion: inside a code fence if there is one, else all of it.

    Of several fences the last is the answer, but those tagged as SQL go before others (a table of
    results). A fence may be left open.
    """
    fences = [fence for fence in completion.split("```")[1::2] if fence.strip()]
    tagged = [fence for fence in fences if SQL_TAG.match(fence)]
    if fences:
        completion = (tagged or fences)[-1]
        tag = SQL_TAG.match(completion) or OTHER_TAG.match(completion)
        completion = completion[tag.end() if tag else 0 :]
    return completion.strip().rstrip("; \n")


def demonstrations(
    n: int, seed: int = 0, random_rate: float = 0.1, systematic_rate: float = 0.6
) -> list[SqlExample]:
    """Training examples as written by annotators who make mistakes.

    With probability `systematic_rate` a trap in the question ("lowest", "at least",
    "different", ...; see `annotators`) is answered the same wrong way; else, with probability
    `random_rate`, one random slip. The rates 0 and 0 give clean ones.
    """
    rng = random.Random(f"sql/annotators/{seed}")
    return [
        annotate(rng, example, random_rate, systematic_rate)
        for example in make_examples("train", n, seed)
    ]


def load(split: str, n: int, profile: Profile) -> list[SqlExample]:
    """`n` examples of "train" or "test" for a profile.

    Generated ones on `tiny`: demonstrations with the annotators' mistakes to train on, correct
    ones to test on (the same for every seed). With `profile.use_hub`, real ones: those that are not
    scorable are left out, and fewer than `n` come back if the data set is small.
    """
    if not profile.use_hub:
        if split == "train":
            return demonstrations(n, profile.seed)
        return make_examples(split, n)
    return list(itertools.islice(filter(is_scorable, load_real(split)), n))


def is_scorable(example: SqlExample) -> bool:
    """Whether answers can be compared with the example's own.

    Its query must run on its schema, and some database must tell it from a query that returns
    nothing or a constant.
    """
    return unscorable_because(example) == ""


def unscorable_because(example: SqlExample) -> str:
    """Why no answer can be compared with the example's own; empty if it can.

    >>> unscorable_because(SqlExample("CREATE TABLE t (n INTEGER)", "", "SELECT m FROM t"))
    'cannot be run'
    >>> unscorable_because(SqlExample("CREATE TABLE t (n INTEGER)", "", "SELECT n FROM t WHERE 0"))
    'proves nothing'
    """
    try:
        return "" if is_telling(example.context, example.answer) else "proves nothing"
    except ValueError:
        return "cannot be run"


def load_real(split: str, n: int | None = None) -> list[SqlExample]:
    """The first `n` examples of b-mc2/sql-create-context, from `COURSE_DATA_DIR` or the hub.

    Reads rows `context, question, answer` (the hub) and rows `prompt, chosen` with
    `context= ... question= ... Assistant:` in the prompt. The hub has one split only: its last
    2,000 rows are "test". Of the others the last tenth is "validation", unless it has a file.
    """
    if split not in ("train", "validation", "test"):
        raise ValueError(f"unknown split {split!r}; real rows have train, validation and test")
    if local_file("sql_create_context", split) and split != "train":
        rows = load_rows("sql_create_context", split)
    else:
        rows = load_rows("sql_create_context", "train")
        if not local_file("sql_create_context", "test"):
            rows = rows[-HUB_TEST_ROWS:] if split == "test" else rows[:-HUB_TEST_ROWS]
        if split != "test" and not local_file("sql_create_context", "validation"):
            kept = len(rows) - len(rows) // 10
            rows = rows[:kept] if split == "train" else rows[kept:]
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
