"""Numbers to report, each with the interval that says how far to trust it."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from utils.logprobs import gather_logprobs, label_logits
from utils.rollout import Prompts, sample


def wilson_interval(successes: float, n: int, z: float = 1.96) -> tuple[float, float]:
    """Interval for a proportion p = successes / n (Wilson 1927); z = 1.96 gives 95%.

    (p + z²/2n ± z sqrt(p(1-p)/n + z²/4n²)) / (1 + z²/n)

    It stays within [0, 1] and has a width at p = 0 and 1. `successes` may be fractional.
    >>> [round(x, 3) for x in wilson_interval(0, 20)]
    [0.0, 0.161]
    """
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"need 0 <= successes <= n and n >= 1, got {successes} of {n}")
    p = successes / n
    centre = p + z * z / (2 * n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)


def mean_interval(scores: Sequence[float]) -> tuple[float, float, float]:
    """(mean, low, high) of scores within [0, 1], with their Wilson interval. (0, 0, 1) for none.

    >>> [round(x, 3) for x in mean_interval([1.0, 0.0, 1.0, 1.0])]
    [0.75, 0.301, 0.954]
    """
    if not len(scores):
        return 0.0, 0.0, 1.0
    return sum(scores) / len(scores), *wilson_interval(sum(scores), len(scores))


def pass_at_k(n: int, c: int, k: int) -> float:
    """Chance that k of n samples, drawn without replacement, hold one of the c right ones.

    1 - C(n-c, k) / C(n, k)   (Chen et al. 2021, arXiv 2107.03374, eq. 1)

    The unbiased estimate of pass@k of one prompt; 1 - (1 - c/n)^k is biased low.
    >>> pass_at_k(n=4, c=1, k=2)
    0.5
    """
    if not (0 <= c <= n and 1 <= k <= n):
        raise ValueError(f"need 0 <= c <= n and 1 <= k <= n, got n={n}, c={c}, k={k}")
    return 1 - math.comb(n - c, k) / math.comb(n, k)


def auc(scores: Sequence[float], labels: Sequence[float]) -> float:
    """Chance that a random right answer (label 1) outscores a random wrong one (0); ties half.

    The area under the ROC curve: 1 ranks perfectly, 0.5 is chance. nan when one kind is missing.
    >>> auc([0.9, 0.5, 0.5, 0.1], [1, 1, 0, 0])
    0.875
    """
    scores, labels = (torch.as_tensor(values, dtype=torch.float64) for values in (scores, labels))
    if scores.shape != labels.shape or scores.ndim != 1 or scores.isnan().any():
        raise ValueError(f"need one score, not NaN, a label: {scores.shape} and {labels.shape}")
    if not ((labels == 0) | (labels == 1)).all():
        raise ValueError("labels must be 1 (right) or 0 (wrong)")
    right, wrong = scores[labels == 1], scores[labels == 0].sort().values
    below = torch.searchsorted(wrong, right)  # wrong ones strictly below each right one
    not_above = torch.searchsorted(wrong, right, right=True)
    return ((below + not_above) / 2).mean().item() / len(wrong) if len(wrong) else math.nan


def distinct_n(texts: Sequence[str], n: int) -> float:
    """Different n-grams / all n-grams over all texts (Li et al. 2016); words split at spaces.

    1 means that nothing repeats; 0 when no text has n words.
    >>> distinct_n(["the cat", "the cat sat"], 2)
    0.6666666666666666
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    grams = [tuple(w[i : i + n]) for w in map(str.split, texts) for i in range(len(w) - n + 1)]
    return len(set(grams)) / len(grams) if grams else 0.0


@torch.no_grad()
def perplexity(model: nn.Module, batches: Iterable[dict[str, Tensor]]) -> float:
    """exp(mean negative log-likelihood) of the completion tokens, each token weighing the same.

    batches: dicts as `chat.collate` makes them. ValueError without any token that counts.
    """
    total, tokens, training = 0.0, 0, model.training
    model.eval()
    try:
        for batch in batches:
            inputs = (batch[k].to(model.device) for k in ("input_ids", "attention_mask", "labels"))
            logits, labels = label_logits(model, *inputs)  # (N, V), (N,)
            total -= gather_logprobs(logits, labels).sum().item()
            tokens += len(labels)
    finally:
        model.train(training)
    if tokens == 0:
        raise ValueError("no completion tokens to score: every label is -100")
    return math.exp(total / tokens)


@dataclass
class EvalResult:
    """Held-out accuracy. `print(result)` gives `0.612 [0.568, 0.654], n=500 prompts x 4 samples`.

    The interval is Wilson's with n = Q, the number of prompts. Answers to one prompt are not
    independent, so Q * G would be too large; the mean of G scores within [0, 1] never varies more
    than a single one, so Q is never too large.
    """

    accuracy: float  # mean over prompts of the mean over samples
    low: float
    high: float
    n_prompts: int
    samples: int  # a prompt
    stop_rate: float  # share of completions that ended by themselves
    scores: Float[Tensor, "Q G"] = field(repr=False)
    texts: list[list[str]] = field(repr=False)  # Q lists of G

    def __str__(self) -> str:
        answers = f"{self.samples} sample{'s' if self.samples > 1 else ''}"
        interval = f"{self.accuracy:.3f} [{self.low:.3f}, {self.high:.3f}]"
        return f"{interval}, n={self.n_prompts} prompts x {answers}"


def evaluate_completions(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Prompts,
    score_fn: Callable[[int, str], float],
    samples: int = 4,
    max_new_tokens: int = 64,
    temperature: float = 1.0,
    **options: Any,
) -> EvalResult:
    """Sample `samples` answers for each prompt and score each with `score_fn(prompt_index, text)`.

    `temperature=0` decodes greedily, once a prompt. options: those of `rollout.sample`.
    """
    group_size = samples if temperature > 0 else 1
    rollout = sample(model, tokenizer, prompts, group_size, max_new_tokens, temperature, **options)
    scores = [float(score_fn(row // group_size, text)) for row, text in enumerate(rollout.texts)]
    for row, score in enumerate(scores):
        if not 0 <= score <= 1:
            raise ValueError(f"score_fn gave {score} for prompt {row // group_size}: need 0 to 1")
    accuracy, size = sum(scores) / len(scores), len(prompts)
    return EvalResult(
        accuracy,
        *wilson_interval(accuracy * size, size),
        n_prompts=size,
        samples=group_size,
        stop_rate=rollout.finished.float().mean().item(),
        scores=torch.tensor(scores).view(size, group_size),
        texts=[rollout.texts[i : i + group_size] for i in range(0, len(scores), group_size)],
    )
