"""Rows of preference data sets, in the formats that occur, as three texts.

- The sides are `chosen` and `rejected`, or `response_chosen` and `response_rejected`: texts, chat
  messages with `role`, `content` or `from`, `value` (UltraFeedback and others), or transcripts
  "\\n\\nHuman: ...\\n\\nAssistant: ..." (Anthropic's hh-rlhf).
- The prompt is `question`, `prompt` or `conversations`, after the pairs of `history` if there are
  any, or it is the turns that both sides share. One user turn stays as it is, after the system text
  if there is one; of several turns each is preceded by its role.
- The system text is `system`, or the first turn of the prompt or of the sides.
- A key with the value None counts as absent: a table gives every row the columns of all.
"""

import math
import re
from typing import Any

_SIDES = (("chosen", "rejected"), ("response_chosen", "response_rejected"))
_ROLES = {"human": "user", "gpt": "assistant"}
# A transcript opens with "Human:" and names the assistant in a paragraph or at its very end.
_TRANSCRIPT = re.compile(r"\n\nHuman:|\s*Human:.*(\n\nAssistant:|\sAssistant:\s*\Z)", re.DOTALL)
_SPEAKER = re.compile(r"(?:\A\s*|\n\n|\s(?=Assistant:\s*\Z))(Human|Assistant):")

Turns = list[tuple[str, str]]  # (role, text)


class RefusedRow(ValueError):
    """One row that cannot be used; its text is the reason, the same for every such row."""


def parse_row(row: dict[str, Any]) -> tuple[str, str, str]:
    """Prompt, chosen and rejected text of one row.

    Raises ValueError for another format or, with the reason, for a row that cannot be used.
    """
    whole = [keys for keys in _SIDES if row.keys() >= set(keys)]
    sides = [keys for keys in whole if any(row[key] is not None for key in keys)] or whole
    if len(sides) != 1:
        raise ValueError(
            "expected `chosen` and `rejected`, or `response_chosen` and `response_rejected`, and "
            f"not both; this row has {sorted(row)}"
        )
    chosen, rejected = (_turns(row[key], "assistant") or [("assistant", "")] for key in sides[0])
    if chosen[-1][0] != "assistant" or rejected[-1][0] != "assistant":
        raise RefusedRow("a side does not end with an answer of the assistant")
    if chosen[:-1] != rejected[:-1]:
        raise RefusedRow("chosen and rejected answer different prompts")
    _check_scores(row)
    return _as_text(_prompt(row, chosen[:-1])), chosen[-1][1], rejected[-1][1]


def _check_scores(row: dict[str, Any]) -> None:
    """Refuse a row whose scores contradict its sides. Tables may hold numbers as text."""
    scores = []
    for key in ("score_chosen", "score_rejected"):
        try:
            scores.append(math.nan if row.get(key) in (None, "") else float(row[key]))
        except (TypeError, ValueError):
            raise ValueError(f"{key} must be a number, not {str(row[key])[:80]!r}") from None
    if scores[0] < scores[1]:  # never with a score that is missing
        raise RefusedRow("score_chosen is below score_rejected")


def _prompt(row: dict[str, Any], shared: Turns) -> Turns:
    """The turns that both sides answer, from the sides (`shared`) and the row's other keys."""
    asked = _history(row.get("history")) + _turns(
        row.get("question") or row.get("prompt") or row.get("conversations"), "user"
    )
    if asked and asked[-1] == ("assistant", ""):
        asked.pop()  # a transcript's "Assistant:", where the answer belongs
    systems = _turns(row.get("system"), "system")
    for turns in (asked, shared):
        if turns and turns[0][0] == "system":
            systems.append(turns.pop(0))
    systems = [turn for turn in systems if turn[1].strip()]
    if len({text.strip() for _, text in systems}) > 1:
        raise RefusedRow("the row has two different system texts")
    known = {(role, text.strip()) for role, text in shared}
    if shared and any((role, text.strip()) not in known for role, text in asked):
        raise RefusedRow("the prompt is not the one that the sides answer")
    return systems[:1] + (shared or asked)


def _history(value: Any) -> Turns:
    """Earlier turns: pairs of a question and its answer."""
    turns: Turns = []
    for pair in value or []:
        if not (isinstance(pair, list | tuple) and [type(text) for text in pair] == [str, str]):
            raise ValueError(f"expected pairs of texts in `history`, not {str(pair)[:80]!r}")
        turns += zip(("user", "assistant"), pair, strict=True)
    return turns


def _turns(value: Any, role: str) -> Turns:
    """A text (then of this role), a transcript, a message or a list of messages as turns."""
    if isinstance(value, str) and _TRANSCRIPT.match(value):
        parts = _SPEAKER.split(value)[1:]
        roles = ("user" if word == "Human" else "assistant" for word in parts[::2])
        return [(role, text.strip()) for role, text in zip(roles, parts[1::2], strict=True)]
    if value is None or isinstance(value, str):
        return [(role, value)] if value else []
    messages = [value] if isinstance(value, dict) else value
    if not (isinstance(messages, list) and all(isinstance(each, dict) for each in messages)):
        raise ValueError(f"expected a text or a list of chat messages, not {str(value)[:80]!r}")
    turns = []
    for message in messages:
        role = message.get("role") or message.get("from")
        text = message.get("content")
        text = message.get("value") if text is None else text
        if not isinstance(role, str) or not isinstance(text, str):
            raise RefusedRow("a message without a role or a text")
        turns.append((_ROLES.get(role, role), text))
    return turns


def _as_text(turns: Turns) -> str:
    """The turns of a prompt as one text."""
    if sum(role != "system" for role, _ in turns) > 1:
        return "\n\n".join(f"{role.capitalize()}: {text}" for role, text in turns)
    return "\n\n".join(text for _, text in turns)
