"""Supervised and preference losses in expectation: what they are least at, by enumeration."""

import math
from itertools import permutations, product

import pytest
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from relatives.dpo import dpo_variant_loss
from utils.forward import shared_prompt
from utils.logprobs import (
    completion_logits,
    completion_logprobs,
    gather_logprobs,
    token_logprobs,
)
from utils.losses import bradley_terry_loss, dpo_loss, sft_loss

torch.set_num_threads(1)
CLOSE = {"atol": 1e-12, "rtol": 1e-10}
VOCAB, LENGTH = 3, 3
SEQUENCES = torch.tensor(list(product(range(VOCAB), repeat=LENGTH)))  # (27, 3)


def rand(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


# Probabilities of all sequences add up to 1


def table_logits(seed):
    """Logits (27, LENGTH + 1, VOCAB) of a policy that knows the last two tokens, and the ids.

    Position 0 holds a first token that is given, so position t predicts sequence token t.
    """
    rows = torch.cat([torch.zeros(len(SEQUENCES), 2).long(), SEQUENCES], dim=1)
    by_state = 2 * rand(VOCAB, VOCAB, VOCAB, seed=seed)
    logits = by_state[rows[:, :-1], rows[:, 1:]]
    return logits.requires_grad_(), rows[:, 1:]


@pytest.mark.truth("token_logprobs", "enumeration")
@pytest.mark.parametrize("seed", range(3))
def test_all_sequences_have_probability_1(seed):
    logits, ids = table_logits(seed)
    assert token_logprobs(logits, ids).sum(1).exp().sum().item() == pytest.approx(1, abs=1e-14)


@pytest.mark.truth("gather_logprobs", "enumeration", "gradient")
@pytest.mark.parametrize("seed", range(3))
def test_the_next_token_is_one_of_the_vocabulary(seed):
    # The probabilities of all tokens add up to 1, whatever the logits: a gradient of 0.
    logits = 5 * rand(4, 7, seed=seed)
    logits.requires_grad_()
    every = torch.arange(7).expand(4, 7)
    total = gather_logprobs(logits.unsqueeze(1).expand(4, 7, 7), every).exp().sum(1)
    torch.testing.assert_close(total, torch.ones(4).double(), **CLOSE)
    grad = torch.autograd.grad(total.sum(), logits)[0]
    torch.testing.assert_close(grad, torch.zeros_like(grad), **CLOSE)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=VOCAB,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        initializer_range=0.5,
    )
    return Qwen3ForCausalLM(config).double().eval()


def all_completions():
    """Two prompts, the second padded, each with all sequences for its completions."""
    prompt_ids, prompt_mask = torch.tensor([[1, 2], [0, 2]]), torch.tensor([[1, 1], [0, 1]])
    ids = SEQUENCES.repeat(2, 1)
    return prompt_ids, prompt_mask, ids, torch.ones(ids.shape).double()


@pytest.mark.truth("completion_logprobs", "enumeration")
@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_all_completions_of_a_prompt_have_probability_1(model, temperature):
    with torch.no_grad():
        got = completion_logprobs(model, *all_completions(), temperature=temperature)
    totals = got.sum(1).exp().view(2, -1).sum(1)
    assert totals.tolist() == pytest.approx([1, 1], abs=1e-6)
    assert got.exp().view(2, -1).std(1).min() > 0.01  # not the same for all


@pytest.mark.truth("completion_logits", "enumeration")
@pytest.mark.truth("shared_prompt", "enumeration")
def test_the_logits_of_all_completions_have_probability_1(model):
    with torch.no_grad():
        logits = completion_logits(model, *all_completions())
    probability = gather_logprobs(logits, all_completions()[2]).sum(1).exp()
    assert probability.view(2, -1).sum(1).tolist() == pytest.approx([1, 1], abs=1e-6)
    # `shared_prompt` is what runs the model, for any output: here twice the logits.

    def forward(last_only, **inputs):
        output = model(**inputs, logits_to_keep=int(last_only))
        return 2 * output.logits, output.past_key_values

    with torch.no_grad():
        torch.testing.assert_close(shared_prompt(forward, *all_completions()), 2 * logits)


# Supervised fine-tuning: KL(data || policy)


@pytest.mark.truth("sft_loss", "enumeration", "gradient")
@pytest.mark.parametrize("seed", range(3))
def test_sft_in_expectation_is_the_forward_kl_to_the_data(seed):
    logits, ids = table_logits(seed)
    data = torch.softmax(rand(len(ids), seed=9), 0)
    labels = ids.clone()
    labels[:, 0] = -100
    loss = sum(
        p * LENGTH * sft_loss(logits[i : i + 1], labels[i : i + 1])[0] for i, p in enumerate(data)
    )
    policy = token_logprobs(logits, ids).sum(1)
    kl = (data * (data.log() - policy)).sum()
    data_entropy = -(data * data.log()).sum()
    torch.testing.assert_close(loss, kl + data_entropy, **CLOSE)
    got, right = (torch.autograd.grad(x, logits, retain_graph=True)[0] for x in (loss, kl))
    torch.testing.assert_close(got, right, **CLOSE)


# Preferences that follow Bradley-Terry: both orders of every pair, as often as they occur

OUTCOMES = 5
PAIRS = torch.tensor(list(permutations(range(OUTCOMES), 2)))  # (20, 2): winner, loser


def preferences(rewards):
    """How often each ordered pair is labelled that way; the pairs themselves are equally likely."""
    winner, loser = rewards[PAIRS].unbind(1)
    return torch.sigmoid(winner - loser) / (len(PAIRS) / 2)


@pytest.mark.truth("bradley_terry_loss", "enumeration", "gradient")
@pytest.mark.parametrize("seed", range(3))
def test_bradley_terry_is_least_at_the_rewards_behind_the_labels(seed):
    truth = 2 * rand(OUTCOMES, seed=seed)
    often = preferences(truth)

    def expected(rewards):
        winner, loser = rewards[PAIRS].unbind(1)
        pairs = zip(often, winner, loser, strict=True)
        return sum(p * bradley_terry_loss(w[None], lo[None])[0] for p, w, lo in pairs)

    for shift in (0.0, 7.0):  # only differences count
        rewards = (truth + shift).requires_grad_()
        grad = torch.autograd.grad(expected(rewards), rewards)[0]
        torch.testing.assert_close(grad, torch.zeros_like(grad), **CLOSE)
    # Elsewhere: for each pair, how much surer the model is than the labels.
    rewards = (truth + rand(OUTCOMES, seed=8)).requires_grad_()
    grad = torch.autograd.grad(expected(rewards), rewards)[0]
    surer = torch.sigmoid(rewards[:, None] - rewards) - torch.sigmoid(truth[:, None] - truth)
    torch.testing.assert_close(grad, surer.sum(1).detach() / (len(PAIRS) / 2), **CLOSE)
    assert grad.abs().max() > 1e-2


def expected_dpo(logits, ref, often, beta, **options):
    policy = torch.log_softmax(logits, -1)
    total = 0.0
    for p, (w, lo) in zip(often, PAIRS.tolist(), strict=True):
        numbers = policy[w], policy[lo], ref[w], ref[lo]
        loss_fn = dpo_variant_loss if options else dpo_loss
        total = total + p * loss_fn(*(x[None] for x in numbers), beta=beta, **options)[0]
    return total


@pytest.mark.truth("dpo_loss", "enumeration", "gradient")
@pytest.mark.truth("dpo_variant_loss", "enumeration", "gradient")
@pytest.mark.parametrize(
    ("options", "flipped"),
    [({}, 0.0), ({"loss_type": "robust", "label_smoothing": 0.2}, 0.2)],
)
@pytest.mark.parametrize("beta", [0.1, 1.0])
def test_dpo_is_least_at_the_policy_that_the_rewards_ask_for(beta, options, flipped):
    # The maximum of E[reward] - beta KL(policy || ref) is ref * exp(reward / beta), normalised.
    rewards, ref = rand(OUTCOMES, seed=1) / 2, torch.log_softmax(rand(OUTCOMES, seed=2), -1)
    often = preferences(rewards)
    back = often.view(-1)[[PAIRS.tolist().index([lo, w]) for w, lo in PAIRS.tolist()]]
    often = (1 - flipped) * often + flipped * back
    best = (ref + rewards / beta).requires_grad_()
    grad = torch.autograd.grad(expected_dpo(best, ref, often, beta, **options), best)[0]
    torch.testing.assert_close(grad, torch.zeros_like(grad), **CLOSE)
    policy = torch.log_softmax(best, -1)
    objective = (policy.exp() * (rewards - beta * (policy - ref))).sum()
    grad = torch.autograd.grad(objective, best)[0]
    torch.testing.assert_close(grad, torch.zeros_like(grad), **CLOSE)
    # And nowhere near it by accident: at the reference both pull the same way.
    start = ref.clone().requires_grad_()
    down = torch.autograd.grad(expected_dpo(start, ref, often, beta, **options), start)[0]
    assert (down * (rewards - rewards.mean())).sum() < -1e-3 * beta


@pytest.mark.truth("dpo_variant_loss", "enumeration", "gradient")
def test_smoothing_is_least_where_the_labels_are_half_believed():
    # Certain labels, smoothed by e: the margin of each pair stops at log((1 - e) / e) / beta.
    e, beta, zero = 0.1, 0.5, torch.zeros(1, dtype=torch.float64)
    margin = torch.tensor([math.log((1 - e) / e) / beta], dtype=torch.float64, requires_grad=True)
    loss, _ = dpo_variant_loss(margin, zero, zero, zero, beta, label_smoothing=e)
    assert torch.autograd.grad(loss, margin)[0].abs().item() < 1e-15
    assert loss.item() == pytest.approx(-(1 - e) * math.log(1 - e) - e * math.log(e))
