"""The mistakes of `make lesson-mutants`: lesson, kind, the text to replace, the new text.

The text must occur exactly once in the code cells of the lesson's notebook. A fifth entry says why
no claim can see the mistake; only a survivor has one.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Mistake:
    """One mistake in what a lesson teaches."""

    lesson: str
    kind: str
    old: str
    new: str
    survives: str = ""

    @property
    def key(self) -> tuple[str, str, str]:
        """What a result is kept under."""
        return self.lesson, self.old, self.new


TABLE: dict[str, list[tuple[str, ...]]] = {
    "00": [
        ("sign of the loss", "loss = -((R - b) * log_policy", "loss = ((R - b) * log_policy"),
        ("learning rate 0", "toy_learning_rate: float = 2.0", "toy_learning_rate: float = 0.0"),
        ("baseline lost", "b = R.mean() if step == 0 else", "b = 0.0 if step > -1 else"),
        ("reward shuffled", "R = reward(y)  # (n,)", "R = reward(y)[torch.randperm(len(y))]"),
        ("wrong reward", "[len(set(row)) for row", "[len(row) for row"),
        ("sign of a gradient", "one_hot(y, 4).to(f64) - pi", "one_hot(y, 4).to(f64) + pi"),
        ("wrong baseline", '"others": (second, first)', '"others": (first, second)'),
        ("shift", "V_drawn = V[drawn, :4]", "V_drawn = V[drawn, 1:]"),
        ("sign of the KL", "log_ratio = target.log() - log_q", "log_ratio = log_q - target.log()"),
        (
            "estimator",
            '"k2 as loss": lambda logp: kl.k2(logp, ref_log)',
            '"k2 as loss": lambda logp: kl.k2(ref_log, logp) * 2',
        ),
        (
            "stop token",
            'convert_tokens_to_ids("<|im_end|>")',
            'convert_tokens_to_ids("<|im_start|>")',
        ),
        (
            "reference = policy",
            'models.load_reference(profile, "base")',
            "models.load_reference(profile, stage)",
        ),
        (
            "price of the KL",
            "loss = (logp.exp().detach() * (config.beta * f(logp)",
            "loss = (logp.exp().detach() * (-config.beta * f(logp)",
        ),
    ],
}

MISTAKES = [Mistake(lesson, *mistake) for lesson, mistakes in TABLE.items() for mistake in mistakes]
