"""What functions and classes of a package take, read from its files without importing them."""

import ast
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tools.drift_calls import Call

# Who takes the keywords that a callee only hands on: **kwargs does not make every name right.
PASSED_ON = {
    "vllm.LLM": "vllm.EngineArgs",
    "unsloth.FastLanguageModel.get_peft_model": "unsloth.FastLlamaModel.get_peft_model",
    "transformers.PreTrainedTokenizerBase.decode": "transformers.PreTrainedTokenizerBase._decode",
}
# Where the class is that counts, when a package defines the name twice.
HOMES = {"unsloth.FastLanguageModel": "models/loader"}  # not the one of its CPU backend
PLAIN = (ast.FunctionDef, ast.AsyncFunctionDef)


class Gone(Exception):
    """A name that is called and that the package does not have."""


@dataclass(frozen=True)
class Signature:
    """`parameters` without self; `positional`: how many of them may come without a name."""

    parameters: tuple[str, ...]
    required: tuple[str, ...]
    positional: int

    def problems(self, call: Call) -> list[str]:
        """What of a call does not fit: unknown keywords, too many or missing arguments."""
        found = [f"no argument {name!r}" for name in call.keywords if name not in self.parameters]
        if call.positional > self.positional:
            found.append(f"takes {self.positional} positional arguments, gets {call.positional}")
        if not call.starred:
            given = {*self.parameters[: call.positional], *call.keywords}
            found += [f"needs {name!r}" for name in self.required if name not in given]
        return found


class Sources:
    """The Python files of some packages: {package: its folder}."""

    def __init__(self, folders: dict[str, Path]) -> None:
        self.folders = folders

    def signature(self, target: str) -> Signature:
        """Of `package.function`, `package.Class` or `package.Class.method`, modules in between.

        Raises Gone. A class is found by its name, wherever in the package it is defined.
        """
        own = self._own_signature(target)
        if target not in PASSED_ON:
            return own
        further = self._own_signature(PASSED_ON[target]).parameters
        names = (*own.parameters, *(name for name in further if name not in own.parameters))
        return Signature(names, own.required, own.positional)

    def _own_signature(self, target: str) -> Signature:
        package, *path = target.split(".")
        first = next((i for i, part in enumerate(path) if part[:1].isupper()), len(path) - 1)
        name, member = path[first], path[first + 1 :]
        hint = HOMES.get(f"{package}.{name}") or "/".join(path[:first])
        node = self._definition(package, name, hint)
        if isinstance(node, PLAIN):
            # A function that Unsloth binds to a model comes without its first argument.
            return _from_arguments(node.args, bound=name in ("save_lora", "load_lora"))
        if member:
            method = self._method(node, package, member[0])
            if method is None:
                raise Gone(f"{name} has no {member[0]}")
            static = "staticmethod" in map(ast.unparse, method.decorator_list)
            return _from_arguments(method.args, bound=not static)
        return self._constructor(node, package)

    def text_has(self, package: str, text: str) -> bool:
        """Whether the package's source contains a text."""
        return any(text in source for source in _texts(self.folders[package]).values())

    def _definition(self, package: str, name: str, hint: str = "") -> ast.AST:
        """The top-level class or function called `name`; in doubt the one nearest to `hint`."""
        found: list[tuple[bool, int, str, ast.AST]] = []
        for file in _defining(self.folders[package]).get(name, ()):
            aside = bool(hint and hint not in file) or "experimental" in file
            for node in _parsed(self.folders[package], file).body:
                if isinstance(node, (*PLAIN, ast.ClassDef)) and node.name == name:
                    found.append((aside, file.count("/"), file, node))
        if not found:
            raise Gone(f"{package} has no {name}")
        return min(found, key=lambda entry: entry[:3])[3]

    def _bases(self, node: ast.ClassDef, package: str) -> list[ast.ClassDef]:
        """Definitions of the base classes that one of the packages holds."""
        found = []
        for base in node.bases:
            name = ast.unparse(base).split("[")[0].rpartition(".")[2]
            for place in [package, *(p for p in self.folders if p != package)]:
                try:
                    found.append((self._definition(place, name), place))
                    break
                except Gone:
                    continue
        return [entry for entry in found if isinstance(entry[0], ast.ClassDef)]

    def _method(self, node: ast.ClassDef, package: str, name: str) -> ast.FunctionDef | None:
        for statement in node.body:
            if isinstance(statement, PLAIN) and statement.name == name:
                return statement
        for base, place in self._bases(node, package):
            if (method := self._method(base, place, name)) is not None:
                return method
        return None

    def _constructor(self, node: ast.ClassDef, package: str) -> Signature:
        """`__init__`, else the annotated fields of the class and of its bases."""
        own = [s for s in node.body if isinstance(s, PLAIN) and s.name == "__init__"]
        if own:
            return _from_arguments(own[0].args, bound=True)
        fields = [
            (statement.target.id, statement.value is None)
            for statement in node.body
            if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name)
        ]
        inherited: list[str] = []
        required = [name for name, needed in fields if needed]
        for base, place in self._bases(node, package):
            made = self._constructor(base, place)
            inherited += made.parameters
            required += made.required
        names = tuple(dict.fromkeys([*inherited, *(name for name, _ in fields)]))
        return Signature(names, tuple(required), len(names))


def _from_arguments(arguments: ast.arguments, bound: bool) -> Signature:
    named = [a.arg for a in (*arguments.posonlyargs, *arguments.args)]
    optional = named[len(named) - len(arguments.defaults) :] if arguments.defaults else []
    named = named[1:] if bound else named
    alone = [a.arg for a in arguments.kwonlyargs]
    required = [name for name in named if name not in optional]
    required += [
        name for name, value in zip(alone, arguments.kw_defaults, strict=True) if value is None
    ]
    positional = 1000 if arguments.vararg else len(named)
    return Signature((*named, *alone), tuple(required), positional)


@cache
def _texts(folder: Path) -> dict[str, str]:
    """Path inside the package -> text, for each of its Python files."""
    return {
        f"/{file.relative_to(folder).as_posix()}": file.read_text(encoding="utf-8")
        for file in sorted(folder.rglob("*.py"))
    }


@cache
def _defining(folder: Path) -> dict[str, list[str]]:
    """Name of a top-level class or function -> the files that define it."""
    found: dict[str, list[str]] = {}
    for file, text in _texts(folder).items():
        for name in re.findall(r"^(?:class|def|async def) (\w+)", text, re.MULTILINE):
            found.setdefault(name, []).append(file)
    return found


@cache
def _parsed(folder: Path, file: str) -> ast.Module:
    return ast.parse(_texts(folder)[file])
