import pytest
import torch

from exercises import check, lesson06

RIGHT = "(logprobs - sampler_logprobs).exp().clamp(max=limit) * mask"
SEQUENCE = "((logprobs - sampler_logprobs) * mask).sum(1, keepdim=True).exp()"
RATIO = "(logprobs - sampler_logprobs).exp()"
MISTAKES = [
    ("(sampler_logprobs - logprobs).exp().clamp(max=limit) * mask", "Ratio upside down"),
    ("(logprobs - sampler_logprobs).clamp(max=limit) * mask", "The logarithm of the ratio"),
    ("logprobs.exp().clamp(max=limit) * mask", "Probability of the model alone"),
    (f"{RATIO} * mask", "Not truncated"),
    (f"{RATIO}.clamp(1 / limit, limit) * mask", "Truncated from below"),
    ("(logprobs - sampler_logprobs).clamp(max=limit).exp() * mask", "Truncated before exp"),
    (f"{RATIO} * ({RATIO} <= limit) * mask", "Tokens above the limit"),
    (f"{SEQUENCE}.clamp(max=limit) * mask", "One weight for the whole completion"),
    (f"{RATIO}.clamp(max=limit)", "Padding has a weight"),
]


def answer(formula):
    return eval(f"lambda logprobs, sampler_logprobs, mask, limit: {formula}")  # this file's own


def slow(logprobs, sampler_logprobs, mask, limit):
    weights = torch.zeros_like(mask)
    for b in range(len(mask)):
        for t in range(mask.shape[1]):
            if mask[b, t]:
                ratio = logprobs[b, t].exp() / sampler_logprobs[b, t].exp()
                weights[b, t] = min(ratio.item(), limit)
    return weights


@pytest.mark.parametrize("right", [answer(RIGHT), slow])
def test_right_answers_are_confirmed(right, capsys):
    check.importance_weights(right)
    assert "weights equal" in capsys.readouterr().out


@pytest.mark.parametrize(("formula", "message"), MISTAKES)
def test_mistakes_are_named(formula, message, capsys):
    check.importance_weights(answer(formula))
    out = capsys.readouterr().out
    assert message in out and "weights equal" not in out


def test_every_message_is_tried():
    messages = {m for values in lesson06._MISTAKES.values() for m in values.values()}
    assert all(any(m.startswith(text) for _, text in MISTAKES) for m in messages)


def test_an_empty_answer(capsys):
    check.importance_weights(lambda *arguments: None)
    assert "weights equal" not in capsys.readouterr().out
