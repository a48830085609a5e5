"""DPO and its relatives against the papers' equations in plain Python."""

import math
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from relatives.dpo import (
    dpo_variant_loss,
    kto_loss,
    orpo_loss,
    sequential_kl,
    simpo_loss,
    tdpo_loss,
)
from utils.losses import dpo_loss

torch.set_num_threads(1)
LOSS_TYPES = ["sigmoid", "robust", "ipo", "hinge", "dpop"]
LENGTHS = {"chosen_lengths": [3, 1, 7, 2], "rejected_lengths": [5, 2, 4, 2]}


def double(*numbers):
    return torch.tensor(numbers, dtype=torch.float64)


def rows(*names, size=4, seed=0, spread=3.0, shift=0.0):
    """A leaf (size,) for each name, double precision."""
    generator = torch.Generator().manual_seed(seed)
    drawn = spread * torch.randn(len(names), size, dtype=torch.float64, generator=generator)
    return {n: (x + shift).requires_grad_() for n, x in zip(names, drawn, strict=True)}


def pairs(**options):
    return rows("policy_chosen", "policy_rejected", "ref_chosen", "ref_rejected", **options)


def means(**options):
    """Mean log-probs: negative."""
    drawn = rows("policy_chosen_mean", "policy_rejected_mean", **options)
    return {n: -x.detach().abs().add(0.01).requires_grad_() for n, x in drawn.items()}


def lengths(size=4):
    return {name: torch.tensor(n[:size]) for name, n in LENGTHS.items()}


def as_floats(arguments):
    return {n: x.tolist() if isinstance(x, torch.Tensor) else x for n, x in arguments.items()}


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def assert_is(loss_fn, slow, arguments, constants=(), close=1e-9):
    """Value against the loop `slow`, gradients against its finite differences; the metrics."""
    loss, metrics = loss_fn(**arguments)
    assert loss.ndim == 0
    expected = slow(**as_floats(arguments))
    assert loss.item() == pytest.approx(expected, rel=close, abs=close)
    assert metrics["loss"] == loss.item()
    assert all(isinstance(value, float) for value in metrics.values())
    leaves = [n for n, x in arguments.items() if getattr(x, "requires_grad", False)]
    got = torch.autograd.grad(loss, [arguments[n] for n in leaves], materialize_grads=True)
    for name, grad in zip(leaves, got, strict=True):
        for i in range(len(grad)):
            moved = []
            for step in (1e-5, -1e-5):
                numbers = as_floats(arguments)
                numbers[name][i] += step
                moved.append(slow(**numbers))
            difference = (moved[0] - moved[1]) / 2e-5
            if name in constants:
                assert grad[i] == 0
            else:
                assert grad[i].item() == pytest.approx(difference, rel=1e-6, abs=1e-8), name
    return metrics


# DPO


def slow_dpo_loss(
    policy_chosen,
    policy_rejected,
    ref_chosen,
    ref_rejected,
    beta=0.1,
    loss_type="sigmoid",
    label_smoothing=0.0,
    chosen_lengths=None,
    rejected_lengths=None,
    dpop_lambda=50.0,
):
    """The specification: one pair at a time."""
    total, e = 0.0, label_smoothing
    for i in range(len(policy_chosen)):
        # log [pi(y_w) / ref(y_w)] and log [pi(y_l) / ref(y_l)]
        c = policy_chosen[i] - ref_chosen[i]
        r = policy_rejected[i] - ref_rejected[i]
        right, wrong = -math.log(sigmoid(beta * (c - r))), -math.log(sigmoid(beta * (r - c)))
        if loss_type == "sigmoid":
            total += (1 - e) * right + e * wrong
        elif loss_type == "robust":
            total += ((1 - e) * right - e * wrong) / (1 - 2 * e)
        elif loss_type == "ipo":
            total += (c / chosen_lengths[i] - r / rejected_lengths[i] - 1 / (2 * beta)) ** 2
        elif loss_type == "hinge":
            total += max(0.0, 1 - beta * (c - r))
        elif loss_type == "dpop":
            penalty = max(0.0, ref_chosen[i] - policy_chosen[i])
            total -= math.log(sigmoid(beta * (c - r - dpop_lambda * penalty)))
    return total / len(policy_chosen)


@pytest.mark.truth("dpo_loss", "loop", "gradient")
@pytest.mark.parametrize("beta", [0.1, 0.7, 5.0])
@pytest.mark.parametrize("seed", range(3))
def test_the_plain_loss_against_a_loop(seed, beta):
    arguments = {**pairs(seed=seed), "beta": beta}
    metrics = assert_is(dpo_loss, slow_dpo_loss, arguments, ("ref_chosen", "ref_rejected"))
    loss, same = dpo_variant_loss(**arguments)
    assert same == metrics and loss.item() == metrics["loss"]


@pytest.mark.truth("dpo_variant_loss", "loop", "gradient")
@pytest.mark.parametrize("beta", [0.1, 0.7])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"label_smoothing": 0.2},
        {"loss_type": "robust"},
        {"loss_type": "robust", "label_smoothing": 0.2},
        {"loss_type": "ipo", **lengths()},
        {"loss_type": "hinge"},
        {"loss_type": "dpop"},
        {"loss_type": "dpop", "dpop_lambda": 1.5},
        {"loss_type": "dpop", "dpop_lambda": 0.0},
    ],
)
@pytest.mark.parametrize("seed", range(3))
def test_dpo_against_a_loop(seed, options, beta):
    arguments = {**pairs(seed=seed), "beta": beta, **options}
    metrics = assert_is(dpo_variant_loss, slow_dpo_loss, arguments, ("ref_chosen", "ref_rejected"))
    a = as_floats(arguments)
    c = [beta * (p - q) for p, q in zip(a["policy_chosen"], a["ref_chosen"], strict=True)]
    r = [beta * (p - q) for p, q in zip(a["policy_rejected"], a["ref_rejected"], strict=True)]
    assert metrics == {
        "loss": metrics["loss"],
        "accuracy": sum(x > y for x, y in zip(c, r, strict=True)) / 4,
        "margin": pytest.approx((sum(c) - sum(r)) / 4),
        "chosen_reward": pytest.approx(sum(c) / 4),
        "rejected_reward": pytest.approx(sum(r) / 4),
    }


def test_dpo_on_paper():
    # Log-ratios log 9 and log 1, beta 0.5: sigmoid(log 3) = 3/4.
    one = double(math.log(0.9)), double(math.log(0.2)), double(math.log(0.1)), double(math.log(0.2))
    loss, metrics = dpo_loss(*one, beta=0.5)
    assert loss.item() == pytest.approx(math.log(4 / 3))
    assert metrics["chosen_reward"] == metrics["margin"] == pytest.approx(math.log(3))
    assert metrics["rejected_reward"] == 0
    smooth = dpo_variant_loss(*one, beta=0.5, label_smoothing=0.25)[0].item()
    assert smooth == pytest.approx(0.75 * math.log(4 / 3) + 0.25 * math.log(4))


@pytest.mark.parametrize(
    ("loss_type", "expected"),
    [
        ("sigmoid", math.log(2)),
        ("robust", math.log(2)),
        ("dpop", math.log(2)),
        ("hinge", 1.0),
        ("ipo", 25.0),  # (1 / (2 * 0.1))^2
    ],
)
def test_policy_equal_to_the_reference(loss_type, expected):
    policy = pairs()
    policy["ref_chosen"], policy["ref_rejected"] = (
        policy["policy_chosen"],
        policy["policy_rejected"],
    )
    loss, metrics = dpo_variant_loss(**policy, loss_type=loss_type, **lengths())
    assert loss.item() == pytest.approx(expected)
    assert metrics["margin"] == metrics["accuracy"] == 0  # a tie is not a win
    got = torch.autograd.grad(loss, [policy["policy_chosen"], policy["policy_rejected"]])
    slope = {"hinge": -0.1, "ipo": None}.get(loss_type, -0.05)
    if slope:
        torch.testing.assert_close(got[0], torch.full_like(got[0], slope / 4))
        torch.testing.assert_close(got[1], torch.full_like(got[1], -slope / 4))


@settings(deadline=None)
@given(
    numbers=st.lists(st.tuples(*[st.floats(-50, 0)] * 4), min_size=1, max_size=4),
    shift=st.floats(-30, 30),
    loss_type=st.sampled_from(["sigmoid", "robust", "hinge"]),
)
def test_only_the_log_ratios_and_their_difference_count(numbers, shift, loss_type):
    columns = [double(*column) for column in zip(*numbers, strict=True)]
    loss = partial(dpo_variant_loss, loss_type=loss_type, beta=0.3)
    plain = loss(*columns)[0]
    chosen, rejected, ref_chosen, ref_rejected = columns
    same_ratio = loss(chosen + shift, rejected, ref_chosen + shift, ref_rejected)[0]
    same_margin = loss(chosen + shift, rejected + shift, ref_chosen, ref_rejected)[0]
    torch.testing.assert_close(same_ratio, plain)
    torch.testing.assert_close(same_margin, plain)


def test_dpop_alone_sees_that_the_chosen_completion_sinks():
    # Both completions lose, the rejected one more: DPO is content, DPOP is not.
    sinking = double(-12.0), double(-30.0), double(-10.0), double(-10.0)
    rising = double(-9.0), double(-27.0), double(-10.0), double(-10.0)
    for loss_type in ("sigmoid", "hinge"):
        a, b = (dpo_variant_loss(*x, loss_type=loss_type)[0] for x in (sinking, rising))
        torch.testing.assert_close(a, b)
    a, b = (
        dpo_variant_loss(*x, loss_type="dpop", dpop_lambda=5.0)[0].item() for x in (sinking, rising)
    )
    assert a == pytest.approx(-math.log(sigmoid(0.1 * (18 - 5 * 2))))
    assert b == pytest.approx(-math.log(sigmoid(0.1 * 18)))


@pytest.mark.truth("dpo_variant_loss", "enumeration")
@pytest.mark.parametrize("flip_rate", [0.1, 0.4])
def test_robust_is_unbiased_under_flipped_labels(flip_rate):
    right = pairs(seed=5)
    flipped = {
        "policy_chosen": right["policy_rejected"],
        "policy_rejected": right["policy_chosen"],
        "ref_chosen": right["ref_rejected"],
        "ref_rejected": right["ref_chosen"],
    }
    robust = partial(dpo_variant_loss, loss_type="robust", label_smoothing=flip_rate)
    expectation = (1 - flip_rate) * robust(**right)[0] + flip_rate * robust(**flipped)[0]
    torch.testing.assert_close(expectation, dpo_loss(**right)[0])


def test_smoothing_holds_the_margin_back():
    # The minimum of the smoothed loss lies where sigmoid(z) = 1 - e, not at infinity.
    z = math.log(0.8 / 0.2)
    policy = double(z).requires_grad_()
    zero = double(0.0)
    loss, _ = dpo_variant_loss(policy, zero, zero, zero, beta=1.0, label_smoothing=0.2)
    assert torch.autograd.grad(loss, policy)[0].abs().item() < 1e-12


def test_ipo_is_least_where_the_difference_a_token_is_half_of_one_over_beta():
    chosen = double(10.0).requires_grad_()  # 5 a token; 1 / (2 * 0.1) = 5
    arguments = chosen, double(0.0), double(0.0), double(0.0)
    sizes = {"chosen_lengths": torch.tensor([2]), "rejected_lengths": torch.tensor([9])}
    loss, _ = dpo_variant_loss(*arguments, loss_type="ipo", **sizes)
    assert loss.item() == 0
    assert torch.autograd.grad(loss, chosen)[0].item() == 0


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_extreme_log_ratios(loss_type):
    policy_chosen = torch.tensor([-1e4, 1e4, -1e30, 0.0], requires_grad=True)
    policy_rejected = torch.tensor([1e4, -1e4, 0.0, -1e30], requires_grad=True)
    zero = torch.zeros(4)
    loss, metrics = dpo_variant_loss(
        policy_chosen[:2], policy_rejected[:2], zero[:2], zero[:2], 1.0, loss_type, **lengths(2)
    )
    assert math.isfinite(loss.item())
    assert loss.item() >= 1e4 / 2
    if loss_type in ("sigmoid", "robust", "hinge"):
        assert loss.item() == pytest.approx(1e4, abs=1)
    smooth = 0.1 if loss_type in ("sigmoid", "robust") else 0.0
    if loss_type != "ipo":  # its square of 1e30 is infinite in float32
        loss, metrics = dpo_variant_loss(
            policy_chosen, policy_rejected, zero, zero, 1.0, loss_type, label_smoothing=smooth
        )
    grads = torch.autograd.grad(loss, [policy_chosen, policy_rejected])
    assert all(x.isfinite().all() for x in grads)
    assert all(map(math.isfinite, metrics.values()))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_half_precision_gives_a_float32_loss(loss_type, dtype):
    # In bfloat16, 300.4 - 300.0 would be 0 or 2.
    arguments = {n: x.detach().to(dtype) for n, x in pairs(spread=30.0).items()}
    options = {"loss_type": loss_type, **lengths()}
    loss, _ = dpo_variant_loss(**arguments, **options)
    assert loss.dtype == torch.float32
    expected = dpo_variant_loss(**{n: x.float() for n, x in arguments.items()}, **options)[0]
    torch.testing.assert_close(loss, expected, atol=0, rtol=0)


def test_one_number_in_half_precision_is_enough_to_need_float32():
    arguments = pairs()
    mixed = {n: x.detach().float() for n, x in arguments.items()}
    mixed["ref_chosen"] = mixed["ref_chosen"].bfloat16()
    assert dpo_loss(**mixed)[0].dtype == torch.float32


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("shape", [(4, 1), (3,), (), (1,)])
@pytest.mark.parametrize("name", list(pairs()))
def test_dpo_refuses_other_shapes(name, shape):
    # (B, 1) against (B,) would broadcast to B * B pairs.
    with pytest.raises(ValueError, match="need one number a sequence") as caught:
        dpo_loss(**{**pairs(), name: torch.zeros(shape)})
    assert f"{name} {shape}" in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beta": 0.0}, "beta must be above 0, not 0.0"),
        ({"beta": -0.1}, "beta must be above 0, not -0.1"),
        ({"beta": math.nan}, "beta must be above 0, not nan"),
        ({"loss_type": "dpo"}, "must be one of sigmoid, robust, ipo, hinge, dpop, not 'dpo'"),
        ({"label_smoothing": 0.5}, r"must lie in \[0, 0.5\), not 0.5"),
        ({"label_smoothing": -0.1}, "label_smoothing"),
        ({"label_smoothing": 0.1, "loss_type": "hinge"}, "hinge has no label_smoothing"),
        ({"label_smoothing": 0.1, "loss_type": "ipo"}, "ipo has no label_smoothing"),
        ({"label_smoothing": 0.1, "loss_type": "dpop"}, "dpop has no label_smoothing"),
        ({"dpop_lambda": -1.0}, "dpop_lambda must be 0 or more, not -1.0"),
        ({"loss_type": "ipo"}, "chosen_lengths must be mask.sum"),
        ({"loss_type": "ipo", "chosen_lengths": torch.ones(4)}, "rejected_lengths must be"),
        ({"loss_type": "ipo", "chosen_lengths": torch.ones(4, 1)}, r"of shape \(4,\), each"),
        ({"loss_type": "ipo", "chosen_lengths": torch.zeros(4)}, "each at least 1, not"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_dpo_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        dpo_variant_loss(**pairs(), **options)
    if set(options) == {"beta"}:
        with pytest.raises(ValueError, match=message):
            dpo_loss(**pairs(), **options)


def test_no_pair_is_an_error():
    with pytest.raises(ValueError, match="at least one row"):
        dpo_loss(*[torch.zeros(0)] * 4)


# ORPO and SimPO


def slow_orpo_loss(policy_chosen_mean, policy_rejected_mean, beta=0.1):
    total = 0.0
    for chosen, rejected in zip(policy_chosen_mean, policy_rejected_mean, strict=True):
        odds = [math.exp(m) / (1 - math.exp(m)) for m in (chosen, rejected)]
        total += -chosen - beta * math.log(sigmoid(math.log(odds[0] / odds[1])))
    return total / len(policy_chosen_mean)


@pytest.mark.truth("orpo_loss", "loop", "gradient")
@pytest.mark.parametrize("beta", [0.1, 2.0])
@pytest.mark.parametrize("seed", range(3))
def test_orpo_against_a_loop(seed, beta):
    arguments = {**means(seed=seed), "beta": beta}
    metrics = assert_is(orpo_loss, slow_orpo_loss, arguments)
    chosen, rejected = (
        arguments[f"policy_{side}_mean"].tolist() for side in ("chosen", "rejected")
    )
    log_odds = [math.log(math.exp(m) / (1 - math.exp(m))) for m in chosen + rejected]
    assert metrics["nll"] == pytest.approx(-sum(chosen) / 4)
    assert metrics["log_odds_ratio"] == pytest.approx((sum(log_odds[:4]) - sum(log_odds[4:])) / 4)
    assert metrics["chosen_reward"] == pytest.approx(beta * sum(chosen) / 4)
    assert metrics["rejected_reward"] == pytest.approx(beta * sum(rejected) / 4)
    assert metrics["accuracy"] == sum(c > r for c, r in zip(chosen, rejected, strict=True)) / 4


def test_orpo_on_paper():
    # Probabilities 3/4 and 1/2: odds 3 and 1, sigmoid(log 3) = 3/4.
    loss, _ = orpo_loss(double(math.log(0.75)), double(math.log(0.5)), beta=0.5)
    assert loss.item() == pytest.approx(1.5 * math.log(4 / 3))


@pytest.mark.parametrize("mean", [0.0, -1e-30, -1e-9, -1e-5, -1.0, -200.0, -1e30])
@pytest.mark.parametrize("other", [0.0, -1e-7, -3.0, -1e30])
def test_orpo_at_probabilities_of_zero_and_one(mean, other):
    inputs = torch.tensor([mean], requires_grad=True), torch.tensor([other], requires_grad=True)
    loss, metrics = orpo_loss(*inputs)
    assert all(map(math.isfinite, metrics.values()))
    assert all(x.isfinite().all() for x in torch.autograd.grad(loss, inputs))


def test_orpo_keeps_its_digits_near_probability_one():
    chosen, rejected = torch.tensor([-1e-5]), torch.tensor([-2e-5])
    # odds = 1 / x for a small x: their ratio is 2. 1 - exp(x) in float32 would give 2.0 +- 1%.
    assert orpo_loss(chosen, rejected)[1]["log_odds_ratio"] == pytest.approx(math.log(2), abs=1e-5)


def slow_simpo_loss(policy_chosen_mean, policy_rejected_mean, beta=2.0, gamma=1.0):
    margins = zip(policy_chosen_mean, policy_rejected_mean, strict=True)
    terms = [-math.log(sigmoid(beta * c - beta * r - gamma)) for c, r in margins]
    return sum(terms) / len(terms)


@pytest.mark.truth("simpo_loss", "loop", "gradient")
@pytest.mark.parametrize("options", [{}, {"beta": 0.5, "gamma": 0.3}, {"gamma": 0.0}])
@pytest.mark.parametrize("seed", range(3))
def test_simpo_against_a_loop(seed, options):
    arguments = {**means(seed=seed), **options}
    metrics = assert_is(simpo_loss, slow_simpo_loss, arguments)
    chosen, rejected = arguments["policy_chosen_mean"], arguments["policy_rejected_mean"]
    margin = options.get("beta", 2.0) * (chosen - rejected).mean().item()
    assert metrics["margin"] == pytest.approx(margin)  # gamma is not in it


def test_simpo_reaches_log_2_where_the_margin_is_gamma():
    loss, _ = simpo_loss(double(-1.0), double(-1.7), beta=2.0, gamma=1.4)
    assert loss.item() == pytest.approx(math.log(2))


# KTO


def slow_kto_loss(
    policy, ref, desirable, kl, beta=0.1, desirable_weight=1.0, undesirable_weight=1.0
):
    """Eq. 8: the weight minus the value, which is the weight times a sigmoid."""
    total, kl = 0.0, max(0.0, kl)
    for p, q, good in zip(policy, ref, desirable, strict=True):
        if good:
            total += desirable_weight - desirable_weight * sigmoid(beta * (p - q - kl))
        else:
            total += undesirable_weight - undesirable_weight * sigmoid(beta * (kl - (p - q)))
    return total / len(policy)


DESIRABLE = torch.tensor([True, False, False, True])


@pytest.mark.truth("kto_loss", "loop", "gradient")
@pytest.mark.parametrize("kl", [0.0, 1.7, -2.0])
@pytest.mark.parametrize("options", [{}, {"beta": 0.8, "desirable_weight": 1.3}, {"weight": 0.4}])
@pytest.mark.parametrize("seed", range(3))
def test_kto_against_a_loop(seed, options, kl):
    options = {{"weight": "undesirable_weight"}.get(k, k): v for k, v in options.items()}
    arguments = {**rows("policy", "ref", seed=seed), "desirable": DESIRABLE, "kl": kl, **options}
    metrics = assert_is(kto_loss, slow_kto_loss, arguments, constants=("ref",))
    beta = options.get("beta", 0.1)
    reward = beta * (arguments["policy"] - arguments["ref"]).detach()
    assert metrics == {
        "loss": metrics["loss"],
        "kl": max(0.0, kl),
        "desirable_reward": pytest.approx(((reward[0] + reward[3]) / 2).item()),
        "undesirable_reward": pytest.approx(((reward[1] + reward[2]) / 2).item()),
    }


def test_kto_known_points():
    same = double(-3.0, -3.0)
    labels = torch.tensor([True, False])
    assert kto_loss(same, same, labels, kl=0.0)[0].item() == 0.5
    # The reference point turns around who is far from it: at kl > 0 the bad one is already below.
    good, _ = kto_loss(same[:1], same[:1], labels[:1], kl=5.0, beta=1.0)
    bad, _ = kto_loss(same[:1], same[:1], labels[1:], kl=5.0, beta=1.0)
    assert good.item() == pytest.approx(sigmoid(5))
    assert bad.item() == pytest.approx(sigmoid(-5))


def test_kto_gives_the_reference_point_no_gradient():
    kl = torch.tensor(1.0, requires_grad=True)
    policy = torch.zeros(4, requires_grad=True)
    loss, _ = kto_loss(policy, torch.zeros(4), DESIRABLE, kl)
    assert torch.autograd.grad(loss, kl, allow_unused=True, retain_graph=True)[0] is None
    assert torch.autograd.grad(loss, policy)[0].sign().tolist() == [-1, 1, 1, -1]


def test_kto_with_labels_of_one_kind():
    _, metrics = kto_loss(torch.zeros(2), torch.zeros(2), torch.tensor([True, True]), kl=0.0)
    assert math.isnan(metrics["undesirable_reward"])
    assert metrics["desirable_reward"] == 0


def test_kto_at_extreme_log_ratios():
    policy = torch.tensor([1e30, 1e30, -1e30, -1e30], requires_grad=True)
    loss, _ = kto_loss(policy, torch.zeros(4), DESIRABLE, kl=1e4, beta=1.0)
    assert (
        loss.item() == 0.5
    )  # good and likely 0, bad and likely 1, bad and rare 0, good and rare 1
    assert torch.autograd.grad(loss, policy)[0].tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"desirable": torch.tensor([1.0, -1.0, 1.0, -1.0])}, "float32: need"),
        ({"desirable": DESIRABLE[:, None]}, r"desirable \(4, 1\)"),
        ({"ref": torch.zeros(3)}, "need one number a sequence"),
        ({"kl": torch.zeros(4)}, r"kl \(4,\): need one number"),
        ({"beta": 0.0}, "beta must be above 0, not 0.0"),
        ({"desirable_weight": -1.0}, "^desirable_weight must be 0 or more"),
        ({"undesirable_weight": -1.0}, "undesirable_weight must be 0 or more"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_kto_refuses(changes, message):
    arguments = {**rows("policy", "ref"), "desirable": DESIRABLE, "kl": 0.0, **changes}
    with pytest.raises(ValueError, match=message):
        kto_loss(**arguments)


# TDPO and its KL


def tdpo_rows(**options):
    kls = rows("chosen_kl", "rejected_kl", seed=9)
    return {**pairs(**options), **{n: x.detach().abs().requires_grad_() for n, x in kls.items()}}


def slow_tdpo_loss(
    policy_chosen,
    policy_rejected,
    ref_chosen,
    ref_rejected,
    chosen_kl,
    rejected_kl,
    beta=0.1,
    alpha=0.5,
):
    total = 0.0
    for i in range(len(policy_chosen)):
        u = beta * (policy_chosen[i] - ref_chosen[i]) - beta * (
            policy_rejected[i] - ref_rejected[i]
        )
        delta = beta * rejected_kl[i] - beta * chosen_kl[i]
        total -= math.log(sigmoid(u - alpha * delta))
    return total / len(policy_chosen)


@pytest.mark.truth("tdpo_loss", "loop", "gradient")
@pytest.mark.parametrize("options", [{}, {"beta": 0.6, "alpha": 1.0}, {"alpha": 0.0}])
@pytest.mark.parametrize("seed", range(3))
def test_tdpo_against_a_loop(seed, options):
    arguments = {**tdpo_rows(seed=seed), **options}
    constants = ("ref_chosen", "ref_rejected", "chosen_kl")
    metrics = assert_is(tdpo_loss, slow_tdpo_loss, arguments, constants)
    assert metrics["chosen_kl"] == pytest.approx(arguments["chosen_kl"].mean().item())
    assert metrics["rejected_kl"] == pytest.approx(arguments["rejected_kl"].mean().item())
    plain = dpo_loss(**pairs(seed=seed), beta=options.get("beta", 0.1))
    names = ("accuracy", "margin", "chosen_reward", "rejected_reward")
    assert [metrics[n] for n in names] == [plain[1][n] for n in names]
    if options.get("alpha") == 0.0:
        assert metrics["loss"] == plain[0].item()


def test_tdpo_trains_the_kl_of_rejected_completions_down():
    arguments = tdpo_rows()
    loss, _ = tdpo_loss(**arguments)
    assert (torch.autograd.grad(loss, arguments["rejected_kl"])[0] > 0).all()


def slow_sequential_kl(ref_logits, logits, mask):
    totals = []
    for b in range(len(mask)):
        total = 0.0
        for t in range(len(mask[b])):
            if mask[b][t]:
                ref, policy = ([math.exp(x) for x in row[b][t]] for row in (ref_logits, logits))
                for q, p in zip(ref, policy, strict=True):
                    q, p = q / sum(ref), p / sum(policy)
                    total += q * math.log(q / p)
        totals.append(total)
    return totals


def kl_case(dtype=torch.float64):
    generator = torch.Generator().manual_seed(3)
    ref, logits = torch.randn(2, 3, 4, 5, dtype=dtype, generator=generator)
    mask = torch.tensor([[1.0, 1, 1, 1], [1, 1, 0, 0], [0, 0, 0, 0]])
    return ref, logits.requires_grad_(), mask


@pytest.mark.truth("sequential_kl", "loop", "gradient")
def test_sequential_kl_against_a_loop():
    ref, logits, mask = kl_case()
    got = sequential_kl(ref, logits, mask)
    expected = slow_sequential_kl(ref.tolist(), logits.tolist(), mask.tolist())
    assert got.tolist() == pytest.approx(expected, abs=1e-12)
    assert got[2] == 0
    # The gradient of KL(ref || policy) is policy - ref, that of the other direction is not.
    expected = (logits.softmax(-1) - ref.softmax(-1)) * mask[..., None]
    torch.testing.assert_close(torch.autograd.grad(got.sum(), logits)[0], expected)


def test_sequential_kl_on_paper():
    ref, policy = double(0.5, 0.5).log(), double(0.75, 0.25).log()
    got = sequential_kl(ref.view(1, 1, 2), policy.view(1, 1, 2), torch.ones(1, 1))
    assert got.item() == pytest.approx(0.5 * math.log(2 / 3) + 0.5 * math.log(2))


def test_sequential_kl_gives_the_reference_no_gradient():
    ref, logits, mask = kl_case()
    ref.requires_grad_()
    total = sequential_kl(ref, logits, mask).sum()
    assert torch.autograd.grad(total, ref, allow_unused=True)[0] is None


@pytest.mark.parametrize("garbage", [math.nan, math.inf, -math.inf])
def test_sequential_kl_keeps_padding_out(garbage):
    ref, logits, mask = kl_case()
    padding = mask[..., None] == 0
    dirty = logits.detach().masked_fill(padding, garbage).requires_grad_()
    got = sequential_kl(ref.masked_fill(padding, garbage), dirty, mask)
    expected = sequential_kl(ref, logits, mask)
    torch.testing.assert_close(got, expected, atol=0, rtol=0)
    gradient = torch.autograd.grad(got.sum(), dirty)[0]
    torch.testing.assert_close(gradient, torch.autograd.grad(expected.sum(), logits)[0])


@pytest.mark.parametrize("ruled_out", [-math.inf, -1e4])
def test_sequential_kl_with_tokens_that_are_ruled_out(ruled_out):
    # By the reference (also after its probability underflows), then by both: 0 each. By the policy
    # alone: infinite.
    ref = torch.tensor([[[0.0, 0.0, ruled_out, ruled_out]]])
    logits = torch.tensor([[[0.0, 0.0, 0.0, -math.inf]]], requires_grad=True)
    got = sequential_kl(ref, logits, torch.ones(1, 1))
    assert got.item() == pytest.approx(math.log(3 / 2))
    assert torch.autograd.grad(got.sum(), logits)[0].isfinite().all()
    assert sequential_kl(torch.zeros(1, 1, 4), logits, torch.ones(1, 1)).item() == math.inf


def test_sequential_kl_in_half_precision_is_computed_in_float32():
    ref, logits, mask = kl_case()
    ref, logits = ref.bfloat16(), logits.detach().bfloat16()
    got = sequential_kl(ref, logits, mask)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, sequential_kl(ref.float(), logits.float(), mask))


@pytest.mark.parametrize("name", ["ref_logits", "logits", "mask"])
@pytest.mark.usefixtures("unchecked")
def test_sequential_kl_refuses_shapes_that_do_not_fit(name):
    arguments = dict(zip(("ref_logits", "logits", "mask"), kl_case(), strict=True))
    arguments[name] = arguments[name][:, 1:]
    with pytest.raises(ValueError, match=r"need \(B, T, V\) twice and \(B, T\)"):
        sequential_kl(**arguments)


# What the relatives share with DPO


@pytest.mark.parametrize(
    ("loss_fn", "arguments"),
    [(orpo_loss, means), (simpo_loss, means), (tdpo_loss, tdpo_rows)],
)
@pytest.mark.usefixtures("unchecked")
def test_relatives_share_the_refusals_and_the_precision(loss_fn, arguments):
    for name, values in arguments().items():
        with pytest.raises(ValueError, match="need one number a sequence"):
            loss_fn(**{**arguments(), name: values[:, None]})
    with pytest.raises(ValueError, match="beta must be above 0"):
        loss_fn(**arguments(), beta=0.0)
    with pytest.raises(ValueError, match="at least one row"):
        loss_fn(**{n: x[:0] for n, x in arguments().items()})
    half = {n: x.detach().bfloat16() for n, x in arguments().items()}
    loss, metrics = loss_fn(**half)
    assert loss.dtype == torch.float32
    expected = loss_fn(**{n: x.float() for n, x in half.items()})
    torch.testing.assert_close(loss, expected[0], atol=0, rtol=0)
    assert metrics == expected[1]


@pytest.mark.parametrize(
    ("loss_fn", "arguments", "option"),
    [(simpo_loss, means, "gamma"), (tdpo_loss, tdpo_rows, "alpha")],
)
def test_negative_weights_are_refused(loss_fn, arguments, option):
    with pytest.raises(ValueError, match=f"{option} must be 0 or more, not -1"):
        loss_fn(**arguments(), **{option: -1.0})


def test_simpo_and_tdpo_at_extreme_margins():
    far = torch.tensor([-1e30, -1e-30], requires_grad=True)
    zero = torch.zeros(2)
    for loss, _ in (simpo_loss(far, zero), simpo_loss(zero, far)):
        assert torch.autograd.grad(loss, far)[0].isfinite().all()
    for loss, _ in (tdpo_loss(far, zero, zero, zero, zero, -far),):
        assert torch.autograd.grad(loss, far)[0].isfinite().all()
