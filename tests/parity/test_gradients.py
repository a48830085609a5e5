"""Loops and gradients of the small functions: log-probs, masked reductions, KL estimates."""

import math

import pytest
import torch
from torch.autograd import gradcheck

from utils import chat, kl
from utils import logprobs as lp

torch.set_num_threads(1)


def rand(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


@pytest.mark.truth("align", "loop", "gradient")
@pytest.mark.parametrize("shape", [(1, 1, 2), (2, 2, 3), (3, 5, 4)])
def test_align_against_a_loop(shape):
    logits = rand(*shape).requires_grad_()
    ids = torch.arange(shape[0] * shape[1]).view(shape[:2])
    shifted, targets = lp.align(logits, ids)
    assert targets.shape == (shape[0], shape[1] - 1)
    for b in range(shape[0]):
        for t in range(shape[1] - 1):
            assert shifted[b, t].equal(logits[b, t]) and targets[b, t] == ids[b, t + 1]
    (grad,) = torch.autograd.grad(shifted.sum(), logits)
    assert (grad[:, :-1] == 1).all() and (grad[:, -1] == 0).all()


@pytest.mark.truth("gather_logprobs", "loop", "gradient")
@pytest.mark.parametrize("shape", [(4,), (3, 4), (2, 3, 4)])
def test_gather_logprobs_against_a_loop(shape):
    logits = 3 * rand(*shape)
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(4, shape[:-1], generator=generator)
    got = lp.gather_logprobs(logits, ids)
    rows = zip(logits.view(-1, 4).tolist(), ids.view(-1).tolist(), strict=True)
    expected = [row[token] - math.log(sum(map(math.exp, row))) for row, token in rows]
    assert got.flatten().tolist() == pytest.approx(expected, abs=1e-12)
    assert gradcheck(lambda x: lp.gather_logprobs(x, ids), logits.requires_grad_())
    # One at the token that was chosen, minus the probabilities.
    (grad,) = torch.autograd.grad(lp.gather_logprobs(logits, ids).sum(), logits)
    chosen = torch.nn.functional.one_hot(ids, 4)
    torch.testing.assert_close(grad, chosen - logits.detach().softmax(-1))


@pytest.mark.truth("completion_logits", "loop", "gradient")
def test_completion_logits_against_one_sequence_at_a_time(random_model):
    prompts, completions = [[5, 6, 7], [11]], [[3], [4, 5, 6], [8, 9], [10]]
    prompt_ids, prompt_mask = chat.pad_left(prompts, 0)
    completion_ids, mask = chat.pad_right(completions, 0)
    got = lp.completion_logits(random_model, prompt_ids, prompt_mask, completion_ids, mask)
    rows = []
    for i, completion in enumerate(completions):
        prompt = prompts[i // 2]
        logits = random_model(torch.tensor([prompt + completion])).logits[0]
        rows.append(logits[len(prompt) - 1 : len(prompt) + len(completion) - 1])
        torch.testing.assert_close(got[i, : len(completion)], rows[-1], atol=1e-4, rtol=1e-4)
    slow, fast = torch.cat(rows), got[mask.bool()]
    weights = torch.arange(slow.numel()).view(slow.shape).cos()
    parameters = list(random_model.parameters())
    right, ours = (torch.autograd.grad((x * weights).sum(), parameters) for x in (slow, fast))
    for a, b in zip(ours, right, strict=True):
        torch.testing.assert_close(a, b, atol=1e-3 * b.abs().max().item(), rtol=1e-3)


MASKS = [
    [[1, 1, 1], [1, 0, 0]],  # padded on the right
    [[0, 1, 1], [0, 0, 1]],  # on the left
    [[0, 1, 0], [1, 0, 1]],
]
REDUCTIONS = {
    "sum": lp.masked_sum,
    "sum of rows": lambda x, mask: lp.masked_sum(x, mask, dim=1),
    "mean": lp.masked_mean,
    "mean of rows": lambda x, mask: lp.masked_mean(x, mask, dim=1),
    "whiten": lp.masked_whiten,
}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("sum", marks=pytest.mark.truth("masked_sum", "gradient")),
        pytest.param("sum of rows", marks=pytest.mark.truth("masked_sum", "gradient")),
        pytest.param("mean", marks=pytest.mark.truth("masked_mean", "gradient")),
        pytest.param("mean of rows", marks=pytest.mark.truth("masked_mean", "gradient")),
        pytest.param("whiten", marks=pytest.mark.truth("masked_whiten", "gradient")),
    ],
)
@pytest.mark.parametrize("mask", MASKS)
def test_masked_reductions_have_the_gradient_of_finite_differences(name, mask):
    mask = torch.tensor(mask)
    assert gradcheck(lambda x: REDUCTIONS[name](x, mask), rand(2, 3).requires_grad_())


R = [-30.0, -2.0, -1e-6, 0.0, 1e-6, 0.3, 2.0, 30.0]


@pytest.mark.parametrize(
    ("estimate", "slope"),
    [
        pytest.param(
            kl.k1, lambda r: torch.ones_like(r), marks=pytest.mark.truth("k1", "gradient")
        ),
        pytest.param(kl.k2, lambda r: r, marks=pytest.mark.truth("k2", "gradient")),
        pytest.param(kl.k3, lambda r: 1 - (-r).exp(), marks=pytest.mark.truth("k3", "gradient")),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_kl_estimates_have_the_gradient_of_their_formula(estimate, slope, dtype):
    ref = torch.full((len(R),), -1.5, dtype=dtype)
    logprobs = (ref + torch.tensor(R, dtype=dtype)).requires_grad_()
    (grad,) = torch.autograd.grad(estimate(logprobs, ref).sum(), logprobs)
    expected = slope((logprobs - ref).detach())
    torch.testing.assert_close(grad, expected, rtol=1e-5, atol=1e-7)
