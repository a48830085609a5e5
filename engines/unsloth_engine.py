"""The engine for one large GPU: Unsloth trains, vLLM samples, both from one copy of the weights.

On Unsloth's CPU backend, which exists for tests, there is no vLLM inside: `rollout` says so.
"""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engines.base import Engine
from engines.vllm_sampler import rollout_from_outputs, sampling_params
from utils.chat import stop_token_ids
from utils.logprobs import gather_logprobs
from utils.models import checkpoint_path, load_tokenizer
from utils.profiles import Profile
from utils.rollout import Rollout


class UnslothEngine(Engine):
    """Unsloth's model in 16 bit with vLLM inside; `check_machine` has imported Unsloth."""

    name = "unsloth"

    def __init__(self, profile: Profile, model: Any, tokenizer: Any) -> None:
        super().__init__(profile, model, tokenizer)
        self._scratch = tempfile.TemporaryDirectory()
        self._sampled: tuple[str, Any] | None = None  # the adapter that vLLM holds, its request

    @classmethod
    def load(
        cls,
        profile: Profile,
        max_length: int,
        rank: int,
        alpha: int,
        target_modules: list[str],
        seed: int,
        gpu_memory_utilization: float,
    ) -> "UnslothEngine":
        """Arguments and errors as in `engines.load`."""
        from unsloth import FastLanguageModel

        on_gpu = profile.device != "cpu"
        torch.manual_seed(seed)
        base, _ = FastLanguageModel.from_pretrained(
            model_name=checkpoint_path(profile, "base"),
            max_seq_length=max_length,
            dtype=profile.dtype,
            load_in_4bit=False,
            fast_inference=on_gpu,  # vLLM, on the same weights
            max_lora_rank=rank,
            gpu_memory_utilization=gpu_memory_utilization,
            use_exact_model_name=True,  # or Unsloth may load its own copy of the model
            trust_remote_code=False,
            random_state=seed,
        )
        if on_gpu and not hasattr(base, "vllm_engine"):  # it prints why and goes on without
            raise RuntimeError(
                "Unsloth loaded the model without vLLM: compare the installed vllm with "
                "constraints-gpu.txt and read what Unsloth printed above"
            )
        context = base.config.max_position_embeddings
        if max_length > context:
            raise ValueError(f"max_length={max_length} exceeds the model's context of {context}")
        model = FastLanguageModel.get_peft_model(
            base,
            r=rank,
            lora_alpha=alpha,
            target_modules=target_modules,
            lora_dropout=0.0,
            bias="none",
            use_gradient_checkpointing="unsloth",
            random_state=seed,
        )
        return cls(profile, model, load_tokenizer(profile))

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
        """See `Engine.rollout`. The adapter goes to vLLM through a folder, when it has changed.

        Raises RuntimeError on the CPU backend.
        """
        if not hasattr(self.model, "vllm_engine"):
            raise RuntimeError("Unsloth samples with vLLM, which it starts on a GPU only")
        stops = list(stop_ids or stop_token_ids(self.tokenizer))
        outputs = self.model.fast_generate(
            [{"prompt_token_ids": list(prompt)} for prompt in prompts],
            sampling_params(len(prompts), group_size, max_new_tokens, temperature, seed, stops),
            use_tqdm=False,
            # Without a request vLLM samples from the base weights, which training never changes.
            lora_request=self._request() if adapter else None,
        )
        return rollout_from_outputs(
            outputs, prompts, group_size, self.tokenizer, stops, self.profile.device
        )

    def _request(self) -> Any:
        """vLLM's request for the current adapter; None while every B is still zero."""
        digest, trained = hashlib.sha256(), False
        for name, weight in self.adapter_weights():
            digest.update(weight.float().cpu().numpy().tobytes())
            trained = trained or (".lora_B." in name and bool(weight.any()))
        if not trained:
            return None
        content = digest.hexdigest()
        if self._sampled is None or self._sampled[0] != content:
            folder = Path(self._scratch.name) / "adapter"
            shutil.rmtree(folder, ignore_errors=True)
            self.model.save_lora(str(folder))
            self._sampled = (content, self.model.load_lora(str(folder)))
        return self._sampled[1]

    def training_options(self) -> dict[str, Any]:
        """bfloat16 with the 8-bit Adam; fields whose default Unsloth replaces get TRL's value."""
        on_gpu = self.profile.device != "cpu"
        return {
            "use_cpu": not on_gpu,
            "bf16": on_gpu,
            "optim": "adamw_8bit" if on_gpu else "adamw_torch",
            "gradient_checkpointing": True,
            "dataloader_pin_memory": on_gpu,
            "report_to": "none",
            "seed": self.profile.seed,
            "per_device_eval_batch_size": 8,
            "eval_accumulation_steps": None,
            "torch_empty_cache_steps": None,
            "logging_nan_inf_filter": True,
            "include_num_input_tokens_seen": "no",
        }

    def sft_options(self) -> dict[str, Any]:
        """One padded sequence a row, and the loss that Unsloth's kernels compute."""
        return {"loss_type": "nll", "padding_free": False}

    def grpo_options(self, stop_ids: Sequence[int] | None = None) -> dict[str, Any]:
        """vLLM samples the plain distribution, and the loss corrects what it does differently.

        The importance weight exp(trainer's log-prob - vLLM's) of each token is cut off at 3.
        """
        stops = list(stop_ids or stop_token_ids(self.tokenizer))
        return {
            "use_vllm": self.profile.device != "cpu",
            "vllm_mode": "colocate",
            "top_p": 1.0,
            "top_k": -1,  # off
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            # TRL hands these to vLLM's SamplingParams.
            "generation_kwargs": {"stop_token_ids": stops},
            "vllm_importance_sampling_correction": True,
            "vllm_importance_sampling_mode": "token_truncate",
            "vllm_importance_sampling_clip_max": 3.0,
            "router_aux_loss_coef": 0.0,
        }

    def _write_adapter(self, folder: Path) -> None:
        self.model.save_lora(str(folder))

    @torch.no_grad()
    def trainer_logprobs(self, rollout: Rollout, temperature: float = 1.0) -> Tensor:
        """Row by row, without padding: Unsloth's forward pass differs with it."""
        result = torch.zeros_like(rollout.logprobs)
        for row, length in enumerate(rollout.lengths.tolist()):
            logits = self.row_logits(rollout, row) / (temperature or 1.0)
            result[row, :length] = gather_logprobs(logits, rollout.completion_ids[row, :length])
        return result

    @contextmanager
    def _forward(self) -> Iterator[None]:
        half = self.profile.dtype != torch.float32
        device = torch.device(self.profile.device).type
        with _real_logits(), torch.autocast(device, self.profile.dtype, enabled=half):
            yield


@contextmanager
def _real_logits() -> Iterator[None]:
    """Unsloth's GRPO trainer makes `.logits` hold hidden states; switch that off for a block."""
    name = "UNSLOTH_RETURN_HIDDEN_STATES"
    before = os.environ.get(name)
    os.environ[name] = "0"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
