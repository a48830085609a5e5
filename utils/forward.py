"""Forward passes that save work: each prompt read once, rows of similar length together."""

import copy
from collections.abc import Callable

import torch
from transformers import Cache


def by_length(lengths: torch.Tensor, parts: int, least: int, at_most: float) -> list[torch.Tensor]:
    """Rows (B,) in parts of similar length, so that short rows are not padded to the longest.

    All rows in one part where there are fewer than `least`, or where the parts, padded, hold more
    than `at_most` of the tokens.
    """
    if len(lengths) >= least:
        found = lengths.argsort(stable=True).tensor_split(parts)
        padded = len(lengths) * lengths.max()
        if sum(len(rows) * lengths[rows].max() for rows in found) <= at_most * padded:
            return list(found)
    return [torch.arange(len(lengths), device=lengths.device)]


def shared_prompt(
    forward: Callable[..., tuple[torch.Tensor, Cache]],
    prompt_ids: torch.Tensor,
    prompt_mask: torch.Tensor,
    completion_ids: torch.Tensor,
    mask: torch.Tensor,
) -> torch.Tensor:
    """What a model says before each completion token, (B, T, X), each prompt read only once.

    `forward(last_only, **inputs) -> ((rows, length or 1, X), cache)` runs the model. Each prompt
    runs through it once, its key-value cache is repeated for its G completions, and these run
    against the cache. Gradients flow through the cache into the prompt's pass. Same numbers as a
    full forward pass over prompt + completion, for P + G*T tokens a prompt instead of G*(P+T), and
    less where many rows are far shorter than the longest. Behind a row's end anything may stand.

    prompt_ids, prompt_mask (Q, P): padded on the left (`chat.pad_left`). completion_ids, mask
    (B, T): B = Q*G, prompt-major, padded on the right; the mask is 1 up to and including EOS.
    Raises ValueError when shapes do not fit, prompts are not left-padded, or gradient checkpointing
    keeps the model from filling its cache.
    """
    prompts, batch = prompt_ids.shape[0], completion_ids.shape[0]
    if prompts == 0 or batch % prompts or mask.shape != completion_ids.shape:
        raise ValueError(
            f"{batch} completions for {prompts} prompts, mask {tuple(mask.shape)} for completions "
            f"{tuple(completion_ids.shape)}: need the same number of completions for every prompt "
            "and a mask of their shape"
        )
    if not prompt_mask[:, -1].all():
        raise ValueError("prompts must be padded on the left: use chat.pad_left")
    group_size, length = batch // prompts, completion_ids.shape[1]
    prompt_mask = prompt_mask.long()
    # Positions count real tokens only: the first token of a padded prompt is at position 0 too.
    positions = (prompt_mask.cumsum(1) - 1).clamp(min=0)
    first, cache = forward(
        last_only=True,
        input_ids=prompt_ids,
        attention_mask=prompt_mask,
        position_ids=positions,
        use_cache=True,
    )
    first = first.repeat_interleave(group_size, dim=0)  # (B, 1, X)
    if length == 1:
        return first
    if cache is None or cache.get_seq_length() != prompt_ids.shape[1]:
        raise ValueError(
            "the model did not fill its key-value cache: gradient checkpointing switches it off in "
            "training mode; call model.gradient_checkpointing_disable() or model.eval()"
        )
    cache.batch_repeat_interleave(group_size)
    prompt_mask = prompt_mask.repeat_interleave(group_size, dim=0)  # (B, P)
    start = positions[:, -1:].repeat_interleave(group_size, dim=0) + 1  # (B, 1)
    said = first.new_zeros(batch, length, first.shape[-1])
    said[:, :1] = first
    lengths = (mask.bool() * torch.arange(1, length + 1, device=mask.device)).amax(1)  # (B,)
    for rows in by_length(lengths, parts=3, least=64, at_most=0.8):
        width = int(lengths[rows].max()) - 1  # the last token predicts nothing that we keep
        if width < 1:
            continue
        part = copy.copy(cache)  # the first pass's keys and values, for these rows
        part.layers = [copy.copy(layer) for layer in cache.layers]
        if len(rows) < batch:  # every row once: gradients add up in no random order
            for layer in part.layers:  # as batch_select_indices, whose gradient is far slower
                layer.keys = layer.keys.index_select(0, rows)
                layer.values = layer.values.index_select(0, rows)
        rest, _ = forward(
            last_only=False,
            input_ids=completion_ids[rows, :width],
            attention_mask=torch.cat([prompt_mask[rows], mask[rows, :width].long()], dim=1),
            position_ids=start[rows] + torch.arange(width, device=rows.device),
            past_key_values=part,
            use_cache=True,
        )
        said[rows, 1 : width + 1] = rest
    return said
