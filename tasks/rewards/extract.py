"""Where the answer stands in a completion, and which number it is."""

import re
from decimal import Decimal

MAX_NUMBER_CHARS = 64  # longer numbers are not read: model output is untrusted

# ASCII digits only, bounded: model output is untrusted.
_HASH_NUMBER = re.compile(r"\s{0,8}\$?(-?[0-9][0-9,]{0,30}(?:\.[0-9]{1,30})?)")

# Sign and `$` in either order; digits, in groups of three if there are commas; decimals; exponent.
_NUMBER = re.compile(
    r"(?P<sign>[-+]?\$?|\$-)"
    r"(?P<digits>(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+)"
    r"(?P<exponent>[eE][-+]?[0-9]{1,2}(?![0-9]))?"
)


def extract_hash_answer(text: str) -> str | None:
    """The number after the last `####` (GSM8K's format) without commas and `$`, or None.

    >>> extract_hash_answer("17*2=34; 34+8=42 #### 42")
    '42'
    >>> extract_hash_answer("42") is None
    True
    """
    _, found, tail = text.rpartition("####")
    number = _HASH_NUMBER.match(tail) if found else None
    return number.group(1).replace(",", "") if number else None


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


def normalise_number(text: str | None) -> str | None:
    """One spelling for each number, so that equal numbers are equal strings; None if not a number.

    | read as a number                                       | not a number (None)            |
    |--------------------------------------------------------|--------------------------------|
    | `042`, `42.0`, `+42` -> `42`; `-0` -> `0`; `.50` -> `0.5` | words, `1/2`, `3 or 4`, `nan` |
    | `1,002` -> `1002` (groups of three)                    | `1,2`, `10,02`                 |
    | `$5`, `-$5`, `$-5`, `50%`, `50 %` -> the bare number   | `5 km`, `5 dozen`, `5.`        |
    | `1e3` -> `1000` (exponent of one or two digits)        | `1e400`, over 64 characters    |

    Units other than `$` and `%` are refused, because `5 dozen` is not 5. Only ASCII digits count.

    >>> [normalise_number(text) for text in ("1,002.50", "-0", "1e3", "٣")]
    ['1002.5', '0', '1000', None]
    """
    text = (text or "").strip()
    if len(text) > MAX_NUMBER_CHARS:
        return None
    match = _NUMBER.fullmatch(text.removesuffix("%").rstrip())
    if match is None:
        return None
    # A Decimal is exact, where 64 digits of a float are not.
    number = Decimal(match["digits"].replace(",", "") + (match["exponent"] or ""))
    digits = f"{number:f}"
    if "." in digits:
        digits = digits.rstrip("0").rstrip(".")
    return f"-{digits}" if "-" in match["sign"] and number else digits


def same_number(a: str | None, b: str | None) -> bool:
    """Whether both are numbers (see `normalise_number`) and equal. Never raises.

    >>> same_number("$1,002.00", "1002"), same_number("0.33", "1/3"), same_number("x", "x")
    (True, False, False)
    """
    number = normalise_number(a)
    return number is not None and number == normalise_number(b)


def first_number(text: str) -> str | None:
    """The first number of a text, as `normalise_number` spells it, or None.

    >>> first_number("about -1,002 km, or 7"), first_number("1, 2"), first_number("none")
    ('-1002', '1', None)
    """
    match = _NUMBER.search(text)
    return normalise_number(match.group()) if match else None
