"""Comparisons for a reward model: answers to one prompt as token ids, each right or wrong.

Answers that a policy sampled, the gold query, and cheap mistakes made from it. All are judged by
execution. Lesson 02 says why; here is only how.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from tasks import sql
from tasks.sql import annotators
from tasks.sql.questions import SqlExample
from utils import chat

END = "<|im_end|>"


@dataclass(frozen=True)
class Comparison:
    """Answers to one prompt. Every pair of answers with different labels is a comparison."""

    prompt: list[int]
    answers: list[tuple[int, ...]]  # ids, with the end of turn unless cut off
    labels: list[float]  # 1.0 right, 0.0 wrong

    def pairs(self) -> list[tuple[int, int]]:
        """(better, worse): places of two answers, the first with the higher label."""
        n = range(len(self.labels))
        return [(i, j) for i in n for j in n if self.labels[i] > self.labels[j]]

    def one_pair(self) -> "Comparison":
        """The first pair alone, the better answer first."""
        return replace(self, answers=[self.answers[i] for i in self.pairs()[0]], labels=[1.0, 0.0])


def encode_answer(
    tokenizer: PreTrainedTokenizerBase, text: str, prefix: str = ""
) -> tuple[int, ...]:
    """Ids of an answer's text and the end of turn; markup inside the text stays text."""
    ids = tokenizer(prefix + text, add_special_tokens=False, split_special_tokens=True)
    return (*ids["input_ids"], tokenizer.convert_tokens_to_ids(END))


def misspell(
    rng: random.Random, ids: tuple[int, ...], prompt: Sequence[int], strays: Sequence[int]
) -> tuple[int, ...]:
    """One token that was copied from the prompt dropped, replaced, or followed by a stray one."""
    places = [i for i, token in enumerate(ids[:-1]) if token in prompt]
    i, stray = rng.choice(places), rng.choice(strays)
    middle = rng.choice([(), (stray,), (ids[i], stray)])
    return ids[:i] + middle + ids[i + 1 :]


def made_up(
    rng: random.Random,
    tokenizer: PreTrainedTokenizerBase,
    example: SqlExample,
    prompts: Sequence[Sequence[int]],
    number: int,
    corruptions: int = 2,
    misspellings: int = 1,
    prefix: str = "",
) -> dict[tuple[int, ...], float]:
    """The gold query and mistakes made from it -> right or wrong, by execution.

    number: which of the prompts this example's is. The others lend the stray tokens.
    """
    gold = encode_answer(tokenizer, example.answer, prefix)
    slips = [annotators.corrupt(rng, example).answer for _ in range(corruptions)]
    wrong = [encode_answer(tokenizer, slip, prefix) for slip in slips]
    for _ in range(misspellings):
        wrong.append(misspell(rng, gold, prompts[number], rng.choice(prompts)))
    texts = {ids: tokenizer.decode(ids[:-1]) for ids in wrong if ids != gold}
    return {gold: 1.0} | {ids: sql.score(example, text) for ids, text in texts.items()}


def batches_of(
    comparisons: Sequence[Comparison], size: int, epochs: int, seed: int
) -> list[list[Comparison]]:
    """Batches of prompts with as many answers of similar length, shuffled anew in each epoch.

    So little is computed for padding. A last, incomplete batch is dropped.
    """
    ordered = sorted(comparisons, key=lambda c: (len(c.answers), max(map(len, c.answers))))
    ends = range(size, len(ordered) + 1, size)
    batches = [ordered[end - size : end] for end in ends]
    shuffler = random.Random(seed)
    return [batch for _ in range(epochs) for batch in shuffler.sample(batches, len(batches))]


def collate(
    batch: Sequence[Comparison], pad_id: int, device: str = "cpu"
) -> tuple[list[Tensor], list[int], list[int]]:
    """Tensors as `values.completion_scores` takes them; rows of the better and worse answers.

    Where a prompt has fewer answers than another, its first is repeated; the copy is in no pair.
    """
    most = max(len(c.answers) for c in batch)
    rows, better, worse = [], [], []
    for c in batch:
        better += [len(rows) + i for i, _ in c.pairs()]
        worse += [len(rows) + j for _, j in c.pairs()]
        rows += c.answers + c.answers[:1] * (most - len(c.answers))
    tensors = chat.pad_left([c.prompt for c in batch], pad_id) + chat.pad_right(rows, pad_id)
    return [tensor.to(device) for tensor in tensors], better, worse
