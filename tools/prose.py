"""Hand-written statements with a number, a quantity or a direction, and what each rests on.

    python -m tools.prose            # what rests on nothing yet, and what is listed for nothing
    python -m tools.prose --write    # renew the lists; a reason still to be given is "?"

A statement is a sentence, a row of a table or an item of a list in the markdown cells of a notebook
or in a page, outside code and outside what a command wrote. Each of its quantities is found by rule

- in the notebook's code: a setting, or a number of a worked example (from 13 on, or with decimals),
- in an output of the same section,
- or in `tests/statements/sources.json`: a year behind an author's name, a release, a size,

or the whole statement stands in `tests/statements/<document>.json` with its reasons, each of one of
KINDS. A section or a lesson is kept with its title, a claim or a piece of code is looked up, so
that a statement falls with what it rests on. What a list cannot tell is whether a reason is good:
that was read by a person.
"""

import argparse
import json
import re
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import nbformat

from scripts.whole_file import write_whole

ROOT = Path(__file__).resolve().parents[1]
LISTS = ROOT / "tests/statements"
SOURCES = LISTS / "sources.json"

KINDS = {
    "section": "refers to a section, with its title (written by rule)",
    "lesson": "refers to a lesson, with its title (written by rule)",
    "claim": "a claim or a printed result of this notebook, named by a piece of its text",
    "code": "a piece of this notebook's code, or of a file: `path: text`",
    "definition": "true by the meaning of a term; the term",
    "formula": "follows from a formula; which",
    "count": "counts what stands beside it",
    "place": "says where something stands",
    "advice": "what to do; no result",
    "source": "a paper, a page or a common practice, named",
    "question": "a question, or a prediction that the reader makes",
}

# Words of quantity and direction, each with what it would be mistaken for.
OPPOSITES = {
    "more": "less", "fewer": "more", "higher": "lower", "rise": "fall", "rises": "falls",
    "rose": "fell", "rising": "falling", "grow": "shrink", "grows": "shrinks", "grew": "shrank",
    "larger": "smaller", "bigger": "smaller", "better": "worse", "best": "worst",
    "longer": "shorter", "above": "below", "increase": "decrease", "increases": "decreases",
    "faster": "slower", "most": "least", "always": "never", "stronger": "weaker",
    "twice": "half", "doubles": "halves", "greater": "smaller", "highest": "lowest",
    "largest": "smallest", "longest": "shortest", "likelier": "rarer",
}  # fmt: skip
NUMBER_WORDS = {
    "two": "three", "three": "four", "four": "five", "five": "six", "six": "seven",
    "seven": "eight", "eight": "nine", "nine": "ten", "ten": "twelve", "twelve": "ten",
    "hundred": "thousand", "thousand": "hundred", "third": "quarter", "quarter": "third",
}  # fmt: skip
SWAPS = {b: a for a, b in OPPOSITES.items()} | OPPOSITES | NUMBER_WORDS

MASKED = re.compile(
    r"`[^`]*`|<code>.*?</code>"  # code
    r"|\b(?:Hint|Quiz|Question|Step|Test|Figure)\s\d+\b"  # labels
    r"|\$\$.*?\$\$|\$[^$]+\$"  # formulas: the cells beside them compute them
    r"|\]\([^)]*\)|<[^>]*>|https?://\S+",  # addresses, tags
    re.DOTALL,
)
FENCED = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)
MADE = re.compile(r"<!-- made: ([^>]+) -->.*?<!-- /made: \1 -->", re.DOTALL)
FOLDED = re.compile(r"</?(?:details|summary)>")
LIST_ITEM = re.compile(r"(?:[-*>]|\d+\.) +")
SENTENCE_END = re.compile(r"(?<=[.!?])(?<!\bal\.)(?<!\bEq\.)(?:\*\*)?\s+(?=[^a-z\s])")
NUMBER = r"(?<![\w.,])\d+(?:,\d{3})*(?:\.\d+)*(?:e-?\d+)?"
REFERENCE = re.compile(
    r"\b(?:sections?|exercises?|lessons?|appendix|appendices)\s+"
    r"(?:[A-Z]\b|\d+(?:\.\d+)?)(?:(?:,| and| to| or|, and)\s+(?:[A-Z]\b|\d+(?:\.\d+)?))*",
    re.IGNORECASE,
)
QUANTITY = re.compile(
    rf"{REFERENCE.pattern}|{NUMBER}|\b(?:{'|'.join(sorted(SWAPS, key=len, reverse=True))})\b",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Statement:
    """A sentence, and the section it stands in, such as "4.3" ("" before the first)."""

    text: str
    section: str


@dataclass
class Document:
    """What the statements of a notebook or a page can rest on."""

    statements: list[Statement] = field(default_factory=list)
    headings: dict[str, str] = field(default_factory=dict)  # "4.3", "4", "B" -> title
    code: str = ""
    settings: set[float] = field(default_factory=set)  # numbers in the code
    shown: dict[str, set[float]] = field(default_factory=lambda: defaultdict(set))  # by section


def masked(text: str, by: str = " ") -> str:
    """The text with code, formulas, addresses and tags blanked, places kept."""
    return MASKED.sub(lambda match: by * len(match[0]), text)


def sentences(markdown: str) -> Iterator[str]:
    """The statements of a piece of Markdown without its headings, each on one line."""
    for block in FOLDED.sub("\n\n", FENCED.sub("\n\n", markdown)).split("\n\n"):
        pieces: list[str] = []
        for line in block.splitlines():
            if line.startswith("#") or set(line) <= set("|-: "):
                continue
            if pieces and not line.startswith("|") and not LIST_ITEM.match(line.strip()):
                pieces[-1] += " " + line.strip()
            else:
                pieces.append(line.strip())
        for piece in (re.sub(r"^\d+\. ", "", piece) for piece in pieces):
            hidden, start = masked(piece, by="X"), 0
            for end in [m.end() for m in SENTENCE_END.finditer(hidden)] + [len(piece)]:
                if piece[start:end].strip():
                    yield piece[start:end].strip()
                start = end


def quantities(text: str) -> list[re.Match]:
    """References, numbers and words of quantity or direction of a statement."""
    return list(QUANTITY.finditer(masked(text)))


def numbers_in(text: str) -> set[float]:
    """Every number of a piece of code or an output, without its sign; 30 for "30%" and 0.3."""
    found = set()
    for match in re.finditer(r"(?<![\w.])\d[\d_,]*(?:\.\d+)?(?:e-?\d+)?(\s?%)?", text):
        number = float(re.sub(r"[_,%\s]", "", match[0]))
        found |= {number, number / 100} if match[1] else {number}
    return found


def notebook(path: Path) -> Document:
    """What a notebook says and what its cells hold."""
    document, section = Document(), ""
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "code":
            document.code += cell.source + "\n"
            document.settings |= numbers_in(cell.source)
            if "nbval-ignore-output" in cell.metadata.get("tags", []):
                continue  # another machine shows other numbers
            for output in cell.outputs:
                texts = [output.get("text", "")]
                texts += [d for kind, d in output.get("data", {}).items() if "text/" in kind]
                for text in texts:
                    document.shown[section] |= numbers_in(re.sub(r"<[^>]*>", " ", text))
        elif cell.cell_type == "markdown":
            section = read_markdown(cell.source, section, document)
    return document


def page(path: Path) -> Document:
    """What a page says outside what a command wrote."""
    document = Document()
    read_markdown(MADE.sub("\n\n", path.read_text(encoding="utf-8")), "", document)
    return document


def read_markdown(markdown: str, section: str, document: Document) -> str:
    """Add statements and headings to the document; return the section that goes on."""
    for block in markdown.split("\n\n"):
        for line in block.splitlines():
            found = re.match(
                r"#+ (?:Appendix |Exercise )?(\d+\.\d+|[A-Z]|\d+)(?= |$)[ ·]*(.*)", line
            )
            if found:
                key = f"exercise {found[1]}" if "Exercise" in line[:15] else found[1]
                document.headings[key] = found[2]
                if line.startswith("## "):
                    section = found[1]
    for text in sentences(markdown):
        document.statements.append(Statement(text, section))
    return section


@cache
def lesson_document(number: str) -> Document | None:
    """The notebook of a lesson such as "04"; None where there is none."""
    paths = list((ROOT / "notebooks").glob(f"{number}_*.ipynb"))
    return notebook(paths[0]) if paths else None


def target(kind: str, name: str, document: Document) -> str | None:
    """What a reference points at, as `section 4.3: title`; None if there is no such thing."""
    if kind == "lesson":
        other = lesson_document(name.zfill(2)) if name.isdigit() else None
        title = other and other.headings.get(str(int(name)))
        return f"lesson {name.zfill(2)}: {title}" if title else None
    key = f"exercise {name}" if kind == "exercise" else name
    other = lesson_document(name.split(".")[0].zfill(2)) if "." in name else None
    for place in (document, other):
        if place and key in place.headings:
            return f"section {key}: {place.headings[key]}"
    return None


def reference_reasons(text: str, document: Document) -> list[str]:
    """For each reference of a statement what it points at; "?" where that does not exist."""
    found = []
    for match in REFERENCE.finditer(masked(text)):
        kind = re.match(r"lesson|exercise|section|append", match[0].lower())[0]
        for name in re.findall(r"\b(?:[A-Z](?![\w])|\d+(?:\.\d+)?)", match[0]):
            found.append(target(kind, name, document) or f"? no {kind} {name}")
    return found


@cache
def sources() -> dict[str, list[str]]:
    """Author or product -> years, releases, sizes that may stand behind the name."""
    return json.loads(SOURCES.read_text(encoding="utf-8"))


def is_found(match: re.Match, statement: Statement, document: Document) -> bool:
    """Whether a rule finds what this quantity rests on."""
    written = match[0]
    if not written[0].isdigit():
        return False
    before = statement.text[: match.start()]
    for name, values in sources().items():
        if written in values and name in before[-60:]:
            return True
    if re.fullmatch(r"\d+(\.\d+){2,}", written):
        return False
    share = re.match(r"\s?%", statement.text[match.end() :])
    value = float(written.replace(",", "")) / (100 if share else 1)
    if value < 13 and value == int(value):
        return False  # small whole numbers are everywhere
    return value in document.settings | document.shown[statement.section]


def open_statements(document: Document) -> dict[str, list[str]]:
    """Statements that must be listed -> the reasons that a rule can give."""
    found: dict[str, list[str]] = {}
    for statement in document.statements:
        left = [m for m in quantities(statement.text) if not is_found(m, statement, document)]
        if left:
            found[statement.text] = reference_reasons(statement.text, document)
            if any(not REFERENCE.fullmatch(match[0]) for match in left):
                found[statement.text].append("?")
    return found


def is_good(reason: str, document: Document) -> bool:
    """Whether a reason given by hand is of a known kind, and what it names is there."""
    kind, _, what = reason.partition(": ")
    if kind not in KINDS or len(what) < 3:
        return False
    if kind == "claim":
        return any(what in line for line in document.code.splitlines())
    if kind == "code":
        file, _, text = what.partition(": ")
        if (ROOT / file).is_file():
            return text in (ROOT / file).read_text(encoding="utf-8")
        return what in document.code
    return True


def complaints(document: Document, listed: dict[str, list[str]]) -> list[str]:
    """Statements that rest on nothing, reasons that do not hold, entries left over."""
    wanted = open_statements(document)
    found = [
        f"listed, and not in the text any more: {text}" for text in listed if text not in wanted
    ]
    for text, by_rule in wanted.items():
        if text not in listed:
            found.append(f"rests on nothing: {text}")
            continue
        given = listed[text]
        references = [reason for reason in by_rule if reason != "?"]
        kept = [reason for reason in given if reason.split(" ")[0] in ("section", "lesson")]
        if references != kept:
            found.append(f"refers to {references}, was read as {kept}: {text}")
        by_hand = [reason for reason in given if reason not in kept]
        if "?" in by_rule and not by_hand:
            found.append(f"has no reason: {text}")
        found += [f"bad reason {r!r}: {text}" for r in by_hand if not is_good(r, document)]
    return found


def documents() -> dict[str, Path]:
    """Every notebook and page with hand-written text, by the name of its list."""
    notebooks = sorted((ROOT / "notebooks").glob("*.ipynb"))
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
    return {path.stem: path for path in notebooks} | {
        path.stem if path.parent == ROOT else f"docs_{path.stem}": path for path in pages
    }


def read(path: Path) -> Document:
    """A notebook or a page."""
    return notebook(path) if path.suffix == ".ipynb" else page(path)


def listed_for(name: str) -> dict[str, list[str]]:
    """The list of a document; empty if it has none."""
    file = LISTS / f"{name}.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}


def renewed(document: Document, listed: dict[str, list[str]]) -> dict[str, list[str]]:
    """The list in the order of the text: entries kept, new ones added, those left over dropped."""
    new = {}
    for text, by_rule in open_statements(document).items():
        by_hand = [r for r in listed.get(text, []) if r.split(" ")[0] not in ("section", "lesson")]
        references = [reason for reason in by_rule if reason != "?"]
        new[text] = references + (by_hand or ["?"] if "?" in by_rule else [])
    return new


def main() -> int:
    """Print what is wrong, or write the lists."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="renew the lists")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these documents, such as 04_dpo")
    args = parser.parse_args()
    wrong = 0
    for name, path in documents().items():
        if args.only and name not in args.only:
            continue
        document = read(path)
        if args.write:
            new = renewed(document, listed_for(name))
            text = json.dumps(new, indent=1, ensure_ascii=False) + "\n"
            write_whole(LISTS / f"{name}.json", text)
        found = complaints(document, listed_for(name))
        wrong += len(found)
        print(f"{name}: {len(document.statements)} statements, {len(listed_for(name))} listed")
        print(*(f"  {line}" for line in found), sep="\n", end="\n" if found else "")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
