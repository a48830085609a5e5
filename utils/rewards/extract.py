"""Answer extraction and rule rewards: plain Python, linear in the length of the text, no `eval`."""

import re

# ASCII digits only, bounded: model output is untrusted.
_NUMBER = re.compile(r"\s{0,8}\$?(-?[0-9][0-9,]{0,30}(?:\.[0-9]{1,30})?)")


def extract_hash_answer(text: str) -> str | None:
    """The number after the last `####` (GSM8K's format) without commas and `$`, or None.

    >>> extract_hash_answer("17*2=34; 34+8=42 #### 42")
    '42'
    >>> extract_hash_answer("42") is None
    True
    """
    _, found, tail = text.rpartition("####")
    number = _NUMBER.match(tail) if found else None
    return number.group(1).replace(",", "") if number else None
