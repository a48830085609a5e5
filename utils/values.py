"""Scalar heads: a reward for a whole completion, a value for each of its tokens.

Both come from a model with one output for each position (`AutoModelForSequenceClassification` with
one label). A reward model is read after the last token, a value model before every token.
"""

import torch
from torch import Tensor
from transformers import Cache, PreTrainedModel

from utils.forward import shared_prompt


def last_token(scores: Tensor, mask: Tensor) -> Tensor:
    """The score at each row's last position where the mask is not 0: (B, L) -> (B,).

    Padding may stand on either side. Raises ValueError for a row without any token.
    """
    if scores.shape != mask.shape:
        raise ValueError(f"scores {tuple(scores.shape)} and mask {tuple(mask.shape)} differ")
    kept = mask != 0
    if not kept.any(1).all():
        raise ValueError(f"{int((~kept.any(1)).sum())} rows have no token: their mask is all 0")
    positions = torch.arange(mask.shape[1], device=mask.device)
    last = torch.where(kept, positions, -1).amax(1, keepdim=True)  # (B, 1)
    return scores.gather(1, last)[:, 0]


def _head(model: PreTrainedModel, states: Tensor) -> Tensor:
    """The scalar head on hidden states, in float32 at least: (..., H) -> (...)."""
    scores = model.score(states)[..., 0]
    return scores if scores.dtype == torch.float64 else scores.float()


def token_scores(model: PreTrainedModel, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """The scalar head after each token of whole sequences: (B, L) -> (B, L)."""
    output = model.base_model(input_ids=input_ids, attention_mask=attention_mask)
    return _head(model, output.last_hidden_state)


def completion_values(
    model: PreTrainedModel,
    prompt_ids: Tensor,
    prompt_mask: Tensor,
    completion_ids: Tensor,
    mask: Tensor,
) -> Tensor:
    """V(prompt, tokens before t) for each completion token t, (B, T); 0 where masked.

    The value of the state in which token t is chosen, so it stands beside the log-prob of token t.
    Inputs and errors as in `forward.shared_prompt`.
    """

    def forward(last_only: bool, **inputs) -> tuple[Tensor, Cache]:
        output = model.base_model(**inputs)
        states = output.last_hidden_state
        return states[:, -1:] if last_only else states, output.past_key_values

    states = shared_prompt(forward, prompt_ids, prompt_mask, completion_ids, mask)  # (B, T, H)
    return torch.where(mask.bool(), _head(model, states), 0.0)


def completion_scores(
    model: PreTrainedModel,
    prompt_ids: Tensor,
    prompt_mask: Tensor,
    completion_ids: Tensor,
    mask: Tensor,
) -> Tensor:
    """The scalar head after each completion token, (B, T); 0 where masked.

    The state after token t is the state before token t + 1, so with one more column this is
    `completion_values`, one to the left. Inputs and errors as in `forward.shared_prompt`.
    """
    more_ids = torch.cat([completion_ids, completion_ids[:, -1:]], dim=1)  # (B, T + 1)
    more_mask = torch.cat([torch.ones_like(mask[:, :1]), mask], dim=1)  # (B, T + 1) one longer
    return completion_values(model, prompt_ids, prompt_mask, more_ids, more_mask)[:, 1:]


def completion_rewards(
    model: PreTrainedModel,
    prompt_ids: Tensor,
    prompt_mask: Tensor,
    completion_ids: Tensor,
    mask: Tensor,
) -> Tensor:
    """The reward of each completion, read after its last token: (B,).

    Inputs and errors as in `forward.shared_prompt`; ValueError for a completion without tokens.
    """
    scores = completion_scores(model, prompt_ids, prompt_mask, completion_ids, mask)
    return last_token(scores, mask)
