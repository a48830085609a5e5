"""Our PPO against TRL 1.12's, on the same tensors.

TRL's arithmetic is inline in `trl.experimental.ppo.PPOTrainer.train` and cannot be called, so the
tests cut the blocks out of its installed source and run them. Where another version has no such
lines, the tests fail.
"""

import inspect
import textwrap
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from trl.experimental.ppo import ppo_trainer as trl_ppo

from utils import losses
from utils.advantages import gae, kl_shaped_rewards
from utils.kl import k1, k3
from utils.logprobs import masked_mean, masked_whiten

torch.set_num_threads(1)
PAD, EOS, WIDTH = 0, 1, 6
# Stop in the middle, after one token, never (truncated), on the last position, just before it.
LENGTHS, STOPS = [3, 1, 6, 6, 5], [True, True, False, True, True]
CLOSE = {"atol": 1e-5, "rtol": 1e-5}
SOURCE = inspect.getsource(trl_ppo.PPOTrainer.train)


def run_block(start, end, **inputs):
    """Run TRL's own lines, from the one that begins with `start` up to `end`; its variables."""
    begin = SOURCE.index(start)
    begin = SOURCE.rindex("\n", 0, begin) + 1
    block = textwrap.dedent(SOURCE[begin : SOURCE.rindex("\n", begin, SOURCE.index(end, begin))])
    variables = {**vars(trl_ppo), **inputs}
    exec(compile(block, trl_ppo.__file__, "exec"), variables)
    return SimpleNamespace(**variables)


def settings(**changes):
    values = dict(kl_coef=0.05, kl_estimator="k1", whiten_rewards=False, gamma=1.0, lam=0.95)
    return SimpleNamespace(**{**values, "cliprange": 0.2, "cliprange_value": 0.2, **changes})


def rand(seed, spread=1.0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return spread * torch.randn(len(LENGTHS), WIDTH, generator=generator, dtype=dtype)


def rollout(seed=0):
    """What TRL holds after sampling: junk behind EOS, in the log-probs as in the values."""
    generator = torch.Generator().manual_seed(seed)
    responses = torch.randint(2, 30, (len(LENGTHS), WIDTH), generator=generator)
    for row, (length, stops) in enumerate(zip(LENGTHS, STOPS, strict=True)):
        if stops:
            responses[row, length - 1] = EOS
    truncated = trl_ppo.truncate_response(EOS, PAD, responses)
    return {
        "responses": responses,
        "sequence_lengths": trl_ppo.first_true_indices(truncated == PAD) - 1,
        "logprobs": rand(seed + 1) - 3,
        "ref_logprobs": rand(seed + 2) - 3,
        "values": rand(seed + 3),
        "scores": rand(seed + 4)[:, 0],
    }


def trl_advantages(batch, args):
    return run_block(
        "response_idxs = torch.arange(", "# Do multiple epochs of PPO", args=args, **batch
    )


MASK = (torch.arange(WIDTH) < torch.tensor(LENGTHS)[:, None]).float()


def test_the_padding_mask_is_our_mask():
    trl = trl_advantages(rollout(), settings())
    assert (~trl.padding_mask).float().equal(MASK)
    # TRL's second mask keeps one position more, where there is one: the first padding token.
    assert (~trl.padding_mask_p1).sum(1).tolist() == [4, 2, 6, 6, 6]
    assert (trl.logprobs[MASK == 0] == trl_ppo.INVALID_LOGPROB).all()


@pytest.mark.truth("kl_shaped_rewards", "trl")
@pytest.mark.truth("gae", "trl")
@pytest.mark.truth("masked_whiten", "trl")
@pytest.mark.parametrize("gamma, lam", [(1.0, 0.95), (0.9, 0.8), (1.0, 1.0), (1.0, 0.0)])
@pytest.mark.parametrize("seed", range(3))
def test_rewards_advantages_and_returns(seed, gamma, lam):
    batch = rollout(10 * seed)
    trl = trl_advantages(batch, settings(gamma=gamma, lam=lam))
    mask = (~trl.padding_mask_p1).float()
    # With TRL's longer mask, every number is TRL's. INVALID_LOGPROB, the same in both, is r = 0.
    rewards = kl_shaped_rewards(batch["scores"], trl.logprobs, trl.ref_logprobs, mask, 0.05)
    torch.testing.assert_close(rewards, trl.rewards, **CLOSE)
    advantages, returns = gae(rewards, batch["values"], mask, gamma, lam)
    torch.testing.assert_close(advantages, torch.stack(trl.advantages_reversed[::-1], 1), **CLOSE)
    torch.testing.assert_close(returns, trl.returns, **CLOSE)
    whitened = masked_whiten(torch.where(MASK.bool(), advantages, 0.0), MASK)
    torch.testing.assert_close(whitened, trl.advantages, **CLOSE)


@pytest.mark.parametrize("lam", [0.95, 1.0, 0.0])
def test_what_differs_is_one_position_behind_a_stopped_answer(lam):
    # With our mask: rows that fill the width are TRL's. On the others TRL puts the score one
    # position later and bootstraps the last token from the value there.
    batch = rollout()
    trl = trl_advantages(batch, settings(lam=lam))
    rewards = kl_shaped_rewards(
        batch["scores"], batch["logprobs"], batch["ref_logprobs"], MASK, kl_coef=0.05
    )
    advantages, returns = gae(rewards, batch["values"], MASK, 1.0, lam)
    trl_raw = torch.stack(trl.advantages_reversed[::-1], 1)
    full = torch.tensor(LENGTHS) == WIDTH
    torch.testing.assert_close(rewards[full], trl.rewards[full], **CLOSE)
    torch.testing.assert_close(advantages[full], trl_raw[full], **CLOSE)
    torch.testing.assert_close(returns[full], trl.returns[full], **CLOSE)
    for row, length in enumerate(LENGTHS):
        if length < WIDTH:
            assert rewards[row, length] == 0
            assert trl.rewards[row, length] == batch["scores"][row]
    torch.testing.assert_close(rewards.sum(1), trl.rewards.sum(1), **CLOSE)
    if lam == 1.0:  # the value behind the end cancels in the sum, so the advantages agree
        torch.testing.assert_close(advantages, torch.where(MASK.bool(), trl_raw, 0.0), **CLOSE)
    else:
        short = ~full
        assert (advantages - trl_raw * MASK)[short].abs().max() > 0.01


@pytest.mark.truth("masked_whiten", "trl")
def test_whitened_rewards():
    trl = trl_advantages(rollout(), settings(whiten_rewards=True))
    plain = trl_advantages(rollout(), settings())
    mask = (~trl.padding_mask_p1).float()
    mean = masked_mean(plain.rewards, mask)  # TRL keeps it
    got = torch.where(mask.bool(), masked_whiten(plain.rewards, mask) + mean, 0.0)
    torch.testing.assert_close(got, trl.rewards, **CLOSE)


@pytest.mark.parametrize(
    ("name", "estimate"),
    [
        pytest.param("k1", k1, marks=pytest.mark.truth("k1", "trl")),
        pytest.param("k3", k3, marks=pytest.mark.truth("k3", "trl")),
    ],
)
@pytest.mark.parametrize("seed", range(3))
def test_the_estimate_in_the_reward(seed, name, estimate):
    trl = trl_advantages(rollout(seed), settings(kl_estimator=name))
    torch.testing.assert_close(estimate(trl.logprobs, trl.ref_logprobs), trl.kl, **CLOSE)


# The two losses


def trl_losses(batch, old, new_logprobs, vpred, rows, args):
    """TRL's block for one micro-batch, `rows` of the rollout, up to the backward pass."""
    inds = np.array(rows)
    one_more = torch.zeros(len(rows), 1)
    return run_block(
        "new_logprobs = torch.masked_fill(",
        "accelerator.backward(loss)",
        args=SimpleNamespace(**vars(args), vf_coef=0.1),
        new_logprobs=new_logprobs[inds],
        padding_mask=old.padding_mask,
        padding_mask_p1=old.padding_mask_p1,
        micro_batch_inds=inds,
        context_length=1,
        # (B, context + T, 1), of which TRL takes [:, context - 1 : -1].
        vpred_temp=torch.cat([vpred[inds], one_more], 1).unsqueeze(-1),
        mb_values=old.values[inds],
        mb_return=old.returns[inds],
        mb_advantage=old.advantages[inds],
        mb_logprobs=old.logprobs[inds],
    )


@pytest.mark.truth("clipped_policy_loss", "trl", "gradient")
@pytest.mark.parametrize("clip", [0.05, 0.2, 0.5])
@pytest.mark.parametrize("rows", [[0, 1, 2, 3, 4], [2, 3], [1], [4, 1]])
@pytest.mark.parametrize("seed", range(3))
def test_policy_loss(seed, rows, clip):
    batch, args = rollout(10 * seed), settings(cliprange=clip)
    old = trl_advantages(batch, args)
    new = (batch["logprobs"] + rand(seed + 50, 0.4)).requires_grad_()
    trl = trl_losses(batch, old, new, rand(seed + 60), rows, args)
    expected = torch.autograd.grad(trl.pg_loss, new)[0]
    # Our log-probs hold junk in the padding where TRL has INVALID_LOGPROB.
    loss, metrics = losses.clipped_policy_loss(
        new[rows], batch["logprobs"][rows], old.advantages[rows], MASK[rows], clip
    )
    torch.testing.assert_close(loss, trl.pg_loss, **CLOSE)
    torch.testing.assert_close(torch.autograd.grad(loss, new)[0], expected, **CLOSE)
    clipfrac = masked_mean((trl.pg_losses2 > trl.pg_losses).float(), MASK[rows])
    assert metrics["clip_fraction"] == pytest.approx(clipfrac.item())
    # TRL's approxkl and ratio average the padding in; these are its tensors, over the tokens.
    kl_old_new = masked_mean(trl.ratio - 1 - trl.logprobs_diff, MASK[rows])
    assert metrics["approx_kl"] == pytest.approx(kl_old_new.item(), abs=1e-5)
    assert metrics["ratio_mean"] == pytest.approx(masked_mean(trl.ratio, MASK[rows]).item())


@pytest.mark.truth("clipped_value_loss", "trl", "gradient")
@pytest.mark.parametrize("clip", [0.05, 0.2, 1.0])
@pytest.mark.parametrize("rows", [[0, 1, 2, 3, 4], [2, 3], [1], [4, 1]])
@pytest.mark.parametrize("seed", range(3))
def test_value_loss(seed, rows, clip):
    batch, args = rollout(10 * seed), settings(cliprange_value=clip)
    old = trl_advantages(batch, args)
    new = (batch["values"] + rand(seed + 70, 0.5)).requires_grad_()
    trl = trl_losses(batch, old, batch["logprobs"], new, rows, args)
    expected = torch.autograd.grad(trl.vf_loss, new)[0]
    mask = (~old.padding_mask_p1).float()[rows]
    loss, metrics = losses.clipped_value_loss(
        new[rows], batch["values"][rows], old.returns[rows], mask, clip
    )
    torch.testing.assert_close(loss, trl.vf_loss, **CLOSE)
    torch.testing.assert_close(torch.autograd.grad(loss, new)[0], expected, **CLOSE)
    assert metrics["clip_fraction"] == pytest.approx(trl.vf_clipfrac.item())
