"""Memory and time of a GRPO step on a GPU, computed from shapes: nothing here was measured.

Sizes are in GiB (2**30 bytes), the unit of torch's out-of-memory message and of `nvidia-smi`.
"""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from engines.sizes import (
    ALL_LINEAR,
    OPTIMIZER_BYTES,
    WEIGHT_BYTES,
    Card,
    ModelShape,
    activation_bytes,
    kv_bytes_per_token,
    logits_bytes,
    lora_parameters,
    weight_bytes,
)

GIB = 2**30
CONTEXT_GIB = 0.7  # assumed: CUDA context, libraries, fragmentation
BANDWIDTH_USED = 0.6  # assumed share of the data sheet's bandwidth that decoding reaches
COMPUTE_USED = 0.35  # assumed share of the data sheet's FLOPS that prefill and training reach

SIZES = "prompts group_size prompt_length completion_length micro_batch rollout_batch".split()


@dataclass(frozen=True)
class Plan:
    """How a GRPO step runs: the knobs of the budget. ValueError for values that cannot be."""

    weights: str = "bf16"  # bf16, fp16, fp32 or 4bit
    lora_rank: int = 32  # 0: all weights are trained
    targets: tuple[str, ...] = ALL_LINEAR
    optimizer: str = "adamw_8bit"
    reference: bool = False  # a second copy of the weights; LoRA switches its adapter off instead
    prompts: int = 4  # a step
    group_size: int = 8
    prompt_length: int = 512
    completion_length: int = 1024
    micro_batch: int = 4  # rows in one forward and backward pass; accumulation does the rest
    checkpointing: bool = True
    logits_chunk: int | None = None  # tokens whose logits exist at once; None: all
    rollout_batch: int = 32  # rows decoded at once
    sampler_fraction: float | None = None  # vLLM's gpu_memory_utilization; None: `generate`

    def __post_init__(self) -> None:
        for value, known in ((self.weights, WEIGHT_BYTES), (self.optimizer, OPTIMIZER_BYTES)):
            if value not in known:
                raise ValueError(f"unknown {value!r}; known: {', '.join(known)}")
        if unknown := set(self.targets) - set(ALL_LINEAR):
            raise ValueError(f"no linear layer is called {sorted(unknown)}; known: {ALL_LINEAR}")
        for name in SIZES:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.lora_rank < 0 or (self.weights == "4bit" and not self.lora_rank):
            raise ValueError("lora_rank must be 0 or more, and above 0 over 4-bit weights")
        if self.logits_chunk is not None and self.logits_chunk < 1:
            raise ValueError(f"logits_chunk must be at least 1 or None, not {self.logits_chunk}")
        if self.sampler_fraction is not None and not 0 < self.sampler_fraction < 1:
            raise ValueError(f"sampler_fraction must be in (0, 1), not {self.sampler_fraction}")

    @property
    def element(self) -> int:
        """Bytes of one activation."""
        return 4 if self.weights == "fp32" else 2

    @property
    def rows(self) -> int:
        """Completions a step."""
        return self.prompts * self.group_size

    @property
    def length(self) -> int:
        """Tokens of a row."""
        return self.prompt_length + self.completion_length


@dataclass(frozen=True)
class Budget:
    """Computed memory of a step: rows of (part, when, GiB), their sum, and the card's memory."""

    rows: list[tuple[str, str, float]]
    total: float
    memory: float
    fits: bool
    notes: list[str]  # what card or sampler cannot do


def rows_at_once(shape: ModelShape, card: Card, plan: Plan) -> int:
    """Rows decoded together: at most the step's, and what `rollout_batch` or the pool allows."""
    if plan.sampler_fraction is None:
        return min(plan.rows, plan.rollout_batch)
    pool = plan.sampler_fraction * card.memory * GIB - weight_bytes(shape, plan.weights)
    row = plan.length * kv_bytes_per_token(shape, plan.element)
    return max(0, min(plan.rows, int(pool / row)))


def budget(shape: ModelShape, card: Card, plan: Plan) -> Budget:
    """Memory of one GRPO step by part, in GiB, computed.

    total = parts held always + the larger of the sampling and the training parts. With
    `sampler_fraction` the engine holds that share of the card always: the weights, which the
    trainer shares, and a pool for the KV cache; a pool without room for one row does not fit.
    """
    weights, trained = weight_bytes(shape, plan.weights), shape.parameters
    lora = plan.lora_rank, plan.targets
    trained_element, notes = plan.element, []
    if plan.lora_rank:
        trained, trained_element = lora_parameters(shape, *lora), 4
    rows = rows_at_once(shape, card, plan)
    cache, when = rows * plan.length * kv_bytes_per_token(shape, plan.element), "sampling"
    if plan.sampler_fraction is not None:
        cache, when = max(0, plan.sampler_fraction * card.memory * GIB - weights), "always"
    if not rows:
        notes.append(f"sampler_fraction {plan.sampler_fraction} has no room for one row")
    if plan.weights == "bf16" and not card.bf16:
        notes.append(f"{card.name} has no bf16: use fp16 weights, or fp32")
    tokens = plan.micro_batch * plan.length
    activations = activation_bytes(shape, tokens, *lora, plan.element, plan.checkpointing)
    completion_tokens = plan.micro_batch * plan.completion_length
    logits = logits_bytes(shape, completion_tokens, plan.element, plan.logits_chunk)
    parts = [
        ("weights", "always", weights),
        ("reference model", "always", 0 if plan.lora_rank else weights * plan.reference),
        ("LoRA adapters", "always", 4 * trained if plan.lora_rank else 0),
        ("gradients", "always", trained * trained_element),
        ("optimizer states", "always", trained * OPTIMIZER_BYTES[plan.optimizer]),
        ("CUDA context (assumed)", "always", CONTEXT_GIB * GIB),
        ("KV cache", when, cache),
        ("activations", "training", activations),
        ("logits", "training", logits),
    ]
    table = [(part, when, size / GIB) for part, when, size in parts if size]
    held, sampling, training = (
        sum(size for _, phase, size in table if phase == name)
        for name in ("always", "sampling", "training")
    )
    total = held + max(sampling, training)
    return Budget(table, total, card.memory, rows > 0 and total <= card.memory, notes)


def step_time(shape: ModelShape, card: Card, plan: Plan) -> dict[str, float]:
    """Seconds of a step by part, and tokens/s of sampling and training, computed: a rough guide.

    Decoding reads weights and KV cache once a token: bytes / (BANDWIDTH_USED * bandwidth), or
    2 N FLOPs a row if that takes longer. Prefill does 2 N FLOPs a token, training 6 N (LoRA 4 N: no
    gradients of weights), checkpointing 2 N more; / (COMPUTE_USED * TFLOPS). N = parameters.
    A Python loop around each token, as in `generate`, is slower than this, and so is fp32.
    """
    n, flops = shape.parameters, card.tflops * 1e12 * COMPUTE_USED
    batch = max(1, rows_at_once(shape, card, plan))
    context = plan.prompt_length + plan.completion_length / 2  # mean over the completion
    read = weight_bytes(shape, plan.weights)
    read += batch * context * kv_bytes_per_token(shape, plan.element)
    token = max(read / (card.bandwidth * 1e9 * BANDWIDTH_USED), 2 * n * batch / flops)
    decode = token * plan.completion_length * -(-plan.rows // batch)
    train_flops = (4 if plan.lora_rank else 6) + 2 * plan.checkpointing
    train = plan.rows * plan.length * train_flops * n / flops
    return {
        "prefill": plan.prompts * plan.prompt_length * 2 * n / flops,
        "decode": decode,
        "train": train,
        "sampled tokens/s": plan.rows * plan.completion_length / decode,
        "trained tokens/s": plan.rows * plan.length / train,
    }


@dataclass(frozen=True)
class Step:
    """One knob turned down, after those before it."""

    change: str
    cost: str
    saved: float  # GiB
    total: float  # GiB of the step that are left


def advice(shape: ModelShape, card: Card, plan: Plan, without: Collection[str] = ()) -> list[Step]:
    """What to turn down when memory runs out, in order, with what each saves in GiB.

    First what leaves the gradient as it is, then the rest; within each the largest saving comes
    first. A saving is the difference of two budgets, the earlier knobs already turned, and each
    knob is turned once. Left out: those that save nothing, and those in `without`, such as
    "logits_chunk" for a loop that cannot chunk.
    """
    same, other = "same gradient, slower", "another result"
    fraction, rank = plan.sampler_fraction, plan.lora_rank or 32
    knobs = [
        (same, {"logits_chunk": min(plan.logits_chunk or 1024, 1024)}),
        (same, {"checkpointing": True}),
        (same, {"micro_batch": max(1, plan.micro_batch // 2)}),
        (same, {"rollout_batch": max(1, min(plan.rollout_batch, plan.rows) // 2)}),
        (same, {"sampler_fraction": fraction and round(fraction * 0.75, 2)}),
        (other, {"completion_length": max(1, plan.completion_length // 2)}),
        (other, {"group_size": max(2, plan.group_size // 2)}),
        (other, {"optimizer": "adamw_8bit"}),
        (other, {"lora_rank": max(1, rank // 2) if plan.lora_rank else rank}),
        (other, {"weights": "4bit"} | ({} if plan.lora_rank else {"lora_rank": rank})),
    ]
    steps: list[Step] = []
    now = budget(shape, card, plan)
    for cost in (same, other):
        left = [knob for kind, knob in knobs if kind == cost and not knob.keys() & set(without)]
        while left:
            after = [budget(shape, card, replace(plan, **change)) for change in left]
            # A change that leaves the sampler without room saves memory, and does not run.
            allowed = [i for i, b in enumerate(after) if len(b.notes) <= len(now.notes)]
            best = min(allowed, key=lambda i: after[i].total, default=None)
            if best is None or now.total - after[best].total < 0.005:
                break
            change, saved = left.pop(best), now.total - after[best].total
            words = ", ".join(f"{k} {getattr(plan, k)} -> {v}" for k, v in change.items())
            plan, now = replace(plan, **change), after[best]
            steps.append(Step(words, cost, saved, now.total))
    return steps


def explain_out_of_memory(error: BaseException, steps: Sequence[Step]) -> str:
    """A message for torch's out-of-memory error that names the first knob of `advice`.

    ValueError, with the error as its cause, when it is another error.
    """
    text = str(error)
    if "out of memory" not in text.lower():
        raise ValueError(f"not an out-of-memory error: {type(error).__name__}") from error
    asked = re.search(r"allocate ([\d.]+ [KMG]iB)", text)
    lines = ["The GPU is out of memory" + (f": no room for {asked[1]} more." if asked else ".")]
    if not steps:
        return lines[0] + " No knob of the plan saves anything: use a smaller model or a larger GPU"
    for word, step in zip(("Turn down first", *["then"] * len(steps)), steps, strict=False):
        lines.append(f"{word}: {step.change} ({step.cost}; saves {step.saved:.1f} GiB, computed)")
    return "\n".join([*lines, "Restart the kernel before you try: the error holds on to tensors."])
