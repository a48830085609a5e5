"""Put wrong statements into copies of notebooks, README and docs; report how many are noticed.

    python -m tools.wrong_prose                  # or: make wrong-prose
    python -m tools.wrong_prose --n 1000 --seed 1 --missed

A wrong statement is a true one with one quantity changed: a digit, half or double the number, a
word of quantity or direction swapped, a reference to another section. It is noticed by `rule` when
nothing in the notebook, or another thing than before, stands behind it; by `page` when a command
writes that part of the page; by `list` when only the list of read statements lacks it. Copies are
held in memory.
"""

import argparse
import datetime
import json
import random
import re
import sys
from collections import Counter
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from scripts.whole_file import write_whole
from tools import docs, prose

RESULTS = prose.ROOT / "benchmarks/results/wrong_prose.json"
LEAST_RATE = 0.95
KINDS = ("digit", "half", "double", "swap")


@dataclass(frozen=True)
class Wrong:
    """A statement of a document, and the same with one quantity changed."""

    document: str
    section: str
    right: str
    wrong: str
    kind: str
    at: int  # where the quantity stands


def changed_word(written: str) -> str | None:
    """The opposite of a word of quantity or direction, capital letter kept."""
    swap = prose.SWAPS.get(written.lower())
    return swap.capitalize() if swap and written[0].isupper() else swap


def changed_number(written: str, kind: str, draw: random.Random) -> str:
    """The number with another digit, halved or doubled, with as many decimals."""
    digits = [i for i, letter in enumerate(written) if letter.isdigit()]
    if kind == "digit" or written.count(".") > 1 or "e" in written:
        place = draw.choice(digits)
        other = draw.choice([d for d in "123456789" if d != written[place]])
        return written[:place] + other + written[place + 1 :]
    decimals = len(written.partition(".")[2])
    value = float(written.replace(",", "")) * (0.5 if kind == "half" else 2)
    if decimals == 0 and value != int(value):
        return f"{value:.1f}"
    grouping = "," if "," in written else ""
    return f"{value:{grouping}.{decimals}f}"


def changes_of(text: str, draw: random.Random) -> list[tuple[str, str, int]]:
    """Every kind of change of every quantity: (kind, changed text, place)."""
    found = []
    for match in prose.quantities(text):
        written, start, end = match[0], match.start(), match.end()
        if written[0].isdigit():
            pairs = [(kind, changed_number(written, kind, draw)) for kind in KINDS[:3]]
        elif prose.REFERENCE.fullmatch(written):
            number = draw.choice(list(re.finditer(r"\d+(?:\.\d+)?|\b[A-Z]\b", written)))
            letter = number[0].isalpha()
            other = chr(ord(number[0]) % 25 + 66) if letter else None
            new = other or changed_number(number[0], "digit", draw)
            pairs = [("digit", written[: number.start()] + new + written[number.end() :])]
        else:
            pairs = [("swap", changed_word(written))]
        found += [(k, text[:start] + new + text[end:], start) for k, new in pairs if new != written]
    return found


def every_wrong(draw: random.Random) -> list[Wrong]:
    """Every wrong statement that the changes make of today's hand-written ones."""
    found = []
    for name, path in prose.documents().items():
        for statement in prose.read(path).statements:
            for kind, wrong, at in changes_of(statement.text, draw):
                found.append(Wrong(name, statement.section, statement.text, wrong, kind, at))
    return found


def every_wrong_part(draw: random.Random) -> list[Wrong]:
    """The same for the parts of README and docs that a command writes."""
    found = []
    for path in docs.pages():
        for part in prose.MADE.finditer(path.read_text(encoding="utf-8")):
            for text in prose.sentences(part[0].partition("-->")[2].rpartition("<!--")[0]):
                for kind, wrong, at in changes_of(text, draw):
                    found.append(Wrong(str(path), "", text, wrong, kind, at))
    return found


@cache
def made(path: Path) -> str:
    """What a page should hold."""
    return docs.filled(path.read_text(encoding="utf-8"))


@cache
def read(name: str) -> prose.Document:
    """A document as it is."""
    return prose.read(prose.documents()[name])


def noticed_by(wrong: Wrong) -> str | None:
    """What sees the change: "rule", "page" or "list"; None if no test does."""
    if wrong.document.endswith(".md"):
        path = Path(wrong.document)
        text = path.read_text(encoding="utf-8")
        changed = text.replace(wrong.right, wrong.wrong, 1)
        return "page" if changed not in (text, made(path)) else None
    before, listed = read(wrong.document), prose.listed_for(wrong.document)
    right = prose.Statement(wrong.right, wrong.section)
    said = prose.Statement(wrong.wrong, wrong.section)
    statements = [said if s == right else s for s in before.statements]
    after = replace(before, statements=statements)
    if len(prose.complaints(after, listed)) <= len(prose.complaints(before, listed)):
        return None
    refers = prose.reference_reasons(wrong.right, before)
    if refers != prose.reference_reasons(wrong.wrong, before):
        return "rule"
    (match,) = (m for m in prose.quantities(wrong.right) if m.start() == wrong.at)
    return "rule" if prose.is_found(match, right, before) else "list"


def survey(n: int, seed: int) -> tuple[Counter, list[Wrong]]:
    """How many of n wrong statements each check notices, and those that none does."""
    draw = random.Random(seed)
    everything = every_wrong(draw) + every_wrong_part(draw)
    counts: Counter = Counter()
    missed = []
    for wrong in draw.sample(everything, n):
        by = noticed_by(wrong)
        counts[by or "missed"] += 1
        missed += [] if by else [wrong]
    return counts, missed


def main() -> int:
    """Print and store the counts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--missed", action="store_true", help="print what no test notices")
    args = parser.parse_args()
    counts, missed = survey(args.n, args.seed)
    found = {"date": datetime.date.today().isoformat(), "n": args.n, "seed": args.seed}
    found |= {"documents": sorted(prose.documents())}
    found |= {"noticed": args.n - counts["missed"]} | {
        k: counts[k] for k in ("rule", "page", "list")
    }
    write_whole(RESULTS, json.dumps(found, indent=1) + "\n")
    print(f"{found['noticed']} of {args.n} wrong statements are noticed: {dict(counts)}")
    if args.missed:
        print(*(f"{w.document}: {w.right}\n  {w.wrong}" for w in missed), sep="\n")
    return 0 if found["noticed"] >= LEAST_RATE * args.n else 1


if __name__ == "__main__":
    sys.exit(main())
