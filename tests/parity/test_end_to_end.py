"""Our training loop against TRL 1.12's trainers: the same losses for ten optimizer steps.

The same checkpoint (`assets/tiny/sft`), rows, order and hyperparameters: AdamW without weight
decay, a constant learning rate, the gradient clipped to norm 1. The trainers are real; GRPO's is
handed its completions instead of sampling them, as two samplers would not draw the same ones.
Ours goes through the whole path of the notebooks: collate, log-probs, loss, step.
"""

import copy
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import (
    DPOConfig,
    DPOTrainer,
    GRPOConfig,
    GRPOTrainer,
    RewardConfig,
    RewardTrainer,
    SFTConfig,
    SFTTrainer,
)
from trl.trainer import grpo_trainer

from relatives.grpo import grpo_variant_loss
from tasks import sql
from utils import chat
from utils.advantages import group_advantages
from utils.logprobs import completion_logprobs, label_logits, masked_sum
from utils.losses import bradley_terry_loss, dpo_loss, sft_loss
from utils.models import load_reward_model
from utils.profiles import get_profile
from utils.values import completion_rewards

torch.set_num_threads(1)
CHECKPOINT = Path(__file__).resolve().parents[2] / "assets/tiny/sft"
STEPS, BATCH, RATE = 10, 4, 1e-3
GROUP_SIZE, GRPO_RATE = 2, 1e-4  # at 1e-3 the policy runs away, and rounding errors with it
CLOSE = 1e-4

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(CHECKPOINT)


@pytest.fixture(scope="module")
def policy():
    """The checkpoint; each run trains a copy."""
    return AutoModelForCausalLM.from_pretrained(CHECKPOINT, dtype=torch.float32)


@pytest.fixture(scope="module")
def pairs(tokenizer):
    """A prompt with its right and a made-up wrong answer, one of them cut short; token ids."""
    examples = sql.make_examples("train", STEPS * BATCH + 1)
    rows = []
    for example, other in zip(examples, examples[1:], strict=False):
        prompt = chat.encode_prompt(tokenizer, example.prompt)
        right, wrong = (
            chat.encode_example(tokenizer, example.prompt, e.answer).input_ids[len(prompt) :]
            for e in (example, other)
        )
        rows.append((prompt, right, wrong[: 5 + len(rows) % 20]))
    return rows


def batches(rows):
    return [rows[start : start + BATCH] for start in range(0, len(rows), BATCH)]


def our_losses(model, loss_of, data, learning_rate=RATE):
    """The loop of the notebooks, without its schedule."""
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), learning_rate, weight_decay=0.0)
    losses = []
    for batch in data:
        loss = loss_of(model, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def recording(trainer_class):
    """The trainer, keeping the loss of each step as it was computed, not as it was logged."""

    class Recording(trainer_class):
        def training_step(self, *args, **kwargs):
            loss = super().training_step(*args, **kwargs)
            self.losses = [*getattr(self, "losses", []), loss.item()]
            return loss

    return Recording


def arguments(config, folder, **options):
    shared = {
        "output_dir": str(folder),
        "per_device_train_batch_size": BATCH,
        "max_steps": STEPS,
        "learning_rate": RATE,
        "lr_scheduler_type": "constant",
        "optim": "adamw_torch",
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "gradient_checkpointing": False,
        "bf16": False,
        "use_cpu": True,
        "logging_steps": STEPS,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "seed": 0,
    }
    return config(**{**shared, **options})


def assert_same_losses(ours, theirs):
    assert len(ours) == len(theirs) == STEPS
    assert max(abs(a - b) for a, b in zip(ours, theirs, strict=True)) < CLOSE, (ours, theirs)
    assert max(ours) - min(ours) > 100 * CLOSE  # the steps move something


@pytest.mark.truth("label_logits", "trl", "gradient")
@pytest.mark.parametrize("loss_type", ["nll", "chunked_nll"])
def test_sft(policy, tokenizer, pairs, tmp_path, loss_type):
    rows = [chat.Encoded(p + c, [0] * len(p) + [1] * len(c)) for p, c, _ in pairs]
    options = {"loss_type": loss_type, "completion_only_loss": True, "max_length": None}
    trainer = recording(SFTTrainer)(
        copy.deepcopy(policy),
        arguments(SFTConfig, tmp_path, train_sampling_strategy="sequential", **options),
        train_dataset=Dataset.from_list([asdict(row) for row in rows]),
        processing_class=tokenizer,
    )
    trainer.train()

    def loss_of(model, batch):
        inputs = chat.collate(batch, tokenizer.pad_token_id)
        keys = ("input_ids", "attention_mask", "labels")
        return sft_loss(*label_logits(model, *(inputs[key] for key in keys)))[0]

    assert_same_losses(our_losses(copy.deepcopy(policy), loss_of, batches(rows)), trainer.losses)


def collate_pairs(batch, tokenizer):
    """Prompts and their two answers in turn: what the log-probs and the rewards take."""
    pad = tokenizer.pad_token_id
    answers = [ids for _, *both in batch for ids in both]
    return (*chat.pad_left([p for p, *_ in batch], pad), *chat.pad_right(answers, pad))


def test_reward_model(tokenizer, pairs, tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_PROFILE", "tiny")
    monkeypatch.setenv("COURSE_RUNS", str(tmp_path / "runs"))
    model = load_reward_model(get_profile(), "sft").float()  # with a head of zeros
    model.config.pad_token_id = tokenizer.pad_token_id
    options = {"max_length": None, "center_rewards_coefficient": 0.01}
    rows = [{"chosen_ids": p + c, "rejected_ids": p + r} for p, c, r in pairs]
    trainer = recording(RewardTrainer)(
        copy.deepcopy(model),
        arguments(RewardConfig, tmp_path, train_sampling_strategy="sequential", **options),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
    )
    trainer.train()

    def loss_of(model, batch):
        rewards = completion_rewards(model, *collate_pairs(batch, tokenizer))
        return bradley_terry_loss(rewards[0::2], rewards[1::2], center_coef=0.01)[0]

    assert_same_losses(our_losses(copy.deepcopy(model), loss_of, batches(pairs)), trainer.losses)


class PairTrainer(recording(DPOTrainer)):
    def _prepare_dataset(self, dataset, *_):
        return dataset  # tokenized already


def test_dpo(policy, tokenizer, pairs, tmp_path):
    rows = [{"prompt_ids": p, "chosen_ids": c, "rejected_ids": r} for p, c, r in pairs]
    options = {"beta": 0.1, "loss_type": ["sigmoid"], "max_length": None}
    trainer = PairTrainer(
        copy.deepcopy(policy),
        ref_model=copy.deepcopy(policy),
        args=arguments(DPOConfig, tmp_path, train_sampling_strategy="sequential", **options),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
    )
    trainer.train()

    def loss_of(model, batch):
        inputs = collate_pairs(batch, tokenizer)
        sums = masked_sum(completion_logprobs(model, *inputs), inputs[-1], dim=1)
        with torch.no_grad():
            ref = masked_sum(completion_logprobs(policy, *inputs), inputs[-1], dim=1)
        return dpo_loss(sums[0::2], sums[1::2], ref[0::2], ref[1::2], beta=0.1)[0]

    assert_same_losses(our_losses(copy.deepcopy(policy), loss_of, batches(pairs)), trainer.losses)


class ReplayTrainer(recording(GRPOTrainer)):
    """GRPO on given rows: a prompt is the number of its row, and its two answers are the group."""

    def _tokenize_prompts(self, prompts):
        self.rows = [int(prompt) for prompt in prompts]
        return [self.pairs[row][0] for row in self.rows], None, {}

    def _generate_single_turn(self, prompt_ids, *_, **__):
        answers = [self.pairs[row][1 + i % GROUP_SIZE] for i, row in enumerate(self.rows)]
        return answers, None


def reward(row, answer):
    """Any number that differs between the answers of a group, and between groups."""
    return len(answer) / 7 + row % 3


@pytest.mark.parametrize(
    ("loss_type", "scale"), [("grpo", "group"), ("dr_grpo", "none"), ("dapo", "batch")]
)
def test_grpo(policy, tokenizer, pairs, tmp_path, monkeypatch, loss_type, scale):
    # Each rollout makes two mini-batches of two groups: the second is off policy. TRL shuffles a
    # rollout's completions over its mini-batches; here they stay in order.
    monkeypatch.setattr(grpo_trainer, "shuffle_sequence_dict", lambda batch: batch)
    monkeypatch.setattr(ReplayTrainer, "pairs", pairs, raising=False)
    half = BATCH // GROUP_SIZE
    rows = pairs[: STEPS * half]

    def given_rewards(prompts, completion_ids, **_):
        return [reward(int(p), ids) for p, ids in zip(prompts, completion_ids, strict=True)]

    options = {
        "num_generations": GROUP_SIZE,
        "steps_per_generation": 2,
        "max_completion_length": 64,
        "shuffle_dataset": False,
        "loss_type": loss_type,
        "scale_rewards": scale,
        "learning_rate": GRPO_RATE,
        "beta": 0.04,
        "use_bias_correction_kl": False,
    }
    trainer = ReplayTrainer(
        copy.deepcopy(policy),
        given_rewards,
        arguments(GRPOConfig, tmp_path, **options),
        Dataset.from_list([{"prompt": str(i)} for i in range(len(rows))]),
        processing_class=tokenizer,
    )
    trainer.train()

    rollouts, state = [list(range(i, i + BATCH)) for i in range(0, len(rows), BATCH)], {}

    def loss_of(model, minibatch):
        rollout, part = minibatch
        if part == 0:  # what is worked out once a rollout
            batch = [pairs[row] for row in rollout]
            inputs = collate_pairs(batch, tokenizer)
            scores = [
                reward(row, ids) for row, b in zip(rollout, batch, strict=True) for ids in b[1:]
            ]
            with torch.no_grad():
                state["old"] = completion_logprobs(model, *inputs)
                state["ref"] = completion_logprobs(policy, *inputs)
            state["advantages"] = group_advantages(torch.tensor(scores), GROUP_SIZE, scale)
            state["inputs"] = inputs
        prompts = slice(part * half, (part + 1) * half)
        answers = slice(part * BATCH, (part + 1) * BATCH)
        prompt_ids, prompt_mask, completion_ids, mask = state["inputs"]
        mask = mask[answers]
        logprobs = completion_logprobs(
            model, prompt_ids[prompts], prompt_mask[prompts], completion_ids[answers], mask
        )
        tokens_of_rollout = state["inputs"][-1].sum().item()
        return grpo_variant_loss(
            logprobs,
            state["old"][answers],
            state["advantages"][answers],
            mask,
            state["ref"][answers],
            beta=0.04,
            loss_type=loss_type,
            max_completion_length=64,
            num_items=tokens_of_rollout / 2,  # of two mini-batches, each with its own step
        )[0]

    data = [(rollout, part) for rollout in rollouts for part in (0, 1)]
    ours = our_losses(copy.deepcopy(policy), loss_of, data, GRPO_RATE)
    assert_same_losses(ours, trainer.losses)
