"""Every number, quantity and direction in hand-written prose rests on something that exists."""

import nbformat
import pytest

from tools import prose, wrong_prose

DOCUMENTS = prose.documents()


@pytest.mark.parametrize("name", DOCUMENTS)
def test_statements_rest_on_something(name):
    found = prose.complaints(prose.read(DOCUMENTS[name]), prose.listed_for(name))
    assert not found, "\n".join([*found, "see tools/prose.py: `python -m tools.prose --write`"])


def test_every_list_has_a_document():
    names = {path.stem for path in prose.LISTS.glob("*.json")} - {prose.SOURCES.stem}
    assert names <= set(DOCUMENTS)


def test_wrong_statements_are_noticed():
    counts, missed = wrong_prose.survey(300, seed=0)
    told = "\n".join(f"{w.document}: {w.right}\n  -> {w.wrong}" for w in missed)
    assert counts["missed"] <= (1 - wrong_prose.LEAST_RATE) * 300, told


# The check itself


@pytest.mark.parametrize(
    ("markdown", "expected"),
    [
        ("# 4 · DPO\n\nOne. Two more.", ["One.", "Two more."]),
        ("As Hu et al. (2021) say. So", ["As Hu et al. (2021) say.", "So"]),
        ("```\nx = 3. Y\n```\n\nafter", ["after"]),
        ("| a | b |\n| --- | --- |\n| 1 | 2 |", ["| a | b |", "| 1 | 2 |"]),
        ("1. first item\n2. second\n   goes on", ["first item", "second goes on"]),
        ("<details><summary>Why? `a. B`</summary>So.</details>", ["Why?", "`a. B`", "So."]),
        ("**Time:** ten minutes.** No more.", ["**Time:** ten minutes.**", "No more."]),
    ],
)
def test_sentences(markdown, expected):
    assert list(prose.sentences(markdown)) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("It rises twice, to 0.35 or 1,200.", ["rises", "twice", "0.35", "1,200"]),
        ("see sections 4.1 and 4.3, lesson 05 and appendix B", [
            "sections 4.1 and 4.3", "lesson 05", "appendix B"]),
        ("`x = 3` and $y > 2$, [a](b/3.html), <code>4</code>, Hint 2", []),
        ("TRL 1.12.0 and 5e-7", ["1.12.0", "5e-7"]),
        ("A third is Better", ["third", "Better"]),
    ],
)  # fmt: skip
def test_quantities(text, expected):
    assert [match[0] for match in prose.quantities(text)] == expected


@pytest.fixture
def document(tmp_path):
    """A lesson whose code and output hold some numbers."""
    table = {"text/html": "<td style='width:17em'>37.5%</td>"}
    shown = [nbformat.v4.new_output("display_data", table)]
    code = "claim('loss falls', after < before)\nx = train(lr=0.25, rows=1_200, k=4)"
    cells = [
        nbformat.v4.new_markdown_cell("## 4.1 Pairs\n\nabove"),
        nbformat.v4.new_code_cell(code, outputs=shown),
        nbformat.v4.new_markdown_cell("## 4.2 Loops\n\nbelow"),
        nbformat.v4.new_code_cell("y", outputs=shown, metadata={"tags": ["nbval-ignore-output"]}),
    ]
    path = tmp_path / "lesson.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    return prose.notebook(path)


def with_text(document, text, section="4.1"):
    document.statements = [prose.Statement(text, section)]
    return document


@pytest.mark.parametrize(
    ("text", "section", "open_"),
    [
        ("A rate of 0.25 on 1,200 rows.", "4.1", False),
        ("A rate of 0.5 on 1,200 rows.", "4.1", True),
        ("A share of 37.5%.", "4.1", False),
        ("A share of 37.5%.", "4.2", True),  # another section's, and there an unstable output
        ("A width of 17.", "4.1", True),  # of the page
        ("4 times", "4.1", True),  # small whole numbers are everywhere
        ("It falls.", "4.1", True),
        ("It rises.", "4.1", True),
        ("(Nobody et al. 2021)", "4.1", True),
        ("(Hu et al. 2021)", "4.1", False),
    ],
)
def test_what_a_rule_finds(document, text, section, open_):
    assert bool(prose.open_statements(with_text(document, text, section))) is open_


@pytest.mark.parametrize(
    ("listed", "complaint"),
    [
        (["section 4.2: Loops", "claim: loss falls"], None),
        (["section 4.2: Loops", "code: train(lr=0.25"], None),
        (["section 4.2: Loops", "formula: the gradient of the loss"], None),
        (None, "rests on nothing"),
        (["section 4.2: Loops"], "has no reason"),
        (["section 4.2: Loops", "?"], "bad reason"),
        (["section 4.2: Loops", "claim: loss rises"], "bad reason"),
        (["section 4.2: Loops", "code: train(lr=0.5"], "bad reason"),
        (["section 4.2: Loops", "sure: yes"], "bad reason"),
        (["section 4.1: Pairs", "claim: loss falls"], "refers to"),
        (["section 4.2: Nets", "claim: loss falls"], "refers to"),  # its title has changed
    ],
)
def test_what_a_list_must_say(document, listed, complaint):
    text = "The loss is higher in section 4.2."
    found = prose.complaints(with_text(document, text), {} if listed is None else {text: listed})
    assert [complaint in line for line in found] == [True] if complaint else found == []


def test_a_reference_to_nothing_and_an_entry_for_nothing(document):
    text = "See section 4.99."
    found = prose.complaints(with_text(document, text), {text: ["section 4.99: x"], "Old.": []})
    assert ["not in the text any more" in found[0], "no section 4.99" in found[1]] == [True, True]


def test_renewing_keeps_reasons_and_marks_what_is_new(document):
    old = {"It is higher.": ["claim: loss falls"], "Gone.": ["count: x"]}
    document.statements = [prose.Statement(t, "") for t in ("It is higher.", "More.", "Plain.")]
    assert prose.renewed(document, old) == {"It is higher.": ["claim: loss falls"], "More.": ["?"]}


@pytest.mark.parametrize(
    ("written", "kind", "expected"),
    [
        ("0.50", "half", "0.25"),
        ("1,200", "double", "2,400"),
        ("3", "half", "1.5"),
        ("7", "double", "14"),
    ],
)
def test_changed_numbers(written, kind, expected):
    assert wrong_prose.changed_number(written, kind, None) == expected


def test_a_word_is_swapped_with_its_opposite():
    assert wrong_prose.changed_word("Higher") == "Lower"
    assert all(wrong_prose.changed_word(word) not in (None, word) for word in prose.SWAPS)
