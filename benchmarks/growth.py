"""How time and memory of sampling and of the update grow with G, T and the model's size.

A random model of the tiny profile's architecture; one size is changed at a time. The exponent is
the slope of a line through the logarithms, by least squares: at 1, twice the size costs twice as
much.
"""

import math
import statistics
import time
from functools import lru_cache

import torch
from measuring import Measured, Point, Section
from transformers import Qwen3Config, Qwen3ForCausalLM
from updates import random_batch, timed

from utils import models, profiles, rollout
from utils.logprobs import completion_logprobs

VARIED = {"group_size": (2, 4, 8, 16, 32), "new_tokens": (16, 32, 64, 128, 256)}
WIDTHS = (64, 128, 256, 512)
BASE = {"prompts": 4, "group_size": 8, "prompt_tokens": 64, "new_tokens": 32, "width": 128}


def make(name: str, quick: bool) -> Section:
    """The section "growth"."""
    tokenizer = models.load_tokenizer(profiles.get_profile())
    varied = VARIED | {"width": WIDTHS}
    base = BASE
    if quick:
        varied = {"group_size": (1, 2, 4), "new_tokens": (2, 4, 8), "width": (16, 32, 64)}
        base = BASE | {"prompts": 1, "group_size": 2, "new_tokens": 4, "width": 32}
    points = [
        base
        | {key: value, "parameters": size(value if key == "width" else base["width"])}
        | {"varies": "parameters" if key == "width" else key}
        for key, values in varied.items()
        for value in values
    ]

    def sampling(point: Point) -> Measured:
        prompts = batch_of(point)[0].tolist()
        began = time.perf_counter()
        rollout.sample(
            random_model(point["width"]),
            tokenizer,
            prompts,
            point["group_size"],
            point["new_tokens"],
            stop_ids=[-1],  # never: every completion has T tokens
        )
        return {"seconds": [time.perf_counter() - began]}

    def update(point: Point) -> Measured:
        model = random_model(point["width"])
        leaves = list(model.parameters())
        return timed(lambda: completion_logprobs(model, *batch_of(point)), leaves)

    return Section(
        settings={"checkpoint": "random weights, 4 layers", "dtype": "float32"},
        variants={"sampling": sampling, "update": update},
        points=points,
        warm_up=points[0],
        repeats=1 if quick else 3,
        memory_points=points,
        conclude=exponents,
    )


@lru_cache(maxsize=1)
def random_model(width: int) -> Qwen3ForCausalLM:
    """The tiny profile's architecture at another width."""
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=1024,
        hidden_size=width,
        intermediate_size=3 * width,
        num_hidden_layers=4,
        num_attention_heads=max(1, width // 32),
        num_key_value_heads=max(1, width // 64),
        head_dim=32,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
    )
    return Qwen3ForCausalLM(config).train()


def size(width: int) -> int:
    """Parameters of that model."""
    return sum(p.numel() for p in random_model(width).parameters())


def batch_of(point: Point) -> tuple:
    """Random tokens; the sampler takes the prompts of them."""
    keys = ("prompts", "group_size", "prompt_tokens", "new_tokens")
    return random_batch(*(point[key] for key in keys))


def slope(xs: list[float], ys: list[float]) -> float:
    """b of the least-squares line log y = a + b log x."""
    logs = [[math.log(v) for v in values] for values in (xs, ys)]
    return statistics.linear_regression(*logs).slope


def exponents(rows: list[dict], memory: list[dict]) -> dict:
    """`{"sampling": {"seconds": {"group_size": b, …}, "peak_megabytes": {…}}, …}`."""
    found: dict = {}
    for variant in rows[0]["variants"]:
        measures = {"seconds": [(r["point"], r["variants"][variant]["seconds"]) for r in rows]}
        measures["seconds"] = [(point, s["median"]) for point, s in measures["seconds"]]
        measures["peak_megabytes"] = [(m["point"], m["peak_megabytes"][variant]) for m in memory]
        for measure, pairs in measures.items():
            for key in dict.fromkeys(point["varies"] for point, _ in pairs):
                line = [(point[key], y) for point, y in pairs if point["varies"] == key]
                if all(y > 0 for _, y in line):
                    xs, ys = zip(*line, strict=True)
                    by_size = found.setdefault(variant, {}).setdefault(measure, {})
                    by_size[key] = round(slope(list(xs), list(ys)), 2)
    return {"exponents": found}
