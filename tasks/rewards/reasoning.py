"""The four rewards of the public Qwen3-4B recipe, with its scores.

The generation prompt ends with `<start_working_out>`, so a completion starts inside that tag
and should go on

    17 + 25 = 42<end_working_out><SOLUTION>42</SOLUTION>

| reward       | points | when |
|--------------|--------|------|
| exact_format |  3.0 / 0.0 | the completion has this form / it has not |
| tag_count    |  0.5 / -1.0 | for each of the three tags: exactly once / missing or repeated |
| answer       |  5.0 | solution and gold answer are the same text |
|              |  3.5 | they are the same text after stripping white space |
|              |  2.0 | solution / gold is within 0.9 to 1.1 |
|              |  1.5 | … within 0.8 to 1.2 |
|              | -2.0 | there is no solution |
|              | -2.5 | it is another number |
|              | -4.5 | it is no number |
| number       |  3.5 / -1.5 / -2.5 | first number after `<SOLUTION>`: equal / another / none |

The sum goes from -10.0 to 13.0. Where it can be farmed: a near miss earns 2.0, `42.0` earns less
than `42`, a right answer is paid twice, and `number` (`number_reward_recipe`) looks past the
closing tag and is content with the beginning of another value: `42/2` or `42 or 43` for 42.

The recipe is kept as it is, because lesson 06 measures it. `number_reward` has the same points and
reads the whole answer.
"""

import re
from fractions import Fraction

from tasks.rewards.number import NUMBER, normalise_number
from tasks.rewards.same import same_answer

TAGS = ("<end_working_out>", "<SOLUTION>", "</SOLUTION>")
REASONING_RANGES = {
    "exact_format": (0.0, 3.0),
    "tag_count": (-3.0, 1.5),
    "answer": (-4.5, 5.0),
    "number": (-2.5, 3.5),
}


def reasoning_rewards(completion: str, answer: str) -> dict[str, float]:
    """All four rewards of the recipe by name."""
    return {
        "exact_format": exact_format_reward(completion),
        "tag_count": tag_count_reward(completion),
        "answer": answer_reward(completion, answer),
        "number": number_reward_recipe(completion, answer),
    }


def extract_solution(completion: str) -> str | None:
    """The solution of a completion in the exact format, with its white space, or None.

    The first `<SOLUTION>` after the first `<end_working_out>` opens it and `</SOLUTION>` at the
    very end closes it (white space may follow). With two solutions, both and the tags between
    them are returned, and that is no number. A blank solution is none. Decode completions
    without special tokens: an EOS after the last tag would count as text.

    >>> extract_solution("17+25<end_working_out>\\n<SOLUTION> 42</SOLUTION>")
    ' 42'
    """
    _, _, rest = completion.partition("<end_working_out>")
    _, _, rest = rest.partition("<SOLUTION>")
    solution, closed, after = rest.rpartition("</SOLUTION>")
    return solution if closed and solution.strip() and not after.strip() else None


def exact_format_reward(completion: str) -> float:
    """3.0 if there is a solution to extract, else 0.0."""
    return 0.0 if extract_solution(completion) is None else 3.0


def tag_count_reward(completion: str) -> float:
    """Sum over the three tags of 0.5 (exactly once) or -1.0, from -3.0 to 1.5."""
    return sum(0.5 if completion.count(tag) == 1 else -1.0 for tag in TAGS)


def answer_reward(completion: str, answer: str) -> float:
    """Points for the extracted solution, from -4.5 to 5.0: see the table above.

    Numbers are read by `normalise_number`, so `1,000` is a number here. A gold answer of 0 has
    no ratio: another spelling of 0 earns 2.0, any other number -2.5.
    """
    solution = extract_solution(completion)
    if solution is None:
        return -2.0
    if solution == answer:
        return 5.0
    if solution.strip() == answer.strip():
        return 3.5
    numbers = normalise_number(solution), normalise_number(answer)
    if None in numbers:
        return -4.5
    guess, gold = map(Fraction, numbers)
    off = abs(guess - gold)
    if off <= abs(gold) / 10:
        return 2.0
    return 1.5 if off <= abs(gold) / 5 else -2.5


def number_reward_recipe(completion: str, answer: str) -> float:
    """3.5 if the first number after the first `<SOLUTION>` equals the gold answer: the recipe's.

    Another number: -1.5. No number, or no `<SOLUTION>`: -2.5. Its first number can be a piece of
    something else (`1/2` begins with 1) and stand behind the closing tag. `number_reward` has
    neither hole.
    """
    _, _, rest = completion.partition("<SOLUTION>")
    found = NUMBER.search(rest.replace("\u2212", "-"))
    number = normalise_number(found.group()) if found else None
    if number is None:
        return -2.5
    return 3.5 if number == normalise_number(answer) else -1.5


def number_reward(completion: str, answer: str) -> float:
    """3.5 if what stands between `<SOLUTION>` and `</SOLUTION>` is the gold answer.

    Another answer with a digit in it: -1.5. No digit, or no `<SOLUTION>`: -2.5. The closing tag
    may be missing. All solutions of a completion must agree: two different answers are none.
    """
    _, *solutions = completion.split("<SOLUTION>", 5)
    said = [solution.partition("</SOLUTION>")[0] for solution in solutions]
    if not re.search("[0-9]", "".join(said)):
        return -2.5
    return 3.5 if all(same_answer(text, answer) for text in said) else -1.5
