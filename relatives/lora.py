"""LoRA by hand: the layer, putting it into a model, merging it back. Beside PEFT: docs/lora.md."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors.torch import save_file
from torch import Tensor, nn

from utils.models import ADAPTER, HEAD, checkpoint_path, whole_folder
from utils.profiles import Profile

PROVENANCE = "provenance.json"  # beside weights, by `make model`


class LoRALinear(nn.Module):
    """A frozen linear layer with a trainable low-rank update (Hu et al. 2021, eq. 3).

    h = W0 x + (alpha / rank) B A x,  A = lora_a (rank, in), B = lora_b (out, rank)

    B starts at zero, so the layer starts out equal to the one it wraps; A starts Kaiming uniform.
    Dropout acts on the input of the update only. Over half-precision weights A and B are kept, and
    their update computed, in float32: small optimizer steps would round away.
    """

    def __init__(self, base: nn.Linear, rank: int, alpha: float, dropout: float = 0.0) -> None:
        super().__init__()
        if rank < 1:
            raise ValueError(f"rank must be at least 1, not {rank}")
        weight = base.weight
        dtype = torch.promote_types(weight.dtype, torch.float32)
        self.base = base.requires_grad_(False)
        self.lora_a = nn.Parameter(weight.new_empty(rank, base.in_features, dtype=dtype))
        self.lora_b = nn.Parameter(weight.new_zeros(base.out_features, rank, dtype=dtype))
        nn.init.kaiming_uniform_(self.lora_a, a=math.sqrt(5))
        self.dropout = nn.Dropout(dropout)
        self.scaling = alpha / rank

    def forward(self, x: Float[Tensor, "... in"]) -> Float[Tensor, "... out"]:
        h = self.base(x)
        low_rank = self.dropout(x.to(self.lora_a.dtype)) @ self.lora_a.T  # (..., rank)
        return (h + self.scaling * (low_rank @ self.lora_b.T)).to(h.dtype)

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        """The wrapped layer with W0 + (alpha / rank) B A as its weight; changes it in place."""
        weight = self.base.weight
        update = self.scaling * (self.lora_b @ self.lora_a)  # (out, in)
        weight.copy_(weight.to(update.dtype) + update)
        return self.base


def _adapters(model: nn.Module) -> dict[str, LoRALinear]:
    return {name: m for name, m in model.named_modules() if isinstance(m, LoRALinear)}


def inject_lora(
    model: nn.Module,
    rank: int,
    alpha: float,
    target_modules: Sequence[str],
    dropout: float = 0.0,
) -> nn.Module:
    """Freeze the model and wrap its linear layers of the given names; changes and returns it.

    A name matches whole path components from the right: `q_proj` is every layer's q_proj,
    `0.self_attn.q_proj` the first layer's. Raises ValueError, before it changes anything, when the
    model already has LoRA, a name matches no linear layer, or a weight to be wrapped is shared with
    another module (a tied output head): merging would change both.
    """
    if _adapters(model):
        raise ValueError("the model already has LoRA layers: call merge_lora(model) first")
    targets = [target_modules] if isinstance(target_modules, str) else list(target_modules)
    linears = {n: m for n, m in model.named_modules() if n and isinstance(m, nn.Linear)}
    chosen = {n: m for n, m in linears.items() if any(f".{n}".endswith(f".{t}") for t in targets)}
    unmatched = [t for t in targets if not any(f".{n}".endswith(f".{t}") for n in chosen)]
    if unmatched or not chosen:
        names = sorted({name.rpartition(".")[2] for name in linears})
        raise ValueError(f"no linear layer is called {unmatched}; this model has {names}")
    for name, linear in chosen.items():
        everywhere = model.named_parameters(remove_duplicate=False)
        if sum(p is linear.weight for _, p in everywhere) > 1:
            raise ValueError(
                f"{name} shares its weight with another module (tied embeddings?), "
                "which merging would change too: leave it out of target_modules"
            )
    model.requires_grad_(False)
    for name, linear in chosen.items():
        wrapped = LoRALinear(linear, rank, alpha, dropout)
        # In the linear's mode, or dropout would be active in an eval-mode model.
        model.set_submodule(name, wrapped.train(linear.training))
    return model


def train_token_rows(model: nn.Module, token_ids: Sequence[int]) -> nn.Parameter:
    """Make the embedding rows of these tokens trainable; returns the embedding for the optimizer.

    LoRA freezes the embedding. The row of a control token that the base model never saw is useless,
    and with tied embeddings it is also the row that should predict the token: train it. The other
    rows get no gradient (use no weight decay).
    """
    weight = model.get_input_embeddings().weight.requires_grad_(True)
    kept = torch.zeros(weight.shape[0], 1, device=weight.device, dtype=weight.dtype)
    kept[list(token_ids)] = 1
    weight.register_hook(lambda gradient: gradient * kept)
    return weight


def merge_lora(model: nn.Module) -> nn.Module:
    """Fold every update into its weight and put the plain `nn.Linear` back; changes and returns it.

    The result is an ordinary model again: same outputs (in eval mode), ordinary checkpoint keys,
    all parameters trainable.
    """
    adapters = _adapters(model)
    if not adapters:
        raise ValueError("the model has no LoRA layers to merge")
    for name, module in adapters.items():
        model.set_submodule(name, module.merged())
    return model.requires_grad_(True)


def lora_parameters(model: nn.Module) -> list[nn.Parameter]:
    """The A and B of every LoRA layer: what the optimizer gets."""
    return [p for m in _adapters(model).values() for p in (m.lora_a, m.lora_b)]


def provenance(profile: Profile) -> dict[str, Any]:
    """Where the base's weights come from: to be stored beside every number made with them."""
    file = Path(checkpoint_path(profile, "base")) / PROVENANCE
    if file.is_file():
        return json.loads(file.read_text(encoding="utf-8"))
    return {"source": profile.base_model, "weights": "as published"}


def save_adapter(
    model: nn.Module, folder: str | Path, profile: Profile, starts_from: str = "base"
) -> Path:
    """Write only what LoRA trained, in half precision and the format of PEFT, whole or not at all.

    A and B of every layer, and the head of a reward model. `starts_from`: the stage whose weights
    they are added to; `models.load_policy` and `load_reward_model` add them again. ValueError when
    the model has no LoRA layers, or other weights train that the adapter would lose.
    """
    adapters, head = _adapters(model), getattr(model, "score", None)
    if not adapters:
        raise ValueError("the model has no LoRA layers: save it with models.save_checkpoint")
    kept = {id(p) for p in [*lora_parameters(model), *(head.parameters() if head else ())]}
    lost = [n for n, p in model.named_parameters() if p.requires_grad and id(p) not in kept]
    if lost:
        raise ValueError(f"an adapter would lose {lost[0]}, which trains too: save it merged")
    tensors = {f"{n}.lora_A.weight": m.lora_a for n, m in adapters.items()}
    tensors |= {f"{n}.lora_B.weight": m.lora_b for n, m in adapters.items()}
    first = next(iter(adapters.values()))
    said = {key: value for key, value in provenance(profile).items() if isinstance(value, str)}
    rank = len(first.lora_a)
    config = {
        "peft_type": "LORA",
        "base_model_name_or_path": said.get("model", profile.base_model),
        "r": rank,
        "lora_alpha": first.scaling * rank,
        "target_modules": sorted(adapters),
        "modules_to_save": ["score"] if head else None,
        "inference_mode": True,
    }
    tensors = {f"base_model.model.{name}": tensor for name, tensor in tensors.items()}
    tensors |= {HEAD: head.weight} if head else {}
    halves = {name: t.detach().half().cpu().contiguous() for name, t in tensors.items()}
    with whole_folder(folder) as fresh:
        save_file(halves, fresh / ADAPTER, said | {"format": "pt", "starts_from": starts_from})
        (fresh / "adapter_config.json").write_text(json.dumps(config, indent=1) + "\n")
    return Path(folder).expanduser().absolute()
