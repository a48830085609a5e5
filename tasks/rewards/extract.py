"""Where the answer stands in a completion.

| form | the answer is | two answers |
|---|---|---|
| `#### 42` (GSM8K) | all that follows the last `####` | the last one counts |
| `<answer>42</answer>` | the last complete one outside the reasoning | the last one counts |
| `\\boxed{42}` (MATH) | every complete one | none, if they differ (`score_boxed`) |

The last `####` or `<answer>` counts because a text may correct itself, and guessing twice gains
nothing: one answer is graded. Two answers in *one* place (`#### 7 or 8`) are none.
"""

import re

from tasks.rewards.markup import bare, split_unit
from tasks.rewards.number import normalise_number

_BRACES = re.compile(r"\\(?:boxed|fbox)\s{0,4}\{|\\.|[{}]", re.DOTALL)


def after_hashes(text: str) -> str | None:
    """The stripped text after the last `####`, or None without one.

    >>> after_hashes("17*2=34; 34+8=42 #### 42 or so")
    '42 or so'
    """
    _, found, tail = text.rpartition("####")
    return tail.strip() if found else None


def extract_hash_answer(text: str) -> str | None:
    """The number after the last `####`, as `normalise_number` spells it, or None.

    Nothing but the number may stand there, apart from markup and a unit (see `same_answer`): a
    number that is only the beginning of what follows is no answer.

    >>> [extract_hash_answer(text) for text in ("6*7=42 #### $42.00", "#### 42 or 43", "42")]
    ['42', None, None]
    """
    tail = after_hashes(text)
    return None if tail is None else normalise_number(split_unit(bare(tail))[0])


def extract_xml_answer(text: str) -> str | None:
    """The stripped text of the last complete `<answer>…</answer>` outside the reasoning, or None.

    | completion                                         | answer |
    |----------------------------------------------------|--------|
    | `<answer>1</answer> … <answer>2</answer>`          | `2`: the last one counts |
    | `<answer>1</answer> … <answer>2`                   | `1`: the last *complete* one |
    | `<answer>1<answer>2</answer>`                      | `2`: the innermost opening tag |
    | `<reasoning>… <answer>1</answer> …</reasoning>`    | None: still thinking |
    | `<reasoning>… <answer>1</answer>`, never closed    | None |
    | `<answer></answer>`                                | the empty string |

    >>> extract_xml_answer("<reasoning>17+25</reasoning><answer> 42 </answer>")
    '42'
    """
    _, _, outside = text.rpartition("</reasoning>")
    outside, _, _ = outside.partition("<reasoning>")
    start = outside.rfind("<answer>", 0, max(0, outside.rfind("</answer>")))
    if start < 0:
        return None
    start += len("<answer>")
    return outside[start : outside.index("</answer>", start)].strip()


def extract_boxed(text: str) -> list[str]:
    """The contents of every complete `\\boxed{…}` or `\\fbox{…}`, in order.

    Braces may be nested; of boxes within a box, the outer one is returned. An escaped brace
    (`\\{`) is text. One pass, so linear in the text.

    >>> extract_boxed(r"so \\boxed{\\frac{1}{2}}, that is \\boxed{0.5}, or \\boxed{1")
    ['\\\\frac{1}{2}', '0.5']
    """
    opened: list[int | None] = []  # where a box's content starts; None for another brace
    found: list[tuple[int, int]] = []
    for match in _BRACES.finditer(text):
        token = match.group()
        if token == "}":
            start = opened.pop() if opened else None
            if start is not None:
                while found and found[-1][0] > start:
                    found.pop()
                found.append((start, match.start()))
        elif token == "{" or (token.endswith("{") and token != r"\{"):
            opened.append(None if token == "{" else match.end())
    return [text[start:end].strip() for start, end in found]
