"""The budget of a step: its sum, its limits, and what each knob saves."""

from dataclasses import replace

import pytest
import torch

from engines import memory, sizes
from engines.memory import GIB, Plan
from engines.sizes import CARDS, QWEN3_0_6B, QWEN3_4B

L4, A100 = CARDS["L4"], CARDS["A100-80GB"]


def parts(budget):
    return {part: size for part, _, size in budget.rows}


def test_total_is_what_is_held_and_the_larger_phase():
    plan = Plan()
    result = memory.budget(QWEN3_4B, A100, plan)
    part = parts(result)
    held = sum(size for _, when, size in result.rows if when == "always")
    training = part["activations"] + part["logits"]
    assert training > part["KV cache"]
    assert result.total == pytest.approx(held + training)
    long = memory.budget(QWEN3_4B, A100, replace(plan, prompts=32, rollout_batch=256))
    assert long.total == pytest.approx(held + 8 * part["KV cache"])


def test_parts_are_the_sizes_of_the_plan():
    plan = Plan(lora_rank=16, optimizer="adamw_fp32", prompts=1, group_size=2)
    part = parts(memory.budget(QWEN3_0_6B, L4, plan))
    trained = sizes.lora_parameters(QWEN3_0_6B, 16)
    assert part["weights"] * GIB == pytest.approx(2 * QWEN3_0_6B.parameters)
    assert part["LoRA adapters"] * GIB == part["gradients"] * GIB == pytest.approx(4 * trained)
    assert part["optimizer states"] * GIB == pytest.approx(8 * trained)
    assert part["KV cache"] * GIB == pytest.approx(2 * 1536 * 112 * 1024)  # 2 rows
    assert part["logits"] * GIB == pytest.approx(4 * 1024 * 151936 * 14)
    assert "reference model" not in part


def test_training_all_weights_holds_their_gradients_and_a_reference():
    plan = Plan(lora_rank=0, optimizer="adamw_16bit", reference=True)
    part = parts(memory.budget(QWEN3_0_6B, L4, plan))
    assert part["gradients"] == part["weights"] == part["reference model"]
    assert part["optimizer states"] == 2 * part["weights"]
    assert "LoRA adapters" not in part
    with_lora = replace(plan, lora_rank=8)  # the adapter is switched off instead
    assert "reference model" not in parts(memory.budget(QWEN3_0_6B, L4, with_lora))


def test_the_sampler_holds_its_share_of_the_card_always():
    result = memory.budget(QWEN3_4B, A100, Plan(sampler_fraction=0.5))
    part = parts(result)
    assert part["weights"] + part["KV cache"] == pytest.approx(0.5 * 80)
    assert ("KV cache", "always") in [row[:2] for row in result.rows]
    assert memory.rows_at_once(QWEN3_4B, A100, Plan(sampler_fraction=0.5)) == 32
    few = memory.rows_at_once(QWEN3_4B, L4, Plan(sampler_fraction=0.4))
    assert few == int((9.0 * GIB - 2 * QWEN3_4B.parameters) / (1536 * 147456)) == 7


def test_a_pool_without_room_does_not_fit():
    result = memory.budget(QWEN3_4B, L4, Plan(sampler_fraction=0.3, logits_chunk=64))
    assert result.total < result.memory and not result.fits
    assert result.notes == ["sampler_fraction 0.3 has no room for one row"]


def test_fits_compares_with_the_card():
    plan = Plan()
    total = memory.budget(QWEN3_4B, A100, plan).total
    for margin, fits in ((0.01, True), (-0.01, False)):
        assert memory.budget(QWEN3_4B, replace(A100, memory=total + margin), plan).fits is fits


def test_a_t4_has_no_bf16():
    bf16, fp16 = (memory.budget(QWEN3_0_6B, CARDS["T4"], Plan(weights=w)) for w in ("bf16", "fp16"))
    assert "no bf16" in bf16.notes[0] and fp16.notes == []
    assert bf16.total == fp16.total


@pytest.mark.parametrize(
    "change, message",
    [
        ({"weights": "int3"}, "unknown 'int3'; known: fp32"),
        ({"optimizer": "sgd"}, "unknown 'sgd'"),
        ({"targets": ("lm_head",)}, "lm_head"),
        ({"micro_batch": 0}, "micro_batch must be at least 1"),
        ({"weights": "4bit", "lora_rank": 0}, "above 0 over 4-bit"),
        ({"logits_chunk": 0}, "logits_chunk"),
        ({"sampler_fraction": 90}, "sampler_fraction must be in"),
    ],
)
def test_impossible_plans_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        Plan(**change)


def test_decoding_one_row_is_bound_by_memory_and_many_by_compute():
    one = Plan(prompts=1, group_size=1, prompt_length=1, completion_length=1)
    seconds = memory.step_time(QWEN3_4B, A100, one)["decode"]
    read = 2 * QWEN3_4B.parameters + 1.5 * 147456  # weights, and the cache of 1.5 tokens
    assert seconds == pytest.approx(read / (2039e9 * 0.6))
    many = replace(one, prompts=4096, rollout_batch=4096)
    flops = 312e12 * 0.35
    assert memory.step_time(QWEN3_4B, A100, many)["decode"] == pytest.approx(
        4096 * 2 * QWEN3_4B.parameters / flops
    )
    in_turns = replace(one, prompts=3, rollout_batch=1)
    assert memory.step_time(QWEN3_4B, A100, in_turns)["decode"] == pytest.approx(3 * seconds)


def test_training_counts_flops_per_parameter_and_token():
    n, flops = QWEN3_0_6B.parameters, 121e12 * 0.35
    for rank, checkpointing, per_token in (
        (0, False, 6),
        (0, True, 8),
        (8, False, 4),
        (8, True, 6),
    ):
        plan = Plan(lora_rank=rank, checkpointing=checkpointing)
        time = memory.step_time(QWEN3_0_6B, L4, plan)
        assert time["train"] == pytest.approx(32 * 1536 * per_token * n / flops)
        assert time["trained tokens/s"] == pytest.approx(flops / (per_token * n))
        assert time["prefill"] == pytest.approx(4 * 512 * 2 * n / flops)
        assert time["sampled tokens/s"] == pytest.approx(32 * 1024 / time["decode"])


GREEDY = Plan(lora_rank=0, checkpointing=False, optimizer="adamw_fp32", micro_batch=8)


def test_advice_keeps_the_gradient_first_and_its_savings_add_up():
    steps = memory.advice(QWEN3_4B, L4, GREEDY)
    costs = [step.cost for step in steps]
    assert costs == sorted(costs, key=lambda cost: cost != "same gradient, slower")
    assert len(set(costs)) == 2
    assert steps[0].change == "checkpointing False -> True"
    total = memory.budget(QWEN3_4B, L4, GREEDY).total
    for step in steps:
        total -= step.saved
        assert step.saved > 0 and step.total == pytest.approx(total)
    first = memory.budget(QWEN3_4B, L4, replace(GREEDY, checkpointing=True))
    assert steps[0].total == first.total


KNOBS = {
    "logits_chunk": (Plan(), 1024),
    "checkpointing": (Plan(checkpointing=False), True),
    "micro_batch": (Plan(), 2),
    "rollout_batch": (Plan(logits_chunk=64), 16),
    "sampler_fraction": (Plan(sampler_fraction=0.8), 0.6),
    "completion_length": (Plan(), 512),
    "group_size": (Plan(logits_chunk=64), 4),
    "optimizer": (Plan(optimizer="adamw_fp32"), "adamw_8bit"),
    "lora_rank": (Plan(), 16),
    "weights": (Plan(), "4bit"),
}


@pytest.mark.parametrize("knob", KNOBS)
def test_every_knob_is_named_with_what_it_saves(knob):
    plan, value = KNOBS[knob]
    (step,) = memory.advice(QWEN3_4B, A100, plan, without=KNOBS.keys() - {knob})
    assert step.change == f"{knob} {getattr(plan, knob)} -> {value}"
    before, after = (
        memory.budget(QWEN3_4B, A100, p).total for p in (plan, replace(plan, **{knob: value}))
    )
    assert step.saved == pytest.approx(before - after)


def test_from_all_weights_the_rank_goes_to_lora():
    steps = memory.advice(QWEN3_4B, A100, Plan(lora_rank=0), without=KNOBS.keys() - {"lora_rank"})
    assert [step.change for step in steps] == ["lora_rank 0 -> 32"]


def test_advice_never_leaves_the_sampler_without_room():
    plan = Plan(sampler_fraction=0.45)  # 0.34 of an L4 would be less than the weights
    assert not any("sampler" in step.change for step in memory.advice(QWEN3_4B, L4, plan))


def test_no_advice_when_everything_is_at_its_lowest():
    plan = Plan(
        weights="4bit",
        lora_rank=1,
        prompts=1,
        group_size=1,
        prompt_length=1,
        completion_length=1,
        micro_batch=1,
        rollout_batch=1,
        logits_chunk=1,
    )
    steps = memory.advice(QWEN3_0_6B, L4, plan)
    assert steps == []
    error = torch.OutOfMemoryError("CUDA out of memory.")
    assert "smaller model or a larger GPU" in memory.explain_out_of_memory(error, steps)


def test_out_of_memory_names_the_first_knob():
    error = torch.OutOfMemoryError(
        "CUDA out of memory. Tried to allocate 4.64 GiB. GPU 0 has a total capacity of 14.74 GiB"
    )
    message = memory.explain_out_of_memory(error, memory.advice(QWEN3_4B, L4, GREEDY))
    first, second, *_ = message.splitlines()
    assert first == "The GPU is out of memory: no room for 4.64 GiB more."
    assert second.startswith("Turn down first: checkpointing False -> True (same gradient, slower;")


def test_another_error_is_not_explained_away():
    error = RuntimeError("shapes do not fit")
    with pytest.raises(ValueError, match="not an out-of-memory error") as raised:
        memory.explain_out_of_memory(error, [])
    assert raised.value.__cause__ is error
