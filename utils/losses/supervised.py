"""Supervised fine-tuning: the masked cross-entropy."""

from jaxtyping import Float, Int
from torch import Tensor

from utils.chat import IGNORE
from utils.logprobs import align, gather_logprobs


def sft_loss(
    logits: Float[Tensor, "*shape V"], labels: Int[Tensor, "*shape"]
) -> tuple[Float[Tensor, ""], dict[str, float]]:
    """Masked next-token cross-entropy of supervised fine-tuning.

    loss = -1/N sum_{t: labels[t] != -100} log pi(labels[t] | tokens before t)

    logits (B, L, V) and labels (B, L), not shifted, -100 where ignored (prompt, padding); or, from
    `logprobs.label_logits`, logits (N, V) and the labels (N,) that they predict. N counts the
    completion tokens of the whole batch: every token weighs the same. ValueError if N is 0.
    """
    if logits.ndim == 2 and labels.shape == logits.shape[:1]:
        predictions, targets = logits, labels  # (N, V), (N,): nothing to shift
    else:
        predictions, targets = align(logits, labels)  # (B, L-1, V), (B, L-1)
    kept = targets != IGNORE
    if not kept.any():
        raise ValueError(
            "every label is -100, so there is nothing to learn from: does the completion mask "
            "reach the labels, and did truncation leave any completion?"
        )
    # Picking the kept positions first spares the softmax over all the others, and what is at an
    # ignored position, NaN included, can reach neither the loss nor its gradient.
    predictions, targets = predictions[kept], targets[kept]  # (N, V), (N,)
    loss = -gather_logprobs(predictions, targets).mean()
    value = loss.detach()
    return loss, {
        "loss": value.item(),
        "perplexity": value.exp().item(),
        "token_accuracy": (predictions.argmax(-1) == targets).float().mean().item(),
        "tokens": float(targets.numel()),
    }
