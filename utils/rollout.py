"""The sampler: completions with the log-probabilities they were sampled with."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from utils.arguments import full_precision, not_negative, positive
from utils.cache import grouped, repeated
from utils.chat import pad_left, stop_token_ids
from utils.forward import positions

Prompts = Sequence[str] | Sequence[Sequence[int]]
LEAVE_AT = 0.9  # rows that have ended leave once fewer than this share go on: leaving costs a copy


@dataclass
class Rollout:
    """`Q` prompts with `G = group_size` sampled completions each; `B = Q * G` rows, prompt-major.

    Row `b` answers prompt `b // G`. `T` is the longest completion. Tensors are on the model's
    device and can be used in a loss. Beyond a row's end: pad token, mask 0, log-prob 0.
    """

    prompt_ids: Int[Tensor, "Q P"]  # padded on the left
    prompt_mask: Int[Tensor, "Q P"]  # 1 on prompt tokens
    completion_ids: Int[Tensor, "B T"]  # padded on the right
    mask: Float[Tensor, "B T"]  # 1.0 on completion tokens up to and including the stop token
    logprobs: Float[Tensor, "B T"]  # at the sampling temperature (greedy: at temperature 1)
    texts: list[str]  # B, without the stop token; other special tokens are shown
    finished: Bool[Tensor, " B"]  # ended with a stop token, not at the limit
    group_size: int

    @property
    def lengths(self) -> Int[Tensor, " B"]:
        """Completion tokens of each row, the stop token included."""
        return self.mask.sum(dim=1).long()


@torch.no_grad()
def sample(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Prompts,
    group_size: int,
    max_new_tokens: int,
    temperature: float = 1.0,
    generator: torch.Generator | None = None,
    max_batch: int = 512,
    progress: str | None = None,
    stop_ids: Sequence[int] | None = None,
) -> Rollout:
    """Sample `group_size` completions for each prompt from softmax(logits / temperature).

    No top-k or top-p: the log-probs are those of the distribution sampled from. `temperature=0`
    takes the most likely token. The model samples in eval mode and returns to the mode it was in.

    prompts: lists of token ids, or strings, encoded as they are: no chat template is added, and
    special tokens in them count (`chat.encode_prompt` makes ids for a user's text). generator: on
    the model's device; None uses the global random state. max_batch: rows decoded at once; less
    needs less memory. progress: label of a progress bar. stop_ids: tokens that end a completion;
    default `chat.stop_token_ids(tokenizer)`. Raises ValueError for arguments that make no sense or
    do not fit the model's context, FloatingPointError for NaN.
    """
    positive(group_size=group_size, max_new_tokens=max_new_tokens, max_batch=max_batch)
    not_negative(temperature=temperature)
    ids = _encode(model, tokenizer, prompts, max_new_tokens)
    device, pad_id = model.device, tokenizer.pad_token_id
    stops = torch.tensor(stop_ids or stop_token_ids(tokenizer), device=device)
    shape = len(ids), group_size, max_new_tokens
    chances = torch.zeros(shape, dtype=torch.float64, device=device)
    if temperature > 0:  # one for each token, whatever rows run together
        chances = 1 - chances.uniform_(generator=generator)  # in (0, 1]
    size = max(1, max_batch // group_size)  # prompts decoded at once
    training = model.training
    model.eval()
    try:
        chunks = [
            _decode(model, ids[i : i + size], chances[i : i + size], temperature, stops)
            for i in tqdm(range(0, len(ids), size), progress, disable=progress is None, leave=False)
        ]
    finally:
        model.train(training)
    completion_ids, logprobs = (torch.cat(parts) for parts in zip(*chunks, strict=True))
    mask, finished = _until_stop(completion_ids, stops)
    used = mask.any(0)  # columns that any row reaches
    completion_ids, logprobs, mask = completion_ids[:, used], logprobs[:, used], mask[:, used]
    said = zip(completion_ids.tolist(), (mask.sum(1) - finished.long()).tolist(), strict=True)
    prompt_ids, prompt_mask = pad_left(ids, pad_id)
    return Rollout(
        prompt_ids=prompt_ids.to(device),
        prompt_mask=prompt_mask.to(device),
        completion_ids=completion_ids.masked_fill(~mask, pad_id),
        mask=mask.float(),
        logprobs=logprobs.masked_fill(~mask, 0.0),
        texts=[tokenizer.decode(row[:n], clean_up_tokenization_spaces=False) for row, n in said],
        finished=finished,
        group_size=group_size,
    )


def _encode(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Prompts,
    max_new_tokens: int,
) -> list[list[int]]:
    """The prompts' ids; ValueError where there are none or no room for a completion."""
    if isinstance(prompts, str) or not len(prompts):
        raise ValueError("prompts must be a list with at least one prompt")
    ids = [
        tokenizer.encode(prompt, add_special_tokens=False) if isinstance(prompt, str) else prompt
        for prompt in prompts
    ]
    empty = [number for number, prompt in enumerate(ids) if not len(prompt)]
    if empty:
        raise ValueError(f"prompt {empty[0]} is empty: a model needs at least one token")
    context = getattr(model.config, "max_position_embeddings", None)
    longest = max(map(len, ids))
    if context is not None and longest + max_new_tokens > context:
        raise ValueError(
            f"the longest prompt has {longest} tokens; with max_new_tokens={max_new_tokens} it "
            f"exceeds the model's context of {context}. Drop long prompts or lower the limit."
        )
    return [list(prompt) for prompt in ids]


def _decode(
    model: nn.Module,
    prompts: list[list[int]],
    chances: Float[Tensor, "q G T"],
    temperature: float,
    stops: Int[Tensor, " S"],
) -> tuple[Int[Tensor, "b T"], Float[Tensor, "b T"]]:
    """Completions of a few prompts and their log-probs; behind a stop token anything may stand.

    Each prompt runs through the model once and its key-value cache is shared by its completions;
    rows that have ended leave the batch.
    """
    group_size, length = chances.shape[1:]
    chances = chances.flatten(0, 1)  # (b, T)
    input_ids, mask = (x.to(model.device) for x in pad_left(prompts, pad_id=0))  # (q, P)
    output = model(
        input_ids=input_ids,
        attention_mask=mask,
        position_ids=positions(mask),
        use_cache=True,
        logits_to_keep=1,
    )
    cache = repeated(output.past_key_values, group_size)
    logits = output.logits[:, -1].repeat_interleave(group_size, dim=0)  # (b, V)
    mask = mask.repeat_interleave(group_size, dim=0)  # (b, P)
    start, width = mask.sum(1, keepdim=True), mask.shape[1]  # start (b, 1): the first new position
    mask = torch.cat([mask, torch.ones_like(chances, dtype=mask.dtype)], dim=1)  # (b, P + T)
    ids = torch.zeros_like(chances, dtype=torch.long)
    logprobs = torch.zeros_like(chances, dtype=torch.float32)
    rows = torch.arange(len(ids), device=ids.device)  # still in the batch
    ended = torch.zeros_like(rows, dtype=torch.bool)
    with grouped(model):
        for step in range(length):
            token, logprob = draw(logits, temperature, chances[rows, step])  # (b,) each
            ids[rows, step], logprobs[rows, step] = token, logprob
            ended = ended | torch.isin(token, stops)
            going = (~ended).nonzero()[:, 0]
            if not len(going) or step == length - 1:
                break
            if len(going) < LEAVE_AT * len(rows):
                cache.batch_select_indices(going)
                rows, token, ended = rows[going], token[going], ended[going]
            logits = model(
                input_ids=token[:, None],
                attention_mask=mask[rows, : width + step + 1],
                position_ids=start[rows] + step,
                past_key_values=cache,
                use_cache=True,
            ).logits[:, -1]
    if logprobs.isnan().any():
        raise FloatingPointError("the model's logits are NaN: look at its weights and its dtype")
    return ids, logprobs


def draw(
    logits: Float[Tensor, "b V"], temperature: float, chances: Float[Tensor, " b"]
) -> tuple[Int[Tensor, " b"], Float[Tensor, " b"]]:
    """Tokens from softmax(logits / temperature) and their log-probs; at 0 the most likely ones.

    Inverse CDF: the first token at which the summed probability reaches a uniform number in (0, 1].
    A token of probability 0 adds nothing to the sum, so it is never the first.
    """
    logprobs = torch.log_softmax(full_precision(logits) / (temperature or 1.0), dim=-1)
    if temperature == 0:
        tokens = logprobs.argmax(dim=-1)
    else:
        summed = logprobs.exp().cumsum(dim=-1, dtype=torch.float64)  # float32 would lose rare ones
        reached = torch.searchsorted(summed, chances[:, None] * summed[:, -1:])
        tokens = reached[:, 0].clamp(max=logits.shape[-1] - 1)  # NaN is reached nowhere
    return tokens, logprobs.gather(1, tokens[:, None])[:, 0]


def _until_stop(
    ids: Int[Tensor, "B T"], stops: Int[Tensor, " S"]
) -> tuple[Bool[Tensor, "B T"], Bool[Tensor, " B"]]:
    """Which tokens have no stop token before them, and which rows have one."""
    stopped = torch.isin(ids, stops)
    return stopped.cumsum(1) - stopped.long() == 0, stopped.any(1)
