"""The log-probs of a large vocabulary in pieces: equal to the whole, without ever building it."""

import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from trl.trainer.utils import selective_log_softmax

from engines.chunked import chunked_logprobs
from utils import logprobs as lp

torch.set_num_threads(1)
VOCAB, WIDTH = 11, 4


def inputs(*shape, seed=0, dtype=torch.float64, spread=2.0):
    """hidden (*shape, H) and weight (V, H), both to be differentiated, and ids (*shape)."""
    generator = torch.Generator().manual_seed(seed)

    def rand(*size):
        return (spread * torch.randn(*size, generator=generator, dtype=torch.float64)).to(dtype)

    ids = torch.randint(VOCAB, shape, generator=generator)
    return rand(*shape, WIDTH).requires_grad_(), rand(VOCAB, WIDTH).requires_grad_(), ids


def whole(hidden, weight, ids, temperature=1.0):
    return lp.gather_logprobs(hidden @ weight.T / temperature, ids)


def gradients(logprobs, *leaves):
    weights = torch.arange(1, logprobs.numel() + 1).view(logprobs.shape).cos()
    return torch.autograd.grad((logprobs * weights).sum(), leaves)


@pytest.mark.truth("chunked_logprobs", "loop")
def test_against_a_loop():
    hidden, weight, ids = inputs(2, 3)
    got = chunked_logprobs(hidden, weight, ids, temperature=0.7, chunk=4)
    assert got.shape == (2, 3)
    for b in range(2):
        for t in range(3):
            logits = [
                sum(h * w for h, w in zip(hidden[b, t].tolist(), row, strict=True)) / 0.7
                for row in weight.tolist()
            ]
            expected = logits[ids[b, t]] - math.log(sum(map(math.exp, logits)))
            assert got[b, t].item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.truth("chunked_logprobs", "enumeration")
def test_the_probabilities_of_all_tokens_add_up_to_one():
    hidden, weight, _ = inputs(1)
    every = hidden.expand(VOCAB, WIDTH), weight, torch.arange(VOCAB)
    assert chunked_logprobs(*every, temperature=1.3, chunk=3).exp().sum().item() == (
        pytest.approx(1, abs=1e-12)
    )


@pytest.mark.truth("chunked_logprobs", "gradient")
@pytest.mark.parametrize("chunk", [1, 2, 5, 6, 100])  # one, a divisor, a rest, all, more than all
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_same_values_and_gradients_as_the_whole(chunk, temperature):
    hidden, weight, ids = inputs(2, 3, seed=chunk)
    got = chunked_logprobs(hidden, weight, ids, temperature, chunk)
    expected = whole(hidden, weight, ids, temperature)
    torch.testing.assert_close(got, expected)
    for ours, right in zip(
        gradients(got, hidden, weight), gradients(expected, hidden, weight), strict=True
    ):
        torch.testing.assert_close(ours, right)
        assert right.abs().max() > 1e-3


@pytest.mark.truth("chunked_logprobs", "gradient")
def test_gradient_against_finite_differences():
    hidden, weight, ids = inputs(3)
    assert torch.autograd.gradcheck(
        lambda h, w: chunked_logprobs(h, w, ids, 0.8, 2), (hidden, weight)
    )


@pytest.mark.truth("chunked_logprobs", "trl", "gradient")
def test_against_trl():
    hidden, weight, ids = inputs(3, 5, dtype=torch.float32)
    got = chunked_logprobs(hidden, weight, ids, chunk=4)
    theirs = selective_log_softmax(hidden @ weight.T, ids)
    torch.testing.assert_close(got, theirs, atol=1e-5, rtol=1e-5)
    for ours, right in zip(
        gradients(got, hidden, weight), gradients(theirs, hidden, weight), strict=True
    ):
        torch.testing.assert_close(ours, right, atol=1e-5, rtol=1e-5)


def test_half_precision_is_summed_in_float32():
    hidden, weight, ids = inputs(40, dtype=torch.bfloat16, spread=1.0)
    got = chunked_logprobs(hidden, weight, ids, chunk=3)
    expected = whole(hidden, weight, ids)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, expected)
    for ours, right in zip(
        gradients(got, hidden, weight), gradients(expected, hidden, weight), strict=True
    ):
        assert ours.dtype == torch.bfloat16
        torch.testing.assert_close(ours, right, atol=0.02, rtol=0.01)


def test_a_frozen_head_gets_no_gradient():
    hidden, weight, ids = inputs(5)
    expected = gradients(whole(hidden, weight, ids), hidden)[0]
    logprobs = chunked_logprobs(hidden, weight.detach(), ids, chunk=2)
    torch.testing.assert_close(gradients(logprobs, hidden)[0], expected)


class LargestTensor(TorchDispatchMode):
    """Notes the number of elements of the largest new tensor that any operation makes; no views."""

    largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        given, made = (
            {
                x.untyped_storage().data_ptr(): x.numel()
                for x in tree_leaves(tree)
                if torch.is_tensor(x)
            }
            for tree in (args, result)
        )
        new = [size for place, size in made.items() if place not in given]
        self.largest = max([self.largest, *new])
        return result


@pytest.mark.parametrize(
    ("chunk", "frozen", "largest"),
    [
        (8, False, 8 * 50),  # one chunk of logits
        (8, True, 8 * 50),
        (1, False, 50 * 2),  # the gradient of the head
        (1, True, 30 * 2),  # the gradient of the states
    ],
)
def test_no_tensor_is_larger_than_it_must_be(chunk, frozen, largest):
    hidden = torch.randn(30, 2, requires_grad=True)
    weight = torch.randn(50, 2, requires_grad=not frozen)
    ids = torch.arange(30)
    with LargestTensor() as run:
        whole(hidden, weight, ids).sum().backward()
    assert run.largest == 30 * 50
    with LargestTensor() as run:
        chunked_logprobs(hidden, weight, ids, chunk=chunk).sum().backward()
    assert run.largest == largest


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ids": torch.zeros(2, dtype=torch.long)}, "do not fit"),
        ({"weight": torch.zeros(VOCAB, WIDTH + 1)}, "do not fit"),
        ({"weight": torch.zeros(WIDTH)}, "do not fit"),
        ({"temperature": 0.0}, "temperature > 0"),
        ({"chunk": 0}, "chunk >= 1"),
    ],
)
def test_misuse_is_refused(change, message):
    hidden, weight, ids = inputs(3)
    with pytest.raises(ValueError, match=message):
        chunked_logprobs(**{"hidden": hidden, "weight": weight, "ids": ids, **change})
