"""The parts of README and docs that state results: a function each, which returns Markdown.

Every number comes from `benchmarks/results`, from a committed notebook, or from the source of the
tests. `python -m tools.docs` puts the parts between their markers.
"""

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from benchmarks import report
from scripts.run_notebooks import ROOT, find_notebooks
from tools import docs_results, truth
from tools.docs_results import RESULTS, cells_of, load, settings
from tools.mutants import key_of
from tools.mutations import MUTATIONS

# Lessons


def sft_picture() -> str:
    """The caption of the README's picture."""
    config = settings("01_sft")
    return (
        "*From lesson 01: a base model that knows SQL learns the chat format from "
        f"{config['demonstrations']:,} demonstrations, and with it the mistakes of the people who "
        f"wrote them (the traps). n = {config['eval_prompts']} held-out questions, seed 0, greedy "
        "answers executed in SQLite, 95% intervals. It is the notebook's own output. Later lessons "
        "reduce these mistakes.*"
    )


def of_title(notebook: str, pattern: str, what: str) -> str:
    """A piece of a notebook's first cell."""
    text = "".join(cells_of(notebook)[0]["source"])
    found = re.search(pattern, text, re.M)
    if not found:
        raise ValueError(f"{notebook}: its first cell gives no {what} ({pattern})")
    return re.sub(r" \((measured|section [\d.]+)\)", "", found[1]).strip()


def lessons() -> str:
    """The table of lessons, from their first cells."""
    rows = []
    for path in find_notebooks():
        name = path.stem
        title = of_title(name, r"^# \d+ · (.+)$", "title")
        question = of_title(name, r"\*\*The question: (.+?)\*\*", "question")
        time = of_title(name, r"(?:\*\*Time:\*\* |^\| time \| )(.+?)(?:\.|, and your| \|)", "time")
        hardware = of_title(
            name, r"(?:\*\*Hardware:\*\* |^\| hardware \| )(.+?)(?:\.(?:\s|$)| \|$)", "hardware"
        )
        link = f"[{name[:2]} {title}](notebooks/{path.name})"
        rows.append([link, question[0].upper() + question[1:], time, hardware])
    return report.markdown(["lesson", "question", "time", "hardware"], rows)


# What is checked


def mutants() -> str:
    """How many mistakes in the code the tests catch."""
    document = load("mutants")
    return (
        f"`make mutants` makes {document['mutants']} mistakes in the code, one at a time (signs, "
        "masks, shifts, means for sums), and runs the tests that should notice. They catch "
        f"{document['caught']} ({document['date']})."
    )


def mutants_missed() -> str:
    """The mistakes that no test catches, with the reason why not."""
    missed = [result for result in load("mutants")["results"] if not result["caught"]]
    why = {mutation.key: mutation.survives for mutation in MUTATIONS}
    lines = [
        f"- `{result['old']}`, made `{result['new']}`, in `{result['file']}`: "
        f"{why.get(key_of(result)) or 'no reason is known'}"
        for result in missed
    ]
    return "\n".join(["Missed:\n", *lines]) if lines else "None is missed."


def lesson_mutants() -> str:
    """How many mistakes in what the lessons teach their claims notice."""
    document = load("lesson_mutants")
    made = Counter(result["lesson"] for result in document["results"])
    caught = Counter(result["lesson"] for result in document["results"] if result["caught"])
    lines = [f"| {lesson} | {made[lesson]} | {caught[lesson]} |" for lesson in sorted(made)]
    head = "| lesson | mistakes | noticed by a claim or an error |\n| --- | --- | --- |"
    return "\n".join([head, *lines])


def wrong_prose() -> str:
    """How many wrong statements put into the prose the tests notice, and by what."""
    document = load("wrong_prose")
    return (
        f"`make wrong-prose` puts {document['n']} wrong statements into copies of notebooks, "
        "README and docs: a digit changed, a number halved or doubled, a word of quantity or "
        f"direction swapped (seed {document['seed']}). The tests notice {document['noticed']} "
        f"({document['date']}): {document['rule']} because nothing in the notebook stands behind "
        f"the new words, {document['page']} because a command writes that part of the page, and "
        f"{document['list']} only because the sentence is not among those that were read and "
        "listed in `tests/statements`."
    )


def proofs() -> str:
    """The matrix of `make truth`."""
    return truth.stored_table(load("truth"))


def proofs_short() -> str:
    """One sentence on the matrix."""
    document = load("truth")
    tests = truth.stored_counts(document, "tests")
    loop, enumeration, trl, gradient = (
        sum((function, kind) in tests for function in document["functions"]) for kind in truth.KINDS
    )
    return (
        f"Of {len(document['functions'])} public functions (losses, advantages, KL estimators, "
        f"log-probs) {loop} are compared with a slow loop, {enumeration} with exact enumeration, "
        f"{trl} with TRL, and {gradient} in their gradient ({document['date']})."
    )


def compared() -> str:
    """How many cells nbval compares with their stored outputs."""
    tags = [
        cell["metadata"].get("tags", [])
        for path in find_notebooks()
        for cell in cells_of(path.stem)
        if cell["cell_type"] == "code" and cell["outputs"]
    ]
    strict = sum("nbval-ignore-output" not in tag for tag in tags)
    return (
        f"Of {len(tags)} cells with outputs, nbval compares {strict} with what is stored: printed "
        "text, results and tables. The others train or measure, and their numbers depend on the "
        "machine: they must run without an error. Pictures are not compared."
    )


# Engines, speed


def engines() -> str:
    """What vLLM and Unsloth were seen to do on a CPU, and what they need a GPU for."""
    document = load("engines")
    parts = []
    for name, title in (("vllm", "vLLM"), ("unsloth", "Unsloth")):
        engine = document["engines"][name]
        version = next(v for key, v in document["versions"].items() if key.startswith(name))
        rows = [
            [check, what, f"{value:.4g}"]
            for check, measured in engine["passed"].items()
            for what, value in measured.items()
        ]
        plain = [check for check, measured in engine["passed"].items() if not measured]
        need = [f"- {what}" for what in engine["needs a GPU"]]
        parts += [
            f"**{title} {version}**, its CPU build, tiny model; {document['machine']}, "
            f"{document['date']}: {len(engine['passed'])} checks passed.",
            report.markdown(["check", "measured", "value"], rows),
            f"Passed without a number: {'; '.join(plain)}.",
            "Not without a GPU:\n\n" + "\n".join(need),
        ]
    return "\n\n".join(parts)


def gpu() -> str:
    """What a GPU measured, or that none has."""
    if not (RESULTS / "gpu_check.json").exists():
        return "`make gpu-check` has stored no results: **no GPU has run the notebooks.**"
    from tools.gpu_check import table_row  # only then: it loads every library

    return table_row(load("gpu_check"))


def speed() -> str:
    """All tables of the benchmark."""
    return report.table(load("bench"), load("bench_newest"))


def checked_short() -> str:
    """What is checked, and how fast it is: the README's list."""
    parts = {
        "Proofs": proofs_short(),
        "Mistakes on purpose": mutants(),
        "Notebooks": compared(),
        "Speed": report.shares(load("bench")),
    }
    return "\n".join(f"- **{name}.** {text}" for name, text in parts.items())


# The index


def first_sentence(text: str) -> str:
    """The first sentence of a page's first paragraph."""
    paragraphs = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL).split("\n\n")
    prose = [p.strip() for p in paragraphs if re.match(r"[\w`*\[]", p.strip())]
    if not prose:
        raise ValueError("the page has no paragraph to quote in the index")
    return re.split(r"(?<=[.?!])\s", " ".join(prose[0].split()))[0]


def index(folder: Path = ROOT / "docs") -> str:
    """One line for each page of docs: its title, a link, its first sentence."""
    lines = []
    for path in sorted(folder.glob("*.md")):
        if path.name == "README.md":
            continue
        text = path.read_text(encoding="utf-8")
        title = re.match(r"# (.+)\n", text)
        if not title:
            raise ValueError(f"{path.name}: the first line must be a title, '# ...'")
        try:
            lines.append(f"- [{title[1].strip()}]({path.name}): {first_sentence(text)}")
        except ValueError as error:
            raise ValueError(f"{path.name}: {error}") from None
    return "\n".join(lines)


PARTS: dict[str, Callable[[], str]] = {
    "sft picture": sft_picture,
    "lessons": lessons,
    "methods": docs_results.methods_short,
    "methods, each seed": docs_results.methods_seeds,
    "methods, what they paid": docs_results.methods_paid,
    "methods, anew for each seed": docs_results.methods_chain,
    "start of lessons 02 to 05": docs_results.start,
    "word problems": docs_results.word_problems,
    "lesson 06": docs_results.lesson_06,
    "compared cells": compared,
    "proofs": proofs,
    "mutants": mutants,
    "mutants, missed": mutants_missed,
    "wrong prose": wrong_prose,
    "lesson mutants": lesson_mutants,
    "engines": engines,
    "gpu": gpu,
    "speed": speed,
    "checked, in short": checked_short,
    "index": index,
}
