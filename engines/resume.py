"""Save an unfinished training run and resume it bit for bit: one safetensors file, no pickle."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Generator, nn
from torch.optim import Optimizer

Parts = Mapping[str, Any]  # name -> torch.Generator, or what has state_dict and load_state_dict


def _layout(parts: Parts) -> dict[str, str]:
    """What a file has to agree with: tensors of modules, parameters of optimizers."""
    layout = {label: type(part).__name__ for label, part in parts.items()}
    names = {}
    for label, part in parts.items():
        if isinstance(part, nn.Module):
            names |= {id(p): f"{label}/{name}" for name, p in part.named_parameters()}
            for name, tensor in part.state_dict().items():
                layout[f"{label}/{name}"] = f"{tensor.dtype} {tuple(tensor.shape)}"
    for label, part in parts.items():
        for i, group in enumerate(part.param_groups if isinstance(part, Optimizer) else ()):
            if lost := [tuple(p.shape) for p in group["params"] if id(p) not in names]:
                raise ValueError(f"{label!r} trains a parameter, {lost[0]}, of no module in parts")
            layout[f"{label}, group {i}"] = ", ".join(names[id(p)] for p in group["params"])
    return layout


def save_run(file: str | Path, step: int, parts: Parts, log: Any = None) -> Path:
    """Write the state of all `parts` after `step` steps to `file`, whole or not at all.

    parts: modules, optimizers, schedulers, monitors, generators (torch's global one is not saved).
    `log`: JSON and tensors; a tuple comes back as a list, a dict's key as a string. If saving
    fails, the older file stays. Raises TypeError for anything else in `log`, ValueError for an
    optimizer of a parameter in none of the parts.
    """
    path, tensors = Path(file).expanduser().absolute(), {}

    def stored(value: Any) -> dict[str, str]:  # called for what is not JSON
        if not torch.is_tensor(value):
            raise TypeError(f"{type(value).__name__} is neither JSON nor a tensor: {value!r:.80}")
        key = str(len(tensors))
        tensors[key] = value.detach().to("cpu", copy=True).contiguous()
        return {"tensor": key}

    states = {
        label: part.get_state() if isinstance(part, Generator) else part.state_dict()
        for label, part in parts.items()
    }
    run = {"step": step, "log": log, "layout": _layout(parts), "states": states}
    text = json.dumps(run, default=stored)
    fresh = path.with_name(f".{path.name}.new")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        save_file(tensors, fresh, {"run": text})
        os.replace(fresh, path)
    finally:
        fresh.unlink(missing_ok=True)
    return path


def load_run(file: str | Path, parts: Parts) -> tuple[int, Any] | None:
    """Load what `save_run` wrote into the given parts, in place; returns (step, log).

    None when there is no file. Raises ValueError, with nothing changed, for a damaged file and for
    parts that do not fit it (names what differs).
    """
    path = Path(file).expanduser().absolute()
    if not path.exists():
        return None
    try:
        with safe_open(path, "pt") as opened:  # clone: its tensors are mapped from the file
            tensors = {key: opened.get_tensor(key).clone() for key in opened.keys()}
            text = opened.metadata()["run"]
        run = json.loads(
            text, object_hook=lambda d: tensors[d["tensor"]] if [*d] == ["tensor"] else d
        )
        was = run["layout"]
    except (OSError, SafetensorError, ValueError, TypeError, KeyError) as error:
        raise ValueError(
            f"{path} is damaged or no run ({error}): delete it to start anew."
        ) from error
    now = _layout(parts)
    lines = [
        f"{key}: saved {was.get(key, 'absent')}, now {now.get(key, 'absent')}"
        for key in sorted(was | now)
        if was.get(key) != now.get(key)
    ]
    if lines:
        raise ValueError(f"{path} does not fit; {len(lines)} differ: {'; '.join(lines[:5])}")
    for label, part in parts.items():
        state = run["states"][label]
        if isinstance(part, Optimizer):  # JSON turned the numbers of its parameters into strings
            state["state"] = {int(number): slots for number, slots in state["state"].items()}
        part.set_state(state) if isinstance(part, Generator) else part.load_state_dict(state)
    return run["step"], run["log"]


def resumable(
    file: str | Path, parts: Parts, batches: Sequence[Any], log: list, every: int = 10
) -> Iterator[tuple[int, Any]]:
    """`(step, batch)` of each batch that is still to be trained on, in the place of `enumerate`.

    Goes on from `file` where there is one: `parts` as they were then, `log` filled. The body of the
    loop appends to `log`; after every `every` steps, and after the last, all is saved. A log that
    is shorter than the number of steps done would lose entries: ValueError.
    """
    start, kept = load_run(file, parts) or (0, [])
    log[:] = kept
    for step in range(start, len(batches)):
        yield step, batches[step]
        if len(log) != step + 1:
            raise ValueError(
                f"{len(log)} entries in the log after {step + 1} steps: add one per step"
            )
        if (step + 1) % every == 0 or step + 1 == len(batches):
            save_run(file, step + 1, parts, log)
