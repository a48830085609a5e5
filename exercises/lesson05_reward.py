"""Exercise of lesson 05: a reward for a thought and a right answer, without a hole."""

import torch

from exercises.calls import Case
from exercises.judge import Exercise


def my_think_rewards(completions, answers):
    rewards = []
    for text, answer in zip(completions, answers, strict=True):
        before, _, rest = text.partition("<think>")
        thought, _, said = rest.partition("</think>")
        once = text.count("<think>") == 1 and text.count("</think>") == 1
        form = once and not before.strip() and thought.strip() != ""
        right = said.strip() == answer
        rewards.append(float(form and right))
    return torch.tensor(rewards)


_WHOLE = "what stands behind </think> must be the answer and nothing else."
_FORM = "1.0 only for a thought in its form and the right answer behind it."
_MISTAKES = f"""
A hole: the answer may stand anywhere in the completion, in the thought as well: {_WHOLE}
    said.strip() == answer -> answer in text
A hole: 42 is in 142, and in a list of all numbers: {_WHOLE}
    said.strip() == answer -> answer in said
    said.strip() == answer -> answer in said.split()
A hole: 42 or 43 begins with 42: {_WHOLE}
    said.strip() == answer -> said.strip().startswith(answer)
A hole: 142 ends in 42: {_WHOLE}
    said.strip() == answer -> said.strip().endswith(answer)
A hole: no answer at all is paid, since an empty text is in every text: {_WHOLE}
    said.strip() == answer -> said.strip() in answer
A hole: a tag may occur twice, so that there are two thoughts or two answers. Count both tags.
    once and not -> not
    once and -> ("<think>" in text and "</think>" in text) and
    once = text.count("<think>") == 1 and text.count("</think>") == 1 ->
        once = "<think>" in text and text.count("</think>") == 1
A hole: an opening tag is not asked for: the form has both.
    once = text.count("<think>") == 1 and text.count("</think>") == 1 ->
        once = text.count("</think>") == 1 ; rest.partition -> text.partition ;
        not before.strip() and ->
A hole: an empty thought is paid. Ask for one that is not blank.
    and thought.strip() != "" ->
    thought.strip() != "" -> thought != ""
A hole: text before the thought is paid. A completion begins with <think>.
    not before.strip() and ->
White space around the answer is no mistake of the model: strip it.
    said.strip() == answer -> said == answer
White space before the thought is no mistake of the model: strip it.
    not before.strip() -> not before
Right or wrong is left out: {_FORM}
    form and right -> form
The form is left out: {_FORM}
    form and right -> right | text.rpartition("</think>")[2].strip() == answer
Half a reward for one of the two: {_FORM} A policy collects the half that is easy.
    float(form and right) -> (form + right) / 2
All completions are compared with the first answer: each row has its own.
    said.strip() == answer -> said.strip() == answers[0]
Right and wrong are swapped: {_FORM}
    float(form and right) -> float(not (form and right))
"""

_RIGHT = "<think>17+25=42</think>42"
_FIRST = ["42", "42", "7"], [_RIGHT, "<think>17+25=42</think>142", "<think>3+4=7</think> 7\n"]
_TRIES = [
    _RIGHT,
    " <think>\n17+25=42\n</think>\n42",
    "<think>17+25=42</think>",
    "<think>17+25=42</think>42 or 43",
    "<think>17+25=42</think>41 or 42",
    "<think>17+25=42</think>41 42 43",
    "<think>17+25=42</think>4",
    "<think>42</think>41",
    "<think></think>42",
    "<think> </think>42",
    "Sure! <think>17+25=42</think>42",
    "<think>17+25=42",
    "17+25=42</think>42",
    "17+25=42 <think></think>42",
    "<think>17<think>+25=42</think>42",
    "<think>17</think>+25=42</think>42",
    "<think>1</think>41<think>2</think>42",
    "<think>17+25=42</think>42</think>41",
    "42",
    "",
]


def _case(answers, completions):
    text = f"completions = {completions}, answers = {answers}"
    return Case((completions, answers), text)


def _cases():
    yield _case(*_FIRST)
    for text in _TRIES:
        yield _case(["42", "7"], [text, "<think>3+4=7</think>7"])
    yield _case(["7"] * 2, ["<think>3+4</think>" + said for said in ("7", "42")])


think_rewards = Exercise(
    reference=my_think_rewards,
    answer=my_think_rewards,
    mistakes=_MISTAKES,
    cases=list(_cases()),
    success="every hole that is tried here is closed",
)
