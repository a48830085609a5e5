"""Computed sizes against what transformers, PEFT and autograd really make."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, DynamicCache, Qwen2Config, Qwen3Config, Qwen3ForCausalLM

from engines import sizes
from relatives import lora
from utils.logprobs import gather_logprobs

TINY_BASE = Path(__file__).resolve().parents[2] / "assets/tiny/base"
ATTENTION = ("q_proj", "v_proj")
ELEMENT = {torch.bfloat16: 2, torch.float32: 4}


def config_of(shape, **changes):
    return Qwen3Config(
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        vocab_size=shape.vocab,
        tie_word_embeddings=shape.tied,
        attn_implementation="sdpa",
        **changes,
    )


# No two sizes are equal, so that no formula can mix them up.
SMALL = sizes.ModelShape("small", 48, 112, 3, 6, 2, 16, 131)


def built(shape):
    """(model on the meta device, its shape as read back from its config)"""
    with torch.device("meta"):
        model = Qwen3ForCausalLM(config_of(shape))
    return model, sizes.ModelShape.from_config(model.config)


@pytest.mark.parametrize(
    "shape, billions",
    [(sizes.QWEN3_0_6B, 0.596), (sizes.QWEN3_4B, 4.022), (SMALL, 0.000091968)],
    ids=lambda value: getattr(value, "name", None),
)
def test_parameters_are_those_of_the_built_model(shape, billions):
    model, read = built(shape)
    assert read.parameters == shape.parameters == model.num_parameters()
    assert shape.parameters == pytest.approx(billions * 1e9, rel=0.01)


def test_an_untied_head_counts():
    shape = sizes.ModelShape("untied", 48, 112, 3, 6, 2, 16, 131, tied=False)
    model, read = built(shape)
    assert read.parameters == model.num_parameters() == SMALL.parameters + 131 * 48


def test_parameters_of_the_shipped_model():
    config = AutoConfig.from_pretrained(TINY_BASE)
    with torch.device("meta"):
        model = Qwen3ForCausalLM(config)
    shape = sizes.ModelShape.from_config(config)
    assert shape.name == "base"  # the folder, not the path
    assert shape.parameters == model.num_parameters()


@pytest.mark.parametrize(
    "config", [Qwen2Config(), Qwen3Config(attention_bias=True)], ids=["other", "biased"]
)
def test_other_architectures_are_refused(config):
    with pytest.raises(ValueError, match="formulas hold for 'qwen3'"):
        sizes.ModelShape.from_config(config)


@pytest.mark.parametrize("targets", [sizes.ALL_LINEAR, ATTENTION, ("down_proj",)])
def test_lora_parameters_are_those_that_peft_and_relatives_lora_train(targets, make_model):
    make = {"vocab_size": SMALL.vocab, "hidden": 48, "layers": 3, "num_attention_heads": 6}
    ours, theirs = (make_model(**make, intermediate_size=112) for _ in range(2))
    shape = sizes.ModelShape.from_config(ours.config)
    count = sizes.lora_parameters(shape, 5, targets)
    lora.inject_lora(ours, rank=5, alpha=10, target_modules=targets)
    assert count == sum(p.numel() for p in lora.lora_parameters(ours))
    peft = get_peft_model(theirs, LoraConfig(r=5, target_modules=list(targets)))
    assert count == peft.get_nb_trainable_parameters()[0]


def test_kv_cache_is_that_of_a_real_cache(make_model):
    model = make_model(vocab_size=50, layers=3)
    shape = sizes.ModelShape.from_config(model.config)
    cache = DynamicCache(config=model.config)
    with torch.no_grad():
        model(torch.ones(2, 7, dtype=torch.long), past_key_values=cache, use_cache=True)
    held = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    assert held == 2 * 7 * sizes.kv_bytes_per_token(shape, element=4)
    assert sizes.kv_bytes_per_token(sizes.QWEN3_0_6B) == 112 * 1024  # 2 * 28 * 8 * 128 * 2 bytes


@pytest.mark.parametrize("weights, dtype", [("bf16", torch.bfloat16), ("fp32", torch.float32)])
def test_weight_bytes_are_those_on_disk_and_in_memory(weights, dtype, make_model):
    model = make_model(vocab_size=50).to(dtype)
    shape = sizes.ModelShape.from_config(model.config)
    assert sizes.weight_bytes(shape, weights) == sum(p.nbytes for p in model.parameters())


def test_4_bit_weights_leave_embedding_and_norms_at_16_bits():
    shape = sizes.QWEN3_4B
    embedding_and_norms = 151936 * 2560 + 36 * (2 * 2560 + 2 * 128) + 2560
    expected = 2 * embedding_and_norms + (shape.parameters - embedding_and_norms) * 4.127 / 8
    assert sizes.weight_bytes(shape, "4bit") == pytest.approx(expected)


@pytest.mark.parametrize("foreach", [True, False])
@pytest.mark.parametrize("dtype, name", [(torch.float32, "fp32"), (torch.bfloat16, "16bit")])
def test_optimizer_bytes_are_those_of_adamw(dtype, name, foreach):
    weight = torch.nn.Parameter(torch.ones(1000, dtype=dtype))
    weight.grad = torch.ones_like(weight)
    optimizer = torch.optim.AdamW([weight], foreach=foreach)
    optimizer.step()
    state = optimizer.state[weight]
    held = state["exp_avg"].nbytes + state["exp_avg_sq"].nbytes
    assert held == 1000 * sizes.OPTIMIZER_BYTES[f"adamw_{name}"]


def kept_for_backward(model, ids):
    """Bytes of the storages that autograd saves, each once, weights left out."""
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    storages = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            storages[storage.data_ptr()] = storage  # held, so that no address comes twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = model.model(input_ids=ids, use_cache=False).last_hidden_state.float().sum()
    loss.backward()
    return sum(storage.nbytes() for storage in storages.values())


def training_model(shape, dtype, rank, targets):
    torch.manual_seed(0)
    model = Qwen3ForCausalLM(config_of(shape)).to(dtype).train()
    if not rank:
        return model
    return get_peft_model(model, LoraConfig(r=rank, target_modules=list(targets))).base_model.model


@pytest.mark.parametrize("dtype", ELEMENT)
@pytest.mark.parametrize(
    "rank, targets", [(0, sizes.ALL_LINEAR), (4, sizes.ALL_LINEAR), (4, ATTENTION)]
)
def test_activations_are_those_that_autograd_keeps(dtype, rank, targets):
    ids = torch.ones(2, 40, dtype=torch.long)
    kept = kept_for_backward(training_model(SMALL, dtype, rank, targets), ids)
    computed = sizes.activation_bytes(SMALL, ids.numel(), rank, targets, ELEMENT[dtype])
    # Not computed: embedding, last norm, rotary angles. Computed, not kept: what lies before the
    # first adapter. Both do not grow with the layers; here they are a few per cent.
    assert kept == pytest.approx(computed, rel=0.04)


def test_activations_of_one_more_block_are_exact():
    ids = torch.ones(2, 40, dtype=torch.long)
    deeper = replace(SMALL, layers=4)
    for dtype, rank in ((torch.bfloat16, 0), (torch.bfloat16, 4), (torch.float32, 4)):
        kept = [
            kept_for_backward(training_model(shape, dtype, rank, sizes.ALL_LINEAR), ids)
            for shape in (SMALL, deeper)
        ]
        block = sizes.layer_bytes_per_token(SMALL, rank, element=ELEMENT[dtype])
        assert kept[1] - kept[0] == ids.numel() * block


@pytest.mark.parametrize("rank", [0, 4])
def test_checkpointing_keeps_the_inputs_of_the_blocks_and_one_block(rank):
    ids = torch.ones(2, 40, dtype=torch.long)
    model = training_model(SMALL, torch.float32, rank, sizes.ALL_LINEAR)
    model.gradient_checkpointing_enable()
    model.enable_input_require_grads()
    kept = kept_for_backward(model, ids)  # recomputed blocks come under other hooks
    block = ids.numel() * sizes.layer_bytes_per_token(SMALL, rank, element=4)
    computed = sizes.activation_bytes(SMALL, ids.numel(), rank, element=4, checkpointing=True)
    assert 0 <= kept - (computed - block) <= 16 * SMALL.hidden * ids.numel()


def peak_bytes(function):
    """The most that was allocated at once during a call, by torch's profiler."""
    cpu = torch.profiler.ProfilerActivity.CPU
    with torch.profiler.profile(activities=[cpu], profile_memory=True) as profile:
        function()
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = most = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most


@pytest.mark.parametrize("dtype", ELEMENT)
def test_logits_peak_is_that_of_log_probs_forward_and_backward(dtype):
    tokens, vocab = 32, 5000
    shape = sizes.ModelShape("wide vocabulary", 8, 16, 1, 1, 1, 8, vocab)
    hidden = torch.ones(tokens, 8, dtype=dtype, requires_grad=True)
    head = torch.ones(8, vocab, dtype=dtype)

    def logprobs_and_back():
        logits = hidden @ head
        ids = torch.zeros(tokens, dtype=torch.long)
        gather_logprobs(logits.float() / 0.7, ids).sum().backward()

    computed = sizes.logits_bytes(shape, tokens, ELEMENT[dtype])
    assert peak_bytes(logprobs_and_back) == pytest.approx(computed, rel=0.05)


def test_chunks_bound_the_logits():
    whole = sizes.logits_bytes(sizes.QWEN3_4B, 4096)
    assert whole == 4096 * 151936 * 14
    assert sizes.logits_bytes(sizes.QWEN3_4B, 4096, chunk=512) == whole / 8
    assert sizes.logits_bytes(sizes.QWEN3_4B, 100, chunk=512) == 100 * 151936 * 14


def test_shape_of_the_shipped_model_is_read_in_full():
    config = json.loads((TINY_BASE / "config.json").read_text())
    shape = sizes.ModelShape.from_config(AutoConfig.from_pretrained(TINY_BASE))
    assert (shape.intermediate, shape.kv_heads) == (
        config["intermediate_size"],
        config["num_key_value_heads"],
    )
