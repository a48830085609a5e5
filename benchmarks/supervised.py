"""SFT, reward model and DPO: our step against TRL's trainers, with the same rows in the same order.

Ours is the loop of lessons 01, 02 and 04 without its schedule: collate, log-probs, loss, backward,
clip, step. TRL's trainers get tokenized rows. Both give the same losses, which are recorded.
"""

import copy
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch
from datasets import Dataset
from measuring import Measured, Point, Section, gaps
from transformers import PreTrainedModel, PrinterCallback, TrainerCallback
from trl import DPOConfig, DPOTrainer, RewardConfig, RewardTrainer, SFTConfig, SFTTrainer

from tasks import sql
from utils import chat, models, profiles
from utils.logprobs import completion_logprobs, label_logits, masked_sum
from utils.losses import bradley_terry_loss, dpo_loss, sft_loss
from utils.values import completion_rewards

RATE, BETA, CENTER, MAX_NORM = 1e-4, 0.1, 0.05, 1.0


def make(name: str, quick: bool) -> Section:
    """The section of one method: "sft", "rm" or "dpo"."""
    profile = profiles.get_profile()
    tokenizer = models.load_tokenizer(profile)
    steps, batch = (3, 2) if quick else (16, 16)
    rows = make_rows(tokenizer, steps * batch)
    profiles.seed_everything(0)
    variants = {"sft": sft, "rm": reward_model, "dpo": dpo}[name](profile, tokenizer, rows, batch)
    return Section(
        settings={
            "checkpoint": "assets/tiny/sft",
            "data": "generated text-to-SQL, a right and a wrong answer a prompt",
            "batch": f"{batch} {'rows' if name == 'sft' else 'pairs'}",
            "dtype": "float32",
            "first_step": "warms up, not counted",
        },
        variants=variants,
        points=[{"steps": steps}],
        warm_up={"steps": 2},
        repeats=1 if quick else 3,
        memory_points=[{"steps": 3}],
    )


def make_rows(tokenizer, count: int) -> list[tuple[list[int], list[int], list[int]]]:
    """Prompt, right answer, and the answer to another question, as token ids."""
    examples = sql.make_examples("train", count + 1)
    rows = []
    for example, other in zip(examples, examples[1:], strict=False):
        prompt = chat.encode_prompt(tokenizer, example.prompt)
        right, wrong = (
            chat.encode_example(tokenizer, example.prompt, e.answer).input_ids[len(prompt) :]
            for e in (example, other)
        )
        rows.append((prompt, right, wrong))
    return rows


# The two loops


def ours(
    start: PreTrainedModel, loss_of: Callable, rows: list, batch: int
) -> Callable[[Point], Measured]:
    """Our loop on a copy of `start`; `loss_of(model, batch of rows)`."""

    def run(point: Point) -> Measured:
        model = copy.deepcopy(start).requires_grad_(True).train()
        optimizer = torch.optim.AdamW(model.parameters(), RATE, weight_decay=0.0)
        losses, ends = [], []
        for step in range(point["steps"]):
            loss = loss_of(model, rows[step * batch : (step + 1) * batch])
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_NORM)
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
            ends.append(time.perf_counter())
        return {"seconds": gaps(ends), "curves": {"loss": losses}}

    return run


class Clock(TrainerCallback):
    """Notes when each optimizer step ended."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, args, state, control, **kwargs) -> None:
        self.ends.append(time.perf_counter())


def trl(make_trainer: Callable, config: type, batch: int, **options) -> Callable[[Point], Measured]:
    """TRL's loop; `make_trainer(arguments)` makes a fresh trainer on a copy of the start."""

    def run(point: Point) -> Measured:
        arguments = config(
            output_dir=str(Path(profiles.runs_folder(profiles.get_profile())) / "trl"),
            per_device_train_batch_size=batch,
            max_steps=point["steps"],
            learning_rate=RATE,
            lr_scheduler_type="constant",
            weight_decay=0.0,
            max_grad_norm=MAX_NORM,
            max_length=None,
            train_sampling_strategy="sequential",
            gradient_checkpointing=False,
            bf16=False,
            use_cpu=True,
            logging_steps=point["steps"],
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            **options,
        )
        trainer, losses, clock = make_trainer(arguments), [], Clock()
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(clock)
        step = trainer.training_step

        def noted_step(*args, **kwargs):
            loss = step(*args, **kwargs)
            losses.append(loss.item())
            return loss

        trainer.training_step = noted_step
        trainer.train()
        return {"seconds": gaps(clock.ends), "curves": {"loss": losses}}

    return run


# The three methods


def sft(profile, tokenizer, rows, batch) -> dict[str, Callable]:
    """TRL with its default loss, which has no logits for masked tokens, and with the plain one."""
    start = models.load_reference(profile, "sft")
    encoded = [chat.Encoded(p + right, [0] * len(p) + [1] * len(right)) for p, right, _ in rows]
    data = Dataset.from_list([asdict(row) for row in encoded])

    def loss_of(model, examples):
        inputs = chat.collate(examples, tokenizer.pad_token_id)
        keys = ("input_ids", "attention_mask", "labels")
        return sft_loss(*label_logits(model, *(inputs[key] for key in keys)))[0]

    def trainer(arguments):
        model = copy.deepcopy(start).requires_grad_(True)
        return SFTTrainer(model, arguments, train_dataset=data, processing_class=tokenizer)

    def theirs(loss_type):
        options = {"completion_only_loss": True, "loss_type": loss_type}
        return trl(trainer, SFTConfig, batch, **options)

    return {
        "ours": ours(start, loss_of, encoded, batch),
        "TRL": theirs("chunked_nll"),
        "TRL, plain loss": theirs("nll"),
    }


def collate_pairs(rows, tokenizer) -> tuple[torch.Tensor, ...]:
    """Prompts and their two answers in turn: what log-probs and rewards take."""
    pad = tokenizer.pad_token_id
    answers = [ids for _, *both in rows for ids in both]
    return (*chat.pad_left([p for p, *_ in rows], pad), *chat.pad_right(answers, pad))


def reward_model(profile, tokenizer, rows, batch) -> dict[str, Callable]:
    """Bradley-Terry with a centring term; the pooled term of lesson 02 has no match in TRL."""
    start = models.load_reward_model(profile, "sft")  # with a head of zeros
    start.config.pad_token_id = tokenizer.pad_token_id
    data = Dataset.from_list([{"chosen_ids": p + c, "rejected_ids": p + r} for p, c, r in rows])

    def loss_of(model, pairs):
        rewards = completion_rewards(model, *collate_pairs(pairs, tokenizer))
        return bradley_terry_loss(rewards[0::2], rewards[1::2], center_coef=CENTER)[0]

    def trainer(arguments):
        model = copy.deepcopy(start)
        return RewardTrainer(model, arguments, train_dataset=data, processing_class=tokenizer)

    options = {"center_rewards_coefficient": CENTER}
    return {
        "ours": ours(start, loss_of, rows, batch),
        "TRL": trl(trainer, RewardConfig, batch, **options),
    }


class PairTrainer(DPOTrainer):
    """TRL's, for rows that are tokenized already."""

    def _prepare_dataset(self, dataset, *args):
        return dataset


def dpo(profile, tokenizer, rows, batch) -> dict[str, Callable]:
    """The reference is read at every step, in both."""
    start = models.load_reference(profile, "sft")
    reference = models.load_reference(profile, "sft")  # TRL 1.16 writes into the one it is given
    data = [{"prompt_ids": p, "chosen_ids": c, "rejected_ids": r} for p, c, r in rows]

    def loss_of(model, pairs):
        inputs = collate_pairs(pairs, tokenizer)
        sums = masked_sum(completion_logprobs(model, *inputs), inputs[-1], dim=1)
        with torch.no_grad():
            ref = masked_sum(completion_logprobs(start, *inputs), inputs[-1], dim=1)
        return dpo_loss(sums[0::2], sums[1::2], ref[0::2], ref[1::2], beta=BETA)[0]

    def trainer(arguments):
        return PairTrainer(
            copy.deepcopy(start).requires_grad_(True),
            ref_model=reference,
            args=arguments,
            train_dataset=Dataset.from_list(data),
            processing_class=tokenizer,
        )

    options = {"beta": BETA, "loss_type": ["sigmoid"]}
    return {
        "ours": ours(start, loss_of, rows, batch),
        "TRL": trl(trainer, DPOConfig, batch, **options),
    }
