"""Our sampler against `generate` and transformers' continuous batching: completion tokens a second.

All three sample the same prompts at temperature 1 without top-k or top-p. Tokens count up to and
including the stop token, in all three; what `generate` computes for rows that have ended does not.
"""

import time
from collections.abc import Callable

import torch
from measuring import Measured, Point, Section
from transformers import ContinuousBatchingConfig, GenerationConfig

from tasks import math
from utils import chat, models, profiles, rollout

NO_STOP = -1  # a token that no model emits


def make(name: str, quick: bool) -> Section:
    """The section "sampling"."""
    profile = profiles.get_profile()
    tokenizer = models.load_tokenizer(profile)
    model = models.load_reference(profile, "base")
    profiles.seed_everything(0)
    lesson = {"prompts": 32, "group_size": 8, "shots": 0, "new_tokens": 48, "stop": True}
    if quick:
        lesson |= {"prompts": 2, "group_size": 2, "new_tokens": 4}
    changes: list[dict] = [{}]  # as in lesson 05, then group, batch, prompt length, end
    if not quick:
        changes += [{"prompts": 128, "group_size": 2}, {"prompts": 8, "group_size": 32}]
        changes += [{"prompts": 8}, {"prompts": 8, "shots": 4}, {"prompts": 8, "shots": 8}]
        changes += [{"stop": False}]
    prompts = Prompts(tokenizer)
    points = [described(lesson | change, prompts) for change in changes]
    end = tokenizer.convert_tokens_to_ids("<|endoftext|>")

    def variant(sample: Callable) -> Callable[[Point], Measured]:
        def run(point: Point) -> Measured:
            rows = prompts.encode(point)
            stop = end if point["stop"] else NO_STOP
            began = time.perf_counter()
            lengths = sample(model, tokenizer, rows, point, stop)
            seconds = time.perf_counter() - began
            return {"seconds": [seconds], "tokens_per_second": [sum(lengths) / seconds]}

        return run

    return Section(
        settings={
            "checkpoint": "assets/tiny/base",
            "data": "word problems; a shot is a solved problem before the question",
            "dtype": "float32",
            "continuous_batching": "cache sized to the batch, blocks of 16 tokens, shared prompts",
        },
        variants={
            "ours": variant(ours),
            "generate": variant(generate),
            "continuous batching": variant(continuous),
        },
        points=points,
        warm_up=points[0] | {"prompts": 2},
        repeats=1 if quick else 3,
        memory_points=points[:1],
    )


class Prompts:
    """Word problems as token ids, made once for each point."""

    def __init__(self, tokenizer) -> None:
        self.tokenizer, self.made = tokenizer, {}

    def ids(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False)

    def encode(self, point: Point) -> list[list[int]]:
        """One list of ids a prompt, with the solved problems of `shots` before it."""
        key = point["prompts"], point["shots"]
        if key not in self.made:
            solved = math.make_examples("train", point["shots"], 1)
            before = [i for e in solved for i in self.ids("".join(e.document(True)) + "\n")]
            asked = math.make_examples("train", point["prompts"], 500)
            self.made[key] = [before + self.ids(e.document(True)[0]) for e in asked]
        return self.made[key]


def described(point: Point, prompts: Prompts) -> Point:
    """The point with the mean length of its prompts."""
    lengths = [len(row) for row in prompts.encode(point)]
    return point | {"prompt_tokens": round(sum(lengths) / len(lengths))}


def up_to(stop: int, row: list[int]) -> int:
    """Tokens of a row up to and including the first stop token."""
    return row.index(stop) + 1 if stop in row else len(row)


def ours(model, tokenizer, rows, point: Point, stop: int) -> list[int]:
    """Lengths of the completions from `rollout.sample`, log-probs included."""
    options = {"stop_ids": [stop]}
    r = rollout.sample(model, tokenizer, rows, point["group_size"], point["new_tokens"], **options)
    return r.lengths.tolist()


def generation_config(tokenizer, point: Point, stop: int) -> GenerationConfig:
    """Plain sampling from the model's distribution."""
    return GenerationConfig(
        max_new_tokens=point["new_tokens"],
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        eos_token_id=stop,
        pad_token_id=tokenizer.pad_token_id,
    )


@torch.no_grad()
def generate(model, tokenizer, rows, point: Point, stop: int) -> list[int]:
    """The same from `model.generate`, each prompt repeated for its group, as TRL does."""
    repeated = [row for row in rows for _ in range(point["group_size"])]
    prompt_ids, prompt_mask = chat.pad_left(repeated, tokenizer.pad_token_id)
    output = model.generate(
        prompt_ids,
        attention_mask=prompt_mask.long(),
        generation_config=generation_config(tokenizer, point, stop),
    )
    return [up_to(stop, row) for row in output[:, prompt_ids.shape[1] :].tolist()]


def continuous(model, tokenizer, rows, point: Point, stop: int) -> list[int]:
    """The same from `generate_batch`, whose cache would take most of the memory if left alone."""
    repeated = [row for row in rows for _ in range(point["group_size"])]
    longest = max(map(len, rows)) + point["new_tokens"]
    config = ContinuousBatchingConfig(
        block_size=16,
        num_blocks=len(repeated) * (longest // 16 + 1),
        max_batch_tokens=512,
        max_requests_per_batch=len(repeated),
    )
    outputs = model.generate_batch(
        repeated,
        generation_config=generation_config(tokenizer, point, stop),
        continuous_batching_config=config,
        warmup=False,
    )
    failed = [output.error for output in outputs.values() if output.error]
    if failed or len(outputs) != len(repeated):
        raise RuntimeError(f"continuous batching: {len(outputs)} of {len(repeated)}, {failed[:1]}")
    return [up_to(stop, output.generated_tokens) for output in outputs.values()]
