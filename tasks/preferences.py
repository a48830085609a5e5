"""Preference pairs: one prompt, the completion that was preferred and the one that was not.

From real data (`load`), from sampled completions and their scores (`from_scored`), and from gold
queries with plausible mistakes in them (`from_corruptions`).
"""

import math
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tasks import sql
from tasks.preference_rows import RefusedRow, parse_row
from tasks.source import DataNotFoundError, load_rows, local_file
from tasks.sql import annotators
from tasks.sql.questions import SqlExample
from utils.profiles import Profile

_TRIES = 8  # corruptions tried for an example: about 1 in 100 still answers like the gold query


@dataclass(frozen=True)
class Pair:
    """Two completions of one prompt, `chosen` preferred. Refuses pairs that hold no preference."""

    prompt: str
    chosen: str
    rejected: str  # may be empty: see `load`

    def __post_init__(self) -> None:
        sides = (self.prompt, self.chosen, self.rejected)
        if not all(isinstance(side, str) for side in sides):
            kinds = ", ".join(type(side).__name__ for side in sides)
            raise TypeError(f"prompt, chosen and rejected must be strings, got {kinds}")
        if fault := _fault(*sides):
            raise ValueError(f"{fault}, in the pair for the prompt {self.prompt[:80]!r}")


def _fault(prompt: str, chosen: str, rejected: str) -> str:
    """Why three texts make no pair, or an empty string."""
    if not prompt.strip():
        return "the prompt is empty"
    if chosen.strip() == rejected.strip():
        return "chosen and rejected are equal"
    return "" if chosen.strip() else "chosen is empty"


# --- real data ------------------------------------------------------------------------


def load(
    split: str,
    n: int | None,
    profile: Profile,
    name: str = "ultrafeedback",
    allow_empty: bool = False,
) -> tuple[list[Pair], dict[str, int]]:
    """The first `n` pairs of a preference data set, and reason -> rows left out of all its rows.

    Reads `split.jsonl` or `split.json` in `COURSE_DATA_DIR/name`, else, with `profile.use_hub`, the
    hub. The sample of the medical data is `load("preference", n, profile, name="medical")`. Fewer
    than `n` come back if the data set is small. Raises DataNotFoundError and `from_rows`' errors.
    """
    if not profile.use_hub and local_file(name, split) is None:
        raise DataNotFoundError(
            f"profile {profile.name!r} reads local files only: set COURSE_DATA_DIR to a folder "
            f"that holds {name}/{split}.jsonl, or use a profile with the hub."
        )
    pairs, refused = from_rows(load_rows(name, split), allow_empty)
    return pairs[:n], refused


def from_rows(
    rows: Sequence[dict[str, Any]], allow_empty: bool = False
) -> tuple[list[Pair], dict[str, int]]:
    """Pairs of rows in any format of `preference_rows`, and reason -> number of rows left out.

    Left out and counted: equal sides, an empty prompt or chosen side, sides that answer different
    prompts, `score_chosen` below `score_rejected`, a pair that is labelled both ways.
    Raises ValueError for rows of another format, for empty rejected sides unless `allow_empty`
    (with their number), and when no row is usable.
    """
    texts, refused, empty = [], Counter(), 0
    for number, row in enumerate(rows, 1):
        try:
            prompt, chosen, rejected = parse_row(row)
            if fault := _fault(prompt, chosen, rejected):
                raise RefusedRow(fault)
        except RefusedRow as reason:
            refused[str(reason)] += 1
            continue
        except ValueError as error:
            raise ValueError(f"row {number}: {error}") from None
        empty += not rejected.strip()
        texts.append((prompt, chosen, rejected))
    if empty and not allow_empty:
        raise ValueError(
            f"{empty} of {len(rows)} rows have an empty rejected side. A reward model learns from "
            "them that any text beats none: it reaches 100% pair accuracy and "
            "cannot tell a right answer from a wrong one. Leave those rows out, put real mistakes "
            "there (`from_scored`, `from_corruptions`), or pass allow_empty=True to see it happen."
        )
    labelled = set(texts)
    pairs = [Pair(p, c, r) for p, c, r in texts if (p, r, c) not in labelled]
    if len(pairs) < len(texts):
        refused["the same two answers are labelled both ways"] = len(texts) - len(pairs)
    if not pairs:
        raise ValueError(f"none of {len(rows)} rows is a usable pair: {dict(refused)}")
    return pairs, dict(refused)


# --- pairs that are made here ---------------------------------------------------------


def from_scored(
    prompts: Sequence[str],
    texts: Sequence[Sequence[str]],
    scores: Sequence[Sequence[float]],
    max_pairs_per_prompt: int,
    rng: random.Random,
) -> list[Pair]:
    """Pairs of sampled completions of one prompt, the higher score chosen.

    texts and scores: for each of the Q prompts its G completions and their scores, as in
    `EvalResult.texts` and `.scores`. A text counts once a prompt; of the possible pairs at most
    `max_pairs_per_prompt` are drawn. A prompt whose scores are all equal gives none.
    Raises ValueError when the numbers of prompts, texts and scores differ, a score is not finite,
    or one text of a prompt has two scores: then scores and texts do not belong together.
    """
    if max_pairs_per_prompt < 1:
        raise ValueError(f"max_pairs_per_prompt must be at least 1, not {max_pairs_per_prompt}")
    if not len(prompts) == len(texts) == len(scores):
        raise ValueError(
            f"{len(prompts)} prompts, {len(texts)} lists of texts and {len(scores)} of scores: "
            "need one list a prompt"
        )
    by_prompt: dict[str, dict[str, float]] = {}
    for prompt, group, values in zip(prompts, texts, scores, strict=True):
        if isinstance(group, str) or len(group) != len(values):
            raise ValueError(
                f"each prompt needs a list of texts and as many scores; {prompt[:80]!r} has "
                f"{type(group).__name__} of {len(group)} and {len(values)} scores"
            )
        known = by_prompt.setdefault(prompt, {})
        for text, value in zip(group, map(float, values), strict=True):
            if not math.isfinite(value):
                raise ValueError(f"the score of {text[:80]!r} is {value}: need finite scores")
            if known.setdefault(text, value) != value:
                raise ValueError(
                    f"the text {text[:80]!r} has the scores {known[text]} and {value} for one "
                    "prompt: are scores and texts in the same order?"
                )
    pairs = []
    for prompt, known in by_prompt.items():
        better = [
            Pair(prompt, a, b)
            for a in known
            for b in known
            if known[a] > known[b] and a.strip() != b.strip()
        ]
        pairs += rng.sample(better, min(max_pairs_per_prompt, len(better)))
    return pairs


def from_corruptions(examples: Sequence[SqlExample], rng: random.Random) -> list[Pair]:
    """The gold query over one plausible mistake (`annotators.corrupt`) that answers differently.

    One pair an example; none where no mistake was found that execution tells from gold. `examples`
    must hold right answers: `sql.make_examples`, not `sql.demonstrations`, whose mistakes would
    become chosen sides. Raises ValueError when an example has fallen into its question's trap, and
    for gold queries that cannot be run.
    """
    pairs = []
    for example in examples:
        if _has_fallen(example):
            raise ValueError(
                f"the answer {example.answer!r} is a known mistake for {example.question!r}: the "
                "examples are demonstrations with annotators' mistakes. Use sql.make_examples."
            )
        for _ in range(_TRIES):
            wrong = annotators.corrupt(rng, example).answer
            if sql.score(example, wrong) == 0.0:
                pairs.append(Pair(example.prompt, example.answer, wrong))
                break
    return pairs


def _has_fallen(example: SqlExample) -> bool:
    """Whether a generated question has a trap and its answer lacks the right way out."""
    return example.kind != "real" and any(
        any(word in example.question for word in words)
        and not any(right in example.answer for right, _ in edits)
        for words, edits in annotators._SYSTEMATIC
    )
