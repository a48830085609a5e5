"""Numbers in a notebook's prose that claim a result must come from somewhere.

A claim is a decimal with two or more digits after the point, or a percentage, in markdown: in
paragraphs, tables, lists and quiz answers, but not in code, formulas, headings, addresses, section
numbers or versions. It must be the rounding of a number that

- an output in the same section shows, or in a section that the paragraph names ("section 1.8"),
- a code cell anywhere in the notebook states: a setting, the input of a worked example,
- or a results file in `benchmarks/results` holds: that of the notebook's own lesson, or of a lesson
  that the paragraph names ("lesson 01").

Outputs of other sections do not count: a notebook prints so many numbers that half of all
two-digit decimals would be among them by chance. What is neither result nor setting stands in
ALLOWED with its reason.
"""

import json
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks/results"
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))

# Notebook -> number as written -> why nothing has to produce it.
ALLOWED: dict[str, dict[str, str]] = {
    "06_qwen3_4b_grpo": dict.fromkeys(["1.31", "3.17"], "rewards in a public notebook's outputs"),
}

NOT_PROSE = re.compile(
    r"```.*?```|`[^`\n]*`"  # code
    r"|\$\$.*?\$\$|\$[^$\n]+\$"  # formulas
    r"|\]\([^)]*\)|<[^>]*>|https?://\S+"  # addresses, tags
    r"|^#+ .*?$"  # headings
    r"|\barXiv[: ]*\d+\.\d+"
    r"|\b(?:[Ss]ections?|[Ee]xercises?|TRL|Python|PyTorch|version)\s+\d+(?:\.\d+)*"
    r"(?:(?:,| and| to| or)\s+\d+\.\d+)*",
    re.DOTALL | re.MULTILINE,
)
NUMBER = r"(?<![\w.])-?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:e-?\d+)?"
CLAIM = re.compile(r"(?<![\w.])(?:\d+\.\d{2,}(?!\.?\d)|\d+(?:\.\d+)?(?=\s?%))(\s?%)?")
ANY = re.compile(NUMBER + r"(\s?%)?")


def value_of(text: str) -> float:
    """The number as a share where it is a percentage; its size, not its sign."""
    number = abs(float(text.rstrip("% ").replace(",", "")))
    return number / 100 if text.endswith("%") else number


def claims(markdown: str) -> list[str]:
    """The numbers of a piece of prose that claim a result, as written."""
    prose = NOT_PROSE.sub(" ", markdown)
    return [match[0].replace(" ", "") for match in CLAIM.finditer(prose)]


def numbers_in(text: str) -> Iterator[float]:
    """Every number of an output or a piece of code."""
    return (value_of(match[0]) for match in ANY.finditer(text))


def is_rounding(claim: str, numbers: set[float]) -> bool:
    """Whether one of the numbers, rounded to the claim's digits, is the claim."""
    digits = len(claim.rstrip("%").partition(".")[2]) + 2 * claim.endswith("%")
    half = 0.5 * 10**-digits * (1 + 1e-6)
    return any(abs(number - value_of(claim)) <= half for number in numbers)


def leaves(tree: object) -> Iterator[float]:
    """The numbers of a JSON document."""
    if isinstance(tree, dict):
        tree = list(tree.values())
    if isinstance(tree, list):
        for branch in tree:
            yield from leaves(branch)
    elif isinstance(tree, (int, float)) and not isinstance(tree, bool):
        yield abs(float(tree))


def results_of(lesson: str, folder: Path) -> set[float]:
    """The numbers in the results files of a lesson, such as "01"."""
    files = folder.glob(f"{lesson}_*.json")
    return {x for file in files for x in leaves(json.loads(file.read_text(encoding="utf-8")))}


def shown_by(cell: nbformat.NotebookNode) -> Iterator[float]:
    """The numbers that the outputs of a code cell show as text or tables."""
    for output in cell.outputs:
        yield from numbers_in(output.get("text", ""))
        for kind, data in output.get("data", {}).items():
            if kind.startswith("text/"):
                yield from numbers_in(re.sub(r"<[^>]*>", " ", data))


def unfounded(path: Path, folder: Path = RESULTS) -> list[str]:
    """The claims of a notebook that nothing produces."""
    settings = results_of(path.name[:2], folder)
    shown: dict[str, set[float]] = defaultdict(set)  # by section
    prose: list[tuple[str, str]] = []  # section, paragraph
    section = ""
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "code":
            settings.update(numbers_in(cell.source))
            shown[section].update(shown_by(cell))
        elif cell.cell_type == "markdown":
            # A cell may end one section and begin the next.
            for paragraph in cell.source.split("\n\n"):
                heading = re.match(r"## (\d+\.\d+)", paragraph)
                section = heading[1] if heading else section
                prose.append((section, paragraph))
    found = []
    for section, paragraph in prose:
        named = re.findall(r"\b[Ss]ections? (\d+\.\d+)", paragraph)
        lessons = re.findall(r"\b[Ll]essons? (\d\d)", paragraph)
        known = settings.union(
            *(shown[name] for name in (section, *named)),
            *(results_of(lesson, folder) for lesson in lessons),
        )
        found += [claim for claim in claims(paragraph) if not is_rounding(claim, known)]
    return found


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_claimed_number_was_produced(path):
    cells = nbformat.read(path, as_version=4).cells
    if not any(cell.get("outputs") for cell in cells):
        pytest.skip("never executed: it has no outputs to compare with")
    assert set(unfounded(path)) == set(ALLOWED.get(path.stem, {}))


def test_allowed_numbers_have_a_notebook_and_a_reason():
    assert set(ALLOWED) <= {path.stem for path in NOTEBOOKS}
    assert all(len(why) > 10 for numbers in ALLOWED.values() for why in numbers.values())


# The check itself


@pytest.mark.parametrize(
    ("markdown", "expected"),
    [
        ("Accuracy rose from 0.57 to 0.927 (98%, or 97.5 %).", ["0.57", "0.927", "98%", "97.5%"]),
        ("| SFT | 0.57 |", ["0.57"]),
        ("<details><summary>It is 0.30. Why?</summary>0.71</details>", ["0.30", "0.71"]),
        ("-2.00 nats", ["2.00"]),
        ("It ends at 0.71.", ["0.71"]),
        ("A reward of 3.2, 500 prompts, 4.8 GB, 1,000 rows", []),
        ("`clip 0.25` and\n```\n0.31\n```\nand $\\ln 2 = 0.6931$, $$x = 0.12\n+ 0.34$$", []),
        ("## 1.10 The same with the library\ntext", []),
        ("see section 1.13 and sections 1.12, 1.14 and 1.15; exercise 1.11", []),
        ("TRL 1.12, Python 3.11, arXiv 2510.01555v1, 1.12.3", []),
        ("[link](https://x.org/0.12) and https://x.org/0.34", []),
    ],
)
def test_what_counts_as_a_claim(markdown, expected):
    assert claims(markdown) == expected


@pytest.mark.parametrize(
    ("claim", "number", "right"),
    [
        ("0.93", 0.9274, True),
        ("0.92", 0.9274, False),
        ("0.93", 0.935, True),
        ("0.930", 0.9274, False),
        ("93%", 0.9274, True),
        ("92%", 0.9274, False),
        ("92.7%", 0.9274, True),
        ("2.00", 1.9951, True),
        ("12345.68", 12345.6789, True),
    ],
)
def test_rounding(claim, number, right):
    assert is_rounding(claim, {number}) is right


def write(tmp_path, prose, output="held-out accuracy 0.9274", code="print(accuracy)"):
    """A notebook of two sections, and a results file of its lesson and of another."""
    stream = nbformat.v4.new_output("stream", text=output)
    table = {"text/html": "<table><tr><td style='width:0.11em'>37.5%</td></tr></table>"}
    cells = [
        nbformat.v4.new_markdown_cell("## 7.1 Train"),
        nbformat.v4.new_code_cell(code, outputs=[stream]),
        nbformat.v4.new_markdown_cell("above\n\n## 7.2 Look\n\n" + prose),
        nbformat.v4.new_code_cell("x", outputs=[nbformat.v4.new_output("display_data", table)]),
    ]
    path = tmp_path / "07_lesson.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    for name, number in (("07_lesson", 0.444), ("08_other", 0.555)):
        (tmp_path / f"{name}.json").write_text(json.dumps({"runs": [{"a": number}]}))
    return path


@pytest.mark.parametrize(
    ("prose", "expected"),
    [
        ("In section 7.1 accuracy reached 0.93.", []),
        ("In section 7.1 accuracy reached 0.98.", ["0.98"]),  # a digit changed
        ("Accuracy reached 0.93.", ["0.93"]),  # whose?
        ("A share of 38%, or 0.375.", []),
        ("A width of 0.11.", ["0.11"]),  # of the page, not of the result
        ("Three seeds: 0.44.", []),
        ("It was 0.56.", ["0.56"]),
        ("In lesson 08 it was 0.56.", []),
        ("In lesson 08 it was 0.56.\n\nAnd here 0.56.", ["0.56"]),
        ("At a rate of 0.25.", []),
    ],
)
def test_what_a_claim_may_come_from(tmp_path, prose, expected):
    path = write(tmp_path, prose, code="train(lr=0.25)")
    assert unfounded(path, tmp_path) == expected
