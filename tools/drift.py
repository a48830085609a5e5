"""Check the calls of the GPU branch against the packages' own files, pinned and newest.

Usage: python -m tools.drift [--pinned] [--write]      # or: make drift

Downloads the wheels without their dependencies into build/drift (the first time 0.8 GB, most of it
vLLM), reads their Python files without importing them, and prints a row for each call. Exit status
1 when a call does not fit the pinned versions, or when tests/tools/drift/signatures.json or
assets/unsloth_defaults.json are not what the pinned wheels say; `--write` writes both anew.
`--pinned` leaves the newest releases out. What does not fit those is shown and does not fail.
"""

import argparse
import json
import subprocess
import sys
import zipfile
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from engines.defaults import RECORDED, TRAINER_FILES, compare_defaults
from scripts.whole_file import write_whole
from tools.drift_calls import PACKAGES, Call, collect
from tools.drift_signatures import Gone, Signature, Sources
from tools.lock import ROOT, read_pins

BUILD = ROOT / "build" / "drift"
SNAPSHOT = ROOT / "tests" / "tools" / "drift" / "signatures.json"
PINS = ROOT / "constraints-gpu.txt"
# Not in the course's CPU environment: their signatures are kept in the snapshot.
GPU_ONLY = ("unsloth", "unsloth_zoo", "vllm")
# Fields that the code reads from what vLLM returns.
FIELDS = {
    "vllm.RequestOutput": ("outputs",),
    "vllm.CompletionOutput": ("token_ids", "logprobs"),
    "vllm.Logprob": ("logprob",),
}
# What the code relies on and no signature shows: assignments, settings, environment variables.
TEXTS = {
    "unsloth": (
        "model.vllm_engine = ",
        "model.fast_generate = ",
        "model.load_lora = ",
        "model.save_lora = ",
        "UNSLOTH_RETURN_HIDDEN_STATES",
    ),
    "vllm": ("self.llm_engine = ", "self.engine_core = ", '"processed_logprobs"'),
}
WHEELS = ["--only-binary", ":all:", "--platform", "manylinux_2_28_x86_64", "--implementation"]
WHEELS += ["cp", "--python-version", "3.11", "--abi", "cp311", "--abi", "abi3", "--abi", "none"]
Row = tuple[str, str, str, str]  # package, version, call, ok or what is gone


def code_files() -> list[Path]:
    """The GPU branch: the engines and the lesson that uses them."""
    lesson = ROOT / "notebooks" / "06_qwen3_4b_grpo.ipynb"
    return sorted((ROOT / "engines").glob("*.py")) + ([lesson] if lesson.exists() else [])


@cache
def calls() -> tuple[Call, ...]:
    """Every call of the GPU branch into `PACKAGES`."""
    return tuple(call for file in code_files() for call in collect(file)[0])


def problem(call: Call, sources: Sources) -> str:
    """What of a call does not fit; "" when it does."""
    try:
        return "; ".join(sources.signature(call.target).problems(call))
    except Gone as gone:
        return str(gone)


def snapshot(sources: Sources, versions: dict[str, str]) -> dict[str, Any]:
    """What the GPU branch uses of the packages in `GPU_ONLY`, as JSON. Raises Gone."""
    result = {}
    for package in GPU_ONLY:
        targets = {c.target for c in calls()} | FIELDS.keys()
        ours = sorted(t for t in targets if t.split(".")[0] == package)
        signatures = {target: asdict(sources.signature(target)) for target in ours}
        texts = [t for t in TEXTS.get(package, ()) if sources.text_has(package, t)]
        result[package] = {"version": versions[package], "signatures": signatures, "texts": texts}
    return json.loads(json.dumps(result))


class Recorded(Sources):
    """Sources whose `GPU_ONLY` packages are read from a snapshot."""

    def __init__(self, folders: dict[str, Path], recorded: dict[str, Any]) -> None:
        super().__init__(folders)
        self.recorded = recorded

    def signature(self, target: str) -> Signature:
        """As in `Sources`."""
        package = target.split(".")[0]
        if package not in self.recorded:
            return super().signature(target)
        if (kept := self.recorded[package]["signatures"].get(target)) is None:
            raise Gone(f"{target} is not in {SNAPSHOT.name}: run make drift DRIFT_ARGS=--write")
        return Signature(tuple(kept["parameters"]), tuple(kept["required"]), kept["positional"])

    def text_has(self, package: str, text: str) -> bool:
        """As in `Sources`."""
        return text in self.recorded[package]["texts"]


def rows(sources: Sources, versions: dict[str, str]) -> list[Row]:
    """A row for each call, field and text of the packages that `versions` names."""
    result = []
    for call in calls():
        package = call.target.split(".")[0]
        result.append((package, versions[package], str(call), problem(call, sources) or "ok"))
    for target, names in FIELDS.items():
        reader = Call("fields", target, names, 0, ("all",))
        result.append(("vllm", versions["vllm"], str(reader), problem(reader, sources) or "ok"))
    for package, texts in TEXTS.items():
        for text in texts:
            state = "ok" if sources.text_has(package, text) else "no longer in the source"
            result.append((package, versions[package], f"text {text.strip()}", state))
    return sorted(result)


def unpack(requirement: str) -> tuple[str, Path]:
    """Download the wheel of `name` or `name==version`; return its version and its package."""
    package = requirement.partition("==")[0].replace("-", "_")
    target = BUILD / ("pinned" if "==" in requirement else "newest") / package
    target.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", *WHEELS]
    subprocess.run([*command, "--dest", str(target), requirement], check=True)
    wheel = max(target.glob("*.whl"), key=lambda file: file.stat().st_mtime)
    version = wheel.name.split("-")[1]
    folder = target / version
    with zipfile.ZipFile(wheel) as archive:
        names = [n for n in archive.namelist() if n.startswith(f"{package}/") and n[-3:] == ".py"]
        archive.extractall(folder, names)
    return version, folder / package


def fetch(requirements: list[str]) -> tuple[Sources, dict[str, str]]:
    """Sources and versions of some packages."""
    found = dict(zip(PACKAGES, map(unpack, requirements), strict=True))
    return Sources({p: found[p][1] for p in PACKAGES}), {p: found[p][0] for p in PACKAGES}


def show(title: str, table: list[Row]) -> bool:
    """Print a table; return whether every row is ok."""
    print(f"\n{title}")
    width = max(len(row[2]) for row in table)
    for package, version, call, state in [("package", "version", "call", "state"), *table]:
        print(f"{package:<13} {version:<11} {call:<{width}} {state}")
    bad = sum(row[3] != "ok" for row in table)
    print(f"{len(table) - bad} of {len(table)} ok")
    return bad == 0


def main() -> int:
    """Pinned first, then the newest releases."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pinned", action="store_true", help="leave the newest releases out")
    parser.add_argument("--write", action="store_true", help="write the recorded files anew")
    args = parser.parse_args()
    pins = read_pins(PINS)
    names = [package.replace("_", "-") for package in PACKAGES]
    sources, versions = fetch([f"{name}=={pins[name]}" for name in names])
    passed = show("pinned", rows(sources, versions))
    if not passed:
        return 1
    rl = (sources.folders["unsloth"] / "models" / "rl.py").read_text(encoding="utf-8")
    defaults: dict[str, Any] = {name: versions[name] for name in ("trl", "unsloth")}
    defaults |= {config: compare_defaults(rl, config) for config in TRAINER_FILES}
    for path, content in ((SNAPSHOT, snapshot(sources, versions)), (ROOT / RECORDED, defaults)):
        text = json.dumps(content, indent=1) + "\n"
        if args.write:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, text)
        elif not path.exists() or path.read_text(encoding="utf-8") != text:
            print(f"{path.name} is not what the pinned wheels say: DRIFT_ARGS=--write writes it")
            passed = False
    if not args.pinned:
        newest = rows(*fetch(names))
        show("newest releases (nothing here fails)", newest)
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
