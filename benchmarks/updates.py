"""The update's log-probs: prompts read once or once a completion, large vocabularies in chunks.

Forward and backward of a weighted sum of log-probs, on random tokens: only shapes matter here.
"""

import time
from collections.abc import Callable
from functools import lru_cache

import torch
from measuring import Measured, Point, Section
from transformers import PreTrainedModel

from engines.chunked import chunked_logprobs
from utils import models, profiles
from utils.logprobs import completion_logprobs, gather_logprobs, token_logprobs

VOCABULARY = 151_936  # Qwen3's


def make(name: str, quick: bool) -> Section:
    """The section "update" or "vocabulary"."""
    profiles.seed_everything(0)
    return {"update": update, "vocabulary": vocabulary}[name](quick)


def timed(work: Callable[[], torch.Tensor], leaves: list[torch.Tensor]) -> Measured:
    """Seconds of one forward and backward pass; the gradients are dropped afterwards."""
    began = time.perf_counter()
    work().sum().backward()
    seconds = time.perf_counter() - began
    for leaf in leaves:
        leaf.grad = None
    return {"seconds": [seconds]}


# Shared prompts


@lru_cache(maxsize=1)
def random_batch(prompts: int, group_size: int, prompt_tokens: int, new_tokens: int) -> tuple:
    """prompt_ids, prompt_mask, completion_ids, mask; completions of all lengths up to the limit."""
    generator = torch.Generator().manual_seed(0)
    rows = prompts * group_size
    prompt_ids = torch.randint(5, 1000, (prompts, prompt_tokens), generator=generator)
    completion_ids = torch.randint(5, 1000, (rows, new_tokens), generator=generator)
    lengths = torch.randint(1, new_tokens + 1, (rows, 1), generator=generator)
    lengths[0] = new_tokens
    mask = (torch.arange(new_tokens) < lengths).float()
    return prompt_ids, torch.ones_like(prompt_ids), completion_ids, mask


def batch_of(point: Point) -> tuple:
    """The batch of a point."""
    keys = ("prompts", "group_size", "prompt_tokens", "new_tokens")
    return random_batch(*(point[key] for key in keys))


def full_logprobs(model: PreTrainedModel, prompt_ids, prompt_mask, completion_ids, mask):
    """The log-probs of `completion_logprobs` from whole sequences, prompts repeated, as in TRL."""
    group_size = len(completion_ids) // len(prompt_ids)
    repeated = prompt_ids.repeat_interleave(group_size, dim=0)
    ids = torch.cat([repeated, completion_ids], dim=1)
    attention = torch.cat([prompt_mask.repeat_interleave(group_size, dim=0), mask.long()], dim=1)
    length = completion_ids.shape[1]
    output = model(ids, attention_mask=attention, logits_to_keep=length + 1, use_cache=False)
    logprobs = token_logprobs(output.logits, ids[:, -length - 1 :])
    return torch.where(mask.bool(), logprobs, 0.0)


def update(quick: bool) -> Section:
    """Over prompt length / completion length, and G, at the same number of completions."""
    model = models.load_policy(profiles.get_profile(), "sft").train()
    rows = 8 if quick else 64
    lesson = {"prompts": rows // 8, "group_size": 8, "prompt_tokens": 128, "new_tokens": 48}
    changes: list[dict] = [{}]
    if not quick:
        changes += [{"prompt_tokens": p} for p in (16, 48, 384)]
        changes += [{"prompts": rows // g, "group_size": g} for g in (1, 2, 4, 16, 64)]
    points = [lesson | change for change in changes]

    def variant(logprobs_of: Callable) -> Callable[[Point], Measured]:
        leaves = list(model.parameters())
        return lambda point: timed(lambda: logprobs_of(model, *batch_of(point)), leaves)

    return Section(
        settings={"checkpoint": "assets/tiny/sft", "data": "random tokens", "dtype": "float32"},
        variants={"ours": variant(completion_logprobs), "full sequences": variant(full_logprobs)},
        points=points,
        warm_up=points[0],
        repeats=2 if quick else 5,
        memory_points=points,
    )


# Large vocabularies


@lru_cache(maxsize=1)
def random_head(positions: int, width: int, vocabulary: int) -> tuple:
    """hidden (N, H) and weight (V, H), which get gradients, and ids (N,)."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(positions, width, generator=generator)
    weight = 0.05 * torch.randn(vocabulary, width, generator=generator)
    ids = torch.randint(vocabulary, (positions,), generator=generator)
    return hidden.requires_grad_(), weight.requires_grad_(), ids


def head_of(point: Point) -> tuple:
    """The head of a point."""
    return random_head(point["positions"], point["width"], point["vocabulary"])


def vocabulary(quick: bool) -> Section:
    """A head of Qwen3's size, at two widths; the states and the head are not counted as memory."""
    size = {"vocabulary": 5000 if quick else VOCABULARY}
    shapes = [(64, 256)] if quick else [(1024, 256), (512, 1024)]  # the second takes longer
    points = [size | {"positions": n, "width": width} for n, width in shapes]

    def run(logprobs_of: Callable, point: Point) -> Measured:
        hidden, weight, ids = head_of(point)
        return timed(lambda: logprobs_of(hidden, weight, ids), [hidden, weight])

    def naive(hidden, weight, ids):
        return gather_logprobs(hidden @ weight.T, ids)

    return Section(
        settings={"data": "random states", "dtype": "float32", "chunk": 64},
        variants={
            "chunked": lambda point: run(chunked_logprobs, point),
            "naive": lambda point: run(naive, point),
        },
        points=points,
        warm_up=points[0],
        repeats=2 if quick else 3,
        memory_points=points,
    )
