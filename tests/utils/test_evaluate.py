import doctest
import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from utils import evaluate
from utils.chat import collate, encode_example, stop_token_ids
from utils.evaluate import (
    auc,
    distinct_n,
    evaluate_completions,
    pass_at_k,
    perplexity,
    wilson_interval,
)
from utils.rollout import sample

PROMPTS = [[5, 6, 7], [8, 3, 9], [4]]


def test_the_docstrings_are_true():
    results = doctest.testmod(evaluate)
    assert results.attempted >= 4 and results.failed == 0


# --- intervals


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        (8, 10, 0.4902, 0.9433),
        (0, 10, 0.0, 0.2775),
        (10, 10, 0.7225, 1.0),
        (263, 500, 0.4822, 0.5694),
    ],
)
def test_wilson_against_values_computed_elsewhere(successes, n, low, high):
    assert wilson_interval(successes, n) == pytest.approx((low, high), abs=1e-4)


@settings(deadline=None)
@given(st.integers(1, 2000).flatmap(lambda n: st.tuples(st.floats(0, n), st.just(n))))
def test_the_ends_of_wilson_solve_its_equation(case):
    """The ends are the q with |p - q| = z sqrt(q(1-q)/n)."""
    successes, n = case
    low, high = wilson_interval(successes, n)
    p = successes / n
    assert 0 <= low <= p + 1e-9 and p - 1e-9 <= high <= 1
    for q in (low, high):
        if 0 < q < 1:
            assert abs(p - q) == pytest.approx(1.96 * math.sqrt(q * (1 - q) / n), abs=1e-7)


def test_wilson_covers_the_truth():
    """Exact coverage of the 95% interval at n=100: between 92% and 98% for these p."""
    for p in (0.1, 0.5, 0.87):
        cover = 0.0
        for c in range(101):
            low, high = wilson_interval(c, 100)
            if low <= p <= high:
                cover += math.comb(100, c) * p**c * (1 - p) ** (100 - c)
        assert 0.92 < cover < 0.98


@pytest.mark.parametrize(("successes", "n"), [(1, 0), (-1, 5), (6, 5), (float("nan"), 5)])
def test_wilson_refuses_nonsense(successes, n):
    with pytest.raises(ValueError, match="0 <= successes <= n"):
        wilson_interval(successes, n)


# --- pass@k, ranking, diversity


@pytest.mark.parametrize("n", [1, 4, 6])
def test_pass_at_k_equals_enumeration(n):
    for c, k in itertools.product(range(n + 1), range(1, n + 1)):
        draws = list(itertools.combinations(range(n), k))
        hits = sum(any(i < c for i in draw) for draw in draws)
        assert pass_at_k(n, c, k) == pytest.approx(hits / len(draws))


@pytest.mark.parametrize(("n", "c", "k"), [(4, 5, 1), (4, -1, 1), (4, 2, 0), (4, 2, 5)])
def test_pass_at_k_refuses_nonsense(n, c, k):
    with pytest.raises(ValueError, match=f"n={n}, c={c}, k={k}"):
        pass_at_k(n, c, k)


def slow_auc(scores, labels):
    """Every right answer against every wrong one."""
    right, wrong = ([s for s, y in zip(scores, labels, strict=True) if y == k] for k in (1, 0))
    wins = [(a > b) + 0.5 * (a == b) for a in right for b in wrong]
    return sum(wins) / len(wins) if wins else math.nan


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(-3, 3), st.booleans()), max_size=20))
def test_auc_compares_every_right_with_every_wrong(rows):
    scores, labels = [s for s, _ in rows], [float(y) for _, y in rows]
    assert auc(scores, labels) == pytest.approx(slow_auc(scores, labels), nan_ok=True)
    stretched = [10.0 * s + 3 for s in scores]
    assert auc(stretched, labels) == pytest.approx(auc(scores, labels), nan_ok=True)


def test_auc_takes_tensors_and_refuses_what_is_no_ranking():
    assert auc(torch.tensor([2.0, 1.0]), torch.tensor([1, 0])) == 1.0
    assert math.isnan(auc([1.0, 2.0], [1, 1])) and math.isnan(auc([1.0], [0]))
    for scores, labels in (([1.0], [1, 0]), ([[1.0, 2.0]], [[1, 0]]), ([math.nan, 1.0], [1, 0])):
        with pytest.raises(ValueError, match="one score"):
            auc(scores, labels)
    with pytest.raises(ValueError, match="1 .right. or 0"):
        auc([1.0, 2.0], [1, 0.5])


@pytest.mark.parametrize(
    ("texts", "n", "expected"),
    [
        (["a b c d"], 1, 1.0),
        (["a a a a"], 1, 0.25),
        (["a b a b"], 2, 2 / 3),
        (["a b", "b a"], 2, 1.0),  # no bigram across texts
        (["a", ""], 2, 0.0),
        ([], 1, 0.0),
    ],
)
def test_distinct_n(texts, n, expected):
    assert distinct_n(texts, n) == pytest.approx(expected)
    with pytest.raises(ValueError, match="at least 1"):
        distinct_n(texts, 0)


# --- perplexity


def test_perplexity_against_a_loop(random_model, tokenizer):
    """One sequence at a time, one token at a time, completion tokens only."""
    pairs = [("How many?", "SELECT COUNT(*) FROM head"), ("Oldest?", "SELECT 1"), ("Who?", "Tom")]
    examples = [encode_example(tokenizer, *pair) for pair in pairs]
    losses = []
    for example in examples:
        with torch.no_grad():
            logits = random_model(input_ids=torch.tensor([example.input_ids])).logits[0]
        logprobs = torch.log_softmax(logits, dim=-1)
        for position, (token, learned) in enumerate(
            zip(example.input_ids, example.completion_mask, strict=True)
        ):
            if learned:
                losses.append(-logprobs[position - 1, token].item())
    expected = math.exp(sum(losses) / len(losses))
    pad = tokenizer.pad_token_id
    batches = [collate(examples[:2], pad), collate(examples[2:], pad)]
    assert perplexity(random_model, batches) == pytest.approx(expected, rel=1e-4)
    assert perplexity(random_model, [collate(examples, pad)]) == pytest.approx(expected, rel=1e-4)


def test_perplexity_of_a_uniform_model_is_its_vocabulary(make_model, tokenizer):
    model = make_model(50).train()
    torch.nn.init.zeros_(model.lm_head.weight)
    batch = {
        "input_ids": torch.tensor([[3, 4, 5]]),
        "attention_mask": torch.ones(1, 3, dtype=torch.long),
        "labels": torch.tensor([[-100, 4, 5]]),
    }
    assert perplexity(model, [batch]) == pytest.approx(50)
    assert model.training, "the mode is restored"
    batch["labels"] = torch.full((1, 3), -100)
    for nothing in ([batch], []):
        with pytest.raises(ValueError, match="no completion tokens"):
            perplexity(model, nothing)


# --- evaluation by sampling


@pytest.fixture(scope="module")
def model(make_model, tokenizer):
    assert max(stop_token_ids(tokenizer)) < 12
    return make_model(12)


def run(model, tokenizer, score_fn, **kwargs):
    generator = torch.Generator().manual_seed(0)
    return evaluate_completions(
        model, tokenizer, PROMPTS, score_fn, max_new_tokens=12, generator=generator, **kwargs
    )


def test_scores_texts_and_accuracy_belong_together(model, tokenizer):
    seen = []

    def score(index, text):
        seen.append((index, text))
        return len(text) % 2 if index else 1.0

    result = run(model, tokenizer, score, samples=5)
    assert [index for index, _ in seen] == [0] * 5 + [1] * 5 + [2] * 5
    assert [text for _, text in seen] == [text for group in result.texts for text in group]
    assert [len(group) for group in result.texts] == [5, 5, 5]
    expected = [[1.0 if q == 0 else len(t) % 2 for t in g] for q, g in enumerate(result.texts)]
    assert result.scores.tolist() == expected
    assert 1 / 3 < result.accuracy < 1
    assert result.accuracy == pytest.approx(sum(sum(row) for row in expected) / 15)
    assert (result.n_prompts, result.samples) == (3, 5)


def test_the_interval_counts_prompts_not_answers(model, tokenizer):
    result = run(model, tokenizer, lambda index, text: index == 0, samples=50)
    assert (result.low, result.high) == pytest.approx(wilson_interval(1, 3))
    assert str(result) == "0.333 [0.061, 0.792], n=3 prompts x 50 samples"


def test_stop_rate_and_length_come_from_the_rollout(model, tokenizer):
    prompts = [prompt for prompt in PROMPTS for _ in range(10)]

    def seeded():
        return torch.Generator().manual_seed(0)

    rollout = sample(model, tokenizer, prompts, 2, 3, generator=seeded())
    result = evaluate_completions(
        model, tokenizer, prompts, lambda i, t: 0.0, 2, max_new_tokens=3, generator=seeded()
    )
    stopped = sum(rollout.finished.tolist()) / 60
    assert stopped not in (0, 0.5, 1), "or a swapped rate would pass"
    assert result.stop_rate == pytest.approx(stopped)
    assert result.accuracy == result.low == 0 and result.high > 0


def test_greedy_decodes_once(model, tokenizer):
    result = run(model, tokenizer, lambda index, text: 1.0, samples=4, temperature=0)
    assert result.samples == 1 and result.scores.shape == (3, 1)
    assert str(result) == "1.000 [0.438, 1.000], n=3 prompts x 1 sample"
    assert run(model, tokenizer, lambda i, t: 1.0, temperature=0).texts == result.texts


def test_the_repr_is_short(model, tokenizer):
    result = run(model, tokenizer, lambda index, text: 1.0)
    assert "texts" not in repr(result) and "tensor" not in repr(result)


@pytest.mark.parametrize("score", [1.5, -0.1, float("nan")])
def test_a_score_outside_0_to_1_is_named(model, tokenizer, score):
    with pytest.raises(ValueError, match=rf"{score} for prompt 1"):
        run(model, tokenizer, lambda index, text: score if index == 1 else 0.0)
