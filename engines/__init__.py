"""One notebook on every machine: transformers on a CPU or small GPU, Unsloth and vLLM on a large.

Importing this package imports neither transformers, TRL nor PEFT: Unsloth has to come before them.
The first cell of a notebook calls `check_machine()`, then imports the rest, then calls `load(...)`.
"""

from collections.abc import Sequence

from engines.defaults import changed_defaults
from engines.machine import check_machine, engine_name
from utils.profiles import Profile

__all__ = ["LINEAR_LAYERS", "changed_defaults", "check_machine", "engine_name", "load"]

# Every linear layer of a Qwen3 block, as the public Qwen3-4B recipe trains them.
LINEAR_LAYERS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def load(
    profile: Profile,
    max_length: int,
    rank: int = 32,
    alpha: int = 64,
    target_modules: Sequence[str] = LINEAR_LAYERS,
    seed: int = 0,
    gpu_memory_utilization: float = 0.6,
    new_tokens: Sequence[str] = (),
):
    """The base model of a profile with a fresh LoRA adapter, as an `engines.base.Engine`.

    max_length: tokens of prompt and completion together. rank, alpha: the update is
    (alpha / rank) B A, and B starts at 0, so the model is still the base. seed: of A; torch's
    global generator is seeded with it. gpu_memory_utilization: share of the GPU that vLLM may take
    for weights and key-value cache; the training step lives in the rest (Unsloth only).
    new_tokens: strings that become one token each, with a trained row in the embedding
    (transformers only). Raises ValueError when `max_length` exceeds the model's context, and what
    `models.load_policy` raises.
    """
    settings = {"rank": rank, "alpha": alpha, "target_modules": list(target_modules), "seed": seed}
    if engine_name(profile.name, profile.device) == "unsloth":
        if new_tokens:
            raise ValueError("new_tokens needs the transformers engine: vLLM has no rows for them")
        from engines.unsloth_engine import UnslothEngine

        return UnslothEngine.load(
            profile, max_length, gpu_memory_utilization=gpu_memory_utilization, **settings
        )
    from engines.transformers_engine import TransformersEngine

    return TransformersEngine.load(profile, max_length, new_tokens=list(new_tokens), **settings)
