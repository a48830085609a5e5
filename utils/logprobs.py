"""Token log-probabilities and masked reductions. The only module that shifts by one."""

import torch
from transformers import Cache, PreTrainedModel

from utils.arguments import full_precision
from utils.chat import IGNORE
from utils.forward import by_length, shared_prompt


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
    logprobs = torch.log_softmax(full_precision(logits), dim=-1)
    return logprobs.gather(-1, ids.unsqueeze(-1)).squeeze(-1)


def token_logprobs(logits: torch.Tensor, input_ids: torch.Tensor) -> torch.Tensor:
    """log pi(input_ids[:, t+1] | input_ids[:, :t+1]): logits (B, L, V), ids (B, L) -> (B, L-1).

    Column t belongs to token t+1; the first token has no prediction.
    """
    return gather_logprobs(*align(logits, input_ids))


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
    for rows in by_length(attention_mask.sum(1), parts=2, least=16, at_most=0.9):
        used = attention_mask[rows].any(0).nonzero()[:, 0]
        columns = slice(int(used[0]), int(used[-1]) + 1)
        output = model.get_decoder()(
            input_ids[rows, columns], attention_mask=attention_mask[rows, columns], use_cache=False
        )
        before, ids = align(output.last_hidden_state, labels[rows, columns])
        states.append(before[ids != IGNORE])
        targets.append(ids[ids != IGNORE])
    return model.get_output_embeddings()(torch.cat(states)), torch.cat(targets)


def completion_logits(
    model,
    prompt_ids: torch.Tensor,
    prompt_mask: torch.Tensor,
    completion_ids: torch.Tensor,
    mask: torch.Tensor,
) -> torch.Tensor:
    """Logits that predict each completion token, (B, T, V); see `forward.shared_prompt`."""

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
    shapes and errors as in `forward.shared_prompt`.
    """
    if temperature <= 0:
        raise ValueError(f"temperature must be positive, not {temperature}")
    logits = completion_logits(model, prompt_ids, prompt_mask, completion_ids, mask)
    logprobs = gather_logprobs(full_precision(logits) / temperature, completion_ids)
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
    logprobs = torch.log_softmax(full_precision(logits), dim=-1)
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
