import math
import statistics

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import GPT2Config, GPT2LMHeadModel, Qwen3Config, Qwen3ForCausalLM

from relatives.samplers import importance_weights
from utils import forward
from utils import logprobs as lp
from utils.chat import pad_left
from utils.forward import by_length

torch.set_num_threads(1)


def rand(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def slow_logprob(logits, token):
    top = max(logits)
    return logits[token] - top - math.log(sum(math.exp(x - top) for x in logits))


# Token log-probabilities


def test_align_pairs_each_token_with_the_logits_before_it():
    logits, ids = rand(2, 4, 3), torch.arange(8).view(2, 4)
    shifted, targets = lp.align(logits, ids)
    assert targets.tolist() == [[1, 2, 3], [5, 6, 7]]
    assert shifted.equal(logits[:, [0, 1, 2]])


@pytest.mark.truth("token_logprobs", "loop")
def test_token_logprobs_against_a_loop():
    logits = rand(3, 5, 7)
    ids = torch.randint(7, (3, 5), generator=torch.Generator().manual_seed(1))
    got = lp.token_logprobs(logits, ids)
    assert got.shape == (3, 4)
    for b in range(3):
        for t in range(4):
            expected = slow_logprob(logits[b, t].tolist(), ids[b, t + 1].item())
            assert got[b, t].item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.truth("token_logprobs", "gradient")
@pytest.mark.truth("align", "gradient")
def test_token_logprobs_gradient():
    logits = rand(2, 3, 4).requires_grad_()
    ids = torch.tensor([[0, 1, 2], [3, 3, 0]])
    assert torch.autograd.gradcheck(lambda x: lp.token_logprobs(x, ids), logits)
    lp.token_logprobs(logits, ids).sum().backward()
    assert (logits.grad[:, -1] == 0).all()  # the last logits predict nothing
    assert (logits.grad[:, :-1] != 0).all()


def test_half_precision_logits_are_computed_in_float32():
    logits = rand(1, 3, 50).to(torch.bfloat16)
    ids = torch.tensor([[1, 2, 3]])
    got = lp.token_logprobs(logits, ids)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, lp.token_logprobs(logits.float(), ids))
    assert lp.entropy(logits).dtype == torch.float32
    assert lp.token_logprobs(rand(1, 3, 5), ids).dtype == torch.float64


def test_far_apart_logits_do_not_underflow():
    logits = torch.tensor([[[0.0, -500.0], [0.0, 0.0]]])
    assert lp.token_logprobs(logits, torch.tensor([[0, 1]])).item() == -500.0


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("shape", [(2, 3), (2, 5), (4, 2), (2,)])
def test_align_refuses_other_shapes(shape):
    with pytest.raises(ValueError, match="do not fit"):
        lp.token_logprobs(rand(2, 4, 3), torch.zeros(shape, dtype=torch.long))


# Completions that share their prompt

PROMPTS = [[5, 6, 7, 8, 9], [11, 12], [3, 4, 3]]
COMPLETIONS = [[20, 21, 1], [22, 1], [23, 24, 25, 26], [1], [20, 20, 1], [7, 8, 9, 1]]


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        initializer_range=0.5,  # far from uniform, so that mistakes show
        tie_word_embeddings=True,
    )
    return Qwen3ForCausalLM(config).double().eval()


def batch(prompts=PROMPTS, completions=COMPLETIONS, pad=0):
    prompt_ids, prompt_mask = pad_left(prompts, pad)
    length = max(map(len, completions))
    completion_ids = torch.tensor([c + [pad] * (length - len(c)) for c in completions])
    mask = torch.tensor([[1.0] * len(c) + [0.0] * (length - len(c)) for c in completions])
    return prompt_ids, prompt_mask, completion_ids, mask


def one_at_a_time(model, prompts, completions, temperature=1.0):
    """The specification: each sequence alone, without padding, cache or sharing."""
    group_size = len(completions) // len(prompts)
    rows = []
    for i, completion in enumerate(completions):
        prompt = prompts[i // group_size]
        logits = model(torch.tensor([prompt + completion])).logits[0] / temperature
        logprobs = torch.log_softmax(logits, -1)
        rows.append([logprobs[len(prompt) + t - 1, token] for t, token in enumerate(completion)])
    return rows


@pytest.mark.truth("completion_logprobs", "loop", "gradient")
@pytest.mark.truth("shared_prompt", "loop", "gradient")
@pytest.mark.parametrize(
    ("prompts", "completions"),
    [
        (PROMPTS, COMPLETIONS),
        (PROMPTS, COMPLETIONS[:3]),  # one completion a prompt
        (PROMPTS[:1], COMPLETIONS),  # one prompt
        (PROMPTS[:2], [[9], [1], [4], [1]]),  # one token each
    ],
)
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_completion_logprobs_value_and_gradient(model, prompts, completions, temperature):
    inputs = batch(prompts, completions)
    got = lp.completion_logprobs(model, *inputs, temperature=temperature)
    expected = one_at_a_time(model, prompts, completions, temperature)
    assert got.shape == inputs[2].shape
    for row, values in zip(got, expected, strict=True):
        torch.testing.assert_close(row[: len(values)], torch.stack(values), atol=1e-5, rtol=1e-5)
        assert (row[len(values) :] == 0).all()
    parameters = list(model.parameters())
    weights = [(i + 1) * (t + 2) for i, c in enumerate(completions) for t in range(len(c))]
    weights = torch.tensor(weights, dtype=torch.float64).cos()
    grads = torch.autograd.grad((got[inputs[3].bool()] * weights).sum(), parameters)
    slow = torch.stack([v for row in expected for v in row])
    slow_grads = torch.autograd.grad((slow * weights).sum(), parameters)
    for a, b in zip(grads, slow_grads, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


def test_rows_of_similar_length_share_a_pass_and_nothing_changes(model):
    prompts = [[1 + (i + t) % 30 for t in range(1 + i % 5)] for i in range(22)]
    completions = [[1 + (r * t) % 30 for t in range(1, 2 + r * r % 11)] for r in range(66)]
    inputs, widths = batch(prompts, completions), []
    watch = model.register_forward_pre_hook(
        lambda module, args, kwargs: widths.append(tuple(kwargs["input_ids"].shape)),
        with_kwargs=True,
    )
    got = lp.completion_logprobs(model, *inputs)
    watch.remove()
    assert widths[0] == (22, 5) and len(widths) == 4, "the prompts, then three parts"
    assert len({width for _, width in widths[1:]}) == 3 and sum(b for b, _ in widths[1:]) == 66
    expected = one_at_a_time(model, prompts, completions)
    slow = torch.stack([v for row in expected for v in row])
    torch.testing.assert_close(got[inputs[3].bool()], slow, atol=1e-5, rtol=1e-5)
    parameters = list(model.parameters())
    weights = torch.arange(len(slow), dtype=torch.float64).cos()
    ours = torch.autograd.grad((got[inputs[3].bool()] * weights).sum(), parameters)
    theirs = torch.autograd.grad((slow * weights).sum(), parameters)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


def test_the_gradient_is_the_same_to_the_last_bit_each_time(make_model):
    # Threads add up a gradient of rows picked twice in any order: one seed, two results.
    inputs = batch(
        [[1 + (i + t) % 30 for t in range(20 + i % 9)] for i in range(16)],
        [[1 + (r * t) % 30 for t in range(1, 4 + r * r % 40)] for r in range(128)],
    )
    model, found = make_model(32), []
    torch.set_num_threads(4)
    try:
        for _ in range(4):
            model.zero_grad()
            lp.completion_logprobs(model, *inputs).sum().backward()
            found.append([p.grad.clone() for p in model.parameters()])
    finally:
        torch.set_num_threads(1)
    for again in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], again, strict=True))


@pytest.mark.parametrize(
    ("lengths", "parts"),
    [
        ([1, 2, 10] * 22, 3),
        ([1, 2, 10] * 21, 1),  # few rows
        ([9, 10, 10] * 22, 1),  # little padding
        ([1] * 66, 1),
    ],
)
def test_rows_are_split_only_where_it_saves_padding(lengths, parts):
    found = by_length(torch.tensor(lengths), parts=3, least=64, at_most=0.8)
    assert len(found) == parts
    assert sorted(torch.cat(found).tolist()) == list(range(len(lengths)))


def labelled(rows, left):
    """Rows of (ids, labels) padded on one side: ids, attention mask, labels, each (B, L)."""
    width = max(len(ids) for ids, _ in rows)

    def padded(lists, value):
        gaps = [[value] * (width - len(row)) for row in lists]
        both = zip(gaps, lists, strict=True)
        return torch.tensor([gap + row if left else row + gap for gap, row in both])

    masks = padded([[1] * len(ids) for ids, _ in rows], 0)
    return padded([ids for ids, _ in rows], 0), masks, padded([labels for _, labels in rows], -100)


@pytest.mark.truth("label_logits", "loop", "gradient")
@pytest.mark.parametrize("left", [True, False])
@pytest.mark.parametrize("count", [5, 17])
def test_label_logits_value_and_gradient(model, left, count):
    rows = []
    for r in range(count):
        ids = [1 + (r * t + r) % 30 for t in range(2 + r * r % 13)]
        # On the right a label on the first token is ignored; on the left padding would predict it.
        first = min(max(r % 4, int(left)), len(ids) - 1)
        rows.append((ids, [-100] * first + ids[first:]))
    rows[3] = (rows[3][0], [-100] * len(rows[3][0]))  # nothing to learn from
    passes = []
    watch = model.model.register_forward_pre_hook(
        lambda module, args, kwargs: passes.append(tuple(args[0].shape)), with_kwargs=True
    )
    logits, targets = lp.label_logits(model, *labelled(rows, left))
    watch.remove()
    assert len(passes) == (1 if count < 16 else 2) and sum(b for b, _ in passes) == count
    assert logits.shape == (len(targets), 32)
    if len(passes) == 2:  # short rows are not padded to the longest
        assert passes[0][1] < passes[1][1] == max(len(ids) for ids, _ in rows)
        rows.sort(key=lambda row: len(row[0]))
    expected = [
        (model(torch.tensor([ids])).logits[0, t - 1], ids[t])
        for ids, labels in rows
        for t in range(1, len(ids))
        if labels[t] != -100
    ]
    assert targets.tolist() == [token for _, token in expected]
    slow = torch.stack([row for row, _ in expected])
    torch.testing.assert_close(logits, slow, atol=1e-5, rtol=1e-5)
    weights = rand(*logits.shape, seed=3)
    parameters = list(model.parameters())
    ours = torch.autograd.grad((logits * weights).sum(), parameters)
    theirs = torch.autograd.grad((slow * weights).sum(), parameters)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


def test_positions_do_not_count_padding():
    # Rotary embeddings see differences of positions only; learned ones would notice an offset.
    torch.manual_seed(0)
    sizes = dict(vocab_size=32, n_positions=16, n_embd=16, n_layer=1, n_head=2)
    model = GPT2LMHeadModel(GPT2Config(**sizes, initializer_range=0.5)).double().eval()
    got = lp.completion_logprobs(model, *batch())
    for row, values in zip(got, one_at_a_time(model, PROMPTS, COMPLETIONS), strict=True):
        torch.testing.assert_close(row[: len(values)], torch.stack(values))


@pytest.mark.parametrize("left", [True, False])
@pytest.mark.parametrize("count", [4, 17])
def test_label_logits_do_not_count_padding_as_positions(left, count):
    torch.manual_seed(0)
    sizes = dict(vocab_size=32, n_positions=16, n_embd=16, n_layer=1, n_head=2)
    model = GPT2LMHeadModel(GPT2Config(**sizes, initializer_range=0.5)).double().eval()
    rows = [[1 + (r * t + r) % 30 for t in range(2 + r * r % 13)] for r in range(count)]
    rows.sort(key=len)  # as label_logits returns them
    logits, targets = lp.label_logits(model, *labelled([(r, [-100] + r[1:]) for r in rows], left))
    expected = torch.cat([model(torch.tensor([row])).logits[0, :-1] for row in rows])
    assert targets.tolist() == [token for row in rows for token in row[1:]]
    torch.testing.assert_close(logits, expected)


def test_rotary_models_give_label_logits_of_rows_padded_on_the_right_as_before(model):
    rows = [[1 + (r * t + r) % 30 for t in range(2 + r * r % 9)] for r in range(5)]
    ids, mask, labels = labelled([(r, [-100] + r[1:]) for r in rows], left=False)
    states = model.model(ids, attention_mask=mask).last_hidden_state
    plain = model.lm_head(states[:, :-1][labels[:, 1:] != -100])
    assert torch.equal(lp.label_logits(model, ids, mask, labels)[0], plain)


def test_padding_content_does_not_matter(model):
    a = lp.completion_logprobs(model, *batch(pad=0))
    b = lp.completion_logprobs(model, *batch(pad=17))
    torch.testing.assert_close(a, b, atol=1e-6, rtol=0)


def test_completion_logits_give_the_same_logprobs(model):
    inputs = batch()
    logits = lp.completion_logits(model, *inputs)
    assert logits.shape == (*inputs[2].shape, 32)
    expected = lp.completion_logprobs(model, *inputs)
    torch.testing.assert_close(lp.gather_logprobs(logits, inputs[2]) * inputs[3], expected)


@pytest.mark.truth("completion_logprobs_and_entropy", "loop", "gradient")
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_logprobs_and_entropy_from_one_softmax(model, temperature):
    inputs, parameters = batch(), list(model.parameters())
    kept = inputs[3].bool()
    logits = lp.completion_logits(model, *inputs) / temperature
    expected = lp.gather_logprobs(logits, inputs[2])[kept], lp.entropy(logits)[kept]
    weights = torch.arange(int(kept.sum()), dtype=torch.float64).cos()
    for with_gradient in (True, False):
        options = {"temperature": temperature, "entropy_gradient": with_gradient}
        found = lp.completion_logprobs_and_entropy(model, *inputs, **options)
        for ours, slow, free in zip(found, expected, (True, with_gradient), strict=True):
            assert ours.shape == kept.shape and not ours[~kept].any()
            torch.testing.assert_close(ours[kept], slow)
            options = {"retain_graph": True, "materialize_grads": True}
            grads = torch.autograd.grad((ours[kept] * weights).sum(), parameters, **options)
            slow_grads = torch.autograd.grad((slow * weights).sum(), parameters, **options)
            for a, b in zip(grads, slow_grads, strict=True):
                torch.testing.assert_close(a, b if free else torch.zeros_like(b))


def test_all_logits_never_exist_at_once(model):
    """A part's logits become log-probs before the next part runs."""
    prompts = [[1 + (i + t) % 30 for t in range(1 + i % 5)] for i in range(22)]
    completions = [[1 + (r * t) % 30 for t in range(1, 2 + r * r % 11)] for r in range(66)]
    order = []

    def run(last_only, **inputs):
        order.append("run")
        output = model(**inputs)
        return output.logits[:, -1:] if last_only else output.logits, output.past_key_values

    def keep(logits, ids):
        order.append("keep")
        return lp.gather_logprobs(logits, ids).unsqueeze(-1)

    inputs = batch(prompts, completions)
    kept = forward.shared_prompt(run, *inputs, keep)
    assert order == ["run", "keep"] * 4
    expected = lp.completion_logprobs(model, *inputs)
    torch.testing.assert_close(kept[..., 0] * inputs[3], expected)


@pytest.mark.usefixtures("unchecked")
def test_completion_logprobs_reports_misuse(model):
    prompt_ids, prompt_mask, completion_ids, mask = batch()
    with pytest.raises(ValueError, match="5 completions for 3 prompts"):
        lp.completion_logprobs(model, prompt_ids, prompt_mask, completion_ids[:5], mask[:5])
    with pytest.raises(ValueError, match="a mask of their shape"):
        lp.completion_logprobs(model, prompt_ids, prompt_mask, completion_ids, mask[:, 1:])
    with pytest.raises(ValueError, match="padded on the left"):
        flipped = prompt_ids.flip(1), prompt_mask.flip(1)
        lp.completion_logprobs(model, *flipped, completion_ids, mask)
    for function in (lp.completion_logprobs, lp.completion_logprobs_and_entropy):
        with pytest.raises(ValueError, match="temperature must be above 0, not 0.0"):
            function(model, *batch(), temperature=0.0)


def test_gradient_checkpointing_is_reported_not_silently_wrong(model):
    model.gradient_checkpointing_enable()
    try:
        model.train()
        with pytest.raises(ValueError, match="gradient checkpointing"):
            lp.completion_logprobs(model, *batch())
        model.eval()
        lp.completion_logprobs(model, *batch())
    finally:
        model.gradient_checkpointing_disable()
        model.eval()


# Entropy


@pytest.mark.truth("entropy", "loop")
def test_entropy_against_a_loop():
    logits = rand(2, 3, 6)
    got = lp.entropy(logits)
    for b in range(2):
        for t in range(3):
            logs = [slow_logprob(logits[b, t].tolist(), v) for v in range(6)]
            expected = -sum(math.exp(x) * x for x in logs)
            assert got[b, t].item() == pytest.approx(expected, abs=1e-12)


def test_entropy_of_known_distributions():
    inf = math.inf
    logits = torch.tensor([[0.0, 0, 0, 0], [5, 5, -inf, -inf], [0, -inf, -inf, -inf]]).double()
    expected = torch.tensor([math.log(4), math.log(2), 0.0]).double()
    torch.testing.assert_close(lp.entropy(logits), expected)
    logits.requires_grad_()
    lp.entropy(logits).sum().backward()
    assert logits.grad.isfinite().all()


@pytest.mark.truth("entropy", "gradient")
def test_entropy_gradient():
    assert torch.autograd.gradcheck(lp.entropy, rand(2, 5).requires_grad_())


# Masked reductions

masks = st.lists(st.lists(st.booleans(), min_size=4, max_size=4), min_size=2, max_size=3)


@pytest.mark.truth("masked_sum", "loop")
@pytest.mark.truth("masked_mean", "loop")
@pytest.mark.truth("masked_whiten", "loop")
@given(masks, st.integers(0, 99))
@settings(max_examples=50, deadline=None)
def test_masked_reductions_against_loops(mask, seed):
    x = rand(len(mask), 4, seed=seed)
    mask = torch.tensor(mask).float()
    kept = [x[b, t].item() for b in range(len(x)) for t in range(4) if mask[b, t]]
    assert lp.masked_sum(x, mask).item() == pytest.approx(sum(kept))
    by_row = [
        [v for v, m in zip(row, keep, strict=True) if m]
        for row, keep in zip(x.tolist(), mask, strict=True)
    ]
    assert lp.masked_sum(x, mask, dim=1).tolist() == pytest.approx([sum(r) for r in by_row])
    if kept:
        assert lp.masked_mean(x, mask).item() == pytest.approx(statistics.mean(kept))
    else:
        with pytest.raises(ValueError, match="mask is empty$"):
            lp.masked_mean(x, mask)
    if all(by_row):
        means = [statistics.mean(row) for row in by_row]
        assert lp.masked_mean(x, mask, dim=1).tolist() == pytest.approx(means)
    else:
        empty = sum(not row for row in by_row)
        with pytest.raises(ValueError, match=f"empty in {empty} of {len(x)} rows"):
            lp.masked_mean(x, mask, dim=1)
    if len(kept) < 2:
        with pytest.raises(ValueError, match=f"at least 2 unmasked positions, got {len(kept)}"):
            lp.masked_whiten(x, mask)
        return
    mean, std = statistics.mean(kept), math.sqrt(statistics.variance(kept) + 1e-8)
    white = lp.masked_whiten(x, mask)
    assert white[mask.bool()].tolist() == pytest.approx([(v - mean) / std for v in kept])
    assert (white[~mask.bool()] == 0).all()


@pytest.mark.parametrize("garbage", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("reduce", [lp.masked_sum, lp.masked_mean, lp.masked_whiten])
def test_masked_positions_leak_neither_into_value_nor_gradient(reduce, garbage):
    mask = torch.tensor([[1.0, 1, 0], [0, 1, 1]])
    clean = rand(2, 3).requires_grad_()
    dirty = clean.detach().masked_fill(mask == 0, garbage).requires_grad_()
    weights = rand(2, 3, seed=1)
    for x in (clean, dirty):
        value = reduce(x, mask)
        (value * weights[: value.ndim and 2]).sum().backward() if value.ndim else value.backward()
    torch.testing.assert_close(reduce(dirty, mask), reduce(clean, mask))
    torch.testing.assert_close(dirty.grad, clean.grad)
    assert (dirty.grad[mask == 0] == 0).all()
    assert dirty.grad[mask == 1].abs().sum() > 0


def test_one_position_has_no_variance():
    with pytest.raises(ValueError, match="at least 2 unmasked positions, got 1"):
        lp.masked_whiten(rand(2, 2), torch.tensor([[0, 1], [0, 0]]))


def test_masked_sum_of_nothing_is_zero():
    assert lp.masked_sum(torch.ones(2, 2), torch.zeros(2, 2)).item() == 0


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("reduce", [lp.masked_sum, lp.masked_mean, lp.masked_whiten])
def test_a_mask_of_another_shape_is_refused_not_broadcast(reduce):
    with pytest.raises(ValueError, match="differ in shape"):
        reduce(torch.ones(2, 3), torch.ones(3))


@pytest.mark.truth("importance_weights", "loop", "gradient")
def test_importance_weights_are_truncated_constants():
    ours = torch.tensor([[-1.0, -0.5, -9.0], [-0.1, -2.0, float("nan")]], requires_grad=True)
    sampler = torch.tensor([[-1.5, -0.2, -9.0], [-6.0, -1.0, -float("inf")]])
    mask = torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0]])
    weights = importance_weights(ours, sampler, mask, limit=3.0)
    slow = torch.zeros(2, 3)
    for b, t in ((0, 0), (0, 1), (1, 0), (1, 1)):
        slow[b, t] = min(math.exp(ours[b, t].item()) / math.exp(sampler[b, t].item()), 3.0)
    torch.testing.assert_close(weights, slow)
    assert not weights.requires_grad


@pytest.mark.truth("importance_weights", "enumeration")
def test_importance_weights_give_the_mean_under_the_model():
    model, sampler = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.4, 0.4, 0.2])
    value = torch.tensor([1.0, -2.0, 5.0])
    weights = importance_weights(model.log(), sampler.log(), torch.ones(3))
    torch.testing.assert_close((sampler * weights * value).sum(), (model * value).sum())
