"""Tests of what is read from a query: bounds on parsing, conditions, joins, groups."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.sql import syntax
from tasks.sql.facts import Facts
from tasks.sql.fill import fill
from tasks.sql.read import Reader, read_query
from tasks.sql.sandbox import admit, build
from tasks.sql.task import load_real
from tasks.sql.text import names_in, parse_schema, phrases, tokenize
from tasks.sql.wishes import Wishes
from tools import sql_shapes

SCHEMA = parse_schema(
    "CREATE TABLE stall (stall_id INTEGER, owner TEXT, rent REAL, since DATE);"
    "CREATE TABLE visit (stall_ref INTEGER, guest TEXT, spent INTEGER)"
)


def read(sql):
    return read_query(*admit(sql, SCHEMA), SCHEMA)


def conditions_of(sql):
    facts = read(sql)
    return {(*facts.place(term), test.sql) for term, found in facts.tests.items() for test in found}


@pytest.mark.parametrize(
    ("condition", "found"),
    [
        ("rent > 40", {("rent", "c0 > 40")}),
        ("40 > rent", {("rent", "c0 < 40")}),
        ("-1.5 <= s.rent", {("rent", "c0 >= -1.5")}),
        ("NOT rent > 40", {("rent", "NOT (c0 > 40)")}),
        (
            "NOT (rent > 40 OR owner = 'Bo')",
            {("rent", "NOT (c0 > 40)"), ("owner", "NOT (c0 = 'Bo')")},
        ),
        ('owner = "Bo"', {("owner", "c0 = 'Bo'")}),
        ("owner = 'O''Hara'", {("owner", "c0 = 'O''Hara'")}),
        ("rent BETWEEN 2 AND 2 + 7", {("rent", "c0 >= 2"), ("rent", "c0 <= 9")}),
        ("owner IN ('Bo', 'Al')", {("owner", "c0 = 'Bo'"), ("owner", "c0 = 'Al'")}),
        ("owner IS NOT NULL", {("owner", "NOT (c0 IS NULL)")}),
        ("since LIKE '2011%'", {("since", "c0 LIKE '2011%'")}),
        ("stall_id = 12345678901234567", {("stall_id", "c0 = 12345678901234567")}),
        ("length(owner) > 8", {("owner", "LENGTH(c0) > 8")}),
        ("'07' = strftime('%m', since)", {("since", "'07' = STRFTIME('%m', c0)")}),
        (
            "abs(rent - 5) < 2 AND owner = 'Bo'",
            {("rent", "ABS(c0 - 5) < 2"), ("owner", "c0 = 'Bo'")},
        ),
    ],
)
def test_conditions_are_read_with_their_column(condition, found):
    wanted = {("stall", *each) for each in found}
    assert conditions_of(f"SELECT owner FROM stall AS s WHERE {condition}") == wanted


def test_columns_are_followed_through_inner_queries():
    for sql in (
        "SELECT o FROM (SELECT owner AS o, rent AS r FROM stall) WHERE r > 6",
        "WITH w(o, r) AS (SELECT owner, rent FROM stall) SELECT x.o FROM w x WHERE x.r > 6",
        "SELECT owner FROM stall WHERE owner IN (SELECT owner FROM stall WHERE rent > 6)",
        "SELECT owner FROM stall s WHERE EXISTS (SELECT 1 FROM visit WHERE s.rent > 6)",
        "SELECT CASE WHEN rent > 6 THEN 1 END FROM stall",
        "SELECT owner, rent AS r FROM stall WHERE r > 6",
    ):
        assert conditions_of(sql) == {("stall", "rent", "c0 > 6")}, sql


def test_joins_link_columns_and_negations_link_them_loosely():
    facts = read("SELECT 1 FROM stall s JOIN visit v ON s.stall_id = v.stall_ref")
    assert facts.root((1, "stall_ref")) == facts.root((0, "stall_id")) and not facts.loose
    facts = read("SELECT owner FROM stall INTERSECT SELECT guest FROM visit")
    assert facts.root((1, "guest")) == (0, "owner")
    for sql in (
        "SELECT owner FROM stall EXCEPT SELECT guest FROM visit",
        "SELECT owner FROM stall WHERE NOT owner IN (SELECT guest FROM visit)",
        "SELECT 1 FROM stall WHERE NOT EXISTS (SELECT 1 FROM visit WHERE owner = guest)",
    ):
        facts = read(sql)
        assert not facts.links and [set(pair) for pair in facts.loose] == [
            {(0, "owner"), (1, "guest")}
        ]


def test_numbers_of_output_columns_are_keys():
    facts = read("SELECT owner, since, rent FROM stall ORDER BY 3, 1")
    assert facts.orders == [[(0, "rent"), (0, "owner")]]
    facts = read("SELECT owner, since, COUNT(*) FROM stall GROUP BY 1, 2")
    assert facts.groups[0].keys == [(0, "owner"), (0, "since")]


@pytest.mark.parametrize(
    ("having", "bound"),
    [
        ("COUNT(*) > 3", ("COUNT", False, None, 3)),
        ("3 < COUNT(*)", ("COUNT", False, None, 3)),
        ("COUNT(DISTINCT guest) = 4", ("COUNT", True, (0, "guest"), 4)),
        ("NOT SUM(spent) <= 70", ("SUM", False, (0, "spent"), 70)),
        ("total <= 70", ("SUM", False, (0, "spent"), 70)),
    ],
)
def test_bounds_on_groups_are_read(having, bound):
    sql = f"SELECT stall_ref, SUM(spent) AS total FROM visit GROUP BY stall_ref HAVING {having}"
    (group,) = read(sql).groups
    assert [tuple(each) for each in group.bounds] == [bound]
    assert group.keys == [(0, "stall_ref")]


def test_numbers_stand_for_output_columns():
    facts = read("SELECT owner, COUNT(*), since FROM stall GROUP BY 1, 3 ORDER BY 3")
    assert facts.groups[0].keys == [(0, "owner"), (0, "since")]
    assert facts.orders == [[(0, "since")]]


@pytest.mark.parametrize(
    ("sql", "steady"),
    [
        ("SELECT owner FROM stall WHERE rent > 4", True),
        ("SELECT COUNT(*), MAX(rent) FROM stall", True),
        ("SELECT owner, COUNT(*) FROM stall GROUP BY owner", True),
        ("SELECT since, COUNT(*) FROM stall GROUP BY owner", False),
        ("SELECT owner, MAX(rent) FROM stall", False),
        ("SELECT *, MAX(rent) FROM stall", False),
        ("SELECT owner FROM stall LIMIT 2", False),
        ("SELECT owner FROM stall ORDER BY rent", False),
        ("SELECT group_concat(owner) FROM stall", False),
        ("SELECT a FROM (SELECT owner AS a, MAX(rent) FROM stall)", False),
        ("SELECT row_number() OVER (PARTITION BY owner) FROM stall", False),
    ],
)
def test_answers_that_may_hang_on_stored_order_are_known(sql, steady):
    assert read(sql).steady is steady


# Text that a model wrote

NESTED = [
    "SELECT " + "(" * 60 + "1" + ")" * 60,
    "SELECT 1 FROM stall " + "JOIN visit " * 60,
    "SELECT " + "NOT " * 200 + "1",
    "SELECT " + "- " * 200 + "1",
    "SELECT " + "CASE WHEN 1 THEN " * 40 + "1" + " END" * 40,
    "SELECT 1" + " + 1" * 400,
    "SELECT rent" + ", rent" * 250,
    "SELECT CAST(1 AS " + "STRUCT(" * 40,
    "SELECT 1 FROM stall " + "( STRUCT " * 40,
    "SELECT " + "EXISTS " * 150,
    "SELECT 1" + ", 1" * 300,
]


@pytest.mark.parametrize("sql", NESTED, ids=[sql[:30] for sql in NESTED])
def test_deep_or_long_text_is_not_parsed(sql, monkeypatch):
    monkeypatch.setattr(syntax.sqlglot, "parse_one", lambda *_, **__: pytest.fail("parsed"))
    assert syntax.parse(sql, tokenize(sql)) is None


def test_a_number_that_the_parser_refuses_is_not_understood():
    sql = "SELECT 0x" + "f" * 4000  # Python writes no more than 4,300 digits
    assert syntax.parse(sql, tokenize(sql)) is None


def test_joins_without_on_that_are_parsed_take_little_time():
    sql = "SELECT 1 FROM stall " + "JOIN visit " * syntax.MAX_JOINS
    start = time.process_time()
    assert syntax.parse(sql, tokenize(sql)) is not None
    assert time.process_time() - start < 0.5  # 10 ms; twice as long with each further join


WORDS = """SELECT FROM WHERE AND OR NOT ( ) , . * = < > BETWEEN IN LIKE IS NULL ORDER BY GROUP
    LIMIT HAVING COUNT MAX DISTINCT AS WITH UNION EXCEPT owner rent stall visit 1 2.5 'x' "y" CASE
    WHEN THEN END JOIN ON USING || CAST EXISTS INTERVAL [ ] :: -> @ $x ? OVER ESCAPE ;""".split()


@settings(deadline=None, max_examples=300)
@given(st.text() | st.lists(st.sampled_from(WORDS), max_size=40).map(" ".join))
def test_no_text_raises(text):
    for sql in (text, f"SELECT {text}", f"SELECT owner FROM stall WHERE {text}"):
        tree = syntax.parse(sql, tokenize(sql))
        if tree is not None:
            read_query(sql, tokenize(sql), SCHEMA)


def test_queries_of_all_shapes_are_read_without_a_fault():
    for _, context, gold, right, wrong in sql_shapes.make_shapes(schemas=2, seed=9):
        schema = parse_schema(context)
        for sql in (gold, *right, *wrong):
            Reader(schema, Facts()).query(syntax.parse(*admit(sql, schema)))


def test_real_queries_are_read_without_a_fault(data_dir):
    for example in load_real("train") + load_real("test"):
        schema = parse_schema(example.context)
        tree = syntax.parse(*admit(example.answer, schema))
        if tree is not None:
            Reader(schema, Facts()).query(tree)


VALUES = """0 -1 2.5 1e999 -1e308 9223372036854775807 9223372036854775808
    99999999999999999999999 0.5
    'x' '' '%' '_a%' '2010' '2010-02-31' '%Y' '1e5' '99999999999999999999' 'é' 'İß' "Bo" NULL
    """.split()
LEFT = """rent owner since stall_id length(owner) abs(rent) rent+stall_id owner||since
    strftime('%Y',since) CAST(owner\tAS\tINTEGER) substr(owner,2) lower(owner) rent*rent rent%7
    -rent""".split()
COMPARED = st.builds(
    "{} {} {}".format,
    st.sampled_from([each.replace("\t", " ") for each in LEFT]),
    st.sampled_from("= != < >= LIKE IS".split()),
    st.sampled_from([*VALUES, "rent", "owner", "(SELECT AVG(rent) FROM stall)"]),
)
BOUNDS = st.builds(
    "{} {} {}".format,
    st.sampled_from(["COUNT(*)", "SUM(rent)", "AVG(rent)", "MAX(owner)", "COUNT(DISTINCT since)"]),
    st.sampled_from("= < >=".split()),
    st.sampled_from([*VALUES, "3", "40", "300", "-9"]),
)


@settings(deadline=None, max_examples=150)
@given(st.lists(COMPARED, min_size=1, max_size=3), st.lists(BOUNDS, min_size=1, max_size=2))
def test_rows_can_be_made_about_any_literal(conditions, bounds):
    where, having = " AND ".join(conditions), " OR ".join(bounds)
    sql = f"SELECT owner FROM stall WHERE {where} GROUP BY owner HAVING {having}"
    wishes = Wishes(SCHEMA, read(sql), seed=sql)
    for style in range(6):
        build(SCHEMA, fill(SCHEMA, wishes, sql, style))


def test_phrases_do_not_see_layout_but_new_names_functions_and_literals():
    def found(sql):
        return phrases(tokenize(sql), names_in(SCHEMA))

    gold = found("SELECT owner FROM stall WHERE rent > 40 AND owner != 'Bo'")
    for same in (
        "SELECT s.owner FROM stall AS s WHERE 'Bo' <> s.owner AND 40 < s.rent",
        'SELECT * FROM (SELECT "owner" FROM "stall" WHERE "owner" != \'Bo\' AND rent > 40)',
    ):
        assert found(same) <= gold
    for other in (
        "SELECT owner FROM stall WHERE rent > 41",
        "SELECT owner FROM stall WHERE rent > 40 AND owner != 'bo'",
        "SELECT owner FROM stall WHERE owner > 40",
        "SELECT owner FROM stall WHERE stall_id > 40",
        "SELECT owner FROM stall WHERE abs(rent) > 40",
        "SELECT guest FROM visit WHERE owner != 'Bo'",
    ):
        assert not found(other) <= gold, other
