"""Which number a text is: strict, exact, and only if the whole text is that number."""

import re
from decimal import Decimal
from fractions import Fraction

MAX_NUMBER_CHARS = 64  # longer numbers are not read: model output is untrusted

# Sign and `$` in either order; digits, in groups of three if there are commas; decimals; exponent.
NUMBER = re.compile(
    r"(?P<sign>[-+]?\$?|\$-)"
    r"(?P<digits>(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+)"
    r"(?P<exponent>[eE][-+]?[0-9]{1,2}(?![0-9]))?"
)

_SIDE = r"(?:[0-9]{1,20}(?:\.[0-9]{1,20})?|\.[0-9]{1,20})"
# `3/4`, `\frac{3}{4}`, `\frac34`; a whole number before it makes a mixed number: `7 1/2`.
_FRACTION = re.compile(
    r"(?P<sign>[-+]?)\s{0,2}(?:(?P<whole>[0-9]{1,20})(?:\s{1,2}|\s{0,2}(?=\\)))?"
    rf"(?:(?P<top>[-+]?{_SIDE})\s?/\s?(?P<bottom>{_SIDE})"
    r"|\\[dtc]?frac\s?(?:\{\s?(?P<top2>[-+]?" + _SIDE + r")\s?\}|(?P<top3>[0-9]))"
    r"\s?(?:\{\s?(?P<bottom2>" + _SIDE + r")\s?\}|(?P<bottom3>[0-9])))"
)
_SCIENTIFIC = re.compile(
    rf"([-+]?{_SIDE})\s?(?:\\times|\\cdot|\*|x)\s?10\s?(?:\^|\*\*)\s?(?:\{{([-+]?[0-9]{{1,2}})\}}"
    r"|([-+]?[0-9]{1,2}))"
)


def normalise_number(text: str | None) -> str | None:
    """One spelling for each number, so that equal numbers are equal strings; None if not a number.

    | read as a number                                       | not a number (None)            |
    |--------------------------------------------------------|--------------------------------|
    | `042`, `42.0`, `+42` -> `42`; `-0` -> `0`; `.50` -> `0.5` | words, `1/2`, `3 or 4`, `nan` |
    | `1,002` -> `1002` (groups of three)                    | `1,2`, `10,02`                 |
    | `$5`, `-$5`, `$-5`, `50%`, `50 %` -> the bare number   | `5 km`, `5 dozen`, `5.`        |
    | `1e3` -> `1000` (exponent of one or two digits)        | `1e400`, over 64 characters    |
    | `−5` (the minus sign of Unicode, U+2212) -> `-5`       | `٣`, `５` (not ASCII digits)    |

    Units other than `$` and `%` are refused, because `5 dozen` is not 5 (`same_answer` knows more
    spellings). `50%` is 50, not 0.5.

    >>> [normalise_number(text) for text in ("1,002.50", "-0", "1e3", "٣")]
    ['1002.5', '0', '1000', None]
    """
    text = (text or "").strip()
    if len(text) > MAX_NUMBER_CHARS:
        return None
    match = NUMBER.fullmatch(text.replace("\u2212", "-").removesuffix("%").rstrip())
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


def rational(text: str) -> Fraction | None:
    """The exact value of a number, a fraction, a mixed number or `a \\times 10^n`, or None.

    >>> [str(rational(text)) for text in ("0.50", "7 1/2", r"-1\\frac12", r"3 \\times 10^2", "1/0")]
    ['1/2', '15/2', '-3/2', '300', 'None']
    """
    number = normalise_number(text)
    if number is not None:
        return Fraction(number)
    if len(text) > MAX_NUMBER_CHARS:
        return None
    text = text.strip().replace("\u2212", "-")
    if match := _SCIENTIFIC.fullmatch(text):
        return Fraction(match[1]) * Fraction(10) ** int(match[2] or match[3])
    match = _FRACTION.fullmatch(text)
    if match is None:
        return None
    top = match["top"] or match["top2"] or match["top3"]
    bottom = Fraction(match["bottom"] or match["bottom2"] or match["bottom3"])
    # `7 -1/2` and `7 1.5/2` are no mixed numbers.
    if not bottom or (match["whole"] and not (top.isdigit() and bottom.denominator == 1)):
        return None
    value = int(match["whole"] or 0) + Fraction(top) / bottom
    return -value if match["sign"] == "-" else value
