"""Preference pairs: from real rows in every format, from scores, from corruptions."""

import json
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks import preferences, sql
from tasks.preference_rows import parse_row
from tasks.preferences import Pair, from_corruptions, from_rows, from_scored
from tasks.source import DataNotFoundError
from tasks.sql.questions import SqlExample
from utils.profiles import get_profile


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


def human(text):
    return {"from": "human", "value": text}


# --- rows -----------------------------------------------------------------------------

ASKED = {"chosen": "Good", "rejected": "Bad"}
FORMATS = {
    "strings": {"prompt": "Ask", **ASKED, "response": "Bad"},
    "medical": {"conversations": [human("Ask")], **ASKED},
    "medical, older": {
        "system": "",
        "history": [],
        "question": "Ask",
        "response_chosen": "Good",
        "response_rejected": "Bad",
    },
    "older, without system": {
        "question": "Ask",
        "response_chosen": "Good",
        "response_rejected": "Bad",
    },
    "one message a side": {
        "conversations": [human("Ask")],
        "chosen": {"from": "gpt", "value": "Good"},
        "rejected": {"from": "gpt", "value": "Bad"},
    },
    "chats": {
        "chosen": [user("Ask"), assistant("Good")],
        "rejected": [user("Ask"), assistant("Bad")],
    },
    "chats with the prompt beside them": {
        "prompt": "Ask ",
        "prompt_id": "7",
        "chosen": [user("Ask"), assistant("Good")],
        "rejected": [user("Ask"), assistant("Bad")],
        "score_chosen": 8.0,
        "score_rejected": 3.0,
    },
    "chats, prompt apart": {
        "prompt": [user("Ask")],
        "chosen": [assistant("Good")],
        "rejected": [assistant("Bad")],
    },
    "transcripts": {
        "chosen": "\n\nHuman: Ask\n\nAssistant: Good",
        "rejected": "\n\nHuman: Ask\n\nAssistant: Bad",
    },
}


@pytest.mark.parametrize("name", FORMATS)
def test_one_pair_in_every_format(name):
    assert parse_row(FORMATS[name]) == ("Ask", "Good", "Bad")
    assert from_rows([FORMATS[name]]) == ([Pair("Ask", "Good", "Bad")], {})


def gpt(text):
    return {"from": "gpt", "value": text}


def padded(row, *keys):
    """The row as a table holds it: with every key, None where there is no value."""
    return dict.fromkeys(keys) | row


COLUMNS = "question system history prompt conversations chosen rejected score_chosen".split()
COLUMNS += ["response_chosen", "response_rejected", "score_rejected"]


@pytest.mark.parametrize("name", FORMATS)
def test_a_key_without_a_value_is_no_key(name):
    row = {
        key: [padded(m, "role", "content", "from", "value") for m in value]
        if isinstance(value, list)
        else value
        for key, value in FORMATS[name].items()
    }
    assert parse_row(padded(row, *COLUMNS)) == ("Ask", "Good", "Bad")


@pytest.mark.parametrize("keys", [("chosen", "rejected"), ("response_chosen", "response_rejected")])
def test_a_side_without_a_value_is_an_empty_side(keys):
    """Both pairs of keys are there; the one that holds something is meant."""
    row = padded({"prompt": "Ask", keys[0]: "Good"}, *COLUMNS)
    assert parse_row(row) == ("Ask", "Good", "")
    assert parse_row(padded({"prompt": "Ask", keys[1]: "Bad"}, *COLUMNS)) == ("Ask", "", "Bad")


def test_several_turns_keep_their_roles_and_the_last_answer_is_the_side():
    expected = "User: One\n\nAssistant: Two\n\nUser: Three"
    turns = [user("One"), assistant("Two"), user("Three")]
    transcript = "\n\nHuman: One\n\nAssistant: Two\n\nHuman: Three\n\nAssistant:"
    rows = [
        {"chosen": [*turns, assistant("Good")], "rejected": [*turns, assistant("Bad")]},
        {"chosen": f"{transcript} Good", "rejected": f"{transcript} Bad"},
        {
            "history": [["One", "Two"]],
            "question": "Three",
            "response_chosen": "Good",
            "response_rejected": "Bad",
        },
    ]
    for row in rows:
        assert parse_row(row) == (expected, "Good", "Bad")


def test_a_system_text_comes_before_the_prompt():
    system = {"from": "system", "value": "Be kind."}
    assert parse_row({"conversations": [system, human("Ask")], **ASKED})[0] == "Be kind.\n\nAsk"
    row = {
        "question": "Ask",
        "response_chosen": "a",
        "response_rejected": "b",
        "system": "Be kind.",
    }
    assert parse_row(row)[0] == "Be kind.\n\nAsk"


SHORT = {"role": "system", "content": "Be short."}
ONE_ASKED = {
    "prompt": {"prompt": "Ask", **ASKED},
    "a list as prompt": {"prompt": [user("Ask")], **ASKED},
    "conversations": {
        "conversations": [human("Ask")],
        "chosen": gpt("Good"),
        "rejected": gpt("Bad"),
    },
    "messages": {
        "chosen": [user("Ask"), assistant("Good")],
        "rejected": [user("Ask"), assistant("Bad")],
    },
    "transcripts": FORMATS["transcripts"],
    "prompt and transcripts": {"prompt": "Ask", **FORMATS["transcripts"]},
}


@pytest.mark.parametrize("name", ONE_ASKED)
def test_the_system_text_of_a_row_is_kept_beside_every_kind_of_prompt(name):
    row = {"system": "Be short.", **ONE_ASKED[name]}
    assert parse_row(row) == ("Be short.\n\nAsk", "Good", "Bad")
    for nothing in (None, "", " \n"):
        assert parse_row(row | {"system": nothing})[0] == "Ask"


def test_a_system_text_that_a_row_has_several_times_is_there_once():
    sides = {side: [SHORT, user("Ask"), assistant(side)] for side in ("chosen", "rejected")}
    bare = {side: turns[1:] for side, turns in sides.items()}
    for row in (
        sides,
        {**sides, "prompt": "Ask"},
        {**sides, "system": "Be short. "},
        {**sides, "system": "Be short.", "prompt": [SHORT, user("Ask")]},
        {**bare, "prompt": [SHORT, user("Ask")]},
    ):
        found = parse_row(row)
        assert (found[0].split(), found[1:]) == (["Be", "short.", "Ask"], ("chosen", "rejected"))


def test_the_system_text_opens_a_prompt_of_several_turns():
    row = {"system": "Be short.", "history": [["One", "Two"]], "prompt": "Three", **ASKED}
    assert parse_row(row)[0] == "System: Be short.\n\nUser: One\n\nAssistant: Two\n\nUser: Three"


@pytest.mark.parametrize("end", ["\n\nAssistant:", "\n\nAssistant: \n"])
@pytest.mark.parametrize("start", ["\n\n", "", "\n"])
def test_a_transcript_as_prompt_loses_its_speakers(start, end):
    one = {"prompt": f"{start}Human: Why?{end}", "chosen": " Good", "rejected": " Bad"}
    assert parse_row(one) == ("Why?", " Good", " Bad")
    several = f"{start}Human: One\n\nAssistant: Two\n\nHuman: Three\n\nwith a paragraph"
    expected = "User: One\n\nAssistant: Two\n\nUser: Three\n\nwith a paragraph"
    assert parse_row({"prompt": several, **ASKED})[0] == expected
    assert parse_row({"prompt": several + end, **ASKED})[0] == expected
    sides = {side: f"{several}\n\nAssistant: {side}" for side in ASKED}
    assert parse_row(sides) == (expected, "chosen", "rejected")
    assert parse_row({**sides, "prompt": several + end}) == (expected, "chosen", "rejected")


def test_a_transcript_on_one_line():
    """The form of a reformatted sql-create-context."""
    row = {"prompt": "Human: Is an Assistant: here? Assistant:", **ASKED}
    assert parse_row(row)[0] == "Is an Assistant: here?"
    plain = "Human: is this the right word?"
    assert parse_row({"prompt": plain, **ASKED})[0] == plain


def test_the_begun_answer_of_a_transcript_stays():
    row = {"prompt": "\n\nHuman: One\n\nAssistant: Sure:", **ASKED}
    assert parse_row(row)[0] == "User: One\n\nAssistant: Sure:"


@pytest.mark.parametrize(
    ("better", "worse"),
    [(10, 9), ("10", "9"), ("10", 9.5), (9.5, "-10"), ("1e1", "9"), (0, "-1"), (" 10 ", "9")],
)
def test_scores_are_compared_as_numbers(better, worse):
    row = {"prompt": "Ask", **ASKED}
    right = row | {"score_chosen": better, "score_rejected": worse}
    assert parse_row(right) == ("Ask", "Good", "Bad")
    with pytest.raises(ValueError, match="score_chosen is below score_rejected"):
        parse_row(row | {"score_chosen": worse, "score_rejected": better})
    for missing in (None, "", float("nan"), "nan"):
        assert parse_row(right | {"score_chosen": missing}) == ("Ask", "Good", "Bad")


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (
            {"prompt": [SHORT, user("Ask")], "system": "Be long.", **ASKED},
            "the row has two different system texts",
        ),
        (
            {"prompt": "Ask", **ASKED, "score_chosen": "9", "score_rejected": "10"},
            "score_chosen is below score_rejected",
        ),
        (
            {"prompt": "Ask", "chosen": "Same", "rejected": " Same\n"},
            "chosen and rejected are equal",
        ),
        ({"prompt": " ", **ASKED}, "the prompt is empty"),
        ({"prompt": "Ask", "chosen": " ", "rejected": "Bad"}, "chosen is empty"),
        ({"prompt": "Ask", "chosen": None, "rejected": "Bad"}, "chosen is empty"),
        (
            {
                "chosen": [user("One"), assistant("Good")],
                "rejected": [user("Two"), assistant("Bad")],
            },
            "chosen and rejected answer different prompts",
        ),
        (
            {
                "chosen": "\n\nHuman: One\n\nAssistant: Good",
                "rejected": "\n\nHuman: Two\n\nAssistant: Bad",
            },
            "chosen and rejected answer different prompts",
        ),
        (
            {
                "prompt": "Other",
                "chosen": [user("One"), assistant("Good")],
                "rejected": [user("One"), assistant("Bad")],
            },
            "the prompt is not the one that the sides answer",
        ),
        (
            {"chosen": [user("One"), assistant("Good")], "rejected": [user("One")]},
            "a side does not end with an answer of the assistant",
        ),
        (
            {"prompt": "Ask", **ASKED, "score_chosen": 3.0, "score_rejected": 8.0},
            "score_chosen is below score_rejected",
        ),
        (
            {"prompt": "Ask", "chosen": [{"role": "assistant"}], "rejected": "Bad"},
            "a message without a role or a text",
        ),
    ],
)
def test_rows_that_hold_no_preference_are_left_out_and_counted(row, reason):
    good = {"prompt": "Ask", **ASKED}
    assert from_rows([good, row, row]) == ([Pair("Ask", "Good", "Bad")], {reason: 2})
    with pytest.raises(ValueError, match=f"none of 1 rows is a usable pair.*{reason}"):
        from_rows([row])


def test_equal_scores_are_no_contradiction():
    row = {"prompt": "Ask", **ASKED, "score_chosen": 5.0, "score_rejected": 5.0}
    assert len(from_rows([row])[0]) == 1


def test_a_pair_that_is_labelled_both_ways_is_left_out():
    one = {"prompt": "Ask", "chosen": "A", "rejected": "B"}
    other = {"prompt": "Ask", "chosen": "B", "rejected": "A"}
    elsewhere = {"prompt": "Ask again", "chosen": "B", "rejected": "A"}
    pairs, refused = from_rows([one, elsewhere, other])
    assert pairs == [Pair("Ask again", "B", "A")]
    assert refused == {"the same two answers are labelled both ways": 2}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"context": "c", "question": "q", "answer": "a"}, r"row 2: expected `chosen`.*'answer'"),
        ({"prompt": "Ask", "chosen": "Good"}, "row 2: expected `chosen` and `rejected`"),
        ({"response_chosen": "x", "response_rejected": "y", **ASKED}, "not both"),
        ({"prompt": "Ask", "chosen": 5, "rejected": "Bad"}, "row 2: expected a text or a list"),
        ({"prompt": "Ask", "chosen": ["Good"], "rejected": "Bad"}, "list of chat messages"),
        ({"prompt": "Ask", **ASKED, "score_chosen": "good"}, "score_chosen must be a number.*good"),
        ({"prompt": "Ask", **ASKED, "score_rejected": [1]}, "score_rejected must be a number"),
        ({"prompt": "Ask", **ASKED, "history": ["ab"]}, "row 2: expected pairs of texts.*'ab'"),
        ({"prompt": "Ask", **ASKED, "history": [["a", None]]}, "pairs of texts.*'a', None"),
        ({"prompt": "Ask", **ASKED, "history": [["a"]]}, "pairs of texts"),
        ({"prompt": "Ask", **ASKED, "system": 5}, "row 2: expected a text or a list"),
    ],
)
def test_another_format_is_named_with_its_row(row, message):
    with pytest.raises(ValueError, match=message):
        from_rows([{"prompt": "Ask", **ASKED}, row])


@pytest.mark.parametrize("nothing", ["", " \n", None])
def test_empty_rejected_sides_are_refused_with_their_number(nothing):
    rows = [{"prompt": "Ask", **ASKED}] + [{"prompt": "p", "chosen": "c", "rejected": nothing}] * 3
    with pytest.raises(
        ValueError, match=r"3 of 4 rows have an empty rejected side.*any text beats none"
    ):
        from_rows(rows)
    pairs, refused = from_rows(rows, allow_empty=True)
    assert [pair.rejected.strip() for pair in pairs] == ["Bad", "", "", ""] and refused == {}


# --- the pair -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sides", "message"),
    [
        (("", "a", "b"), "the prompt is empty"),
        (("p", " ", "b"), "chosen is empty"),
        (("p", "a", "a "), "chosen and rejected are equal"),
        (("p", "", ""), "chosen and rejected are equal"),
    ],
)
def test_a_pair_without_a_preference_cannot_be_made(sides, message):
    with pytest.raises(ValueError, match=message):
        Pair(*sides)


def test_a_pair_is_three_strings_that_stay():
    with pytest.raises(TypeError, match="str, list, str"):
        Pair("p", ["a"], "b")
    pair = Pair(prompt="p", chosen="a", rejected="b")
    with pytest.raises(AttributeError):
        pair.chosen = "b"
    assert Pair("p", "a", "").rejected == ""


# --- loading --------------------------------------------------------------------------


def write(folder, name, split, rows):
    (folder / name).mkdir()
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / name / f"{split}.jsonl").write_text(lines)


def test_a_local_file_gives_the_first_pairs(tmp_path, monkeypatch):
    rows = [{"prompt": f"p{i}", "chosen": "a" if i % 2 else "b", "rejected": "b"} for i in range(9)]
    write(tmp_path, "ultrafeedback", "train", rows)
    monkeypatch.setenv("COURSE_DATA_DIR", str(tmp_path))
    pairs, refused = preferences.load("train", 3, get_profile("tiny"))
    assert [pair.prompt for pair in pairs] == ["p1", "p3", "p5"]
    assert refused == {"chosen and rejected are equal": 5}, "counted in the whole file"
    assert len(preferences.load("train", None, get_profile("tiny"))[0]) == 4


def test_allow_empty_reaches_the_rows(tmp_path, monkeypatch):
    write(tmp_path, "medical", "train", [{"prompt": "p", "chosen": "a", "rejected": ""}])
    monkeypatch.setenv("COURSE_DATA_DIR", str(tmp_path))
    tiny = get_profile("tiny")
    with pytest.raises(ValueError, match="1 of 1 rows"):
        preferences.load("train", 1, tiny, name="medical")
    loaded = preferences.load("train", 1, tiny, name="medical", allow_empty=True)
    assert loaded == ([Pair("p", "a", "")], {})


def hub_profile(monkeypatch):
    monkeypatch.setenv("COURSE_DEVICE", "cpu")
    return get_profile("small")


def test_without_the_hub_only_local_files_are_read(tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets, "load_dataset", lambda *a, **k: pytest.fail("asked the hub"))
    monkeypatch.setenv("COURSE_DATA_DIR", str(tmp_path))
    with pytest.raises(DataNotFoundError, match="'tiny'.*ultrafeedback/train.jsonl"):
        preferences.load("train", 3, get_profile("tiny"))


@pytest.mark.parametrize(
    ("name", "hub_id", "config"),
    [
        ("ultrafeedback", "trl-lib/ultrafeedback_binarized", None),
        ("hh_rlhf", "Anthropic/hh-rlhf", None),
        ("medical", "shibing624/DPO-En-Zh-20k-Preference", "zh"),
    ],
)
def test_with_the_hub_the_data_set_is_asked_for(name, hub_id, config, monkeypatch):
    import datasets

    asked = []

    def load_dataset(*args, split):
        asked.append((*args, split))
        return datasets.Dataset.from_list([FORMATS["chats"]])

    monkeypatch.delenv("COURSE_DATA_DIR", raising=False)
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    pairs, _ = preferences.load("train", 5, hub_profile(monkeypatch), name=name)
    assert pairs == [Pair("Ask", "Good", "Bad")] and asked == [(hub_id, config, "train")]


# --- pairs from scores ----------------------------------------------------------------


@settings(deadline=None)
@given(
    st.lists(st.lists(st.sampled_from("abcdef"), min_size=1, max_size=6), min_size=1, max_size=4),
    st.integers(1, 5),
    st.integers(0, 99),
)
def test_the_better_text_is_always_chosen(texts, limit, seed):
    """Scores from a fixed table: whatever the order, chosen beats rejected, and no pair repeats."""
    table = {"a": 0.0, "b": 0.0, "c": 0.5, "d": 1.0, "e": 1.0, "f": 2.0}
    prompts = [f"p{i}" for i in range(len(texts))]
    scores = [[table[text] for text in group] for group in texts]
    pairs = from_scored(prompts, texts, scores, limit, random.Random(seed))
    for pair in pairs:
        group = texts[prompts.index(pair.prompt)]
        assert pair.chosen in group and pair.rejected in group
        assert table[pair.chosen] > table[pair.rejected]
    assert len(set(pairs)) == len(pairs)
    for prompt, group in zip(prompts, texts, strict=True):
        known = {table[text]: 0 for text in group}
        possible = sum(table[a] > table[b] for a in set(group) for b in set(group))
        made = sum(pair.prompt == prompt for pair in pairs)
        assert made == min(limit, possible) and (made == 0) == (len(known) == 1)


def test_scores_may_be_a_tensor():
    texts = [["right", "wrong", "right"], ["no", "never", "no"]]
    scores = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0]])
    pairs = from_scored(["p", "q"], texts, scores, 4, random.Random(0))
    assert pairs == [Pair("p", "right", "wrong")]


def test_the_draw_is_the_generators():
    texts, scores = [[str(i) for i in range(20)]], [list(range(20))]
    draws = [from_scored(["p"], texts, scores, 5, random.Random(seed)) for seed in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2]
    assert len({pair.chosen for pair in draws[0]}) > 1


def test_texts_that_differ_in_outer_spaces_make_no_pair():
    assert from_scored(["p"], [["a", " a"]], [[1.0, 0.0]], 4, random.Random(0)) == []


def test_a_prompt_that_comes_twice_counts_once():
    texts = [["good", "bad"], ["good", "bad"]]
    pairs = from_scored(["p", "p"], texts, [[1, 0], [1, 0]], 9, random.Random(0))
    assert pairs == [Pair("p", "good", "bad")]


@pytest.mark.parametrize(
    ("prompts", "texts", "scores", "message"),
    [
        (["p"], [["a", "b"], ["c"]], [[1, 0]], "1 prompts, 2 lists of texts"),
        (["p"], [["a", "b"]], [[1, 0], [0, 1]], "2 of scores"),
        (["p"], [["a", "b"]], [[1, 0, 1]], "list of 2 and 3 scores"),
        (["p"], ["ab"], [[1, 0]], "str of 2"),
        (["p"], [["a", "b"]], [[1, float("nan")]], "'b' is nan"),
        (["p"], [["a", "a"]], [[1, 0]], "'a' has the scores 1.0 and 0.0.*same order"),
        (["p", "p"], [["a", "b"], ["b", "a"]], [[1, 0], [1, 0]], "are scores and texts in the"),
    ],
)
def test_scores_that_do_not_belong_to_the_texts_are_refused(prompts, texts, scores, message):
    with pytest.raises(ValueError, match=message):
        from_scored(prompts, texts, scores, 4, random.Random(0))


def test_at_least_one_pair_must_be_allowed():
    with pytest.raises(ValueError, match="at least 1, not 0"):
        from_scored(["p"], [["a", "b"]], [[1, 0]], 0, random.Random(0))


# --- pairs from corruptions -----------------------------------------------------------


def test_gold_is_chosen_and_execution_tells_the_mistake():
    examples = sql.make_examples("train", 60)
    pairs = from_corruptions(examples, random.Random(0))
    by_prompt = {example.prompt: example for example in examples}
    assert len(pairs) >= 55
    for pair in pairs:
        example = by_prompt[pair.prompt]
        assert pair.chosen == example.answer
        assert sql.score(example, pair.chosen) == 1.0
        assert sql.score(example, pair.rejected) == 0.0
    assert from_corruptions(examples[:9], random.Random(0)) == pairs[:9]
    assert from_corruptions(examples[:9], random.Random(1)) != pairs[:9]


def test_a_corruption_that_answers_alike_is_tried_again_or_left_out(monkeypatch):
    example = SqlExample("CREATE TABLE t (a TEXT, b INTEGER)", "Which a?", "SELECT a FROM t")
    tried = iter(["SELECT t.a FROM t", "SELECT a FROM t WHERE 1", "SELECT b FROM t"])
    monkeypatch.setattr(
        preferences.annotators,
        "corrupt",
        lambda rng, e: SqlExample(e.context, e.question, next(tried)),
    )
    pairs = from_corruptions([example], random.Random(0))
    assert pairs == [Pair(example.prompt, "SELECT a FROM t", "SELECT b FROM t")]
    monkeypatch.setattr(preferences.annotators, "corrupt", lambda rng, e: e)
    assert from_corruptions([example], random.Random(0)) == []


def test_demonstrations_with_mistakes_are_refused():
    """Their wrong answers would become chosen sides, and a corruption of one can be right."""
    with pytest.raises(ValueError, match="is a known mistake for.*sql.make_examples"):
        from_corruptions(sql.demonstrations(50), random.Random(0))


def test_no_right_answer_passes_for_a_mistake():
    for split in sql.SPLITS:
        examples = sql.make_examples(split, 500)
        assert not any(map(preferences._has_fallen, examples))
    shown = sql.demonstrations(500, random_rate=0, systematic_rate=1)
    clean = sql.demonstrations(500, random_rate=0, systematic_rate=0)
    changed = [s for s, c in zip(shown, clean, strict=True) if s != c]
    assert len(changed) > 100 and all(map(preferences._has_fallen, changed))


def test_real_questions_may_use_the_trap_words():
    real = SqlExample("CREATE TABLE t (a TEXT, b INTEGER)", "Which a is lowest?", "SELECT a FROM t")
    assert len(from_corruptions([real], random.Random(0))) == 1


# --- real data ------------------------------------------------------------------------


def test_the_medical_sample(data_dir):
    """150 rows: each is a pair or is left out for a reason."""
    pairs, refused = preferences.load("preference", None, get_profile("tiny"), name="medical")
    assert len(pairs) + sum(refused.values()) == 150
    assert refused == {} and len(set(pairs)) == 150
    rows = [json.loads(line) for line in (data_dir / "medical/preference.jsonl").open()]
    for pair, row in zip(pairs, rows, strict=True):
        assert (pair.chosen, pair.rejected) == (row["chosen"], row["rejected"])
        assert pair.prompt.endswith(row["conversations"][-1]["value"])
        assert ("\n\n" in pair.prompt) >= (len(row["conversations"]) == 2)
    longer = sum(len(pair.chosen) > len(pair.rejected) for pair in pairs) / 150
    assert longer == pytest.approx(0.58), "a reward model may learn length from these"


@pytest.mark.parametrize(("split", "rows"), [("train", 1000), ("test", 300)])
def test_the_sql_sample_has_no_rejected_sides(data_dir, split, rows):
    tiny = get_profile("tiny")
    with pytest.raises(ValueError, match=f"{rows} of {rows} rows have an empty rejected side"):
        preferences.load(split, None, tiny, name="sql_create_context")
    pairs, _ = preferences.load(split, None, tiny, name="sql_create_context", allow_empty=True)
    assert len(pairs) == rows and {pair.rejected for pair in pairs} == {""}
    for pair in pairs:
        assert pair.prompt.startswith("context= ") and "Assistant:" not in pair.prompt
