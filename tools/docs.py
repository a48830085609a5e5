"""Write the parts of README and docs that state results, from the files that hold the results.

Usage: python -m tools.docs [--check]   (or: make docs)

A page marks such a part with `<!-- made: NAME -->` and `<!-- /made: NAME -->`. What stands between
them is made by the function of that name in `tools/docs_parts.py` from `benchmarks/results`, the
committed notebooks and the tests' source; nothing there is typed by hand. The pictures that a page
shows are the notebooks' own outputs. `--check` writes nothing and names what has changed, with
exit status 1 if anything has.
"""

import argparse
import base64
import json
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from scripts.run_notebooks import ROOT
from scripts.stamp_badges import replace_block
from tools.docs_parts import PARTS
from tools.docs_results import cells_of

Makers = Mapping[str, Callable[[], str]]

START = re.compile(r"<!-- made: ([^>]*?) -->")
# Picture -> the notebook that draws it, and a text that only the cell which draws it contains.
PICTURES = {"assets/pictures/01_sft.png": ("01_sft", 'title="Greedy accuracy by kind of question"')}


def pages(root: Path = ROOT) -> list[Path]:
    """The pages that may have made parts; the index last, because it quotes the others."""
    found = [root / "README.md", root / "CONTRIBUTING.md", *sorted((root / "docs").glob("*.md"))]
    return sorted(found, key=lambda path: path == root / "docs" / "README.md")


def filled(text: str, makers: Makers = PARTS) -> str:
    """A page with its marked parts made anew; ValueError for an unknown, double or open part."""
    names = START.findall(text)
    for name in names:
        if name not in makers:
            raise ValueError(f"no part {name!r}; there are: {', '.join(makers)}")
        if names.count(name) > 1:
            raise ValueError(f"part {name!r} stands there {names.count(name)} times")
        made = replace_block(text, f"made: {name}", f"\n{makers[name]().strip()}\n")
        if made is None:
            raise ValueError(f"part {name!r} has no end, <!-- /made: {name} -->")
        text = made
    return text


def picture(notebook: str, mark: str) -> bytes:
    """The picture among the stored outputs of the one cell that contains the mark."""
    cells = [cell for cell in cells_of(notebook) if mark in "".join(cell["source"])]
    found = [
        output["data"]["image/png"]
        for cell in cells
        for output in cell.get("outputs", [])
        if "image/png" in output.get("data", {})
    ]
    if len(found) != 1:
        raise ValueError(f"{notebook}: {len(found)} pictures in the cells with {mark}, need one")
    return base64.b64decode(found[0])


def changes(root: Path = ROOT) -> dict[Path, bytes]:
    """The files that differ from what their sources give, with what they should hold."""
    should = {root / name: picture(*source) for name, source in PICTURES.items()}
    for page in pages(root):
        try:
            should[page] = filled(page.read_text(encoding="utf-8")).encode()
        except ValueError as error:
            raise ValueError(f"{page.relative_to(root)}: {error}") from None
    return {path: new for path, new in should.items() if path.read_bytes() != new}


def main() -> int:
    """Write what has changed, or with --check only name it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--check", action="store_true", help="write nothing, name what would change"
    )
    args = parser.parse_args()
    try:
        changed = changes()
    except (ValueError, OSError, json.JSONDecodeError) as error:
        print(error, file=sys.stderr)
        return 1
    for path, new in changed.items():
        if not args.check:
            path.write_bytes(new)
        print(f"{'would change' if args.check else 'wrote'} {path.relative_to(ROOT)}")
    return 1 if args.check and changed else 0


if __name__ == "__main__":
    sys.exit(main())
