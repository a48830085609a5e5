"""Submissions to the exercises of lesson 03 on the reward of each token and on the controller."""

from submissions import edits

REWARDS = """
def answer(scores, logprobs, ref_logprobs, mask, kl_coef):
    price = kl_coef * (logprobs - ref_logprobs)
    rewards = -price * mask
    for row, score in enumerate(scores):
        last = int(mask[row].sum()) - 1
        rewards[row, last] += score
    return rewards
"""
_LOG = "logprobs - ref_logprobs"
_LOOP = """    for row, score in enumerate(scores):
        last = int(mask[row].sum()) - 1
        rewards[row, last] += score
"""
_ADD, _LAST = "rewards[row, last] += score", "int(mask[row].sum()) - 1"

_RIGHT_REWARDS = [
    ("", ""),
    (
        _LOOP,
        """    last = mask.cumsum(1) == mask.sum(1, keepdim=True)
    rewards = rewards + (last & mask.bool()) * scores[:, None]
""",
    ),
    (_LOOP, "    rewards.scatter_add_(1, mask.sum(1, keepdim=True).long() - 1, scores[:, None])\n"),
    ("-price * mask", "-price"),  # padding does not count
    (_LOOP, "    rewards[range(len(scores)), mask.sum(1).int() - 1] += scores\n"),
]
_WRONG_REWARDS = [
    ("-price * mask", "price * mask", "Sign of the price flipped"),
    (_LOG, "ref_logprobs - logprobs", "Sign of the price flipped"),
    ("kl_coef * (", "(", "kl_coef not used"),
    ("-price * mask", "torch.zeros_like(mask)", "No price for the KL"),
    (_LOG, "logprobs", "Reference left out"),
    (_LOG, "logprobs.exp() - ref_logprobs.exp()", "Probabilities subtracted"),
    (_LOG, "logprobs / ref_logprobs", "Log-probs divided"),
    (_LOG, "torch.exp(ref_logprobs - logprobs) - 1 + logprobs - ref_logprobs", "That is k3"),
    (_LOG, "(logprobs - ref_logprobs).abs()", "Absolute log-ratio"),
    (
        "    rewards = -price * mask\n",
        "    rewards = torch.zeros_like(mask)\n    scores = scores - (price * mask).sum(1)\n",
        "Price of the whole answer",
    ),
    (_LOOP, "    rewards += scores.unsqueeze(1)\n", "Score on every token"),
    (_LOOP, "    rewards += (scores / mask.sum(1)).unsqueeze(1)\n", "Score spread"),
    (_LOOP, "    rewards[:, -1] += scores\n", "Score in the last column"),
    (_LOOP, "    rewards[:, 0] += scores\n", "Score on the first token"),
    (_LAST, "int(mask[row].sum()) - 2", "Score one token too early"),
    (_LOOP, "    rewards[:, mask.sum(1).long() - 1] += scores\n", "Score of every row"),
    (_ADD, "rewards[row, last] = score", "Score in place of"),
    (_LOOP, "", "Score left out"),
    (_ADD, "rewards[row, last] += kl_coef * score", "Score multiplied by kl_coef"),
    (_ADD, "rewards[row, last] += score / mask[row].sum()", "Score divided by the length"),
]
_MUTANTS_REWARDS = [
    (_LOG, "logprobs + ref_logprobs"),
    (_LOG, "(logprobs - ref_logprobs).square()"),
    (_LOG, "(logprobs - ref_logprobs).clamp(min=0)"),
    (_ADD, "rewards[row, last] -= score"),
    (_ADD, "rewards[row, last] *= score"),
    (_ADD, "rewards[row, last] += 2 * score"),
    (_ADD, "rewards[row, last] += scores[0]"),
    (_ADD, "rewards[row, last] += score - scores.mean()"),
    ("-price * mask", "-price.mean() * mask"),
]

CONTROLLER = """
def answer(coef, kl, target, n_samples, horizon):
    error = (kl - target) / target
    if error > 0.2:
        error = 0.2
    if error < -0.2:
        error = -0.2
    change = error * n_samples / horizon
    return coef * (1 + change)
"""
_ERROR, _CHANGE = "(kl - target) / target", "error * n_samples / horizon"
_ABOVE = "    if error > 0.2:\n        error = 0.2\n"
_BELOW = "    if error < -0.2:\n        error = -0.2\n"

_RIGHT_CONTROLLER = [
    ("", ""),
    (_ABOVE + _BELOW, "    error = error.clamp(-0.2, 0.2)\n"),
    (_ERROR, "kl / target - 1"),
    ("coef * (1 + change)", "coef + coef * change"),
]
_WRONG_CONTROLLER = [
    (_ERROR, "(target - kl) / target", "Sign flipped"),
    ("1 + change", "1 - change", "Sign flipped"),
    (_ERROR, "(target - kl) / kl", "Target over KL"),
    (_ERROR, "kl - target", "Difference in place"),
    (_ERROR, "kl / target", "1 not subtracted"),
    (_ABOVE + _BELOW, "", "No clip"),
    (_BELOW, "", "Clipped from above only"),
    (_ABOVE, "", "Clipped from below only"),
    (_ABOVE + _BELOW, "    error = error.clamp(0.8, 1.2)\n", "Clipped to [0.8, 1.2]"),
    (
        _ABOVE + _BELOW + "    change = " + _CHANGE,
        "    change = min(max(error * n_samples / horizon, -0.2), 0.2)",
        "Clipped too late",
    ),
    (_CHANGE, "error / horizon", "n_samples left out"),
    (_CHANGE, "error", "horizon left out"),
    (_CHANGE, "error * horizon / n_samples", "n_samples and horizon upside down"),
    ("coef * (1 + change)", "coef + change", "Added to the coefficient"),
    ("coef * (1 + change)", "1 + change", "The factor returned"),
    ("coef * (1 + change)", "coef * change", "The change returned"),
]
_MUTANTS_CONTROLLER = [
    (_ERROR, "(kl - target) / kl"),
    (_ERROR, "abs(kl - target) / target"),
    ("        error = 0.2\n", "        error = 0.1\n"),
    ("coef * (1 + change)", "coef * (2 + change)"),
    ("coef * (1 + change)", "coef * (1 + change) ** 2"),
    (_CHANGE, "error * (n_samples - 1) / horizon"),
]

RIGHT = {
    "kl_shaped_rewards": edits(REWARDS, _RIGHT_REWARDS),
    "kl_controller": edits(CONTROLLER, _RIGHT_CONTROLLER),
}
WRONG = {
    "kl_shaped_rewards": edits(REWARDS, _WRONG_REWARDS),
    "kl_controller": edits(CONTROLLER, _WRONG_CONTROLLER),
}
MUTANTS = {
    "kl_shaped_rewards": edits(REWARDS, _MUTANTS_REWARDS),
    "kl_controller": edits(CONTROLLER, _MUTANTS_CONTROLLER),
}
