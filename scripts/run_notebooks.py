"""Execute notebooks headless, from the top, each in a fresh kernel.

Usage: python -m scripts.run_notebooks [--in-place] [NB]

NB is the start of a notebook's name, such as 01; without it all of them run. Executed copies, their
HTML and an index go to build/. With `--in-place` the outputs are stored in the notebook itself,
without what differs from run to run; a run with loose ends (an error, output on stderr) stores
nothing and says so.
"""

import argparse
import html
import logging
import os
import re
import shutil
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbconvert import HTMLExporter
from nbformat import NotebookNode

from scripts.whole_file import write_whole

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build"
WIDGET = "application/vnd.jupyter.widget-view+json"
CELL_KEYS = ("tags", "jupyter", "collapsed", "cellView", "slideshow")
NOTEBOOK_KEYS = ("colab", "accelerator")
FIXED_ENV = {
    "COURSE_PROFILE": "tiny",
    "COLUMNS": "88",
    "HF_DATASETS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_OFFLINE": "1",
    "JUPYTER_PREFER_ENV_PATH": "1",
    "PYTHONHASHSEED": "0",
    "TOKENIZERS_PARALLELISM": "false",
}
DROPPED_ENV = (
    "COLAB_RELEASE_TAG",
    "COURSE_BASE_MODEL",
    "COURSE_CLAIMS",
    "COURSE_DEVICE",
    "COURSE_SEED",
    "COURSE_SMOKE",
    "MPLBACKEND",
)


def use_fixed_env() -> None:
    """Give this process, and so its kernels, the settings that stored outputs are made under."""
    for name in DROPPED_ENV:
        os.environ.pop(name, None)
    os.environ.update(FIXED_ENV)


def find_notebooks(start: str = "") -> list[Path]:
    """The course's notebooks whose names begin with `start`; SystemExit if there is none."""
    known = sorted((ROOT / "notebooks").glob("*.ipynb"))
    chosen = [path for path in known if path.name.startswith(start)]
    if start and not chosen:
        names = ", ".join(path.stem for path in known) or "none yet"
        raise SystemExit(f"No notebook begins with {start!r}. There are: {names}.")
    return chosen


class Progress:
    """One line for a notebook: rewritten on a terminal, printed at the end elsewhere."""

    def __init__(self, name: str, cells: int) -> None:
        self.name, self.cells, self.done = name, cells, 0
        self.start = time.monotonic()

    def line(self) -> str:
        """Name, cells done and seconds so far."""
        seconds = time.monotonic() - self.start
        return f"{self.name:<24} cell {self.done:>3}/{self.cells}  {seconds:5.0f} s"

    def cell_done(self, **_: object) -> None:
        """Count one more cell."""
        self.done += 1
        if sys.stdout.isatty():
            print("\r" + self.line(), end="", flush=True)

    def finish(self, verdict: str) -> None:
        """Close the line with how it went."""
        start = "\r" if sys.stdout.isatty() else ""
        print(f"{start}{self.line()}  {verdict}", flush=True)


def error_of(nb: NotebookNode, error: Exception) -> str:
    """Where a notebook failed and with what."""
    for cell in nb.cells:
        for output in cell.get("outputs", []):
            if output.output_type == "error" and "raises-exception" not in cell_tags(cell):
                first = cell.source.strip().splitlines()[0]
                what = f"{output.ename}: {output.evalue}"
                return f"cell [{cell.execution_count}], which begins {first!r}: {what}"
    return f"{type(error).__name__}: {error}"


def cell_tags(cell: NotebookNode) -> list[str]:
    """The tags of a cell."""
    return cell.metadata.get("tags", [])


def execute(path: Path) -> tuple[NotebookNode, float, str]:
    """Run a notebook; return it with its outputs, the seconds taken and the error, if any."""
    shutil.rmtree(runs := BUILD / "runs" / path.stem, ignore_errors=True)
    os.environ["COURSE_RUNS"] = str(runs)  # each starts from the shipped checkpoints
    nb = nbformat.read(path, as_version=4)
    ran = [cell for cell in nb.cells if cell.cell_type == "code" and cell.source.strip()]
    progress = Progress(path.stem, len(ran))
    client = NotebookClient(
        nb,
        kernel_name="python3",
        timeout=None,
        record_timing=False,
        extra_arguments=["--IPKernelApp.log_level=ERROR"],
        resources={"metadata": {"path": str(path.parent)}},
        on_cell_executed=progress.cell_done,
    )
    failure = ""
    try:
        client.execute()
    except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
        failure = error_of(nb, error)
    freeze_bars(nb, client.widget_state)
    progress.finish("failed" if failure else "done")
    return nb, time.monotonic() - progress.start, failure


def freeze_bars(nb: NotebookNode, states: dict[str, dict]) -> None:
    """Replace live progress bars, which need a kernel to show, by their last state as text."""
    nb.metadata.pop("widgets", None)
    for cell in nb.cells:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if WIDGET in data:
                text = bar_text(data[WIDGET]["model_id"], states)
                if text:
                    del data[WIDGET]
                    data["text/plain"] = text


def bar_text(model_id: str, states: dict[str, dict]) -> str | None:
    """A tqdm bar as one line without its times; None for any other widget."""
    ids = states.get(model_id, {}).get("children", [])
    parts = [states.get(child.removeprefix("IPY_MODEL_"), {}) for child in ids]
    if len(parts) != 3 or parts[1].get("_model_name") != "FloatProgressModel":
        return None
    left, bar, right = parts
    label = re.sub(r"\s*\d*%?$", "", html.unescape(left.get("value", "")).strip())
    label += " " if label else ""
    done, total = bar.get("value", 0), bar.get("max") or 1
    if "/?" in right.get("value", ""):
        return f"{label}{right['value'].split('/')[0].strip()}it"
    share = done / total
    return f"{label}{share:.0%}|{'█' * round(10 * share):<10}| {done:.10g}/{total:.10g}"


def clean(nb: NotebookNode) -> None:
    """Drop all metadata that the course does not use or that differs between machines."""
    kept = {key: nb.metadata[key] for key in NOTEBOOK_KEYS if key in nb.metadata}
    kept["kernelspec"] = {"display_name": "Python 3", "language": "python", "name": "python3"}
    kept["language_info"] = {"file_extension": ".py", "name": "python"}
    nb.metadata = nbformat.from_dict(kept)
    for cell in nb.cells:
        cell.metadata = nbformat.from_dict(
            {key: cell.metadata[key] for key in CELL_KEYS if key in cell.metadata}
        )
        for output in cell.get("outputs", []):
            if "metadata" in output:
                output.metadata = nbformat.from_dict({})


def loose_ends(nb: NotebookNode) -> list[str]:
    """What keeps a run from being stored: stderr, widgets that are no bar, an unfinished cell."""
    ends = []
    for cell in nb.cells:
        for output in cell.get("outputs", []):
            place = f"cell [{cell.execution_count}]"
            if output.get("name") == "stderr":
                ends.append(f"{place} wrote to stderr: {output.text.strip()[:200]!r}")
            if WIDGET in output.get("data", {}):
                ends.append(f"{place} shows a widget that is not a tqdm bar")
    return ends


def save_copy(nb: NotebookNode, name: str) -> None:
    """Write the executed notebook and its HTML to build/."""
    BUILD.mkdir(exist_ok=True)
    logging.getLogger("traitlets").setLevel(logging.ERROR)
    write_whole(BUILD / f"{name}.ipynb", nbformat.writes(nb) + "\n")
    page, _ = HTMLExporter().from_notebook_node(nb, {"metadata": {"name": name}})
    write_whole(BUILD / f"{name}.html", page)


def title_of(nb: NotebookNode, default: str) -> str:
    """The first heading of a notebook."""
    for cell in nb.cells:
        heading = re.search(r"^# (.+)$", cell.source, re.MULTILINE)
        if cell.cell_type == "markdown" and heading:
            return heading[1]
    return default


def write_index(rows: list[tuple[str, str, float, str]]) -> None:
    """build/index.html: each notebook with its title, seconds and result."""
    lines = [
        f'<tr><td><a href="{name}.html">{name}</a></td><td>{html.escape(title)}</td>'
        f"<td>{seconds:.0f} s</td><td>{html.escape(failure) or 'done'}</td></tr>"
        for name, title, seconds, failure in rows
    ]
    page = f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>Executed notebooks</title>
<style>body {{ font-family: sans-serif; margin: 2em }} td {{ padding: 0.3em 1em 0.3em 0 }}</style>
</head><body><h1>Executed notebooks</h1><table>
{chr(10).join(lines)}
</table></body></html>
"""
    write_whole(BUILD / "index.html", page)


def run_one(path: Path, in_place: bool) -> tuple[str, str, float, str]:
    """Execute one notebook and keep the result; return its row of the index."""
    nb, seconds, failure = execute(path)
    save_copy(nb, path.stem)
    if in_place and not failure:
        failure = "; ".join(loose_ends(nb))
        if not failure:
            clean(nb)
            nbformat.validate(nb)
            write_whole(path, nbformat.writes(nb) + "\n")
    if failure:
        print(f"  {failure}", flush=True)
    return path.stem, title_of(nb, path.stem), seconds, failure


def main() -> int:
    """Run the chosen notebooks; 1 if any failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--in-place", action="store_true")
    parser.add_argument("start", nargs="?", default="", metavar="NB")
    args = parser.parse_args()
    if args.in_place and not args.start:
        raise SystemExit("Which notebook? For example: make execute NB=01")
    paths = find_notebooks(args.start)
    use_fixed_env()
    rows = [run_one(path, args.in_place) for path in paths]
    failed = [name for name, _, _, failure in rows if failure]
    if rows and not args.in_place:
        write_index(rows)
        print("Executed copies and their HTML: build/index.html")
    if failed:
        print(f"Failed: {', '.join(failed)}" + ("; not stored." if args.in_place else "."))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
