"""The self-test: its replies, its buttons, and that notebook 07 agrees with the other lessons."""

import json
import re
from pathlib import Path

import pytest

from exercises.check import Quiz
from exercises.lesson07 import QUESTIONS

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"
REFERENCE = json.loads((NOTEBOOKS / "07_self_test.ipynb").read_text(encoding="utf-8"))["cells"]
TEXTS = ["".join(cell["source"]) for cell in REFERENCE]
NAMED = re.compile(r"\b[Ss]ections?\s+(\d+\.\d+(?:(?:, | and | to | or |, and )\d+\.\d+)*)")


def sections_of_the_lessons():
    """Section number -> its cells' text, code included, of all lessons."""
    found = {}
    for path in NOTEBOOKS.glob("*.ipynb"):
        number = ""
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            text = "".join(cell["source"])
            parts = re.split(r"^## (?=\d)", text, flags=re.M) if is_prose(cell) else [text]
            for place, part in enumerate(parts):  # the first one belongs to the section before
                number = re.match(r"\d+\.\d+", part)[0] if place else number
                found[number] = found.get(number, "") + part + "\n\n"
    return found


def is_prose(cell):
    return cell["cell_type"] == "markdown"


SECTIONS = sections_of_the_lessons()


@pytest.fixture(autouse=True)
def without_a_front_end(monkeypatch):
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    monkeypatch.delenv("COLAB_RELEASE_TAG", raising=False)


@pytest.mark.parametrize("number", QUESTIONS)
def test_one_letter_is_right_and_every_letter_has_its_own_reply(number, capsys):
    replies = {}
    for letter in "abc":
        Quiz().ask(number, letter)
        replies[letter] = re.sub(r"\s+", " ", capsys.readouterr().out)
    right = [letter for letter, text in replies.items() if text.startswith("Correct. ")]
    assert right == [QUESTIONS[number].right]
    wrong = [text for letter, text in replies.items() if letter not in right]
    assert all(text.startswith("Not yet. ") for text in wrong)
    assert all(f"Read section {QUESTIONS[number].section}." in text for text in wrong)
    assert len(set(replies.values())) == 3


def test_an_empty_answer_says_what_to_type(capsys):
    Quiz().ask(3, "")
    assert capsys.readouterr().out == (
        'Question 3: not answered yet. Type "a", "b" or "c" and run the cell.\n'
    )


def test_capitals_and_spaces_do_not_matter(capsys):
    Quiz().ask(1, " B ")
    assert capsys.readouterr().out.startswith("Correct.")


@pytest.mark.parametrize("answer", ["d", "ab", "yes", 1])
def test_another_answer_is_an_error_that_names_the_letters(answer):
    quiz = Quiz()
    with pytest.raises(ValueError, match='question 2 has the answers "a", "b" and "c"'):
        quiz.ask(2, answer)
    assert quiz.first == {}


@pytest.mark.parametrize("number", [0, 16, "1"])
def test_a_question_that_there_is_not(number):
    with pytest.raises(ValueError, match="from 1 to 15"):
        Quiz().ask(number, "a")


def test_the_report_counts_first_answers_and_names_sections(capsys):
    quiz = Quiz()
    quiz.report()
    assert capsys.readouterr().out == "0 of 15 answered, 0 right at the first try\n"
    for number, letter in ((1, "b"), (4, "a"), (4, "b"), (12, "a")):
        quiz.ask(number, letter)
    capsys.readouterr()
    quiz.report()
    assert capsys.readouterr().out.splitlines() == [
        "3 of 15 answered, 1 right at the first try",
        "question  4: read section 2.4 again",
        "question 12: read section 5.3 again",
    ]


@pytest.mark.parametrize("name", ["JPY_SESSION_NAME", "COLAB_RELEASE_TAG"])
def test_buttons_where_they_can_be_clicked(name, monkeypatch, capsys):
    import IPython.display

    shown = []
    monkeypatch.setenv(name, "some value")
    monkeypatch.setattr(IPython.display, "display", shown.append)
    quiz = Quiz()
    quiz.ask(5, "")
    assert capsys.readouterr().out == ""
    (box,) = shown
    letters, message = box.children
    assert letters.value is None and message.value == ""
    letters.value = "a"
    assert message.value.startswith("Not yet.")
    letters.value = "c"
    assert message.value.startswith("Correct.")
    quiz.ask(5, "a")  # typed: text, no more buttons
    assert len(shown) == 1 and capsys.readouterr().out.startswith("Not yet.")
    assert quiz.first == {5: "a"}


# The notebook and the answers


def test_every_question_stands_in_the_notebook_with_its_answer():
    text = "\n\n".join(TEXTS)
    asked = re.findall(
        r"^### Question (\d+)\n\n.+\n\n- \*\*a\.\*\* .+\n- \*\*b\.\*\* .+\n- \*\*c\.", text, re.M
    )
    assert [int(number) for number in asked] == list(QUESTIONS)
    folded = re.findall(r"<summary>Answer to question (\d+)</summary>\n\n\*\*([abc])\.\*\*", text)
    assert {int(n): letter for n, letter in folded} == {n: q.right for n, q in QUESTIONS.items()}
    assert [text for text in TEXTS if text.startswith("quiz.ask(")] == [
        f'quiz.ask({n}, "")' for n in QUESTIONS
    ]


def test_every_section_that_is_cited_exists():
    replies = [f"{q.a} {q.b} {q.c} section {q.section}" for q in QUESTIONS.values()]
    texts = TEXTS + replies
    named = {n for text in texts for m in NAMED.findall(text) for n in re.findall(r"\d+\.\d+", m)}
    assert len(named) > 30
    assert named <= SECTIONS.keys()


def glossary():
    """Term and section of each row."""
    text = SECTIONS["7.4"]
    rows = re.findall(r"^\| \*\*(.+?)\*\* \|.*\| section\s(\d+\.\d+) \|$", text, re.M)
    assert len(rows) == text.count("| **")
    return rows


@pytest.mark.parametrize(("term", "section"), glossary())
def test_a_term_is_used_in_the_section_that_defines_it(term, section):
    text = re.sub(r"[*`$]", "", SECTIONS[section]).lower()
    missing = [word for word in term.lower().split(", ") if word not in text]
    assert not missing, f"section {section} does not say {missing}"


def test_no_term_is_defined_twice():
    terms = [term for term, _ in glossary()]
    assert len(terms) == len(set(terms)) > 30


def test_every_name_in_the_code_column_is_in_the_code():
    root = NOTEBOOKS.parent
    code = "".join(path.read_text(encoding="utf-8") for path in root.glob("utils/**/*.py"))
    code += "".join(text for number, text in SECTIONS.items() if not number.startswith("7."))
    names = re.findall(r"`([^`]+)`", SECTIONS["7.4"].partition("A word that is not here")[0])
    assert len(names) > 40
    assert [name for name in names if name not in code] == []
