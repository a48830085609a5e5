"""Five rule rewards for GSM8K: four for the form of a completion, one for the right answer.

The form that they ask for (`strict_format_reward` to the letter):

    <reasoning>
    17 + 25 = 42
    </reasoning>
    <answer>
    42
    </answer>

| reward      | points    | for |
|-------------|-----------|-----|
| xmlcount    | up to 0.5 | 0.125 for each tag that is there exactly once, on its own line |
| soft_format | 0.5       | reasoning, then answer, whatever the spacing |
| strict_format | 0.5     | the form above and nothing else |
| integer     | 0.5       | the answer is a bare whole number |
| correctness | 2.0       | the answer equals the gold answer |

They add up to 4.0. Half of it can be had without solving anything. The first four are those of a
public recipe, as they stand there. Its fifth compares the text of the answers; `correctness` here
asks for the same value (`same_answer`).
"""

import re

from tasks.rewards.extract import extract_xml_answer
from tasks.rewards.same import same_answer

GSM8K_MAXIMA = {
    "xmlcount": 0.5,
    "soft_format": 0.5,
    "strict_format": 0.5,
    "integer": 0.5,
    "correctness": 2.0,
}

# Each tag with the line breaks that put it on a line of its own.
_LINES = {
    "<reasoning>": "<reasoning>\n",
    "</reasoning>": "\n</reasoning>\n",
    "<answer>": "\n<answer>\n",
    "</answer>": "\n</answer>",
}
_INTEGER = re.compile(r"-?[0-9]{1,40}")


def gsm8k_rewards(completion: str, answer: str) -> dict[str, float]:
    """All five rewards by name; `sum(….values())` is the total, from 0.0 to 4.0."""
    return {
        "xmlcount": xmlcount_reward(completion),
        "soft_format": soft_format_reward(completion),
        "strict_format": strict_format_reward(completion),
        "integer": integer_reward(completion),
        "correctness": correctness_reward(completion, answer),
    }


def xmlcount_reward(completion: str) -> float:
    """0.125 for each of the four tags, less 0.001 for each character after the last `</answer>`.

    A tag counts if it occurs exactly once and stands on its own line. Their order does not
    matter: this reward is the ramp to the two formats. White space around the trailing text is
    free, and the result is never below 0.0.
    """
    found = sum(completion.count(tag) == 1 and line in completion for tag, line in _LINES.items())
    _, closed, tail = completion.rpartition("</answer>")
    return max(0.0, 0.125 * found - 0.001 * len(tail.strip() if closed else ""))


def soft_format_reward(completion: str) -> float:
    """0.5 for `<reasoning>…</reasoning><answer>…</answer>` at the start of the completion.

    White space may stand before and between the blocks, text may follow, and blocks may span
    lines. Empty blocks earn nothing.
    """
    before, _, rest = completion.partition("<reasoning>")
    reasoning, _, rest = rest.partition("</reasoning>")
    between, _, rest = rest.partition("<answer>")
    answer, closed, _ = rest.partition("</answer>")
    blank = not (before.strip() or between.strip())
    return 0.5 if closed and blank and reasoning.strip() and answer.strip() else 0.0


def strict_format_reward(completion: str) -> float:
    """0.5 for exactly the form above: each tag once and alone on its line, no text around.

    The line break after `</answer>` is optional: models end there. Empty blocks earn nothing.
    """
    body = completion.removesuffix("\n")
    reasoning, _, answer = body.partition("\n</reasoning>\n<answer>\n")
    once = all(body.count(tag) == 1 for tag in _LINES)
    framed = reasoning.startswith("<reasoning>\n") and answer.endswith("\n</answer>")
    inside = reasoning.removeprefix("<reasoning>"), answer.removesuffix("</answer>")
    return 0.5 if once and framed and all(map(str.strip, inside)) else 0.0


def integer_reward(completion: str) -> float:
    """0.5 if the answer is ASCII digits with an optional minus sign, 40 at most.

    `1,002`, `$5`, `42.0`, `1e3` and the superscript `²` (a digit to `str.isdigit`) earn nothing.
    """
    return 0.5 if _INTEGER.fullmatch(extract_xml_answer(completion) or "") else 0.0


def correctness_reward(completion: str, answer: str) -> float:
    """2.0 if the extracted answer is the gold answer (`same_answer`), else 0.0.

    The value counts, not its spelling: `1,002`, `$1002`, `**1002.0**` and `1002 apples` are all
    right for `1002`. Two answers between the tags (`41 or 42`) are none.
    """
    return 2.0 if same_answer(extract_xml_answer(completion), answer) else 0.0
