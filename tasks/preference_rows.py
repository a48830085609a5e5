"""Rows of preference data sets, in the formats that occur, as three texts.

- The sides are `chosen` and `rejected`, or `response_chosen` and `response_rejected`: texts, chat
  messages with `role`, `content` or `from`, `value` (UltraFeedback and others), or transcripts
  "\\n\\nHuman: ...\\n\\nAssistant: ..." (Anthropic's hh-rlhf).
- The prompt is `prompt`, `conversations`, or `question` with `system` and `history`, or it is the
  turns that both sides share. One user turn stays as it is, after the system text if there is one;
  of several turns each is preceded by its role.
"""

import re
from typing import Any

_SIDES = (("chosen", "rejected"), ("response_chosen", "response_rejected"))
_ROLES = {"human": "user", "gpt": "assistant"}

Turns = list[tuple[str, str]]  # (role, text)


class RefusedRow(ValueError):
    """One row that cannot be used; its text is the reason, the same for every such row."""


def parse_row(row: dict[str, Any]) -> tuple[str, str, str]:
    """Prompt, chosen and rejected text of one row.

    Raises ValueError for another format or, with the reason, for a row that cannot be used.
    """
    sides = [keys for keys in _SIDES if row.keys() >= set(keys)]
    if len(sides) != 1:
        raise ValueError(
            "expected `chosen` and `rejected`, or `response_chosen` and `response_rejected`, and "
            f"not both; this row has {sorted(row)}"
        )
    chosen, rejected = (_answer_turns(row[key]) for key in sides[0])
    if chosen[-1][0] != "assistant" or rejected[-1][0] != "assistant":
        raise RefusedRow("a side does not end with an answer of the assistant")
    shared, prompt = chosen[:-1], _prompt_turns(row)
    if shared != rejected[:-1]:
        raise RefusedRow("chosen and rejected answer different prompts")
    known = {(role, text.strip()) for role, text in shared}
    if shared and any((role, text.strip()) not in known for role, text in prompt):
        raise RefusedRow("the prompt is not the one that the sides answer")
    scores = row.get("score_chosen"), row.get("score_rejected")
    if None not in scores and scores[0] < scores[1]:
        raise RefusedRow("score_chosen is below score_rejected")
    return _as_text(shared or prompt), chosen[-1][1], rejected[-1][1]


def _answer_turns(value: Any) -> Turns:
    """The turns of one side; a plain text is one answer."""
    if isinstance(value, str) and value.startswith("\n\nHuman:"):
        parts = re.split(r"\n\n(Human|Assistant):", value)[1:]
        roles = ("user" if role == "Human" else "assistant" for role in parts[::2])
        return [(role, text.strip()) for role, text in zip(roles, parts[1::2], strict=True)]
    return _turns(value, "assistant") or [("assistant", "")]


def _prompt_turns(row: dict[str, Any]) -> Turns:
    """The turns of the prompt as far as the row has them outside the sides."""
    if "question" in row:
        turns = [("system", row["system"])] if row.get("system") else []
        for asked, answered in row.get("history") or []:
            turns += [("user", asked), ("assistant", answered)]
        return [*turns, *_turns(row["question"], "user")]
    return _turns(row.get("prompt") or row.get("conversations"), "user")


def _turns(value: Any, role: str) -> Turns:
    """A text (then of this role), a message or a list of messages as turns."""
    if value is None or isinstance(value, str):
        return [(role, value)] if value else []
    messages = [value] if isinstance(value, dict) else value
    if not (isinstance(messages, list) and all(isinstance(each, dict) for each in messages)):
        raise ValueError(f"expected a text or a list of chat messages, not {str(value)[:80]!r}")
    turns = []
    for message in messages:
        role = message.get("role") or message.get("from")
        text = message.get("content", message.get("value"))
        if not isinstance(role, str) or not isinstance(text, str):
            raise RefusedRow("a message without a role or a text")
        turns.append((_ROLES.get(role, role), text))
    return turns


def _as_text(turns: Turns) -> str:
    """The turns of a prompt as one text."""
    if sum(role != "system" for role, _ in turns) > 1:
        return "\n\n".join(f"{role.capitalize()}: {text}" for role, text in turns)
    return "\n\n".join(text for _, text in turns)
