"""Environment of the engine tests. Imports no library: Unsloth has to come before the others.

Run with `--confcutdir tests/engines/real`, so that `tests/conftest.py`, which imports transformers,
stays out. `tools/run_engines.py` does, and gives each engine a process of its own.
"""

import os
import re
from pathlib import Path

import pytest

BUILD = Path(__file__).resolve().parents[3] / "build" / "engines"

os.environ |= {
    "COURSE_PROFILE": "tiny",
    "COURSE_RUNS": str(BUILD / "runs"),
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "UNSLOTH_COMPILE_LOCATION": str(BUILD / "unsloth"),
    "UNSLOTH_DISABLE_STATISTICS": "1",
    "UNSLOTH_FORCE_CPU": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
    # The engine in this process: no worker processes to start, none to leave behind.
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_LOGGING_LEVEL": "ERROR",
}


@pytest.fixture
def measure(record_property):
    """measure(name, value): a number for benchmarks/results/engines.json."""

    def record(name: str, value: float) -> None:
        record_property(f"number: {name}", value)

    return record


@pytest.fixture
def cannot(record_property):
    """cannot(what, kind, part, call): `call` raises `kind`, its message matches `part`; recorded.

    For what an engine does on a GPU only. The test fails when the call works after all.
    """

    def check(what: str, kind: type[Exception], part: str, call) -> None:
        with pytest.raises(kind, match=part) as caught:
            call()
        lines = str(caught.value).splitlines()
        line = next(line for line in lines if re.search(part, line)).strip()
        line = re.sub(r" \(/.*?\)| \[type=.*", "", line)  # a place on this machine; a dump
        record_property(f"cannot: {what}", f"{kind.__name__}: {line}")

    return check
