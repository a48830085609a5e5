"""Answers made to hurt or to fool a checker, from a seed."""

import random

# One answer a line, because answers have spaces.
GOLDS = r"""
73
-5
0.5
1000000
\frac{14}{3}
\pi
3\sqrt{13}
6 - 5i
2k+2
\frac{11+9a}{20}
x^2+2x+1
(a+5)(b+2)
y = 2x + 3
5x - 7y + 11z + 4 = 0
\cot x
\text{Evelyn}
\left( 3, \frac{\pi}{2} \right)
\left[ \frac{\pi^2}{8}, \frac{5 \pi^2}{4} \right]
(-\infty, 2) \cup (3, \infty)
1 \pm \sqrt{19}
\begin{pmatrix} -1/3 \\ 2/3 \end{pmatrix}
1,-2
52_8
""".strip().split("\n")
TOKENS = (
    r"""
\frac \frac{ \sqrt{ \sqrt[ \sin \cos \tan \cot \log_ \ln \pi \theta \infty \cdot \times \left( \,
\right) \left[ \right] \{ \} \pm \mp \cup \in \le \text{ \boxed{ \begin{pmatrix} \end{pmatrix} \!
\\ \int \sum \prod \lim \binom \det \operatorname \% \$ ^{ ^ _ _{ { } ( ) [ ] | ! + - * / = < > , ;
: . ' $ ** x y z k i e E 0 1 2 7 10 73 0.5 99999 1e9 or and ####
""".split()
    + [" ", "\n", "\u2212", "\u221e", "\u00b2", "\u0663", "\uff15", "\u200b", "\ud800", "\0"]
)
SAFE = r"\frac{ \sqrt{ \sin( \tan( \log( } ) ( x y z 2 3 9 + - ^{ ^9 \pi | = ^2 }{ \cdot _1".split()
PAIRS = r"""
( ) [ ] { } \{ \} | | \left( \right) \sqrt{ } \frac{1}{1+ } 9^{ } (1, ) \sin( ) \boxed{ } \text{ }
$ $ ** ** -( ) (x+ )^9 x_{ } \log_{2}{ } \begin{pmatrix} \end{pmatrix} (\frac{ }{x})
""".split()
LONG = (
    r"""
9 1, 1. x +x - + 9! ! ^2 ^9 _1 $ \$ \frac \sqrt \pi \pm1 (1,2)\cup 1&2\\ (x+1) 1/ sqrt( x=
""".split()
    + ["1 ", "7 or ", "The answer is ", "#### 7 ", "a b ", *" \u0663\U0001d7d9\0"]
)
POWERS = r"""
9^{9^9} 9^{9^{9^9}} 2^{-10^9} 1e999999999 9e99 10^{20}! \frac{1}{10^{10^{10}}} (x+1)^{1000}
\frac{7^{99999}}{3^{99999}} (a+b+c+d)^{12} 1^{10^{18}} (-1)^{10^{18}} 0^{0} \frac{0}{0} \frac{1}{0}
0^{-1} \log(0) \tan(10^{20}) x^{x^{x^x}} \sqrt[99999]{2} \int_0^{99}x^{x}dx \sum_{n=1}^{10^9}n
\binom{10^9}{5} 1000000!! ((x^9+1)^9+1)^9 \sqrt{2}^{\sqrt{3}^{\sqrt{5}}} 99999999999999999999^{20}
2**2**2**2**9 (x+y)^{9} \sin^2(x) \sqrt{x+\sqrt{y}} \frac{x}{y+\frac{1}{z}} x^{12} \tan(x)
""".split()
FORMS = r"""
{0} {1}+{0}-{0} {0}+{1}-{0} {1}^{{{0}}} \frac{{{0}}}{{{1}}} ({1})\cdot\frac{{{0}}}{{{0}}} {1}={0}
({0},{1}) {1},{0} {0}\cup{1}
""".split()


def answer(rng: random.Random, gold: str) -> str:
    """One hostile answer to a problem whose answer is `gold`."""
    kind = rng.choice(("deep", "long", "huge", "huge", "anything", "formula", "typo"))
    if kind == "deep":
        first = rng.randrange(0, len(PAIRS), 2)
        left, right = PAIRS[first : first + 2]
        deep = rng.choice((2, 3, 4, 5, 8, 12, 30, 300, 10_000))
        core = rng.choice((gold, "1", "x", ""))
        return left * deep + core + right * rng.choice((deep, deep - 1))
    if kind == "long":
        many = rng.choice((10, 30, 60, 120, 400, 50_000, 1_000_000))
        return rng.choice(LONG) * many + rng.choice(("", gold))
    if kind == "huge":  # alone, beside the answer, or a disguise of it
        return rng.choice(FORMS).format(rng.choice(POWERS), gold)
    if kind == "anything":
        return "".join(rng.choices(TOKENS, k=rng.choice((5, 15, 40, 150))))
    if kind == "formula":  # brackets closed, as a reader would have it
        text = "".join(rng.choices(SAFE, k=rng.choice((4, 8, 15, 25))))
        opened = [text.count(left) - text.count(right) for left, right in ("{}", "()")]
        return text + "}" * opened[0] + ")" * opened[1]
    spot = rng.randrange(len(gold) + 1)  # something put in or left out
    put = rng.choice((rng.choice(TOKENS), rng.choice(SAFE), ""))
    return gold[:spot] + put + gold[spot + rng.randrange(2) :]
