"""Every answer key that a notebook prints passes the check of its exercise."""

import ast
import json
import re
from pathlib import Path

import pytest

from exercises import check
from exercises.judge import verdict

NOTEBOOKS = sorted((Path(__file__).resolve().parents[2] / "notebooks").glob("*.ipynb"))
STUB = re.compile(r"^check\.(\w+)\((my_\w+)\)", re.M)
FOLDED = re.compile(r"<details>.*?```python\n(.*?)```.*?</details>", re.S)
PRINTED = re.compile(r"^display\.answer_key\((.+)\)", re.M)


def cells(path):
    found = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [(cell["cell_type"], "".join(cell["source"])) for cell in found]


def imported(path, source):
    """The names of a source that the notebook imports."""
    used = {n.id for n in ast.walk(ast.parse(source)) if isinstance(n, ast.Name)}
    scope = {}
    for kind, text in cells(path):
        if kind != "code":
            continue
        text = re.sub(r"^\s*[!%].*$", "", text, flags=re.M)
        try:
            nodes = ast.parse(text).body
        except SyntaxError:  # a shell command inside a block
            continue
        for node in nodes:
            if isinstance(node, ast.Import | ast.ImportFrom):
                node.names = [a for a in node.names if (a.asname or a.name).split(".")[0] in used]
                if node.names:
                    exec(ast.unparse(node), scope)
    return scope


def exercises_of(path):
    """(name of the check, [folded sources], [printed expressions]) for each stub."""
    found = []
    for kind, text in cells(path):
        if kind == "code" and (stub := STUB.search(text)):
            found.append((*stub.groups(), [], []))
        elif found and kind == "markdown":
            mine = [code for code in FOLDED.findall(text) if f"def {found[-1][1]}(" in code]
            found[-1][2].extend(mine)
        elif found:
            found[-1][3].extend(PRINTED.findall(text))
    return found


EXERCISES = [(path, *found) for path in NOTEBOOKS for found in exercises_of(path)]


def test_every_exercise_stands_in_a_notebook():
    assert {name for _, name, *_ in EXERCISES} == set(check.__all__) - {"Quiz"}


@pytest.mark.parametrize(("path", "name", "stub", "folded", "printed"), EXERCISES)
def test_the_key_passes_its_check(path, name, stub, folded, printed):
    keys = []
    for source in folded:
        scope = imported(path, source)
        exec(source, scope)
        keys.append(scope[stub])
    if not folded:  # where a folded key stands, what is printed starts at another point
        keys.append(eval(printed[0], imported(path, printed[0])))
    for key in keys:
        assert verdict(key, getattr(check, name)).startswith("Correct: ")


@pytest.mark.parametrize(("path", "name", "stub", "folded", "printed"), EXERCISES)
def test_the_stub_has_the_arguments_that_the_checker_passes(path, name, stub, folded, printed):
    source = next(text for kind, text in cells(path) if kind == "code" and f"def {stub}(" in text)
    function = ast.parse(source).body[0]
    assert [a.arg for a in function.args.args] == getattr(check, name).parameters
    scope = {}
    exec(ast.unparse(function), scope)
    out = verdict(scope[stub], getattr(check, name))
    assert out == "Not attempted yet: the function returned None."
