import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from engines.resume import load_run, resumable, save_run
from utils.monitor import RLMonitor


class Policy(nn.Module):
    """A tied bigram model: the head is the embedding, as in the shipped model."""

    def __init__(self, tied=True, width=8):
        super().__init__()
        self.embed = nn.Embedding(13, width)
        self.mix = nn.Linear(width, width)
        self.head = nn.Linear(width, 13, bias=False)
        if tied:
            self.head.weight = self.embed.weight
        self.register_buffer("uses", torch.zeros((), dtype=torch.long))

    def forward(self, ids):
        self.uses += 1
        return self.head(torch.tanh(self.mix(self.embed(ids))))


def fresh(seed, **settings):
    """A policy, a value head with an optimizer of its own, and a generator."""
    torch.manual_seed(seed)
    policy, value = Policy(**settings), nn.Linear(13, 1)
    decayed = [p for p in policy.parameters() if p.ndim == 2]
    adamw = torch.optim.AdamW(
        [
            {"params": decayed, "weight_decay": 0.1},
            {"params": [policy.mix.bias], "weight_decay": 0.0},
        ],
        lr=0.05,
        betas=(0.8, 0.9),
    )
    sgd = torch.optim.SGD(value.parameters(), lr=0.1, momentum=0.9)
    return {
        "policy": policy,
        "value": value,
        "adamw": adamw,
        "sgd": sgd,
        "generator": torch.Generator().manual_seed(seed),
    }


def train(parts, first, last, log):
    """Policy gradient on sampled tokens; the learning rate falls at each step."""
    for step in range(first, last):
        logits = parts["policy"](torch.arange(13))
        actions = torch.multinomial(logits.softmax(-1), 1, generator=parts["generator"])
        rewards = (actions[:, 0] % 3 == 0).float()
        values = parts["value"](logits.detach())[:, 0]
        logprobs = logits.log_softmax(-1).gather(1, actions)[:, 0]
        loss = -(logprobs * (rewards - values.detach())).mean() + (values - rewards).square().mean()
        loss.backward()
        for name, optimizer in (("policy", parts["adamw"]), ("value", parts["sgd"])):
            nn.utils.clip_grad_norm_(parts[name].parameters(), 0.5)
            optimizer.step()
            optimizer.zero_grad()
            for group in optimizer.param_groups:
                group["lr"] *= 0.9
        log.append({"step": step, "loss": loss.item(), "actions": actions[:, 0].tolist()})
    return log


def bits(parts):
    """Everything that decides the next step, as bytes."""
    found = {}
    for label, part in parts.items():
        if isinstance(part, torch.Generator):
            found[label] = part.get_state().numpy().tobytes()
        elif isinstance(part, nn.Module):
            for name, tensor in part.state_dict().items():
                found[f"{label}.{name}"] = tensor.numpy().tobytes()
        else:
            for index, slots in part.state_dict()["state"].items():
                for slot, value in slots.items():
                    found[f"{label}.{index}.{slot}"] = (value.dtype, value.numpy().tobytes())
            for index, group in enumerate(part.state_dict()["param_groups"]):
                found[f"{label}.group{index}"] = json.dumps(group)
    return found


def files(folder):
    return {f.name: f.read_bytes() for f in folder.iterdir()}


@pytest.fixture
def file(tmp_path):
    return tmp_path / "runs" / "ppo.safetensors"


@pytest.fixture
def saved(file):
    """A checkpoint after three steps, and the run that goes on from it."""
    parts = fresh(0)
    log = train(parts, 0, 3, [])
    assert save_run(file, 3, parts, log) == file
    return parts


# --- resuming


@pytest.mark.parametrize("stop", [0, 1, 4])
def test_an_interrupted_run_ends_in_the_same_bits_and_log(file, stop):
    whole = fresh(0)
    whole_log = train(whole, 0, 7, [])

    first = fresh(0)
    save_run(file, stop, first, train(first, 0, stop, []))
    train(first, stop, 6, [])  # steps after the checkpoint, lost in the crash
    second = fresh(1)
    step, log = load_run(file, second)
    assert step == stop and len(log) == stop
    log = train(second, step, 7, log)

    assert [entry["step"] for entry in log] == list(range(7))
    assert log == whole_log
    assert bits(second) == bits(whole)
    assert second["policy"].head.weight is second["policy"].embed.weight


@pytest.mark.parametrize(("killed", "lost"), [(1, 1), (3, 1), (4, 0), (6, 0)])
def test_a_resumable_loop_goes_on_from_its_last_save(file, killed, lost):
    def run(parts, stop=99):
        log, done = [], []
        for step, batch in resumable(file, parts, "abcdef", log, every=2):
            if step == stop:
                return log, done
            train(parts, step, step + 1, log)
            done.append(batch)
        return log, done

    whole = fresh(0)
    whole_log = train(whole, 0, 6, [])
    run(fresh(0), killed)
    second = fresh(1) if killed > 1 else fresh(0)  # before the first save it starts anew
    log, done = run(second)
    assert log == whole_log
    assert bits(second) == bits(whole)
    assert done == list("abcdef"[killed - lost :])


def test_a_resumable_loop_without_a_log_entry_a_step_is_refused(file):
    loop = resumable(file, fresh(0), "ab", [])
    next(loop)
    with pytest.raises(ValueError, match="0 entries in the log after 1 steps"):
        next(loop)


def test_the_run_used_for_the_test_depends_on_every_part():
    """Else the test above could not see that a part is missing from the checkpoint."""
    start = bits(fresh(0))
    parts = fresh(0)
    train(parts, 0, 3, [])
    end = bits(parts)
    assert {"adamw.0.exp_avg", "adamw.0.step", "sgd.0.momentum_buffer"} <= end.keys()
    assert all(end[key] != start[key] for key in start)


def test_saving_changes_nothing_in_the_run(file):
    parts = fresh(0)
    train(parts, 0, 3, [])
    before = bits(parts)
    save_run(file, 3, parts)
    assert bits(parts) == before


def test_a_loaded_run_does_not_hang_on_the_file(file, saved):
    """safetensors maps files into memory: a tensor kept from there would change with its file."""
    parts = fresh(1)
    load_run(file, parts)
    with file.open("r+b") as stream:
        stream.write(bytes(file.stat().st_size))
    assert bits(parts) == bits(saved)


def test_loading_is_in_place(file, saved):
    parts = fresh(1)
    places = [p.data_ptr() for p in parts["policy"].parameters()]
    load_run(file, parts)
    assert [p.data_ptr() for p in parts["policy"].parameters()] == places


def test_other_layouts_and_types_of_tensors_survive(file):
    """Half precision, no dimensions, not contiguous, a buffer that shares a parameter's memory."""

    def make(fill):
        module = nn.Module()
        module.brain = nn.Parameter(torch.full((2, 3), fill, dtype=torch.bfloat16))
        module.turned = nn.Parameter(torch.arange(6.0).reshape(2, 3).T * fill)
        module.scalar = nn.Parameter(torch.tensor(fill))
        module.listed = nn.ParameterList([torch.full((2,), fill)])  # its keys are numbers
        module.register_buffer("view", module.brain.detach()[0])
        return module

    module, other = make(1.5), make(7.0)
    save_run(file, 1, {"m": module, "list": module.listed})
    load_run(file, {"m": other, "list": other.listed})
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name])


@pytest.mark.parametrize(
    "kind, settings",
    [
        (torch.optim.LBFGS, {"lr": 0.05, "max_iter": 2, "history_size": 3}),
        (torch.optim.Adam, {"lr": torch.tensor(0.3), "amsgrad": True}),
    ],
)
def test_tensors_in_groups_and_lists_survive(file, kind, settings):
    """A learning rate that is a tensor; L-BFGS keeps lists of tensors in its state."""

    def make(seed):
        torch.manual_seed(seed)
        module = nn.Linear(4, 1)
        return {"m": module, "o": kind(module.parameters(), **settings)}

    def steps(parts, count):
        module, optimizer = parts.values()

        def closure():
            optimizer.zero_grad()
            loss = (module(torch.eye(4)) - torch.arange(4.0)[:, None]).square().mean()
            loss.backward()
            return loss

        for _ in range(count):
            optimizer.step(closure)
        assert module.weight.isfinite().all()
        return module.weight.detach().numpy().tobytes()

    parts, other = make(0), make(1)
    steps(parts, 3)
    if kind is torch.optim.LBFGS:
        first, second, *_ = parts["o"].state_dict()["state"][0]["old_dirs"]
        assert not torch.equal(first, second)
    save_run(file, 3, parts)
    load_run(file, other)
    assert steps(other, 2) == steps(parts, 2)


def test_schedulers_and_monitors_are_parts_too(file):
    def make():
        optimizer = torch.optim.SGD([module.weight], lr=0.1)
        decay = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)
        return {"m": module, "o": optimizer, "decay": decay, "monitor": RLMonitor()}

    module = nn.Linear(2, 1)
    parts, other = make(), make()
    parts["o"].step()
    parts["decay"].step()
    parts["monitor"].log(kl=1.5)
    save_run(file, 1, parts)
    load_run(file, other)
    assert other["monitor"].history == [{"kl": 1.5}] and other["decay"].last_epoch == 1
    other["decay"].step()
    assert other["o"].param_groups[0]["lr"] == 0.1 * 0.5 * 0.5


def test_the_log_may_hold_nan_and_tensors(file):
    kl = [float("nan"), float("inf"), 0.1]
    save_run(file, 1, {}, {"kl": kl, "text": "越狱", "mean": torch.tensor(0.5)})
    step, log = load_run(file, {})
    assert step == 1 and log["kl"][0] != log["kl"][0]
    assert log["kl"][1:] == [float("inf"), 0.1] and log["text"] == "越狱"
    assert log["mean"] == torch.tensor(0.5)


# --- the file


def test_it_is_one_safetensors_file_with_readable_metadata(file, saved):
    assert [f.name for f in file.parent.iterdir()] == [file.name]
    header = file.read_bytes()
    header = json.loads(header[8 : 8 + int.from_bytes(header[:8], "little")])
    run = json.loads(header["__metadata__"]["run"])
    assert run["step"] == 3 and run["layout"]["policy/embed.weight"] == "torch.float32 (13, 8)"
    assert run["states"]["adamw"]["param_groups"][0]["lr"] == 0.05 * 0.9 * 0.9 * 0.9
    assert header[run["states"]["generator"]["tensor"]]["dtype"] == "U8"


def test_nothing_is_unpickled(file, saved, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("unpickled")

    for place, name in ((pickle, "load"), (pickle, "loads"), (torch, "load")):
        monkeypatch.setattr(place, name, refuse)
    assert load_run(file, fresh(1))[0] == 3


def test_without_a_file_there_is_nothing_to_load(file):
    parts = fresh(0)
    before = bits(parts)
    assert load_run(file, parts) is None
    assert bits(parts) == before
    save_run(file, 0, parts)
    assert load_run(str(file), parts) == (0, None)


def test_a_file_in_the_home_directory_is_found(file, saved, monkeypatch):
    monkeypatch.setenv("HOME", str(file.parent))
    assert load_run("~/ppo.safetensors", fresh(1))[0] == 3


# --- failures while saving


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
@pytest.mark.parametrize("where", ["engines.resume.save_file", "engines.resume.os.replace"])
def test_a_failure_while_writing_keeps_the_older_file(file, saved, monkeypatch, where, error):
    before = files(file.parent)

    def fail(_, path, *args):
        if where.endswith("save_file"):
            Path(path).write_bytes(b"half")
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(where, fail)
        with pytest.raises(type(error)):
            save_run(file, 4, saved, [])
    assert files(file.parent) == before
    assert load_run(file, fresh(1))[0] == 3


def test_what_a_killed_save_leaves_does_no_harm(file, saved):
    file.with_name(f".{file.name}.new").write_bytes(b"half")
    assert load_run(file, fresh(1))[0] == 3
    save_run(file, 6, saved)
    assert load_run(file, fresh(1))[0] == 6
    assert [f.name for f in file.parent.iterdir()] == [file.name]


def test_what_is_neither_json_nor_a_tensor_is_refused(file, saved):
    before = files(file.parent)
    with pytest.raises(TypeError, match="set is neither JSON nor a tensor: {1, 2}"):
        save_run(file, 4, saved, {"seen": {1, 2}})
    assert files(file.parent) == before


def test_a_parameter_outside_the_modules_is_refused(file):
    parts = fresh(0)
    del parts["value"]
    with pytest.raises(ValueError, match=r"'sgd' trains a parameter, \(1, 13\), of no module"):
        save_run(file, 1, parts)
    assert not file.exists()


# --- files that cannot be used


def cut(file):
    file.write_bytes(file.read_bytes()[:-100])


@pytest.mark.parametrize(
    "damage, said",
    [
        (cut, "Metadata|metadata|header"),
        (lambda file: file.write_bytes(b""), "header"),
        (lambda file: file.write_text("notes of mine"), "header"),
        (lambda file: save_file({"w": torch.ones(2)}, file), "subscriptable"),
        (lambda file: save_file({"w": torch.ones(2)}, file, {"run": "{}"}), "layout"),
        (lambda file: save_file({"w": torch.ones(2)}, file, {"run": "[]"}), "indices"),
        (lambda file: save_file({"w": torch.ones(2)}, file, {"run": "{"}), "property name"),
    ],
)
def test_a_damaged_file_is_named(file, saved, damage, said):
    damage(file)
    parts = fresh(1)
    before = bits(parts)
    with pytest.raises(ValueError, match=f"ppo.safetensors is damaged .*({said}).*delete it"):
        load_run(file, parts)
    assert bits(parts) == before


def doubled(parts):
    parts["policy"].double()
    return parts


def another_optimizer(parts):
    return parts | {"sgd": torch.optim.Adam(parts["value"].parameters())}


def another_order(parts):
    return parts | {"sgd": torch.optim.SGD(reversed(list(parts["value"].parameters())))}


def one_group(parts):
    return parts | {"adamw": torch.optim.AdamW(parts["policy"].parameters())}


def without(name):
    return lambda parts: {label: part for label, part in parts.items() if label != name}


@pytest.mark.parametrize(
    "change, said",
    [
        (
            lambda _: fresh(1, width=4),
            r"policy/embed.weight: saved torch.float32 \(13, 8\), now torch.float32 \(13, 4\)",
        ),
        (lambda _: fresh(1, tied=False), "adamw, group 0: saved .*, now .*policy/head.weight"),
        (doubled, r"policy/mix.bias: saved torch.float32 \(8,\), now torch.float64 \(8,\)"),
        (without("generator"), "1 differ: generator: saved Generator, now absent"),
        (without("sgd"), "sgd: saved SGD, now absent"),
        (another_optimizer, "sgd: saved SGD, now Adam"),
        (another_order, "sgd, group 0: saved value/weight, value/bias, now value/bias, value/w"),
        (one_group, "adamw, group 1: saved policy/mix.bias, now absent"),
    ],
)
def test_parts_that_do_not_fit_are_named_and_left_alone(file, saved, change, said):
    parts = change(fresh(1))
    before = bits(parts)
    with pytest.raises(ValueError, match="ppo.safetensors does not fit; .*" + said):
        load_run(file, parts)
    assert bits(parts) == before


def test_a_missing_module_is_named(file, saved):
    parts = fresh(1)
    with pytest.raises(ValueError, match="value: saved Linear, now absent"):
        load_run(file, {"policy": parts["policy"], "adamw": parts["adamw"]})


def test_a_generator_without_a_saved_state_is_named(file):
    save_run(file, 1, without("generator")(fresh(0)))
    with pytest.raises(ValueError, match="generator: saved absent, now Generator"):
        load_run(file, fresh(0))
