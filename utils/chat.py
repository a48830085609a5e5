"""From text to token ids: the ChatML template, the completion mask, batches."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

START, END, END_OF_TEXT = "<|im_start|>", "<|im_end|>", "<|endoftext|>"
IGNORE = -100  # label of a position that does not count in the loss

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
            f"the tokenizer has no {token} token, so it does not speak ChatML: "
            "use a Qwen tokenizer, or one that was trained with "
            f"{START}, {END} and {END_OF_TEXT} as special tokens"
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


def _fits(encoded: Encoded, max_length: int | None) -> Encoded:
    """The example itself, or a ValueError with its lengths: nothing is cut off silently."""
    if max_length is not None and len(encoded) > max_length:
        completion = sum(encoded.completion_mask)
        prompt = len(encoded) - completion
        part = "prompt alone" if prompt >= max_length else "example"
        raise ValueError(
            f"the {part} is longer than max_length={max_length}: {prompt} prompt tokens + "
            f"{completion} completion tokens = {len(encoded)}; raise max_length, shorten the text, "
            "or leave the example out (cut short, it would lose the token that says stop)"
        )
    return encoded


def _join(prompt: list[int], completion: list[int]) -> Encoded:
    return Encoded(prompt + completion, [0] * len(prompt) + [1] * len(completion))


def _check_completion(completion: str) -> None:
    if not completion.strip():
        raise ValueError(
            "the completion is empty: the model would learn to stop at once; "
            "leave the example out, or write the answer it should give"
        )


def stop_token_ids(tokenizer) -> list[int]:
    """Ids that end a completion: `<|im_end|>` in a chat, `<|endoftext|>` in a base document."""
    return [_token_id(tokenizer, END), _token_id(tokenizer, END_OF_TEXT)]


def encode_prompt(tokenizer, user_text: str, system: str | None = None) -> list[int]:
    """Ids of a chat that waits for its answer: it ends with `<|im_start|>assistant` and a newline.

    Equal to `tokenizer.apply_chat_template(..., add_generation_prompt=True, return_dict=False)`,
    except that special tokens inside the texts are read as plain text, never as control tokens.
    """
    start, end = _token_id(tokenizer, START), _token_id(tokenizer, END)
    newline = _plain(tokenizer, "\n")
    ids: list[int] = []
    for role, content in (("system", system), ("user", user_text)):
        if content is not None:
            # Role and content in one piece: a tokenizer may merge across the newline between them.
            ids += [start, *_plain(tokenizer, f"{role}\n{content}"), end, *newline]
    return ids + [start, *_plain(tokenizer, "assistant\n")]


def encode_example(
    tokenizer,
    user_text: str,
    completion: str,
    max_length: int | None = None,
    system: str | None = None,
) -> Encoded:
    """One chat demonstration; the mask is 1 on the completion and on the `<|im_end|>` that ends it.

    The completion is encoded apart from the prompt, so that training sees exactly the prompt ids
    that sampling starts from. The newline that the template puts after `<|im_end|>` is left out:
    sampling has stopped by then. Raises ValueError when the completion is empty or prompt and
    completion together exceed `max_length`.
    """
    _check_completion(completion)
    prompt = encode_prompt(tokenizer, user_text, system)
    answer = [*_plain(tokenizer, completion), _token_id(tokenizer, END)]
    return _fits(_join(prompt, answer), max_length)


def encode_document(
    tokenizer, prompt: str, completion: str, max_length: int | None = None
) -> Encoded:
    """One plain document without chat format, as a base model reads it; ends in `<|endoftext|>`."""
    _check_completion(completion)
    answer = [*_plain(tokenizer, completion), _token_id(tokenizer, END_OF_TEXT)]
    return _fits(_join(_plain(tokenizer, prompt), answer), max_length)


def collate(examples: Sequence[Encoded], pad_id: int) -> dict[str, torch.Tensor]:
    """Right-padded batch: input_ids, attention_mask, labels (long) and completion_mask (float).

    All are (B, L). Labels are the input ids on completion tokens and -100 elsewhere; they are not
    shifted. The masks come from lengths, never from `ids != pad_id`: where padding and end of text
    are the same token, that would hide the end from the loss and the model would never stop.
    """
    if not examples:
        raise ValueError("no examples to collate")
    length = max(len(example) for example in examples)
    input_ids = torch.full((len(examples), length), pad_id)
    attention_mask = torch.zeros_like(input_ids)
    completion_mask = torch.zeros(input_ids.shape)
    for row, example in enumerate(examples):
        input_ids[row, : len(example)] = torch.tensor(example.input_ids)
        attention_mask[row, : len(example)] = 1
        completion_mask[row, : len(example)] = torch.tensor(example.completion_mask).float()
    labels = input_ids.masked_fill(completion_mask == 0, IGNORE)
    return {
        "input_ids": input_ids,
        "attention_mask": attention_mask,
        "labels": labels,
        "completion_mask": completion_mask,
    }


def pad_left(prompts: Sequence[Sequence[int]], pad_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Prompts of different lengths as (Q, P) ids and mask, padded on the left.

    Left, because sampling appends at the right end: every prompt has to end in the same column.
    """
    if not prompts or not all(len(prompt) for prompt in prompts):
        raise ValueError("pad_left needs at least one prompt, and no empty ones")
    length = max(len(prompt) for prompt in prompts)
    prompt_ids = torch.full((len(prompts), length), pad_id)
    prompt_mask = torch.zeros_like(prompt_ids)
    for row, prompt in enumerate(prompts):
        prompt_ids[row, length - len(prompt) :] = torch.tensor(prompt)
        prompt_mask[row, length - len(prompt) :] = 1
    return prompt_ids, prompt_mask


def pad_right(
    completions: Sequence[Sequence[int]], pad_id: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Completions of different lengths as (B, T) ids and float mask, padded on the right.

    Right, so that token t of every completion stands in column t.
    """
    if not completions or not all(len(completion) for completion in completions):
        raise ValueError("pad_right needs at least one completion, and no empty ones")
    length = max(len(completion) for completion in completions)
    completion_ids = torch.full((len(completions), length), pad_id)
    mask = torch.zeros(completion_ids.shape)
    for row, completion in enumerate(completions):
        completion_ids[row, : len(completion)] = torch.tensor(completion)
        mask[row, : len(completion)] = 1.0
    return completion_ids, mask
