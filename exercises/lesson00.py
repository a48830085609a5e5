"""Exercises of lesson 00: the k3 estimate of the KL, and the REINFORCE gradient."""

from collections.abc import Callable

import torch

from exercises.judge import Case, judge, with_pairs, worked_case
from utils import kl

_K3 = "k3 is exp(-r) - 1 + r with r = logprobs - ref_logprobs."
_K3_MISTAKES = {
    "r": {
        "flipped": "Sign of the log-ratio flipped: exp(r) - 1 - r estimates something else, not "
        f"KL(policy || ref). {_K3}",
        "quotient": f"Log-probs divided: the log of a ratio is the *difference* of the logs. {_K3}",
        "probs": "Probabilities subtracted: r is the difference of the log-probs, as they come in.",
    },
    "formula": {
        "k1": f"That is k1, r itself: unbiased, but often negative. {_K3}",
        "k2": f"That is k2, r^2 / 2: never negative, but biased. {_K3}",
        "no r": f"+ r missing: exp(-r) - 1 alone has expectation 0. {_K3}",
        "no one": f"- 1 missing: where policy and reference agree, k3 is 0. {_K3}",
        "no exp": f"exp missing: -r - 1 + r is -1 everywhere. {_K3}",
        "minus r": "r subtracted instead of added: yours goes below 0. r has one sign inside exp, "
        f"the other outside. {_K3}",
    },
}


def _k3(logprobs, ref_logprobs, r="", formula=""):
    """k3, with the mistakes named in `_K3_MISTAKES` on request."""
    r = {
        "flipped": ref_logprobs - logprobs,
        "quotient": logprobs / ref_logprobs,
        "probs": logprobs.exp() - ref_logprobs.exp(),
    }.get(r, logprobs - ref_logprobs)
    return {
        "k1": r,
        "k2": r.square() / 2,
        "no r": (-r).exp() - 1,
        "no one": (-r).exp() + r,
        "no exp": -r - 1 + r,
        "minus r": (-r).exp() - 1 - r,
    }.get(formula, (-r).exp() - 1 + r)


def k3(fn: Callable) -> None:
    """Check `fn(logprobs, ref_logprobs) -> k3`, one number a token, same shape; prints.

    The gradient with respect to logprobs is compared too. Differences below 1e-5 pass, so
    exp(-r) - 1 is as good as expm1(-r) here.
    """
    cases = [
        worked_case(
            logprobs=torch.tensor([-1.0, -2.0, -0.5]), ref_logprobs=torch.tensor([-2.0, -1.0, -0.5])
        )
    ]
    generator = torch.Generator().manual_seed(0)
    for shape in ((7,), (3, 4)):
        args = [-4 * torch.rand(shape, generator=generator) - 0.1 for _ in range(2)]
        cases.append(Case(tuple(args), f"random log-probs of shape {shape}"))
    judge(
        fn,
        reference=kl.k3,
        cases=cases,
        success=f"values and gradients equal utils.kl.k3 on {len(cases)} batches.",
        grad_args=["logprobs"],
        **with_pairs(_k3, _K3_MISTAKES),
    )


_SCORE = "The gradient of log pi(a) is one-hot(a) - probs."
_REINFORCE_MISTAKES = {
    "score": {
        "one-hot": f"- probs missing: raising one token must lower the others. {_SCORE}",
        "sampled": f"Only the sampled tokens' entries moved: the others go down, too. {_SCORE}",
        "prob": "Gradient of the probability instead of its log: likely tokens come up often, so "
        f"their probability would count twice. {_SCORE}",
    },
    "weight": {
        "none": "Baseline not subtracted: the weight of a sample is reward - baseline.",
        "added": "Baseline added: the weight of a sample is reward - baseline.",
        "mean": "Mean of these rewards used as baseline: the one to subtract is given.",
    },
    "mean": {"sum": "Sum instead of mean: divide by the number of samples."},
    "sign": {
        "flipped": "Sign flipped: that is the gradient of a loss, to go down. Asked for is that of "
        "the expected reward, to go up."
    },
}


def _reinforce(logits, actions, rewards, baseline, score="", weight="", mean="", sign=""):
    """The REINFORCE gradient, with the mistakes named in `_REINFORCE_MISTAKES` on request."""
    probs = logits.softmax(0)
    chosen = torch.eye(len(logits))[actions]  # (n, V)
    scores = {
        "one-hot": chosen,
        "sampled": chosen * (1 - probs),
        "prob": probs[actions][:, None] * (chosen - probs),
    }.get(score, chosen - probs)
    weights = {
        "none": rewards,
        "added": rewards + baseline,
        "mean": rewards - rewards.mean(),
    }.get(weight, rewards - baseline)
    total = (weights[:, None] * scores).sum(0)
    total = total if mean == "sum" else total / len(rewards)
    return -total if sign == "flipped" else total


def reinforce_gradient(fn: Callable) -> None:
    """Check `fn(logits (V,), actions (n,), rewards (n,), baseline) -> gradient (V,)`; prints.

    The estimate of the gradient of the expected reward with respect to the logits, from n samples
    of softmax(logits): mean_i (rewards_i - baseline) * (one-hot(actions_i) - softmax(logits)).
    """

    def reference(logits, actions, rewards, baseline):
        leaf = logits.detach().requires_grad_()
        logprobs = leaf.log_softmax(0)[actions]
        return torch.autograd.grad(((rewards - baseline) * logprobs).mean(), leaf)[0]

    cases = [
        worked_case(
            logits=torch.zeros(4),
            actions=torch.tensor([0, 2]),
            rewards=torch.tensor([3.0, 1.0]),
            baseline=1.0,
        )
    ]
    generator = torch.Generator().manual_seed(0)
    for vocabulary, n, baseline in ((3, 5, 0.5), (6, 4, -1.0)):
        logits = torch.randn(vocabulary, generator=generator)
        actions = torch.randint(vocabulary, (n,), generator=generator)
        rewards = 2 * torch.randn(n, generator=generator)
        text = f"random samples ({n} samples, {vocabulary} tokens, baseline {baseline})"
        cases.append(Case((logits, actions, rewards, baseline), text))
    judge(
        fn,
        reference=reference,
        cases=cases,
        success=f"equal to the gradient by autograd on {len(cases)} batches.",
        **with_pairs(_reinforce, _REINFORCE_MISTAKES),
    )
