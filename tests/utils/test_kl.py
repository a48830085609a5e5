import math
import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from utils import kl
from utils.logprobs import masked_mean

torch.set_num_threads(1)
finite = st.floats(-80, 80)
POLICY = torch.tensor([0.5, 0.2, 0.1, 0.1, 0.05, 0.05], dtype=torch.float64)
REF = torch.tensor([0.1, 0.3, 0.2, 0.2, 0.1, 0.1], dtype=torch.float64)
TRUE_KL = sum(p * math.log(p / q) for p, q in zip(POLICY.tolist(), REF.tolist(), strict=True))


def double(*numbers):
    return torch.tensor(numbers, dtype=torch.float64)


@pytest.mark.truth("k1", "loop")
@pytest.mark.truth("k2", "loop")
@pytest.mark.truth("k3", "loop")
@given(st.lists(st.tuples(finite, finite), min_size=1, max_size=5))
def test_formulas(pairs):
    logprobs, ref = double(*(p for p, _ in pairs)), double(*(q for _, q in pairs))
    for i, (p, q) in enumerate(pairs):
        r = p - q
        assert kl.k1(logprobs, ref)[i].item() == r
        assert kl.k2(logprobs, ref)[i].item() == pytest.approx(r * r / 2, rel=1e-14)
        assert kl.k3(logprobs, ref)[i].item() == pytest.approx(
            math.exp(-r) - 1 + r, rel=1e-9, abs=1e-13
        )


@pytest.mark.truth("k1", "enumeration")
@pytest.mark.truth("k2", "enumeration")
@pytest.mark.truth("k3", "enumeration")
def test_expectations_over_the_policy():
    # Direction and sign: the KL here is 0.516. With the sign of r the other way round, as often
    # published, k1 gives -0.516 and k3 1.268.
    logprobs, ref = POLICY.log(), REF.log()
    assert pytest.approx(0.516, abs=5e-4) == TRUE_KL
    assert (POLICY * kl.k1(logprobs, ref)).sum().item() == pytest.approx(TRUE_KL, abs=1e-15)
    assert (POLICY * kl.k3(logprobs, ref)).sum().item() == pytest.approx(TRUE_KL, abs=1e-15)
    assert (POLICY * kl.k3(ref, logprobs)).sum().item() == pytest.approx(1.268, abs=5e-4)
    assert (POLICY * kl.k2(logprobs, ref)).sum().item() == pytest.approx(
        sum(p * math.log(p / q) ** 2 / 2 for p, q in zip(POLICY, REF, strict=True))
    )


@pytest.mark.parametrize(
    "mu, true_kl, bias, spread",
    [(0.1, 0.005, (0, 0.002, 0), (20, 1.42, 1.42)), (1.0, 0.5, (0, 0.25, 0), (2, 1.73, 1.7))],
)
def test_schulmans_table(mu, true_kl, bias, spread):
    # Policy N(0, 1), reference N(mu, 1), by integration on a grid instead of by samples.
    x = torch.linspace(-12, 12, 24001, dtype=torch.float64)
    weights = torch.exp(-x.square() / 2) / math.sqrt(2 * math.pi) * (x[1] - x[0])
    logprobs, ref = -x.square() / 2, -(x - mu).square() / 2
    for estimate, b, s in zip((kl.k1, kl.k2, kl.k3), bias, spread, strict=True):
        k = estimate(logprobs, ref)
        mean = (weights * k).sum()
        std = (weights * (k - mean).square()).sum().sqrt()
        assert (mean.item() - true_kl) / true_kl == pytest.approx(b, abs=6e-4)
        assert std.item() / true_kl == pytest.approx(s, rel=5e-3)


def test_only_k1_goes_below_zero():
    logprobs, ref = double(-3.0, -1.0), double(-1.0, -3.0)
    assert kl.k1(logprobs, ref).tolist() == [-2.0, 2.0]
    assert (kl.k2(logprobs, ref) > 0).all() and (kl.k3(logprobs, ref) > 0).all()
    assert kl.k3(ref, ref).tolist() == [0.0, 0.0]


def test_k3_keeps_the_digits_of_a_small_r():
    # In float32, exp(-r) - 1 + r is 0 or 1e-7 at r = 1e-4, where k3 is 5e-9.
    got = kl.k3(torch.tensor([1e-4]), torch.tensor([0.0]))
    assert got.dtype == torch.float32
    assert got.item() == pytest.approx(5e-9, rel=1e-2)


@pytest.mark.parametrize("r", [-88.8, -1e4, -3e38])
def test_k3_overflows_to_inf_not_nan(r):
    logprobs = torch.tensor([r], requires_grad=True)
    k3 = kl.k3(logprobs, torch.zeros(1))
    k3.sum().backward()
    assert k3.item() == math.inf
    assert logprobs.grad.item() == -math.inf


def test_k3_just_before_the_overflow_and_far_above():
    got = kl.k3(torch.tensor([-88.0, 1e4]), torch.zeros(2))
    assert got[0].item() == pytest.approx(math.exp(88), rel=1e-5)
    assert got[1].item() == 9999.0


def test_padding_must_be_cleared_before_k3():
    padding, mask = torch.tensor([True, False]), torch.tensor([0.0, 1.0])
    dirty = torch.tensor([-200.0, -1.0], requires_grad=True)
    ref = torch.tensor([0.0, -2.0])
    masked_mean(kl.k3(dirty, ref), mask).backward()
    assert dirty.grad[0].isnan()  # 0 * inf
    dirty.grad = None
    masked_mean(kl.k3(dirty.masked_fill(padding, 0.0), ref), mask).backward()
    assert dirty.grad[0] == 0
    assert dirty.grad[1].item() == pytest.approx(1 - math.exp(-1))


# What each estimate teaches as a loss: one categorical choice, the expectation by enumeration


def softmax_gradient(loss_of_logprobs):
    logits = POLICY.log().requires_grad_()
    return torch.autograd.grad(loss_of_logprobs(torch.log_softmax(logits, -1)), logits)[0]


def expected_gradient_as_loss(estimate):
    return softmax_gradient(lambda logprobs: (POLICY * estimate(logprobs, REF.log())).sum())


@pytest.mark.truth("k1", "enumeration", "gradient")
@pytest.mark.truth("k2", "enumeration", "gradient")
@pytest.mark.truth("k3", "enumeration", "gradient")
def test_gradients_of_the_estimates_as_losses():
    reverse = softmax_gradient(lambda logprobs: (logprobs.exp() * (logprobs - REF.log())).sum())
    forward = softmax_gradient(lambda logprobs: (REF * (REF.log() - logprobs)).sum())
    close = {"atol": 1e-14, "rtol": 0}
    torch.testing.assert_close(expected_gradient_as_loss(kl.k1), torch.zeros_like(REF), **close)
    torch.testing.assert_close(expected_gradient_as_loss(kl.k2), reverse, **close)
    torch.testing.assert_close(expected_gradient_as_loss(kl.k3), forward, **close)
    assert (forward - reverse).abs().max() > 0.05


# --- KL controllers -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("nats", "factor"),
    [
        (10.0, 1.0),
        (11.0, 1 + 0.1 * 256 / 10_000),
        (9.0, 1 - 0.1 * 256 / 10_000),
        (50.0, 1 + 0.2 * 256 / 10_000),  # the error is clipped
        (0.0, 1 - 0.2 * 256 / 10_000),
        (-1.0, 1 - 0.2 * 256 / 10_000),  # an estimate of a small KL can be negative
    ],
)
def test_one_update_by_hand(nats, factor):
    controller = kl.AdaptiveKLController(0.05, target=10.0, horizon=10_000)
    assert controller.update(nats, n_samples=256) == pytest.approx(0.05 * factor, rel=1e-12)
    assert controller.coef == pytest.approx(0.05 * factor, rel=1e-12), "kept, not only returned"


def settle(controller, n_samples, updates=1500):
    """A plant: the KL drifts to 1 / coef nats, as a policy does that trades reward for KL."""
    nats, rng = 0.0, random.Random(0)
    for _ in range(updates):
        nats += 0.1 * (1.0 / controller.coef - nats)
        controller.update(nats + rng.gauss(0, 0.3), n_samples)
    return nats


@pytest.mark.parametrize("coef", [0.02, 0.15, 1.0])
def test_the_controller_reaches_its_target(coef):
    """From a KL of 50, 6.7 and 1 nats to the target of 6."""
    controller = kl.AdaptiveKLController(coef, target=6.0, horizon=10_000)
    assert settle(controller, n_samples=256) == pytest.approx(6.0, rel=0.1)
    assert controller.coef == pytest.approx(1 / 6.0, rel=0.1)


def test_a_controller_that_counts_batches_as_samples_never_arrives():
    """What published copies do: one sample for a whole batch, and a horizon of 10,000."""
    controller = kl.AdaptiveKLController(0.02, target=6.0, horizon=10_000)
    assert settle(controller, n_samples=1) > 40


def test_a_fixed_controller_has_the_same_interface():
    controller = kl.FixedKLController(0.0)
    assert controller.update(kl=50.0, n_samples=256) == controller.coef == 0.0


def test_controllers_refuse_what_makes_no_sense():
    right = {"coef": 0.1, "target": 6.0, "horizon": 100}
    for wrong in ({"target": 0.0}, {"target": -1.0}, {"horizon": 0}, {"horizon": math.nan}):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))} must be above 0"):
            kl.AdaptiveKLController(**right | wrong).update(6.0, 10)
    with pytest.raises(ValueError, match="coef must be above 0, not 0.0"):
        kl.AdaptiveKLController(0.0, 6.0, 100).update(6.0, 10)
    controller = kl.AdaptiveKLController(**right)
    for nats in (math.nan, math.inf):
        with pytest.raises(ValueError, match="kl is"):
            controller.update(nats, 10)
    for n_samples in (0, -3):
        with pytest.raises(ValueError, match="n_samples"):
            controller.update(6.0, n_samples)
    assert controller.coef == 0.1
