"""Save an unfinished training run and resume it bit for bit: safetensors and JSON, no pickle."""

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Generator, Tensor
from torch.nn import Module
from torch.optim import Optimizer


def _places(folder: str | Path) -> tuple[Path, Path, Path]:
    """The checkpoint, the new one while it is written, the older one between two renames."""
    path = Path(folder).expanduser().absolute()
    return path, path.with_name(f".{path.name}.new"), path.with_name(f".{path.name}.old")


def _filled(folder: Path) -> bool:
    return folder.is_dir() and any(folder.iterdir())


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _take_tensors(value: Any, key: str, tensors: dict[str, Tensor]) -> Any:
    """`value` with each tensor in its dicts and lists moved to `tensors` and named in its place."""
    if torch.is_tensor(value):
        tensors[key] = value
        return {"tensor": key}
    if isinstance(value, dict):
        return {k: _take_tensors(v, f"{key}/{k}", tensors) for k, v in value.items()}
    if isinstance(value, list):
        return [_take_tensors(v, f"{key}/{i}", tensors) for i, v in enumerate(value)]
    return value


def _put_tensors(value: Any, tensors: dict[str, Tensor]) -> Any:
    """The inverse of `_take_tensors`; integer keys, which JSON turns into strings, come back."""
    if isinstance(value, dict):
        if value.keys() == {"tensor"}:
            return tensors[value["tensor"]].clone()
        return {int(k) if k.isdigit() else k: _put_tensors(v, tensors) for k, v in value.items()}
    return [_put_tensors(v, tensors) for v in value] if isinstance(value, list) else value


def _inspect(
    modules: dict[str, Module], optimizers: dict[str, Optimizer], generator: Generator | None
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Live tensors as `module/name`, a tied one once; and what a checkpoint has to agree with."""
    named = {}
    for label, module in modules.items():
        for name, tensor in module.state_dict(keep_vars=True).items():
            named.setdefault(id(tensor), (f"{label}/{name}", tensor))
    live = dict(named.values()) | ({"generator": generator.get_state()} if generator else {})
    layout = {name: f"{tensor.dtype} {tuple(tensor.shape)}" for name, tensor in live.items()}
    for label, optimizer in optimizers.items():
        layout[f"optimizer {label}"] = type(optimizer).__name__
        pairs = [(i, p) for i, group in enumerate(optimizer.param_groups) for p in group["params"]]
        for number, (group, parameter) in enumerate(pairs):
            if id(parameter) not in named:
                raise ValueError(
                    f"optimizer {label!r} trains a parameter of shape {tuple(parameter.shape)} "
                    "that is in none of `modules`: pass its module too."
                )
            key = f"optimizer {label}, parameter {number}"
            layout[key] = f"{named[id(parameter)][0]} in group {group}"
    return live, layout


def save_run(
    folder: str | Path,
    step: int,
    modules: dict[str, Module],
    optimizers: dict[str, Optimizer],
    generator: Generator | None = None,
    log: Any = None,
) -> Path:
    """Write a run's state after `step` steps to `folder`, whole or not at all.

    `log` is JSON: a tuple comes back as a list, a dict's key as a string. Not saved: torch's global
    generator, lr schedulers. If saving fails, the older checkpoint stays. Raises TypeError for what
    is not JSON, ValueError for an optimizer of a parameter outside `modules`, FileExistsError for
    a folder that holds something else.
    """
    path, fresh, old = _places(folder)
    if _filled(path) and not (path / "run.json").is_file():
        raise FileExistsError(f"{path} holds something else than a run: choose another folder.")
    live, layout = _inspect(modules, optimizers, generator)
    tensors = {name: tensor.detach() for name, tensor in live.items()}
    run = {"step": step, "log": log, "layout": layout, "optimizers": {}}
    for label, optimizer in optimizers.items():
        content = _take_tensors(optimizer.state_dict(), f"optimizer {label}", tensors)
        run["optimizers"][label] = content
    try:
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
        # Copies: safetensors refuses tensors that share memory or are not contiguous.
        tensors = {key: t.to("cpu", copy=True).contiguous() for key, t in tensors.items()}
        save_file(tensors, fresh / "tensors.safetensors")
        run["sha256"] = _sha256(fresh / "tensors.safetensors")
        (fresh / "run.json").write_text(json.dumps(run), encoding="utf-8")
        if _filled(path):
            shutil.rmtree(old, ignore_errors=True)
            os.replace(path, old)  # a folder cannot replace a folder that is not empty
        os.replace(fresh, path)
    finally:
        if _filled(old) and not _filled(path):
            os.replace(old, path)
        for leftover in (fresh, old):
            shutil.rmtree(leftover, ignore_errors=True)
    return path


def load_run(
    folder: str | Path,
    modules: dict[str, Module],
    optimizers: dict[str, Optimizer],
    generator: Generator | None = None,
) -> tuple[int, Any] | None:
    """Load what `save_run` wrote into the given objects, in place; returns (step, log).

    None when there is no checkpoint. After a crash between the two renames of `save_run`, reads the
    older one. Raises ValueError, with nothing changed, for a damaged checkpoint and for objects
    that do not fit it (names what differs).
    """
    path, _, old = _places(folder)
    place = path if _filled(path) else old
    if not _filled(place):
        return None
    try:
        run = json.loads((place / "run.json").read_text(encoding="utf-8"))
        if _sha256(place / "tensors.safetensors") != run["sha256"]:
            raise ValueError("tensors.safetensors does not match the checksum in run.json")
    except (FileNotFoundError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{place} is damaged ({error}): delete it to start anew.") from error
    live, now = _inspect(modules, optimizers, generator)
    was = run["layout"]
    differ = [key for key in sorted(was | now) if was.get(key) != now.get(key)]
    if differ:
        lines = [f"{k}: saved {was.get(k, 'absent')}, now {now.get(k, 'absent')}" for k in differ]
        raise ValueError(f"{place} does not fit; {len(lines)} differ: " + "; ".join(lines[:5]))
    saved = load_file(place / "tensors.safetensors")
    with torch.no_grad():
        for name, tensor in live.items():
            tensor.copy_(saved[name])
    if generator:
        generator.set_state(saved["generator"])
    for label, optimizer in optimizers.items():
        optimizer.load_state_dict(_put_tensors(run["optimizers"][label], saved))
    return run["step"], run["log"]
