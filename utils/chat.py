"""From text to token ids: the chat template, the completion mask, batches."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

Rows = Sequence[Sequence[int]]  # token ids, of different lengths
START, END, END_OF_TEXT = "<|im_start|>", "<|im_end|>", "<|endoftext|>"
IGNORE = -100  # label of a position that does not count in the loss
_SLOTS = "\ue000\ue001"  # each stands for a text in a template; private-use, so no template's own

# ChatML as Qwen3 uses it. `generation` marks the tokens the assistant itself writes, its
# `<|im_end|>` included, for `apply_chat_template(..., return_assistant_tokens_mask=True)` and TRL.
CHAT_TEMPLATE = """\
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' }}
    {%- if message.role == 'assistant' %}
        {%- generation %}
            {{- message.content + '<|im_end|>' }}
        {%- endgeneration %}
    {%- else %}
        {{- message.content + '<|im_end|>' }}
    {%- endif %}
    {{- '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""


@dataclass(frozen=True)
class Encoded:
    """One training sequence; `completion_mask` is 1 on the tokens that the model learns."""

    input_ids: list[int]
    completion_mask: list[int]

    def __len__(self) -> int:
        return len(self.input_ids)


def _token_id(tokenizer, token: str) -> int:
    """Id of a control token; ValueError when the tokenizer has no such token."""
    token_id = tokenizer.convert_tokens_to_ids(token)  # unknown: None, or the unknown token's
    if token_id is None or tokenizer.convert_ids_to_tokens(token_id) != token:
        raise ValueError(
            f"the tokenizer has no {token} token, so it does not speak ChatML: use a Qwen tokenizer"
            f" or one trained with {START}, {END} and {END_OF_TEXT} as special tokens"
        )
    return token_id


def _plain(tokenizer, text: str) -> list[int]:
    """Ids of `text` as plain text: `<|im_end|>` inside it becomes ordinary characters.

    Without `split_special_tokens` a user could close the turn and open a system turn of their own.
    `<think>` and `</think>` stay single tokens where, as in Qwen3, they are not marked special.
    """
    ids = tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    control = {_token_id(tokenizer, token) for token in (START, END, END_OF_TEXT)}
    if not control.isdisjoint(ids):
        raise ValueError(
            f"{type(tokenizer).__name__} ignores split_special_tokens: text could pass for control "
            "tokens; load a fast tokenizer with AutoTokenizer.from_pretrained"
        )
    return ids


def stop_token_ids(tokenizer) -> list[int]:
    """Ids that end a completion: `<|im_end|>` in a chat, `<|endoftext|>` in a base document."""
    return [_token_id(tokenizer, END), _token_id(tokenizer, END_OF_TEXT)]


def _apply_template(tokenizer, texts: dict[str, str], **options) -> str | list[int]:
    """The library's rendering of one turn a role; a tokenizer without a template gets ours."""
    messages = [{"role": role, "content": text} for role, text in texts.items()]
    options |= {"chat_template": tokenizer.chat_template or CHAT_TEMPLATE, "return_dict": False}
    return tokenizer.apply_chat_template(messages, **options)


def _split(tokenizer, text: str) -> list[str]:
    """`text` split at special tokens: they stand at 1, 3, ..., plain text, if empty, between."""
    added = tokenizer.added_tokens_decoder.values()
    control = {str(token) for token in added if token.special} | {START, END, END_OF_TEXT}
    return re.split(f"({'|'.join(map(re.escape, sorted(control, key=len)[::-1]))})", text)


def encode_prompt(tokenizer, user_text: str, system: str | None = None) -> list[int]:
    """Ids of a chat that waits for its answer, in the tokenizer's chat template.

    Equal to `tokenizer.apply_chat_template(..., add_generation_prompt=True, return_dict=False)`,
    with the system turn that some templates add by themselves, except that special tokens inside
    the texts are read as plain text. Raises ValueError where the template changes a text.
    """
    texts = {"user": user_text} if system is None else {"system": system, "user": user_text}
    # Rendered with slots for the texts, the template has special tokens of its own only. A text is
    # encoded together with what stands beside it: a tokenizer may merge across the newline.
    slots = dict(zip(texts, _SLOTS, strict=False))
    rendered = _apply_template(tokenizer, slots, tokenize=False, add_generation_prompt=True)
    fill = {ord(slot): texts[role] for role, slot in slots.items()}
    ids: list[int] = []
    for i, piece in enumerate(_split(tokenizer, rendered)):
        control = i % 2 == 1
        ids += (
            [_token_id(tokenizer, piece)] if control else _plain(tokenizer, piece.translate(fill))
        )
    harmless = all(len(_split(tokenizer, text)) == 1 for text in texts.values())
    if harmless and ids != _apply_template(tokenizer, texts, add_generation_prompt=True):
        raise ValueError(
            f"the chat template changes a text of the prompt {user_text[:80]!r}: many strip its "
            "ends. Do so before, or set tokenizer.chat_template = chat.CHAT_TEMPLATE to train"
        )
    return ids


def _closing(tokenizer) -> list[int]:
    """Ids that the template puts after an answer, up to the special token that ends the turn."""
    rendered = _apply_template(tokenizer, {"user": "?", "assistant": _SLOTS}, tokenize=False)
    before, *ending = _split(tokenizer, rendered.partition(_SLOTS)[2])
    if not ending:
        raise ValueError(
            "the chat template ends an answer without a special token, so no model learns to stop: "
            "set tokenizer.chat_template = chat.CHAT_TEMPLATE to train"
        )
    return [*_plain(tokenizer, before), _token_id(tokenizer, ending[0])]


def encode_example(
    tokenizer,
    user_text: str,
    completion: str,
    max_length: int | None = None,
    system: str | None = None,
) -> Encoded:
    """One chat demonstration; the mask is 1 on the completion and on the `<|im_end|>` that ends it.

    The completion is encoded apart from the prompt, so that training sees exactly the prompt ids
    that sampling starts from. What the template puts after the end of the turn (ChatML: a newline)
    is left out: sampling has stopped by then. Raises ValueError when the completion is empty or
    prompt and completion together exceed `max_length`.
    """
    if not completion.strip():
        raise ValueError("the completion is empty: the model would learn to stop at once")
    prompt = encode_prompt(tokenizer, user_text, system)
    answer = [*_plain(tokenizer, completion), *_closing(tokenizer)]
    length = len(prompt) + len(answer)
    if max_length is not None and length > max_length:
        raise ValueError(
            f"{len(prompt)} prompt tokens + {len(answer)} completion tokens = {length} exceed "
            f"max_length={max_length}: raise it, shorten the text, or leave the example out (cut "
            "short, it would lose the token that says stop)"
        )
    return Encoded(prompt + answer, [0] * len(prompt) + [1] * len(answer))


def _pad(rows: Rows, pad_id: int, left: bool = False) -> tuple[Int[Tensor, "B L"], ...]:
    """Rows of different lengths as one tensor, and a mask that is 1 on them.

    The mask comes from lengths, never from `ids != pad_id`: where padding and end of text are the
    same token, that would hide the end from the loss and the model would never stop.
    """
    if not rows or not all(len(row) for row in rows):
        raise ValueError("a batch needs at least one sequence of tokens, and no empty ones")
    length = max(len(row) for row in rows)
    ids = torch.full((len(rows), length), pad_id)
    mask = torch.zeros_like(ids)
    for i, row in enumerate(rows):
        columns = slice(length - len(row), length) if left else slice(len(row))
        ids[i, columns] = torch.tensor(row)
        mask[i, columns] = 1
    return ids, mask


def collate(examples: Sequence[Encoded], pad_id: int) -> dict[str, Shaped[Tensor, "B L"]]:
    """Right-padded batch: input_ids, attention_mask, labels (long) and completion_mask (float).

    Labels are the input ids on completion tokens and -100 elsewhere; they are not shifted.
    """
    input_ids, attention_mask = _pad([e.input_ids for e in examples], pad_id)
    completion_mask, _ = _pad([e.completion_mask for e in examples], 0)
    labels = input_ids.masked_fill(completion_mask == 0, IGNORE)
    batch = {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels}
    return batch | {"completion_mask": completion_mask.float()}


def pad_left(prompts: Rows, pad_id: int) -> tuple[Int[Tensor, "Q P"], Int[Tensor, "Q P"]]:
    """Prompts as ids and mask, padded on the left: sampling appends to all in the same column."""
    return _pad(prompts, pad_id, left=True)


def pad_right(completions: Rows, pad_id: int) -> tuple[Int[Tensor, "B T"], Float[Tensor, "B T"]]:
    """Completions as ids and float mask, padded on the right: token t stands in column t."""
    ids, mask = _pad(completions, pad_id)
    return ids, mask.float()
