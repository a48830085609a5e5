"""Sizes of Qwen3 models and of GPUs, and the bytes that follow. Computed, not measured."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

# 4 bits a weight, one float32 scale for 64 weights, itself kept in 8 bits (NF4, QLoRA section 3).
WEIGHT_BYTES = {"fp32": 4.0, "bf16": 2.0, "fp16": 2.0, "4bit": (4 + 0.127) / 8}
# Two moments for each trained parameter; torch's AdamW keeps them in the parameter's own dtype.
# The 8-bit kind adds one float32 scale for each 256 values of each moment.
OPTIMIZER_BYTES = {"adamw_fp32": 8.0, "adamw_16bit": 4.0, "adamw_8bit": 2 + 2 * 4 / 256}
# One logit on its way to a log-prob: 16 bits as computed, then in float32, over the temperature,
# and as log softmax. Float32 logits need no cast, and one more buffer in the backward pass.
LOGIT_BYTES = {2: 14, 4: 16}
ALL_LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class ModelShape:
    """Sizes of a Qwen3 model: no biases, a norm on queries and keys, gated feed-forward layer."""

    name: str
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    tied: bool = True  # the output head is the embedding

    @classmethod
    def from_config(cls, config: Any) -> "ModelShape":
        """The shape in a transformers config. ValueError for another architecture than Qwen3."""
        if config.model_type != "qwen3" or config.attention_bias:
            raise ValueError(
                "the formulas hold for 'qwen3' without attention biases, not for "
                f"{config.model_type!r}: count such a model's parameters themselves"
            )
        return cls(
            name=config.name_or_path.rstrip("/").rpartition("/")[2] or "model",
            hidden=config.hidden_size,
            intermediate=config.intermediate_size,
            layers=config.num_hidden_layers,
            heads=config.num_attention_heads,
            kv_heads=config.num_key_value_heads,
            head_dim=config.head_dim,
            vocab=config.vocab_size,
            tied=config.tie_word_embeddings,
        )

    @property
    def linears(self) -> dict[str, tuple[int, int]]:
        """(in, out) of each linear layer of a block."""
        h, i = self.hidden, self.intermediate
        q, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        sizes = ((h, q), (h, kv), (h, kv), (q, h), (h, i), (h, i), (i, h))
        return dict(zip(ALL_LINEAR, sizes, strict=True))

    @property
    def parameters(self) -> int:
        """V h (twice if untied) + layers * (linear layers + 2 h + 2 head_dim) + h."""
        norms = self.layers * 2 * (self.hidden + self.head_dim) + self.hidden
        return (2 - self.tied) * self.vocab * self.hidden + self.linear_parameters + norms

    @property
    def linear_parameters(self) -> int:
        """Weights in the blocks' linear layers: what 4-bit loading shrinks."""
        return self.layers * sum(n_in * n_out for n_in, n_out in self.linears.values())


QWEN3_0_6B = ModelShape("Qwen3-0.6B", 1024, 3072, 28, 16, 8, 128, 151936)
QWEN3_4B = ModelShape("Qwen3-4B", 2560, 9728, 36, 32, 8, 128, 151936)


@dataclass(frozen=True)
class Card:
    """A GPU by its vendor's data sheet (dense TFLOPS); memory is what the driver leaves, in GiB."""

    name: str
    memory: float
    bandwidth: float  # GB/s, 1e9
    tflops: float  # 16-bit tensor cores, no sparsity
    bf16: bool = True


CARDS = {
    card.name: card
    for card in (
        Card("T4", 15.0, 320, 65, bf16=False),
        Card("L4", 22.5, 300, 121),
        Card("A100-40GB", 40.0, 1555, 312),
        Card("A100-80GB", 80.0, 2039, 312),  # SXM; the PCIe card has 1935 GB/s
        Card("H100-80GB", 79.6, 3350, 989),  # SXM
    )
}


def weight_bytes(shape: ModelShape, weights: str = "bf16") -> float:
    """Bytes of the weights. In 4 bits only the blocks' linear layers are; the rest has 16."""
    if weights == "4bit":
        rest = shape.parameters - shape.linear_parameters
        return shape.linear_parameters * WEIGHT_BYTES["4bit"] + rest * WEIGHT_BYTES["bf16"]
    return shape.parameters * WEIGHT_BYTES[weights]


def lora_parameters(shape: ModelShape, rank: int, targets: Sequence[str] = ALL_LINEAR) -> int:
    """layers * sum over targets of rank * (in + out)."""
    return shape.layers * sum(rank * sum(shape.linears[name]) for name in targets)


def kv_bytes_per_token(shape: ModelShape, element: int = 2) -> int:
    """2 (key and value) * layers * kv_heads * head_dim * bytes of an element."""
    return 2 * shape.layers * shape.kv_heads * shape.head_dim * element


def layer_bytes_per_token(
    shape: ModelShape, rank: int = 0, targets: Sequence[str] = ALL_LINEAR, element: int = 2
) -> int:
    """What one block keeps for the backward pass, a token, in bytes; rank 0: all weights trained.

    b bytes an element, h hidden, i intermediate, q and k the widths of query and key:

    8h + (4 + 2b)(q + k) + 3b i + 4 (2 + 2 heads + kv_heads)    inputs of the norms in float32
    + 4b h + b (q + k) + b i                                    all trained: linear layers' inputs
    or + 4 (widths of the adapters' inputs + rank a target)     LoRA: float32 copies of the inputs

    For transformers' Qwen3 with fused attention (`sdpa`: no L x L matrix) and PEFT's float32
    adapters, without autocast or dropout. Temporary buffers of the backward pass are not counted.
    """
    b, h, i = element, shape.hidden, shape.intermediate
    q, k = (shape.linears[name][1] for name in ("q_proj", "k_proj"))
    kept = 8 * h + (4 + 2 * b) * (q + k) + 3 * b * i + 4 * (2 + 2 * shape.heads + shape.kv_heads)
    if not rank:
        return kept + 4 * b * h + b * (q + k) + b * i
    copies = set(targets)
    if b == 4:  # no cast, no copy: adapters on one input share it, and o_proj's is kept anyway
        shared = {"k_proj": "q_proj", "v_proj": "q_proj", "up_proj": "gate_proj"}
        copies = {shared.get(name, name) for name in targets} - {"o_proj"}
    widths = sum(shape.linears[name][0] for name in copies)
    return kept + 4 * (widths + rank * len(targets))


def activation_bytes(
    shape: ModelShape,
    tokens: int,
    rank: int = 0,
    targets: Sequence[str] = ALL_LINEAR,
    element: int = 2,
    checkpointing: bool = False,
) -> int:
    """Kept between forward and backward for a micro-batch of `tokens` (rows * length).

    tokens * layers * layer_bytes_per_token. With gradient checkpointing tokens * (layers * h * b +
    layer_bytes_per_token): each block's input, and all of the one block that is being recomputed.
    Not counted: embedding, last norm (a few h a token) and logits, see `logits_bytes`.
    """
    kept = layer_bytes_per_token(shape, rank, targets, element)
    if checkpointing:
        return tokens * (shape.layers * shape.hidden * element + kept)
    return tokens * shape.layers * kept


def logits_bytes(shape: ModelShape, tokens: int, element: int = 2, chunk: int | None = None) -> int:
    """Peak of turning logits of `tokens` completion tokens into log-probs, and back.

    tokens * V * 14 bytes for 16-bit logits, 16 for float32. With a chunk only that many tokens have
    logits at once: each chunk's are computed again in the backward pass.
    """
    return min(tokens, chunk or tokens) * shape.vocab * LOGIT_BYTES[element]
