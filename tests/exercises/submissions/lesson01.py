"""Submissions to the exercises of lesson 01."""

import torch
import torch.nn.functional as F

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


def right_one_hot(logits, labels):
    logits, labels = shifted(logits, labels)
    picked = torch.einsum(
        "blv,blv->bl", logits.log_softmax(2), F.one_hot(labels.clamp(0), logits.shape[2]).float()
    )
    return -(picked * (labels != -100)).sum() / (labels != -100).sum()


def right_double(logits, labels):
    return F.cross_entropy(logits[:, :-1].double().transpose(1, 2), labels[:, 1:])


def right_by_index(logits, labels):
    labels = labels.clone()
    rows, columns = (labels[:, 1:] != -100).nonzero(as_tuple=True)
    scores = logits[rows, columns]
    return (scores.logsumexp(-1) - scores[range(len(rows)), labels[rows, columns + 1]]).mean()


def with_metrics(logits, labels):
    loss = right_torch(logits, labels)
    return loss, {"loss": loss.item()}


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


def labels_above_zero(logits, labels):
    loss, _ = nll(*shifted(logits, labels))
    mask = labels[:, 1:] > 0
    return (loss * mask).sum() / mask.sum()


def counted_before_the_shift(logits, labels):
    n = (labels != -100).sum()
    loss, mask = nll(*shifted(logits, labels))
    return (loss * mask).sum() / n


def softmax_over_positions(logits, labels):
    logits, labels = shifted(logits, labels)
    logprobs = torch.log_softmax(logits, dim=1)
    token = logprobs.gather(2, labels.clamp(min=0).unsqueeze(2)).squeeze(2)
    return -token[labels != -100].mean()


def softmax_over_positions_first(logits, labels):
    logprobs, labels = shifted(torch.log_softmax(logits, dim=1), labels)
    token = logprobs.gather(2, labels.clamp(min=0).unsqueeze(2)).squeeze(2)
    return -token[labels != -100].mean()


def softmax_over_the_batch(logits, labels):
    logprobs, labels = shifted(logits.log_softmax(0), labels)
    token = logprobs.gather(2, labels.clamp(min=0).unsqueeze(2)).squeeze(2)
    return -token[labels != -100].mean()


def exp_by_hand(logits, labels):
    logits, labels = shifted(logits, labels)
    p = logits.exp() / logits.exp().sum(-1, keepdim=True)
    return -p.log().gather(-1, labels.clamp(min=0)[..., None])[..., 0][labels != -100].mean()


def softmax_log_small(logits, labels):
    return softmax_log(logits, labels, epsilon=1e-12)


def neither_shifted(logits, labels):
    return cross_entropy(logits[:, :-1], labels[:, :-1])


def both_shifted(logits, labels):
    return cross_entropy(logits[:, 1:], labels[:, 1:])


SFT_MISTAKES = [
    (neither_shifted, "No shift by one"),
    (both_shifted, "No shift by one"),
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
    (labels_above_zero, "Token 0 left out"),
    (counted_before_the_shift, "N counted before the shift"),
    (softmax_over_positions, "softmax over the wrong axis"),
    (softmax_over_positions_first, "softmax over the wrong axis"),
    (softmax_over_the_batch, "softmax over the wrong axis"),
    (exp_by_hand, "softmax, then log"),
    (softmax_log_small, "softmax, then log"),
]


def lora(x, weight, lora_a, lora_b, alpha):
    return F.linear(x, weight) + alpha / lora_a.shape[0] * F.linear(F.linear(x, lora_a), lora_b)


def delta(x, lora_a, lora_b):
    return x @ lora_a.T @ lora_b.T


def lora_merged(x, weight, lora_a, lora_b, alpha):
    return x @ (weight + alpha / lora_a.shape[0] * lora_b @ lora_a).T


def lora_einsum(x, weight, lora_a, lora_b, alpha):
    down = torch.einsum("...i,ri->...r", x, lora_a)
    up = torch.einsum("...r,or->...o", down, lora_b)
    return torch.einsum("...i,oi->...o", x, weight) + up * (alpha / lora_b.shape[1])


def lora_in_place(x, weight, lora_a, lora_b, alpha):
    h = x.clone() @ weight.T
    h += (x @ lora_a.T @ lora_b.T).mul(alpha).div(len(lora_a))
    return h


def lora_double(x, weight, lora_a, lora_b, alpha):
    x, weight, lora_a, lora_b = x.double(), weight.double(), lora_a.double(), lora_b.double()
    rows = [weight @ v + alpha / len(lora_a) * (lora_b @ (lora_a @ v)) for v in x.flatten(0, -2)]
    return torch.stack(rows).view(*x.shape[:-1], -1)


LORA_MISTAKES = {
    "Forgot the scaling": lambda x, w, a, b, s: x @ w.T + delta(x, a, b),
    "Scaled by the rank without": lambda x, w, a, b, s: x @ w.T + delta(x, a, b) / len(a),
    "Scaled by the rank": lambda x, w, a, b, s: x @ w.T + delta(x, a, b) * len(a),
    "Scaled by alpha without": lambda x, w, a, b, s: x @ w.T + s * delta(x, a, b),
    "Scaled by alpha * rank": lambda x, w, a, b, s: x @ w.T + s * len(a) * delta(x, a, b),
    "Scaled by rank / alpha": lambda x, w, a, b, s: x @ w.T + len(a) / s * delta(x, a, b),
    "Scaled by alpha / sqrt": lambda x, w, a, b, s: x @ w.T + s / len(a) ** 0.5 * delta(x, a, b),
    "Wrong rank: it is the first": lambda x, w, a, b, s: x @ w.T + s / a.shape[1] * delta(x, a, b),
    "A and B swapped": lambda x, w, a, b, s: x @ w.T + s / len(a) * (x @ (a @ b).T),
    "Update transposed": lambda x, w, a, b, s: x @ w.T + s / len(a) * (x @ (b @ a)),
    "A and B not transposed": lambda x, w, a, b, s: x @ w.T + s / len(a) * (x @ a @ b),
    "Base path dropped": lambda x, w, a, b, s: s / len(a) * delta(x, a, b),
    "weight not transposed": lambda x, w, a, b, s: x @ w + s / len(a) * delta(x, a, b),
    "Base path scaled": lambda x, w, a, b, s: s / len(a) * (x @ w.T + delta(x, a, b)),
    "Scale on the base": lambda x, w, a, b, s: s / len(a) * (x @ w.T) + delta(x, a, b),
    "Wrong rank: it is the second": lambda x, w, a, b, s: x @ w.T + s / len(b) * delta(x, a, b),
    "The result differs": lambda x, w, a, b, s: x @ w.T + s / len(a) * delta(x, 0.1 * a, b),
}


RIGHT = {
    "sft_loss": [
        right_torch,
        right_by_hand,
        right_loop,
        right_one_hot,
        right_double,
        right_by_index,
        with_metrics,
    ],
    "lora_forward": [lora, lora_merged, lora_einsum, lora_in_place, lora_double],
}
WRONG = {
    "sft_loss": SFT_MISTAKES,
    "lora_forward": [(fn, name) for name, fn in LORA_MISTAKES.items()],
}
MUTANTS = {}
