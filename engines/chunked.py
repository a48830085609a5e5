"""The log-probs of a large vocabulary, in pieces: never all the logits in memory."""

import torch
from torch.autograd.function import once_differentiable

from utils.arguments import full_precision
from utils.logprobs import gather_logprobs


class _ChunkedLogprobs(torch.autograd.Function):
    """hidden (N, H), weight (V, H), ids (N,) -> (N,), `chunk` positions at a time."""

    @staticmethod
    def forward(ctx, hidden, weight, ids, temperature, chunk):
        ctx.save_for_backward(hidden, weight, ids)
        ctx.temperature, ctx.chunk = temperature, chunk
        parts = zip(hidden.split(chunk), ids.split(chunk), strict=True)
        logprobs = [
            gather_logprobs(full_precision(h @ weight.T) / temperature, i) for h, i in parts
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
                full_precision(hidden[part] @ weight.T).div_(ctx.temperature), dim=-1
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
