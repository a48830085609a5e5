"""Log-probs, entropy, masked reductions and the forward KL against TRL 1.12's own functions."""

from types import SimpleNamespace

import pytest
import torch
from trl import GRPOTrainer
from trl.experimental.gkd import GKDTrainer
from trl.experimental.ppo import ppo_trainer
from trl.trainer.utils import entropy_from_logits, selective_log_softmax

from relatives import dpo
from utils import chat
from utils import logprobs as lp

torch.set_num_threads(1)
CLOSE = {"atol": 1e-5, "rtol": 1e-5}


def rand(*shape, seed=0, spread=1.0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return spread * torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)


def ids_for(logits, seed=5):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(logits.shape[-1], logits.shape[:-1], generator=generator)


def assert_same(ours, theirs, leaf):
    """Values, and the gradients of a weighted sum of them."""
    torch.testing.assert_close(ours, theirs, **CLOSE)
    weights = torch.arange(1, ours.numel() + 1).view(ours.shape).cos()
    got, right = (
        torch.autograd.grad((x * weights).sum(), leaf, retain_graph=True)[0] for x in (ours, theirs)
    )
    torch.testing.assert_close(got, right, **CLOSE)
    assert right.abs().max() > 1e-4


@pytest.mark.truth("gather_logprobs", "trl", "gradient")
@pytest.mark.parametrize("spread", [1.0, 100.0])
@pytest.mark.parametrize("seed", range(3))
def test_gather_logprobs(seed, spread):
    logits = rand(3, 4, 9, seed=seed, spread=spread).requires_grad_()
    ids = ids_for(logits)
    assert_same(lp.gather_logprobs(logits, ids), selective_log_softmax(logits, ids), logits)


@pytest.mark.truth("token_logprobs", "trl", "gradient")
@pytest.mark.parametrize("seed", range(3))
def test_token_logprobs(seed):
    logits = rand(3, 5, 9, seed=seed).requires_grad_()
    ids = ids_for(logits)
    theirs = selective_log_softmax(logits[:, :-1], ids[:, 1:])  # as in TRL's DPOTrainer
    assert_same(lp.token_logprobs(logits, ids), theirs, logits)


@pytest.mark.truth("gather_logprobs", "trl")
def test_in_half_precision_trl_rounds_where_we_do_not():
    logits = rand(3, 4, 50, spread=8.0).bfloat16()
    ids = ids_for(logits)
    exact = lp.gather_logprobs(logits.double(), ids)
    ours, theirs = lp.gather_logprobs(logits, ids), selective_log_softmax(logits, ids)
    torch.testing.assert_close(ours.double(), exact, **CLOSE)
    torch.testing.assert_close(theirs.double(), exact, atol=0.1, rtol=0.02)
    assert theirs.dtype == torch.bfloat16 and (theirs.double() - exact).abs().max() > 1e-3


@pytest.mark.truth("entropy", "trl", "gradient")
@pytest.mark.parametrize("spread", [0.0, 1.0, 30.0])
def test_entropy(spread):
    logits = (rand(3, 4, 9, spread=spread) + rand(3, 4, 9, seed=1, spread=0.1)).requires_grad_()
    assert_same(lp.entropy(logits), entropy_from_logits(logits), logits)


MASK = torch.tensor([[1.0, 1, 1, 1], [1, 0, 0, 0], [0, 1, 1, 0], [0, 0, 0, 1]])


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        pytest.param(
            lp.masked_mean,
            ppo_trainer.masked_mean,
            marks=pytest.mark.truth("masked_mean", "trl", "gradient"),
        ),
        pytest.param(
            lambda x, mask: lp.masked_mean(x, mask, dim=1),
            lambda x, mask: ppo_trainer.masked_mean(x, mask, axis=1),
            marks=pytest.mark.truth("masked_mean", "trl", "gradient"),
        ),
        pytest.param(
            lp.masked_whiten,
            ppo_trainer.masked_whiten,
            marks=pytest.mark.truth("masked_whiten", "trl", "gradient"),
        ),
    ],
)
@pytest.mark.parametrize("seed", range(3))
def test_masked_reductions(seed, ours, theirs):
    x = rand(*MASK.shape, seed=seed).requires_grad_()
    # TRL's whitening leaves numbers in the padding.
    kept = MASK if ours(x, MASK).shape == MASK.shape else 1.0
    assert_same(ours(x, MASK) * kept, theirs(x, MASK) * kept, x)


@pytest.mark.truth("sequential_kl", "trl", "gradient")
@pytest.mark.parametrize("seed", range(3))
def test_the_forward_kl_is_that_of_trls_distillation(seed):
    # beta = 0: KL(teacher || student). Row by row, as TRL sums over the batch.
    ref, logits = rand(4, 4, 9, seed=seed), rand(4, 4, 9, seed=seed + 10).requires_grad_()
    labels = torch.where(MASK.bool(), 1, -100)
    theirs = torch.stack(
        [
            GKDTrainer.generalized_jsd_loss(
                logits[i : i + 1], ref[i : i + 1], labels[i : i + 1], beta=0, reduction="sum"
            )
            for i in range(len(MASK))
        ]
    )
    assert_same(dpo.sequential_kl(ref, logits, MASK), theirs, logits)


@pytest.mark.truth("completion_logprobs", "trl", "gradient")
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_completion_logprobs(random_model, temperature):
    # One token, the full width, and in between; prompts of different lengths; two to each.
    prompts = [[5, 6, 7, 8, 9], [11, 12], [13, 14, 15]]
    completions = [[3], [4, 5, 6, 7], [8, 9], [10, 11, 12], [13, 14, 15, 16], [18]]
    prompt_ids, prompt_mask = chat.pad_left(prompts, 0)
    completion_ids, mask = chat.pad_right(completions, 0)
    ours = lp.completion_logprobs(
        random_model, prompt_ids, prompt_mask, completion_ids, mask, temperature
    )
    trainer = SimpleNamespace(temperature=temperature, model_kwarg_keys={"logits_to_keep"})
    theirs, _, _ = GRPOTrainer._get_per_token_logps_and_entropies(
        trainer,
        random_model,
        torch.cat([prompt_ids.repeat_interleave(2, 0), completion_ids], 1),
        torch.cat([prompt_mask.repeat_interleave(2, 0), mask], 1).long(),
        completion_ids.shape[1],
    )
    theirs = torch.where(mask.bool(), theirs, 0.0)
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    parameters = list(random_model.parameters())
    weights = torch.arange(1, ours.numel() + 1).view(ours.shape).cos()
    got, right = (torch.autograd.grad((x * weights).sum(), parameters) for x in (ours, theirs))
    torch.testing.assert_close(got, right, atol=2e-4, rtol=1e-3)
