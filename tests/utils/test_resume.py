import json
import os
import pickle
import shutil

import pytest
import torch
from torch import nn

from utils.resume import load_run, save_run


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
    return (
        {"policy": policy, "value": value},
        {"policy": adamw, "value": sgd},
        torch.Generator().manual_seed(seed),
    )


def train(state, first, last, log):
    """Policy gradient on sampled tokens; the learning rate falls at each step."""
    modules, optimizers, generator = state
    for step in range(first, last):
        logits = modules["policy"](torch.arange(13))
        actions = torch.multinomial(logits.softmax(-1), 1, generator=generator)
        rewards = (actions[:, 0] % 3 == 0).float()
        values = modules["value"](logits.detach())[:, 0]
        logprobs = logits.log_softmax(-1).gather(1, actions)[:, 0]
        loss = -(logprobs * (rewards - values.detach())).mean() + (values - rewards).square().mean()
        loss.backward()
        for name, optimizer in optimizers.items():
            nn.utils.clip_grad_norm_(modules[name].parameters(), 0.5)
            optimizer.step()
            optimizer.zero_grad()
            for group in optimizer.param_groups:
                group["lr"] *= 0.9
        log.append({"step": step, "loss": loss.item(), "actions": actions[:, 0].tolist()})
    return log


def bits(state):
    """Everything that decides the next step, as bytes."""
    modules, optimizers, generator = state
    found = {"generator": generator.get_state().numpy().tobytes()}
    for label, module in modules.items():
        for name, tensor in module.state_dict().items():
            found[f"{label}.{name}"] = tensor.numpy().tobytes()
    for label, optimizer in optimizers.items():
        for index, slots in optimizer.state_dict()["state"].items():
            for slot, value in slots.items():
                found[f"{label}.{index}.{slot}"] = (value.dtype, value.numpy().tobytes())
        for index, group in enumerate(optimizer.state_dict()["param_groups"]):
            found[f"{label}.group{index}"] = json.dumps(group)
    return found


def files(folder):
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "runs" / "ppo"


@pytest.fixture
def saved(folder):
    """A checkpoint after three steps, and the run that goes on from it."""
    state = fresh(0)
    log = train(state, 0, 3, [])
    assert save_run(folder, 3, *state, log=log) == folder
    return state


# --- resuming


@pytest.mark.parametrize("stop", [0, 1, 4])
def test_an_interrupted_run_ends_in_the_same_bits_and_log(folder, stop):
    whole = fresh(0)
    whole_log = train(whole, 0, 7, [])

    first = fresh(0)
    save_run(folder, stop, *first, log=train(first, 0, stop, []))
    train(first, stop, 6, [])  # steps after the checkpoint, lost in the crash
    second = fresh(1)
    step, log = load_run(folder, *second)
    assert step == stop and len(log) == stop
    log = train(second, step, 7, log)

    assert [entry["step"] for entry in log] == list(range(7))
    assert log == whole_log
    assert bits(second) == bits(whole)
    assert second[0]["policy"].head.weight is second[0]["policy"].embed.weight


def test_the_run_used_for_the_test_depends_on_every_part():
    """Else the test above could not see that a part is missing from the checkpoint."""
    start = bits(fresh(0))
    state = fresh(0)
    train(state, 0, 3, [])
    end = bits(state)
    assert {"policy.0.exp_avg", "policy.0.step", "value.0.momentum_buffer"} <= end.keys()
    assert all(end[key] != start[key] for key in start)


def test_saving_changes_nothing_in_the_run(folder):
    state = fresh(0)
    train(state, 0, 3, [])
    before = bits(state)
    save_run(folder, 3, *state)
    assert bits(state) == before


def test_a_loaded_run_does_not_hang_on_the_files(folder, saved):
    """safetensors maps files into memory: a tensor kept from there would change with its file."""
    state = fresh(1)
    load_run(folder, *state)
    with (folder / "tensors.safetensors").open("r+b") as file:
        file.write(bytes((folder / "tensors.safetensors").stat().st_size))
    assert bits(state) == bits(saved)


def test_loading_is_in_place(folder, saved):
    state = fresh(1)
    parameters = [p.data_ptr() for p in state[0]["policy"].parameters()]
    load_run(folder, *state)
    assert [p.data_ptr() for p in state[0]["policy"].parameters()] == parameters


def test_other_layouts_and_types_of_tensors_survive(folder):
    """Half precision, no dimensions, not contiguous, a buffer that shares a parameter's memory."""

    def make(fill):
        module = nn.Module()
        module.brain = nn.Parameter(torch.full((2, 3), fill, dtype=torch.bfloat16))
        module.turned = nn.Parameter(torch.arange(6.0).reshape(2, 3).T * fill)
        module.scalar = nn.Parameter(torch.tensor(fill))
        module.register_buffer("view", module.brain.detach()[0])
        return module

    module, other = make(1.5), make(7.0)
    save_run(folder, 1, {"m": module}, {})
    load_run(folder, {"m": other}, {})
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name])


@pytest.mark.parametrize(
    "kind, settings",
    [
        (torch.optim.LBFGS, {"lr": 0.05, "max_iter": 2, "history_size": 3}),
        (torch.optim.Adam, {"lr": torch.tensor(0.3), "amsgrad": True}),
    ],
)
def test_tensors_in_groups_and_lists_survive(folder, kind, settings):
    """A learning rate that is a tensor; L-BFGS keeps lists of tensors in its state."""

    def make(seed):
        torch.manual_seed(seed)
        module = nn.Linear(4, 1)
        return module, kind(module.parameters(), **settings)

    def steps(module, optimizer, count):
        def closure():
            optimizer.zero_grad()
            loss = (module(torch.eye(4)) - torch.arange(4.0)[:, None]).square().mean()
            loss.backward()
            return loss

        for _ in range(count):
            optimizer.step(closure)
        assert module.weight.isfinite().all()
        return module.weight.detach().numpy().tobytes()

    module, optimizer = make(0)
    steps(module, optimizer, 3)
    if kind is torch.optim.LBFGS:
        first, second, *_ = optimizer.state_dict()["state"][0]["old_dirs"]
        assert not torch.equal(first, second)
    save_run(folder, 3, {"m": module}, {"o": optimizer})
    other, other_optimizer = make(1)
    load_run(folder, {"m": other}, {"o": other_optimizer})
    assert steps(other, other_optimizer, 2) == steps(module, optimizer, 2)


def test_the_log_may_hold_nan(folder):
    save_run(folder, 1, {}, {}, log={"kl": [float("nan"), float("inf"), 0.1], "text": "越狱"})
    step, log = load_run(folder, {}, {})
    assert step == 1 and log["kl"][0] != log["kl"][0]
    assert log["kl"][1:] == [float("inf"), 0.1] and log["text"] == "越狱"


# --- the files


def test_the_folder_holds_safetensors_and_json_with_names_to_read(folder, saved):
    assert sorted(files(folder)) == ["run.json", "tensors.safetensors"]
    assert [f.name for f in folder.parent.iterdir()] == ["ppo"]
    header = (folder / "tensors.safetensors").read_bytes()
    header = json.loads(header[8 : 8 + int.from_bytes(header[:8], "little")])
    assert {"policy/embed.weight", "value/bias", "generator"} <= header.keys()
    assert {f"optimizer policy/state/0/{s}" for s in ("exp_avg", "exp_avg_sq", "step")} <= set(
        header
    )
    assert "policy/head.weight" not in header  # tied: stored once
    assert header["generator"]["dtype"] == "U8"
    run = json.loads((folder / "run.json").read_text())
    assert run["step"] == 3
    assert run["optimizers"]["policy"]["param_groups"][0]["lr"] == 0.05 * 0.9 * 0.9 * 0.9


def test_nothing_is_unpickled(folder, saved, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("unpickled")

    for place, name in ((pickle, "load"), (pickle, "loads"), (torch, "load")):
        monkeypatch.setattr(place, name, refuse)
    assert load_run(folder, *fresh(1))[0] == 3


def test_without_a_checkpoint_there_is_nothing_to_load(folder):
    state = fresh(0)
    before = bits(state)
    assert load_run(folder, *state) is None
    folder.mkdir(parents=True)
    assert load_run(folder, *state) is None
    assert bits(state) == before
    save_run(folder, 0, *state)  # into the empty folder
    assert load_run(str(folder), *state) == (0, None)


def test_a_folder_in_the_home_directory_is_found(folder, saved, monkeypatch):
    monkeypatch.setenv("HOME", str(folder.parent))
    assert load_run("~/ppo", *fresh(1))[0] == 3


def test_a_folder_of_other_things_is_not_replaced(folder):
    folder.mkdir(parents=True)
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="ppo holds something else"):
        save_run(folder, 1, *fresh(0))
    assert files(folder) == {"notes.txt": b"mine"}


# --- failures while saving


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
@pytest.mark.parametrize(
    "where", ["utils.resume.save_file", "utils.resume._sha256", "pathlib.Path.write_text"]
)
def test_a_failure_while_writing_keeps_the_older_checkpoint(
    folder, saved, monkeypatch, where, error
):
    before = files(folder.parent)

    def fail(*args, **kwargs):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(where, fail)
        with pytest.raises(type(error)):
            save_run(folder, 4, *saved, log=[])
    assert files(folder.parent) == before
    assert load_run(folder, *fresh(1))[0] == 3


@pytest.mark.parametrize("failing", [1, 2])
def test_a_failed_rename_keeps_the_older_checkpoint(folder, saved, monkeypatch, failing):
    before, rename, calls = files(folder.parent), os.replace, []

    def replace(source, target):
        calls.append(source)
        if len(calls) == failing:
            raise OSError("no")
        rename(source, target)

    monkeypatch.setattr("utils.resume.os.replace", replace)
    with pytest.raises(OSError, match="no"):
        save_run(folder, 4, *saved)
    assert files(folder.parent) == before


@pytest.fixture
def crashed(folder, saved, monkeypatch):
    """What is on disk when the process is killed between the two renames."""
    rename, calls = os.replace, []

    def replace(source, target):
        calls.append(source)
        if len(calls) > 1:
            raise SystemExit("killed")
        rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr("utils.resume.os.replace", replace)
        with pytest.raises(SystemExit):
            save_run(folder, 4, *saved)
    assert not folder.exists()
    return saved


@pytest.mark.parametrize("remade", [False, True])
def test_a_crash_between_the_renames_leaves_the_older_checkpoint(folder, crashed, remade):
    if remade:
        folder.mkdir()  # as a script does with exist_ok=True before it loads
    state = fresh(1)
    assert load_run(folder, *state)[0] == 3
    assert bits(state) == bits(crashed)
    save_run(folder, 5, *state)
    assert load_run(folder, *fresh(2))[0] == 5
    assert [f.name for f in folder.parent.iterdir()] == ["ppo"]


def test_after_a_crash_a_failed_save_still_keeps_the_older_checkpoint(folder, crashed):
    with pytest.raises(TypeError):
        save_run(folder, 5, *crashed, log={1, 2})
    assert load_run(folder, *fresh(1))[0] == 3


def test_after_a_crash_a_failed_rename_still_keeps_it(folder, crashed, monkeypatch):
    rename, calls = os.replace, []

    def replace(source, target):
        calls.append(source)
        if len(calls) == 1:
            raise OSError("no")
        rename(source, target)

    folder.mkdir()
    monkeypatch.setattr("utils.resume.os.replace", replace)
    with pytest.raises(OSError, match="no"):
        save_run(folder, 5, *crashed)
    assert load_run(folder, *fresh(1))[0] == 3


def test_leftovers_of_a_killed_save_do_no_harm(folder, saved):
    for kind in ("new", "old"):
        shutil.copytree(folder, folder.with_name(f".ppo.{kind}"))
        (folder.with_name(f".ppo.{kind}") / "run.json").write_text("{")
    assert load_run(folder, *fresh(1))[0] == 3
    save_run(folder, 6, *saved)
    assert load_run(folder, *fresh(1))[0] == 6
    assert [f.name for f in folder.parent.iterdir()] == ["ppo"]


def test_what_is_not_json_is_refused(folder, saved):
    before = files(folder.parent)
    with pytest.raises(TypeError, match="Tensor is not JSON"):
        save_run(folder, 4, *saved, log=[{"loss": torch.tensor(1.0)}])
    assert files(folder.parent) == before


def test_a_parameter_outside_the_modules_is_refused(folder):
    modules, optimizers, generator = fresh(0)
    with pytest.raises(ValueError, match=r"optimizer 'value' .* \(1, 13\) .* none of `modules`"):
        save_run(folder, 1, {"policy": modules["policy"]}, optimizers, generator)
    assert not folder.exists()


# --- checkpoints that cannot be used


def flip_a_bit(folder):
    data = bytearray((folder / "tensors.safetensors").read_bytes())
    data[-100] ^= 1
    (folder / "tensors.safetensors").write_bytes(data)


def cut(name):
    def damage(folder):
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[: len(data) // 2])

    return damage


@pytest.mark.parametrize(
    "damage, said",
    [
        (flip_a_bit, "checksum"),
        (cut("tensors.safetensors"), "checksum"),
        (cut("run.json"), "char"),
        (lambda folder: (folder / "tensors.safetensors").unlink(), "tensors.safetensors"),
        (lambda folder: (folder / "run.json").unlink(), "run.json"),
        (lambda folder: (folder / "run.json").write_text("{}"), "sha256"),
        (lambda folder: (folder / "run.json").write_text("[]"), "indices"),
        (lambda folder: (folder / "run.json").write_bytes(b"\xff"), "utf-8"),
    ],
)
def test_a_damaged_checkpoint_is_named(folder, saved, damage, said):
    damage(folder)
    state = fresh(1)
    before = bits(state)
    with pytest.raises(ValueError, match=f"ppo is damaged .*{said}.*delete it"):
        load_run(folder, *state)
    assert bits(state) == before


def doubled(state):
    state[0]["policy"].double()
    return state


def no_generator(state):
    return state[0], state[1], None


def no_value_optimizer(state):
    return state[0], {"policy": state[1]["policy"]}, state[2]


def another_optimizer(state):
    return state[0], state[1] | {"value": torch.optim.Adam(state[0]["value"].parameters())}, None


def another_order(state):
    parameters = reversed(list(state[0]["value"].parameters()))
    return state[0], state[1] | {"value": torch.optim.SGD(parameters)}, state[2]


def one_group(state):
    return state[0], state[1] | {"policy": torch.optim.AdamW(state[0]["policy"].parameters())}, None


@pytest.mark.parametrize(
    "make, said",
    [
        (
            lambda: fresh(1, width=4),
            r"policy/embed.weight: saved torch.float32 \(13, 8\), now torch.float32 \(13, 4\)",
        ),
        (lambda: fresh(1, tied=False), r"policy/head.weight: saved absent, now .*\(13, 8\)"),
        (
            lambda: doubled(fresh(1)),
            r"policy/mix.bias: saved torch.float32 \(8,\), now torch.float64 \(8,\)",
        ),
        (lambda: no_generator(fresh(1)), r"1 differ: generator: saved .* now absent"),
        (lambda: no_value_optimizer(fresh(1)), "optimizer value: saved SGD, now absent"),
        (lambda: another_optimizer(fresh(1)), "optimizer value: saved SGD, now Adam"),
        (
            lambda: another_order(fresh(1)),
            "optimizer value, parameter 0: saved value/weight in group 0, now value/bias in",
        ),
        (
            lambda: one_group(fresh(1)),
            "parameter 2: saved policy/mix.bias in group 1, now policy/mix.bias in group 0",
        ),
    ],
)
def test_objects_that_do_not_fit_are_named_and_left_alone(folder, saved, make, said):
    modules, optimizers, generator = make()
    before = bits((modules, optimizers, generator or torch.Generator()))
    with pytest.raises(ValueError, match="ppo does not fit; .*" + said):
        load_run(folder, modules, optimizers, generator)
    assert bits((modules, optimizers, generator or torch.Generator())) == before


def test_a_missing_module_is_named(folder, saved):
    state = fresh(1)
    with pytest.raises(ValueError, match="value/weight: saved .* now absent"):
        load_run(folder, {"policy": state[0]["policy"]}, {"policy": state[1]["policy"]}, state[2])


def test_a_generator_without_a_saved_state_is_named(folder):
    modules, optimizers, generator = fresh(0)
    save_run(folder, 1, modules, optimizers)
    with pytest.raises(ValueError, match="generator: saved absent"):
        load_run(folder, modules, optimizers, generator)
