"""vLLM as a sampler: what we ask of it, and its answer as a `Rollout`. vLLM is imported late."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from utils.chat import pad_left, pad_right, stop_token_ids
from utils.rollout import Rollout

LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # what vLLM's `max_lora_rank` may be


def sampling_params(
    prompts: int,
    group_size: int,
    max_new_tokens: int,
    temperature: float,
    seed: int,
    stop_ids: Sequence[int],
) -> list[Any]:
    """One vLLM `SamplingParams` a prompt: the plain distribution, nothing truncated.

    vLLM gives completion g of a prompt the seed of the prompt plus g, so prompts are `group_size`
    seeds apart: two equal prompts get different completions. `logprobs=0` asks for the sampled
    token's alone. `ignore_eos` with our own stop tokens: the end is decided here, not by the
    checkpoint's generation_config. vLLM takes one greedy sample only, so n is 1 there.
    """
    from vllm import SamplingParams

    return [
        SamplingParams(
            n=group_size if temperature else 1,
            temperature=temperature,
            top_p=1.0,
            top_k=0,  # off
            min_p=0.0,
            max_tokens=max_new_tokens,
            seed=seed + prompt * group_size,
            stop_token_ids=list(stop_ids),
            ignore_eos=True,
            logprobs=0,
            detokenize=False,
        )
        for prompt in range(prompts)
    ]


def rollout_from_outputs(
    outputs: Sequence[Any],
    prompts: Sequence[Sequence[int]],
    group_size: int,
    tokenizer: PreTrainedTokenizerBase,
    stop_ids: Sequence[int],
    device: torch.device | str = "cpu",
) -> Rollout:
    """vLLM's `RequestOutput`s, one a prompt and in their order, as a `Rollout` on `device`.

    vLLM leaves the stop token in `token_ids`, so it counts in ids, mask and log-probs. A single
    output stands for the whole group (greedy). Log-probs are taken as vLLM gives them: at the
    sampling temperature, if the engine runs with `logprobs_mode="processed_logprobs"`.
    Raises ValueError for outputs that do not fit the prompts or lack log-probs.
    """
    if len(outputs) != len(prompts):
        raise ValueError(f"{len(outputs)} outputs for {len(prompts)} prompts")
    rows: list[list[int]] = []
    logprobs: list[list[float]] = []
    for number, output in enumerate(outputs):
        answers = list(output.outputs)
        if len(answers) not in (1, group_size):
            raise ValueError(f"prompt {number} has {len(answers)} outputs, not {group_size}")
        for answer in answers * (group_size // len(answers)):
            ids = list(answer.token_ids)
            if not ids or answer.logprobs is None or len(answer.logprobs) != len(ids):
                raise ValueError(
                    f"prompt {number}: {len(ids)} tokens without one log-prob each; sample with "
                    "SamplingParams(logprobs=0)"
                )
            rows.append(ids)
            steps = zip(ids, answer.logprobs, strict=True)
            logprobs.append([step[token].logprob for token, step in steps])
    completion_ids, mask = pad_right(rows, tokenizer.pad_token_id)
    values = torch.zeros(mask.shape)
    for row, logs in enumerate(logprobs):
        values[row, : len(logs)] = torch.tensor(logs)
    finished = [ids[-1] in set(stop_ids) for ids in rows]
    prompt_ids, prompt_mask = pad_left(prompts, tokenizer.pad_token_id)
    return Rollout(
        prompt_ids=prompt_ids.to(device),
        prompt_mask=prompt_mask.to(device),
        completion_ids=completion_ids.to(device),
        mask=mask.to(device),
        logprobs=values.to(device),
        texts=[
            tokenizer.decode(ids[:-1] if ended else ids, clean_up_tokenization_spaces=False)
            for ids, ended in zip(rows, finished, strict=True)
        ],
        finished=torch.tensor(finished, device=device),
        group_size=group_size,
    )


class VllmSampler:
    """vLLM's engine on a saved model. On a CPU: dtype="float32", enforce_eager=True.

    gpu_memory_utilization: share of the GPU for weights and key-value cache (on a CPU, the
    environment variable VLLM_CPU_KVCACHE_SPACE sets GiB). max_lora_rank: above 0 turns adapters
    on; at least the rank of the adapters. Use it in a `with` block, or call `close`.
    """

    def __init__(
        self,
        model_folder: str | Path,
        tokenizer: PreTrainedTokenizerBase,
        max_model_len: int,
        dtype: str = "bfloat16",
        enforce_eager: bool = False,
        gpu_memory_utilization: float = 0.6,
        max_lora_rank: int = 0,
        seed: int = 0,
    ) -> None:
        from vllm import LLM

        ranks = [rank for rank in LORA_RANKS if rank >= max_lora_rank]
        if not ranks:
            raise ValueError(f"vLLM serves adapters up to rank {LORA_RANKS[-1]}")
        self.tokenizer = tokenizer
        self.with_adapters = max_lora_rank > 0
        self._adapters: dict[str, int] = {}  # content -> the id vLLM knows it by
        self._llm = LLM(
            model=str(model_folder),
            dtype=dtype,
            max_model_len=max_model_len,
            enforce_eager=enforce_eager,
            gpu_memory_utilization=gpu_memory_utilization,
            # A prompt cut in two makes vLLM rewind the seeded noise; a CPU's cannot be rewound.
            enable_chunked_prefill=torch.cuda.is_available(),
            enable_lora=self.with_adapters,
            max_lora_rank=ranks[0] if self.with_adapters else LORA_RANKS[2],
            # Log-probs after the temperature: those of the distribution sampled from.
            logprobs_mode="processed_logprobs",
            trust_remote_code=False,
            seed=seed,
        )

    def rollout(
        self,
        prompts: Sequence[Sequence[int]],
        group_size: int,
        max_new_tokens: int,
        temperature: float = 1.0,
        seed: int = 0,
        stop_ids: Sequence[int] | None = None,
        adapter: str | Path | None = None,
    ) -> Rollout:
        """As `Engine.rollout`, on the CPU; adapter: a folder that `save_adapter` wrote, or None.

        Raises ValueError for an adapter when the sampler was made without `max_lora_rank`.
        """
        stops = list(stop_ids or stop_token_ids(self.tokenizer))
        outputs = self._llm.generate(
            [{"prompt_token_ids": list(prompt)} for prompt in prompts],
            sampling_params(len(prompts), group_size, max_new_tokens, temperature, seed, stops),
            use_tqdm=False,
            lora_request=self._request(adapter),
        )
        return rollout_from_outputs(outputs, prompts, group_size, self.tokenizer, stops)

    def _request(self, adapter: str | Path | None) -> Any:
        """vLLM caches adapters, and prompts, by id: a folder with new content needs a new one."""
        if adapter is None:
            return None
        if not self.with_adapters:
            raise ValueError("this sampler takes no adapters: make it with max_lora_rank=<rank>")
        from vllm.lora.request import LoRARequest

        weights = Path(adapter).absolute() / "adapter_model.safetensors"
        content = hashlib.sha256(weights.read_bytes()).hexdigest()
        number = self._adapters.setdefault(content, len(self._adapters) + 1)
        return LoRARequest(
            lora_name=f"adapter-{number}", lora_int_id=number, lora_path=str(weights.parent)
        )

    def refresh(self, model_folder: str | Path) -> None:
        """Take the weights of another saved model of the same shape, after a training step.

        Raises ValueError with adapters on: vLLM has wrapped the layers then. Pass the new
        adapter to `rollout` instead.
        """
        if self.with_adapters:
            raise ValueError("refresh needs a sampler without adapters: pass adapter= to rollout")
        self._llm.collective_rpc("reload_weights", kwargs={"weights_path": str(model_folder)})
        self._llm.reset_prefix_cache()  # it holds keys and values of the old weights

    def close(self) -> None:
        """Stop the engine and free its memory."""
        self._llm.llm_engine.engine_core.shutdown()

    def __enter__(self) -> "VllmSampler":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
