import math

import pytest
import torch
import torch.nn.functional as F
from transformers.loss.loss_utils import ForCausalLMLoss

from utils.losses import sft_loss

torch.set_num_threads(1)
LABELS = torch.tensor([[-100, -100, 3, 1, 4], [-100, 2, -100, -100, -100], [0, 0, 2, 2, -100]])


def make_logits(dtype=torch.float64, shape=(3, 5, 6), seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, dtype=dtype, generator=generator)


def slow_sft_loss(logits, labels):
    """The specification: one token at a time."""
    total, tokens, right = 0.0, 0, 0
    for row, targets in zip(logits.tolist(), labels.tolist(), strict=True):
        for t in range(len(targets) - 1):
            if targets[t + 1] == -100:
                continue
            log_z = math.log(sum(math.exp(x) for x in row[t]))
            total -= row[t][targets[t + 1]] - log_z
            right += max(range(len(row[t])), key=row[t].__getitem__) == targets[t + 1]
            tokens += 1
    return total / tokens, right / tokens, tokens


def value_and_gradient(loss_fn, logits):
    logits = logits.clone().requires_grad_()
    loss = loss_fn(logits)
    return loss.detach(), torch.autograd.grad(loss, logits)[0]


@pytest.mark.parametrize("seed", range(5))
def test_against_a_loop(seed):
    logits = make_logits(seed=seed)
    loss, metrics = sft_loss(logits, LABELS)
    expected, accuracy, tokens = slow_sft_loss(logits, LABELS)
    assert loss.ndim == 0
    assert loss.item() == pytest.approx(expected, abs=1e-12)
    assert metrics == {
        "loss": pytest.approx(expected),
        "perplexity": pytest.approx(math.exp(expected)),
        "token_accuracy": pytest.approx(accuracy),
        "tokens": tokens,
    }
    assert tokens == 7  # 3 + 1 + 3: the first label of the last row has nothing to predict it


def test_a_case_small_enough_for_paper():
    logits = torch.zeros(1, 3, 4)
    logits[0, 0, 2] = math.log(3)  # p(2) = 3 / 6, p(any other) = 1 / 6
    loss, metrics = sft_loss(logits, torch.tensor([[9, 2, 0]]))
    assert loss.item() == pytest.approx((math.log(2) + math.log(4)) / 2)
    assert metrics["perplexity"] == pytest.approx(math.sqrt(8))
    assert metrics["tokens"] == 2


def test_equals_torch_cross_entropy_value_and_gradient():
    def torch_loss(logits):
        return F.cross_entropy(logits[:, :-1].reshape(-1, 6), LABELS[:, 1:].reshape(-1))

    got = value_and_gradient(lambda x: sft_loss(x, LABELS)[0], make_logits())
    expected = value_and_gradient(torch_loss, make_logits())
    torch.testing.assert_close(got, expected, atol=1e-14, rtol=1e-12)


@pytest.mark.parametrize("items", [None, torch.tensor(7)])
def test_equals_the_loss_of_transformers_and_trl(items):
    # TRL's SFTTrainer takes this loss; num_items_in_batch is its count of unmasked labels.
    logits = make_logits(torch.float32)
    got = value_and_gradient(lambda x: sft_loss(x, LABELS)[0], logits)
    expected = value_and_gradient(lambda x: ForCausalLMLoss(x, LABELS, 6, items), logits)
    torch.testing.assert_close(got, expected)


def test_gradient_is_zero_where_nothing_is_predicted():
    _, grad = value_and_gradient(lambda x: sft_loss(x, LABELS)[0], make_logits())
    predicts = torch.zeros(3, 5, dtype=torch.bool)
    predicts[:, :-1] = LABELS[:, 1:] != -100
    assert (grad[~predicts] == 0).all()
    assert (grad[predicts].abs().sum(-1) > 0).all()
    torch.testing.assert_close(grad.sum(-1), torch.zeros(3, 5).double(), atol=1e-15, rtol=0)


@pytest.mark.parametrize("garbage", [math.nan, math.inf])
def test_ignored_positions_leak_neither_into_value_nor_gradient(garbage):
    predicts = torch.zeros(3, 5, dtype=torch.bool)
    predicts[:, :-1] = LABELS[:, 1:] != -100
    dirty = make_logits().masked_fill(~predicts[..., None], garbage)
    got = value_and_gradient(lambda x: sft_loss(x, LABELS)[0], dirty)
    expected = value_and_gradient(lambda x: sft_loss(x, LABELS)[0], make_logits())
    torch.testing.assert_close(got, expected)


def test_every_token_of_the_batch_weighs_the_same():
    logits = make_logits()
    whole, _ = sft_loss(logits, LABELS)
    rows = [sft_loss(logits[i : i + 1], LABELS[i : i + 1]) for i in range(3)]
    weighted = sum(loss * m["tokens"] for loss, m in rows) / sum(m["tokens"] for _, m in rows)
    torch.testing.assert_close(whole, weighted)
    assert not torch.isclose(whole, sum(loss for loss, _ in rows) / 3)


def test_padding_changes_nothing():
    logits = make_logits()
    padded = torch.cat([logits, make_logits(shape=(3, 4, 6), seed=9)], dim=1)
    labels = F.pad(LABELS, (0, 4), value=-100)
    torch.testing.assert_close(sft_loss(padded, labels)[0], sft_loss(logits, LABELS)[0])


def test_half_precision_logits_give_a_float32_loss():
    logits = make_logits().to(torch.bfloat16)
    loss, _ = sft_loss(logits, LABELS)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, sft_loss(logits.float(), LABELS)[0])


def test_metrics_are_detached_floats():
    loss, metrics = sft_loss(make_logits().requires_grad_(), LABELS)
    assert loss.requires_grad
    assert all(type(value) is float for value in metrics.values())


def test_a_hopeless_model_has_infinite_perplexity_not_an_error():
    logits = torch.zeros(1, 2, 3)
    logits[0, 0, 0] = 5000.0
    assert sft_loss(logits, torch.tensor([[-100, 1]]))[1]["perplexity"] == math.inf


@pytest.mark.parametrize("first", [-100, 3])
def test_nothing_to_learn_from_is_an_error(first):
    # The first label does not count: no logits predict it.
    labels = torch.full((2, 4), -100)
    labels[:, 0] = first
    with pytest.raises(ValueError, match="every label is -100"):
        sft_loss(make_logits(shape=(2, 4, 6)), labels)


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="do not fit"):
        sft_loss(make_logits(), LABELS[:, 1:])
