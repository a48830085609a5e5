"""Submissions to the exercise of lesson 06."""

ANSWER = """
def answer(logprobs, sampler_logprobs, mask, limit):
    return {}
"""
GAP = "(logprobs - sampler_logprobs)"
RATIO = "(logprobs - sampler_logprobs).exp()"
_RIGHT = [
    f"{RATIO}.clamp(max=limit).detach() * mask",
    f"torch.where(mask.bool(), torch.minimum({RATIO}, torch.tensor(limit)), 0.0).detach()",
    "torch.exp(logprobs.detach() - sampler_logprobs.detach()).clamp_(max=limit).mul_(mask)",
    f"{GAP}.detach().double().exp().clamp(max=limit) * mask",
    "torch.from_numpy(np.minimum(np.exp(logprobs.detach().numpy() - "
    "sampler_logprobs.detach().numpy()), limit) * mask.numpy())",
]
SLOW = """
@torch.no_grad()
def answer(logprobs, sampler_logprobs, mask, limit):
    weights = torch.zeros_like(mask)
    for b in range(len(mask)):
        for t in range(mask.shape[1]):
            if mask[b, t]:
                weights[b, t] = min((logprobs[b, t] - sampler_logprobs[b, t]).exp().item(), limit)
    return weights
"""
_WRONG = [
    ("(sampler_logprobs - logprobs).exp().clamp(max=limit) * mask", "Ratio upside down"),
    (f"{GAP}.clamp(max=limit) * mask", "The logarithm of the ratio"),
    ("(logprobs / sampler_logprobs).clamp(max=limit) * mask", "Log-probs divided"),
    ("(logprobs / sampler_logprobs).exp().clamp(max=limit) * mask", "Log-probs divided"),
    ("logprobs.exp().clamp(max=limit) * mask", "Probability of the model alone"),
    (
        "(logprobs.exp() / sampler_logprobs.exp()).clamp(max=limit).detach() * mask",
        "Probabilities divided",
    ),
    (f"{RATIO} * mask", "Not truncated"),
    (f"{RATIO}.clamp(min=limit) * mask", "Cut at limit from below"),
    (f"{RATIO}.clamp(1 / limit, limit) * mask", "Truncated from below"),
    (f"{GAP}.clamp(max=limit).exp() * mask", "Truncated before exp"),
    (f"{RATIO} * ({RATIO} <= limit) * mask", "Tokens above the limit"),
    (
        f"(w := {RATIO}.clamp(max=limit) * mask) / w.sum() * mask.sum()",
        "Normalised weights",
    ),
    (f"{RATIO}.clamp(max=limit) * mask / ({RATIO}.clamp(max=limit) * mask).sum()", "Normalised"),
    (
        f"({GAP} * mask).sum(1, keepdim=True).exp().clamp(max=limit) * mask",
        "One weight for the whole completion",
    ),
    (f"{RATIO}.clamp(max=limit)", "Padding has a weight"),
    (f"({GAP} * mask).exp().clamp(max=limit)", "Padding has a weight"),
    (f"{RATIO}.clamp(max=limit) * mask", "The value is right, but a gradient flows into logprobs"),
]

RIGHT = {"importance_weights": [*map(ANSWER.format, _RIGHT), SLOW]}
WRONG = {"importance_weights": [(ANSWER.format(formula), name) for formula, name in _WRONG]}
MUTANTS = {}
