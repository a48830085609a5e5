import math
import statistics

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.loss.loss_utils import ForCausalLMLoss

from utils.losses import bradley_terry_loss, clipped_policy_loss, clipped_value_loss, sft_loss

torch.set_num_threads(1)
LABELS = torch.tensor([[-100, -100, 3, 1, 4], [-100, 2, -100, -100, -100], [0, 0, 2, 2, -100]])


def test_losses_is_a_package_that_gathers_them_all():
    from utils import losses

    assert losses.sft_loss is sft_loss
    assert all(callable(getattr(losses, name)) for name in losses.__all__)


# Supervised fine-tuning


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


@pytest.mark.truth("sft_loss", "loop")
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


@pytest.mark.usefixtures("unchecked")
def test_sft_loss_takes_the_predictions_that_count_alone():
    logits = make_logits()
    kept = LABELS[:, 1:] != -100
    loss, metrics = sft_loss(logits[:, :-1][kept], LABELS[:, 1:][kept])
    expected, expected_metrics = sft_loss(logits, LABELS)
    torch.testing.assert_close(loss, expected)
    assert metrics == pytest.approx(expected_metrics)
    with pytest.raises(ValueError, match="do not fit"):
        sft_loss(logits[0], LABELS[0, 1:])
    with pytest.raises(ValueError, match="every label is -100"):
        sft_loss(logits[0], torch.full_like(LABELS[0], -100))


@pytest.mark.truth("sft_loss", "gradient")
def test_equals_torch_cross_entropy_value_and_gradient():
    def torch_loss(logits):
        return F.cross_entropy(logits[:, :-1].reshape(-1, 6), LABELS[:, 1:].reshape(-1))

    got = value_and_gradient(lambda x: sft_loss(x, LABELS)[0], make_logits())
    expected = value_and_gradient(torch_loss, make_logits())
    torch.testing.assert_close(got, expected, atol=1e-14, rtol=1e-12)


@pytest.mark.truth("sft_loss", "trl", "gradient")
@pytest.mark.parametrize("items", [None, torch.tensor(7)])
def test_equals_the_loss_of_transformers_and_trl(items):
    # TRL's SFTTrainer takes this loss; num_items_in_batch is its count of unmasked labels.
    logits = make_logits(torch.float32)
    got = value_and_gradient(lambda x: sft_loss(x, LABELS)[0], logits)
    expected = value_and_gradient(lambda x: ForCausalLMLoss(x, LABELS, 6, items), logits)
    torch.testing.assert_close(got, expected)


@pytest.mark.truth("sft_loss", "gradient")
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


@pytest.mark.usefixtures("unchecked")
def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="do not fit"):
        sft_loss(make_logits(), LABELS[:, 1:])


# Bradley-Terry


def double(*numbers):
    return torch.tensor(numbers, dtype=torch.float64)


def gradients(loss, *inputs):
    return torch.autograd.grad(loss, inputs, allow_unused=True)


@pytest.mark.truth("bradley_terry_loss", "loop", "gradient")
@settings(deadline=None)
@given(
    pairs=st.lists(st.tuples(*[st.floats(-20, 20)] * 3), min_size=1, max_size=5),
    with_margin=st.booleans(),
    center_coef=st.sampled_from([0.0, 0.01, 0.5]),
)
def test_bradley_terry_against_a_loop(pairs, with_margin, center_coef):
    chosen, rejected, margin = (double(*column) for column in zip(*pairs, strict=True))
    chosen.requires_grad_(), rejected.requires_grad_()
    loss, metrics = bradley_terry_loss(
        chosen, rejected, margin if with_margin else None, center_coef
    )
    n, expected, d_chosen, d_rejected = len(pairs), 0.0, [], []
    for c, r, m in pairs:
        z = c - r - (m if with_margin else 0.0)
        expected += (math.log1p(math.exp(-z)) + center_coef * (c + r) ** 2) / n
        slope, centre = -1 / (1 + math.exp(z)) / n, 2 * center_coef * (c + r) / n
        d_chosen.append(slope + centre)
        d_rejected.append(-slope + centre)
    assert loss.item() == pytest.approx(expected, rel=1e-12, abs=1e-12)
    got = gradients(loss, chosen, rejected)
    torch.testing.assert_close(got, (double(*d_chosen), double(*d_rejected)))
    assert metrics == {
        "loss": loss.item(),
        "pair_accuracy": pytest.approx(sum(c > r for c, r, _ in pairs) / n),
        "margin": pytest.approx(sum(c - r for c, r, _ in pairs) / n),
    }


def test_bradley_terry_on_paper():
    loss, metrics = bradley_terry_loss(double(math.log(3), 0.0, 1.0), double(0.0, 0.0, 2.0))
    assert loss.item() == pytest.approx((math.log(4 / 3) + math.log(2) + math.log1p(math.e)) / 3)
    assert metrics["pair_accuracy"] == pytest.approx(1 / 3)  # a tie is not a win
    assert metrics["margin"] == pytest.approx((math.log(3) - 1) / 3)


def test_a_margin_asks_for_more():
    args = double(2.0), double(1.0)
    for margin in (1.0, torch.tensor(1.0), double(1.0)):
        assert bradley_terry_loss(*args, margin=margin)[0].item() == pytest.approx(math.log(2))
    assert bradley_terry_loss(*args, margin=1.0)[1]["margin"] == 1.0


def test_only_the_centre_term_sees_a_common_shift():
    chosen, rejected = double(1.0, 0.5), double(0.0, 2.0)
    plain = bradley_terry_loss(chosen, rejected)[0]
    torch.testing.assert_close(bradley_terry_loss(chosen + 9, rejected + 9)[0], plain)
    assert bradley_terry_loss(chosen + 9, rejected + 9, center_coef=0.01)[0] > plain + 1


def test_bradley_terry_does_not_overflow():
    chosen = torch.tensor([-1e4, 1e4], requires_grad=True)
    loss, _ = bradley_terry_loss(chosen, -chosen.detach())
    loss.backward()
    assert loss.item() == 1e4  # (2e4 + 0) / 2
    assert chosen.grad.tolist() == [-0.5, 0.0]


def test_half_precision_rewards_give_a_float32_loss():
    chosen, rejected = torch.tensor([3.01, 1.0]), torch.tensor([3.0, 2.0])
    for dtype in (torch.bfloat16, torch.float16):
        loss, _ = bradley_terry_loss(chosen.to(dtype), rejected.to(dtype))
        assert loss.dtype == torch.float32
        expected = bradley_terry_loss(chosen.to(dtype).float(), rejected.to(dtype).float())[0]
        torch.testing.assert_close(loss, expected, atol=0, rtol=0)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("shapes", [((2, 1), (2, 1)), ((2, 1), (2,)), ((3,), (2,)), ((0,), (0,))])
def test_bradley_terry_refuses_other_shapes(shapes):
    # (2, 1) against (2,) would broadcast to four pairs.
    with pytest.raises(ValueError, match="need one number a sequence"):
        bradley_terry_loss(*(torch.zeros(shape) for shape in shapes))


@pytest.mark.usefixtures("unchecked")
def test_bradley_terry_refuses_a_margin_that_would_broadcast():
    with pytest.raises(ValueError, match=r"margin \(2, 1\)"):
        bradley_terry_loss(torch.zeros(2), torch.zeros(2), torch.zeros(2, 1))


# PPO: both losses, on ragged batches with garbage in the padding

GARBAGE = [math.nan, math.inf, -math.inf, 1e30]


@st.composite
def ragged(draw, tensors):
    """A mask, then so many (B, T) tensors of normal numbers with garbage where it is 0."""
    lengths = draw(st.lists(st.integers(1, 5), min_size=1, max_size=4))
    width = max(lengths) + draw(st.integers(0, 2))
    mask = (torch.arange(width) < torch.tensor(lengths).unsqueeze(1)).double()
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10_000)))
    clean = [
        torch.randn(mask.shape, dtype=torch.float64, generator=generator) for _ in range(tensors)
    ]
    garbage = draw(st.sampled_from(GARBAGE))
    return mask, *(x.masked_fill(mask == 0, garbage) for x in clean)


def tokens_of(mask):
    return [tuple(index) for index in mask.nonzero().tolist()]


def slow_policy_loss(logprobs, old_logprobs, advantages, mask, eps):
    """The specification: value, gradient and metrics, one token at a time."""
    tokens, grad = tokens_of(mask), torch.zeros_like(mask)
    n, loss, kl, clipped, ratios = len(tokens), 0.0, 0.0, 0, 0.0
    for token in tokens:
        log_ratio = logprobs[token].item() - old_logprobs[token].item()
        ratio, a = math.exp(log_ratio), advantages[token].item()
        ratios, kl = ratios + ratio / n, kl + (ratio - 1 - log_ratio) / n
        if (a > 0 and ratio > 1 + eps) or (a < 0 and ratio < 1 - eps):
            loss, clipped = loss - (1 + eps if a > 0 else 1 - eps) * a / n, clipped + 1
        else:
            loss -= ratio * a / n
            grad[token] = -ratio * a / n
    metrics = {"loss": loss, "approx_kl": kl, "clip_fraction": clipped / n, "ratio_mean": ratios}
    return loss, grad, metrics


@pytest.mark.truth("clipped_policy_loss", "loop", "gradient")
@settings(deadline=None)
@given(ragged(3), st.sampled_from([0.0, 0.05, 0.2, 0.5, 10.0]))
def test_policy_loss_against_a_loop(batch, eps):
    mask, logprobs, old_logprobs, advantages = batch
    logprobs.requires_grad_()
    loss, metrics = clipped_policy_loss(logprobs, old_logprobs, advantages, mask, eps)
    expected, grad, expected_metrics = slow_policy_loss(
        logprobs.detach(), old_logprobs, advantages, mask, eps
    )
    assert loss.ndim == 0
    assert loss.item() == pytest.approx(expected, rel=1e-12, abs=1e-12)
    torch.testing.assert_close(gradients(loss, logprobs)[0], grad, atol=1e-13, rtol=1e-12)
    assert metrics == pytest.approx(expected_metrics, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize(
    "advantage, ratio, objective, has_gradient",
    [
        (1.0, 2.0, 1.2, False),  # already gained enough: clipped
        (1.0, 0.5, 0.5, True),  # moved the wrong way: pulled back, no clip
        (-1.0, 2.0, -2.0, True),  # moved the wrong way: the whole penalty, not -1.2
        (-1.0, 0.5, -0.8, False),  # already avoided enough: clipped
    ],
)
def test_the_four_quadrants_of_the_clip(advantage, ratio, objective, has_gradient):
    logprobs = double([math.log(ratio) - 1.0]).requires_grad_()
    loss, metrics = clipped_policy_loss(
        logprobs, double([-1.0]), double([advantage]), torch.ones(1, 1)
    )  # the default range, 0.2
    assert -loss.item() == pytest.approx(objective)
    assert gradients(loss, logprobs)[0].item() == pytest.approx(
        -advantage * ratio if has_gradient else 0.0
    )
    assert metrics["clip_fraction"] == (0.0 if has_gradient else 1.0)
    assert metrics["ratio_mean"] == pytest.approx(ratio)


@pytest.mark.truth("clipped_policy_loss", "gradient")
@settings(deadline=None)
@given(ragged(2))
def test_ratio_1_gives_the_plain_policy_gradient(batch):
    mask, logprobs, advantages = batch
    logprobs.requires_grad_()
    loss, metrics = clipped_policy_loss(logprobs, logprobs, advantages, mask)
    kept = mask.bool()
    plain = -(logprobs[kept] * advantages[kept]).mean()  # REINFORCE, the mean over tokens
    torch.testing.assert_close(
        gradients(loss, logprobs)[0][kept], gradients(plain, logprobs)[0][kept]
    )
    assert loss.item() == pytest.approx(-advantages[kept].mean().item())
    assert metrics["approx_kl"] == metrics["clip_fraction"] == 0.0
    assert metrics["ratio_mean"] == 1.0


def test_only_the_current_policy_and_values_get_a_gradient():
    mask = torch.ones(1, 2)
    tensors = [torch.randn(1, 2, requires_grad=True) for _ in range(3)]
    for loss_fn in (clipped_policy_loss, clipped_value_loss):
        loss, metrics = loss_fn(*tensors, mask)
        grads = gradients(loss, *tensors)
        assert grads[0] is not None and grads[1] is None and grads[2] is None
        assert all(type(value) is float for value in metrics.values())


@pytest.mark.parametrize("log_ratio", [-1e30, -800.0, -90.0, 90.0, 800.0, 1e30])
@pytest.mark.parametrize("advantage", [-1e3, -1.0, 0.0, 1.0, 1e3])
def test_extreme_log_ratios_give_no_nan(log_ratio, advantage):
    logprobs = torch.tensor([[log_ratio, -1.0]], requires_grad=True)
    old_logprobs, advantages = torch.tensor([[0.0, -1.0]]), torch.tensor([[advantage, 1.0]])
    loss, metrics = clipped_policy_loss(logprobs, old_logprobs, advantages, torch.ones(1, 2))
    grad = gradients(loss, logprobs)[0]
    assert loss.isfinite() and grad.isfinite().all()
    assert all(map(math.isfinite, metrics.values()))
    assert grad[0, 1].item() == -0.5  # the healthy token learns on


def test_the_penalty_stays_exact_as_long_as_the_ratio_fits():
    logprobs = torch.tensor([[79.0]], requires_grad=True)
    loss, _ = clipped_policy_loss(logprobs, torch.zeros(1, 1), -torch.ones(1, 1), torch.ones(1, 1))
    assert loss.item() == pytest.approx(math.exp(79))
    assert gradients(loss, logprobs)[0].item() == pytest.approx(math.exp(79))


def test_a_token_the_policy_rules_out_gives_no_nan():
    logprobs = torch.tensor([[-math.inf]], requires_grad=True)
    loss, _ = clipped_policy_loss(logprobs, -torch.ones(1, 1), torch.ones(1, 1), torch.ones(1, 1))
    assert loss.item() == pytest.approx(0.0, abs=1e-30)
    assert gradients(loss, logprobs)[0].item() == 0.0


def test_a_nan_at_a_real_token_is_not_hidden():
    x, nan = torch.zeros(1, 2), torch.tensor([[0.0, math.nan]])
    for args in ([nan, x, x], [x, nan, x], [x, x, nan]):
        assert clipped_policy_loss(*args, torch.ones(1, 2))[0].isnan()
        assert clipped_value_loss(*args, torch.ones(1, 2))[0].isnan()


def test_the_kl_of_the_policy_loss_is_from_old_to_new():
    # 1000 tokens in the proportions of the old policy (0.9, 0.1); the new one is (0.5, 0.5).
    old, new = double(0.9, 0.1), double(0.5, 0.5)
    tokens = torch.tensor([0] * 900 + [1] * 100)
    x = new.log()[tokens][None], old.log()[tokens][None], torch.zeros(1, 1000)
    metrics = clipped_policy_loss(*x, torch.ones(1, 1000))[1]
    assert metrics["approx_kl"] == pytest.approx((old * (old / new).log()).sum().item())
    assert metrics["ratio_mean"] == pytest.approx(1.0)


def slow_value_loss(values, old_values, returns, mask, eps):
    tokens, grad = tokens_of(mask), torch.zeros_like(mask)
    n, loss, clipped = len(tokens), 0.0, 0
    for token in tokens:
        v, old, target = values[token].item(), old_values[token].item(), returns[token].item()
        near = v if eps is None else min(max(v, old - eps), old + eps)
        if (near - target) ** 2 > (v - target) ** 2:
            loss, clipped = loss + 0.5 * (near - target) ** 2 / n, clipped + 1
        else:
            loss += 0.5 * (v - target) ** 2 / n
            grad[token] = (v - target) / n
    targets = [returns[token].item() for token in tokens]
    errors = [returns[token].item() - values[token].item() for token in tokens]
    spread = statistics.pvariance(targets) if n > 1 else 0.0
    explained = 1 - statistics.pvariance(errors) / spread if spread else 0.0
    metrics = {"loss": loss, "clip_fraction": clipped / n, "explained_variance": explained}
    return loss, grad, metrics


@pytest.mark.truth("clipped_value_loss", "loop", "gradient")
@settings(deadline=None)
@given(ragged(3), st.sampled_from([None, 0.0, 0.2, 1.0]))
def test_value_loss_against_a_loop(batch, eps):
    mask, values, old_values, returns = batch
    values.requires_grad_()
    loss, metrics = clipped_value_loss(values, old_values, returns, mask, eps)
    expected, grad, expected_metrics = slow_value_loss(
        values.detach(), old_values, returns, mask, eps
    )
    assert loss.ndim == 0
    assert loss.item() == pytest.approx(expected, rel=1e-12)
    torch.testing.assert_close(gradients(loss, values)[0], grad, atol=1e-13, rtol=1e-12)
    assert metrics == pytest.approx(expected_metrics, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize(
    "value, expected, has_gradient",
    [
        (0.1, 0.5 * 0.9**2, True),  # inside the range
        (0.7, 0.5 * 0.8**2, False),  # towards the return of 1, further than 0.2: as if at 0.2
        (-0.7, 0.5 * 1.7**2, True),  # away from the return: the whole error
    ],
)
def test_the_clip_of_the_value_loss(value, expected, has_gradient):
    values = double([value]).requires_grad_()
    loss, metrics = clipped_value_loss(values, double([0.0]), double([1.0]), torch.ones(1, 1))
    assert loss.item() == pytest.approx(expected)
    assert (gradients(loss, values)[0].item() != 0) == has_gradient
    assert metrics["clip_fraction"] == (0.0 if has_gradient else 1.0)


@pytest.mark.parametrize(
    "values, explained",
    [
        ([1.0, 2.0, 4.0], 1.0),
        ([0.0, 1.0, 3.0], 1.0),  # a constant offset does not count
        ([7.0, 7.0, 7.0], 0.0),
        ([4.0, 2.0, 1.0], 1 - 54 / 14),  # errors -3, 0, 3
    ],
)
def test_explained_variance(values, explained):
    returns = double([1.0, 2.0, 4.0])
    got = clipped_value_loss(double(values), double(values), returns, torch.ones(1, 3))[1]
    assert got["explained_variance"] == pytest.approx(explained)


@pytest.mark.parametrize("returns", [[0.1, 0.1, 0.1], [0.7, 0.7, 0.7]])
def test_explained_variance_of_equal_returns_is_zero(returns):
    # The float32 variance of three times 0.7 is not 0 but a rounding error.
    values, returns = torch.tensor([[0.5, 0.6, 0.9]]), torch.tensor([returns])
    metrics = clipped_value_loss(values, values, returns, torch.ones(1, 3))[1]
    assert metrics["explained_variance"] == 0.0


@pytest.mark.parametrize("loss_fn", [clipped_policy_loss, clipped_value_loss])
class TestBothLosses:
    @settings(deadline=None)
    @given(batch=ragged(3), garbage=st.sampled_from(GARBAGE))
    def test_masked_positions_change_neither_loss_nor_gradient(self, loss_fn, batch, garbage):
        mask, *tensors = batch

        def run(fill):
            first, *rest = (x.masked_fill(mask == 0, fill) for x in tensors)
            loss, metrics = loss_fn(first.requires_grad_(), *rest, mask)
            return loss.detach(), gradients(loss, first)[0], metrics

        clean, dirty = run(0.0), run(garbage)
        torch.testing.assert_close(dirty[:2], clean[:2], atol=0, rtol=0)
        assert dirty[2] == clean[2]
        assert (clean[1][mask == 0] == 0).all()

    def test_every_token_of_the_batch_weighs_the_same(self, loss_fn):
        mask = torch.tensor([[1.0, 0, 0], [1, 1, 1]])
        tensors = [torch.randn(2, 3, dtype=torch.float64) for _ in range(3)]
        whole = loss_fn(*tensors, mask)[0]
        rows = [loss_fn(*(x[i : i + 1] for x in (*tensors, mask)))[0] for i in range(2)]
        torch.testing.assert_close(whole, (1 * rows[0] + 3 * rows[1]) / 4)

    def test_half_precision_inputs_give_a_float32_loss(self, loss_fn):
        tensors = [torch.randn(2, 3).to(torch.bfloat16) for _ in range(3)]
        loss, _ = loss_fn(*tensors, torch.ones(2, 3))
        assert loss.dtype == torch.float32
        assert loss == loss_fn(*(x.float() for x in tensors), torch.ones(2, 3))[0]

    def test_an_empty_mask_is_an_error(self, loss_fn):
        with pytest.raises(ValueError, match="the mask is empty"):
            loss_fn(*[torch.zeros(2, 3)] * 3, torch.zeros(2, 3))

    @pytest.mark.usefixtures("unchecked")
    @pytest.mark.parametrize("position", [0, 1, 2])
    @pytest.mark.parametrize("shape", [(3,), (1, 3), (3, 1), (3, 2)])
    def test_shapes_that_would_broadcast_are_refused(self, loss_fn, position, shape):
        tensors = [torch.zeros(3, 3) for _ in range(3)]
        tensors[position] = torch.zeros(shape)
        with pytest.raises(ValueError, match=r"and mask \(3, 3\) differ in shape"):
            loss_fn(*tensors, torch.ones(3, 3))

    def test_a_negative_clip_is_refused(self, loss_fn):
        with pytest.raises(ValueError, match="clip_eps must be 0 or more, not -0.2"):
            loss_fn(*[torch.zeros(1, 1)] * 3, torch.ones(1, 1), clip_eps=-0.2)
