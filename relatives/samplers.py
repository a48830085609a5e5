"""What changes when a sampler of its own writes the completions of GRPO (lesson 06)."""

from jaxtyping import Float, Shaped
from torch import Tensor


def importance_weights(
    logprobs: Float[Tensor, "*shape"],
    sampler_logprobs: Float[Tensor, "*shape"],
    mask: Shaped[Tensor, "*shape"],
    limit: float = 3.0,
) -> Float[Tensor, "*shape"]:
    """Truncated weights that make up for a sampler that is not quite the model; constants.

    w = min(exp(log pi - log q), limit) on completion tokens, 0 elsewhere

    pi is the training model, q the sampler. The mean of w f over samples of q is near the mean of f
    over samples of pi, and no single token weighs more than `limit`.
    """
    # What a sampler writes beyond the end, NaN or infinity too, must not survive times 0.
    gap = (logprobs - sampler_logprobs).detach().masked_fill(mask == 0, 0.0)
    return gap.exp().clamp(max=limit) * mask
