"""Mistakes that several exercises share, in the form that `judge.Exercise` reads."""

# For every exercise that compares two log-probs.
DIVIDED = (
    "Probabilities divided: exp of a log-prob below -103 is 0 in float32, and 0 / 0 is NaN. Take "
    "the difference of the log-probs, then exp."
)

_FROM_ONE = "clip the ratio itself to [1 - clip_eps, 1 + clip_eps]."
_SMALLER = (
    "the objective is the smaller of ratio * A and clipped ratio * A, whatever the sign of A."
)
_RATIO = "The ratio is exp(logprobs - old_logprobs)."
# Of PPO's ratio and clip, which GRPO has too.
CLIP_MISTAKES = f"""
max instead of min: {_SMALLER}
    torch.min( -> torch.max(
max instead of min for negative advantages: {_SMALLER}
    torch.min(ratio * advantages, clipped) -> torch.where(advantages < 0,
        torch.max(ratio * advantages, clipped), torch.min(ratio * advantages, clipped))
Only the clipped branch: {_SMALLER}
    torch.min(ratio * advantages, clipped) -> clipped
No clip: {_SMALLER}
    torch.min(ratio * advantages, clipped) -> ratio * advantages
Clip on the log ratio: {_FROM_ONE}
    ratio.clamp(1 - clip_eps, 1 + clip_eps) ->
        (logprobs - old_logprobs).clamp(-clip_eps, clip_eps).exp()
    ratio.clamp -> (logprobs - old_logprobs).clamp ; 1 + clip_eps) -> 1 + clip_eps).exp()
    ratio.clamp -> (logprobs - old_logprobs).clamp
Clip on ratio * A: clip the ratio first, then multiply.
    clipped = ratio.clamp(1 - clip_eps, 1 + clip_eps) * advantages ->
        clipped = (ratio * advantages).clamp(1 - clip_eps, 1 + clip_eps)
Clip around 0: {_FROM_ONE}
    1 - clip_eps, 1 + clip_eps -> -clip_eps, clip_eps
Clip for positive advantages only, without a lower bound: {_FROM_ONE}
    1 - clip_eps, 1 + clip_eps -> max=1 + clip_eps
Clip for negative advantages only, without an upper bound: {_FROM_ONE}
    1 - clip_eps, 1 + clip_eps -> min=1 - clip_eps
clip_eps ignored: you clip at 0.2 whatever clip_eps is.
    1 - clip_eps, 1 + clip_eps -> 0.8, 1.2
Ratio inverted. {_RATIO}
    logprobs - old_logprobs -> old_logprobs - logprobs
Log ratio taken for the ratio. {_RATIO}
    torch.exp(logprobs - old_logprobs) -> logprobs - old_logprobs
1 + log ratio taken for the ratio. {_RATIO}
    torch.exp(logprobs - old_logprobs) -> 1 + logprobs - old_logprobs
Log-probs divided by each other. {_RATIO}
    torch.exp(logprobs - old_logprobs) -> logprobs / old_logprobs
    torch.exp(logprobs - old_logprobs) -> torch.exp(logprobs / old_logprobs)
{DIVIDED}
    torch.exp(logprobs - old_logprobs) -> logprobs.exp() / old_logprobs.exp()
old_logprobs not used in the ratio. {_RATIO}
    torch.exp(logprobs - old_logprobs) -> torch.exp(logprobs)
Ratio of the log-probs to themselves, always 1: old_logprobs are those at the time of sampling, not
today's detached. {_RATIO}
    logprobs - old_logprobs -> logprobs - logprobs.detach()
"""

# Of any loss that ends in -F.logsigmoid(d).mean(): Bradley-Terry and DPO.
LOG_SIGMOID_MISTAKES = """
sigmoid without log: the loss is the negative log-likelihood, -log sigmoid.
    F.logsigmoid(d) -> torch.sigmoid(d) | (torch.sigmoid(d) - 1)
No sigmoid: minus the difference alone has no minimum. It is -log sigmoid.
    F.logsigmoid(d) -> d
sigmoid (or softmax), then log: the probability rounds to 0 (or exp overflows) at a large negative
difference, and the log is lost; a small number added, or a clamp, only hides it. Use logsigmoid.
    F.logsigmoid(d) -> torch.sigmoid(d).log() | torch.sigmoid(d).log().clamp(min=-100)
    F.logsigmoid(d) -> torch.sigmoid(d).clamp(EPS).log() | (torch.sigmoid(d) + EPS).log()
Mean before the log-sigmoid: take -logsigmoid of each pair, then the mean.
    F.logsigmoid(d).mean() -> F.logsigmoid(d.mean())
Mean before the log: average the log-sigmoids, not the sigmoids.
    F.logsigmoid(d).mean() -> torch.sigmoid(d).mean().log()
Sum instead of mean: divide by the number of pairs.
    .mean() -> .sum()
Minus missing: the loss is minus the mean log-sigmoid.
    return -F -> return F
"""
