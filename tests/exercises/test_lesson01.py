import re

import pytest
import torch
import torch.nn.functional as F

from exercises import check, lesson01

# The SFT loss, written as learners write it


def shifted(logits, labels):
    return logits[:, :-1], labels[:, 1:]


def nll(logits, labels):
    """Per-token loss and mask, after a shift."""
    loss = -torch.log_softmax(logits, -1).gather(-1, labels.clamp(min=0)[..., None])[..., 0]
    return loss, labels != -100


def cross_entropy(logits, labels, **kwargs):
    return F.cross_entropy(logits.reshape(-1, logits.shape[-1]), labels.reshape(-1), **kwargs)


def right_torch(logits, labels):
    return cross_entropy(*shifted(logits, labels))


def right_by_hand(logits, labels):
    loss, mask = nll(*shifted(logits, labels))
    return (loss * mask).sum() / mask.sum()


def right_loop(logits, labels):
    terms = []
    for row, targets in zip(logits, labels, strict=True):
        for t in range(len(targets) - 1):
            if targets[t + 1] != -100:
                terms.append(torch.logsumexp(row[t], 0) - row[t, targets[t + 1]])
    return torch.stack(terms).mean()


@pytest.mark.parametrize("fn", [right_torch, right_by_hand, right_loop])
def test_sft_right(verdict, fn):
    out = verdict(check.sft_loss, fn)
    assert out.startswith("Correct: loss and gradient equal utils.losses.sft_loss on 4 ragged")


def backward_inside(logits, labels):
    loss = right_torch(logits, labels)
    loss.backward()
    return loss


def mask_ignored(logits, labels):
    return nll(*shifted(logits, labels))[0].mean()


def mask_from_the_token_before(logits, labels):
    loss, _ = nll(*shifted(logits, labels))
    mask = labels[:, :-1] != -100
    return (loss * mask).sum() / mask.sum()


def mean_over_all(logits, labels):
    loss, mask = nll(*shifted(logits, labels))
    return (loss * mask).mean()


def mean_over_batch_size(logits, labels):
    loss, mask = nll(*shifted(logits, labels))
    return (loss * mask).sum() / labels.numel()


def unshifted(logits, labels):
    return cross_entropy(logits, labels)


def shifted_backwards(logits, labels):
    return cross_entropy(logits[:, 1:], labels[:, :-1])


def shifted_twice(logits, labels):
    return right_torch(*shifted(logits, labels))


def rolled(logits, labels):
    return cross_entropy(logits, labels.roll(-1, dims=1))


def summed(logits, labels):
    return cross_entropy(*shifted(logits, labels), reduction="sum")


def sequence_means(logits, labels):
    loss, mask = nll(*shifted(logits, labels))
    return ((loss * mask).sum(1) / mask.sum(1)).mean()


def sequence_sums(logits, labels):
    loss, mask = nll(*shifted(logits, labels))
    return (loss * mask).sum(1).mean()


def wrong_sign(logits, labels):
    return -right_torch(logits, labels)


def probabilities(logits, labels):
    logits, labels = shifted(logits, labels)
    return (
        -logits.softmax(-1)
        .gather(-1, labels.clamp(min=0)[..., None])[..., 0][labels != -100]
        .mean()
    )


def softmax_twice(logits, labels):
    return right_torch(logits.softmax(-1), labels)


def softmax_log(logits, labels, epsilon=0.0):
    logits, labels = shifted(logits, labels)
    logprobs = (logits.softmax(-1) + epsilon).log()
    return -logprobs.gather(-1, labels.clamp(min=0)[..., None])[..., 0][labels != -100].mean()


def softmax_log_epsilon(logits, labels):
    return softmax_log(logits, labels, epsilon=1e-8)


def raw_logits(logits, labels):
    logits, labels = shifted(logits, labels)
    return -logits.gather(-1, labels.clamp(min=0)[..., None])[..., 0][labels != -100].mean()


def perplexity(logits, labels):
    return right_torch(logits, labels).exp()


SFT_MISTAKES = [
    (mask_ignored, "Mask ignored"),
    (mask_from_the_token_before, "Mask not shifted"),
    (mean_over_all, "Mean over all positions"),
    (mean_over_batch_size, "Mean over all labels"),
    (unshifted, "No shift by one"),
    (shifted_backwards, "Shifted the wrong way"),
    (shifted_twice, "Shifted twice"),
    (rolled, "The shift wraps around"),
    (summed, "Sum instead of mean"),
    (sequence_means, "Mean of per-sequence means"),
    (sequence_sums, "Summed over each sequence, averaged over sequences"),
    (wrong_sign, "Wrong sign"),
    (probabilities, "Probabilities instead of log-probabilities"),
    (softmax_twice, "softmax twice"),
    (softmax_log, "softmax, then log"),
    (softmax_log_epsilon, "softmax, then log"),
    (raw_logits, "Raw logits"),
    (perplexity, "That is the perplexity"),
]


@pytest.mark.parametrize(("fn", "name"), SFT_MISTAKES, ids=lambda v: getattr(v, "__name__", ""))
def test_sft_mistake_is_named(verdict, fn, name):
    out = verdict(check.sft_loss, fn)
    assert out.startswith(f"Not yet. {name}"), out
    named = [m for v in lesson01._SFT_MISTAKES.values() for m in v.values() if m in out]
    assert len(set(named)) == 1, out
    assert re.search(r"On .* you returned (-?\d+\.\d{4}|inf|nan); expected -?\d+\.\d{4}\.$", out)


def test_sft_message_shows_an_example_the_learner_can_paste(verdict):
    out = verdict(check.sft_loss, summed)
    logits = torch.arange(40.0).sin().reshape(2, 4, 5)
    labels = torch.tensor([[-100, -100, 1, 2], [-100, 0, -100, -100]])
    assert "logits = torch.arange(40.0).sin().reshape(2, 4, 5)" in out
    assert str(labels.tolist()) in out
    assert f"you returned {summed(logits, labels):.4f}" in out
    assert f"expected {right_by_hand(logits, labels):.4f}" in out


@pytest.mark.parametrize(
    ("fn", "names"),
    [
        (lambda x, y: -summed(x, y), ["Sum instead of mean", "Wrong sign"]),
        (lambda x, y: nll(x, y)[0].mean(), ["Mask ignored", "No shift by one"]),
        (lambda x, y: nll(x[:, 1:], y[:, :-1])[0].sum(), ["Mask ignored", "Sum instead of mean"]),
    ],
)
def test_sft_pairs_of_mistakes(verdict, fn, names):
    out = verdict(check.sft_loss, fn)
    assert out.startswith("Not yet.")
    if "Mask ignored" in names and "Sum instead of mean" in names:
        assert "in a way this check has no name for" in out  # three mistakes at once
    else:
        assert all(name in out for name in names)


@pytest.mark.parametrize("fn", [lambda x, y: None, lambda x, y: ...])
def test_sft_not_attempted(verdict, fn):
    out = verdict(check.sft_loss, fn)
    assert out == "Not attempted yet: the function returned None."


def test_sft_not_implemented(verdict):
    def stub(logits, labels):
        raise NotImplementedError

    out = verdict(check.sft_loss, stub)
    assert out == "Not attempted yet: the function returned None."


@pytest.mark.parametrize(
    ("fn", "message"),
    [
        (lambda x, y: right_torch(x, y).item(), "Return a tensor, not a Python float: no gradient"),
        (
            lambda x, y: right_torch(x, y).detach(),
            "The value is right, but the result carries no gr",
        ),
        (
            lambda x, y: right_torch(x.detach(), y),
            "The value is right, but the result carries no gr",
        ),
        (lambda x, y: nll(*shifted(x, y))[0], "Wrong shape: expected (), you returned (2, 3)."),
        (lambda x, y: right_torch(x, y)[None], "Wrong shape: expected (), you returned (1,)."),
        (lambda x, y: (right_torch(x, y), {}), "Return 1 value(s), not 2."),
        (lambda x, y: "loss", "Return a tensor, not a Python str"),
        (lambda x, y: right_torch(x, y) * 3, "The result differs, in a way this check has no name"),
        (
            lambda x, y: right_torch(x, y) * 0 / 0,
            "The result differs, in a way this check has no na",
        ),
        (
            lambda x, y: right_torch(x, y) + 2 * (x.mean() - x.mean().detach()),
            "The value is right, but the gradient with respect to logits is not.",
        ),
    ],
)
def test_sft_other_complaints(verdict, fn, message):
    out = verdict(check.sft_loss, fn)
    assert out.startswith(f"Not yet. {message}"), out


def test_sft_wrong_value_and_no_gradient_names_the_value_first(verdict):
    out = verdict(check.sft_loss, lambda x, y: summed(x, y).item())
    assert out.startswith("Not yet. Sum instead of mean")


def test_sft_overwritten_input(verdict):
    def careless(logits, labels):
        loss = right_torch(logits, labels)
        labels[labels == -100] = 0
        return loss

    out = verdict(check.sft_loss, careless)
    assert out == "Not yet. The value is right, but your function overwrites its input labels."


@pytest.mark.parametrize(
    ("fn", "error", "hint"),
    [
        (lambda x, y: 1 / 0, "ZeroDivisionError: division by zero.", ""),
        (lambda x: x, "TypeError: ", ""),
        (lambda x, y: backward_inside(x, y), "RuntimeError: Trying to backward", ""),
        (lambda x, y: x.log_softmax(-1).gather(-1, y[..., None]), "RuntimeError", "Mask ignored"),
        (lambda x, y: cross_entropy(*shifted(x, y), ignore_index=-1), "IndexError", "Mask ignored"),
        (lambda x, y: F.one_hot(y, 11), "RuntimeError", "Mask ignored"),
        (lambda x, y: F.cross_entropy(x[:, :-1], y[:, 1:]), "", "flatten both"),
    ],
)
def test_sft_exception_is_reported_in_words(verdict, fn, error, hint):
    out = verdict(check.sft_loss, fn)
    assert out.startswith(f"Not yet. Your function raised {error}"), out
    assert hint in out and "Traceback" not in out
    assert "On logits = torch.arange(40.0)" in out


def test_interrupting_still_works():
    def stopped(logits, labels):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        check.sft_loss(stopped)


# LoRA


def lora(x, weight, lora_a, lora_b, alpha):
    return F.linear(x, weight) + alpha / lora_a.shape[0] * F.linear(F.linear(x, lora_a), lora_b)


def delta(x, lora_a, lora_b):
    return x @ lora_a.T @ lora_b.T


LORA_MISTAKES = {
    "Forgot the scaling": lambda x, w, a, b, s: x @ w.T + delta(x, a, b),
    "Scaled by the rank without": lambda x, w, a, b, s: x @ w.T + delta(x, a, b) / len(a),
    "Scaled by the rank": lambda x, w, a, b, s: x @ w.T + delta(x, a, b) * len(a),
    "Scaled by alpha without": lambda x, w, a, b, s: x @ w.T + s * delta(x, a, b),
    "Scaled by alpha * rank": lambda x, w, a, b, s: x @ w.T + s * len(a) * delta(x, a, b),
    "Scaled by rank / alpha": lambda x, w, a, b, s: x @ w.T + len(a) / s * delta(x, a, b),
    "Scaled by alpha / sqrt": lambda x, w, a, b, s: x @ w.T + s / len(a) ** 0.5 * delta(x, a, b),
    "Wrong rank": lambda x, w, a, b, s: x @ w.T + s / a.shape[1] * delta(x, a, b),
    "A and B swapped": lambda x, w, a, b, s: x @ w.T + s / len(a) * (x @ (a @ b).T),
    "Update transposed": lambda x, w, a, b, s: x @ w.T + s / len(a) * (x @ (b @ a)),
    "A and B not transposed": lambda x, w, a, b, s: x @ w.T + s / len(a) * (x @ a @ b),
    "Base path dropped": lambda x, w, a, b, s: s / len(a) * delta(x, a, b),
    "weight not transposed": lambda x, w, a, b, s: x @ w + s / len(a) * delta(x, a, b),
    "Base path scaled": lambda x, w, a, b, s: s / len(a) * (x @ w.T + delta(x, a, b)),
    "The result differs": lambda x, w, a, b, s: x @ w.T + s / len(a) * delta(x, 0.1 * a, b),
}


def test_lora_right(verdict):
    out = verdict(check.lora_forward, lora)
    assert out == "Correct: output and gradients equal W0 x + (alpha / rank) B A x in 4 cases."
    merged = verdict(check.lora_forward, lambda x, w, a, b, s: x @ (w + s / len(a) * b @ a).T)
    assert merged == out


@pytest.mark.parametrize("name", LORA_MISTAKES)
def test_lora_mistake_is_named(verdict, name):
    out = verdict(check.lora_forward, LORA_MISTAKES[name])
    assert out.startswith(f"Not yet. {name}"), out
    named = [m for v in lesson01._LORA_MISTAKES.values() for m in v.values() if m in out]
    assert len(set(named)) == (name != "The result differs"), out


def test_lora_message_shows_numbers_that_are_easy_to_check(verdict):
    out = verdict(check.lora_forward, LORA_MISTAKES["Forgot the scaling"])
    example = (
        "On x = torch.ones(1, 3), weight = torch.ones(2, 3), lora_a = torch.ones(2, 3), lora_b"
    )
    assert example in out
    assert "you returned [[9.0, 9.0]]; expected [[21.0, 21.0]]." in out


@pytest.mark.parametrize(
    ("fn", "message"),
    [
        (lambda x, w, a, b, s: None, "Not attempted yet: the function returned None."),
        (lambda *t: lora(*t).sum(-1), "Not yet. Wrong shape: expected (1, 2), you returned (1,)."),
        (
            lambda x, w, a, b, s: lora(x, w, a.detach(), b, s),
            "Not yet. The value is right, but no gradient reaches lora_a",
        ),
        (
            lambda x, w, a, b, s: x.detach() @ w.T + s / len(a) * delta(x, a, b),
            "Not yet. The value is right, but the gradient with respect to x is not.",
        ),
        (lambda x, w, a, b, s: x @ w, "Not yet. Your function raised RuntimeError: mat1 and mat2"),
    ],
)
def test_lora_other_complaints(verdict, fn, message):
    out = verdict(check.lora_forward, fn)
    assert out.startswith(message), out
