"""The engine for a CPU and for small GPUs: transformers and PEFT, sampled by `utils.rollout`."""

import contextlib
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from peft import LoraConfig, get_peft_model

from engines.base import Engine
from utils.models import load_policy, load_tokenizer
from utils.profiles import Profile
from utils.rollout import Rollout, sample


class TransformersEngine(Engine):
    """A PEFT model on the profile's device; one copy of the weights trains and samples."""

    name = "transformers"

    @classmethod
    def load(
        cls,
        profile: Profile,
        max_length: int,
        rank: int,
        alpha: int,
        target_modules: list[str],
        seed: int,
        new_tokens: list[str],
    ) -> "TransformersEngine":
        """Arguments and errors as in `engines.load`."""
        base, tokenizer = load_policy(profile), load_tokenizer(profile)
        if max_length > base.config.max_position_embeddings:
            raise ValueError(
                f"max_length={max_length} exceeds the model's context of "
                f"{base.config.max_position_embeddings} tokens"
            )
        torch.manual_seed(seed)
        rows = None
        if new_tokens:
            # As ordinary tokens: decoding without special tokens must keep them.
            tokenizer.add_tokens(new_tokens)
            base.resize_token_embeddings(len(tokenizer))
            # Each checkpoint of a trainer would warn that it keeps the resized embedding too.
            warnings.filterwarnings("ignore", message="Setting `save_embedding_layers`")
            rows = {"embed_tokens": tokenizer.convert_tokens_to_ids(new_tokens)}
        config = LoraConfig(
            r=rank,
            lora_alpha=alpha,
            target_modules=target_modules,
            lora_dropout=0.0,
            bias="none",
            trainable_token_indices=rows,
            task_type="CAUSAL_LM",
        )
        return cls(profile, get_peft_model(base, config), tokenizer)

    def rollout(
        self,
        prompts: Sequence[Sequence[int]],
        group_size: int,
        max_new_tokens: int,
        temperature: float = 1.0,
        seed: int = 0,
        stop_ids: Sequence[int] | None = None,
        adapter: bool = True,
    ) -> Rollout:
        """See `Engine.rollout`."""
        off = contextlib.nullcontext() if adapter else self.model.disable_adapter()
        with off:
            return sample(
                self.model,
                self.tokenizer,
                prompts,
                group_size=group_size,
                max_new_tokens=max_new_tokens,
                temperature=temperature,
                generator=torch.Generator(self.model.device).manual_seed(seed),
                max_batch=self.profile.rollout_batch,
                stop_ids=stop_ids,
            )

    def training_options(self) -> dict[str, Any]:
        """float32 without checkpointing on a CPU, bfloat16 with it on a GPU."""
        on_cpu = self.profile.device == "cpu"
        return {
            "use_cpu": on_cpu,
            "bf16": not on_cpu,
            "optim": "adamw_torch",
            "gradient_checkpointing": not on_cpu,
            "dataloader_pin_memory": not on_cpu,
            "report_to": "none",
            "seed": self.profile.seed,
        }

    def sft_options(self) -> dict[str, Any]:
        """One padded sequence a row, and the plain loss: the same as under Unsloth."""
        return {"loss_type": "nll", "padding_free": False}

    def grpo_options(self, stop_ids: Sequence[int] | None = None) -> dict[str, Any]:
        """Plain sampling; TRL ends a completion at `tokenizer.eos_token` and nowhere else.

        Raises ValueError for `stop_ids` without that token.
        """
        if stop_ids is not None and self.tokenizer.eos_token_id not in stop_ids:
            raise ValueError(
                f"TRL's own sampler stops at tokenizer.eos_token ({self.tokenizer.eos_token!r}), "
                "which stop_ids lack: set tokenizer.eos_token to the token that ends an answer"
            )
        return {"use_vllm": False, "top_p": 1.0, "top_k": 0, "min_p": None}
