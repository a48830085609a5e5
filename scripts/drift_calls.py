"""Collect, without running anything, the calls that code makes into packages that change often."""

import ast
import builtins
import json
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


@dataclass(frozen=True)
class Call:
    """One call: `target` as package.Name or package.Class.method."""

    where: str  # file:line
    target: str
    keywords: tuple[str, ...]
    positional: int
    starred: tuple[str, ...]  # the expressions of *args and **kwargs

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
    local = {
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
    }
    calls: list[Call] = []
    unresolved: list[Unresolved] = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        where = f"{path.name}:{node.lineno}"
        target, name = _target(node.func, imported, local)
        if target is not None and target.split(".")[0] in PACKAGES:
            calls.append(_call(where, target, node))
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
        if function.id in local or function.id in dir(builtins) or function.id == "cls":
            return None, None
        return METHODS.get(function.id), function.id
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


def _call(where: str, target: str, node: ast.Call) -> Call:
    stars = [a.value for a in node.args if isinstance(a, ast.Starred)]
    stars += [k.value for k in node.keywords if k.arg is None]
    return Call(
        where,
        target,
        tuple(k.arg for k in node.keywords if k.arg),
        sum(not isinstance(a, ast.Starred) for a in node.args),
        tuple(map(ast.unparse, stars)),
    )


def _remote(where: str, node: ast.Call) -> list[Call]:
    """The worker's method that `collective_rpc` names, with the keys of its literal kwargs."""
    method = ast.literal_eval(node.args[0])
    given = next((k.value for k in node.keywords if k.arg == "kwargs"), ast.Dict([], []))
    return [Call(where, RPC[method], tuple(map(ast.literal_eval, given.keys)), 0, ())]
