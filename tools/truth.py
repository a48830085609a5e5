"""Run the tests that carry a truth marker and store what each public function is checked against.

Usage: python -m tools.truth   (or: make truth)

`@pytest.mark.truth("dpo_loss", "trl", "gradient")` on a test says that it checks `dpo_loss` in two
ways. The table has a row for each public loss, advantage, KL and log-prob function and a column
for each kind of check. Advantages let no gradient through: there the column holds tests of that,
or of the policy gradient that they make. The counts go to `benchmarks/results/truth.json`, from
which `make docs` writes the table in docs/proofs.md. Nothing is stored, and the exit status is 1,
when a marked test does not pass, or when a cell is empty without a reason.
"""

import ast
import datetime
import importlib
import inspect
import json
import os
import pkgutil
import platform
import sys
from collections import Counter

import pytest

from relatives import advantages as other_advantages
from relatives import dpo, grpo, samplers
from scripts.run_notebooks import ROOT, use_fixed_env
from scripts.whole_file import write_whole
from utils import advantages, kl, logprobs, losses, profiles

RESULTS = ROOT / "benchmarks" / "results" / "truth.json"

Cell = tuple[str, str]  # function, kind
# Public functions of modules that hold other things too.
ELSEWHERE = {
    "shared_prompt": "forward.shared_prompt",
    "sequential_kl": "relatives.dpo.sequential_kl",
    "chunked_logprobs": "engines.chunked.chunked_logprobs",
}

KINDS = {
    "loop": "slow loop",
    "enumeration": "exact enumeration",
    "trl": "TRL 1.12",
    "gradient": "gradient",
}
REDUCTION = "a sum over given numbers: there is no expectation to enumerate"
COUNTS = "Counts are tests; one that draws its own inputs, a hundred or so, counts once."
NO_SUM = "the paper defines a loss a row and no expectation with a known optimum"
WHOLE = "TRL runs prompt and completion in one pass: compared as completion_logprobs"
HALVES = "its halves are: completion_logprobs and entropy"
# Why a cell has no test. A reason for a cell that has one is a mistake, and so is a hole.
ABSENT: dict[Cell, str] = {
    ("orpo_loss", "enumeration"): NO_SUM,
    ("simpo_loss", "enumeration"): NO_SUM,
    ("kto_loss", "enumeration"): NO_SUM,
    ("tdpo_loss", "enumeration"): NO_SUM,
    ("tdpo_loss", "trl"): "TRL 1.12 has no TDPO",
    ("importance_weights", "trl"): "TRL computes them in its trainer, and only with vLLM",
    ("align", "enumeration"): "it moves indices: nothing random in it",
    ("align", "trl"): "TRL shifts in the middle of its losses: compared as sft_loss",
    ("label_logits", "enumeration"): "it picks positions: nothing random in it",
    ("shared_prompt", "trl"): WHOLE,
    ("completion_logits", "trl"): WHOLE,
    ("completion_logprobs_and_entropy", "enumeration"): HALVES,
    ("completion_logprobs_and_entropy", "trl"): HALVES,
    ("masked_sum", "enumeration"): REDUCTION,
    ("masked_sum", "trl"): "TRL has no such function",
    ("masked_mean", "enumeration"): REDUCTION,
    ("masked_whiten", "enumeration"): REDUCTION,
}


def public_functions() -> dict[str, str]:
    """Each public function with its place, such as `dpo_loss: losses.dpo_loss`."""
    found = {name: f"losses.{name}" for name in losses.__all__}
    # A loss that the package forgot to gather is public all the same.
    for module in pkgutil.iter_modules(losses.__path__):
        for name in vars(importlib.import_module(f"{losses.__name__}.{module.name}")):
            if name.endswith("_loss") and not name.startswith("_"):
                found.setdefault(name, f"losses.{module.name}.{name}")
    for family in (dpo, grpo):
        for name in vars(family):
            if name.endswith("_loss"):
                found[name] = f"{family.__name__}.{name}"
    for module in (advantages, kl, logprobs, other_advantages, samplers):
        for name, member in inspect.getmembers(module, inspect.isfunction):
            if member.__module__ == module.__name__ and not name.startswith("_"):
                found[name] = f"{module.__name__.removeprefix('utils.')}.{name}"
    return found | ELSEWHERE


def marked_in_source() -> Counter[Cell]:
    """How many truth markers name each cell, read from the tests' source without running it."""
    found: Counter[Cell] = Counter()
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.mark.truth":
                function, *kinds = (ast.literal_eval(argument) for argument in node.args)
                found.update((function, kind) for kind in kinds)
    return found


def problems(cells: Counter[Cell]) -> list[str]:
    """What the table lacks, and markers or reasons that fit no cell."""
    functions = public_functions()
    known = {(function, kind) for function in functions for kind in KINDS}
    found = []
    for function, kind in sorted((set(cells) | set(ABSENT)) - known):
        found.append(f"{function}, {kind}: no such public function or kind")
    for function, kind in sorted(set(cells) & set(ABSENT)):
        found.append(f"{function}, {kind}: has a test and a reason for having none")
    for function in functions:
        if not {(function, "loop"), (function, "enumeration")} & set(cells):
            found.append(f"{function}: needs a slow loop or an enumeration")
        if (function, "gradient") not in cells:
            found.append(f"{function}: needs a test of its gradient, or that none flows")
        for kind in ("loop", "enumeration", "trl"):
            if (function, kind) not in cells and (function, kind) not in ABSENT:
                found.append(f"{function}, {kind}: neither a test nor a reason")
    return found


class Recorder:
    """A pytest plugin that keeps the marked tests and counts their outcomes in each cell."""

    def __init__(self) -> None:
        self.outcomes: dict[Cell, Counter[str]] = {}
        self.cells: dict[str, list[Cell]] = {}

    def pytest_collection_modifyitems(
        self, config: pytest.Config, items: list[pytest.Item]
    ) -> None:
        """Keep the tests that carry a marker, and remember its cells."""
        for item in items:
            marks = item.iter_markers("truth")
            cells = [(mark.args[0], kind) for mark in marks for kind in mark.args[1:]]
            if cells:
                self.cells[item.nodeid] = cells
        config.hook.pytest_deselected(items=[i for i in items if i.nodeid not in self.cells])
        items[:] = [item for item in items if item.nodeid in self.cells]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Count a test once: as its call ended, or as its set-up or tear-down failed."""
        if report.when == "call" or not report.passed:
            for cell in self.cells[report.nodeid]:
                self.outcomes.setdefault(cell, Counter())[report.outcome] += 1

    def passed_everywhere(self) -> bool:
        """Whether every test passed; a skipped one checked nothing."""
        return all(set(counts) == {"passed"} for counts in self.outcomes.values())


def table(outcomes: dict[Cell, Counter[str]]) -> str:
    """The matrix as aligned Markdown, with its footnotes."""
    notes: list[str] = []

    def text(cell: Cell) -> str:
        if cell in outcomes:
            counts = sorted(outcomes[cell].items())
            return ", ".join(f"{number} {outcome}" for outcome, number in counts)
        if cell not in ABSENT:
            return "MISSING"
        if ABSENT[cell] not in notes:
            notes.append(ABSENT[cell])
        return f"— [{notes.index(ABSENT[cell]) + 1}]"

    rows = [["function", *KINDS.values()]]
    for function, place in public_functions().items():
        rows.append([f"`{place}`", *(text((function, kind)) for kind in KINDS)])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    rows.insert(1, ["-" * width for width in widths])
    lines = [
        "| " + " | ".join(x.ljust(w) for x, w in zip(row, widths, strict=True)) + " |"
        for row in rows
    ]
    lines += ["", COUNTS, "", *(f"- [{i}] {note}" for i, note in enumerate(notes, 1))]
    return "\n".join(lines)


def write_results(outcomes: dict[Cell, Counter[str]]) -> None:
    """The tests that passed in each cell, and the markers they come from, by function and kind."""
    markers, functions = marked_in_source(), {}
    for function, kind in sorted(outcomes):
        counts = {
            "tests": outcomes[function, kind]["passed"],
            "markers": markers[function, kind],
        }
        functions.setdefault(function, {})[kind] = counts
    document = {
        "date": datetime.date.today().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": profiles.versions(),
        "functions": functions,
    }
    write_whole(RESULTS, json.dumps(document, indent=1) + "\n")


def stored_counts(document: dict, key: str) -> Counter[Cell]:
    """The "tests" or the "markers" of each cell in the stored results."""
    return Counter(
        {
            (function, kind): counts[key]
            for function, kinds in document["functions"].items()
            for kind, counts in kinds.items()
        }
    )


def stale(document: dict) -> list[str]:
    """How the markers of the stored results differ from those in the tests' source."""
    then, now = stored_counts(document, "markers"), marked_in_source()
    return [
        f"{function}, {kind}: {then[function, kind]} markers were run, "
        f"{now[function, kind]} stand in the tests"
        for function, kind in sorted(then | now)
        if then[function, kind] != now[function, kind]
    ]


def stored_table(document: dict) -> str:
    """The matrix of the stored results, with the date and what it was made with."""
    tests, versions = stored_counts(document, "tests"), document["versions"]
    made = ", ".join(f"{name} {versions[name]}" for name in ("torch", "transformers", "trl"))
    where = f"Run on {document['date']}: {document['machine']}, {made}."
    return f"{table({cell: Counter(passed=n) for cell, n in tests.items()})}\n\n{where}"


def main() -> int:
    """Run the marked tests, print the table and store it; 1 if a test or a cell is not right."""
    use_fixed_env()
    recorder = Recorder()
    options = ["-q", "-p", "no:cacheprovider", f"--rootdir={ROOT}", str(ROOT / "tests")]
    # The library is imported before pytest could rewrite the asserts of its plug-ins.
    options += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]
    status = pytest.main(options, plugins=[recorder])
    print(table(recorder.outcomes))
    counted = Counter({cell: sum(counts.values()) for cell, counts in recorder.outcomes.items()})
    missing = problems(counted)
    if missing:
        print("\nMissing or out of place:", *missing, sep="\n  ", file=sys.stderr)
    if status or missing or not recorder.passed_everywhere():
        print("\nNothing was stored.", file=sys.stderr)
        return 1
    write_results(recorder.outcomes)
    print(f"\nWrote {RESULTS.name}; `make docs` shows it in docs/proofs.md.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
