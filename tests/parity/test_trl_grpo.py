"""grpo_loss and the advantages against TRL 1.12's GRPOTrainer and RLOOTrainer.

The trainers are real, with a random Qwen3. Rewards are handed in by the reward function; where
losses are compared, only the pass through the model is replaced, by given log-probs.
"""

from itertools import product

import pytest
import torch
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

from relatives.advantages import reinforce_pp_advantages, rloo_advantages
from relatives.grpo import grpo_variant_loss
from utils.advantages import group_advantages
from utils.kl import k2
from utils.logprobs import masked_mean
from utils.losses import grpo_loss

torch.set_num_threads(1)
CLOSE = {"atol": 1e-5, "rtol": 1e-5}
GROUP_SIZE, MAX_LENGTH = 4, 6
PROMPTS = ["one", "two"]
# A truncated completion of the full width, some of one token.
LENGTHS = [3, 1, 6, 5, 1, 2, 4, 6]
MASK = (torch.arange(MAX_LENGTH) < torch.tensor(LENGTHS)[:, None]).long()
REWARDS = {}  # what the reward function returns next


def given_rewards(completions, **_):
    return REWARDS["next"]


def make_trainer(kind, config, model, tokenizer, folder, **options):
    args = config(
        output_dir=str(folder),
        per_device_train_batch_size=len(LENGTHS),
        num_generations=GROUP_SIZE,
        max_completion_length=MAX_LENGTH,
        report_to="none",
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        **options,
    )
    data = Dataset.from_list([{"prompt": p} for p in PROMPTS])
    return kind(model, given_rewards, args, data, processing_class=tokenizer)


@pytest.fixture(scope="module")
def model(make_model, tokenizer):
    return make_model(len(tokenizer), hidden=16, layers=1)


@pytest.fixture(scope="module")
def grpo(model, tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("grpo")
    return make_trainer(
        GRPOTrainer, GRPOConfig, model, tokenizer, folder, use_bias_correction_kl=False
    )


@pytest.fixture(scope="module")
def rloo(model, tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("rloo")
    return make_trainer(RLOOTrainer, RLOOConfig, model, tokenizer, folder, beta=0.0)


# Advantages, from the trainers' own path: sample, score, normalise


def trl_output(trainer, rewards):
    REWARDS["next"] = rewards.tolist()
    trainer.model.train()
    # TRL's sampler repeats each prompt group_size times: prompt-major.
    inputs = [{"prompt": p} for p in PROMPTS for _ in range(GROUP_SIZE)]
    return trainer._generate_and_score_completions(inputs)


def rewards_of(kind):
    generator = torch.Generator().manual_seed(0)
    return {
        "rule": torch.tensor([1.0, 0, 0, 1, 0, 0, 0, 1]),
        "spread": 3 * torch.randn(8, generator=generator),
        "one group equal": torch.tensor([0.1] * 4 + [0.0, 1, 2, 0]),
        "all equal": torch.full((8,), 0.1),
    }[kind]


KINDS = ["rule", "spread", "one group equal", "all equal"]


@pytest.mark.truth("group_advantages", "trl")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_group_advantages(grpo, monkeypatch, kind, scale):
    monkeypatch.setattr(grpo, "scale_rewards", scale)
    output = trl_output(grpo, rewards_of(kind))
    ours = group_advantages(rewards_of(kind), GROUP_SIZE, scale)
    # Where rewards are equal TRL returns the rounding error of their mean over 1e-4: up to 1e-4.
    close = {"atol": 2e-4, "rtol": 1e-5} if "equal" in kind else CLOSE
    torch.testing.assert_close(ours, output["advantages"], **close)


@pytest.mark.truth("rloo_advantages", "trl")
@pytest.mark.parametrize("kind", KINDS)
def test_rloo_advantages(rloo, kind):
    output = trl_output(rloo, rewards_of(kind))
    torch.testing.assert_close(
        rloo_advantages(rewards_of(kind), GROUP_SIZE), output["advantages"], **CLOSE
    )


@pytest.mark.truth("reinforce_pp_advantages", "trl")
@pytest.mark.parametrize("kind", ["rule", "spread"])
def test_what_trl_whitens_over_the_batch_is_reinforce_pp(rloo, monkeypatch, kind):
    # TRL has no REINFORCE++; its option normalize_advantages whitens RLOO's advantages that way.
    monkeypatch.setattr(rloo, "normalize_advantages", True)
    output = trl_output(rloo, rewards_of(kind))
    leave_one_out = rloo_advantages(rewards_of(kind), GROUP_SIZE)
    torch.testing.assert_close(
        reinforce_pp_advantages(leave_one_out), output["advantages"], **CLOSE
    )


# The loss


@pytest.fixture
def trl_loss(grpo, monkeypatch):
    """trl_loss(batch, ...): TRL's loss and gradient, and the metrics that it logs."""

    def run(batch, loss_type, level, beta, low=0.2, high=0.2, num_items=None, accumulation=1):
        logprobs = batch["logprobs"].clone().requires_grad_()
        settings = {"loss_type": loss_type, "importance_sampling_level": level, "beta": beta}
        settings |= {"epsilon_low": low, "epsilon_high": high}
        settings["current_gradient_accumulation_steps"] = accumulation  # set by Trainer.train
        forward = (logprobs, torch.zeros_like(logprobs), None)  # log-probs, entropies, no MoE loss
        settings["_get_per_token_logps_and_entropies"] = lambda *_, **__: forward
        for name, value in settings.items():
            monkeypatch.setattr(grpo, name, value, raising=not name.startswith("current"))
        grpo.model.train()
        grpo._metrics["train"].clear()
        mask = batch["mask"]
        loss = grpo._compute_loss(
            grpo.model,
            {
                "prompt_ids": torch.ones(len(mask), 2).long(),
                "prompt_mask": torch.ones(len(mask), 2).long(),
                "completion_ids": torch.ones_like(mask),
                "completion_mask": mask,
                "advantages": batch["advantages"],
                "old_per_token_logps": batch["old_logprobs"],
                "ref_per_token_logps": batch["ref_logprobs"],
                "num_items_in_batch": mask.sum() if num_items is None else num_items,
            },
        )
        logged = {name: values[-1] for name, values in grpo._metrics["train"].items()}
        return loss.detach(), torch.autograd.grad(loss, logprobs)[0], logged

    return run


def make_batch(seed, rows=slice(None), mask=MASK):
    generator = torch.Generator().manual_seed(seed)
    steps, old, ref = torch.randn((3, *MASK.shape), generator=generator)
    old = old - 3
    batch = {
        "logprobs": old + 0.4 * steps,
        "old_logprobs": old,
        "ref_logprobs": old + 0.5 * ref,
        "advantages": torch.randn(len(MASK), generator=generator),
        "mask": mask,
    }
    return {name: x[rows] for name, x in batch.items()}


def our_loss(batch, loss_fn=grpo_variant_loss, **options):
    logprobs = batch["logprobs"].clone().requires_grad_()
    loss, metrics = loss_fn(**{**batch, "logprobs": logprobs}, **options)
    return loss.detach(), torch.autograd.grad(loss, logprobs)[0], metrics


@pytest.mark.truth("grpo_loss", "trl", "gradient")
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("clip_eps", [0.05, 0.2])
@pytest.mark.parametrize("beta", [0.0, 0.1])
def test_the_plain_loss(trl_loss, beta, clip_eps, seed):
    batch = make_batch(seed)
    loss, grad, logged = trl_loss(batch, "grpo", "token", beta, clip_eps, clip_eps)
    our, our_grad, metrics = our_loss(batch, grpo_loss, beta=beta, clip_eps=clip_eps)
    torch.testing.assert_close(our, loss, **CLOSE)
    torch.testing.assert_close(our_grad, grad, **CLOSE)
    assert metrics["clip_fraction"] == pytest.approx(logged["clip_ratio/region_mean"], abs=1e-6)


@pytest.mark.truth("grpo_variant_loss", "trl", "gradient")
@pytest.mark.parametrize("beta", [0.0, 0.1])
@pytest.mark.parametrize("level", ["token", "sequence"])
@pytest.mark.parametrize("loss_type", ["grpo", "bnpo", "dapo", "dr_grpo"])
def test_completions_masked_out_count_as_in_trl(trl_loss, loss_type, level, beta):
    # mask_truncated_completions sets the mask of what was cut off to 0.
    batch = make_batch(6, mask=MASK * (torch.tensor(LENGTHS) < MAX_LENGTH).long()[:, None])
    assert not batch["mask"].any(1).all()
    loss, grad, _ = trl_loss(batch, loss_type, level, beta)
    options = {"beta": beta, "loss_type": loss_type, "importance_level": level}
    our, our_grad, _ = our_loss(batch, **options, max_completion_length=MAX_LENGTH)
    torch.testing.assert_close(our, loss, **CLOSE)
    torch.testing.assert_close(our_grad, grad, **CLOSE)
    if (loss_type, level) == ("grpo", "token"):
        plain, plain_grad, _ = our_loss(batch, grpo_loss, beta=beta)
        torch.testing.assert_close((plain, plain_grad), (our, our_grad), atol=0, rtol=0)


@pytest.mark.truth("grpo_variant_loss", "trl", "gradient")
@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(("low", "high"), [(0.2, None), (0.2, 0.28), (0.05, 0.5)])
@pytest.mark.parametrize("beta", [0.0, 0.1])
@pytest.mark.parametrize(
    ("loss_type", "level"),
    list(product(["grpo", "bnpo", "dapo", "dr_grpo"], ["token", "sequence"])),
)
def test_loss_gradient_and_metrics(trl_loss, loss_type, level, beta, low, high, seed):
    batch = make_batch(seed)
    loss, grad, logged = trl_loss(batch, loss_type, level, beta, low, low if high is None else high)
    # At the sequence level without a KL, TRL's loss per token is (B, 1) and broadcasts.
    our, our_grad, metrics = our_loss(
        batch,
        beta=beta,
        clip_eps=low,
        clip_eps_high=high,
        loss_type=loss_type,
        importance_level=level,
        max_completion_length=MAX_LENGTH,
    )
    torch.testing.assert_close(our, loss, **CLOSE)
    torch.testing.assert_close(our_grad, grad, **CLOSE)
    assert (grad != 0).any() and (our_grad[MASK == 0] == 0).all()
    if beta:
        assert metrics["kl"] == pytest.approx(logged["kl"], abs=1e-5)
    if level == "token":
        assert metrics["clip_fraction"] == pytest.approx(logged["clip_ratio/region_mean"], abs=1e-6)
        assert metrics["clip_fraction"] > 0


def test_the_clip_fraction_counts_tokens_where_trl_counts_sequences(trl_loss):
    batch = make_batch(0)
    _, _, logged = trl_loss(batch, "grpo", "sequence", 0.0, 0.05, 0.05)
    metrics = our_loss(batch, importance_level="sequence", clip_eps=0.05)[2]
    mean = ((batch["logprobs"] - batch["old_logprobs"]) * MASK).sum(1) / MASK.sum(1)
    above = (mean.exp() > 1.05) & (batch["advantages"] > 0)
    clipped = above | (mean.exp() < 0.95) & (batch["advantages"] < 0)
    assert logged["clip_ratio/region_mean"] == pytest.approx(clipped.float().mean().item())
    tokens = (clipped * MASK.sum(1)).sum() / MASK.sum()
    assert metrics["clip_fraction"] == pytest.approx(tokens.item())


@pytest.mark.truth("grpo_variant_loss", "trl", "gradient")
@pytest.mark.parametrize("level", ["token", "sequence"])
def test_old_logprobs_that_trl_leaves_out_are_the_current_ones(trl_loss, level):
    batch = make_batch(3)
    loss, grad, _ = trl_loss({**batch, "old_logprobs": None}, "grpo", level, 0.1)
    on_policy = {**batch, "old_logprobs": batch["logprobs"]}
    our, our_grad, _ = our_loss(on_policy, beta=0.1, importance_level=level)
    torch.testing.assert_close(our, loss, **CLOSE)
    torch.testing.assert_close(our_grad, grad, **CLOSE)


@pytest.mark.parametrize("level", ["token", "sequence"])
def test_by_default_trl_weighs_the_kl_with_the_ratio(trl_loss, grpo, monkeypatch, level):
    assert GRPOConfig.use_bias_correction_kl is True
    monkeypatch.setattr(grpo.args, "use_bias_correction_kl", True)
    batch = make_batch(5)
    on_policy = {**batch, "old_logprobs": batch["logprobs"]}
    loss, grad, _ = trl_loss(on_policy, "bnpo", level, 0.1)
    our, our_grad, _ = our_loss(on_policy, loss_type="bnpo", importance_level=level, beta=0.1)
    torch.testing.assert_close(our, loss, **CLOSE)  # the ratio is 1: the same value
    assert (our_grad - grad).abs().max() > 1e-4


@pytest.mark.truth("k2", "trl", "gradient")
@pytest.mark.parametrize("seed", range(3))
def test_which_gives_it_the_gradient_of_k2(trl_loss, grpo, monkeypatch, seed):
    monkeypatch.setattr(grpo.args, "use_bias_correction_kl", True)
    batch = make_batch(seed)
    on_policy = {**batch, "old_logprobs": batch["logprobs"]}
    _, grad, _ = trl_loss(on_policy, "bnpo", "token", 0.1)
    logprobs = batch["logprobs"].clone().requires_grad_()
    penalty = 0.1 * masked_mean(k2(logprobs, batch["ref_logprobs"]), MASK)
    without = our_loss(on_policy, loss_type="bnpo")[1]
    expected = without + torch.autograd.grad(penalty, logprobs)[0]
    torch.testing.assert_close(expected, grad, **CLOSE)


@pytest.mark.truth("grpo_variant_loss", "trl", "gradient")
@pytest.mark.parametrize("accumulation, per_generation", [(2, 2), (1, 2), (2, 4)])
def test_dapo_divides_by_the_tokens_of_a_whole_step(
    trl_loss, grpo, monkeypatch, accumulation, per_generation
):
    monkeypatch.setattr(grpo.args, "steps_per_generation", per_generation)
    generated = 120  # tokens of the generation batch, split into per_generation micro-batches
    num_items = generated * accumulation / per_generation
    for rows in (slice(0, 3), slice(3, 8)):
        batch = make_batch(4, rows)
        loss, grad, _ = trl_loss(
            batch,
            "dapo",
            "token",
            beta=0.1,
            num_items=torch.tensor(generated),
            accumulation=accumulation,
        )
        our, our_grad, _ = our_loss(batch, beta=0.1, loss_type="dapo", num_items=num_items)
        torch.testing.assert_close(our, loss, **CLOSE)
        torch.testing.assert_close(our_grad, grad, **CLOSE)
