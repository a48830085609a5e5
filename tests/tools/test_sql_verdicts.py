"""Tests of tools.sql_verdicts: a small run, and edits that do what they say."""

import json
import random
from collections import Counter

import pytest
import sqlglot

from tools import sql_mistakes, sql_rewrites, sql_shapes, sql_verdicts

TABLE = {"t": {"a": ("text", False), "b": ("text", False), "n": ("int", False), "k": ("int", True)}}


def mistakes(sql):
    tree = sqlglot.parse_one(sql, dialect="sqlite")
    found = sql_mistakes.mistakes(tree, TABLE, random.Random(0))
    return {text.replace("<>", "!=") for _, text in found}


def rewritten(sql):
    return dict(sql_rewrites.rewrites(sqlglot.parse_one(sql, dialect="sqlite")))


def test_right_queries_are_accepted_and_wrong_ones_refused():
    lines = sql_verdicts.measure(seed=31, schemas=1, rows=0, show=3)["shapes"]
    assert lines.keys() == sql_shapes.SHAPES.keys()
    right, refused = (sum(c[key] for c in lines.values()) for key in ("right", "refused"))
    wrong, accepted = (sum(c[key] for c in lines.values()) for key in ("wrong", "accepted"))
    assert right > 400 and refused <= 0.003 * right
    assert wrong > 300 and accepted <= 0.003 * wrong
    assert not any(c["left out"] for c in lines.values())
    assert f"| over all | {len(lines)} | 0 | {right} |" in sql_verdicts.report(lines)


def test_real_rows_are_judged_right(data_dir):
    line = sql_verdicts.measure(seed=31, schemas=0, rows=60, show=3)["shapes"]["real rows"]
    assert line["golds"] == 60 and line["right"] > 300 and line["wrong"] > 150
    assert line["refused"] == line["accepted"] == 0


@pytest.mark.parametrize(
    ("sql", "kind", "same"),
    [
        ("SELECT a FROM t WHERE n > 1 AND b = 'x'", "and_reordered",
         "SELECT a FROM t WHERE b = 'x' AND n > 1"),
        ("SELECT a FROM t WHERE n > 1", "sides_turned", "SELECT a FROM t WHERE 1 < n"),
        ("SELECT a FROM t WHERE n > 1", "not_opposite", "SELECT a FROM t WHERE NOT (n <= 1)"),
        ("SELECT a FROM t WHERE n > 1", "aliases_renamed", "SELECT a FROM t AS zq0 WHERE n > 1"),
        ("SELECT a FROM t WHERE n IN (1, 2)", "in_to_or",
         "SELECT a FROM t WHERE (n = 1 OR n = 2)"),
        ("SELECT a FROM t WHERE n BETWEEN 1 AND 2", "between_to_bounds",
         "SELECT a FROM t WHERE (n >= 1 AND n <= 2)"),
        ("SELECT COUNT(n) FROM t WHERE n > 1", "count_star",
         "SELECT COUNT(*) FROM t WHERE n > 1"),
        ("SELECT DISTINCT a FROM t", "distinct_to_group", "SELECT a FROM t GROUP BY a"),
        ("SELECT x.a FROM t AS x JOIN t AS y ON x.n = y.k", "join_order_turned",
         "SELECT x.a FROM t AS y JOIN t AS x ON x.n = y.k"),
        ("SELECT x.a FROM t AS x JOIN t AS y ON x.n = y.k", "join_to_comma",
         "SELECT x.a FROM t AS x, t AS y WHERE x.n = y.k"),
        ("SELECT a FROM t WHERE n IN (SELECT k FROM t)", "subquery_to_cte",
         "WITH wcte AS (SELECT k FROM t) SELECT a FROM t WHERE n IN (SELECT * FROM wcte)"),
    ],
)  # fmt: skip
def test_rewrites(sql, kind, same):
    assert rewritten(sql)[kind] == same


@pytest.mark.parametrize(
    ("sql", "kind"),
    [
        ("SELECT COUNT(n) FROM t WHERE n > 1 OR b = 'x'", "count_star"),
        ("SELECT DISTINCT a FROM t ORDER BY n", "distinct_to_group"),
        ("SELECT x.a FROM t AS x JOIN t AS y ON x.n = y.k LIMIT 1", "join_order_turned"),
    ],
)
def test_rewrites_that_could_change_the_answer_are_not_made(sql, kind):
    assert kind not in rewritten(sql)


@pytest.mark.parametrize(
    ("sql", "wrong"),
    [
        ("SELECT a FROM t WHERE n > 5", "SELECT a FROM t WHERE n >= 5"),
        ("SELECT a FROM t WHERE n > 5", "SELECT a FROM t"),
        ("SELECT a FROM t WHERE n > 5", "SELECT b FROM t WHERE n > 5"),
        ("SELECT a FROM t WHERE n > 5 AND b = 'x'", "SELECT a FROM t WHERE n > 5 OR b = 'x'"),
        ("SELECT a FROM t WHERE b = 'x'", "SELECT a FROM t WHERE b = 'xs'"),
        ("SELECT MAX(n) FROM t", "SELECT MIN(n) FROM t"),
        ("SELECT DISTINCT a FROM t", "SELECT a FROM t"),
        ("SELECT a FROM t ORDER BY n, b", "SELECT a FROM t ORDER BY n"),
        ("SELECT a FROM t ORDER BY n, b", "SELECT a FROM t ORDER BY n, b DESC"),
        ("SELECT a FROM t GROUP BY a HAVING COUNT(*) > 2",
         "SELECT a FROM t GROUP BY a HAVING COUNT(*) >= 2"),
        ("SELECT a FROM t EXCEPT SELECT b FROM t", "SELECT a FROM t INTERSECT SELECT b FROM t"),
    ],
)  # fmt: skip
def test_mistakes(sql, wrong):
    assert wrong in mistakes(sql)


@pytest.mark.parametrize(
    ("sql", "same"),
    [
        ("SELECT DISTINCT k FROM t", "SELECT k FROM t"),
        ("SELECT a FROM t GROUP BY a HAVING COUNT(*) >= 1",
         "SELECT a FROM t GROUP BY a HAVING COUNT(*) >= 0"),
        ("SELECT a FROM t WHERE n > 5 AND n > 9", "SELECT a FROM t WHERE n > 9"),
        ("SELECT MAX(n) FROM t WHERE n = 4", "SELECT MIN(n) FROM t WHERE n = 4"),
        ("SELECT n FROM t ORDER BY n, a", "SELECT n FROM t ORDER BY n"),
        ("SELECT COUNT(a) FROM t", "SELECT COUNT(b) FROM t"),
    ],
)  # fmt: skip
def test_edits_that_keep_the_answer_are_no_mistakes(sql, same):
    assert same not in mistakes(sql)


def test_counts_of_runs_are_added(tmp_path, monkeypatch):
    monkeypatch.setattr(sql_verdicts, "RESULTS", tmp_path / "verdicts.json")
    for seed in (1, 2):
        result = {"shapes": {"where": Counter(right=3, ms=1.26)}, "kinds": {}}
        sql_verdicts.save("after", {"seed": seed}, result)
    stored = json.loads((tmp_path / "verdicts.json").read_text())["after"]
    assert [run["seed"] for run in stored["runs"]] == [1, 2]
    assert stored["shapes"] == {"where": {"right": 6, "ms": 2.6}}


def test_stored_results_reach_the_targets():
    stored = json.loads(sql_verdicts.RESULTS.read_text())
    assert stored["before"]["runs"] == stored["after"]["runs"]
    lines = stored["after"]["shapes"]
    assert lines.keys() == {*sql_shapes.SHAPES, "real rows"}
    for name, c in [*lines.items(), ("over all", sum(map(Counter, lines.values()), Counter()))]:
        most = 0.003 if name == "over all" else 0.02
        assert c.get("refused", 0) <= most * c.get("right", 0), name
        assert c.get("accepted", 0) <= most * c.get("wrong", 0), name
