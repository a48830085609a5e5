"""Every loss on ragged batches: three dtypes, padding on both sides, extreme log-ratios.

Each loss is called through one function of token tensors (B, T), so that all of them meet the same
batches: completions of one token and of the full width, advantages of 0, log-ratios that overflow.
"""

import math

import pytest
import torch
import torch.nn.functional as F

from relatives import dpo as dpo_family
from relatives import grpo as grpo_family
from relatives.advantages import rloo_advantages
from utils import losses
from utils.advantages import gae, group_advantages, kl_shaped_rewards
from utils.logprobs import masked_mean, masked_sum

torch.set_num_threads(1)
# Three completions and their three counterparts: one token, the full width, in between.
LENGTHS = torch.tensor([1, 5, 3, 5, 2, 1])
MASK = (torch.arange(5) < LENGTHS[:, None]).double()


def make(seed=0, spread=0.4, dtype=torch.float64):
    """Log-probs of the policy, the old policy and the reference, and advantages."""
    generator = torch.Generator().manual_seed(seed)
    draws = torch.randn(3, *MASK.shape, dtype=torch.float64, generator=generator)
    old = -draws[0].abs() - 0.1
    new = (old + spread * draws[1]).clamp(max=-1e-3)
    ref = (old + spread * draws[2]).clamp(max=-1e-3)
    advantages = torch.randn(len(MASK), dtype=torch.float64, generator=generator)
    advantages[0] = 0.0  # a group without spread
    # Numbers that bfloat16 holds exactly, so that every dtype gets the same ones.
    return [x.bfloat16().to(dtype) for x in (new, old, ref, advantages)]


def tokens(loss_fn, **options):
    def call(new, old, ref, advantages, mask):
        return loss_fn(new, old, advantages[:, None].expand_as(new), mask, **options)

    return call


def grpo(**options):
    def call(new, old, ref, advantages, mask):
        if not options:
            return losses.grpo_loss(new, old, advantages, mask, ref, 0.1)
        options["max_completion_length"] = 9
        return grpo_family.grpo_variant_loss(new, old, advantages, mask, ref, 0.1, **options)

    return call


def pairs(loss_fn, reduce=masked_sum, with_ref=True, **options):
    """The first half is chosen, the second rejected."""

    def call(new, old, ref, advantages, mask):
        policy = reduce(new, mask, dim=1).chunk(2)
        constants = reduce(ref, mask, dim=1).chunk(2) if with_ref else ()
        lengths = {}
        if options.get("loss_type") == "ipo":
            chosen, rejected = mask.sum(1).chunk(2)
            lengths = {"chosen_lengths": chosen, "rejected_lengths": rejected}
        return loss_fn(*policy, *constants, **options, **lengths)

    return call


def tdpo(new, old, ref, advantages, mask):
    r = torch.where(mask.bool(), new - ref, 0.0)
    kls = masked_sum(r.square() / 2, mask, dim=1).chunk(2)
    policy, constants = (masked_sum(x, mask, dim=1).chunk(2) for x in (new, ref))
    return dpo_family.tdpo_loss(*policy, *constants, *kls)


def kto(new, old, ref, advantages, mask):
    policy, constant = (masked_sum(x, mask, dim=1) for x in (new, ref))
    return dpo_family.kto_loss(policy, constant, torch.arange(len(mask)) % 2 == 0, kl=0.5)


def bradley_terry(new, old, ref, advantages, mask):
    return losses.bradley_terry_loss(*masked_sum(new, mask, dim=1).chunk(2), center_coef=0.01)


def sft(new, old, ref, advantages, mask):
    """Two-token logits with a bit of everything; one position in front that predicts the first."""
    logits = F.pad(torch.stack([new, old], -1), (0, 0, 0, 1))
    labels = F.pad(torch.where(mask.bool(), 0, -100), (1, 0), value=-100)
    return losses.sft_loss(logits, labels)


LOSSES = {
    "sft_loss": sft,
    "bradley_terry_loss": bradley_terry,
    "clipped_policy_loss": tokens(losses.clipped_policy_loss),
    "clipped_value_loss": tokens(losses.clipped_value_loss),
    "dpo_loss": pairs(losses.dpo_loss),
    "dpo_variant_loss robust": pairs(
        dpo_family.dpo_variant_loss, loss_type="robust", label_smoothing=0.1
    ),
    "dpo_variant_loss ipo": pairs(dpo_family.dpo_variant_loss, loss_type="ipo"),
    "dpo_variant_loss hinge": pairs(dpo_family.dpo_variant_loss, loss_type="hinge"),
    "dpo_variant_loss dpop": pairs(dpo_family.dpo_variant_loss, loss_type="dpop"),
    "orpo_loss": pairs(dpo_family.orpo_loss, masked_mean, with_ref=False),
    "simpo_loss": pairs(dpo_family.simpo_loss, masked_mean, with_ref=False),
    "kto_loss": kto,
    "tdpo_loss": tdpo,
    "grpo_loss": grpo(),
    "grpo_variant_loss bnpo": grpo(loss_type="bnpo"),
    "grpo_variant_loss dr_grpo": grpo(loss_type="dr_grpo"),
    "grpo_variant_loss sequence": grpo(importance_level="sequence"),
}


def test_no_loss_is_left_out():
    relatives = {*vars(dpo_family), *vars(grpo_family)}
    known = {*losses.__all__, *(name for name in relatives if name.endswith("_loss"))}
    assert {name.split()[0] for name in LOSSES} == known


def run(name, new, *rest):
    new = new.clone().requires_grad_()
    loss, metrics = LOSSES[name](new, *rest)
    grad = torch.autograd.grad(loss, new)[0]
    assert loss.isfinite() and grad.isfinite().all()
    metrics.pop("perplexity", None)  # infinite for a hopeless model, as documented
    assert all(math.isfinite(value) for value in metrics.values())
    return loss.detach(), grad


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", LOSSES)
def test_float64_float32_and_bfloat16_agree(name, dtype):
    exact, exact_grad = run(name, *make(), MASK)
    loss, grad = run(name, *make(dtype=dtype), MASK.to(dtype))
    assert exact.dtype == torch.float64 and loss.dtype == torch.float32
    # Sums of log-probs over tokens are the caller's: in bfloat16 those round.
    own = name.split()[0] in {"sft_loss", "clipped_policy_loss", "clipped_value_loss"}
    own = own or name.startswith("grpo")
    close = 1e-5 if dtype == torch.float32 or own else 0.1
    torch.testing.assert_close(loss.double(), exact, atol=close, rtol=close)
    close = 1e-5 if dtype == torch.float32 else 0.05
    torch.testing.assert_close(grad.double(), exact_grad, atol=close, rtol=close)
    assert grad.dtype == dtype


@pytest.mark.parametrize("left", [0, 1, 3])
@pytest.mark.parametrize("right", [0, 2])
@pytest.mark.parametrize("garbage", [0.0, math.nan, -math.inf, 1e30])
@pytest.mark.parametrize("name", LOSSES)
def test_padding_on_either_side_changes_nothing(name, garbage, left, right):
    new, old, ref, advantages = make(1)
    exact, exact_grad = run(name, new, old, ref, advantages, MASK)

    def wide(x):
        return F.pad(x.masked_fill(MASK == 0, garbage), (left, right), value=garbage)

    mask = F.pad(MASK, (left, right))
    loss, grad = run(name, wide(new), wide(old), wide(ref), advantages, mask)
    torch.testing.assert_close(loss, exact)
    torch.testing.assert_close(grad[:, left : left + 5], exact_grad)
    assert (grad[mask == 0] == 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("far", [90.0, 1e4, 1e15])
@pytest.mark.parametrize("name", LOSSES)
def test_extreme_log_ratios_are_finite(name, far, dtype):
    new, old, ref, advantages = make(2, dtype=dtype)
    for sign in (1, -1):
        for row in range(len(MASK)):
            moved = new.clone()
            moved[row, 0] += sign * far
            if name in ("orpo_loss", "simpo_loss", "sft_loss"):
                moved = moved.clamp(max=0)  # these take log-probs as they are
            run(name, moved, old, ref, advantages, MASK.to(dtype))


@pytest.mark.parametrize("name", LOSSES)
def test_a_policy_that_has_not_moved_is_no_special_case(name):
    new, _, _, advantages = make(3)
    run(name, new, new, new, torch.zeros_like(advantages), MASK)


# Advantages: the same batches


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("left", [0, 2])
def test_advantages_of_tokens_with_padding_on_the_left(left, dtype):
    new, _, ref, scores = (x.to(dtype) for x in make(4))
    mask = MASK.to(dtype)
    rewards = kl_shaped_rewards(scores, new, ref, mask, 0.1)
    exact = gae(rewards, new, mask)
    shifted = [F.pad(x, (left, 1), value=math.nan) for x in (new, ref)]
    wide = F.pad(mask, (left, 1))
    got_rewards = kl_shaped_rewards(scores, *shifted, wide, 0.1)
    torch.testing.assert_close(got_rewards[:, left:-1], rewards)
    for a, b in zip(gae(got_rewards, shifted[0], wide), exact, strict=True):
        torch.testing.assert_close(a[:, left:-1], b)
        assert a.dtype == dtype


@pytest.mark.parametrize("size", [2, 3, 6])
@pytest.mark.parametrize("scale", ["group", "batch", "none"])
@pytest.mark.parametrize("unit", [1e-30, 1.0, 1e15])
def test_advantages_of_groups_at_any_size_of_reward(unit, scale, size):
    rewards = unit * torch.tensor([0.0, 1, 1, 1, 0, 1])
    for got in (group_advantages(rewards, size, scale), rloo_advantages(rewards, size)):
        assert got.isfinite().all()
        assert got.view(-1, size).sum(1).abs().max() <= 1e-5 * max(unit, 1.0)
    equal = group_advantages(torch.full((6,), unit), size, scale)
    assert equal.tolist() == [0.0] * 6
