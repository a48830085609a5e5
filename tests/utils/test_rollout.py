import copy
import math

import pytest
import torch
from torch import nn
from transformers.cache_utils import DynamicLayer

from utils.cache import CACHE_BLOCK, RoomyLayer, grouped_attention
from utils.chat import encode_prompt, pad_left, stop_token_ids
from utils.logprobs import completion_logprobs
from utils.rollout import LEAVE_AT, draw, sample

VOCAB = 12  # small, so that stop tokens come often and all sequences can be enumerated
PROMPTS = [[5, 6, 7], [8, 3, 9, 10, 11, 4, 6, 5, 3], [4], [9, 9, 10, 3, 5]]
LIMIT = 16


@pytest.fixture(scope="module")
def model(make_model, tokenizer):
    assert max(stop_token_ids(tokenizer)) < VOCAB
    return make_model(VOCAB)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def full_logprobs(model, prompt, completion, temperature=1.0):
    """The slow way: one sequence, one plain forward pass, no padding, no cache."""
    ids = torch.tensor([prompt + completion])
    with torch.no_grad():
        logits = model(input_ids=ids, use_cache=False).logits[0] / temperature
    rows = torch.arange(len(prompt) - 1, ids.shape[1] - 1)
    return torch.log_softmax(logits, dim=-1)[rows, ids[0, len(prompt) :]]


def generate(model, tokenizer, prompts, **kwargs):
    ids, mask = pad_left(prompts, tokenizer.pad_token_id)
    with torch.no_grad():
        output = model.generate(
            input_ids=ids,
            attention_mask=mask,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=stop_token_ids(tokenizer),
            **kwargs,
        )
    return output[:, ids.shape[1] :]


@pytest.mark.parametrize("temperature", [1.0, 0.5, 2.0])
def test_logprobs_are_those_of_a_full_forward_pass(model, tokenizer, temperature):
    rollout = sample(model, tokenizer, PROMPTS, 8, LIMIT, temperature, seeded())
    assert len(set(rollout.lengths.tolist())) > 3, "rows must end at different steps"
    for row, length in enumerate(rollout.lengths.tolist()):
        expected = full_logprobs(
            model, PROMPTS[row // 8], rollout.completion_ids[row, :length].tolist(), temperature
        )
        torch.testing.assert_close(rollout.logprobs[row, :length], expected, atol=1e-4, rtol=0)


def test_logprobs_are_those_that_training_computes(model, tokenizer):
    """Nothing sampled is an inference tensor, and the ratio of the first step is 1."""
    policy = copy.deepcopy(model)
    r = sample(policy, tokenizer, PROMPTS, 4, LIMIT, 0.7, seeded())
    args = (r.prompt_ids, r.prompt_mask, r.completion_ids, r.mask)
    logprobs = completion_logprobs(policy, *args, temperature=0.7)
    torch.testing.assert_close(logprobs, r.logprobs, atol=1e-4, rtol=0)
    (torch.exp(logprobs - r.logprobs) * r.mask).sum().backward()
    assert policy.model.embed_tokens.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("tied_prompts", [PROMPTS, [[5, 6], [7, 8]]])
def test_greedy_equals_generate_token_for_token(model, tokenizer, tied_prompts):
    expected = generate(model, tokenizer, tied_prompts, max_new_tokens=LIMIT, do_sample=False)
    rollout = sample(model, tokenizer, tied_prompts, 1, LIMIT, temperature=0)
    assert torch.equal(rollout.completion_ids, expected)


def test_greedy_on_the_whole_vocabulary(random_model, tokenizer):
    prompts = [encode_prompt(tokenizer, text) for text in ("How many?", "Name every city in it.")]
    expected = generate(random_model, tokenizer, prompts, max_new_tokens=24, do_sample=False)
    rollout = sample(random_model, tokenizer, prompts, 2, 24, temperature=0)
    assert torch.equal(rollout.completion_ids[::2], expected)
    assert torch.equal(rollout.completion_ids[1::2], expected)
    for row, length in enumerate(rollout.lengths.tolist()):
        ids = rollout.completion_ids[row, :length].tolist()
        expected = full_logprobs(random_model, prompts[row // 2], ids)
        torch.testing.assert_close(rollout.logprobs[row, :length], expected, atol=1e-4, rtol=0)


def chi_square(counts, probabilities):
    """Statistic and degrees of freedom; outcomes expected fewer than 5 times are pooled."""
    expected = probabilities * counts.sum()
    rare = expected < 5
    if rare.any():
        counts = torch.cat([counts[~rare], counts[rare].sum()[None]])
        expected = torch.cat([expected[~rare], expected[rare].sum()[None]])
    return ((counts - expected).square() / expected).sum().item(), len(expected) - 1


@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("sampler", ["sample", "generate"])
def test_samples_follow_the_models_distribution(model, tokenizer, sampler, temperature):
    """All outcomes of two tokens after one prompt, counted and compared with their probability.

    `generate` passes the same test with the same model, so both draw from one distribution.
    """
    prompt, stops, n = PROMPTS[1], stop_token_ids(tokenizer), 4000
    outcomes = [[a] if a in stops else [a, b] for a in range(VOCAB) for b in range(VOCAB)]
    outcomes = sorted({tuple(outcome) for outcome in outcomes})
    probabilities = torch.stack(
        [full_logprobs(model, prompt, list(o), temperature).sum().exp() for o in outcomes]
    )
    torch.testing.assert_close(probabilities.sum(), torch.tensor(1.0), atol=1e-4, rtol=0)
    if sampler == "sample":
        rollout = sample(
            model, tokenizer, [prompt, PROMPTS[0]], n, 2, temperature, seeded(), max_batch=2 * n
        )
        ids = rollout.completion_ids[:n]
    else:
        torch.manual_seed(0)
        ids = generate(
            model,
            tokenizer,
            [prompt],
            max_new_tokens=2,
            do_sample=True,
            temperature=temperature,
            top_k=0,
            top_p=1.0,
            num_return_sequences=n,
        )
    seen = [(a,) if a in stops else (a, b) for a, b in ids.tolist()]
    counts = torch.tensor([seen.count(outcome) for outcome in outcomes]).float()
    statistic, freedom = chi_square(counts, probabilities)
    assert freedom > 20
    assert statistic < freedom + 4 * (2 * freedom) ** 0.5, "4 standard deviations too far"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_draws_follow_the_softmax(dtype, temperature):
    """Five very different rows over a large vocabulary, a third of it ruled out."""
    sharpness = torch.tensor([0.0, 0.5, 2.0, 5.0, 20.0])[:, None]
    logits = (torch.randn(5, 1000, generator=seeded()) * sharpness).to(dtype)
    logits[:, ::3] = -torch.inf
    probabilities = torch.softmax(logits.double() / temperature, dim=-1)
    chances = 1 - torch.rand(40_000, dtype=torch.float64, generator=seeded(1))
    for row, expected in zip(logits, probabilities, strict=True):
        tokens, logprobs = draw(row.expand(len(chances), -1), temperature, chances)
        counts = torch.bincount(tokens, minlength=1000).double()
        assert not counts[::3].any()
        allowed = expected > 0
        statistic, freedom = chi_square(counts[allowed], expected[allowed])
        assert statistic < freedom + 4 * (2 * max(freedom, 1)) ** 0.5
        torch.testing.assert_close(logprobs.double(), expected[tokens].log(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("chance", [2.0**-53, 0.3, 0.5, 1 - 2.0**-53, 1.0])
def test_a_token_of_probability_0_is_never_drawn(dtype, chance):
    """Ruled out at both ends and in between, at the smallest and the largest uniform number."""
    logits = torch.randn(200, 37, generator=seeded()).to(dtype)
    logits[:, [0, 1, 5, 6, 20, 35, 36]] = -torch.inf
    logits[:50, 10:] = -200.0  # underflows to 0
    tokens, logprobs = draw(logits, 1.0, torch.full((200,), chance, dtype=torch.float64))
    assert (torch.softmax(logits.float(), -1).gather(1, tokens[:, None]) > 0).all()
    assert logprobs.isfinite().all()
    allowed = (torch.softmax(logits.float(), -1) > 0).long()
    first, last = allowed.argmax(1), 36 - allowed.flip(1).argmax(1)
    if chance < 1e-9:
        assert torch.equal(tokens, first)
    if chance > 1 - 1e-9:
        assert torch.equal(tokens, last)


def test_a_uniform_number_draws_the_token_whose_interval_it_lies_in():
    logits = torch.tensor([0.1, 0.2, 0.4, 0.3]).log().expand(7, -1)
    chances = torch.tensor([0.05, 0.0999, 0.1001, 0.2999, 0.3001, 0.6999, 0.7001]).double()
    assert draw(logits, 1.0, chances)[0].tolist() == [0, 0, 1, 1, 2, 2, 3]
    # A probability of 1e-9 behind one near 1 is lost where sums are kept in float32.
    rare = torch.tensor([0.0, math.log(1e-9)]).expand(2, -1)
    chances = torch.tensor([1 - 2e-9, 1 - 5e-10], dtype=torch.float64)
    assert draw(rare, 1.0, chances)[0].tolist() == [0, 1]


def test_uniform_numbers_are_above_0_and_reach_1(model, tokenizer, monkeypatch):
    monkeypatch.setattr(torch.Tensor, "uniform_", lambda x, generator: x.zero_())  # in [0, 1)
    seen = []

    def watched(logits, temperature, chances):
        seen.append(chances)
        return draw(logits, temperature, chances)

    monkeypatch.setattr("utils.rollout.draw", watched)
    sample(model, tokenizer, PROMPTS, 2, 3)
    assert all((chances == 1).all() for chances in seen)


@pytest.mark.parametrize("max_batch", [1, 16, 40])
def test_what_a_row_says_does_not_depend_on_the_rows_beside_it(model, tokenizer, max_batch):
    together = sample(model, tokenizer, PROMPTS, 8, LIMIT, 1.0, seeded())
    apart = sample(model, tokenizer, PROMPTS, 8, LIMIT, 1.0, seeded(), max_batch=max_batch)
    assert torch.equal(together.completion_ids, apart.completion_ids)
    torch.testing.assert_close(together.logprobs, apart.logprobs, atol=1e-4, rtol=0)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_are_nan_are_reported(model, tokenizer, temperature):
    broken = copy.deepcopy(model)
    broken.lm_head.weight.data[3, 0] = torch.nan
    with pytest.raises(FloatingPointError, match="logits are NaN"):
        sample(broken, tokenizer, PROMPTS, 2, 3, temperature)


def test_every_row_ends_at_its_stop_token_or_at_the_limit(model, tokenizer):
    stops = set(stop_token_ids(tokenizer))
    rollout = sample(model, tokenizer, PROMPTS, 16, LIMIT, 1.0, seeded())
    assert 0 < rollout.finished.float().mean() < 1, "both endings must occur"
    assert rollout.completion_ids.shape == (64, int(rollout.lengths.max()))
    for row, length in enumerate(rollout.lengths.tolist()):
        ids = rollout.completion_ids[row].tolist()
        assert stops.isdisjoint(ids[: length - 1])
        assert bool(rollout.finished[row]) == (ids[length - 1] in stops)
        assert rollout.finished[row] or length == LIMIT
        assert rollout.mask[row].tolist() == [1.0] * length + [0.0] * (len(ids) - length)
        assert set(ids[length:]) <= {tokenizer.pad_token_id}
        assert not rollout.logprobs[row, length:].any()


def test_a_stop_token_at_the_limit_counts_as_finished(model, tokenizer):
    rollout = sample(model, tokenizer, PROMPTS, 64, 1, 1.0, seeded())
    stops = torch.tensor(stop_token_ids(tokenizer))
    assert torch.equal(rollout.finished, torch.isin(rollout.completion_ids[:, 0], stops))
    assert rollout.finished.any() and not rollout.finished.all()


def test_unused_columns_are_trimmed(model, tokenizer):
    rollout = sample(model, tokenizer, PROMPTS, 1, 400, 1.0, seeded())
    longest = int(rollout.lengths.max())
    assert rollout.finished.all() and longest < 400
    assert rollout.completion_ids.shape == rollout.logprobs.shape == rollout.mask.shape
    assert rollout.mask.shape == (4, longest)


def test_texts_show_all_but_the_stop_token(model, tokenizer):
    rollout = sample(model, tokenizer, PROMPTS, 32, LIMIT, 1.0, seeded())
    for row, text in enumerate(rollout.texts):
        ids = rollout.completion_ids[row, : rollout.lengths[row]].tolist()
        assert text == tokenizer.decode(ids[:-1] if rollout.finished[row] else ids)
        assert "<|im_end|>" not in text and "<|endoftext|>" not in text
    assert any("<|im_start|>" in text for text in rollout.texts), "rambling must stay visible"


def test_rows_are_prompt_major(model, tokenizer):
    alone = [sample(model, tokenizer, [p], 1, LIMIT, temperature=0).texts[0] for p in PROMPTS]
    assert len(set(alone)) > 1
    rollout = sample(model, tokenizer, PROMPTS, 3, LIMIT, temperature=0)
    assert rollout.texts == [text for text in alone for _ in range(3)]
    assert rollout.group_size == 3
    assert rollout.prompt_ids.shape == (4, 9)
    for row, prompt in enumerate(PROMPTS):
        assert rollout.prompt_ids[row][rollout.prompt_mask[row].bool()].tolist() == prompt
        assert rollout.prompt_mask[row, -1] == 1, "padded on the left"


@pytest.mark.parametrize("max_batch", [1, 4, 5, 6, 100])
def test_greedy_does_not_depend_on_max_batch(model, tokenizer, max_batch):
    whole = sample(model, tokenizer, PROMPTS, 2, LIMIT, temperature=0)
    parts = sample(model, tokenizer, PROMPTS, 2, LIMIT, temperature=0, max_batch=max_batch)
    for name in ("prompt_ids", "prompt_mask", "completion_ids", "mask", "finished"):
        assert torch.equal(getattr(whole, name), getattr(parts, name)), name
    torch.testing.assert_close(whole.logprobs, parts.logprobs, atol=1e-4, rtol=0)
    assert whole.texts == parts.texts


def test_no_more_than_max_batch_rows_run_at_once(model, tokenizer):
    rows = []
    hook = model.register_forward_pre_hook(
        lambda module, args, kwargs: rows.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    try:
        sample(model, tokenizer, PROMPTS, 2, LIMIT, 1.0, seeded(), max_batch=5)
        assert max(rows) == 4
        rows.clear()
        sample(model, tokenizer, PROMPTS, 8, LIMIT, 1.0, seeded(), max_batch=5)
        assert max(rows) <= 8 and rows[-1] < 8, "finished rows leave the batch"
        rows.clear()
        sample(model, tokenizer, PROMPTS, 8, 3, 1.0, seeded(), max_batch=5, stop_ids=[VOCAB])
        assert rows == [1, 8, 8] * 4, "one group at least"
    finally:
        hook.remove()


def test_rows_that_have_ended_do_not_come_to_life_again(model, tokenizer):
    rows = []
    hook = model.register_forward_pre_hook(
        lambda module, args, kwargs: rows.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    try:
        rollout = sample(model, tokenizer, [[5, 6, 7]], 64, LIMIT, 1.0, seeded(), stop_ids=[3])
    finally:
        hook.remove()
    assert len(rows) == rollout.lengths.max()
    going = [int((rollout.lengths > step).sum()) for step in range(1, len(rows))]
    assert all(go <= ran <= go / LEAVE_AT for go, ran in zip(going, rows[1:], strict=True))
    assert any(go < ran for go, ran in zip(going, rows[1:], strict=True)), "some wait"


def test_one_seed_gives_one_rollout(model, tokenizer):
    def texts(generator):
        return sample(model, tokenizer, PROMPTS, 4, LIMIT, 1.0, generator).texts

    assert texts(seeded(1)) == texts(seeded(1)) != texts(seeded(2))
    torch.manual_seed(3)
    first = texts(None)
    torch.manual_seed(3)
    assert texts(None) == first != texts(None)


def test_a_generator_leaves_the_global_random_state_alone(model, tokenizer):
    before = torch.get_rng_state()
    sample(model, tokenizer, PROMPTS, 4, LIMIT, 1.0, seeded())
    assert torch.equal(torch.get_rng_state(), before)
    sample(model, tokenizer, PROMPTS, 4, LIMIT, temperature=0)
    assert torch.equal(torch.get_rng_state(), before), "greedy draws nothing"
    sample(model, tokenizer, PROMPTS, 4, LIMIT, 1.0)
    assert not torch.equal(torch.get_rng_state(), before)


def test_strings_are_encoded_as_they_are(random_model, tokenizer):
    text = "<|im_start|>user\nHow many?<|im_end|>\n"
    rollout = sample(random_model, tokenizer, [text], 1, 2, temperature=0)
    assert rollout.prompt_ids.tolist() == [tokenizer.encode(text, add_special_tokens=False)]
    assert rollout.prompt_ids[0, 0] == tokenizer.convert_tokens_to_ids("<|im_start|>")


@pytest.mark.parametrize("training", [True, False])
def test_it_samples_in_eval_mode_and_restores_the_mode(model, tokenizer, training):
    model = copy.deepcopy(model).train(training)
    modes = []
    model.register_forward_pre_hook(lambda module, args: modes.append(module.training))
    sample(model, tokenizer, PROMPTS, 1, 2, generator=seeded())
    assert set(modes) == {False} and model.training is training

    def broken(module, args):
        raise RuntimeError("out of memory")

    model.register_forward_pre_hook(broken)
    with pytest.raises(RuntimeError, match="out of memory"):
        sample(model, tokenizer, PROMPTS, 1, 2)
    assert model.training is training


@pytest.mark.parametrize("key_heads", [1, 2, 6])
@pytest.mark.parametrize("masked", [True, False])
def test_grouped_attention_is_attention_over_repeated_keys(key_heads, masked):
    numbers = seeded()
    query = torch.randn(3, 6, 1, 4, generator=numbers)  # (b, H, 1, D)
    key, value = torch.randn(2, 3, key_heads, 5, 4, generator=numbers)  # (b, K, L, D) each
    mask = torch.ones(3, 1, 1, 5, dtype=torch.bool)
    mask[0, ..., :2] = mask[2, ..., :4] = not masked
    repeated = [x.repeat_interleave(6 // key_heads, dim=1) for x in (key, value)]
    weights = (query @ repeated[0].mT * 0.7).masked_fill(~mask, -torch.inf).softmax(-1)
    expected = (weights @ repeated[1]).transpose(1, 2)  # (b, 1, H, D)
    output, _ = grouped_attention(
        nn.Identity(), query, key, value, mask if masked else None, scaling=0.7
    )
    torch.testing.assert_close(output, expected)


def test_a_roomy_cache_holds_what_a_growing_one_holds():
    generator = torch.Generator().manual_seed(0)

    def states(rows, tokens):  # keys and values
        return [torch.randn(rows, 2, tokens, 4, generator=generator) for _ in range(2)]

    theirs = DynamicLayer()
    theirs.update(*states(5, 7))
    ours = RoomyLayer(theirs)
    for step in range(100):
        new = states(len(ours.keys), CACHE_BLOCK + 1 if step == 80 else 1)
        for mine, full in zip(ours.update(*new), theirs.update(*new), strict=True):
            assert torch.equal(mine, full)
        assert ours.get_seq_length() == theirs.get_seq_length()
        if step in (3, 70):
            for layer in (ours, theirs):
                layer.batch_select_indices(torch.tensor([0, 2, 3]) % len(layer.keys))
            assert torch.equal(ours.keys, theirs.keys) and torch.equal(ours.values, theirs.values)


def test_the_cache_is_copied_once_a_block_not_once_a_token(model, tokenizer, monkeypatch):
    copies = []
    make_room = RoomyLayer._make_room

    def noted(layer, keys, values, tokens):
        copies.append(keys.shape[2])
        make_room(layer, keys, values, tokens)

    monkeypatch.setattr(RoomyLayer, "_make_room", noted)
    length = CACHE_BLOCK + 3
    sample(model, tokenizer, [[5, 6]], 2, length, stop_ids=[10**6])
    assert len(copies) == 2 * model.config.num_hidden_layers
    assert sorted(set(copies)) == [2, 2 + CACHE_BLOCK]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_the_models_attention_is_its_own_again_afterwards(model, tokenizer, attention):
    model = copy.deepcopy(model)
    model.set_attn_implementation(attention)
    used = []

    def watch(module, args):
        used.append(model.config._attn_implementation)
        if len(used) == 5:
            raise RuntimeError("out of memory")

    sample(model, tokenizer, PROMPTS, 2, 3, generator=seeded())
    assert model.config._attn_implementation == attention
    model.register_forward_pre_hook(watch)
    with pytest.raises(RuntimeError, match="out of memory"):
        sample(model, tokenizer, PROMPTS, 2, LIMIT, generator=seeded())
    decoding = "grouped_attention" if attention == "sdpa" else attention
    assert used == [attention, *[decoding] * 4]
    assert model.config._attn_implementation == attention


def test_bfloat16_works(model, tokenizer):
    half = copy.deepcopy(model).to(torch.bfloat16)
    rollout = sample(half, tokenizer, PROMPTS, 2, LIMIT, 1.0, seeded())
    assert rollout.logprobs.dtype == torch.float32
    assert (rollout.logprobs[rollout.mask.bool()] < 0).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompts": []}, "at least one prompt"),
        ({"prompts": "one string"}, "must be a list"),
        ({"prompts": [[3], []]}, "prompt 1 is empty"),
        ({"prompts": ["", "a"]}, "prompt 0 is empty"),
        ({"group_size": 0}, "group_size"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"max_batch": 0}, "max_batch"),
        ({"temperature": -1.0}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"max_new_tokens": 510}, "3 tokens.*context of 512"),
    ],
)
def test_wrong_arguments_are_named(model, tokenizer, change, message):
    arguments = {"prompts": [[5, 6, 7]], "group_size": 1, "max_new_tokens": 2} | change
    with pytest.raises(ValueError, match=message):
        sample(model, tokenizer, **arguments)


def test_only_the_given_stop_tokens_end_a_row(random_model, tokenizer):
    """Here every token but one is a stop, then none that can be drawn."""
    vocabulary = list(range(random_model.config.vocab_size))
    at_once = sample(random_model, tokenizer, [[5, 6]], 8, 4, stop_ids=vocabulary)
    assert at_once.lengths.tolist() == [1] * 8 and at_once.finished.all()
    greedy = sample(random_model, tokenizer, [[5, 6]], 1, 6, temperature=0, stop_ids=[10**6])
    assert greedy.lengths.tolist() == [6] and not greedy.finished.any()
    third = greedy.completion_ids[0, 2].item()
    stopped = sample(random_model, tokenizer, [[5, 6]], 1, 6, temperature=0, stop_ids=[third])
    first = greedy.completion_ids[0].tolist().index(third) + 1
    assert stopped.lengths.tolist() == [first] and stopped.finished.all()
