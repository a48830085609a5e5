"""README and docs: their numbers are those of the results files, their links lead somewhere."""

import difflib
import json
import re
import tomllib
from pathlib import Path

import pytest

from scripts import setup_env
from tools import docs, docs_parts, docs_results, truth

ROOT = docs.ROOT
PAGES = docs.pages()
NAMES = [page.relative_to(ROOT).as_posix() for page in PAGES]
READMES_LINES = 150


@pytest.fixture(scope="module")
def texts():
    return {name: page.read_text(encoding="utf-8") for name, page in zip(NAMES, PAGES, strict=True)}


# Made parts


def test_pages_and_pictures_show_what_the_results_files_hold():
    lines = []
    for path, new in docs.changes().items():
        lines.append(f"{path.relative_to(ROOT)} is not what its sources give: run `make docs`")
        if path.suffix == ".md":
            pair = (text.splitlines() for text in (path.read_text("utf-8"), new.decode()))
            lines += difflib.unified_diff(*pair, "stands there", "should stand there", n=0)
    assert not lines, "\n".join(lines)


def test_every_part_is_shown_somewhere(texts):
    shown = {name for text in texts.values() for name in docs.START.findall(text)}
    assert shown == set(docs_parts.PARTS)


@pytest.mark.parametrize("name", ["README.md", "docs/results.md", "docs/speed.md", "docs/where.md"])
def test_a_changed_digit_is_noticed(name, texts):
    text = texts[name]
    parts = re.findall(r"<!-- made: .*?-->(.*?)<!-- /made", text, re.DOTALL)
    number = re.search(r"\d\.\d\d", max(parts, key=lambda part: len(re.findall(r"\d\.\d\d", part))))
    wrong = text.replace(number[0], f"{(int(number[0][0]) + 1) % 10}{number[0][1:]}")
    assert wrong != text and docs.filled(wrong) == docs.filled(text)


def with_result(monkeypatch, name, change):
    """Let the makers read a results file with a change in it."""
    real = docs_results.load

    def load(file):
        document = real(file)
        if file == name:
            change(document)
        return document

    for module in (docs_results, docs_parts):
        monkeypatch.setattr(module, "load", load)


@pytest.mark.parametrize(
    ("file", "change", "page"),
    [
        ("03_ppo", lambda d: d["runs"][1]["summary"]["PPO"].update(sampled=0.506), "README.md"),
        ("04_dpo_sweep", lambda d: d.update(date="2027-01-01"), "README.md"),
        ("01_sft", lambda d: d["runs"].pop(), "docs/results.md"),
        ("bench", lambda d: d["dpo"].update(date="2027-01-01"), "docs/speed.md"),
        ("truth", lambda d: d["functions"]["gae"]["loop"].update(tests=99), "docs/proofs.md"),
        ("mutants", lambda d: d.update(caught=1), "docs/proofs.md"),
        ("engines", lambda d: d["engines"]["vllm"]["passed"].pop("n and seed"), "docs/where.md"),
    ],
)
def test_a_changed_result_is_noticed(monkeypatch, texts, file, change, page):
    with_result(monkeypatch, file, change)
    assert docs.filled(texts[page]) != texts[page]


def test_a_result_that_is_not_there_is_an_error(monkeypatch):
    with_result(monkeypatch, "03_ppo", lambda d: [run["summary"].clear() for run in d["runs"]])
    with pytest.raises(ValueError, match="03_ppo.json holds no PPO, sampled"):
        docs_results.methods_short()
    monkeypatch.undo()
    with pytest.raises(ValueError, match="99_none.json is missing in benchmarks/results"):
        docs_results.load("99_none")


@pytest.mark.parametrize(
    ("page", "expected"),
    [
        ("a\n<!-- made: x -->\nold\n<!-- /made: x -->\nb", "a\n{}\nb"),
        ("<!-- made: x --><!-- /made: x -->", "{}"),
        ("nothing", "nothing"),
    ],
)
def test_a_part_is_put_between_its_markers(page, expected):
    made = "<!-- made: x -->\n\nnew\n\n<!-- /made: x -->"
    assert docs.filled(page, {"x": lambda: "new\n"}) == expected.format(made)


@pytest.mark.parametrize(
    ("page", "message"),
    [
        ("<!-- made: y -->\n<!-- /made: y -->", "no part 'y'; there are: x"),
        ("<!-- made: x -->\n", "part 'x' has no end"),
        ("<!-- made: x --><!-- /made: x -->" * 2, "part 'x' stands there 2 times"),
    ],
)
def test_wrong_markers_are_named(page, message):
    with pytest.raises(ValueError, match=message):
        docs.filled(page, {"x": lambda: "new"})


def test_a_picture_must_be_there_once():
    with pytest.raises(ValueError, match="0 pictures in the cells with no such text"):
        docs.picture("01_sft", "no such text")


def test_settings_are_those_of_the_lesson(monkeypatch):
    source = "@dataclass\nclass Config:\n    group_size: int = 8  # G\n    rate: float = 3e-4\n"
    cells = [{"cell_type": "markdown", "source": ["class Config"]}]
    monkeypatch.setattr(docs_results, "cells_of", lambda notebook: cells)
    with pytest.raises(ValueError, match="05_grpo: no cell defines `class Config`"):
        docs_results.settings("05_grpo")
    cells.append({"cell_type": "code", "source": source.splitlines(keepends=True)})
    assert docs_results.settings("05_grpo") == {"group_size": 8, "rate": 3e-4}


def test_that_no_gpu_has_run_is_said_until_one_has(monkeypatch, tmp_path, texts):
    """README and docs/where.md say it by hand too: correct them with the first GPU's results."""
    assert not (docs_parts.RESULTS / "gpu_check.json").exists()
    assert "[has not run on a GPU](#what-has-run-where)" in texts["README.md"]
    found = {
        "machine": {"device": "a card", "driver": "1"},
        "model": "a model",
        "notebooks": [{"failure": ""}, {"failure": "memory"}],
        "versions": dict.fromkeys(["torch", "transformers", "trl", "peft"], "1"),
        "date": "2027-01-01",
    }
    speed = {"tokens_per_second": 1234.5, "peak_gib": 3.1, "computed_gib": 3.0}
    found |= {"sampling": speed, "training": speed}
    (tmp_path / "gpu_check.json").write_text(json.dumps(found))
    for module in (docs_results, docs_parts):
        monkeypatch.setattr(module, "RESULTS", tmp_path)
    assert "| a card | 1 | a model | 1 of 2 run |" in docs_parts.gpu()


# Results on a page stand between markers

NO_RESULT = re.compile(
    r"<!-- made: .*?<!-- /made: .*?-->|```.*?```|`[^`\n]*`|\]\([^)]*\)"
    r"|\bPython [\d., or]+|\bQwen[\w.-]+|\bApache-2\.0|\b95% interval",
    re.DOTALL,
)
RESULT = re.compile(r"\d+(?:\.\d+)? ?%|\d+\.\d+")


def typed_results(text):
    return RESULT.findall(NO_RESULT.sub(" ", text))


@pytest.mark.parametrize("name", NAMES)
def test_no_result_is_typed_by_hand(name, texts):
    if "<!-- made:" in texts[name] or name == "CONTRIBUTING.md":
        assert typed_results(texts[name]) == []


def test_what_counts_as_a_typed_result():
    text = "Python 3.11, 3.12 or 3.13, Qwen3-0.6B, `0.20` [a](b/0.3.md) 8 hours"
    assert typed_results(text) == []
    made = "<!-- made: x -->\n0.5\n<!-- /made: x -->"
    assert typed_results(f"It rose to 0.57, {made} by 12% or 3.5 %") == ["0.57", "12%", "3.5 %"]


def test_what_a_reader_needs_is_what_set_up_asks_for(texts):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    low, high = re.fullmatch(r">=3\.(\d+),<3\.(\d+)", project["requires-python"]).groups()
    pythons = [f"3.{minor}" for minor in range(int(low), int(high))]
    cpu, cuda = (space // setup_env.GB for space in (setup_env.SPACE_CPU, setup_env.SPACE_CUDA))
    needs = f"Python {', '.join(pythons[:-1])} or {pythons[-1]}, `make`, and {cpu} GB of disk"
    assert f"{needs} ({cuda} GB with" in texts["README.md"]


# The matrix


def test_the_stored_matrix_has_the_cells_of_the_tests():
    document = docs_results.load("truth")
    assert truth.stale(document) == [], "run `make truth`"
    assert truth.problems(truth.stored_counts(document, "tests")) == []


# Pages


def test_the_readme_is_short(texts):
    badges = re.compile(r"<!-- badges -->.*?<!-- /badges -->", re.DOTALL)
    assert len(badges.sub("", texts["README.md"]).splitlines()) <= READMES_LINES


def anchors(text):
    """The anchors of a page's headings, as GitHub makes them."""
    found, seen = set(), {}
    for heading in re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.M):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading.strip().lower())
        anchor = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        count = seen[anchor] = seen.get(anchor, -1) + 1
        found.add(f"{anchor}-{count}" if count else anchor)
    return found


def broken(page: Path, text: str) -> list[str]:
    """The relative links and pictures of a page that lead nowhere."""
    found = []
    for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"```.*?```|`[^`\n]*`", "", text)):
        if re.match(r"\w+:", target):  # another site
            continue
        name, _, anchor = target.partition("#")
        path = page.parent / name if name else page
        known = path.exists()
        if known and anchor and path.suffix == ".md":
            known = anchor in anchors(path.read_text(encoding="utf-8"))
        if not known:
            found.append(target)
    return found


@pytest.mark.parametrize("name", NAMES)
def test_every_link_leads_somewhere(name, texts):
    assert broken(ROOT / name, texts[name]) == []


def test_broken_links_are_seen(tmp_path):
    (tmp_path / "a.md").write_text("# One `two`, three\n\n## Again\n\n## Again\n")
    text = "[a](a.md) [b](a.md#one-two-three) [c](a.md#again-1) [d](https://x.org) `[e](f)`"
    assert broken(tmp_path / "page.md", text) == []
    text = "[a](b.md) ![b](c.png) [c](a.md#again-2) [d](#none)"
    (tmp_path / "page.md").write_text(text)
    assert broken(tmp_path / "page.md", text) == ["b.md", "c.png", "a.md#again-2", "#none"]


FILE = re.compile(
    r"`((?:utils|tasks|exercises|engines|notebooks|scripts|tools|benchmarks|tests|docs|assets)"
    r"/[\w./-]*)`"
)


@pytest.mark.parametrize("name", NAMES)
def test_every_file_that_a_page_names_exists(name, texts):
    missing = [file for file in FILE.findall(texts[name]) if not (ROOT / file).exists()]
    assert missing == []


MENTION = re.compile(r"\bdocs/([\w/-]+\.md)(?:#([\w-]+))?")


def test_code_and_notebooks_mention_pages_that_exist():
    rooms = ("utils", "tasks", "exercises", "engines", "scripts", "tools", "benchmarks")
    files = [path for room in rooms for path in (ROOT / room).rglob("*.py")]
    wrong = []
    for path in [*files, *(ROOT / "notebooks").glob("*.ipynb")]:
        for name, anchor in MENTION.findall(path.read_text(encoding="utf-8")):
            page = ROOT / "docs" / name
            if not page.exists() or anchor and anchor not in anchors(page.read_text("utf-8")):
                wrong.append(f"{path.relative_to(ROOT)}: docs/{name}#{anchor}")
    assert wrong == []


# The index


def test_the_index_has_a_line_for_each_page(tmp_path):
    (tmp_path / "README.md").write_text("# Index\n")
    (tmp_path / "b.md").write_text(
        "# Second `b`\n\n<!-- x -->\n\n| a |\n\nOne *fact*\nmore. Two.\n"
    )
    (tmp_path / "a.md").write_text("# First\n\nIs it? Yes.\n")
    expected = "- [First](a.md): Is it?\n- [Second `b`](b.md): One *fact* more."
    assert docs_parts.index(tmp_path) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [("no title\n", "a.md: the first line must be a title"), ("# T\n\n| a |\n", "no paragraph")],
)
def test_a_page_that_cannot_be_listed_is_named(tmp_path, text, message):
    (tmp_path / "a.md").write_text(text)
    with pytest.raises(ValueError, match=message):
        docs_parts.index(tmp_path)
