"""Token log-probabilities and masked reductions. The only module that shifts by one.

Arguments that do not fit raise ValueError. More, and what other libraries do: docs/logprobs.md.
"""

from functools import partial

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn
from transformers import Cache

from utils.arguments import full_precision, positive, same_shape
from utils.chat import IGNORE
from utils.forward import by_length, positions, shared_prompt


def align(
    logits: Float[Tensor, "B L V"], ids: Shaped[Tensor, "B L"]
) -> tuple[Float[Tensor, "B L-1 V"], Shaped[Tensor, "B L-1"]]:
    """The shift by one: logits beside the ids that they predict.

    `logits[:, t]` is the model's guess at token t+1, so the last logits and the first id drop out.
    Works for input ids, labels and masks alike.
    """
    if logits.ndim != 3 or ids.shape != logits.shape[:2]:
        raise ValueError(
            f"logits (B, L, V) and ids (B, L) do not fit: {tuple(logits.shape)}, {tuple(ids.shape)}"
        )
    return logits[:, :-1], ids[:, 1:]


def gather_logprobs(
    logits: Float[Tensor, "*shape V"], ids: Int[Tensor, "*shape"]
) -> Float[Tensor, "*shape"]:
    """log softmax(logits)[ids] in float32 at least, no shift."""
    # log_softmax, never softmax().log(), which is -inf once a probability underflows.
    logprobs = torch.log_softmax(full_precision(logits), dim=-1)
    return logprobs.gather(-1, ids.unsqueeze(-1)).squeeze(-1)


def _tempered(logits: Float[Tensor, "*shape V"], temperature: float) -> Float[Tensor, "*shape V"]:
    logits = full_precision(logits)
    return logits if temperature == 1 else logits / temperature


def token_logprobs(
    logits: Float[Tensor, "B L V"], input_ids: Int[Tensor, "B L"]
) -> Float[Tensor, "B L-1"]:
    """log pi(input_ids[:, t+1] | input_ids[:, :t+1]) in column t: the first token has none."""
    return gather_logprobs(*align(logits, input_ids))


def label_logits(
    model: nn.Module,
    input_ids: Int[Tensor, "B L"],
    attention_mask: Shaped[Tensor, "B L"],
    labels: Int[Tensor, "B L"],
) -> tuple[Float[Tensor, "N V"], Int[Tensor, " N"]]:
    """Logits only where a label counts, beside the labels that they predict.

    Same numbers as `model(input_ids, attention_mask).logits`, sorted by the length of their row,
    without the output layer for prompt and padding. Rows padded on either side; labels not shifted,
    -100 where ignored.
    """
    states, targets = [], []
    for rows in by_length(attention_mask.sum(1), parts=2, least=16, at_most=0.9):
        used = attention_mask[rows].any(0).nonzero()[:, 0]
        columns = slice(int(used[0]), int(used[-1]) + 1)
        mask = attention_mask[rows, columns]
        output = model.get_decoder()(
            input_ids[rows, columns],
            attention_mask=mask,
            position_ids=positions(mask),
            use_cache=False,
        )
        before, ids = align(output.last_hidden_state, labels[rows, columns])
        states.append(before[ids != IGNORE])
        targets.append(ids[ids != IGNORE])
    return model.get_output_embeddings()(torch.cat(states)), torch.cat(targets)


def _logits(
    model: nn.Module, last_only: bool, **inputs
) -> tuple[Float[Tensor, "b n V"], Cache | None]:
    """How `forward.shared_prompt` runs a language model."""
    output = model(**inputs, logits_to_keep=int(last_only))  # 0 keeps all
    return output.logits, output.past_key_values


def completion_logits(
    model: nn.Module,
    prompt_ids: Int[Tensor, "Q P"],
    prompt_mask: Shaped[Tensor, "Q P"],
    completion_ids: Int[Tensor, "B T"],
    mask: Shaped[Tensor, "B T"],
) -> Float[Tensor, "B T V"]:
    """Logits that predict each completion token; inputs as in `forward.shared_prompt`."""
    return shared_prompt(partial(_logits, model), prompt_ids, prompt_mask, completion_ids, mask)


def completion_logprobs(
    model: nn.Module,
    prompt_ids: Int[Tensor, "Q P"],
    prompt_mask: Shaped[Tensor, "Q P"],
    completion_ids: Int[Tensor, "B T"],
    mask: Shaped[Tensor, "B T"],
    temperature: float = 1.0,
) -> Float[Tensor, "B T"]:
    """log pi(completion token | prompt, earlier tokens) at a temperature; 0 where masked.

    Logits are divided by the temperature first: log-probs of the distribution sampled from. Inputs
    and errors as in `forward.shared_prompt`.
    """
    positive(temperature=temperature)
    inputs = prompt_ids, prompt_mask, completion_ids, mask

    def keep(logits: Float[Tensor, "b n V"], ids: Int[Tensor, "b n"]) -> Float[Tensor, "b n 1"]:
        return gather_logprobs(_tempered(logits, temperature), ids).unsqueeze(-1)

    logprobs = shared_prompt(partial(_logits, model), *inputs, keep)[..., 0]
    return torch.where(mask.bool(), logprobs, 0.0)


def completion_logprobs_and_entropy(
    model: nn.Module,
    *inputs: Shaped[Tensor, "..."],
    temperature: float = 1.0,
    entropy_gradient: bool = False,
) -> tuple[Float[Tensor, "B T"], Float[Tensor, "B T"]]:
    """`completion_logprobs`, and the entropy (nats) of what each token was drawn from, also (B, T).

    One softmax serves both. Without `entropy_gradient` the entropy is a constant: to be logged.
    """
    positive(temperature=temperature)

    def keep(logits: Float[Tensor, "b n V"], ids: Int[Tensor, "b n"]) -> Float[Tensor, "b n 2"]:
        logprobs = torch.log_softmax(_tempered(logits, temperature), dim=-1)
        chosen = logprobs.gather(-1, ids.unsqueeze(-1))
        spread = _entropy(logprobs if entropy_gradient else logprobs.detach())
        return torch.cat([chosen, spread.unsqueeze(-1)], dim=-1)

    both = shared_prompt(partial(_logits, model), *inputs, keep)
    return torch.where(inputs[-1].bool().unsqueeze(-1), both, 0.0).unbind(-1)


def entropy(logits: Float[Tensor, "*shape V"]) -> Float[Tensor, "*shape"]:
    """-sum_v p_v log p_v in nats. A logit of -inf (a token ruled out) adds 0, not NaN."""
    return _entropy(torch.log_softmax(full_precision(logits), dim=-1))


def _entropy(logprobs: Float[Tensor, "*shape V"]) -> Float[Tensor, "*shape"]:
    finite = logprobs.clamp(min=torch.finfo(logprobs.dtype).min)  # 0 * -inf is NaN
    return -(logprobs.exp() * finite).sum(-1)


def masked_sum(
    x: Shaped[Tensor, "*shape"], mask: Shaped[Tensor, "*shape"], dim: int | None = None
) -> Shaped[Tensor, "..."]:
    """Sum of x where mask is not 0, over everything or over `dim`; empty masks give 0."""
    same_shape(mask, x=x)
    # Not x * mask: 0 * NaN is NaN, so a product lets padding leak into the sum.
    kept = torch.where(mask.bool(), x, 0.0)
    return kept.sum() if dim is None else kept.sum(dim)


def masked_mean(
    x: Shaped[Tensor, "*shape"], mask: Shaped[Tensor, "*shape"], dim: int | None = None
) -> Shaped[Tensor, "..."]:
    """Mean of x where mask is not 0, over everything or over `dim`.

    Over everything, every *token* weighs the same, so long sequences weigh more than short ones;
    `masked_mean(x, mask, dim=1).mean()` weighs every *sequence* the same. ValueError when there is
    nothing to average (with `dim`: in any row).
    """
    total = masked_sum(x, mask, dim)
    count = mask.bool().sum() if dim is None else mask.bool().sum(dim)
    if not count.all():
        raise ValueError(
            "nothing to average: the mask is empty"
            + ("" if dim is None else f" in {int((count == 0).sum())} of {count.numel()} rows")
        )
    return total / count


def masked_whiten(
    x: Float[Tensor, "*shape"], mask: Shaped[Tensor, "*shape"]
) -> Float[Tensor, "*shape"]:
    """(x - mean) / sqrt(var + 1e-8) over the positions where mask is not 0; 0 elsewhere.

    var is the sample variance (divided by N - 1).
    """
    same_shape(mask, x=x)
    kept = mask.bool()
    count = kept.sum()
    if count < 2:
        raise ValueError(f"whitening needs at least 2 unmasked positions, got {int(count)}")
    centred = torch.where(kept, x - masked_mean(x, mask), 0.0)
    return centred * torch.rsqrt(centred.square().sum() / (count - 1) + 1e-8)
