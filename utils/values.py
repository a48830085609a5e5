"""Scalar heads: a reward for a whole completion, a value for each of its tokens.

Both come from a model with one output for each position (`AutoModelForSequenceClassification` with
one label). A reward model is read after the last token, a value model before every token. Inputs of
`completion_*` as in `forward.shared_prompt`; arguments that do not fit raise ValueError. More:
docs/values.md.
"""

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn
from transformers import Cache

from utils.arguments import full_precision, same_shape, tokens_in_every_row
from utils.forward import shared_prompt


def last_token(scores: Shaped[Tensor, "B L"], mask: Shaped[Tensor, "B L"]) -> Shaped[Tensor, " B"]:
    """The score at each row's last position where the mask is not 0, whichever side is padded."""
    same_shape(mask, scores=scores)
    tokens_in_every_row(mask)
    columns = torch.arange(mask.shape[1], device=mask.device)
    last = torch.where(mask != 0, columns, -1).amax(1, keepdim=True)  # (B, 1)
    return scores.gather(1, last)[:, 0]


def completion_values(
    model: nn.Module,
    prompt_ids: Int[Tensor, "Q P"],
    prompt_mask: Shaped[Tensor, "Q P"],
    completion_ids: Int[Tensor, "B T"],
    mask: Shaped[Tensor, "B T"],
) -> Float[Tensor, "B T"]:
    """V(prompt, tokens before t) beside each completion token t; 0 where masked."""

    def forward(last_only: bool, **inputs) -> tuple[Tensor, Cache | None]:
        output = model.base_model(**inputs)
        states = output.last_hidden_state
        return states[:, -1:] if last_only else states, output.past_key_values

    states = shared_prompt(forward, prompt_ids, prompt_mask, completion_ids, mask)  # (B, T, H)
    return torch.where(mask.bool(), full_precision(model.score(states)[..., 0]), 0.0)


def completion_scores(
    model: nn.Module,
    prompt_ids: Int[Tensor, "Q P"],
    prompt_mask: Shaped[Tensor, "Q P"],
    completion_ids: Int[Tensor, "B T"],
    mask: Shaped[Tensor, "B T"],
) -> Float[Tensor, "B T"]:
    """The scalar head after each completion token; 0 where masked.

    The state after token t is the state before token t + 1, so with one more column this is
    `completion_values`, one to the left.
    """
    more_ids = torch.cat([completion_ids, completion_ids[:, -1:]], dim=1)  # (B, T + 1)
    more_mask = torch.cat([torch.ones_like(mask[:, :1]), mask], dim=1)  # (B, T + 1) one longer
    return completion_values(model, prompt_ids, prompt_mask, more_ids, more_mask)[:, 1:]


def completion_rewards(
    model: nn.Module,
    prompt_ids: Int[Tensor, "Q P"],
    prompt_mask: Shaped[Tensor, "Q P"],
    completion_ids: Int[Tensor, "B T"],
    mask: Shaped[Tensor, "B T"],
) -> Float[Tensor, " B"]:
    """The reward of each completion, read after its last token."""
    scores = completion_scores(model, prompt_ids, prompt_mask, completion_ids, mask)
    return last_token(scores, mask)
