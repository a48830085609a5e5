"""Run the tests of vLLM and Unsloth in .venv-engines and write benchmarks/results/engines.json.

    python -m tools.run_engines              # or: make test-engines

Each engine gets a process of its own: Unsloth has to be imported before the libraries it patches.
The results are written only when every test of every engine ran and passed, whole or not at all.
"""

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from scripts.whole_file import write_whole
from tools.engines_env import ENGINES, VENV

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "build" / "engines"
OUT = ROOT / "benchmarks" / "results" / "engines.json"
FILES = {"vllm": "tests/engines/real/test_vllm.py", "unsloth": "tests/engines/real/test_unsloth.py"}
VERSIONS = ["torch", "transformers", "trl", "peft", "datasets", *ENGINES]


def command(name: str, report: Path) -> list[str]:
    """How the tests of one engine are run."""
    options = ["--confcutdir", "tests/engines/real", "-p", "no:cacheprovider", "-p", "no:logging"]
    options += ["-o", "junit_family=xunit1", "--junitxml", str(report), "--tb=short", "-v"]
    return [str(VENV / "bin/python"), "-m", "pytest", *options, FILES[name]]


def read_report(text: str) -> tuple[dict, list[str]]:
    """What passed, and the names of the tests that did not, from pytest's report.

    {"passed": {test: {what: number}}, "needs a GPU": {what: the engine's message}}. A skipped
    test counts as not passed: what an engine cannot do is tested, by name.
    """
    passed: dict[str, dict] = {}
    needs_gpu: dict[str, str] = {}
    failed = []
    for case in ElementTree.fromstring(text).iter("testcase"):
        name = case.get("name").removeprefix("test_").replace("_", " ")
        if any(case.find(mark) is not None for mark in ("failure", "error", "skipped")):
            failed.append(name)
            continue
        passed[name] = {}
        for entry in case.iter("property"):
            kind, _, what = entry.get("name").partition(": ")
            if kind == "number":
                passed[name][what] = float(entry.get("value"))
            elif kind == "cannot":
                needs_gpu[what] = entry.get("value")
    return {"passed": passed, "needs a GPU": needs_gpu}, failed


def run(name: str) -> tuple[dict, list[str]]:
    """Run the tests of one engine; results as `read_report` gives them."""
    BUILD.mkdir(parents=True, exist_ok=True)
    report = BUILD / f"{name}.xml"
    report.unlink(missing_ok=True)
    print(f"\n--- {name}", flush=True)
    status = subprocess.run(command(name, report), cwd=ROOT).returncode
    if not report.is_file():
        return {}, [f"{name}: pytest ended with {status} and without a report"]
    result, failed = read_report(report.read_text(encoding="utf-8"))
    if status != 0 and not failed:
        failed = [f"{name}: pytest ended with {status}"]
    return result, failed


def versions() -> dict[str, str]:
    """Versions in .venv-engines."""
    code = f"import json, importlib.metadata as m; names = {VERSIONS}; "
    code += "print(json.dumps({name: m.version(name) for name in names}))"
    answer = subprocess.check_output([str(VENV / "bin/python"), "-c", code], cwd=ROOT)
    return {"python": platform.python_version(), **json.loads(answer)}


def summary(engines: dict[str, dict]) -> str:
    """What passed and what needs a GPU, one line each."""
    lines = []
    for name, result in engines.items():
        lines.append(f"{name}: {len(result['passed'])} tests passed")
        for numbers in result["passed"].values():
            lines += [f"  {what}: {value:.4g}" for what, value in numbers.items()]
        lines += [
            f"  needs a GPU: {what} ({message})" for what, message in result["needs a GPU"].items()
        ]
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Run the engines; 1 if any test failed or was skipped, and then nothing is written."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=list(FILES), help="one engine; nothing is written")
    args = parser.parse_args(arguments)
    engines, failed = {}, []
    for name in [args.only] if args.only else FILES:
        engines[name], not_passed = run(name)
        failed += not_passed
    if failed:
        print("\nnot passed:", *failed, sep="\n  ")
        return 1
    print("\n" + summary(engines))
    if args.only:
        return 0
    results = {
        "date": datetime.date.today().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, no GPU",
        "versions": versions(),
        "engines": engines,
    }
    write_whole(OUT, json.dumps(results, indent=1) + "\n")
    print(f"wrote {OUT.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
