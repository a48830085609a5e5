"""Collect, without running anything, the calls that code makes into packages that change often."""

import ast
import builtins
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PACKAGES = ("unsloth", "unsloth_zoo", "vllm", "trl", "transformers", "peft")

# Methods of objects whose class the text does not show: name of the method -> what it is.
METHODS = {
    "add_tokens": "transformers.PreTrainedTokenizerBase.add_tokens",
    "apply_chat_template": "transformers.PreTrainedTokenizerBase.apply_chat_template",
    "collective_rpc": "vllm.LLM.collective_rpc",
    "convert_tokens_to_ids": "transformers.PreTrainedTokenizerBase.convert_tokens_to_ids",
    "decode": "transformers.PreTrainedTokenizerBase.decode",
    "disable_adapter": "peft.PeftModel.disable_adapter",
    "encode": "transformers.PreTrainedTokenizerBase.encode",
    "evaluate": "transformers.Trainer.evaluate",
    "fast_generate": "vllm.LLM.generate",  # Unsloth: model.fast_generate = llm.generate
    "generate": "vllm.LLM.generate",
    "load_lora": "unsloth_zoo.vllm_utils.load_lora",  # Unsloth binds the model to it
    "merge_and_unload": "peft.LoraModel.merge_and_unload",
    "model": "transformers.Qwen3ForCausalLM.forward",
    "remove_callback": "transformers.Trainer.remove_callback",
    "reset_prefix_cache": "vllm.LLM.reset_prefix_cache",
    "resize_token_embeddings": "transformers.PreTrainedModel.resize_token_embeddings",
    "save_lora": "unsloth_zoo.vllm_utils.save_lora",  # Unsloth binds the model to it
    "save_model": "transformers.Trainer.save_model",
    "save_pretrained": "peft.PeftModel.save_pretrained",
    "shutdown": "vllm.v1.engine.core_client.EngineCoreClient.shutdown",
    "tokenizer": "transformers.PreTrainedTokenizerBase.__call__",
    "train": "transformers.Trainer.train",
}
# Methods of these names that are torch's when called on something called `model`.
OF_TORCH = ("model.train",)
# What `collective_rpc("name", kwargs={...})` ends up calling.
RPC = {"reload_weights": "vllm.v1.worker.gpu_model_runner.GPUModelRunner.reload_weights"}

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
Dicts = dict[str, list[ast.expr]]


@dataclass(frozen=True)
class Call:
    """One call: `target` as package.Name or package.Class.method."""

    where: str  # file:line
    target: str
    keywords: tuple[str, ...]
    positional: int
    starred: tuple[str, ...]  # what * and ** hide: dicts whose keys the file shows are keywords

    def __str__(self) -> str:
        return f"{self.where} {self.target}"


@dataclass(frozen=True)
class Unresolved:
    """A call of something whose class or function the text does not show."""

    where: str
    name: str


def read_source(path: Path) -> str:
    """Python text of a module, or of the code cells of a notebook."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".ipynb":
        return text
    cells = [c for c in json.loads(text)["cells"] if c["cell_type"] == "code"]
    lines = "\n".join("".join(cell["source"]) for cell in cells).splitlines()
    return "\n".join("" if line.lstrip().startswith(("%", "!")) else line for line in lines)


def collect(path: Path) -> tuple[list[Call], list[Unresolved]]:
    """Calls into `PACKAGES` that a file makes, and calls that the text alone does not resolve.

    Resolved are imported names, `Class.method` of imported classes, and the names in `METHODS`.
    Left out are functions that the file defines, builtins, and what other packages provide.
    """
    tree = ast.parse(read_source(path))
    imported = _imports(tree)
    named = [n for n in ast.walk(tree) if isinstance(n, (*FUNCTIONS, ast.ClassDef))]
    # An argument that is called is a function that this file was given.
    local = {n.name for n in named} | {n.arg for n in ast.walk(tree) if isinstance(n, ast.arg)}
    calls: list[Call] = []
    unresolved: list[Unresolved] = []
    for node, dicts in _calls(tree, {}):
        where = f"{path.name}:{node.lineno}"
        target, name = _target(node.func, imported, local)
        if target is not None and target.split(".")[0] in PACKAGES:
            calls.append(_call(where, target, node, dicts))
            calls += _remote(where, node) if name == "collective_rpc" else []
        elif target is None and name is not None:
            unresolved.append(Unresolved(where, name))
    return calls, unresolved


def _imports(tree: ast.Module) -> dict[str, str]:
    """Name in the file -> dotted name in its package."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                found[alias.asname or alias.name.split(".")[0]] = (
                    alias.name if alias.asname else alias.name.split(".")[0]
                )
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                found[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    return found


def _target(
    function: ast.expr, imported: dict[str, str], local: set[str]
) -> tuple[str | None, str | None]:
    """(dotted target or None, method name or None); (None, None) for a function known here."""
    if isinstance(function, ast.Name):
        if function.id in imported:
            return imported[function.id], None
        if function.id in METHODS:
            return METHODS[function.id], function.id
        if function.id in local or function.id in dir(builtins):
            return None, None
        return None, function.id
    if not isinstance(function, ast.Attribute):
        return None, ast.unparse(function)
    root = function
    while isinstance(root, ast.Attribute):
        root = root.value
    if isinstance(root, ast.Name) and root.id in imported:
        return f"{imported[root.id]}.{ast.unparse(function).partition('.')[2]}", None
    if isinstance(root, ast.Name) and root.id == "self" and function.attr in local:
        return None, None
    if isinstance(root, ast.Call) and ast.unparse(root.func) == "super":
        return None, None
    if ".".join(ast.unparse(function).split(".")[-2:]) in OF_TORCH:
        return None, None
    return METHODS.get(function.attr), function.attr


def _calls(scope: ast.AST, outer: Dicts) -> Iterator[tuple[ast.Call, Dicts]]:
    """Each call with the dicts whose names it sees, functions within functions included."""
    within = list(_within(scope))
    arguments = (
        [n.arg for n in ast.walk(scope.args) if isinstance(n, ast.arg)]
        if isinstance(scope, FUNCTIONS)
        else []
    )
    own = _dicts(within)
    dicts = {n: v for n, v in outer.items() if n not in own and n not in arguments} | own
    for node in within:
        if isinstance(node, ast.Call):
            yield node, dicts
        if isinstance(node, FUNCTIONS):
            yield from _calls(node, dicts)


def _within(scope: ast.AST) -> Iterator[ast.AST]:
    """The nodes of a scope; of a function in it, only itself."""
    for child in ast.iter_child_nodes(scope):
        yield child
        if not isinstance(child, FUNCTIONS):
            yield from _within(child)


def _dicts(nodes: list[ast.AST]) -> Dicts:
    """Name -> what is assigned to it or merged into it, where that may be a dict of arguments."""
    found: Dicts = {}
    for node in nodes:
        if isinstance(node, ast.Assign | ast.AugAssign):
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            if isinstance(target, ast.Name) and isinstance(node.value, ast.Dict | ast.BinOp):
                found.setdefault(target.id, []).append(node.value)
    return found


def _keys(value: ast.expr, dicts: Dicts) -> tuple[list[str], list[str]]:
    """Keys of a dict expression, and the text of the parts whose keys the file does not show."""
    keys: list[str] = []
    if isinstance(value, ast.Name) and value.id in dicts:
        parts = dicts[value.id]
        dicts = {name: v for name, v in dicts.items() if name != value.id}  # x = {...} | x
    elif isinstance(value, ast.BinOp) and isinstance(value.op, ast.BitOr):
        parts = [value.left, value.right]
    elif isinstance(value, ast.Dict) and all(key is None or _is_text(key) for key in value.keys):
        keys = [key.value for key in value.keys if key is not None]
        parts = [v for k, v in zip(value.keys, value.values, strict=True) if k is None]
    else:
        return [], [ast.unparse(value)]
    found = [_keys(part, dicts) for part in parts]
    keys += [key for more, _ in found for key in more]
    return keys, [text for _, hidden in found for text in hidden]


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def _call(where: str, target: str, node: ast.Call, dicts: Dicts) -> Call:
    keywords = [k.arg for k in node.keywords if k.arg]
    hidden = [ast.unparse(a.value) for a in node.args if isinstance(a, ast.Starred)]
    for keyword in node.keywords:
        if keyword.arg is None:
            keys, rest = _keys(keyword.value, dicts)
            keywords += keys
            hidden += rest
    positional = sum(not isinstance(a, ast.Starred) for a in node.args)
    return Call(where, target, tuple(dict.fromkeys(keywords)), positional, tuple(hidden))


def _remote(where: str, node: ast.Call) -> list[Call]:
    """The worker's method that `collective_rpc` names, with the keys of its literal kwargs."""
    method = ast.literal_eval(node.args[0])
    given = next((k.value for k in node.keywords if k.arg == "kwargs"), ast.Dict([], []))
    return [Call(where, RPC[method], tuple(map(ast.literal_eval, given.keys)), 0, ())]
