"""Exercise of lesson 03: generalised advantage estimation."""

from collections.abc import Callable

import torch

from exercises.judge import Case, judge, ragged_mask, with_pairs, worked_case
from utils import advantages
from utils.logprobs import masked_whiten

_NO_BOOTSTRAP = (
    "Bootstraps past the end: the value after the last token is 0, whatever stands in the padding "
    "or at the start of the row."
)
_LEAK = (
    "Mask ignored: rewards or values at padding leak into the advantages of real tokens. Set both "
    "to 0 where the mask is 0 before you start."
)
_DELTA = "delta_t = reward_t + gamma * value_(t+1) - value_t."
_RECURSION = "advantage_t = delta_t + gamma * lam * advantage_(t+1)."
_RETURN = "return_t = advantage_t + value_t."
_CURRENT = f"Off by one in values: you subtract value_(t-1) and add value_t. {_DELTA}"
_NEXT = f"Off by one in values: you take value_(t-1) as the next value. {_DELTA}"
_WHITENED = "Advantages whitened: that is a step of its own, after GAE."
_GAE_MISTAKES = {
    "end": dict.fromkeys(["padding", "wraps", "repeats"], _NO_BOOTSTRAP),
    "leak": dict.fromkeys(["rewards", "values", "rewards and values"], _LEAK),
    "decay": {
        "swapped": f"lambda and gamma swapped: lam decays advantages only. {_DELTA}",
        "lam in delta": f"lam in delta: it decays advantages only. {_DELTA}",
        "no gamma in delta": f"gamma missing in delta. {_DELTA}",
        "no gamma in recursion": f"gamma missing in the recursion. {_RECURSION}",
        "no gamma": f"gamma missing in delta and in the recursion. {_DELTA} {_RECURSION}",
        "no lam": "lam missing: these are Monte-Carlo returns minus values, whatever lam is. "
        f"{_RECURSION}",
        "neither": f"gamma * lam missing in the recursion. {_RECURSION}",
    },
    "delta": {
        "same": f"Off by one in values: you take value_t as the next value. {_DELTA}",
        "current": _CURRENT,
        "current, wraps": _CURRENT,
        "next": _NEXT,
        "next, wraps": _NEXT,
        "ahead": "Off by one in values: you subtract value_(t+1) and add value_(t+2). " + _DELTA,
        "no next": f"Next value missing in delta. {_DELTA}",
        "no current": f"Value not subtracted in delta. {_DELTA}",
        "sign": f"Signs of the two values flipped in delta. {_DELTA}",
        "reward": f"Off by one in rewards: you take reward_(t+1). {_DELTA}",
    },
    "recursion": {
        "none": f"No recursion: you return delta, whatever lam is. {_RECURSION}",
        "forward": f"The recursion runs forward: start at the last token. {_RECURSION}",
        "delta": f"The recursion adds delta_(t+1) instead of advantage_(t+1). {_RECURSION}",
    },
    "returns": {
        "no values": f"Returns without the values. {_RETURN}",
        "rewards": f"Returns that are discounted sums of rewards, whatever lam is. {_RETURN}",
        "minus": f"Returns with the values subtracted. {_RETURN}",
        "next": f"Returns off by one: you add value_(t+1). {_RETURN}",
        "first": "Advantages and returns swapped: return (advantages, returns), in this order.",
    },
    "whitened": dict.fromkeys(["tokens", "all"], _WHITENED),
}
_GAE_STYLES = [{"masks": "inputs"}, {"masks": "deltas"}, {"masks": "inputs and deltas"}]


def _shifted(x: torch.Tensor, step: int, wraps: bool = False) -> torch.Tensor:
    """Column t of the result is column t + step of x; outside x 0, or x from its other end."""
    columns = torch.arange(x.shape[1]) + step
    inside = (columns >= 0) & (columns < x.shape[1])
    return torch.where(inside | wraps, x[:, columns % x.shape[1]], 0.0)


def _discounted(x: torch.Tensor, factor: float) -> torch.Tensor:
    """y_t = x_t + factor * y_(t+1), row by row."""
    y = x.clone()
    for t in reversed(range(x.shape[1] - 1)):
        y[:, t] += factor * y[:, t + 1]
    return y


def _gae(
    rewards,
    values,
    mask,
    gamma,
    lam,
    masks="inputs",
    end="",
    leak="",
    decay="",
    delta="",
    recursion="",
    returns="",
    whitened="",
):
    """GAE, with the mistakes named in `_GAE_MISTAKES` on request.

    `masks`: what is set to 0 at padding, "inputs" (rewards and values), "deltas" (each delta and
    next value) or both. All are right, but one mistake gives different numbers under them.
    """
    kept = mask.bool()
    masked = torch.where(kept, values, 0.0)
    if "inputs" in masks:
        values = values if "values" in leak else masked
        rewards = rewards if "rewards" in leak else torch.where(kept, rewards, 0.0)
    source = masked if masks == "deltas" and not end else values
    after = _shifted(source, 1, wraps=end == "wraps")
    if end == "repeats":
        after[:, -1] = source[:, -1]
    before = _shifted(values, -1, wraps="wraps" in delta)
    plus, minus = {
        "same": (values, values),
        "current": (values, before),
        "next": (before, values),
        "ahead": (_shifted(values, 2), after),
        "no next": (0 * values, values),
        "no current": (after, 0 * values),
    }.get(delta.partition(",")[0], (after, values))
    in_delta, in_recursion = {
        "swapped": (lam, gamma * lam),
        "lam in delta": (gamma * lam, gamma * lam),
        "no gamma in delta": (1.0, gamma * lam),
        "no gamma in recursion": (gamma, lam),
        "no gamma": (1.0, lam),
        "no lam": (gamma, gamma),
        "neither": (gamma, 1.0),
    }.get(decay, (gamma, gamma * lam))
    error = (in_delta * plus - minus) * (-1 if delta == "sign" else 1)
    error = error + (_shifted(rewards, 1) if delta == "reward" else rewards)
    if "deltas" in masks and not leak:
        error = torch.where(kept, error, 0.0)
    if recursion == "none":
        result = error
    elif recursion == "delta":
        result = error + in_recursion * _shifted(error, 1)
    elif recursion == "forward":
        result = _discounted(error.flip(1), in_recursion).flip(1)
    else:
        result = _discounted(error, in_recursion)
    if returns == "rewards":
        targets = _discounted(torch.where(kept, rewards, 0.0), gamma)
    else:
        add = {"no values": 0 * values, "minus": -values, "next": after}.get(returns, values)
        targets = result + add
    if whitened:
        over = mask if whitened == "tokens" else torch.ones_like(mask)
        result = masked_whiten(torch.where(kept, result, 0.0), over)
    return (targets, result) if returns == "first" else (result, targets)


def _padding_zeroed(fn: Callable) -> Callable:
    """`fn` with 0 in its results wherever the mask is 0: no later step reads what is there."""

    def zeroed(rewards, values, mask, gamma, lam, **mistakes):
        results = fn(rewards, values, mask, gamma, lam, **mistakes)
        if not isinstance(results, tuple):
            return results
        fits = [isinstance(x, torch.Tensor) and x.shape == values.shape for x in results]
        return tuple(
            torch.where(mask.bool(), x, 0.0) if f else x for x, f in zip(results, fits, strict=True)
        )

    return zeroed


def gae(fn: Callable) -> None:
    """Check `fn(rewards, values, mask, gamma, lam) -> (advantages, returns)`; prints.

    All (B, T), the mask 1.0 on completion tokens and 0.0 on the padding at the right. The value
    after the last token is 0. What `fn` returns at padding does not count. Gradients are not
    compared: rewards and values are constants here.
    """
    cases = [
        worked_case(
            rewards=torch.tensor([[1.0, 0.0, 2.0, 4.0]]),
            values=torch.tensor([[1.0, 3.0, 1.0, 8.0]]),
            mask=torch.tensor([[1.0, 1.0, 1.0, 0.0]]),
            gamma=0.5,
            lam=0.25,
        ),
        worked_case(
            rewards=torch.tensor([[0.0, 3.0, 2.0]]),
            values=torch.tensor([[2.0, 1.0, 4.0]]),
            mask=torch.ones(1, 3),
            gamma=0.25,
            lam=0.5,
        ),
    ]
    generator = torch.Generator().manual_seed(0)
    for lengths, gamma, lam in (((5, 1, 3), 0.9, 0.6), ((2, 7), 0.7, 0.95)):
        mask = ragged_mask(lengths).float()
        rewards, values = torch.randn((2, *mask.shape), generator=generator)
        text = f"a random batch (lengths {lengths}, gamma {gamma}, lam {lam})"
        cases.append(Case((rewards, values, mask, gamma, lam), text))
    judge(
        _padding_zeroed(fn),
        reference=_padding_zeroed(advantages.gae),
        cases=cases,
        success=f"advantages and returns equal utils.advantages.gae on {len(cases)} batches.",
        **with_pairs(_padding_zeroed(_gae), _GAE_MISTAKES, _GAE_STYLES),
    )
