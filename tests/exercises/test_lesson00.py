import re

import pytest

from exercises import check, lesson00
from utils import kl

K3 = """
def answer(logprobs, ref_logprobs):
    r = logprobs - ref_logprobs
    return torch.exp(-r) - 1 + r
"""
K3_VALUE = "torch.exp(-r) - 1 + r"
REINFORCE = """
def answer(logits, actions, rewards, baseline):
    probs = logits.softmax(0)
    one_hot = F.one_hot(actions, len(logits)).float()
    weights = rewards - baseline
    return (weights[:, None] * (one_hot - probs)).mean(0)
"""
EXERCISES = {"k3": (check.k3, K3), "reinforce": (check.reinforce_gradient, REINFORCE)}
SUCCESS = {
    "k3": "Correct: values and gradients equal utils.kl.k3 on 3 batches.",
    "reinforce": "Correct: equal to the gradient by autograd on 3 batches.",
}

# (exercise, passage of the answer, its replacement)
RIGHT = [
    ("k3", "", ""),
    ("k3", K3_VALUE, "torch.expm1(-r) + r"),
    ("k3", K3_VALUE, "(-r).exp().sub(1).add(r)"),
    ("k3", K3_VALUE, "ref_logprobs.exp() / logprobs.exp() - 1 + r"),
    ("k3", "ref_logprobs\n", "ref_logprobs.detach()\n"),
    ("reinforce", "", ""),
    ("reinforce", ".mean(0)", ".sum(0) / len(actions)"),
    ("reinforce", "F.one_hot(actions, len(logits)).float()", "torch.eye(len(logits))[actions]"),
    (
        "reinforce",
        "(weights[:, None] * (one_hot - probs)).mean(0)",
        "weights @ (one_hot - probs) / len(weights)",
    ),
]

# (exercise, passage of the answer, its replacement, how the message starts)
MISTAKES = [
    ("k3", K3_VALUE, "torch.exp(r) - 1 - r", "Sign of the log-ratio flipped"),
    ("k3", "logprobs - ref_logprobs", "ref_logprobs - logprobs", "Sign of the log-ratio flipped"),
    ("k3", "logprobs - ref_logprobs", "logprobs / ref_logprobs", "Log-probs divided"),
    (
        "k3",
        "logprobs - ref_logprobs",
        "logprobs.exp() - ref_logprobs.exp()",
        "Probabilities subtracted",
    ),
    ("k3", K3_VALUE, "r", "That is k1"),
    ("k3", K3_VALUE, "r**2 / 2", "That is k2"),
    ("k3", K3_VALUE, "torch.exp(-r) - 1", "+ r missing"),
    ("k3", K3_VALUE, "torch.exp(-r) + r", "- 1 missing"),
    ("k3", K3_VALUE, "-r - 1 + r", "exp missing"),
    ("k3", K3_VALUE, "torch.exp(-r) - 1 - r", "r subtracted instead of added"),
    ("reinforce", "one_hot - probs", "one_hot", "- probs missing"),
    ("reinforce", "one_hot - probs", "one_hot * (1 - probs)", "Only the sampled tokens'"),
    (
        "reinforce",
        "(one_hot - probs)",
        "probs[actions][:, None] * (one_hot - probs)",
        "Gradient of the probability",
    ),
    ("reinforce", "rewards - baseline", "rewards", "Baseline not subtracted"),
    ("reinforce", "rewards - baseline", "rewards + baseline", "Baseline added"),
    ("reinforce", "rewards - baseline", "rewards - rewards.mean()", "Mean of these rewards"),
    ("reinforce", ".mean(0)", ".sum(0)", "Sum instead of mean"),
    ("reinforce", "one_hot - probs", "probs - one_hot", "Sign flipped"),
    ("reinforce", "rewards - baseline", "baseline - rewards", "Sign flipped"),
]

# Single-point changes of the answers that nobody would give a name.
MUTANTS = [
    ("k3", K3_VALUE, "torch.exp(-r) - 1 + r.abs()"),
    ("k3", K3_VALUE, "torch.exp(-r) + 1 + r"),
    ("k3", K3_VALUE, "torch.exp(-r) - 2 + r"),
    ("k3", K3_VALUE, "torch.exp(-r) - 1 + 2 * r"),
    ("k3", K3_VALUE, "torch.exp(-2 * r) - 1 + r"),
    ("k3", K3_VALUE, "torch.exp(-r).detach() - 1 + r"),
    ("k3", K3_VALUE, "torch.exp(-r) - 1 + r.detach()"),
    ("k3", K3_VALUE, "torch.exp(-r.abs()) - 1 + r"),
    ("k3", K3_VALUE, "(torch.exp(-r) - 1 + r) / 2"),
    ("k3", K3_VALUE, "(torch.exp(-r) - 1 + r).mean()"),
    ("k3", K3_VALUE, "(torch.exp(-r) - 1 + r).clamp(max=1)"),
    ("k3", "logprobs - ref_logprobs", "logprobs + ref_logprobs"),
    ("k3", "logprobs - ref_logprobs", "logprobs.detach() - ref_logprobs"),
    ("reinforce", "softmax(0)", "log_softmax(0)"),
    ("reinforce", "softmax(0)", "sigmoid()"),
    ("reinforce", "one_hot - probs", "one_hot + probs"),
    ("reinforce", "one_hot - probs", "one_hot - 1"),
    ("reinforce", "one_hot - probs", "probs"),
    ("reinforce", "rewards - baseline", "rewards * baseline"),
    ("reinforce", "rewards - baseline", "(rewards - baseline).abs()"),
    ("reinforce", "rewards - baseline", "(rewards - baseline).sign()"),
    ("reinforce", "rewards - baseline", "rewards - baseline / 2"),
    ("reinforce", ".mean(0)", ".mean()"),
    ("reinforce", ".mean(0)", ".median(0).values"),
    ("reinforce", ".mean(0)", ".sum(0) / len(logits)"),
]


@pytest.mark.parametrize(("exercise", "old", "new"), RIGHT)
def test_right(verdict, mutant, exercise, old, new):
    run, source = EXERCISES[exercise]
    assert verdict(run, mutant(source, old, new)) == SUCCESS[exercise]


def test_the_answer_key_of_k3_is_right(verdict):
    assert verdict(check.k3, kl.k3) == SUCCESS["k3"]


@pytest.mark.parametrize("exercise", EXERCISES)
def test_not_attempted(verdict, exercise):
    out = verdict(EXERCISES[exercise][0], lambda *args: None)
    assert out == "Not attempted yet: the function returned None."


@pytest.mark.parametrize(("exercise", "old", "new", "name"), MISTAKES)
def test_mistake_is_named(verdict, mutant, exercise, old, new, name):
    run, source = EXERCISES[exercise]
    out = verdict(run, mutant(source, old, new))
    assert out.startswith(f"Not yet. {name}"), out
    assert "you returned" in out and "expected" in out


def test_every_message_is_tested():
    tables = (lesson00._K3_MISTAKES, lesson00._REINFORCE_MISTAKES)
    messages = [m for table in tables for options in table.values() for m in options.values()]
    for message in messages:
        assert any(message.startswith(name) for *_, name in MISTAKES), message


def test_two_mistakes_at_once(verdict, mutant):
    source = REINFORCE.replace(".mean(0)", ".sum(0)")
    out = verdict(check.reinforce_gradient, mutant(source, "rewards - baseline", "rewards"))
    assert out.startswith("Not yet. Baseline not subtracted") and "Sum instead of mean" in out


@pytest.mark.parametrize(
    ("exercise", "expected"), [("k3", [0.3679, 0.7183, 0.0]), ("reinforce", [0.75, -0.25])]
)
def test_the_example_can_be_checked_by_hand(verdict, mutant, exercise, expected):
    # k3: r = 1, -1, 0. REINFORCE: only the first sample counts, 2 / 2 * (1 - 1/4, -1/4, ...).
    run, source = EXERCISES[exercise]
    changed = {"k3": (K3_VALUE, "r"), "reinforce": (".mean(0)", ".sum(0)")}[exercise]
    out = verdict(run, mutant(source, *changed))
    shown = re.search(r"expected \[(.*)\]\.$", out)
    numbers = [float(x) for x in shown[1].split(", ")]
    assert numbers[: len(expected)] == expected


@pytest.mark.parametrize(
    ("exercise", "old", "new", "message"),
    [
        ("k3", K3_VALUE, f"({K3_VALUE}).detach()", "The value is right, but the result carries no"),
        ("k3", K3_VALUE, f"({K3_VALUE}).sum()", "Wrong shape: expected (3,), you returned ()."),
        ("reinforce", ".mean(0)", ".mean(1)", "Wrong shape: expected (4,), you returned (2,)."),
        ("reinforce", "weights[:, None]", "weights", "Your function raised RuntimeError"),
    ],
)
def test_other_complaints(verdict, mutant, exercise, old, new, message):
    run, source = EXERCISES[exercise]
    out = verdict(run, mutant(source, old, new))
    assert out.startswith(f"Not yet. {message}"), out


@pytest.mark.parametrize(("exercise", "old", "new"), MUTANTS)
def test_mutants_are_rejected(verdict, mutant, exercise, old, new):
    run, source = EXERCISES[exercise]
    assert verdict(run, mutant(source, old, new)).startswith("Not yet. ")
