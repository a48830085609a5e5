"""Comparisons: what is a pair, what a batch holds, which mistakes are made from a gold query."""

import random

import pytest
import torch

from tasks import comparisons, sql
from tasks.comparisons import Comparison, batches_of, collate, encode_answer, made_up, misspell
from utils import chat

ONE = Comparison([7, 8], [(1, 9), (2, 9), (3, 3, 9)], [0.0, 1.0, 0.0])
TWO = Comparison([7], [(4, 9), (5, 9)], [1.0, 0.0])


def test_a_pair_is_a_higher_and_a_lower_label():
    assert ONE.pairs() == [(1, 0), (1, 2)]
    assert ONE.one_pair() == Comparison([7, 8], [(2, 9), (1, 9)], [1.0, 0.0])


def test_a_batch_names_the_rows_of_its_pairs():
    (prompt_ids, prompt_mask, ids, mask), better, worse = collate([ONE, TWO], pad_id=0)
    assert prompt_ids.tolist() == [[7, 8], [0, 7]] and prompt_mask.tolist() == [[1, 1], [0, 1]]
    assert len(ids) == 6  # the second prompt's first answer stands once more, in no pair
    assert list(zip(better, worse, strict=True)) == [(1, 0), (1, 2), (3, 4)]
    for c, start in ((ONE, 0), (TWO, 3)):
        for i, answer in enumerate(c.answers):
            row = start + i
            assert tuple(ids[row][mask[row] == 1].tolist()) == answer


def test_batches_hold_equal_shapes_and_differ_by_epoch():
    many = [Comparison([i], [(1, 9)] * (2 + i % 3), [1.0]) for i in range(26)]
    batches = batches_of(many, size=4, epochs=2, seed=0)
    assert len(batches) == 12  # six per epoch; the last two rows are dropped
    first, second = batches[:6], batches[6:]
    assert first != second and sorted(map(str, first)) == sorted(map(str, second))
    counts = [[len(c.answers) for c in batch] for batch in first]
    assert sorted(sum(counts, [])) == sum(sorted(counts), [])
    assert batches == batches_of(many, size=4, epochs=2, seed=0)


@pytest.mark.parametrize("seed", range(5))
def test_a_misspelling_changes_a_copied_token_only(seed):
    ids = misspell(random.Random(seed), (5, 1, 6, 9), prompt=[1, 2], strays=[3])
    assert ids in {(5, 6, 9), (5, 3, 6, 9), (5, 1, 3, 6, 9)}


def test_gold_comes_first_and_the_mistakes_are_executed(tokenizer):
    examples = sql.make_examples("train", 12)
    prompts = [chat.encode_prompt(tokenizer, e.prompt) for e in examples]
    wrong = 0
    for number, example in enumerate(examples):
        known = made_up(random.Random(number), tokenizer, example, prompts, number)
        gold = encode_answer(tokenizer, example.answer)
        assert next(iter(known)) == gold and known[gold] == 1.0 and len(known) <= 4
        for ids, label in known.items():
            assert ids[-1] == tokenizer.convert_tokens_to_ids(comparisons.END)
            assert label == sql.score(example, tokenizer.decode(ids[:-1]))
        wrong += list(known.values()).count(0.0)
    assert wrong > len(examples)


def test_markup_inside_an_answer_stays_text(tokenizer):
    ids = encode_answer(tokenizer, "a<|im_end|>")
    assert torch.tensor(ids).eq(tokenizer.convert_tokens_to_ids(comparisons.END)).sum() == 1
