"""What the engines share: adapters on disk, the merged model, log-probs of the training model."""

import contextlib
import json
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from utils.logprobs import completion_logprobs
from utils.models import load_policy, save_checkpoint, whole_folder
from utils.profiles import Profile
from utils.rollout import Rollout

ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")
SAME_LORA = ("r", "lora_alpha", "target_modules")  # what has to agree to load an adapter
LOGITS_AT_ONCE = 2**28  # values in one forward pass of `trainer_logprobs`: 1 GiB in float32


class Engine(ABC):
    """A base model with one trainable LoRA adapter, how to sample from it and how to store it.

    name: "transformers" or "unsloth". model: the PEFT model that a trainer gets. tokenizer: as
    `models.load_tokenizer` gives it.
    """

    name: str

    def __init__(
        self, profile: Profile, model: PeftModel, tokenizer: PreTrainedTokenizerBase
    ) -> None:
        self.profile, self.model, self.tokenizer = profile, model, tokenizer

    @abstractmethod
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
        """Sample `group_size` completions a prompt (token ids) from the model as it is now.

        adapter=False samples from the untouched base model. stop_ids: default
        `chat.stop_token_ids`. Log-probs are those of the distribution sampled from, as in
        `rollout.sample`: no top-p, top-k or min-p. The same seed repeats the same noise.
        """

    @abstractmethod
    def training_options(self) -> dict[str, Any]:
        """Fields that SFTConfig and GRPOConfig share and that depend on the machine.

        What a lesson chooses is not among them: learning rate, batch, warm-up, weight decay.
        """

    @abstractmethod
    def sft_options(self) -> dict[str, Any]:
        """Fields of SFTConfig alone that depend on the machine."""

    @abstractmethod
    def grpo_options(self, stop_ids: Sequence[int] | None = None) -> dict[str, Any]:
        """Fields of GRPOConfig alone that depend on the machine."""

    def save_adapter(self, folder: str | Path) -> Path:
        """Write the adapter to `folder`, whole or not at all; an older one is replaced.

        Raises ValueError when every B is zero: the adapter was never trained.
        """
        if not any(b.any() for name, b in self.adapter_weights() if ".lora_B." in name):
            raise ValueError("every lora_B is zero: the adapter was never trained")
        with whole_folder(folder) as fresh:
            self._write_adapter(fresh)
        return Path(folder)

    def load_adapter(self, folder: str | Path) -> None:
        """Read an adapter that `save_adapter` wrote into `model`, in place.

        Raises FileNotFoundError for a folder without one (pickle files are not read), ValueError
        for an adapter of another rank, alpha or other layers.
        """
        folder = Path(folder)
        missing = [name for name in ADAPTER_FILES if not (folder / name).is_file()]
        if missing:
            raise FileNotFoundError(f"{folder} holds no adapter: {' and '.join(missing)} missing")
        saved = json.loads((folder / ADAPTER_FILES[0]).read_text(encoding="utf-8"))
        config = self.model.peft_config["default"]
        for field in SAME_LORA:
            was, now = saved.get(field), getattr(config, field)
            if field == "target_modules":
                was, now = sorted(was or []), sorted(now)
            if was != now:
                raise ValueError(f"{folder} has {field} {was}, this model has {now}: load the same")
        weights = load_file(folder / ADAPTER_FILES[1])
        expected = len(get_peft_model_state_dict(self.model, save_embedding_layers=False))
        if len(weights) != expected:
            raise ValueError(f"{folder} has {len(weights)} tensors, this adapter has {expected}")
        report = set_peft_model_state_dict(self.model, weights, adapter_name="default")
        if report.unexpected_keys:
            raise ValueError(f"{folder} has tensors of other layers: {report.unexpected_keys[0]}")

    def merge(self, folder: str | Path) -> Path:
        """Write base + adapter as an ordinary model (safetensors, tokenizer) to `folder`.

        In the profile's dtype: bfloat16 on a GPU. A second copy of the base is loaded into the
        computer's memory (2 bytes a parameter in bfloat16) and merged there, so `model` stays as
        it is. Whole or not at all. Raises ValueError as `save_adapter` does.
        """
        with tempfile.TemporaryDirectory() as scratch:
            adapter = self.save_adapter(Path(scratch) / "adapter")
            base = load_policy(replace(self.profile, device="cpu"))
            if len(self.tokenizer) > base.config.vocab_size:  # tokens were added
                base.resize_token_embeddings(len(self.tokenizer))
            merged = PeftModel.from_pretrained(base, str(adapter)).merge_and_unload()
            return save_checkpoint(merged, self.tokenizer, folder)

    @torch.no_grad()
    def trainer_logprobs(self, rollout: Rollout, temperature: float = 1.0) -> Tensor:
        """Log-probs (B, T) that the training model gives to a rollout's tokens; 0 where masked.

        `temperature` as in the rollout (0 counts as 1, as greedy rollouts do). The distance to
        `rollout.logprobs` is the gap between sampler and trainer.
        """
        width = rollout.completion_ids.shape[1]
        rows = max(1, LOGITS_AT_ONCE // (width * self.model.config.vocab_size))
        prompts = (
            x.repeat_interleave(rollout.group_size, dim=0)
            for x in (rollout.prompt_ids, rollout.prompt_mask)
        )
        tensors = [*prompts, rollout.completion_ids, rollout.mask]
        training = self.model.training
        self.model.eval()
        try:
            parts = [
                completion_logprobs(self.model, *chunk, temperature or 1.0)
                for chunk in zip(*(x.split(rows) for x in tensors), strict=True)
            ]
        finally:
            self.model.train(training)
        return torch.cat(parts)

    @torch.no_grad()
    def row_logits(self, rollout: Rollout, row: int) -> Tensor:
        """Logits (t, V), float32, that the training model gives to one completion's t tokens.

        One row and no padding: with a vocabulary of 150,000 a batch would not fit on a GPU.
        """
        of = row // rollout.group_size
        prompt = rollout.prompt_ids[of][rollout.prompt_mask[of].bool()]
        answer = rollout.completion_ids[row][rollout.mask[row].bool()]
        training = self.model.training
        self.model.eval()
        try:
            with self._forward():
                ids = torch.cat([prompt, answer])[None]
                logits = self.model(input_ids=ids, use_cache=False).logits[0]
        finally:
            self.model.train(training)
        return logits[len(prompt) - 1 : -1].float()

    def _forward(self) -> contextlib.AbstractContextManager:
        """What a plain forward pass of the model needs around it."""
        return contextlib.nullcontext()

    def peak_memory(self) -> int | None:
        """Bytes of GPU memory that torch has held at most in this process; None on a CPU."""
        if not self.profile.device.startswith("cuda"):
            return None
        return torch.cuda.max_memory_reserved()

    def adapter_weights(self) -> Iterator[tuple[str, Tensor]]:
        """Name and values of every A and B of the adapter."""
        for name, parameter in self.model.named_parameters():
            if ".lora_A." in name or ".lora_B." in name:
                yield name, parameter.detach()

    def _write_adapter(self, folder: Path) -> None:
        # The rows of added tokens are saved, not the whole embedding around them.
        self.model.save_pretrained(str(folder), save_embedding_layers=False)
