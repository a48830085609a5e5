import math
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from relatives.grpo import grpo_variant_loss
from utils.losses import clipped_policy_loss, grpo_loss

torch.set_num_threads(1)
LOSS_TYPES = ["grpo", "bnpo", "dapo", "dr_grpo"]
VARIANTS = list(product(LOSS_TYPES, ["token", "sequence"]))
GARBAGE = [math.nan, math.inf, -math.inf, 1e30]
# Ragged, with completions of one token and of the full width.
MASK = (torch.arange(6) < torch.tensor([3, 1, 6, 5])[:, None]).double()


def batch(seed=0, spread=0.5, mask=MASK, garbage=math.nan):
    """Log-probs of the policy (a leaf), of the old one and the reference; advantages; the mask."""
    generator = torch.Generator().manual_seed(seed)
    draws = torch.randn((3, *mask.shape), generator=generator, dtype=torch.float64)
    old = draws[0].abs().neg()
    tensors = [old + spread * draws[1], old, old + spread * draws[2]]
    new, old, ref = (x.masked_fill(mask == 0, garbage) for x in tensors)
    advantages = torch.randn(len(mask), generator=generator, dtype=torch.float64)
    return new.requires_grad_(), old, ref, advantages, mask


def run(data, **options):
    """Loss, gradient and metrics; what dr_grpo needs is given to all."""
    new, old, ref, advantages, mask = data
    options = {"ref_logprobs": ref, "max_completion_length": 8, **options}
    loss, metrics = grpo_variant_loss(new, old, advantages, mask, **options)
    return loss.detach(), torch.autograd.grad(loss, new)[0], metrics


def slow_grpo_loss(
    data, loss_type, importance_level, beta, low=0.2, high=0.2, width=8, num_items=None
):
    """The specification: one token at a time; autograd gives the gradient."""
    new, old, ref, advantages, mask = data
    rows = [[t for t in range(mask.shape[1]) if mask[b, t]] for b in range(len(mask))]
    tokens = sum(map(len, rows))
    total, kl, ratios, clipped, approx_kl = 0.0, 0.0, 0.0, 0, 0.0
    for b, row in enumerate(rows):
        a = advantages[b].item()
        steps = [new[b, t] - old[b, t] for t in row]
        for t, step in zip(row, steps, strict=True):
            ratio = (step if importance_level == "token" else sum(steps) / len(steps)).exp()
            if (a > 0 and ratio > 1 + high) or (a < 0 and ratio < 1 - low):
                loss, clipped = -(1 + high if a > 0 else 1 - low) * a, clipped + 1
            else:
                loss = -ratio * a
            r = new[b, t] - ref[b, t]
            k3 = (-r).exp() - 1 + r
            divisor = {
                "grpo": len(row) * len(rows),
                "bnpo": tokens,
                "dapo": num_items or tokens,
                "dr_grpo": len(rows) * width,
            }[loss_type]
            total = total + (loss + beta * k3) / divisor
            kl, ratios = kl + k3.item() / tokens, ratios + ratio.item() / tokens
            approx_kl += (step.exp() - 1 - step).item() / tokens
    grad = torch.zeros_like(new)
    if torch.is_tensor(total) and total.requires_grad:
        grad = torch.autograd.grad(total, new)[0]
    metrics = {
        "loss": float(torch.as_tensor(total).detach()),
        "kl": kl,
        "clip_fraction": clipped / tokens,
        "ratio_mean": ratios,
        "approx_kl": approx_kl,
    }
    return metrics["loss"], grad, metrics


def check(got, expected):
    loss, grad, metrics = got
    assert loss.ndim == 0
    assert loss.item() == pytest.approx(expected[0], rel=1e-12, abs=1e-12)
    torch.testing.assert_close(grad, expected[1], atol=1e-13, rtol=1e-11)
    assert metrics == pytest.approx(expected[2], rel=1e-6, abs=1e-9)


@pytest.mark.truth("grpo_variant_loss", "loop", "gradient")
@pytest.mark.parametrize("beta", [0.0, 0.04, 1.0])
@pytest.mark.parametrize(("loss_type", "level"), VARIANTS)
@pytest.mark.parametrize("seed", range(3))
def test_against_a_loop(seed, loss_type, level, beta):
    data = batch(seed)
    got = run(data, loss_type=loss_type, importance_level=level, beta=beta)
    check(got, slow_grpo_loss(data, loss_type, level, beta))


def run_plain(data, **options):
    new, old, ref, advantages, mask = data
    loss, metrics = grpo_loss(new, old, advantages, mask, ref, **options)
    return loss.detach(), torch.autograd.grad(loss, new)[0], metrics


@pytest.mark.truth("grpo_loss", "loop", "gradient")
@pytest.mark.parametrize("beta", [0.0, 0.04, 1.0])
@pytest.mark.parametrize("clip_eps", [0.05, 0.2])
@pytest.mark.parametrize("seed", range(3))
def test_the_plain_loss_against_a_loop(seed, clip_eps, beta):
    got = run_plain(batch(seed), beta=beta, clip_eps=clip_eps)
    check(got, slow_grpo_loss(batch(seed), "grpo", "token", beta, clip_eps, clip_eps))


@st.composite
def ragged(draw):
    lengths = draw(st.lists(st.integers(1, 5), min_size=1, max_size=4))
    width = max(lengths) + draw(st.integers(0, 2))
    mask = (torch.arange(width) < torch.tensor(lengths).unsqueeze(1)).double()
    return batch(draw(st.integers(0, 10_000)), 0.5, mask, draw(st.sampled_from(GARBAGE)))


@settings(deadline=None, max_examples=60)
@given(ragged(), st.sampled_from([0.0, 0.1]), st.sampled_from([0.0, 0.2, 10.0]))
def test_without_options_a_variant_is_the_plain_loss(data, beta, clip_eps):
    plain = run_plain(data, beta=beta, clip_eps=clip_eps)
    variant = run(data, beta=beta, clip_eps=clip_eps)
    torch.testing.assert_close(variant[:2], plain[:2], atol=0, rtol=0)
    assert variant[2] == plain[2]


clips = st.sampled_from([0.0, 0.05, 0.2, 0.5, 0.9, 10.0])


@pytest.mark.truth("grpo_variant_loss", "loop", "gradient")
@settings(deadline=None, max_examples=60)
@given(ragged(), st.sampled_from(VARIANTS), clips, clips)
def test_any_batch_and_clip_against_a_loop(data, variant, low, high):
    loss_type, level = variant
    got = run(
        data,
        loss_type=loss_type,
        importance_level=level,
        beta=0.1,
        clip_eps=low,
        clip_eps_high=high,
    )
    check(got, slow_grpo_loss(data, loss_type, level, 0.1, low, high))


def test_a_case_small_enough_for_paper():
    # Ratios 2 and 1 for A = 1, then 2 for A = -1; clip at 1.2; k3 = 2 - 1 - log 2 at each ratio 2.
    new = torch.tensor([[math.log(2) - 1, -1.0], [math.log(2) - 1, 9.0]], dtype=torch.float64)
    old = torch.full_like(new, -1.0)
    ref = new + torch.tensor([[math.log(2), 0.0], [math.log(2), 9.0]])
    mask = torch.tensor([[1, 1], [1, 0]])
    args, k3 = (new, old, torch.tensor([1.0, -1.0]), mask, ref, 0.5), 1 - math.log(2)
    tokens = [-1.2 + 0.5 * k3, -1.0, 2.0 + 0.5 * k3]
    loss, metrics = grpo_loss(*args)
    assert loss.item() == pytest.approx(((tokens[0] + tokens[1]) / 2 + tokens[2]) / 2)
    assert metrics["kl"] == pytest.approx(2 * k3 / 3)
    assert metrics["clip_fraction"] == pytest.approx(1 / 3)
    assert metrics["ratio_mean"] == pytest.approx(5 / 3)
    assert grpo_variant_loss(*args, loss_type="bnpo")[0].item() == pytest.approx(sum(tokens) / 3)
    loss = grpo_variant_loss(*args, loss_type="dr_grpo", max_completion_length=5)[0]
    assert loss.item() == pytest.approx(sum(tokens) / 10)
    # One ratio a completion: sqrt(2) and 2.
    loss = grpo_variant_loss(*args[:4], importance_level="sequence", clip_eps=0.5)[0]
    assert loss.item() == pytest.approx((-math.sqrt(2) + 2) / 2)


@pytest.mark.truth("grpo_variant_loss", "gradient")
@pytest.mark.parametrize(("loss_type", "level"), VARIANTS)
def test_on_policy_it_is_the_policy_gradient(loss_type, level):
    new, _, ref, advantages, mask = batch(1)
    data = new, new.detach(), ref, advantages, mask
    _, grad, metrics = run(data, loss_type=loss_type, importance_level=level)
    weight = {
        "grpo": 1 / (mask.sum(1, keepdim=True) * len(mask)),
        "dr_grpo": torch.tensor(1 / (len(mask) * 8)),
    }.get(loss_type, 1 / mask.sum())
    torch.testing.assert_close(grad, -advantages[:, None] * mask * weight)
    assert metrics["ratio_mean"] == 1.0
    assert metrics["clip_fraction"] == metrics["approx_kl"] == 0.0


@pytest.mark.parametrize(("loss_type", "level"), VARIANTS)
@pytest.mark.parametrize("garbage", GARBAGE)
def test_masked_positions_change_neither_loss_nor_gradient(garbage, loss_type, level):
    options = {"loss_type": loss_type, "importance_level": level, "beta": 0.1}
    clean = run(batch(garbage=0.0), **options)
    dirty = run(batch(garbage=garbage), **options)
    torch.testing.assert_close(dirty[:2], clean[:2], atol=0, rtol=0)
    assert dirty[2] == clean[2]
    assert (clean[1][MASK == 0] == 0).all() and (clean[1][MASK == 1] != 0).any()


@pytest.mark.parametrize(("loss_type", "level"), VARIANTS)
def test_a_wider_padding_changes_nothing(loss_type, level):
    new, old, ref, advantages, mask = batch(2, garbage=0.0)
    wide = [torch.nn.functional.pad(x, (0, 3)) for x in (new.detach(), old, ref, mask)]
    options = {"loss_type": loss_type, "importance_level": level, "beta": 0.1}
    got = run((wide[0].requires_grad_(), wide[1], wide[2], advantages, wide[3]), **options)
    expected = run((new, old, ref, advantages, mask), **options)
    torch.testing.assert_close(got[0], expected[0])
    torch.testing.assert_close(got[1][:, :6], expected[1])


@pytest.mark.parametrize("level", ["token", "sequence"])
@pytest.mark.parametrize(
    ("advantage", "ratio", "objective", "has_gradient"),
    [
        (1.0, 1.25, 1.25, True),  # between 1.2 and 1.3: clip-higher gives it room
        (1.0, 1.4, 1.3, False),
        (1.0, 0.5, 0.5, True),
        (-1.0, 1.4, -1.4, True),
        (-1.0, 0.85, -0.85, True),
        (-1.0, 0.75, -0.8, False),  # the lower side stays at 0.8
    ],
)
def test_clip_higher_moves_the_upper_side_only(level, advantage, ratio, objective, has_gradient):
    new = torch.tensor([[math.log(ratio)]], dtype=torch.float64, requires_grad=True)
    loss, metrics = grpo_variant_loss(
        new,
        torch.zeros(1, 1),
        torch.tensor([advantage]),
        torch.ones(1, 1),
        clip_eps_high=0.3,  # clip_eps is 0.2 by default
        importance_level=level,
    )
    assert -loss.item() == pytest.approx(objective)
    grad = torch.autograd.grad(loss, new)[0].item()
    assert grad == pytest.approx(-advantage * ratio if has_gradient else 0.0)
    assert metrics["clip_fraction"] == (0.0 if has_gradient else 1.0)


def test_completions_of_one_token_are_the_same_in_every_variant_but_dr_grpo():
    data = batch(3, mask=torch.ones(5, 1).double())
    first, *others = [
        run(data, loss_type=loss_type, importance_level=level, beta=0.1)
        for loss_type, level in VARIANTS
        if loss_type != "dr_grpo"
    ]
    for other in others:
        torch.testing.assert_close(other, first)
    by_length_1 = run(data, loss_type="dr_grpo", beta=0.1, max_completion_length=1)
    torch.testing.assert_close(by_length_1, first)


def test_per_token_it_is_the_loss_of_ppo():
    new, old, _, advantages, mask = batch(4)
    spread = advantages[:, None].expand_as(mask)
    ppo = clipped_policy_loss(new, old, spread, mask, 0.1)
    got = grpo_variant_loss(new, old, advantages, mask, clip_eps=0.1, loss_type="bnpo")
    torch.testing.assert_close(got[0], ppo[0])
    assert got[1] == pytest.approx({**ppo[1], "kl": 0.0})


@pytest.mark.parametrize(("loss_type", "level"), VARIANTS)
def test_groups_of_equal_rewards_teach_nothing_unless_there_is_a_kl(loss_type, level):
    new, old, ref, _, mask = batch(5)
    data = new, old, ref, torch.zeros(len(mask)), mask
    loss, grad, metrics = run(data, loss_type=loss_type, importance_level=level)
    assert loss == 0 and not grad.any() and metrics["clip_fraction"] == 0
    assert run(data, loss_type=loss_type, importance_level=level, beta=0.1)[1].any()


def test_a_reference_is_measured_even_if_the_kl_costs_nothing():
    with_ref, without = run(batch(6)), run(batch(6), ref_logprobs=None)
    torch.testing.assert_close(with_ref[:2], without[:2], atol=0, rtol=0)
    assert with_ref[2]["kl"] > 0 and without[2]["kl"] == 0.0


@pytest.mark.parametrize("run_one", [run, run_plain])
def test_a_reference_that_rules_a_token_out_only_spoils_the_metric(run_one):
    new, old, ref, advantages, mask = batch(6)
    ref[0, 0] = -math.inf
    loss, grad, metrics = run_one((new, old, ref, advantages, mask))
    assert loss.isfinite() and grad.isfinite().all() and metrics["kl"] == math.inf


@pytest.mark.parametrize("beta", [0.0, 0.1])
@pytest.mark.parametrize(("loss_type", "level"), VARIANTS)
@pytest.mark.parametrize("log_ratio", [-1e30, -800.0, -90.0, 90.0, 800.0, 1e30])
@pytest.mark.parametrize("advantage", [-1e3, 0.0, 1e3])
def test_extreme_log_ratios_give_no_nan(advantage, log_ratio, loss_type, level, beta):
    new = torch.tensor([[log_ratio, -1.0], [-1.0, -1.0]], requires_grad=True)
    old, ref = torch.tensor([[0.0, -1.0], [-1.0, -1.0]]), torch.tensor([[0.0, -1.0], [-1.0, -1.0]])
    data = new, old, ref, torch.tensor([advantage, 1.0]), torch.ones(2, 2)
    loss, grad, metrics = run(data, loss_type=loss_type, importance_level=level, beta=beta)
    assert loss.isfinite() and grad.isfinite().all()
    assert all(map(math.isfinite, metrics.values()))
    weight = 16 if loss_type == "dr_grpo" else 4
    assert grad[1].tolist() == [-1 / weight, -1 / weight]  # the healthy completion learns on


def test_a_nan_at_a_real_token_is_not_hidden():
    x, nan, one = torch.zeros(1, 2), torch.tensor([[0.0, math.nan]]), torch.ones(1)
    mask = torch.ones(1, 2)
    assert grpo_loss(nan, x, one, mask)[0].isnan()
    assert grpo_loss(x, nan, one, mask)[0].isnan()
    assert grpo_loss(x, x, one * math.nan, mask)[0].isnan()
    assert grpo_loss(x, x, one, mask, nan, 0.1)[0].isnan()


def test_only_the_current_policy_gets_a_gradient():
    new, old, ref = torch.randn(3, 2, 3).unbind()
    leaves = [x.clone().requires_grad_() for x in (new, old, torch.randn(2), ref)]
    loss, metrics = grpo_loss(*leaves[:3], torch.ones(2, 3), leaves[3], beta=0.1)
    loss.backward()
    assert [x.grad is not None for x in leaves] == [True, False, False, False]
    assert all(type(value) is float for value in metrics.values())


def test_half_precision_inputs_give_a_float32_loss():
    tensors = [torch.randn(2, 3).to(torch.bfloat16) for _ in range(3)]
    advantages = torch.randn(2).to(torch.bfloat16)
    loss, _ = grpo_loss(*tensors[:2], advantages, torch.ones(2, 3), tensors[2], 0.1)
    assert loss.dtype == torch.float32
    new, old, ref = (x.float() for x in tensors)
    assert loss == grpo_loss(new, old, advantages.float(), torch.ones(2, 3), ref, 0.1)[0]


# What the four averages are


def test_grpo_weighs_completions_bnpo_tokens_and_dr_grpo_by_a_constant():
    mask = torch.tensor([[1, 0, 0, 0], [1, 1, 1, 1]]).double()
    new = torch.zeros(2, 4, dtype=torch.float64, requires_grad=True)
    data = new, torch.zeros(2, 4), torch.zeros(2, 4), torch.ones(2), mask
    for loss_type, weights in {
        "grpo": [1 / 2, 1 / 8],
        "bnpo": [1 / 5, 1 / 5],
        "dapo": [1 / 5, 1 / 5],
        "dr_grpo": [1 / 16, 1 / 16],
    }.items():
        grad = run(data, loss_type=loss_type)[1]
        assert grad[:, 0].tolist() == pytest.approx([-w for w in weights])
        assert (grad[1] == grad[1, 0]).all()


@pytest.mark.parametrize("level", ["token", "sequence"])
def test_with_num_items_the_losses_of_parts_add_up_to_that_of_the_batch(level):
    data = batch(7, garbage=0.0)
    options = {"loss_type": "dapo", "importance_level": level, "beta": 0.1}
    whole = run(data, **options)[0]
    parts = [
        run([x[rows] for x in data], **options, num_items=MASK.sum().item())[0]
        for rows in (slice(0, 1), slice(1, 4))
    ]
    torch.testing.assert_close(sum(parts), whole)
    expected = slow_grpo_loss(data, "dapo", level, 0.1, num_items=40)
    check(run(data, **options, num_items=40), expected)


def test_num_items_counts_for_dapo_only():
    for loss_type in ["grpo", "bnpo", "dr_grpo"]:
        got = run(batch(), loss_type=loss_type, num_items=3)
        torch.testing.assert_close(got, run(batch(), loss_type=loss_type))


# Completions that are masked out, as DAPO does with truncated ones

OUT = MASK * torch.tensor([[1.0], [0.0], [0.0], [1.0]])


@pytest.mark.parametrize("garbage", GARBAGE)
@pytest.mark.parametrize(("loss_type", "level"), VARIANTS)
def test_a_completion_that_is_masked_out_adds_nothing(loss_type, level, garbage):
    data = batch(8, mask=OUT, garbage=garbage)
    options = {"loss_type": loss_type, "importance_level": level, "beta": 0.1}
    loss, grad, metrics = run(data, **options)
    kept = [data[0].detach()[[0, 3]].requires_grad_(), *(x[[0, 3]] for x in data[1:])]
    alone, alone_grad, alone_metrics = run(kept, **options)
    # Two of four completions are left: where the divisor has B in it, B stays 4.
    share = {"grpo": 0.5, "dr_grpo": 0.5}.get(loss_type, 1.0)
    torch.testing.assert_close(loss, share * alone)
    torch.testing.assert_close(grad[[0, 3]], share * alone_grad)
    assert not grad[[1, 2]].any() and grad[[0, 3]].any()
    alone_metrics["loss"] *= share
    assert metrics == pytest.approx(alone_metrics)
    if loss_type == "grpo" and level == "token":
        torch.testing.assert_close(run_plain(data, beta=0.1)[:2], (loss, grad), atol=0, rtol=0)


@pytest.mark.parametrize(("loss_type", "level"), VARIANTS)
def test_micro_batches_with_completions_masked_out_add_up(loss_type, level):
    # One of the two micro-batches keeps a single completion. bnpo divides by the tokens of its own
    # micro-batch: only there the parts have to be weighed.
    data = batch(9, mask=MASK * torch.tensor([[1.0], [0.0], [1.0], [1.0]]), garbage=0.0)
    tokens = [data[4][rows].sum().item() for rows in (slice(0, 2), slice(2, 4))]
    weights = [n / sum(tokens) for n in tokens] if loss_type == "bnpo" else [0.5, 0.5]
    options = {"loss_type": loss_type, "importance_level": level, "beta": 0.1}
    if loss_type == "dapo":
        weights, options["num_items"] = [1.0, 1.0], sum(tokens)
    parts = [run([x[rows] for x in data], **options)[0] for rows in (slice(0, 2), slice(2, 4))]
    total = sum(w * part for w, part in zip(weights, parts, strict=True))
    torch.testing.assert_close(total, run(data, **options)[0])


# What is refused


@pytest.mark.parametrize(("loss_type", "level"), VARIANTS)
def test_a_batch_without_tokens_is_an_error(loss_type, level):
    x, options = torch.zeros(2, 2), {"loss_type": loss_type, "importance_level": level}
    if loss_type == "dapo":
        options["num_items"] = 5  # a divisor that does not come from the mask
    with pytest.raises(ValueError, match="nothing to average: the mask is empty"):
        grpo_variant_loss(x, x, torch.zeros(2), x, max_completion_length=2, **options)
    with pytest.raises(ValueError, match="nothing to average: the mask is empty"):
        grpo_loss(x, x, torch.zeros(2), x)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("loss_fn", [grpo_loss, grpo_variant_loss])
@pytest.mark.parametrize("position", [0, 1, 3])
@pytest.mark.parametrize("shape", [(3,), (1, 3), (3, 1), (3, 2)])
def test_shapes_that_would_broadcast_are_refused(position, shape, loss_fn):
    new, old, advantages, ref = [torch.zeros(3, 3)] * 2 + [torch.zeros(3), torch.zeros(3, 3)]
    args = [new, old, advantages, ref]
    args[position] = torch.zeros(shape)
    with pytest.raises(ValueError, match=r"and mask \(3, 3\) differ in shape"):
        loss_fn(*args[:3], torch.ones(3, 3), args[3])


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("loss_fn", [grpo_loss, grpo_variant_loss])
@pytest.mark.parametrize("shape", [(), (1,), (3, 1), (3, 3), (2,)])
def test_advantages_are_one_a_completion(shape, loss_fn):
    x = torch.zeros(3, 3)
    with pytest.raises(ValueError, match=r"advantages \(.*\): need one a completion, \(3,\)"):
        loss_fn(x, x, torch.zeros(shape), torch.ones(3, 3))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss_type": "ppo"}, "loss_type must be one of grpo, bnpo, dapo, dr_grpo, not 'ppo'"),
        ({"importance_level": "row"}, "importance_level must be one of token, sequence, not 'row'"),
        ({"loss_type": "dr_grpo"}, "max_completion_length must be above 0, not None"),
        ({"loss_type": "dr_grpo", "max_completion_length": 0}, "must be above 0, not 0"),
        ({"clip_eps_high": -0.3}, "clip_eps_high must be 0 or more, not -0.3"),
        ({"loss_type": "dapo", "num_items": 0}, "num_items must be above 0, not 0"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message):
    x = torch.zeros(1, 2)
    with pytest.raises(ValueError, match=message):
        grpo_variant_loss(x, x, torch.zeros(1), torch.ones(1, 2), **options)


@pytest.mark.parametrize("loss_fn", [grpo_loss, grpo_variant_loss])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beta": 0.1}, "beta = 0.1 weighs the KL to the reference: it needs ref_logprobs"),
        ({"beta": -0.1, "ref_logprobs": torch.zeros(1, 2)}, "beta must be 0 or more, not -0.1"),
        ({"beta": math.nan, "ref_logprobs": torch.zeros(1, 2)}, "beta must be 0 or more, not nan"),
        ({"clip_eps": -0.2}, "clip_eps must be 0 or more, not -0.2"),
    ],
)
def test_a_beta_or_clip_that_makes_no_sense_is_refused(options, message, loss_fn):
    x = torch.zeros(1, 2)
    with pytest.raises(ValueError, match=message):
        loss_fn(x, x, torch.zeros(1), torch.ones(1, 2), **options)
