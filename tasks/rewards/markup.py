"""What stands around an answer and is not part of it: markup, a lead-in, a name, a unit.

| said | is |
|---|---|
| `**73**`, `$73$`, `\\(73\\)`, `\\boxed{73}`, `\\text{73}`, `` `73` `` | `73` |
| `The answer is 73.` | `73` |
| `x = 73`, `total = 73` | `73`, named `x`, `total` |
| `1{,}073`, `1,\\!073` | `1,073` |
| `73 apples`, `$12.50 a day`, `90^\\circ`, `5 \\text{ cm}^2` | the number and a unit |
| `7 dozen`, `7 million`, `7 or eight`, `7x`, `7 is wrong` | themselves: another value, or no unit |

Every pattern is bounded: the texts are untrusted.
"""

import re

MAX_CHARS = 400  # a longer answer is not read

_SYMBOLS = str.maketrans(
    {"\u2212": "-", "\u00a0": " ", "\u202f": " ", "π": r"\pi ", "×": r"\times ", "·": r"\cdot "}
    | {"∞": r"\infty ", "±": r"\pm ", "°": r"^\circ ", "∪": r"\cup ", "∈": r"\in ", "²": "^2"}
)
_PAIRS = ("**", "__", "$$", "$", "`", "*"), ((r"\(", r"\)"), (r"\[", r"\]"))
_WRAPPER = re.compile(
    r"\\(?:boxed|fbox|text(?:bf|it|rm|normal)?|mbox|math(?:rm|bf|it)|displaystyle)\s{0,2}\{"
)
_LEAD = re.compile(
    r"(?:(?:so|thus|hence|therefore),?\s{1,3})?(?:(?:the|my|our)\s{1,3})?(?:(?:final|correct)\s{1,3})?"
    r"answer(?:\s{1,3}is|\s{0,3}=)?\s{0,3}:?\s{1,3}",
    re.IGNORECASE,
)
_NAME = re.compile(
    r"(\\?[A-Za-z]{1,20}(?:_\{?[0-9A-Za-z]{1,3}\}?)?(?:\([a-z]\))?)\s{0,3}(?:=|\\in(?![a-z]))\s{0,3}"
)
_SPACES = re.compile(r"(?<!\\)\\[ ,;:!]|~|\\(?:left|right|displaystyle|q?quad)(?![A-Za-z])")

_BRACKETS = re.compile(r"\\[{}]|[{}()\[\]]")

_WORD = r"[A-Za-z]{2,20}"
_SOME = rf"{_WORD}\.?(?: {{1,3}}(?:a|{_WORD})\.?){{0,3}}"  # one to four words
_POWER = r"(?: ?\^\{?[23]\}?)?"
_UNIT = re.compile(
    rf"(?P<value>.{{0,{MAX_CHARS}}}(?:[0-9)}}]|\\pi)) {{0,3}}(?:"
    r"(?P<degree>\^ ?\{? ?\\circ ?\}?|\\degree)"
    rf"|\\(?:text(?:rm)?|mbox|mathrm) ?\{{ {{0,3}}(?P<boxed>{_SOME}) {{0,3}}\}}{_POWER}"
    rf"|(?<= )(?P<words>{_SOME}|a {{1,3}}{_WORD}){_POWER}"
    r"|(?P<short>cm|mm|km|kg|mg|ml|lbs?|oz|ft|mph|hrs?|mins?)(?![A-Za-z]))"
)
# Words that make another value of a number, or a sentence of an answer.
_NO_UNIT = frozenset(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen"
    " sixteen seventeen eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety"
    " hundred thousand million billion trillion dozen score gross pair couple lakh crore mil bn"
    " half halve third fourth fifth sixth seventh eighth ninth tenth hundredth thousandth quarter"
    " double triple twice times fold squared cubed factorial plus minus divided over mod modulo"
    " base remainder and or nor to than through versus is are was were be not no never wrong false"
    " incorrect maybe perhaps possibly probably unless except but if negative positive percent"
    " pi sqrt sin cos tan log ln".split()
)
_ALIASES = {"$": "dollar", "cm": "centimeter", "mm": "millimeter", "km": "kilometer"} | {
    "ft": "foot",
    "feet": "foot",
    "lb": "pound",
    "hr": "hour",
    "min": "minute",
    "inche": "inch",
    "centimetre": "centimeter",
}


def bare(text: str) -> str:
    """The answer without what is wrapped around it; a text that is too long becomes empty.

    >>> [bare(text) for text in ("**73**", r"\\boxed{\\$1{,}073}", "The answer is 73.")]
    ['73', '$1,073', '73']
    """
    if len(text) > MAX_CHARS:
        return ""
    text = text.translate(_SYMBOLS).replace("{,}", ",").replace(r"\%", "%")
    text = re.sub(r",\\!\s{0,3}", ",", text)
    for _ in range(12):
        before, text = text, _peel(text.strip())
        if text == before:
            break
    text = _SPACES.sub(lambda m: "" if m[0][1:].isalpha() or m[0] == r"\!" else " ", text)
    return text.replace(r"\$", "$").strip()


def _peel(text: str) -> str:
    """The text without its outermost layer of markup."""
    for mark in _PAIRS[0]:
        inner = text[len(mark) : -len(mark)]
        if inner and text == f"{mark}{inner}{mark}" and mark not in inner.replace(r"\$", ""):
            return inner
    for left, right in _PAIRS[1]:
        if text.startswith(left) and text.endswith(right) and left not in text[2:]:
            return text[2:-2]
    opened = _WRAPPER.match(text)
    if opened and closing(text, opened.end() - 1) == len(text) - 1:
        return text[opened.end() : -1]
    if lead := _LEAD.match(text):
        return text[lead.end() :]
    # A full stop ends a sentence; an ellipsis does not end a number.
    return text[:-1] if text.endswith(".") and not text.endswith("..") else text


def closing(text: str, start: int) -> int:
    """Where the bracket at `start` closes, or -1. Escaped braces count as text."""
    depth = 0
    for match in _BRACKETS.finditer(text, start):
        if match[0] in ("{", "(", "["):
            depth += 1
        elif match[0] in ("}", ")", "]"):
            depth -= 1
            if not depth:
                return match.start()
    return -1


def split_name(text: str) -> tuple[str, str]:
    """(name, value) of `x = 5` or `x \\\\in [1,2]`; the name is empty without one."""
    match = _NAME.match(text)
    return (match[1], text[match.end() :]) if match else ("", text)


def split_unit(text: str) -> tuple[str, str]:
    """(value, unit) of a quantity; the unit is empty without one, and of several words.

    >>> split_unit("73 apples"), split_unit("$5"), split_unit("7 dozen")
    (('73', 'apple'), ('$5', 'dollar'), ('7 dozen', ''))
    """
    match = _UNIT.fullmatch(text)
    if match is None:
        sign = "$" if "$" in text else "%" if text.endswith("%") else ""
        return text, _ALIASES.get(sign, sign)
    words = (
        ["degree"]
        if match["degree"]
        else (match["boxed"] or match["words"] or match["short"]).lower().replace(".", " ").split()
    )
    if words == ["percent"]:
        return match["value"], "%"
    plain = [word.removesuffix("s") for word in words]
    if any(word in _NO_UNIT for pair in zip(words, plain, strict=True) for word in pair):
        return text, ""
    return match["value"], _ALIASES.get(plain[0], plain[0]) if len(plain) == 1 else ""
