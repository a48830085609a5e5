"""bradley_terry_loss against TRL 1.12's RewardTrainer on a random Qwen3 with a scalar head."""

import copy

import pytest
import torch
from datasets import Dataset
from transformers import Qwen3Config, Qwen3ForSequenceClassification
from trl import RewardConfig, RewardTrainer
from trl.trainer.reward_trainer import DataCollatorForPreference

from utils.losses import bradley_terry_loss

torch.set_num_threads(1)
# Ragged on both sides, one completion of a single token.
PAIRS = [
    {"chosen_ids": [5, 6, 7, 8, 2], "rejected_ids": [5, 6, 9]},
    {"chosen_ids": [4, 2], "rejected_ids": [4, 11, 12, 13, 14, 15, 2]},
    {"chosen_ids": [9], "rejected_ids": [10]},
    {"chosen_ids": [3, 3, 2], "rejected_ids": [3, 8, 2]},
]


@pytest.fixture(scope="module")
def trainer(tokenizer, tmp_path_factory):
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        initializer_range=0.5,
        pad_token_id=tokenizer.pad_token_id,
        num_labels=1,
    )
    args = RewardConfig(
        output_dir=str(tmp_path_factory.mktemp("reward")),
        report_to="none",
        use_cpu=True,
        bf16=False,
    )
    return RewardTrainer(
        Qwen3ForSequenceClassification(config),
        args,
        processing_class=tokenizer,
        train_dataset=Dataset.from_list([{"chosen": "one two", "rejected": "three"}]),
    )


@pytest.mark.truth("bradley_terry_loss", "trl", "gradient")
@pytest.mark.parametrize("center_coef", [0.0, 0.01, 1.0])
@pytest.mark.parametrize("with_margin", [False, True])
def test_loss_gradients_and_metrics(trainer, tokenizer, center_coef, with_margin):
    margins = [0.0, 0.5, -1.0, 3.0]
    pairs = [{**p, "margin": m} if with_margin else p for p, m in zip(PAIRS, margins, strict=True)]
    batch = DataCollatorForPreference(tokenizer.pad_token_id)(pairs)
    model = trainer.model.train()
    trainer.args.center_rewards_coefficient = center_coef or None
    trainer._metrics["train"].clear()
    model.zero_grad()
    expected, outputs = trainer.compute_loss(model, copy.copy(batch), return_outputs=True)
    expected.backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters()}

    model.zero_grad()
    scores = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    chosen, rejected = scores.squeeze(-1).chunk(2)
    loss, metrics = bradley_terry_loss(chosen, rejected, batch.get("margin"), center_coef)
    loss.backward()
    torch.testing.assert_close(loss, expected, atol=1e-5, rtol=1e-5)
    assert gradients["score.weight"].abs().max() > 1e-3
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name], atol=1e-5, rtol=1e-5)
    (accuracy,), (margin,) = (trainer._metrics["train"][key] for key in ("accuracy", "margin"))
    assert metrics["pair_accuracy"] == pytest.approx(accuracy)
    assert metrics["margin"] == pytest.approx(margin, abs=1e-5)
