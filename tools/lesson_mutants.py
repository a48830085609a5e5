"""Make mistakes in the algorithm that a lesson teaches; its claims must notice.

    python -m tools.lesson_mutants                    # or: make lesson-mutants
    python -m tools.lesson_mutants --only 00 --jobs 2

A mistake replaces a piece of one code cell. The notebook then runs from the top, as a reader would
run it, until a claim is False or a cell raises: caught. A notebook that runs to its end has missed
it. The results are kept in `benchmarks/results/lesson_mutants.json`; a change of the notebook's
cells, or of the modules behind them, makes its results stale, and they are measured again.
"""

import argparse
import datetime
import json
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from scripts.run_notebooks import ROOT, use_fixed_env
from scripts.whole_file import write_whole
from tools.fingerprint import fingerprint, key_of
from tools.lesson_mistakes import MISTAKES, Mistake

RESULTS = ROOT / "benchmarks/results/lesson_mutants.json"
LEAST_RATE = 0.9
CELL_LIMIT = 1800  # seconds; a cell that never ends is caught by it


def notebook_of(lesson: str) -> Path:
    """The notebook of a lesson such as "00"."""
    (path,) = (ROOT / "notebooks").glob(f"{lesson}_*.ipynb")
    return path


def mutated(mistake: Mistake) -> nbformat.NotebookNode:
    """The notebook with the mistake in it; ValueError unless its text occurs exactly once."""
    path = notebook_of(mistake.lesson)
    node = nbformat.read(path, as_version=4)
    cells = [cell for cell in node.cells if cell.cell_type == "code"]
    found = sum(cell.source.count(mistake.old) for cell in cells)
    if found != 1:
        raise ValueError(f"{path.name}: {mistake.old!r} occurs {found} times, not once")
    for cell in cells:
        cell.source = cell.source.replace(mistake.old, mistake.new)
        cell.outputs = []
    return node


def last_line(error: CellExecutionError) -> str:
    """What the failed cell said, without its traceback."""
    return f"{error.ename}: {error.evalue}".splitlines()[0][:200]


def measure(mistake: Mistake) -> dict:
    """Run the notebook with the mistake; what noticed it, if anything did."""
    began = time.monotonic()
    by = ""
    client = NotebookClient(
        mutated(mistake),
        timeout=CELL_LIMIT,
        resources={"metadata": {"path": ROOT / "notebooks"}},
    )
    try:
        client.execute()
    except CellExecutionError as error:
        by = last_line(error)
    except TimeoutError:
        by = f"a cell ran for more than {CELL_LIMIT} s"
    seconds = round(time.monotonic() - began)
    made_by = key_of(fingerprint(notebook_of(mistake.lesson)))
    return {"lesson": mistake.lesson, "kind": mistake.kind, "old": mistake.old} | {
        "new": mistake.new,
        "caught": bool(by),
        "by": by,
        "seconds": seconds,
        "made_by": made_by,
    }


def key(result: dict) -> tuple[str, str, str]:
    """What a result is kept under."""
    return result["lesson"], result["old"], result["new"]


def stored() -> dict[tuple[str, str, str], dict]:
    """Results of earlier runs."""
    if not RESULTS.exists():
        return {}
    return {key(r): r for r in json.loads(RESULTS.read_text(encoding="utf-8"))["results"]}


def is_current(result: dict | None) -> bool:
    """Whether the notebook is still the one that was measured."""
    if result is None:
        return False
    return result["made_by"] == key_of(fingerprint(notebook_of(result["lesson"])))


def complaints(results: dict[tuple[str, str, str], dict]) -> list[str]:
    """What the results lack: a mistake not measured, one missed without a reason, the rate."""
    found = []
    for mistake in MISTAKES:
        result = results.get(mistake.key)
        where = f"lesson {mistake.lesson}, {mistake.kind}: {mistake.old!r} -> {mistake.new!r}"
        if result is None:
            found.append(f"{where} has no result")
        elif not result["caught"] and not mistake.survives:
            found.append(f"{where} was missed")
        elif result["caught"] and mistake.survives:
            found.append(f"{where} was caught: drop its explanation")
    for lesson in sorted({mistake.lesson for mistake in MISTAKES}):
        caught = [r["caught"] for r in results.values() if r["lesson"] == lesson]
        if caught and sum(caught) < LEAST_RATE * len(caught):
            found.append(f"lesson {lesson}: {sum(caught)} of {len(caught)} were caught")
    return found


def main() -> int:
    """Measure what is not measured yet or is stale; the file is written after each mistake."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", metavar="LESSON", help="these lessons, such as 00")
    parser.add_argument("--jobs", type=int, default=1, help="notebooks at a time")
    args = parser.parse_args()
    use_fixed_env()
    os.environ |= {"OMP_NUM_THREADS": "1", "COURSE_RUNS": str(ROOT / "build/mutant_runs")}
    old = stored()
    results = {m.key: old[m.key] for m in MISTAKES if m.key in old}
    chosen = [m for m in MISTAKES if not args.only or m.lesson in args.only]
    todo = [m for m in chosen if not is_current(results.get(m.key))]
    with ThreadPoolExecutor(args.jobs) as pool:
        for done in as_completed([pool.submit(measure, mistake) for mistake in todo]):
            result = done.result()
            results[key(result)] = result
            document = {
                "date": datetime.date.today().isoformat(),
                "mistakes": len(results),
                "caught": sum(r["caught"] for r in results.values()),
                "results": [results[m.key] for m in MISTAKES if m.key in results],
            }
            write_whole(RESULTS, json.dumps(document, indent=1, ensure_ascii=False) + "\n")
            outcome = f"caught by {result['by']}" if result["caught"] else "MISSED"
            print(
                f"lesson {result['lesson']}, {result['kind']}, {result['old']!r}: {outcome}",
                flush=True,
            )
    wrong = complaints(results)
    print(*wrong, sep="\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
