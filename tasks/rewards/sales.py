"""A rule reward for sales replies in Chinese: the version of the notes, and one with holes closed.

Both weigh four checks, 0.8 in total (the notes leave the rest to a reward model):

| check    | weight | full score for |
|----------|--------|----------------|
| format   | 0.2    | several lines 0.3, a list 0.3, two sentences 0.2, bold text 0.2 |
| elements | 0.3    | 0.2 each: greeting, empathy, value, call to action, a question |
| length   | 0.1    | 100 to 500 characters; 50 to 800: 0.7 |
| safety   | 0.2    | none of the forbidden words |
"""

import re
import unicodedata
from itertools import pairwise

KEYWORDS = {
    "greeting": ("感谢", "您好", "欢迎"),
    "empathy": ("理解", "明白", "了解"),
    "value": ("优势", "价值", "效果", "节省"),
    "call_to_action": ("试用", "演示", "预约", "联系"),
}
FORBIDDEN = ("保证赚钱", "100%", "绝对没问题", "竞品很差", "骗人", "垃圾")
MAX_CHARS = 4000  # a longer reply or prompt is not read

_KEYWORD = re.compile("|".join(word for words in KEYWORDS.values() for word in words))
# 不仅, 不但, 不只, 不错, 无论, 未来, 特别 and the question form 能不能 deny nothing.
_DENIED = re.compile(r"(?:不(?![仅但只错])|没|无(?!论)|未(?!来)|(?<!特)别)[^,]{0,4}$")
_A_NOT_A = re.compile(r"(.)不\1")
# `1.00%` and `3100%` are other numbers.
_HUNDRED = re.compile(r"(?<![0-9.])1[^\w.%]{0,3}0[^\w.%]{0,3}0(?:\.0{1,9})?[^\w%]{0,3}%")
_LIST_ITEM = re.compile(r" {0,8}(?:[0-9]{1,2}[.、)]|[-•])")


def sales_reward_naive(reply: str) -> float:
    """The reward of the notes, from 0.03 to 0.8. Every check asks whether a string occurs.

    What a policy finds: an empty reply earns 0.23; keywords and marks padded with spaces earn
    0.8; `不理解` counts as empathy; `垃 圾` is not forbidden, and a forbidden word
    costs only 0.2; one reply fits every prompt.
    """
    format_score = 0.3 * ("\n" in reply)
    format_score += 0.3 * any(mark in reply for mark in ("1.", "2.", "-", "•"))
    format_score += 0.2 * (reply.count("。") >= 2) + 0.2 * ("**" in reply)
    elements = sum(any(word in reply for word in words) for words in KEYWORDS.values())
    elements += "?" in reply or "？" in reply
    length = len(reply)
    length_score = 1.0 if 100 <= length <= 500 else 0.7 if 50 <= length <= 800 else 0.3
    safe = not any(word in reply for word in FORBIDDEN)
    return 0.2 * format_score + 0.3 * 0.2 * elements + 0.1 * length_score + 0.2 * safe


def sales_reward(reply: str, prompt: str = "") -> float:
    """The same checks with the holes closed that a rule can close, from 0.0 to 0.8.

    | hole | closed by |
    |------|-----------|
    | empty reply is paid for length and safety | no element, no reward |
    | forbidden word costs little | it costs everything |
    | `垃 圾`, `垃*圾`, full-width `１００％`, zero-width characters | NFKC, marks removed |
    | bare keywords | a sentence needs 6 different characters besides its keywords |
    | keyword list | a sentence that serves more than two elements serves none |
    | one sentence again and again | it counts once, whatever its keywords and numbers |
    | `不理解`, `没有优势` | a negation up to 4 characters before the keyword |
    | rules or customer's words copied from the prompt | its sentences do not count |
    | padding with spaces, marks or repetition | length counts different pairs of characters |
    | `-`, `**` or `?` anywhere | list items, bold text and questions need content |

    Still open: fluent nonsense around the keywords, other spellings (traditional characters,
    pinyin, `百分之百`, a letter inside a word), promises that the list does not name, a denial
    further from its keyword, and one good reply to every prompt. A harmless `垃圾分类` costs
    everything. These need a reader: a reward model or a person.
    """
    if max(len(reply), len(prompt)) > MAX_CHARS:
        return 0.0
    text, content = _clean(reply), _content(reply)
    if _HUNDRED.search(text) or any(word in content for word in FORBIDDEN):
        return 0.0
    sentences = _sentences(reply, seen={_rest(s) for s in _split(_clean(prompt))})
    elements = len(set().union(*map(_elements, sentences)))
    if not elements:
        return 0.0
    lines = {_rest(line): line for line in text.split("\n") if len(set(_rest(line))) >= 6}
    format_score = 0.3 * (len(lines) >= 2) + 0.3 * any(map(_LIST_ITEM.match, lines.values()))
    format_score += 0.2 * (len(sentences) >= 2)
    format_score += 0.2 * (re.search(r"\*\*\w[^*\n]{1,40}\*\*", text) is not None)
    pairs = len(set(pairwise(content)))
    length_score = 0.0
    if pairs >= 50 and len(content) <= 800:
        length_score = 1.0 if pairs >= 100 and len(content) <= 500 else 0.7
    return 0.2 * format_score + 0.3 * 0.2 * elements + 0.1 * length_score + 0.2


def _clean(text: str) -> str:
    """NFKC (full-width to ASCII, compatibility characters) without invisible characters."""
    text = unicodedata.normalize("NFKC", text)
    return "".join(c for c in text if c == "\n" or not _invisible(c))


def _invisible(c: str) -> bool:
    """Control and format characters, and the two Hangul fillers, which Unicode calls letters."""
    return unicodedata.category(c) in ("Cf", "Cc") or c in "\u115f\u1160"


def _content(text: str) -> str:
    """Letters and digits only, so that nothing can be hidden between them."""
    return re.sub(r"[\W_]+", "", _clean(text))


def _split(text: str) -> list[str]:
    return re.findall(r"[^。!?;\n]+[。!?;]?", text)


def _rest(sentence: str) -> str:
    """What a sentence says besides its keywords and numbers."""
    return re.sub(r"\d+", "", _content(_KEYWORD.sub("", sentence)))


def _sentences(reply: str, seen: set[str]) -> list[str]:
    """The reply's sentences that say something, and something new."""
    sentences = []
    for sentence in _split(_clean(reply)):
        rest = _rest(sentence)
        if len(set(rest)) >= 6 and rest not in seen:
            seen.add(rest)
            sentences.append(sentence)
    return sentences


def _elements(sentence: str) -> set[str]:
    """The elements that a sentence serves: none if it is a list of keywords."""
    plain = _A_NOT_A.sub(r"\1", sentence)
    named = {
        name
        for name, words in KEYWORDS.items()
        for word in words
        if any(
            # The six characters before the keyword are all that the pattern can see.
            not _DENIED.search(plain[max(0, m.start() - 6) : m.start()])
            for m in re.finditer(word, plain)
        )
    }
    if len(named) > 2:
        return set()
    return named | {"question"} if sentence.endswith("?") else named
