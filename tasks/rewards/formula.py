"""Are two formulas equal? The library Math-Verify decides, on formulas that cannot hurt it.

Math-Verify reads LaTeX and compares by computer algebra. Left to itself, `9^{9^9}` takes it
seconds and 3,000 brackets longer; its own time limits work by signals, so in the main thread only.
Here they are off, and what takes long never reaches it:

1. `readable` bounds the text: length, brackets, digits, variables, and the commands that may occur.
2. `_value` computes the parsed formula in floating point, at random values of its variables. It
   refuses powers that would be huge or tiny. Formulas with different values are different, so
   the slow step, `simplify`, is left with formulas that agree.

Both are deterministic: a verdict does not depend on how fast the machine is.
"""

import cmath
import logging
import random
import re
import threading
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from tasks.rewards.markup import closing

MAX_FORMULA_CHARS = 120
MAX_DEPTH = {"{": 4, "(": 2}
MAX_COUNT = {"(": 4, "{": 12, "|": 2, "relations": 1, "functions": 2}
MAX_COUNT |= {"letters": 30, "digits": 60, "variables": 5}
MAX_LOG = 60.0  # |log| of the size of any part of a formula: about 26 digits
MAX_DEGREE = 12  # of a polynomial, and of its powers multiplied out

_FUNCTIONS = "sin cos tan cot sec csc arcsin arccos arctan log ln".split()
_GREEK = "alpha beta gamma delta theta lambda mu phi omega pi".split()
_COMMANDS = (
    r"\\(?:[dtc]?frac|sqrt(?:\[[2-9]\])?|cdot|times|infty|"
    + "|".join(_FUNCTIONS + _GREEK)
    + r")(?![a-zA-Z])"
)
_TOKEN = (
    rf"{_COMMANDS}|[0-9]{{1,20}}(?:\.[0-9]{{1,20}})?(?![0-9])|[A-Za-z]{{1,3}}(?![A-Za-z])"
    r"|[-+*/^_={}()|<> ]"
)
_READABLE = re.compile(rf"(?>{_TOKEN})+")  # atomic: there is one way to cut a text
# What Math-Verify reads otherwise than it is meant (`1_000` as 1, `7 8` as a product, `--7` as 7),
# and what it reads slowly: braces that belong to no command, long indices.
_REFUSED = re.compile(
    r"[0-9]\s*_|[0-9]\s+[0-9]|[-+]\s*[-+]|(?:^|[^a-z}\]^_\s])\s*\{|(?:^|[-+*/=<>({|])\s*\^"
    r"|\^\s?[0-9A-Za-z.]{1,20}\s?\^|_(?!\s?(?:[0-9A-Za-z]|\{\s?[0-9A-Za-z]{1,3}\s?\}))"
)
# Read once, before anything else: the parser learns its tables from what it reads.
_WARM_UP = (
    *(r"2(\frac{(\frac{1}{x})}{x})", r"\frac{(x+1)(2(x+1)+1)}{6}", r"\frac{\sqrt{2}}{3}-\sqrt{x}"),
    *(r"\log_{2}{\log_{2}{3}}", r"\sin(\cos(x+2))\cdot\tan^2x", r"x^{\frac{1}{y}}", "x_{1}+y_{2}"),
    *("2^{x+1}=y_1", r"\frac{1}{|\frac{x}{y}|}", "x<-3", "6-5i", "(x+1)^2(y-1)", r"\sqrt[3]{2}"),
    *(
        r"x+((x^2+1)^2+1)^2-((y-1)^2-3)^2",
        r"\pi^{\log(2)}",
        r"(2x)\cdot\frac{(x+y)^{9}}{(x-y)^{9}}",
    ),
    *(r"\cot x^{\sqrt{x+\sqrt{y}}}", r"2x\cdot\frac{\frac{2}{y+\frac{1}{z}}}{\frac{x}{2}}"),
    *(r"(\frac{2+3x}{20})\cdot\frac{\tan(10^{2})}{\tan(x)}", r"\cot x^{9y}", r"\pi^{\frac{x}{2}}"),
)
_LOCK = threading.Lock()  # the parser behind Math-Verify shares tables between threads


def readable(text: str) -> bool:
    """Is this a formula that Math-Verify may see? Linear in the text, which is short."""
    if len(text) > MAX_FORMULA_CHARS or _REFUSED.search(text):
        return False
    if not (_READABLE.fullmatch(text) and _nested(text)):
        return False
    plain = re.sub(r"\\[a-z]{1,9}", " ", text)
    count = {mark: text.count(mark) for mark in "({|"}
    count["relations"] = sum(text.count(sign) for sign in "=<>")
    count["letters"] = sum(map(str.isalpha, plain))
    count["digits"] = sum(map(str.isdigit, text))
    count["variables"] = len(set(filter(str.isalpha, plain)))
    count["functions"] = sum(text.count(f"\\{name}") for name in _FUNCTIONS)
    return all(count[k] <= most for k, most in MAX_COUNT.items())


def _nested(text: str) -> bool:
    """Do the brackets match, not too deep, and is no power in an exponent (`2^{3^4}`)?"""
    opened: list[tuple[str, bool]] = []  # the bracket, and whether it is in an exponent
    before = ""
    for character in text.replace(" ", ""):
        in_exponent = bool(opened) and opened[-1][1]
        if character in "({":
            opened.append((character, in_exponent or before == "^"))
            if sum(bracket == character for bracket, _ in opened) > MAX_DEPTH[character]:
                return False
        elif character in ")}":
            if not opened or opened.pop()[0] != {")": "(", "}": "{"}[character]:
                return False
        elif character == "^" and in_exponent:
            return False
        before = character
    return not opened


def same_formula(said: str, gold: str) -> bool:
    """Math-Verify's verdict on two LaTeX formulas without markup; False for what is not read.

    A decimal that is a rounded value of an exact one is another value. Variables have no case, as
    in Math-Verify: `3R^2` is `3r^2`. Works in any thread and never raises.
    """
    said, gold = _latex(said), _latex(gold)
    if any(said.count(sign) != gold.count(sign) for sign in "=<>"):
        return False
    if not (readable(said) and readable(gold)):
        return False
    try:
        with _LOCK:
            ours, theirs = _parse(said), _parse(gold)
            return ours is not None and theirs is not None and _agree(ours, theirs)
    except Exception:  # computer algebra raises many types, RecursionError among them
        return False


def _latex(text: str) -> str:
    """Plain text in LaTeX (`sqrt(2)`, `x**2`, `2*pi`), without brackets around the whole."""
    while text.startswith("(") and closing(text, 0) == len(text) - 1:
        text = text[1:-1].strip()  # tuples are taken apart before; here it costs the parser most
    text = re.sub(r"(?<!\\)\bsqrt\s?\(([^()]{1,40})\)", r"\\sqrt{\1}", text.replace("**", "^"))
    return re.sub(r"(?<![A-Za-z\\])pi(?![A-Za-z])", r"\\pi ", text)


def _agree(said: Any, gold: Any) -> bool:
    """Equal at random points, and equal for Math-Verify."""
    from math_verify import verify

    pairs = [(_value(said, seed), _value(gold, seed)) for seed in range(3)]
    if said.is_Relational and gold.is_Relational:
        if said.func is not gold.func:
            return False
        ratios = [a / b for a, b in pairs]  # 2x = 4 is x = 2
        close = [_close(ratio, ratios[0]) for ratio in ratios]
    else:
        close = [_close(a, b) for a, b in pairs]
    # Evaluated first: what cancels at once need not go through `simplify`.
    return all(close) and verify(gold.doit(), said.doit(), timeout_seconds=None)


def _close(a: complex, b: complex) -> bool:
    return abs(a - b) <= 1e-10 * max(abs(a), abs(b), 1e-10)


@lru_cache(maxsize=512)
def _parse(text: str) -> Any:
    """The formula as a tree of sympy, not evaluated, or None. Gold answers are parsed once."""
    return _library()(text)


@lru_cache(maxsize=1)
def _library() -> Callable[[str], Any]:
    """Math-Verify's reader, imported and warmed up when needed (a second), without its log."""
    import math_verify

    for name in ("math_verify", "latex2sympy2_extended"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    config = math_verify.LatexExtractionConfig(
        # Units are ours (`markup`): the library's list has one-letter units, so that 5t would be 5.
        normalization_config=math_verify.parser.NormalizationConfig(
            basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="last"
        )
    )

    def read(text: str) -> Any:
        found = math_verify.parse(
            rf"\boxed{{{text}}}", [config], fallback_mode="no_fallback", parsing_timeout=None
        )
        return found[0] if found else None

    for text in _WARM_UP:
        read(text)
    for said, gold in (r"\frac{\sin x}{\cos x}", r"\tan x"), (r"\frac{x^2-1}{x-1}", "x+1"):
        math_verify.verify(read(gold), read(said), timeout_seconds=None)  # `simplify` learns too
    return read


def _value(tree: Any, seed: int) -> complex:
    """The tree's number with random values for its variables; of an equation, left minus right."""
    if tree.is_Relational:
        return _value(tree.lhs, seed) - _value(tree.rhs, seed)
    if _degree(tree) > MAX_DEGREE:
        raise ValueError("a polynomial of high degree")
    return _compute(tree, seed)


def _compute(tree: Any, seed: int) -> complex:
    """Raises ValueError for what is not computed, and for numbers beyond the limits."""
    name = tree.func.__name__
    if tree.is_Symbol:
        rng = random.Random(f"{tree.name}/{seed}")
        return complex(rng.uniform(0.5, 2), rng.uniform(0.1, 1))
    if tree.is_number and not tree.args:
        number = complex(tree)
    else:
        parts = [_compute(part, seed) for part in tree.args]
        if tree.is_Add:
            number = sum(parts, 0j)
        elif tree.is_Mul:
            number = 1 + 0j
            for part in parts:
                number *= part
        elif tree.is_Pow:
            number = _power(*parts)
        elif name == "log":
            number = cmath.log(*parts)
        elif name == "UnevaluatedExpr":
            number = parts[0]
        elif name == "Abs":
            number = complex(abs(parts[0]))
        elif name in ("sin", "cos", "tan", "asin", "acos", "atan"):
            number = getattr(cmath, name)(*parts)
        elif name in ("cot", "sec", "csc"):
            number = 1 / getattr(cmath, {"cot": "tan", "sec": "cos", "csc": "sin"}[name])(*parts)
        else:
            raise ValueError(f"{name} is not computed")
    if number and abs(cmath.log(number).real) > MAX_LOG:
        raise ValueError("a huge or a tiny number")
    return number


def _power(base: complex, exponent: complex) -> complex:
    # 1^{10^{20}} and (-1)^{10^{20}} are small, but nothing is raised to such powers.
    if abs(exponent) > MAX_LOG or (base and abs(cmath.log(base) * exponent) > MAX_LOG):
        raise ValueError("a power beyond the limits")
    return base**exponent


def _degree(tree: Any) -> float:
    """An upper bound of the degree in the variables, with denominators counted as factors."""
    if tree.is_Symbol:
        return 1.0
    if not tree.args or not tree.free_symbols:
        return 0.0
    degrees = [_degree(part) for part in tree.args]
    if tree.is_Mul:
        return sum(degrees)
    if tree.is_Pow and not degrees[1]:
        return degrees[0] * max(1.0, abs(_compute(tree.args[1], 0)))
    return sum(degrees) if tree.is_Pow else max(degrees)
