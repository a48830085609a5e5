"""Forward passes that save work: each prompt read once, rows of similar length together.

How the savings work and what they are measured against: docs/logprobs.md.
"""

import copy
from collections.abc import Callable

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor
from transformers import Cache


def positions(attention_mask: Shaped[Tensor, "B L"]) -> Int[Tensor, "B L"]:
    """Positions that count real tokens only, so that a row's first token is at 0 behind padding."""
    return (attention_mask.long().cumsum(1) - 1).clamp(min=0)


def by_length(
    lengths: Int[Tensor, " B"], parts: int, least: int, at_most: float
) -> list[Int[Tensor, " _"]]:
    """Rows in parts of similar length, so that short rows are not padded to the longest.

    All rows in one part where there are fewer than `least`, or where the parts, padded, hold more
    than `at_most` of the tokens.
    """
    if len(lengths) >= least:
        found = lengths.argsort(stable=True).tensor_split(parts)
        padded = len(lengths) * lengths.max()
        if sum(len(rows) * lengths[rows].max() for rows in found) <= at_most * padded:
            return list(found)
    return [torch.arange(len(lengths), device=lengths.device)]


def _rows_of(cache: Cache, rows: Int[Tensor, " R"], batch: int) -> Cache:
    """These rows of a cache of `batch`; what grows from them leaves the given one as it is."""
    part = copy.copy(cache)
    part.layers = [copy.copy(layer) for layer in cache.layers]
    if len(rows) < batch:  # every row once: gradients add up in no random order
        for layer in part.layers:  # as batch_select_indices, whose gradient is far slower
            layer.keys = layer.keys.index_select(0, rows)
            layer.values = layer.values.index_select(0, rows)
    return part


def shared_prompt(
    forward: Callable[..., tuple[Tensor, Cache | None]],
    prompt_ids: Int[Tensor, "Q P"],
    prompt_mask: Shaped[Tensor, "Q P"],
    completion_ids: Int[Tensor, "B T"],
    mask: Shaped[Tensor, "B T"],
    keep: Callable[[Tensor, Tensor], Tensor] = lambda states, ids: states,
) -> Float[Tensor, "B T X"]:
    """What a model says before each completion token, each prompt read only once.

    `forward(last_only, **inputs) -> ((rows, length or 1, X), cache)` runs the model: once over the
    prompts, padded on the left, then over the completions, B = Q * G, prompt-major, padded on the
    right, against the repeated key-value cache. Gradients flow through the cache. Same numbers as
    whole sequences; behind a row's end anything may stand. `keep(states (b, n, Y), ids (b, n))`
    says at once what is wanted of the states before these tokens: all logits together would be
    large. ValueError when shapes do not fit, prompts are not left-padded, or gradient checkpointing
    keeps the cache empty.
    """
    group_size, length = _check_groups(prompt_ids, prompt_mask, completion_ids, mask)
    prompt_mask = prompt_mask.long()
    prompt_positions = positions(prompt_mask)
    inputs = {"attention_mask": prompt_mask, "position_ids": prompt_positions, "use_cache": True}
    first, cache = forward(last_only=True, input_ids=prompt_ids, **inputs)
    first = keep(first.repeat_interleave(group_size, dim=0), completion_ids[:, :1])  # (B, 1, X)
    if length == 1:
        return first
    if cache is None or cache.get_seq_length() != prompt_ids.shape[1]:
        raise ValueError(
            "the model did not fill its key-value cache: gradient checkpointing switches it off in "
            "training mode; call model.gradient_checkpointing_disable() or model.eval()"
        )
    cache.batch_repeat_interleave(group_size)
    prompt_mask = prompt_mask.repeat_interleave(group_size, dim=0)  # (B, P)
    start = prompt_positions[:, -1:].repeat_interleave(group_size, dim=0) + 1  # (B, 1)
    said = first.new_zeros(len(first), length, first.shape[-1])
    said[:, :1] = first
    lengths = (mask.bool() * torch.arange(1, length + 1, device=mask.device)).amax(1)  # (B,)
    for rows in by_length(lengths, parts=3, least=64, at_most=0.8):
        width = int(lengths[rows].max()) - 1  # the last token predicts nothing that we keep
        if width < 1:
            continue
        states, _ = forward(
            last_only=False,
            input_ids=completion_ids[rows, :width],
            attention_mask=torch.cat([prompt_mask[rows], mask[rows, :width].long()], dim=1),
            position_ids=start[rows] + torch.arange(width, device=rows.device),
            past_key_values=_rows_of(cache, rows, len(said)),
            use_cache=True,
        )
        said[rows, 1 : width + 1] = keep(states, completion_ids[rows, 1 : width + 1])
    return said


def _check_groups(prompt_ids, prompt_mask, completion_ids, mask) -> tuple[int, int]:
    """Completions a prompt, and their length T; ValueError as in `shared_prompt`."""
    prompts, batch = prompt_ids.shape[0], completion_ids.shape[0]
    if prompts == 0 or batch % prompts or mask.shape != completion_ids.shape:
        raise ValueError(
            f"{batch} completions for {prompts} prompts, mask {tuple(mask.shape)} for completions "
            f"{tuple(completion_ids.shape)}: need the same number of completions for every prompt "
            "and a mask of their shape"
        )
    if not prompt_mask[:, -1].all():
        raise ValueError("prompts must be padded on the left: use chat.pad_left")
    return batch // prompts, completion_ids.shape[1]
