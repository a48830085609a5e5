"""Write the public address of the course into its notebooks and README.

Usage: python -m scripts.stamp_badges OWNER/NAME   (or: make badges REPO=owner/name)

Each notebook gets an "Open in Colab" badge under its title and the address in its set-up cell. The
README gets the clone command and a badge for each notebook, between marker comments. Stamping
again, with the same or another address, replaces what was there. Standard library only.
"""

import argparse
import json
import re
import sys
from pathlib import Path

from scripts.whole_file import write_whole

ROOT = Path(__file__).resolve().parent.parent
BRANCH = "main"
# The head of every notebook's set-up cell, before its imports.
SETUP_GUARD = """\
import os
import runpy

if "COLAB_RELEASE_TAG" in os.environ:  # on Colab only: fetch and install the course
    REPO_URL = ""
    url = os.environ.get("COURSE_REPO", REPO_URL)
    assert url, "No address yet: run `make badges REPO=owner/name` in the repository."
    !test -d course || git clone --quiet --depth=1 "$url" course
    runpy.run_path("course/scripts/colab_setup.py", run_name="__main__")
"""
URL_LINE = re.compile(r'(    REPO_URL = )"[^"]*"')


def repo_url(repo: str) -> str:
    """The address of `owner/name`; ValueError if it has another shape."""
    if not re.fullmatch(r"[A-Za-z0-9](-?[A-Za-z0-9]){0,38}/[A-Za-z0-9._-]{1,100}", repo):
        raise ValueError(f"REPO must look like owner/name, not {repo!r}")
    if repo.endswith(("/.", "/..", ".git")):
        raise ValueError(f"REPO must be owner/name without .git, not {repo!r}")
    return f"https://github.com/{repo}"


def badge(repo: str, notebook: str) -> str:
    """The badge that opens a notebook of the repository in Colab."""
    site = "https://colab.research.google.com"
    target = f"{site}/github/{repo}/blob/{BRANCH}/notebooks/{notebook}"
    return f"[![Open in Colab]({site}/assets/colab-badge.svg)]({target})"


def replace_block(text: str, name: str, content: str) -> str | None:
    """`text` with what is between the markers of a block replaced; None without such a block."""
    start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    before, found, rest = text.partition(start)
    _, closed, after = rest.partition(end)
    return f"{before}{start}\n{content}\n{end}{after}" if found and closed else None


def stamp_title(text: str, mark: str) -> str:
    """The first cell with the badge in its block; a new block goes under the title."""
    stamped = replace_block(text, "badge", mark)
    if stamped is not None:
        return stamped
    title, _, rest = text.partition("\n")
    return f"{title}\n\n<!-- badge -->\n{mark}\n<!-- /badge -->\n{rest}"


def stamp_notebook(text: str, repo: str, name: str) -> str:
    """A notebook's JSON with badge and address; ValueError if it lacks a title or set-up cell."""
    nb = json.loads(text)
    sources = ["".join(cell["source"]) for cell in nb["cells"]]
    if not nb["cells"] or nb["cells"][0]["cell_type"] != "markdown" or sources[0][:2] != "# ":
        raise ValueError(f"{name}: the first cell must be markdown and begin with a title, '# ...'")
    guards = [i for i, source in enumerate(sources) if URL_LINE.search(source)]
    if len(guards) != 1:
        raise ValueError(f"{name}: {len(guards)} cells set REPO_URL; there must be one set-up cell")
    sources[0] = stamp_title(sources[0], badge(repo, name))
    sources[guards[0]] = URL_LINE.sub(rf'\1"{repo_url(repo)}"', sources[guards[0]])
    for i in (0, guards[0]):
        nb["cells"][i]["source"] = sources[i].splitlines(keepends=True)
    return json.dumps(nb, indent=1, ensure_ascii=False) + "\n"


def stamp_readme(text: str, repo: str, notebooks: list[str]) -> str:
    """The README with its block filled; ValueError if it has none."""
    rows = [f"- [{name}](notebooks/{name}) {badge(repo, name)}" for name in notebooks]
    clone = f"```\ngit clone {repo_url(repo)}\n```"
    stamped = replace_block(text, "badges", "\n".join([clone, "", *rows]))
    if stamped is None:
        raise ValueError("README.md: no <!-- badges --> ... <!-- /badges --> block")
    return stamped


def stamp(root: Path, repo: str) -> list[Path]:
    """Stamp a copy of the course; either all files are right or none is touched."""
    notebooks = sorted((root / "notebooks").glob("*.ipynb"))
    new = {p: stamp_notebook(p.read_text(encoding="utf-8"), repo, p.name) for p in notebooks}
    readme = root / "README.md"
    names = [path.name for path in notebooks]
    new[readme] = stamp_readme(readme.read_text(encoding="utf-8"), repo, names)
    for path, text in new.items():
        write_whole(path, text)
    return list(new)


def main() -> int:
    """Stamp the repository this script is in."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("repo", metavar="OWNER/NAME")
    parser.add_argument("--root", type=Path, default=ROOT, help="another copy of the course")
    args = parser.parse_args()
    try:
        paths = stamp(args.root, args.repo)
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    print(f"Stamped {repo_url(args.repo)} into {len(paths)} files.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
