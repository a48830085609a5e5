"""Make single-point mistakes in the code, one at a time, and report which ones the tests miss.

    python -m tools.mutants --jobs 2                     # or: make mutants MUTANT_ARGS="--jobs 2"
    python -m tools.mutants --only utils/losses/dpo.py   # the mistakes of some files

The mistakes are declared in `mutations.py`. Each is made in a copy of the repository, where the
test files that name the module run until one fails. Before that they must pass without a mistake.
What has been measured is kept in `benchmarks/results/mutants.json`, survivors without an
explanation apart: an interrupted run goes on, `--again` measures anew. Exit status 1 when fewer
than 95% are caught, a survivor lacks an explanation, or a mistake that has one was caught.
"""

import argparse
import datetime
import gc
import json
import multiprocessing
import os
import platform
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from queue import SimpleQueue

import pytest

from scripts.run_notebooks import ROOT, use_fixed_env
from scripts.whole_file import write_whole
from tools.mutations import KINDS, MUTATIONS, Mutation

RESULTS = ROOT / "benchmarks" / "results" / "mutants.json"
NOT_COPIED = (".git", ".venv*", "build", "runs", "__pycache__", ".*cache", "node_modules")
TIME_LIMIT = 600  # seconds a mistake; one that makes a loop endless is caught by it
MEMORY_LIMIT = 8 * 2**30  # bytes; one that fills the memory fails its test and harms nobody else
LEAST_RATE = 0.95
PYTEST = ["-x", "-q", "-p", "no:cacheprovider", "-p", "_hypothesis_pytestplugin"]
PYTEST += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]
OUTPUT = "pytest.out"
# CI: hypothesis draws the same inputs each time and lets slow machines be slow.
# No bytecode: it is found by size and second, and a mistake may change neither.
# No plug-ins but hypothesis: those of notebooks take seconds to load.
TEST_ENV = {"CI": "true", "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
TEST_ENV |= {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
# The libraries cost more than most tests: one process loads them, and each run is a fork of it.
SERVER = multiprocessing.get_context("forkserver")
LIBRARIES = ["__main__", "pytest", "hypothesis", "torch", "transformers", "peft", "trl"]
LIBRARIES += ["transformers.models.qwen3.modeling_qwen3"]


def mutated(mutation: Mutation, root: Path = ROOT) -> str:
    """The file's text with the mistake in it; ValueError when it cannot be made there."""
    path = root / mutation.file
    text = path.read_text(encoding="utf-8")
    name = f"{mutation.file}, {mutation.kind}: {mutation.old!r}"
    if (count := text.count(mutation.old)) != 1:
        raise ValueError(f"{name} occurs {count} times, not once: correct tools/mutations.py")
    changed = text.replace(mutation.old, mutation.new)
    try:
        compile(changed, str(path), "exec")
    except SyntaxError as error:
        raise ValueError(f"{name}: the new text does not compile: {error}") from None
    return changed


def problems(mutations: Sequence[Mutation], root: Path = ROOT) -> list[str]:
    """What is wrong with the table: stale, repeated or unknown entries."""
    found = []
    for mutation in mutations:
        try:
            mutated(mutation, root)
        except (ValueError, OSError) as error:
            found.append(str(error))
        if mutation.kind not in KINDS:
            found.append(f"{mutation.file}: kind {mutation.kind!r}, need one of {', '.join(KINDS)}")
        missing = [test for test in mutation.tests if not (root / "tests" / test).is_file()]
        if missing or not mutation.tests:
            found.append(f"{mutation.file}: no such tests: {', '.join(missing) or 'none given'}")
    for key, count in Counter(mutation.key for mutation in mutations).items():
        if count > 1:
            found.append(f"{key[0]}: {key[1]!r} -> {key[2]!r} stands there {count} times")
    return found


def verdict(status: int, output: str) -> tuple[bool, str]:
    """Whether the tests caught the mistake, and which one; RuntimeError for a run that broke off.

    pytest's status is 1 after a failed test and 2 after an error on import.
    """
    if status == 0:
        return False, ""
    failed = re.search(r"^(?:FAILED|ERROR) ([\w/.]+(?:::\w+)*)", output, re.MULTILINE)
    if status not in (1, 2) or not failed:
        raise RuntimeError(f"the tests ended with status {status}:\n{output[-2000:]}")
    return True, failed[1]


def _child(tests: Sequence[str], folder: Path) -> None:
    """Run the test files in a copy and end with pytest's status; output goes to OUTPUT there."""
    os.setsid()  # what the tests start is ended with them
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_LIMIT, MEMORY_LIMIT))
    gc.freeze()  # what the server has loaded is no garbage: do not look through it
    os.chdir(folder)
    with open(OUTPUT, "w", encoding="utf-8") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
        sys.path.insert(0, str(folder))
        import utils

        if not Path(utils.__file__).is_relative_to(folder):
            print(f"the tests would import {utils.__file__}")
            status = 70
        else:
            status = pytest.main([*PYTEST, f"--rootdir={folder}", *(f"tests/{t}" for t in tests)])
        sys.exit(status)


def run_tests(tests: Sequence[str], folder: Path, limit: float = TIME_LIMIT) -> tuple[bool, str]:
    """`verdict` of the test files in a copy; one that exceeds the time limit is caught by it."""
    process = SERVER.Process(target=_child, args=(tests, folder))
    process.start()
    try:
        process.join(limit)
        if process.exitcode is None:
            return True, f"the time limit of {limit:g} s"
    finally:
        if process.exitcode is None:
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:  # it has not become the leader of its group yet
                process.kill()
            process.join()
    output = (folder / OUTPUT).read_text(encoding="utf-8", errors="replace")
    return verdict(process.exitcode, output)


def measure(mutation: Mutation, folder: Path) -> dict:
    """One mistake, made in a copy of the repository and taken back; the result as it is stored."""
    path = folder / mutation.file
    right = path.read_text(encoding="utf-8")
    path.write_text(mutated(mutation, folder), encoding="utf-8")
    began = time.monotonic()
    try:
        caught, by = run_tests(mutation.tests, folder)
    finally:
        path.write_text(right, encoding="utf-8")
    result = {"file": mutation.file, "kind": mutation.kind, "old": mutation.old}
    result |= {"new": mutation.new, "caught": caught, "by": by}
    return result | {"seconds": round(time.monotonic() - began)}


def key_of(result: dict) -> tuple[str, str, str]:
    """The `Mutation.key` of a stored result."""
    return result["file"], result["old"], result["new"]


def complaints(mutations: Sequence[Mutation], results: Sequence[dict]) -> list[str]:
    """What the results lack: a mistake without result, an explanation, a stale one, the rate."""
    known = {key_of(result): result["caught"] for result in results}
    found = [f"{m.file}: {m.old!r} has no result" for m in mutations if m.key not in known]
    for mutation in mutations:
        caught = known.get(mutation.key)
        if caught is False and not mutation.survives:
            found.append(f"{mutation.file}: {mutation.old!r} -> {mutation.new!r} was missed")
        if caught and mutation.survives:
            found.append(f"{mutation.file}: {mutation.old!r} was caught: drop its explanation")
    if results and rate_of(results) < LEAST_RATE:
        found.append(f"{rate_of(results):.1%} were caught: need {LEAST_RATE:.0%}")
    return found


def rate_of(results: Sequence[dict]) -> float:
    """The share of the mistakes that the tests caught."""
    return sum(result["caught"] for result in results) / len(results)


def write_results(results: Sequence[dict]) -> None:
    """The results in the table's order, with date, machine and versions."""
    from utils import profiles  # here: a child that has `utils` could not load the copy's

    document = {
        "date": datetime.date.today().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": profiles.versions(),
        "mutants": len(results),
        "caught": sum(result["caught"] for result in results),
        "rate": round(rate_of(results), 4),
        "results": list(results),
    }
    write_whole(RESULTS, json.dumps(document, indent=1, ensure_ascii=False) + "\n")


def stored() -> dict[tuple[str, str, str], dict]:
    """The results of earlier runs by key."""
    if not RESULTS.exists():
        return {}
    return {key_of(r): r for r in json.loads(RESULTS.read_text(encoding="utf-8"))["results"]}


def main() -> int:
    """Measure what is not measured yet; the file is written after each mistake."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", metavar="FILE", help="these files")
    parser.add_argument("--again", action="store_true", help="measure what is known once more")
    parser.add_argument("--jobs", type=int, default=1, help="mistakes at a time")
    args = parser.parse_args()
    use_fixed_env()
    os.environ.pop("COURSE_DATA_DIR", None)  # tests on real data are slow, and not everyone's
    os.environ.update(TEST_ENV)
    SERVER.set_forkserver_preload(LIBRARIES)
    if wrong := problems(MUTATIONS):
        print(*wrong, sep="\n", file=sys.stderr)
        return 1
    if unknown := set(args.only or ()) - {mutation.file for mutation in MUTATIONS}:
        parser.error(f"no mistakes are declared for {', '.join(sorted(unknown))}")
    old = stored()
    results = {m.key: old[m.key] for m in MUTATIONS if m.key in old}

    def is_known(mutation: Mutation) -> bool:
        result = results.get(mutation.key)
        return result is not None and (result["caught"] or bool(mutation.survives))

    chosen = [m for m in MUTATIONS if not args.only or m.file in args.only]
    todo = [m for m in chosen if args.again or not is_known(m)]
    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(args.jobs) as pool:
        folders: SimpleQueue[Path] = SimpleQueue()
        for number in range(args.jobs if todo else 0):
            folder = Path(scratch).resolve() / str(number)
            shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(*NOT_COPIED))
            folders.put(folder)
        if todo:
            tests = sorted({test for mutation in todo for test in mutation.tests})
            print(f"without a mistake: {len(tests)} test files", flush=True)
            if failed := run_tests(tests, folder, 5 * TIME_LIMIT)[1]:
                print((folder / OUTPUT).read_text(encoding="utf-8", errors="replace")[-4000:])
                raise SystemExit(f"{failed} stops the tests without any mistake: correct that")

        def work(mutation: Mutation) -> tuple[Mutation, dict]:
            folder = folders.get()
            try:
                return mutation, measure(mutation, folder)
            finally:
                folders.put(folder)

        try:
            for number, done in enumerate(as_completed([pool.submit(work, m) for m in todo]), 1):
                mutation, result = done.result()
                results[mutation.key] = result
                write_results([results[m.key] for m in MUTATIONS if m.key in results])
                outcome = f"caught by {result['by']}" if result["caught"] else "MISSED"
                print(
                    f"[{number}/{len(todo)}] {mutation.file}, {mutation.kind}, {mutation.old!r}: "
                    f"{outcome}, {result['seconds']} s",
                    flush=True,
                )
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    ordered = [results[m.key] for m in MUTATIONS if m.key in results]
    caught = sum(result["caught"] for result in ordered)
    print(f"{caught} of {len(ordered)} mistakes were caught")
    for mutation in MUTATIONS:
        if mutation.survives:
            print(f"  survives: {mutation.file}, {mutation.old!r}: {mutation.survives}")
    wrong = complaints(chosen, ordered)
    print(*wrong, sep="\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
