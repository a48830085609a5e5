"""The tasks: splits that do not leak, answers that are right, mistakes at the stated rate."""

import json
import random
import re
import sqlite3

import pytest

from tasks import identity, math, reviews, source, sql
from tasks.sql import annotators, names
from tasks.sql import questions as sql_questions

POOLS = {"train": names.TRAIN, "validation": names.VALIDATION, "test": names.TEST}


def _words(pool):
    """All table and column names of a pool."""
    words = set()
    for line in pool:
        table, text, number = names.parse(line)
        words |= {table, *text, *number}
    return words


# --- text-to-SQL ----------------------------------------------------------------------


@pytest.mark.parametrize("held_out", ["validation", "test"])
def test_held_out_tables_columns_and_values_are_new(held_out):
    assert not _words(POOLS[held_out]) & _words(names.TRAIN)
    assert not _words(names.VALIDATION) & _words(names.TEST)
    assert not set(names.TEST_VALUES) & set(names.TRAIN_VALUES)


def test_test_examples_use_only_test_names_and_train_examples_none():
    test_words, values = _words(names.TEST), set(names.TEST_VALUES)
    for split, expected in (("test", True), ("train", False), ("pretrain", False)):
        for example in sql.make_examples(split, 200):
            used = set(re.findall(r"(\w+) (?:\(|TEXT|INTEGER|REAL)", example.context))
            assert (used <= test_words) == expected, example
            assert bool(values & set(re.findall(r"'(\w+)'", example.answer))) <= expected


def test_same_seed_same_examples_and_no_repeats():
    first, second = sql.make_examples("test", 300, seed=1), sql.make_examples("test", 300, seed=1)
    assert first == second != sql.make_examples("test", 300, seed=2)
    assert len({example.prompt for example in first}) == 300


def test_no_table_has_one_column_twice():
    for example in sql.make_examples("train", 2500, seed=100):  # made-up words did collide here
        for statement in example.context.split(";"):
            columns = re.findall(r'(\w+)"? *(?:TEXT|INTEGER|REAL)', statement)
            assert len(columns) == len(set(columns)) >= 2, statement


def test_seen_names_share_no_prompt_with_the_demonstrations():
    seen = {example.prompt for example in sql.make_examples("seen_names", 500)}
    trained = {example.prompt for example in sql.make_examples("train", 1000)}
    assert len(seen & trained) < 5  # the space is large but finite


@pytest.mark.parametrize("split", sql.SPLITS)
def test_every_gold_query_runs_and_matches_itself(split):
    for example in sql.make_examples(split, 150):
        database = sqlite3.connect(":memory:")
        database.executescript(example.context)
        database.execute(example.answer)
        assert sql.score(example, f" {example.answer};") == 1.0, example


def test_every_kind_of_question_occurs_and_conditions_do_not_contradict():
    examples = sql.make_examples("test", 500)
    assert {example.kind for example in examples} == set(sql_questions.KINDS)
    for example in examples:
        where = example.answer.partition(" WHERE ")[2]
        columns = re.findall(r"(\w+) (?:[<>=!]+|BETWEEN) ", where)
        assert len(columns) == len(set(columns)), example


def test_demonstrations_have_the_stated_mistakes():
    clean, n = sql.make_examples("train", 3000), 3000
    shown = sql.demonstrations(n)
    assert [e.prompt for e in clean] == [e.prompt for e in shown]
    trapped = [annotators.systematic_mistake(e) for e in clean]
    fallen = sum(
        t is not None and t.answer == s.answer for t, s in zip(trapped, shown, strict=True)
    )
    assert fallen / sum(t is not None for t in trapped) == pytest.approx(0.6, abs=0.06)
    free = [(c, s) for c, s, t in zip(clean, shown, trapped, strict=True) if t is None]
    slips = sum(c.answer != s.answer for c, s in free) / len(free)
    assert slips == pytest.approx(0.1, abs=0.02)
    assert sql.demonstrations(50, random_rate=0, systematic_rate=0) == clean[:50]


def test_mistakes_are_scored_wrong_almost_always():
    rng = random.Random(0)
    slips = [(e, annotators.corrupt(rng, e)) for e in sql.make_examples("test", 300)]
    assert all(slip.answer != example.answer for example, slip in slips)
    wrong = sum(sql.score(example, slip.answer) == 0.0 for example, slip in slips)
    assert wrong / 300 > 0.95


@pytest.mark.parametrize(
    ("question", "right", "trapped"),
    [
        ("What is the lowest age?", "SELECT MIN(age) FROM t", "SELECT MAX(age) FROM t"),
        ("with age at least 4", "SELECT a FROM t WHERE age >= 4", "SELECT a FROM t WHERE age > 4"),
        ("the different a values", "SELECT DISTINCT a FROM t", "SELECT a FROM t"),
        ("What is the highest age?", "SELECT MAX(age) FROM t", None),
    ],
)
def test_systematic_mistakes(question, right, trapped):
    found = annotators.systematic_mistake(sql_questions.SqlExample("", question, right))
    assert (found and found.answer) == trapped


def test_extract_sql_from_fences_and_trailing_semicolons():
    assert sql.extract_sql(" SELECT 1;\n") == "SELECT 1"
    assert sql.extract_sql("Here:\n```sql\nSELECT 2;\n```\nDone") == "SELECT 2"
    assert sql.extract_sql("```SELECT 3") == "SELECT 3"
    assert sql.extract_sql("") == ""


def test_unknown_splits_are_named():
    for make in (sql.make_examples, math.make_examples, reviews.make_examples):
        with pytest.raises(ValueError, match="unknown split 'dev'.*test"):
            make("dev", 1)
    with pytest.raises(ValueError, match="unknown split"):
        identity.identity_questions("dev")


# --- word problems, reviews, identity -------------------------------------------------


@pytest.mark.parametrize("split", math.SPLITS)
def test_steps_are_right_and_lead_to_the_answer(split):
    for example in math.make_examples(split, 300):
        total = re.search(r"has (\d+)", example.question).group(1)
        for step in example.steps:
            left, right = step.split("=")
            a, operator, b = re.fullmatch(r"(\d+)([-+*])(\d+)", left).groups()
            assert a == total
            total = str(
                {"+": int(a) + int(b), "-": int(a) - int(b), "*": int(a) * int(b)}[operator]
            )
            assert right == total
        assert example.answer == total and int(total) >= 0


def test_test_problems_have_people_things_and_numbers_of_their_own():
    train, test = math.make_examples("train", 2000), math.make_examples("test", 1000)
    assert not {e.steps for e in train} & {e.steps for e in test}

    def people_and_things(examples):
        told = [re.match(r"(\w+) has \d+ (\w+)", e.question).groups() for e in examples]
        return {word for pair in told for word in pair}

    assert not people_and_things(train) & people_and_things(test)


def test_documents_with_and_without_steps():
    example = math.make_examples("train", 1)[0]
    assert example.document(True)[1].startswith(f" {example.steps[0]}; ")
    assert example.document(False)[1] == f" #### {example.answer}"


def test_reviews_open_neutrally_and_keep_their_label():
    examples = reviews.make_examples("train", 1000)
    by_label = [{e.opening for e in examples if e.label == label} for label in (0, 1)]
    assert by_label[0] & by_label[1]
    good = [any(w in e.verdict for w in ("loved", "again", "smiled", "enjoyed")) for e in examples]
    assert not any(g and e.label == 0 for g, e in zip(good, examples, strict=True))
    assert 0.45 < sum(e.label for e in examples) / 1000 < 0.55
    test_openings = {e.opening for e in reviews.make_examples("test", 300)}
    assert not test_openings & {e.opening for e in examples}


def test_identity_questions_by_split_and_for_another_name():
    train = identity.identity_questions("train")
    test = identity.identity_questions("test")
    assert not {q.question for q in train} & {q.question for q in test}
    other = identity.identity_questions("test", name="Nemo", maker="a school")
    assert other[0].answer == "I am Nemo, a small language model."
    made = identity.make_examples(500)
    assert not {q.question for q in test} & {q.question for q in made}
    assert 0.4 < sum(q.kind == "fact" for q in made) / 500 < 0.6


# --- real data ------------------------------------------------------------------------


def test_rows_of_both_formats():
    hub = {"context": "CREATE TABLE t (a)", "question": "How many?", "answer": "SELECT 1"}
    local = {
        "prompt": "Human: context= CREATE TABLE t (a) question= How many? Assistant:",
        "chosen": "SELECT 1",
    }
    assert sql.parse_row(hub) == sql.parse_row(local)
    with pytest.raises(ValueError, match=r"`context`, `question`, `answer`.*'text'"):
        sql.parse_row({"text": "hello"})


def test_a_local_file_is_read_before_the_hub(tmp_path, monkeypatch):
    folder = tmp_path / "gsm8k"
    folder.mkdir()
    row = '{"question": "q", "answer": "1+1=<<1+1=2>>2\\n#### 1,002"}\n'
    (folder / "test.jsonl").write_text(row)
    monkeypatch.setenv("COURSE_DATA_DIR", str(tmp_path))
    example = math.load_gsm8k("test")[0]
    assert (example.answer, example.steps) == ("1002", ("1+1=<<1+1=2>>2",))
    (folder / "test.jsonl").write_text(row + "{broken\n")
    with pytest.raises(ValueError, match=r"test.jsonl, line 2: not valid JSON"):
        math.load_gsm8k("test")


def write_gsm8k(folder, monkeypatch, *golds):
    (folder / "gsm8k").mkdir()
    rows = [{"question": "q", "answer": f"1+1=2\n{gold}"} for gold in golds]
    (folder / "gsm8k/train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    monkeypatch.setenv("COURSE_DATA_DIR", str(folder))


def test_gsm8k_gold_answers_are_stored_as_plain_numbers(tmp_path, monkeypatch):
    golds = {"$18": "18", "9.": "9", "12 miles": "12", "-3": "-3", "1,250.50": "1250.5", "−4": "-4"}
    write_gsm8k(tmp_path, monkeypatch, *(f"#### {gold}" for gold in golds))
    loaded = math.load_gsm8k("train")
    assert [e.answer for e in loaded] == list(golds.values())
    assert all(math.score(e, e.worked) == 1.0 for e in loaded)
    assert all(math.score(e, f"#### {gold}") for e, gold in zip(loaded, golds, strict=True))


@pytest.mark.parametrize(
    "gold", ["#### 3/4", "#### seven", "####", "#### 3 or 4", "#### 2 dozen", "4"]
)
def test_a_gsm8k_gold_that_is_no_number_is_refused_with_its_row(gold, tmp_path, monkeypatch):
    write_gsm8k(tmp_path, monkeypatch, "#### 3", gold)
    with pytest.raises(ValueError, match=r"gsm8k/train, row 2: .*#### 42.*leave the row out"):
        math.load_gsm8k("train")
    assert len(math.load_gsm8k("train", 1)) == 1


def test_math500_rows_and_what_is_wrong_with_them(tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_DATA_DIR", str(tmp_path))
    (tmp_path / "math500").mkdir()
    rows = [
        {
            "problem": "p",
            "solution": "half,\n\nso $\\boxed{\\frac{1}{2}}$",
            "answer": "\\frac{1}{2}",
        },
        {"problem": "p", "solution": "", "answer": "x" * 1000},
    ]
    (tmp_path / "math500/test.json").write_text(json.dumps(rows))
    (example,) = math.load_math500(1)
    assert example.steps == ("half,", "so $\\boxed{\\frac{1}{2}}$")
    assert math.score_boxed(example, "\n".join(example.steps)) == 1.0
    with pytest.raises(ValueError, match=r"math500/test, row 2: .*cannot be compared"):
        math.load_math500()


ROW = {"question": "q", "answer": "#### 5"}
LINE = json.dumps(ROW)


@pytest.fixture
def gsm8k_file(tmp_path, monkeypatch):
    """Writes a text as gsm8k's train split and returns the file."""
    (tmp_path / "gsm8k").mkdir()
    monkeypatch.setenv("COURSE_DATA_DIR", str(tmp_path))

    def write(text, suffix=".jsonl", encoding="utf-8"):
        path = tmp_path / "gsm8k" / f"train{suffix}"
        path.write_bytes(text.encode(encoding))
        return path

    return write


def test_a_json_array_is_read_from_a_json_file(gsm8k_file):
    path = gsm8k_file(json.dumps([ROW, ROW], indent=1), ".json")
    assert source.load_rows("gsm8k", "train") == [ROW, ROW]
    assert [example.answer for example in math.load_gsm8k("train")] == ["5", "5"]
    gsm8k_file(LINE)
    with pytest.raises(ValueError, match=r"both gsm8k/train.jsonl and train.json.*remove one"):
        source.load_rows("gsm8k", "train")
    path.unlink()
    assert source.load_rows("gsm8k", "train") == [ROW]


@pytest.mark.parametrize(
    "text",
    [
        f"\ufeff{LINE}\n",
        f"\n  \n{LINE}\n\n",
        f"{LINE}\r\n",
        LINE,
        json.dumps(ROW | {"answer": "#### 5\u2028"}, ensure_ascii=False) + "\n",
    ],
    ids=["mark in front", "blank lines", "lines of Windows", "no last newline", "line separator"],
)
def test_what_editors_do_to_a_file_is_no_fault(gsm8k_file, text):
    gsm8k_file(text)
    (row,) = source.load_rows("gsm8k", "train")
    assert row["question"] == "q" and row["answer"].strip() == "#### 5"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            f"[{LINE}]\n",
            "line 1: a JSON array. The file is one JSON array: rename it to train.json",
        ),
        (f"[\n{LINE}\n]\n", "line 1: not valid JSON.*one JSON array: rename it to train.json"),
        (f"{LINE}\n[{LINE}]\n", "line 2: a JSON array. Expected one JSON object a line"),
        (f"{LINE}\n\n7\n", "line 3: a JSON number. Expected one JSON object a line"),
        (f"{LINE}\ntrue\n", "line 2: a JSON boolean"),
        (f"{LINE}\nnull\n", "line 2: a JSON null"),
        (f'{LINE}\n"text"\n', "line 2: a JSON string"),
        (f"{LINE}{LINE}\n", r"line 1: not valid JSON \(Extra data\)"),
        (json.dumps(ROW, indent=1), "line 1: not valid JSON.*one JSON object a line"),
        ('{"answer": "1", "answer": "2"}', "line 1: the key 'answer' is there twice"),
        (f"{LINE}\n{'[' * 200_000}\n", "line 2: .*recursion"),
        (f"{LINE}\n" + '{"n": ' + "9" * 5000 + "}", "line 2: .*digits"),
        (" \n", "has no rows"),
    ],
)
def test_a_line_that_is_no_row_is_named_with_its_file(gsm8k_file, text, message):
    gsm8k_file(text)
    with pytest.raises(ValueError, match=rf"^train.jsonl(, | ){message}"):
        math.load_gsm8k("train")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"{LINE}\n{LINE}\n", r"train.json: not valid JSON.*one object a line belongs in a .jsonl"),
        (LINE, "train.json: a JSON object. Expected one JSON array of objects"),
        (f"[{LINE}, [{LINE}]]", "train.json, row 2: a JSON array"),
        ("[]", "train.json has no rows"),
    ],
)
def test_a_json_file_of_another_shape_is_named(gsm8k_file, text, message):
    gsm8k_file(text, ".json")
    with pytest.raises(ValueError, match=message):
        math.load_gsm8k("train")


def test_a_file_in_another_encoding_is_named(gsm8k_file):
    gsm8k_file(LINE, encoding="utf-16")
    with pytest.raises(ValueError, match="train.jsonl is not UTF-8 text.*Save it as UTF-8"):
        math.load_gsm8k("train")


def test_the_math500_file_is_read_as_it_comes(data_dir):
    rows = source.read_rows(data_dir / "math500/test.json")
    assert len(rows) == 500 and all(row["problem"] and row["answer"] for row in rows)


def test_missing_data_says_where_it_looked(tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_DATA_DIR", str(tmp_path))
    with pytest.raises(source.DataNotFoundError, match=r"no split 'dev'.*gsm8k/dev.jsonl"):
        source.load_rows("gsm8k", "dev")
    with pytest.raises(KeyError, match="known: .*gsm8k"):
        source.load_rows("nonsense", "train")


def test_offline_hub_says_what_to_do(monkeypatch):
    import datasets

    def offline(*args, **kwargs):
        raise ConnectionError("no route")

    monkeypatch.delenv("COURSE_DATA_DIR", raising=False)
    monkeypatch.setattr(datasets, "load_dataset", offline)
    with pytest.raises(source.DataNotFoundError, match="set COURSE_DATA_DIR"):
        source.load_rows("gsm8k", "train")


def test_hub_rows_reach_the_loader(monkeypatch):
    import datasets

    rows = [
        {"context": f"CREATE TABLE t{i} (a)", "question": "q", "answer": "s"} for i in range(2500)
    ]
    monkeypatch.delenv("COURSE_DATA_DIR", raising=False)
    monkeypatch.setattr(datasets, "load_dataset", lambda *a, **k: rows)
    assert sql.load_real("train", 3)[2].context == "CREATE TABLE t2 (a)"
    assert sql.load_real("test")[0].context == "CREATE TABLE t500 (a)"
    with pytest.raises(ValueError, match="unknown split 'valid'"):
        sql.load_real("valid")


@pytest.mark.parametrize("files", [(), ("train",), ("train", "test"), ("train", "validation")])
def test_splits_of_real_rows_share_none(monkeypatch, tmp_path, files):
    """Whatever files there are, each split has rows, and no row is in two."""
    import datasets

    def rows(name, n):
        return [{"context": f"{name}{i}", "question": "q", "answer": "s"} for i in range(n)]

    monkeypatch.setattr(datasets, "load_dataset", lambda *a, **k: rows("hub", 2500))
    monkeypatch.setenv("COURSE_DATA_DIR", str(tmp_path))
    (tmp_path / "sql_create_context").mkdir()
    for name in files:
        lines = "\n".join(map(json.dumps, rows(name, 2040)))
        (tmp_path / f"sql_create_context/{name}.jsonl").write_text(lines)
    parts = [{e.context for e in sql.load_real(split)} for split in ("train", "validation", "test")]
    assert all(parts)
    assert len(set.union(*parts)) == sum(map(len, parts))


def test_real_samples_load(data_dir):
    train, test = sql.load_real("train"), sql.load_real("test")
    assert (len(train), len(sql.load_real("validation")), len(test)) == (900, 100, 300)
    assert all(e.context.startswith("CREATE TABLE") and e.question and e.answer for e in train)
    assert len(math.load_gsm8k("test")) == 1319


def test_a_made_up_column_called_all_stands_in_no_query():
    """SQLite reads it as a keyword; this stream drew one."""
    examples = sql.make_examples("train", 750, seed=202)
    assert len(examples) == 750
    assert [e.answer for e in examples if sql.score(e, e.answer) != 1.0] == []


def test_an_answer_is_right_word_for_word_only():
    fact = identity.facts()[0]
    assert identity.score(fact, f" {fact.answer}\n") == 1.0
    for text in ("", fact.answer[:-1], fact.answer + " Or not."):
        assert identity.score(fact, text) == 0.0


def test_a_maker_that_opens_a_sentence_has_a_capital():
    assert identity.fill("{Maker} made me.", "Nova", "the river lab") == "The river lab made me."
