"""Where the query stands in a completion, and golds that no answer can be compared with."""

import dataclasses
import json
from collections import Counter

import pytest

from tasks import sql
from tasks.sql import questions as sql_questions
from utils.profiles import PROFILES


@pytest.mark.parametrize(
    "tag", ["SQL", "Sql", "sqlite", "SQLite3", "mysql", "PostgreSQL", "tsql", "text", "", " sql"]
)
def test_extract_sql_drops_the_tag_of_a_fence(tag):
    query = "SELECT city\nFROM fair"
    assert sql.extract_sql(f"Sure.\n```{tag}\n{query};\n```\nGood luck!") == query
    assert sql.extract_sql(f"```{tag}\n{query} ; \n") == query  # left open


@pytest.mark.parametrize(
    ("completion", "query"),
    [
        ("First\n```sql\nSELECT 1\n```\nno, rather\n```sql\nSELECT 2\n```", "SELECT 2"),
        ("First\n```\nSELECT 1\n```\nno, rather\n```\nSELECT 2", "SELECT 2"),
        ("```mysql\nSELECT 3\n```\nwhich returns\n```\n| 3 |\n```", "SELECT 3"),
        ("```sql\nSELECT 4\n```\n```", "SELECT 4"),
        (
            "```\nWITH a AS (SELECT 5)\nSELECT * FROM a\n```",
            "WITH a AS (SELECT 5)\nSELECT * FROM a",
        ),
        ("```WITH a AS (SELECT 6) SELECT * FROM a```", "WITH a AS (SELECT 6) SELECT * FROM a"),
        ("```SELECT\n7```", "SELECT\n7"),
    ],
)
def test_extract_sql_takes_the_last_answer_of_several(completion, query):
    assert sql.extract_sql(completion) == query


FAIR = "CREATE TABLE fair (city TEXT, stalls INTEGER)"


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ("SELECT city FROM fair WHERE stalls > 30", ""),
        ("SELECT COUNT(*) FROM fair WHERE stalls = 31 AND city = 'Ulm'", ""),
        ("SELECT towns FROM fair", "cannot be run"),
        ("SELECT city FROM fair WHERE 1984 = 'fair'", "proves nothing"),
        ("SELECT MAX(stalls) FROM fair OFFSET 60", "proves nothing"),
        ("SELECT 1984", "proves nothing"),
    ],
)
def test_golds_that_prove_nothing_are_not_scorable(answer, why):
    example = sql_questions.SqlExample(FAIR, "?", answer)
    assert sql.unscorable_because(example) == why
    assert sql.is_scorable(example) == (not why)


def test_load_leaves_out_what_is_not_scorable(tmp_path, monkeypatch):
    answers = [
        "SELECT 1",
        "SELECT city FROM fair",
        "SELECT town FROM fair",
        "SELECT stalls FROM fair",
    ]
    rows = [{"context": FAIR, "question": "?", "answer": answer} for answer in answers]
    (tmp_path / "sql_create_context").mkdir()
    for split in ("train", "test"):
        path = tmp_path / "sql_create_context" / f"{split}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setenv("COURSE_DATA_DIR", str(tmp_path))
    profile = dataclasses.replace(PROFILES["tiny"], use_hub=True)
    for split in ("train", "test"):
        assert [e.answer for e in sql.load(split, 9, profile)] == answers[1::2]


def test_generated_and_most_real_golds_are_scorable(data_dir):
    assert all(map(sql.is_scorable, sql.make_examples("train", 300, seed=77)))
    real = [e for split in ("train", "validation", "test") for e in sql.load_real(split)]
    why = Counter(map(sql.unscorable_because, real))
    assert len(real) == 1300 and why == {"": 1262, "proves nothing": 29, "cannot be run": 9}
