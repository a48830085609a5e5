"""DPO and its relatives against TRL 1.12, value and gradient, on the same tensors.

Where TRL has a function of log-probs (ORPO, CPO) it is called on them. DPO and KTO take a model:
here one that returns given logits, so the gradients compared are those of the logits, through
TRL's masking and summing on one side and ours on the other. TDPO and DPOP are not in TRL.
"""

from collections import defaultdict
from types import SimpleNamespace

import pytest
import torch
from trl import DPOTrainer, KTOTrainer
from trl.experimental.cpo import CPOTrainer
from trl.experimental.orpo import ORPOTrainer

from relatives.dpo import dpo_variant_loss, kto_loss, orpo_loss, simpo_loss
from utils.logprobs import align, masked_sum, token_logprobs
from utils.losses import dpo_loss

torch.set_num_threads(1)
CLOSE = {"atol": 1e-5, "rtol": 1e-5}
VOCABULARY, PROMPT = 11, 2
# Completion tokens of three chosen, then of their rejected sequences; padded on the right.
LENGTHS = torch.tensor([4, 1, 6, 2, 6, 3])
DESIRABLE = [True, False, False, True, True, False]


def make_batch(seed, spread=2.0):
    """Inputs in TRL's form, and the logits that the model is to return."""
    generator = torch.Generator().manual_seed(seed)
    shape = len(LENGTHS), PROMPT + int(LENGTHS.max())
    position = torch.arange(shape[1])
    attention = (position < PROMPT + LENGTHS[:, None]).long()
    logits = spread * torch.randn(*shape, VOCABULARY, generator=generator)
    inputs = {
        "input_ids": torch.randint(0, VOCABULARY, shape, generator=generator),
        "attention_mask": attention,
        "completion_mask": attention * (position >= PROMPT),
    }
    return inputs, logits.requires_grad_(), -10 * torch.rand(len(LENGTHS), generator=generator)


def sums(inputs, logits):
    """Our log-probs of the completions, (B,), and their lengths."""
    _, mask = align(logits, inputs["completion_mask"])
    return masked_sum(token_logprobs(logits, inputs["input_ids"]), mask, dim=1), mask.sum(1)


def trl_self(**settings):
    """What the trainers' methods read from `self`."""
    accelerator = SimpleNamespace(
        device=torch.device("cpu"), gather=lambda x: x, gather_for_metrics=lambda x: x
    )
    return SimpleNamespace(
        accelerator=accelerator,
        model=SimpleNamespace(training=True),
        precompute_ref_logps=True,
        aux_loss_enabled=False,
        _metrics=defaultdict(lambda: defaultdict(list)),
        _total_train_tokens=0,
        **settings,
    )


def returns(logits):
    return lambda **_: SimpleNamespace(logits=logits)


def trl_dpo(inputs, logits, ref, loss_type, beta, label_smoothing):
    trainer = trl_self(
        beta=beta,
        label_smoothing=label_smoothing,
        loss_types=[loss_type],
        loss_weights=[1.0],
        ld_alpha=None,
        f_divergence_type="reverse_kl",
        use_weighting=False,
    )
    inputs = {**inputs, "ref_chosen_logps": ref[:3], "ref_rejected_logps": ref[3:]}
    loss = DPOTrainer._compute_loss(trainer, returns(logits), inputs, return_outputs=False)
    return loss, {name: values[0] for name, values in trainer._metrics["train"].items()}


METRICS = {
    "accuracy": "rewards/accuracies",
    "margin": "rewards/margins",
    "chosen_reward": "rewards/chosen",
    "rejected_reward": "rewards/rejected",
}


def ours(inputs, logits, ref, loss_type, beta, label_smoothing=0.0):
    policy, lengths = sums(inputs, logits)
    return dpo_variant_loss(
        *policy.chunk(2),
        *ref.chunk(2),
        beta,
        loss_type,
        label_smoothing=label_smoothing,
        chosen_lengths=lengths[:3],
        rejected_lengths=lengths[3:],
    )


def assert_same(loss, expected, *leaves):
    torch.testing.assert_close(loss, expected, **CLOSE)
    got, right = torch.autograd.grad(loss, leaves), torch.autograd.grad(expected, leaves)
    torch.testing.assert_close(got, right, **CLOSE)
    assert all(x.abs().max() > 1e-4 for x in right)


@pytest.mark.truth("dpo_variant_loss", "trl", "gradient")
@pytest.mark.parametrize("beta", [0.1, 0.5])
@pytest.mark.parametrize(
    ("loss_type", "label_smoothing"),
    [("sigmoid", 0.0), ("robust", 0.0), ("robust", 0.2), ("ipo", 0.0), ("hinge", 0.0)],
)
@pytest.mark.parametrize("seed", range(3))
def test_dpo(seed, loss_type, label_smoothing, beta):
    batch = make_batch(seed)
    expected, trl_metrics = trl_dpo(*batch, loss_type, beta, label_smoothing)
    loss, metrics = ours(*batch, loss_type, beta, label_smoothing)
    assert_same(loss, expected, batch[1])
    for name, key in METRICS.items():
        assert metrics[name] == pytest.approx(trl_metrics[key], abs=1e-5), name


@pytest.mark.truth("dpo_loss", "trl", "gradient")
@pytest.mark.parametrize("beta", [0.1, 0.5])
@pytest.mark.parametrize("seed", range(3))
def test_plain_dpo(seed, beta):
    inputs, logits, ref = make_batch(seed)
    expected, trl_metrics = trl_dpo(inputs, logits, ref, "sigmoid", beta, 0.0)
    loss, metrics = dpo_loss(*sums(inputs, logits)[0].chunk(2), *ref.chunk(2), beta)
    assert_same(loss, expected, logits)
    for name, key in METRICS.items():
        assert metrics[name] == pytest.approx(trl_metrics[key], abs=1e-5), name


@pytest.mark.truth("dpo_variant_loss", "trl", "gradient")
@pytest.mark.parametrize("loss_type", ["sigmoid", "robust", "hinge"])
def test_dpo_with_large_margins(loss_type):
    batch = make_batch(0, spread=60.0)
    smoothing = 0.1 if loss_type == "robust" else 0.0
    expected, trl_metrics = trl_dpo(*batch, loss_type, 1.0, smoothing)
    assert abs(trl_metrics["rewards/margins"]) > 100
    assert_same(ours(*batch, loss_type, 1.0, smoothing)[0], expected, batch[1])


@pytest.mark.truth("dpo_variant_loss", "trl", "gradient")
def test_sigmoid_with_label_smoothing():
    # TRL's DPO reads label_smoothing with `robust`, `exo_pair` and `aot` only: its `sigmoid` has
    # none, but that of its CPO is conservative DPO where it gets the log-ratios.
    inputs, logits, ref = make_batch(1)
    smoothed, plain = (trl_dpo(inputs, logits, ref, "sigmoid", 0.3, e)[0] for e in (0.3, 0.0))
    assert smoothed == plain
    policy, _ = sums(inputs, logits)
    trainer = trl_self(alpha=0.0, beta=0.3, label_smoothing=0.3, loss_type="sigmoid")
    expected = CPOTrainer.cpo_loss(trainer, policy[:3] - ref[:3], policy[3:] - ref[3:])[0].mean()
    assert_same(ours(inputs, logits, ref, "sigmoid", 0.3, 0.3)[0], expected, logits)


@pytest.mark.truth("kto_loss", "trl", "gradient")
@pytest.mark.parametrize("kl", [2.5, -1.0, 0.0])
@pytest.mark.parametrize("weights", [(1.0, 1.0), (1.3, 0.7)])
@pytest.mark.parametrize("labels", [DESIRABLE, [True] * 6, [False] * 6])
def test_kto(labels, weights, kl):
    inputs, logits, ref = make_batch(2)
    labels = torch.tensor(labels)
    trainer = trl_self(
        beta=0.2,
        loss_type="kto",
        calculate_KL=True,
        desirable_weight=weights[0],
        undesirable_weight=weights[1],
        # Of the completions paired with other prompts; the mean log-ratio is the reference point.
        _compute_kl_logps=lambda model, batch: torch.tensor([kl + 1.0, kl - 3.0]),
    )
    ref_kl = torch.tensor([-1.0, -1.0])
    trl_inputs = {**inputs, "label": labels, "ref_logps": ref, "ref_KL_logps": ref_kl}
    expected = KTOTrainer._compute_loss(trainer, returns(logits), trl_inputs, return_outputs=False)
    policy, _ = sums(inputs, logits)
    loss, metrics = kto_loss(policy, ref, labels, kl, 0.2, *weights)
    assert_same(loss, expected, logits)
    trl_metrics = trainer._metrics["train"]
    assert metrics["kl"] == pytest.approx(trl_metrics["kl"][0], abs=1e-6)
    for name, key in (("desirable", "rewards/chosen"), ("undesirable", "rewards/rejected")):
        if trl_metrics[key]:
            assert metrics[f"{name}_reward"] == pytest.approx(trl_metrics[key][0], abs=1e-5)


def mean_logprobs(seed):
    generator = torch.Generator().manual_seed(seed)
    return (-4 * torch.rand(2, 5, generator=generator) - 1e-3).requires_grad_()


@pytest.mark.truth("orpo_loss", "trl", "gradient")
@pytest.mark.parametrize("beta", [0.1, 1.0])
@pytest.mark.parametrize("seed", range(3))
def test_orpo(seed, beta):
    means = mean_logprobs(seed)
    trainer = trl_self(beta=beta)
    log_sigmoid, _, _, _, log_odds = ORPOTrainer.odds_ratio_loss(trainer, *means)
    # TRL's supervised term is a mean over tokens, with the prompt: here that of the completions.
    expected = -means[0].mean() - log_sigmoid.mean()
    loss, metrics = orpo_loss(*means, beta)
    assert_same(loss, expected, means)
    assert metrics["log_odds_ratio"] == pytest.approx(log_odds.item(), abs=1e-5)


@pytest.mark.truth("orpo_loss", "trl", "gradient")
def test_orpo_is_trls_sum_of_both_terms():
    means = mean_logprobs(7)
    trainer = trl_self(beta=0.4)
    nll, unused = -means[0].mean(), torch.zeros(1)
    trainer.concatenated_forward = lambda model, batch: (*means, unused, unused, nll)
    trainer.odds_ratio_loss = lambda *args: ORPOTrainer.odds_ratio_loss(trainer, *args)
    expected, trl_metrics = ORPOTrainer.get_batch_loss_metrics(trainer, None, {})
    loss, metrics = orpo_loss(*means, 0.4)
    assert_same(loss, expected, means)
    assert metrics["nll"] == pytest.approx(trl_metrics["nll_loss"], abs=1e-5)
    for name, key in METRICS.items():
        assert metrics[name] == pytest.approx(trl_metrics[key], abs=1e-5), name


@pytest.mark.truth("simpo_loss", "trl", "gradient")
@pytest.mark.parametrize(("beta", "gamma"), [(2.0, 1.0), (0.1, 0.5), (2.5, 0.0)])
@pytest.mark.parametrize("seed", range(3))
def test_simpo(seed, beta, gamma):
    means = mean_logprobs(seed)
    trainer = trl_self(
        alpha=0.0, beta=beta, simpo_gamma=gamma, label_smoothing=0.0, loss_type="simpo"
    )
    expected, chosen, rejected = CPOTrainer.cpo_loss(trainer, *means)
    loss, metrics = simpo_loss(*means, beta, gamma)
    assert_same(loss, expected.mean(), means)
    assert metrics["margin"] == pytest.approx((chosen - rejected).mean().item(), abs=1e-5)
