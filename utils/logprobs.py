"""Token log-probabilities and masked reductions. The only module that shifts by one."""

import copy
from collections.abc import Callable

import torch
from torch.autograd.function import once_differentiable
from transformers import Cache, PreTrainedModel

from utils.chat import IGNORE


def _full_precision(x: torch.Tensor) -> torch.Tensor:
    """bfloat16 and float16 as float32; float32 and float64 as they are."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def align(logits: torch.Tensor, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The shift by one: logits (B, L-1, V) beside the ids (B, L-1) that they predict.

    `logits[:, t]` is the model's guess at token t+1, so the last logits and the first id drop out.
    Works for input ids, labels and masks alike. ValueError when shapes do not fit.
    """
    if logits.ndim != 3 or ids.shape != logits.shape[:2]:
        raise ValueError(
            f"logits (B, L, V) and ids (B, L) do not fit: {tuple(logits.shape)}, {tuple(ids.shape)}"
        )
    return logits[:, :-1], ids[:, 1:]


def gather_logprobs(logits: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """log softmax(logits)[ids], no shift: logits (..., V), ids (...) -> (...).

    In float32 at least. `log_softmax`, never `softmax().log()`, which is -inf once a probability
    underflows.
    """
    logprobs = torch.log_softmax(_full_precision(logits), dim=-1)
    return logprobs.gather(-1, ids.unsqueeze(-1)).squeeze(-1)


def token_logprobs(logits: torch.Tensor, input_ids: torch.Tensor) -> torch.Tensor:
    """log pi(input_ids[:, t+1] | input_ids[:, :t+1]): logits (B, L, V), ids (B, L) -> (B, L-1).

    Column t belongs to token t+1; the first token has no prediction.
    """
    return gather_logprobs(*align(logits, input_ids))


class _ChunkedLogprobs(torch.autograd.Function):
    """hidden (N, H), weight (V, H), ids (N,) -> (N,), `chunk` positions at a time."""

    @staticmethod
    def forward(ctx, hidden, weight, ids, temperature, chunk):
        ctx.save_for_backward(hidden, weight, ids)
        ctx.temperature, ctx.chunk = temperature, chunk
        parts = zip(hidden.split(chunk), ids.split(chunk), strict=True)
        logprobs = [
            gather_logprobs(_full_precision(h @ weight.T) / temperature, i) for h, i in parts
        ]
        return torch.cat(logprobs)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        hidden, weight, ids = ctx.saved_tensors
        hidden_grad, weight_grad = torch.empty_like(hidden), None
        if ctx.needs_input_grad[1]:  # summed over chunks, so in float32 at least
            weight_grad = torch.zeros_like(weight, dtype=grad.dtype)
        for start in range(0, len(ids), ctx.chunk):
            part = slice(start, start + ctx.chunk)
            # d log p(id) / d logits = onehot(id) - p; no name holds on to the logits
            logits_grad = torch.softmax(
                _full_precision(hidden[part] @ weight.T).div_(ctx.temperature), dim=-1
            ).mul_(-grad[part, None])
            logits_grad.scatter_add_(1, ids[part, None], grad[part, None]).div_(ctx.temperature)
            hidden_grad[part] = logits_grad.to(weight.dtype) @ weight
            if weight_grad is not None:
                weight_grad.addmm_(logits_grad.T, hidden[part].to(grad.dtype))
        return hidden_grad, weight_grad, None, None, None


def chunked_logprobs(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    ids: torch.Tensor,
    temperature: float = 1.0,
    chunk: int = 64,
) -> torch.Tensor:
    """log softmax(hidden @ weight.T / temperature)[ids], (...), never holding all the logits.

    For large vocabularies: logits exist for `chunk` positions at a time and are computed a second
    time in the backward pass, so memory grows with chunk * V instead of B * T * V, for a third more
    arithmetic. Value and gradients are those of `gather_logprobs` on the whole logits.

    hidden (..., H): the model's last states, those that predict `ids` (...): no shift, as in
    `gather_logprobs`. weight (V, H): `model.lm_head.weight`, a head without bias; a frozen one gets
    no gradient. Differentiable once. ValueError when shapes do not fit, or for a temperature or
    chunk that is not positive.
    """
    if weight.ndim != 2 or hidden.shape != (*ids.shape, weight.shape[1]):
        raise ValueError(
            f"hidden (..., H), weight (V, H) and ids (...) do not fit: {tuple(hidden.shape)}, "
            f"{tuple(weight.shape)}, {tuple(ids.shape)}"
        )
    if temperature <= 0 or chunk < 1:
        raise ValueError(f"need temperature > 0 and chunk >= 1, not {temperature} and {chunk}")
    flat = hidden.reshape(-1, hidden.shape[-1])  # (N, H)
    logprobs = _ChunkedLogprobs.apply(flat, weight, ids.reshape(-1), temperature, chunk)
    return logprobs.view(ids.shape)


def _by_length(lengths: torch.Tensor, parts: int, least: int, at_most: float) -> list[torch.Tensor]:
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


def label_logits(
    model: PreTrainedModel,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    labels: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits only where a label counts, (N, V), beside the labels that they predict, (N,).

    What a masked loss needs of `model(input_ids, attention_mask).logits`, without the output layer
    for prompt and padding, and with short rows not padded to the longest. Same numbers, sorted by
    the length of their row.

    All inputs (B, L), padded on either side; labels not shifted, -100 where ignored.
    """
    states, targets = [], []
    for rows in _by_length(attention_mask.sum(1), parts=2, least=16, at_most=0.9):
        used = attention_mask[rows].any(0).nonzero()[:, 0]
        columns = slice(int(used[0]), int(used[-1]) + 1)
        output = model.get_decoder()(
            input_ids[rows, columns], attention_mask=attention_mask[rows, columns], use_cache=False
        )
        before, ids = align(output.last_hidden_state, labels[rows, columns])
        states.append(before[ids != IGNORE])
        targets.append(ids[ids != IGNORE])
    return model.get_output_embeddings()(torch.cat(states)), torch.cat(targets)


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
    for rows in _by_length(lengths, parts=3, least=64, at_most=0.8):
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


def completion_logits(
    model,
    prompt_ids: torch.Tensor,
    prompt_mask: torch.Tensor,
    completion_ids: torch.Tensor,
    mask: torch.Tensor,
) -> torch.Tensor:
    """Logits that predict each completion token, (B, T, V); inputs as in `shared_prompt`."""

    def forward(last_only: bool, **inputs) -> tuple[torch.Tensor, Cache]:
        output = model(**inputs, logits_to_keep=int(last_only))  # 0 keeps all
        return output.logits, output.past_key_values

    return shared_prompt(forward, prompt_ids, prompt_mask, completion_ids, mask)


def completion_logprobs(
    model,
    prompt_ids: torch.Tensor,
    prompt_mask: torch.Tensor,
    completion_ids: torch.Tensor,
    mask: torch.Tensor,
    temperature: float = 1.0,
) -> torch.Tensor:
    """log pi(completion token | prompt, earlier tokens) at a temperature, (B, T); 0 where masked.

    Logits are divided by the temperature first: log-probs of the distribution sampled from. Inputs,
    shapes and errors as in `shared_prompt`.
    """
    if temperature <= 0:
        raise ValueError(f"temperature must be positive, not {temperature}")
    logits = completion_logits(model, prompt_ids, prompt_mask, completion_ids, mask)
    logprobs = gather_logprobs(_full_precision(logits) / temperature, completion_ids)
    return torch.where(mask.bool(), logprobs, 0.0)


def importance_weights(
    logprobs: torch.Tensor, sampler_logprobs: torch.Tensor, mask: torch.Tensor, limit: float = 3.0
) -> torch.Tensor:
    """Truncated weights that make up for a sampler that is not quite the model. (B, T), constants.

    w = min(exp(log pi - log q), limit) on completion tokens, 0 elsewhere, with the log-probs of the
    training model (pi) and of the sampler (q). Truncated importance sampling, TRL's
    "token_truncate": the mean of w f over samples of q is near the mean of f over samples of pi,
    and no single token weighs more than `limit`.
    """
    # What a sampler writes beyond the end, NaN or infinity too, must not survive times 0.
    gap = (logprobs - sampler_logprobs).detach().masked_fill(mask == 0, 0.0)
    return gap.exp().clamp(max=limit) * mask


def entropy(logits: torch.Tensor) -> torch.Tensor:
    """-sum_v p_v log p_v in nats: logits (..., V) -> (...).

    A logit of -inf (a token that sampling rules out) contributes 0, not NaN.
    """
    logprobs = torch.log_softmax(_full_precision(logits), dim=-1)
    return -(logprobs.exp() * logprobs.masked_fill(logprobs == -torch.inf, 0.0)).sum(-1)


def _kept(x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The mask as bool; ValueError unless it has the shape of x."""
    if x.shape != mask.shape:
        raise ValueError(f"x {tuple(x.shape)} and mask {tuple(mask.shape)} differ in shape")
    return mask.bool()


def masked_sum(x: torch.Tensor, mask: torch.Tensor, dim: int | None = None) -> torch.Tensor:
    """Sum of x where mask is not 0: over everything -> scalar, or over `dim`; empty masks give 0.

    `torch.where`, not `x * mask`: 0 * NaN is NaN, so a product lets padding leak into the sum.
    """
    kept = torch.where(_kept(x, mask), x, 0.0)
    return kept.sum() if dim is None else kept.sum(dim)


def masked_mean(x: torch.Tensor, mask: torch.Tensor, dim: int | None = None) -> torch.Tensor:
    """Mean of x where mask is not 0: over everything -> scalar, or over `dim`.

    Over everything, every *token* weighs the same, so long sequences weigh more than short ones;
    `masked_mean(x, mask, dim=1).mean()` weighs every *sequence* the same. ValueError when there is
    nothing to average (with `dim`: in any row).
    """
    kept = _kept(x, mask)
    count = kept.sum() if dim is None else kept.sum(dim)
    if not count.all():
        raise ValueError(
            "nothing to average: the mask is empty"
            + ("" if dim is None else f" in {int((count == 0).sum())} of {count.numel()} rows")
        )
    return masked_sum(x, mask, dim) / count


def masked_whiten(x: torch.Tensor, mask: torch.Tensor, shift_mean: bool = True) -> torch.Tensor:
    """(x - mean) / sqrt(var + 1e-8) over the positions where mask is not 0; 0 elsewhere.

    var is the sample variance (divided by N - 1), as in TRL's PPO. With `shift_mean=False` the mean
    is added back. ValueError with fewer than two positions, where no variance exists.
    """
    kept = _kept(x, mask)
    count = kept.sum()
    if count < 2:
        raise ValueError(f"whitening needs at least 2 unmasked positions, got {int(count)}")
    mean = masked_mean(x, mask)
    centred = torch.where(kept, x - mean, 0.0)
    whitened = centred * torch.rsqrt(centred.square().sum() / (count - 1) + 1e-8)
    return whitened if shift_mean else torch.where(kept, whitened + mean, 0.0)
