"""Executing notebooks: what is stored, what is reported, and what nbval is told to ignore."""

import re
from pathlib import Path

import nbformat
import pytest
from nbval.plugin import get_sanitize_patterns

from scripts import run_notebooks
from utils import results

SANITIZE = (run_notebooks.ROOT / "tests/sanitize.cfg").read_text(encoding="utf-8")
BAR = "from tqdm.auto import tqdm\nfor _ in tqdm(range(4), desc='train'):\n    pass"


@pytest.fixture
def course(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A course without notebooks at a path with a space."""
    folder = tmp_path / "a course"
    (folder / "notebooks").mkdir(parents=True)
    monkeypatch.setattr(run_notebooks, "ROOT", folder)
    monkeypatch.setattr(run_notebooks, "BUILD", folder / "build")
    monkeypatch.setattr(run_notebooks, "use_fixed_env", lambda: None)
    return folder


def write_notebook(course: Path, name: str, *sources: str) -> Path:
    """A notebook that was never run, with the metadata an editor leaves behind."""
    cells = [nbformat.v4.new_markdown_cell("# The title")]
    for source in sources:
        metadata = {
            "tags": ["kept"],
            "execution": {"shell.execute_reply": "2026"},
            "scrolled": True,
        }
        cells.append(nbformat.v4.new_code_cell(source, metadata=metadata))
    nb = nbformat.v4.new_notebook(cells=cells)
    nb.metadata = nbformat.from_dict({"kernelspec": {"name": "mine", "display_name": "My venv"}})
    path = course / "notebooks" / name
    nbformat.write(nb, path)
    return path


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """The script's exit status for these arguments."""
    monkeypatch.setattr("sys.argv", ["run_notebooks.py", *arguments])
    return run_notebooks.main()


def test_a_notebook_starts_from_the_shipped_checkpoints(
    course: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = "import os, pathlib\nruns = pathlib.Path(os.environ['COURSE_RUNS'])\n"
    source += "print(runs.name, runs.exists())\nruns.mkdir(parents=True)"
    path = write_notebook(course, "01_good.ipynb", source)
    monkeypatch.setenv("COURSE_RUNS", "")
    for _ in range(2):  # what the first left is gone
        assert call(monkeypatch, "--in-place", "01") == 0
        (code,) = nbformat.read(path, as_version=4).cells[1:]
        assert code.outputs[0].text == "01_good False\n"


def test_in_place_stores_outputs_without_what_differs(
    course: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_notebook(course, "01_good.ipynb", "print('hello')", BAR, "2 + 2")
    assert call(monkeypatch, "--in-place", "01") == 0
    nb = nbformat.read(path, as_version=4)
    code = [cell for cell in nb.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == [1, 2, 3]
    assert code[0].outputs[0].text == "hello\n"
    assert code[1].outputs[0].data == {"text/plain": "train: 100%|██████████| 4/4"}
    assert code[2].outputs[0].data == {"text/plain": "4"}
    assert all(cell.metadata == {"tags": ["kept"]} for cell in code)
    assert nb.metadata.keys() == {"kernelspec", "language_info"}
    assert nb.metadata.kernelspec.name == "python3"
    assert "version" not in nb.metadata.language_info
    assert not list(course.rglob("*.part"))


def test_a_run_with_stderr_is_reported_and_not_stored(
    course: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    path = write_notebook(course, "01_loud.ipynb", "import warnings; warnings.warn('old name')")
    before = path.read_bytes()
    assert call(monkeypatch, "--in-place", "01") == 1
    out = capsys.readouterr().out
    assert "cell [1] wrote to stderr" in out and "old name" in out
    assert path.read_bytes() == before


def test_a_failing_notebook_is_reported_and_the_others_still_run(
    course: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    write_notebook(course, "01_bad.ipynb", "1 + 1", "x = 1 / 0", "print('never')")
    write_notebook(course, "02_good.ipynb", "1 + 1")
    assert call(monkeypatch) == 1
    out = capsys.readouterr().out
    assert "cell [2], which begins 'x = 1 / 0': ZeroDivisionError: division by zero" in out
    assert re.search(r"02_good +cell +1/1 .* done", out)
    assert "Failed: 01_bad." in out
    index = (course / "build/index.html").read_text(encoding="utf-8")
    assert 'href="01_bad.html"' in index and 'href="02_good.html"' in index
    assert "ZeroDivisionError" in index and "The title" in index
    assert (course / "build/02_good.html").exists()


def test_an_unknown_notebook_lists_the_known_ones(
    course: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_notebook(course, "01_good.ipynb")
    with pytest.raises(SystemExit, match="No notebook begins with '7'. There are: 01_good."):
        call(monkeypatch, "7")
    with pytest.raises(SystemExit, match="NB=01"):
        call(monkeypatch, "--in-place")


def test_no_notebooks_at_all_is_no_failure(course: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert call(monkeypatch) == 0


def sanitized(text: str) -> str:
    """`text` as nbval compares it."""
    for pattern, replacement in get_sanitize_patterns(SANITIZE):
        text = re.sub(pattern, replacement, text)
    return text


def test_nbval_reads_every_rule() -> None:
    assert len(get_sanitize_patterns(SANITIZE)) == SANITIZE.count("regex:") > 0
    assert all(replacement.strip() for _, replacement in get_sanitize_patterns(SANITIZE))


@pytest.mark.parametrize(
    ("stored", "run"),
    [
        ("train: 100%|██████████| 4/4", "train:   0%|          | 0/4 [00:00<?, ?it/s]"),
        ("25it", "0it [00:00, ?it/s]"),
        ("train: 25it", "train: 0it [00:00, ?it/s]"),
        ("<A object at 0x7f71845>", "<A object at 0x55aa110>"),
        ("torch 2.13.0+cpu, Python 3.11.7", "torch 2.13.0, Python 3.12.1"),
        ("saved /home/me/runs/tiny", "saved /content/course/runs/tiny"),
        ("took 12.5 s", "took 90 s"),
        ("2026-11-21 10:00", "2027-01-02 23:59:59"),
    ],
)
def test_what_differs_between_machines_is_ignored(stored: str, run: str) -> None:
    assert sanitized(stored) == sanitized(run)


@pytest.mark.parametrize(
    ("stored", "run"),
    [
        ("accuracy 0.51", "accuracy 0.52"),
        ("500 prompts", "501 prompts"),
        ("tensor([0.1000, 0.2000])", "tensor([0.1000, 0.2001])"),
        ("50%|yes|", "60%|yes|"),
        ("saved runs/tiny/sft", "saved runs/tiny/base"),
        ("split it", "quit it"),
    ],
)
def test_what_a_notebook_claims_is_compared(stored: str, run: str) -> None:
    assert sanitized(stored) != sanitized(run)


def test_claims_of_a_stored_or_tested_notebook_can_stop_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in {*run_notebooks.FIXED_ENV, *run_notebooks.DROPPED_ENV, "COURSE_CLAIMS"}:
        monkeypatch.setenv(name, "print")  # whatever the shell has exported; undone afterwards
    run_notebooks.use_fixed_env()
    with pytest.raises(AssertionError, match="it rose: False"):
        results.claim("it rose", False)
