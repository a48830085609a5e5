"""Stored results know what made them, and a change of the code that made them is noticed."""

import json

import nbformat
import pytest

from scripts import run_seeds
from tools import fingerprint


def test_only_the_program_counts():
    plain = "def f(x):\n    return -x\n"
    dressed = '# why\ndef f( x ):\n    """What."""\n\n    return -x  # a sign\n'
    assert fingerprint.essence(plain) == fingerprint.essence(dressed)
    assert fingerprint.essence(plain) != fingerprint.essence(plain.replace("-x", "x"))


def test_a_program_has_one_hash_with_every_python():
    """`ast.dump` differs between 3.11, 3.12 and 3.13."""
    program = "def f(*, x=None):\n    return f'{x!r:>3}', u'a', []"
    assert fingerprint._hash(fingerprint.essence(program)) == "4b4056547135106e"


def test_modules_behind_a_cell_include_what_they_import():
    found = fingerprint.modules_behind(["from utils.losses import grpo_loss"])
    assert {"utils.losses", "utils.kl", "utils.logprobs"} <= found.keys()
    assert not any(name.startswith(fingerprint.ONLY_SHOWN) for name in found)


def test_another_library_is_no_module_of_the_project():
    assert fingerprint.modules_behind(["import torch.nn, math\nfrom trl import GRPOConfig"]) == {}


def test_weights_are_those_that_the_cells_name():
    assert set(fingerprint.weights_behind(["load(profile)"])) == {"base"}
    assert set(fingerprint.weights_behind(['load(profile, "sft")'])) == {"base", "sft"}


def test_the_pins_that_decide_a_number_are_there():
    assert set(fingerprint.pins()) == set(fingerprint.DECIDING)


@pytest.fixture
def lesson(tmp_path, monkeypatch):
    """A repository with one notebook; a function that stores a result of it, and the file."""
    for folder in ("notebooks", "benchmarks/results", "utils", "assets/tiny/base"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "constraints.txt").write_text("torch==2.13.0\n")
    (tmp_path / "assets/tiny/base/model.safetensors").write_bytes(b"weights")
    module, notebook = tmp_path / "utils/half.py", tmp_path / "notebooks/01_few.ipynb"
    module.write_text("def half(x):\n    return x / 2\n")
    cells = [nbformat.v4.new_code_cell("from utils.half import half\n\nsummary = {'h': half(2)}")]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), notebook)
    monkeypatch.setattr(fingerprint, "ROOT", tmp_path)
    monkeypatch.setattr(fingerprint, "ACCEPTED", tmp_path / "benchmarks/accepted.json")
    fingerprint._module.cache_clear()
    out = tmp_path / "benchmarks/results/01_few.json"
    results = run_seeds.Results(out, notebook)
    results.runs[0] = {"seed": 0, "seconds": 60, "summary": {"h": 1.0}, "by": results.key}
    results.write()
    yield tmp_path, module, notebook, out
    fingerprint._module.cache_clear()


def change(module, old="x / 2", new="x / 3"):
    module.write_text(module.read_text().replace(old, new))
    fingerprint._module.cache_clear()


def test_a_result_is_up_to_date_until_its_code_changes(lesson):
    _, module, _, out = lesson
    assert fingerprint.stale(out) == {}
    change(module, "    return", "    # half of it\n    return")
    assert fingerprint.stale(out) == {}
    change(module)
    assert fingerprint.stale(out) == {"seed 0": ["modules utils.half"]}


def test_cells_weights_and_pins_count_too(lesson):
    root, _, notebook, out = lesson
    node = nbformat.read(notebook, as_version=4)
    node.cells[0].source += "\nsummary['h'] += 1"
    nbformat.write(node, notebook)
    (root / "assets/tiny/base/model.safetensors").write_bytes(b"other weights")
    (root / "constraints.txt").write_text("torch==2.14.0\n")
    assert fingerprint.stale(out) == {
        "seed 0": ["cells 01_few.ipynb", "weights base", "pins torch"]
    }


def test_an_accepted_change_counts_until_the_next_one(lesson):
    root, module, notebook, out = lesson
    change(module, "x / 2", "x * 0.5")
    now = fingerprint.fingerprint(notebook)["modules"]["utils.half"]
    entry = {"result": out.name, "kind": "modules", "name": "utils.half", "hash": now}
    (root / "benchmarks/accepted.json").write_text(json.dumps([entry]))
    assert fingerprint.stale(out) == {}
    change(module, "x * 0.5", "x * 0.4")
    assert fingerprint.stale(out) == {"seed 0": ["modules utils.half"]}


def test_an_older_run_stays_until_it_is_measured_again(lesson, capsys):
    _, module, notebook, out = lesson
    change(module)
    results = run_seeds.Results(out, notebook)
    results.announce([0, 1])
    assert "seeds to measure: 0, 1; last time 2 minutes" in capsys.readouterr().out
    results.runs[1] = {"seed": 1, "seconds": 60, "summary": {"h": 0.7}, "by": results.key}
    results.write()
    assert fingerprint.stale(out) == {"seed 0": ["modules utils.half"]}
    document = json.loads(out.read_text())
    assert [run["summary"]["h"] for run in document["runs"]] == [1.0, 0.7]
    assert len(document["made_by"]) == 2


def test_every_stored_result_was_made_by_this_code():
    """Measure what is named with `make seeds` or `make sweep`.

    Or list it in benchmarks/stale.json with the reason why it stands for the time being.
    """
    known = json.loads((fingerprint.ROOT / "benchmarks/stale.json").read_text(encoding="utf-8"))
    found = {file.name: fingerprint.stale(file) for file in fingerprint.result_files()}
    assert {name: runs for name, runs in found.items() if runs and name not in known} == {}
    assert [name for name in known if not found.get(name)] == []  # up to date: drop the entry
    assert all(known.values())


def test_a_sweep_keeps_no_variant_that_its_notebook_dropped():
    for file in fingerprint.RESULTS.glob("*_sweep.json"):
        for run in json.loads(file.read_text(encoding="utf-8"))["runs"]:
            assert run["summary"].keys() == run["seconds"].keys() == run["by"].keys(), file.name
