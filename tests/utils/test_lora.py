import copy
import math

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import Qwen3Config, Qwen3ForCausalLM

from relatives import lora
from relatives.lora import LoRALinear, inject_lora, lora_parameters, merge_lora

torch.set_num_threads(1)
TARGETS = ["q_proj", "v_proj", "down_proj"]
IDS = torch.tensor([[1, 2, 3, 4, 5], [6, 7, 8, 9, 1]])


def qwen3(dtype=torch.float64):
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        initializer_range=0.3,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=None,
    )
    return Qwen3ForCausalLM(config).to(dtype).eval()


def randomise(model, seed=1):
    """Give every B (and A) values, as training would."""
    generator = torch.Generator().manual_seed(seed)
    for p in lora_parameters(model):
        p.data = torch.randn(p.shape, generator=generator, dtype=torch.float64).to(p.dtype) * 0.3
    return model


def count_parameters(model):
    """(trainable, all)"""
    counts = [(p.numel() * p.requires_grad, p.numel()) for p in model.parameters()]
    return tuple(map(sum, zip(*counts, strict=True)))


def loss_of(model):
    return model(IDS, labels=IDS).loss


def test_layer_against_a_loop():
    torch.manual_seed(0)
    base = nn.Linear(3, 2).double()
    layer = LoRALinear(base, rank=2, alpha=6)
    layer.lora_b.data.normal_()
    x = torch.randn(4, 3, dtype=torch.float64)
    got = layer(x)
    for n in range(4):
        for o in range(2):
            h = base.bias[o] + sum(base.weight[o, i] * x[n, i] for i in range(3))
            for r in range(2):
                a_x = sum(layer.lora_a[r, i] * x[n, i] for i in range(3))
                h = h + 6 / 2 * layer.lora_b[o, r] * a_x
            torch.testing.assert_close(got[n, o], h)


def test_initialisation():
    torch.manual_seed(0)
    layer = LoRALinear(nn.Linear(400, 30), rank=64, alpha=1)
    assert (layer.lora_b == 0).all()
    # Kaiming uniform with a = sqrt(5), as in PEFT: uniform in +-1/sqrt(in).
    assert layer.lora_a.abs().max() <= 1 / math.sqrt(400)
    assert layer.lora_a.std().item() == pytest.approx(1 / math.sqrt(3 * 400), rel=0.02)


def test_step_zero_is_the_unchanged_model():
    model = qwen3()
    before = model(IDS).logits
    inject_lora(model, rank=4, alpha=8, target_modules=TARGETS)
    assert model(IDS).logits.equal(before)
    randomise(model)
    assert not torch.allclose(model(IDS).logits, before)


@pytest.mark.parametrize(("rank", "alpha"), [(4, 8), (3, 1.5)])
def test_forward_and_gradients_equal_peft(rank, alpha):
    ours = randomise(inject_lora(qwen3(), rank, alpha, TARGETS))
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=TARGETS, bias="none")
    theirs = get_peft_model(qwen3(), config, autocast_adapter_dtype=False)
    pairs = {}
    for name, module in ours.named_modules():
        if isinstance(module, LoRALinear):
            other = theirs.base_model.model.get_submodule(name)
            pairs[name] = [
                (module.lora_a, other.lora_A["default"].weight),
                (module.lora_b, other.lora_B["default"].weight),
            ]
            for mine, yours in pairs[name]:
                assert mine.shape == yours.shape
                yours.data = mine.data.clone()
    assert len(pairs) == 2 * len(TARGETS)
    torch.testing.assert_close(ours(IDS).logits, theirs(IDS).logits)
    loss_of(ours).backward()
    loss_of(theirs).backward()
    for mine, yours in sum(pairs.values(), []):
        assert mine.grad.abs().sum() > 0
        torch.testing.assert_close(mine.grad, yours.grad)
    assert count_parameters(ours) == theirs.get_nb_trainable_parameters()


def test_only_lora_trains():
    model = inject_lora(qwen3(), 4, 8, TARGETS)
    loss_of(model).backward()
    with_grad = [n for n, p in model.named_parameters() if p.grad is not None]
    assert len(with_grad) == len(lora_parameters(model)) == 2 * 2 * len(TARGETS)
    assert all(n.endswith(("lora_a", "lora_b")) for n in with_grad)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    torch.optim.SGD(lora_parameters(model), lr=1.0).step()
    changed = {n for n, p in model.named_parameters() if not p.equal(before[n])}
    assert changed == {n for n in with_grad if n.endswith("lora_b")}  # B = 0 stops A's gradient


def test_merged_equals_unmerged():
    model = randomise(inject_lora(qwen3(torch.float32), 4, 8, TARGETS))
    before = model(IDS).logits
    merged = merge_lora(model)
    assert merged is model
    assert not any(isinstance(m, LoRALinear) for m in model.modules())
    torch.testing.assert_close(model(IDS).logits, before, atol=1e-5, rtol=0)
    assert (before - qwen3(torch.float32)(IDS).logits).abs().max() > 0.1  # there was an update
    assert all(p.requires_grad for p in model.parameters())


def test_merged_model_is_an_ordinary_checkpoint(tmp_path):
    keys = set(qwen3().state_dict())
    model = merge_lora(randomise(inject_lora(qwen3(), 4, 8, TARGETS)))
    assert set(model.state_dict()) == keys
    model.save_pretrained(tmp_path)
    loaded, info = Qwen3ForCausalLM.from_pretrained(
        tmp_path, dtype=torch.float64, output_loading_info=True
    )
    assert not any(info[k] for k in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert all(p.equal(model.get_parameter(n)) for n, p in loaded.named_parameters())
    torch.testing.assert_close(loaded(IDS).logits, model(IDS).logits, atol=1e-5, rtol=0)


def test_tied_embeddings_stay_tied_and_untouched():
    model, original = qwen3(), qwen3()
    randomise(inject_lora(model, 4, 8, TARGETS))
    merge_lora(model)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert model.lm_head.weight.equal(original.lm_head.weight)
    for name, p in model.named_parameters():
        touched = any(f".{t}." in name for t in TARGETS)
        assert p.equal(original.get_parameter(name)) != touched, name


def test_a_tied_head_is_refused_and_nothing_changes():
    model = qwen3()
    with pytest.raises(ValueError, match="lm_head shares its weight.*leave it out"):
        inject_lora(model, 4, 8, ["q_proj", "lm_head"])
    assert set(model.state_dict()) == set(qwen3().state_dict())
    assert all(p.requires_grad for p in model.parameters())


def test_names_match_whole_components_from_the_right():
    model = inject_lora(qwen3(), 4, 8, ["0.self_attn.q_proj", "up_proj"])
    wrapped = [n for n, m in model.named_modules() if isinstance(m, LoRALinear)]
    assert wrapped == [
        "model.layers.0.self_attn.q_proj",
        "model.layers.0.mlp.up_proj",
        "model.layers.1.mlp.up_proj",
    ]
    assert len(lora_parameters(inject_lora(qwen3(), 4, 8, "q_proj"))) == 4


def test_a_name_does_not_match_a_part_of_a_component():
    model = nn.ModuleDict({"proj": nn.Linear(2, 2), "q_proj": nn.Linear(2, 2)})
    inject_lora(model, 1, 1, ["proj"])
    assert [type(m) for m in model.children()] == [LoRALinear, nn.Linear]


@pytest.mark.parametrize(
    "targets", [["query"], ["proj"], ["q_proj", "query"], ["embed_tokens"], []]
)
def test_a_name_without_match_lists_the_available_ones(targets):
    model = qwen3()
    names = "'down_proj', 'gate_proj', 'k_proj', 'lm_head', 'o_proj', 'q_proj', 'up_proj', 'v_proj'"
    with pytest.raises(ValueError, match=rf"no linear layer is called.*\[{names}\]"):
        inject_lora(model, 4, 8, targets)
    assert set(model.state_dict()) == set(qwen3().state_dict())


def test_double_injection_and_empty_merge_are_refused():
    model = inject_lora(qwen3(), 4, 8, TARGETS)
    with pytest.raises(ValueError, match="already has LoRA"):
        inject_lora(model, 4, 8, ["k_proj"])
    merge_lora(model)
    with pytest.raises(ValueError, match="no LoRA layers"):
        merge_lora(model)
    inject_lora(model, 4, 8, ["k_proj"])  # a merged model may get new ones


def test_rank_zero_is_refused():
    with pytest.raises(ValueError, match="rank must be at least 1"):
        inject_lora(qwen3(), 0, 8, TARGETS)


def test_dropout_acts_on_the_update_in_training_only():
    model = randomise(inject_lora(qwen3(), 4, 8, TARGETS, dropout=0.5))
    assert not any(m.training for m in model.modules())  # injected into a model in eval mode
    assert model(IDS).logits.equal(model(IDS).logits)
    layer = model.model.layers[0].self_attn.q_proj.train()
    x = torch.randn(5, 16, dtype=torch.float64)
    assert not layer(x).equal(layer(x))
    layer.lora_b.data.zero_()
    assert layer(x).equal(layer.base(x))


def test_dropout_acts_on_the_input_of_the_update():
    layer = LoRALinear(nn.Linear(16, 3), rank=2, alpha=4, dropout=0.5)
    nn.init.normal_(layer.lora_b)
    x = torch.randn(5, 16)
    torch.manual_seed(0)
    got = layer(x)
    torch.manual_seed(0)
    dropped = nn.functional.dropout(x, 0.5)
    expected = layer.base(x) + 2.0 * dropped @ layer.lora_a.T @ layer.lora_b.T
    torch.testing.assert_close(got, expected)


def test_a_layer_by_itself_is_frozen():
    layer = LoRALinear(nn.Linear(4, 3), rank=2, alpha=4)
    assert not layer.base.weight.requires_grad and not layer.base.bias.requires_grad
    assert layer.lora_a.requires_grad and layer.lora_b.requires_grad


def test_half_precision_weights_keep_float32_adapters():
    model = randomise(inject_lora(qwen3(torch.bfloat16), 4, 8, TARGETS))
    assert {p.dtype for p in lora_parameters(model)} == {torch.float32}
    layer = model.model.layers[0].self_attn.q_proj
    x = torch.randn(5, 16).to(torch.bfloat16)
    unmerged = layer(x)
    assert unmerged.dtype == torch.bfloat16
    exact = x.float() @ (layer.base.weight.float() + 2.0 * layer.lora_b @ layer.lora_a).T
    torch.testing.assert_close(unmerged.float(), exact, atol=0.05, rtol=0.02)
    update = 2.0 * (x.float() @ layer.lora_a.T @ layer.lora_b.T)
    assert unmerged.equal((layer.base(x) + update).to(torch.bfloat16))  # rounded once
    expected = layer.base.weight.float() + 2.0 * (layer.lora_b @ layer.lora_a)
    merge_lora(model)
    merged = model.model.layers[0].self_attn.q_proj.weight
    assert merged.equal(expected.to(torch.bfloat16))  # added in float32, rounded once


def test_a_and_b_alone_are_trained():
    model = qwen3()
    total = sum(p.numel() for p in model.parameters())
    assert count_parameters(model) == (total, total)
    inject_lora(model, 4, 8, ["q_proj"])
    added = 2 * (4 * 16 + 16 * 4)  # two layers, A (4, 16) and B (16, 4)
    assert count_parameters(model) == (added, total + added)


def test_deepcopy_is_independent():
    model = randomise(inject_lora(qwen3(), 4, 8, TARGETS))
    twin = copy.deepcopy(model)
    merge_lora(twin)
    torch.testing.assert_close(twin(IDS).logits, model(IDS).logits)


def test_only_the_chosen_token_rows_are_trained(random_model):
    model = lora.inject_lora(copy.deepcopy(random_model), 2, 4, ["q_proj"])
    before = model.get_input_embeddings().weight.detach().clone()
    weight = lora.train_token_rows(model, [1, 5])
    assert model.get_output_embeddings().weight is weight  # tied: the rows predict, too
    optimizer = torch.optim.AdamW([*lora.lora_parameters(model), weight], lr=0.1, weight_decay=0.0)
    for _ in range(3):
        model(input_ids=torch.tensor([[1, 5, 7, 9]])).logits.logsumexp(-1).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    changed = (weight != before).any(dim=1).nonzero()[:, 0].tolist()
    assert changed == [1, 5]


def test_token_rows_train_as_in_peft(random_model):
    ids, rows = torch.tensor([[1, 5, 7, 9, 2]]), [1, 2]
    ours = lora.inject_lora(copy.deepcopy(random_model), 2, 4, ["q_proj"])
    config = LoraConfig(r=2, lora_alpha=4, target_modules=["q_proj"], lora_dropout=0.0)
    config.trainable_token_indices = rows
    theirs = get_peft_model(copy.deepcopy(random_model), config)
    with torch.no_grad():
        for name, layer in ours.named_modules():
            if isinstance(layer, lora.LoRALinear):
                twin = theirs.get_submodule(f"base_model.model.{name}")
                twin.lora_A["default"].weight.copy_(layer.lora_a)
    parameters = [
        [*lora.lora_parameters(ours), lora.train_token_rows(ours, rows)],
        [p for p in theirs.parameters() if p.requires_grad],
    ]
    for model, trained in zip((ours, theirs), parameters, strict=True):
        optimizer = torch.optim.AdamW(trained, lr=0.01, weight_decay=0.0)
        for _ in range(3):
            model(input_ids=ids, labels=ids).loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            optimizer.zero_grad()
    with torch.no_grad():
        torch.testing.assert_close(
            ours(input_ids=ids).logits, theirs(input_ids=ids).logits, rtol=1e-4, atol=1e-5
        )
