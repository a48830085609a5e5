"""Is an answer the gold answer? One verdict for numbers, formulas, words, lists and matrices."""

import re
from itertools import starmap

from tasks.rewards.formula import same_formula
from tasks.rewards.markup import MAX_CHARS, bare, closing, split_name, split_unit
from tasks.rewards.number import rational

MAX_PARTS = 12  # entries of a list, tuple or matrix
MAX_NESTING = 3  # a set of tuples of numbers has 2

_WHOLE = re.compile(r"\s?-?[0-9]{1,18}")
_BASE = re.compile(r"([0-9A-Z]{1,30})_\{?(?:\\text)?\{?([2-9]|[1-3][0-9])\}?\}?")
_SPACE_AT_SIGN = re.compile(r"\s*([^0-9A-Za-z\s])\s*")
_WORDS = re.compile(r"[A-Za-z][A-Za-z' -]{0,80}")
_AND = re.compile(r"\s(?:and|or)\s|\\(?:text|mbox)\{\s?(?:and|or)\s?\}")
_MATRIX = re.compile(
    r"\\begin\{([pb]?matrix|array)\}(?:\{[clr|]{1,12}\})?(.*)\\end\{\1\}", re.DOTALL
)

Shape = str | tuple  # a part that is compared as a whole, or (kind, part, part, …)


def same_answer(said: str | None, gold: str | None) -> bool:
    """Whether `said` is the answer `gold`. Never raises, in no thread, and not slow on any text.

    | gold | right | wrong |
    |---|---|---|
    | `73` | `73.0`, `+73`, `$73`, `**73**`, `73 apples` | `73 or 74`, `73 dozen`, `73x` |
    | `73` | `x = 73`, "The answer is 73." | `70 + 3`, `70 + 3 = 73` |
    | `0.5` | `1/2`, `\\frac{1}{2}`, `.50`, `5e-1` | `0.49999` |
    | `\\frac{1}{3}` | `2/6` | `0.33`, `0.333333`: a rounded value is another value |
    | `50%`, `50` | `50`, `50%`, `50 percent` | `0.5` |
    | `\\text{Evelyn}` | `evelyn` | `Evelyn or Navin` |
    | `(1, 2)` | `(1,2)`, `1, 2` | `(2,1)`, `(1,2]`, `[1,2]` |
    | `1,-2` | `-2, 1`, `x=1 \\text{ or } x=-2`, `\\{-2, 1\\}` | `1` |
    | `52_8` | `52` (the question named the base) | `52_9` |
    | `5.4 \\text{ cents}` | `5.4` | `5.4 dollars` |

    Plain numbers are compared exactly, as fractions (`number.rational`); whatever is neither
    number nor word goes to Math-Verify within limits (`formula`). Where gold has no unit, the
    answer's is not looked at; words that make another number of it (`dozen`, `million`) are no
    units. Where gold is a number the answer has to be one, with nothing left to work out: for
    gold `10`, none of `7 + 3`, `7 + 3 = 10` and `\\sqrt{100}` is right.

    >>> same_answer("$1,002.00", "1002"), same_answer("7 or 8", "7"), same_answer("1/2", "0.5")
    (True, False, True)
    """
    if not said or not gold or max(len(said), len(gold)) > MAX_CHARS:
        return False
    if _WHOLE.fullmatch(said) and _WHOLE.fullmatch(gold):  # most answers; the rest comes below
        return int(said) == int(gold)
    said, gold = bare(said), bare(gold)
    if not said or not gold:
        return False
    if _same_part(said, gold):  # 1,002 is a number before it is a list
        return True
    (name, answer), (gold_name, gold_answer) = split_name(said), split_name(gold)
    if name and gold_name and name != gold_name:
        return False
    try:
        return _same_shape(_shape(answer), _shape(gold_answer))
    except ValueError:  # more parts or levels than an answer has
        return False


def _shape(text: str, level: int = 0) -> Shape:
    """The parts of a list, set, tuple, interval, union or matrix; other text as it is."""
    text = text.strip()
    if level > MAX_NESTING or not text:
        raise ValueError("nested too deeply, or an empty part")
    if matrix := _MATRIX.fullmatch(text):
        rows = [row.split("&") for row in matrix[2].strip().removesuffix(r"\\").split(r"\\")]
        cells = [cell.strip() for row in rows for cell in row]
        return _checked(("matrix", str(list(map(len, rows))), *cells))
    if len(sets := _split(text, (r"\cup",))) > 1:
        return _checked(("union", *(_shape(part, level + 1) for part in sets)))
    if len(parts := _split(_AND.sub(",", text), (",", ";"))) > 1:
        return _list(parts, level)
    if text.startswith(r"\{") and text.endswith(r"\}"):
        return _list(_split(text[2:-2].strip(), (",", ";")), level)
    if text[0] in "([" and closing(text, 0) == len(text) - 1:
        inner = _split(text[1:-1], (",",))
        if len(inner) > 1:
            kind = text[0] + text[-1]
            return _checked((kind, *(_shape(part, level + 1) for part in inner)))
        if text[0] + text[-1] == "()":
            return _shape(inner[0], level + 1)
    if text.count(r"\pm") == 1:
        return ("list", text.replace(r"\pm", "+").lstrip("+ "), text.replace(r"\pm", "-"))
    return text


def _list(parts: list[str], level: int) -> Shape:
    """An unordered list; what `\\pm` or inner braces list belongs to it."""
    found: list[Shape] = []
    for part in parts:
        shape = _shape(part, level + 1)
        found.extend(shape[1:] if shape[0] == "list" else [shape])
    return _checked(("list", *found))


def _checked(shape: tuple) -> tuple:
    if len(shape) > MAX_PARTS + 1:
        raise ValueError("too many parts")
    return shape


def _split(text: str, marks: tuple[str, ...]) -> list[str]:
    """The text cut at the marks outside all brackets."""
    parts, depth, start, i = [], 0, 0, 0
    while i < len(text):
        escaped = text[i] == "\\" and text[i + 1 : i + 2] in ("{", "}")
        i += escaped
        depth += (text[i] in "{([") - (text[i] in "})]")
        mark = next((m for m in marks if not depth and not escaped and text.startswith(m, i)), "")
        if mark:
            parts.append(text[start:i].strip())
            start = i + len(mark)
        i += max(1, len(mark))
    return [*parts, text[start:].strip()]


def _same_shape(said: Shape, gold: Shape) -> bool:
    if isinstance(said, str) or isinstance(gold, str):
        return isinstance(said, str) and isinstance(gold, str) and _same_part(said, gold)
    kinds = {said[0], gold[0]}
    if len(said) != len(gold) or (len(kinds) > 1 and kinds != {"list", "()"}):
        return False
    if kinds == {"list"} or kinds == {"union"}:
        return _same_in_some_order(list(said[1:]), list(gold[1:]))
    return all(starmap(_same_shape, zip(said[1:], gold[1:], strict=True)))


def _same_in_some_order(said: list[Shape], gold: list[Shape]) -> bool:
    for part in said:
        match = next((i for i, other in enumerate(gold) if _same_shape(part, other)), None)
        if match is None:
            return False
        del gold[match]
    return True


def _same_part(said: str, gold: str) -> bool:
    """Two answers that are no lists: the same number, words or formula."""
    (name, said), (gold_name, gold) = split_name(said), split_name(gold)
    if name and gold_name and name != gold_name:
        return False
    if ("=" in said) != ("=" in gold):  # `y = 2x` and `2x - y = 0`
        said, gold = (
            f"{n} = {t}" if n and "=" not in t else t for n, t in ((name, said), (gold_name, gold))
        )
    (said, unit), (gold, gold_unit) = split_unit(said), split_unit(gold)
    if unit and gold_unit and unit != gold_unit:
        return False
    said, gold = bare(said), bare(gold)
    numeral, gold_numeral = _BASE.fullmatch(said), _BASE.fullmatch(gold)
    if numeral and (gold_numeral is None or numeral[2] != gold_numeral[2]):
        return False  # Math-Verify does not look at the base
    if gold_numeral:  # the base is the question's
        said, gold = numeral[1] if numeral else said, gold_numeral[1]
    number, gold_number = rational(said), rational(gold)
    if gold_number is not None:
        return number == gold_number
    if _WORDS.fullmatch(said) and _WORDS.fullmatch(gold):
        return said.casefold() == gold.casefold()
    tight = [_SPACE_AT_SIGN.sub(r"\1", text) for text in (said, gold)]
    if tight[0] == tight[1]:
        return bool(said)
    return same_formula(said, gold)
