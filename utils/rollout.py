"""The sampler: completions with the log-probabilities they were sampled with."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from tqdm.auto import tqdm
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.cache_utils import DynamicLayer
from transformers.masking_utils import sdpa_mask

from utils.chat import pad_left, stop_token_ids

Prompts = Sequence[str] | Sequence[Sequence[int]]
CACHE_BLOCK = 16  # tokens that the cache has room for before it is copied; more is slower to shrink


def grouped_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **_,
) -> tuple[Tensor, None]:
    """transformers' "sdpa" attention for one new token a row, without copies of the cache.

    With grouped queries (Ainslie et al. 2023) H/K query heads read the same key head. transformers
    copies keys and values H/K times first; here the H/K queries of a key head stand in the place of
    as many positions. All of them may see the whole cache, so the result is the same.

    query (b, H, 1, D); key, value (b, K, L, D); attention_mask (b, 1, 1, L), True where a token
    may be seen -> (b, 1, H, D).
    """
    batch, heads, _, width = query.shape
    queries = query.reshape(batch, key.shape[1], -1, width)  # (b, K, H/K, D)
    output = scaled_dot_product_attention(
        queries, key, value, attn_mask=attention_mask, scale=scaling
    )
    return output.reshape(batch, 1, heads, width), None


AttentionInterface.register("grouped_attention", grouped_attention)
AttentionMaskInterface.register("grouped_attention", sdpa_mask)


@contextmanager
def _grouped(model: PreTrainedModel) -> Iterator[None]:
    """A model that uses "sdpa" attends with `grouped_attention` inside the block."""
    before = model.config._attn_implementation
    if before != "sdpa":
        yield
        return
    model.set_attn_implementation("grouped_attention")
    try:
        yield
    finally:
        model.set_attn_implementation(before)


class _RoomyLayer(DynamicLayer):
    """A cache layer with room for tokens to come: a new one is written into its place.

    transformers' own layer copies all its keys and values for every new token.
    """

    def __init__(self, layer: DynamicLayer):
        super().__init__()
        self.lazy_initialization(layer.keys, layer.values)
        self._make_room(layer.keys, layer.values, CACHE_BLOCK)

    def _make_room(self, keys: Tensor, values: Tensor, tokens: int) -> None:
        """Hold copies of keys and values (b, K, L, D) with room for some tokens more."""
        self.rooms = []
        for states in (keys, values):
            rows, heads, length, width = states.shape
            room = states.new_empty(rows, heads, length + tokens, width)
            room[:, :, :length] = states
            self.rooms.append(room)
        self._use(keys.shape[2])

    def _use(self, length: int) -> None:
        self.keys, self.values = (room[:, :, :length] for room in self.rooms)

    def update(self, key_states: Tensor, value_states: Tensor, *_, **__) -> tuple[Tensor, Tensor]:
        """All keys and values, with the new ones (b, K, n, D) at the end."""
        start = self.keys.shape[2]
        end = start + key_states.shape[2]
        if end > self.rooms[0].shape[2]:
            self._make_room(self.keys, self.values, max(CACHE_BLOCK, end - start))
        for room, states in zip(self.rooms, (key_states, value_states), strict=True):
            room[:, :, start:end] = states
        self._use(end)
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep these rows only."""
        self.rooms = [room.index_select(0, indices) for room in self.rooms]
        self._use(self.keys.shape[2])


@dataclass
class Rollout:
    """`Q` prompts with `G = group_size` sampled completions each; `B = Q * G` rows, prompt-major.

    Row `b` answers prompt `b // G`. `T` is the longest completion. Tensors are on the model's
    device and can be used in a loss. Beyond a row's end: pad token, mask 0, log-prob 0.
    """

    prompt_ids: Tensor  # (Q, P) padded on the left
    prompt_mask: Tensor  # (Q, P) 1 on prompt tokens
    completion_ids: Tensor  # (B, T) padded on the right
    mask: Tensor  # (B, T) 1.0 on completion tokens up to and including the stop token
    logprobs: Tensor  # (B, T) at the sampling temperature (greedy: at temperature 1)
    texts: list[str]  # (B,) without the stop token; other special tokens are shown
    finished: Tensor  # (B,) bool: ended with a stop token, not at the limit
    group_size: int

    @property
    def lengths(self) -> Tensor:
        """Completion tokens of each row, the stop token included. (B,) long"""
        return self.mask.sum(dim=1).long()


@torch.no_grad()
def sample(
    model: PreTrainedModel,
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

    Each prompt runs through the model once and its key-value cache is shared by its
    completions; rows that have ended leave the batch. No top-k or top-p: the log-probs are those
    of the distribution sampled from. `temperature=0` takes the most likely token.

    prompts: lists of token ids, or strings. Strings are encoded as they are, special tokens in
    them included and no chat template added; `chat.encode_prompt` makes ids for a user's text.
    max_batch: rows decoded at once; less needs less memory. generator: on the model's device;
    without it the global random state is used. progress: label of a progress bar.
    stop_ids: tokens that end a completion; default `chat.stop_token_ids(tokenizer)`.
    The model samples in eval mode and is returned to the mode it was in.
    Raises ValueError for no or empty prompts, sizes below 1, a negative temperature, or prompts
    that leave no room for `max_new_tokens` in the model's context.
    """
    if group_size < 1 or max_new_tokens < 1 or max_batch < 1:
        raise ValueError("group_size, max_new_tokens and max_batch must be at least 1")
    if not temperature >= 0:
        raise ValueError(f"temperature must be 0 (greedy) or more, got {temperature}")
    ids = _encode(tokenizer, prompts)
    context = getattr(model.config, "max_position_embeddings", None)
    longest = max(map(len, ids))
    if context is not None and longest + max_new_tokens > context:
        raise ValueError(
            f"the longest prompt has {longest} tokens; with max_new_tokens={max_new_tokens} it "
            f"exceeds the model's context of {context}. Drop long prompts or lower the limit."
        )
    per_chunk = max(1, max_batch // group_size)  # prompts
    chunks = [ids[i : i + per_chunk] for i in range(0, len(ids), per_chunk)]
    stops = torch.tensor(stop_ids or stop_token_ids(tokenizer), device=model.device)
    pad_id = tokenizer.pad_token_id
    training = model.training
    model.eval()
    try:
        parts = [
            _decode_chunk(
                model, chunk, pad_id, stops, group_size, max_new_tokens, temperature, generator
            )
            for chunk in tqdm(chunks, desc=progress, disable=progress is None, leave=False)
        ]
    finally:
        model.train(training)
    completion_ids, logprobs, lengths = (torch.cat(part) for part in zip(*parts, strict=True))
    last = completion_ids.gather(1, lengths[:, None] - 1)[:, 0]  # (B,)
    finished = torch.isin(last, stops)
    width = int(lengths.max())
    mask = torch.arange(width, device=model.device) < lengths[:, None]  # (B, T)
    prompt_ids, prompt_mask = pad_left(ids, pad_id)
    rows = completion_ids.tolist()
    text_lengths = (lengths - finished.long()).tolist()
    return Rollout(
        prompt_ids=prompt_ids.to(model.device),
        prompt_mask=prompt_mask.to(model.device),
        completion_ids=completion_ids[:, :width],
        mask=mask.float(),
        logprobs=logprobs[:, :width],
        texts=[
            tokenizer.decode(row[:n], clean_up_tokenization_spaces=False)
            for row, n in zip(rows, text_lengths, strict=True)
        ],
        finished=finished,
        group_size=group_size,
    )


def _encode(tokenizer: PreTrainedTokenizerBase, prompts: Prompts) -> list[list[int]]:
    if isinstance(prompts, str) or not len(prompts):
        raise ValueError("prompts must be a list with at least one prompt")
    ids = [
        tokenizer.encode(prompt, add_special_tokens=False) if isinstance(prompt, str) else prompt
        for prompt in prompts
    ]
    empty = [number for number, prompt in enumerate(ids) if not len(prompt)]
    if empty:
        raise ValueError(f"prompt {empty[0]} is empty: a model needs at least one token")
    return [list(prompt) for prompt in ids]


def _decode_chunk(
    model: PreTrainedModel,
    prompts: list[list[int]],
    pad_id: int,
    stop_ids: Tensor,
    group_size: int,
    max_new_tokens: int,
    temperature: float,
    generator: torch.Generator | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Completions of a few prompts: ids and log-probs (B, max_new_tokens), lengths (B,)."""
    device = model.device
    input_ids, prompt_mask = (x.to(device) for x in pad_left(prompts, pad_id))  # (q, P)
    output = model(
        input_ids=input_ids,
        attention_mask=prompt_mask.long(),
        # Padding on the left must not shift the positions of the prompt's tokens.
        position_ids=(prompt_mask.long().cumsum(1) - 1).clamp(min=0),
        use_cache=True,
        logits_to_keep=1,
    )
    cache = output.past_key_values
    cache.batch_repeat_interleave(group_size)
    for number, layer in enumerate(cache.layers):
        if type(layer) is DynamicLayer:  # others (a sliding window, say) work in their own way
            cache.layers[number] = _RoomyLayer(layer)
    logits = output.logits[:, -1].repeat_interleave(group_size, dim=0)  # (B, V)
    prompt_mask = prompt_mask.long().repeat_interleave(group_size, dim=0)  # (B, P)
    position = prompt_mask.sum(1, keepdim=True)  # (B, 1) of the next token

    batch, width = len(prompt_mask), prompt_mask.shape[1]
    attention_mask = torch.cat([prompt_mask, prompt_mask.new_ones(batch, max_new_tokens)], dim=1)
    completion_ids = torch.full((batch, max_new_tokens), pad_id, device=device)
    logprobs = torch.zeros(batch, max_new_tokens, device=device)
    lengths = torch.full((batch,), max_new_tokens, device=device)
    rows = torch.arange(batch, device=device)  # the rows of the result still in the batch
    open_ = torch.ones(batch, dtype=torch.bool, device=device)  # those not ended yet

    with _grouped(model):
        for step in range(max_new_tokens):
            token, logprob = _pick(logits.float(), temperature, generator)  # (b,)
            completion_ids[rows[open_], step] = token[open_]
            logprobs[rows[open_], step] = logprob[open_]
            ended = open_ & torch.isin(token, stop_ids)
            lengths[rows[ended]] = step + 1
            open_ = open_ & ~ended
            left = int(open_.sum())
            if left == 0 or step == max_new_tokens - 1:
                break
            if left < 0.9 * len(open_):  # copying the cache costs: drop several rows at a time
                keep = open_.nonzero()[:, 0]
                cache.batch_select_indices(keep)
                rows, token, position = rows[keep], token[keep], position[keep]
                attention_mask, open_ = attention_mask[keep], open_[keep]
            logits = model(
                input_ids=token[:, None],
                attention_mask=attention_mask[:, : width + step + 1],
                position_ids=position,
                past_key_values=cache,
                use_cache=True,
            ).logits[:, -1]
            position = position + 1
    return completion_ids, logprobs, lengths


def _pick(
    logits: Tensor, temperature: float, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """Next tokens and their log-probs, each (b,), from logits (b, V)."""
    logprobs = torch.log_softmax(logits / (temperature or 1.0), dim=-1)
    if temperature == 0:
        token = logprobs.argmax(dim=-1)
    else:
        token = torch.multinomial(logprobs.exp(), 1, generator=generator)[:, 0]
    return token, logprobs.gather(1, token[:, None])[:, 0]
