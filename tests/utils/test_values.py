"""Scalar heads: values and rewards of completions against full forward passes, row by row."""

import copy
from logging import Handler

import pytest
import torch
from transformers import Qwen3ForSequenceClassification
from transformers.utils import logging

from utils import chat, models, values


@pytest.fixture(scope="module")
def scalar_model(random_model):
    """The random model's backbone with a random scalar head."""
    config = random_model.config.__class__(**{**random_model.config.to_dict(), "num_labels": 1})
    model = Qwen3ForSequenceClassification(config).eval()
    model.model.load_state_dict(random_model.model.state_dict())
    torch.nn.init.normal_(model.score.weight, generator=torch.Generator().manual_seed(0))
    return model


PROMPTS = [[5, 6, 7, 8, 9], [11, 12], [13, 14, 15]]  # Q = 3, padded on the left
COMPLETIONS = [[3], [4, 5, 6, 7], [8, 9], [10, 11, 12], [13, 14, 15, 16, 17], [18]]  # G = 2


def batch():
    return (*chat.pad_left(PROMPTS, 0), *chat.pad_right(COMPLETIONS, 0))


@torch.no_grad()
def slow_states(model, row):
    """Scores at every position of prompt + completion, one row at a time, nothing padded."""
    prompt, completion = PROMPTS[row // 2], COMPLETIONS[row]
    output = model.model(input_ids=torch.tensor([prompt + completion]))
    return model.score(output.last_hidden_state)[0, :, 0], len(prompt), len(completion)


def test_values_stand_before_and_scores_after_each_token(scalar_model):
    before = values.completion_values(scalar_model, *batch())
    after = values.completion_scores(scalar_model, *batch())
    for row in range(len(COMPLETIONS)):
        slow, p, t = slow_states(scalar_model, row)
        torch.testing.assert_close(before[row, :t], slow[p - 1 : p + t - 1], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(after[row, :t], slow[p : p + t], atol=1e-4, rtol=1e-4)
        assert not before[row, t:].any() and not after[row, t:].any()


def test_rewards_equal_the_library_on_whole_sequences(scalar_model):
    rewards = values.completion_rewards(scalar_model, *batch())
    for row, reward in enumerate(rewards):
        ids = torch.tensor([PROMPTS[row // 2] + COMPLETIONS[row]])
        # One unpadded row: the library reads the logits of its last token.
        library = scalar_model.model(input_ids=ids).last_hidden_state[:, -1]
        torch.testing.assert_close(reward, scalar_model.score(library)[0, 0], atol=1e-4, rtol=1e-4)


def test_rewards_equal_the_librarys(scalar_model):
    examples = [chat.Encoded(PROMPTS[i // 2] + c, [0]) for i, c in enumerate(COMPLETIONS)]
    longest = max(len(e.input_ids) for e in examples)
    ids = torch.tensor([e.input_ids + [0] * (longest - len(e.input_ids)) for e in examples])
    mask = torch.tensor(
        [[1] * len(e.input_ids) + [0] * (longest - len(e.input_ids)) for e in examples]
    )
    scalar_model.config.pad_token_id = 0
    library = scalar_model(input_ids=ids, attention_mask=mask).logits[:, 0]
    torch.testing.assert_close(
        values.completion_rewards(scalar_model, *batch()), library, atol=1e-4, rtol=1e-4
    )


def test_scores_are_float32_at_least(scalar_model):
    for dtype, expected in ((torch.bfloat16, torch.float32), (torch.float64, torch.float64)):
        model = copy.deepcopy(scalar_model).to(dtype)
        assert values.completion_values(model, *batch()).dtype == expected


def test_last_token_with_padding_on_either_side():
    scores = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    right, left = torch.tensor([[1, 1, 0], [1, 0, 0]]), torch.tensor([[0, 1, 1], [0, 0, 1]])
    assert values.last_token(scores, right).tolist() == [2.0, 4.0]
    assert values.last_token(scores, left).tolist() == [3.0, 6.0]


@pytest.mark.usefixtures("unchecked")
def test_last_token_refuses_rows_without_one():
    scores = torch.zeros(2, 3)
    with pytest.raises(ValueError, match="1 of 2 completions have no token"):
        values.last_token(scores, torch.tensor([[1, 1, 0], [0, 0, 0]]))
    with pytest.raises(ValueError, match=r"scores \(2, 3\) and mask \(2, 2\) differ in shape"):
        values.last_token(scores, torch.ones(2, 2))


def test_values_carry_a_gradient_into_backbone_and_head(scalar_model):
    model = scalar_model
    model.zero_grad()
    values.completion_values(model, *batch()).sum().backward()
    assert model.score.weight.grad.abs().sum() > 0
    assert model.model.embed_tokens.weight.grad.abs().sum() > 0


def test_a_new_head_gives_every_completion_the_same_reward(profile_with_sft):
    model = models.load_reward_model(profile_with_sft, "sft")
    assert values.completion_rewards(model, *batch()).tolist() == [0.0] * 6


def test_a_new_head_is_no_news(profile_with_sft):
    level, reports = logging.get_verbosity(), []
    handler = Handler()
    handler.emit = reports.append
    logging.add_handler(handler)
    try:
        models.load_reward_model(profile_with_sft, "sft")
    finally:
        logging.remove_handler(handler)
    assert not reports
    assert logging.get_verbosity() == level < logging.ERROR


def test_a_stage_that_is_no_reward_model_is_refused(profile_with_sft, tmp_path):
    source = models.checkpoint_path(profile_with_sft, "sft")
    (tmp_path / "runs/tiny/reward_model").symlink_to(source)
    with pytest.raises(ValueError, match=r"not a whole .*SequenceClassification.*score\.weight"):
        models.load_reward_model(profile_with_sft, "reward_model")


@pytest.fixture
def profile_with_sft(tmp_path, monkeypatch, random_model, tokenizer):
    from utils.profiles import get_profile

    monkeypatch.setenv("COURSE_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("COURSE_PROFILE", "tiny")
    profile = get_profile()
    models.save_checkpoint(random_model, tokenizer, tmp_path / "runs/tiny/sft")
    return profile
