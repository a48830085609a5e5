"""Exercise of lesson 03: generalised advantage estimation."""

import torch
import torch.nn.functional as F

from exercises.calls import Case, ragged_mask, worked_case
from exercises.judge import Exercise
from utils import advantages


def my_gae(rewards, values, mask, gamma, lam):
    rewards, values = rewards * mask, values * mask
    next_values = F.pad(values[:, 1:], (0, 1))
    deltas = rewards + gamma * next_values - values
    result, after = torch.zeros_like(deltas), 0.0
    for t in reversed(range(deltas.shape[1])):
        after = deltas[:, t] + gamma * lam * after
        result[:, t] = after
    return result, result + values


# The same with the mask elsewhere: on deltas and next values, or on everything.
_LATE = """rewards, values = rewards * mask, values * mask -> pass ;
    (0, 1)) -> (0, 1)) * F.pad(mask[:, 1:], (0, 1)) ;
    = rewards + gamma * next_values - values -> = (rewards + gamma * next_values - values) * mask"""
_BOTH = _LATE.partition(";")[2]
_DELTA = "delta_t = reward_t + gamma * value_(t+1) - value_t."
_RECURSION = "advantage_t = delta_t + gamma * lam * advantage_(t+1)."
_RETURN = "return_t = advantage_t + value_t."
_MISTAKES = f"""
Bootstraps past the end: the value after the last token is 0, whatever stands in the padding or at
the start of the row.
    rewards, values = -> raw, rewards, values = values, ; F.pad(values[:, 1:] -> F.pad(raw[:, 1:]
    rewards, values = -> raw, rewards, values = values, ;
        F.pad(values[:, 1:], (0, 1)) -> torch.cat([raw[:, 1:], raw[:, -1:]], 1)
    F.pad(values[:, 1:], (0, 1)) -> torch.cat([values[:, 1:], values[:, -1:]], 1)
    F.pad(values[:, 1:], (0, 1)) -> values.roll(-1, 1)
    * F.pad(mask[:, 1:], (0, 1)) ->
    F.pad(values[:, 1:], (0, 1)) * F.pad(mask[:, 1:], (0, 1)) -> values.roll(-1, 1)
    F.pad(values[:, 1:], (0, 1)) * F.pad(mask[:, 1:], (0, 1)) ->
        torch.cat([values[:, 1:], values[:, -1:]], 1)
Mask ignored: rewards or values at padding leak into the advantages of real tokens. Set both to 0
where the mask is 0 before you start.
    = rewards * mask, values * mask -> = rewards, values | = rewards, values * mask
    = rewards * mask, values * mask -> = rewards * mask, values
    next_values - values) * mask -> next_values - values)
lambda and gamma swapped: lam decays advantages only. {_DELTA}
    gamma * next_values -> lam * next_values
lam in delta: it decays advantages only. {_DELTA}
    gamma * next_values -> gamma * lam * next_values
gamma missing in delta. {_DELTA}
    gamma * next_values -> next_values
gamma missing in the recursion. {_RECURSION}
    gamma * lam * after -> lam * after
gamma missing in delta and in the recursion. {_DELTA} {_RECURSION}
    gamma * next_values -> next_values ; gamma * lam * after -> lam * after
lam missing: these are Monte-Carlo returns minus values, whatever lam is. {_RECURSION}
    gamma * lam * after -> gamma * after
gamma * lam missing in the recursion. {_RECURSION}
    gamma * lam * after -> after
Off by one in values: you take value_t as the next value. {_DELTA}
    gamma * next_values -> gamma * values
Off by one in values: you subtract value_(t-1) and add value_t. {_DELTA}
    gamma * next_values - values -> gamma * values - F.pad(values[:, :-1], (1, 0))
    gamma * next_values - values -> gamma * values * mask - values.roll(1, 1)
Off by one in values: you take value_(t-1) as the next value. {_DELTA}
    gamma * next_values -> gamma * F.pad(values[:, :-1], (1, 0)) | gamma * values.roll(1, 1)
Off by one in values: you subtract value_(t+1) and add value_(t+2). {_DELTA}
    gamma * next_values - values -> gamma * F.pad(next_values[:, 1:], (0, 1)) - next_values
Next value missing in delta. {_DELTA}
    + gamma * next_values ->
Value not subtracted in delta. {_DELTA}
    next_values - values -> next_values
Signs of the two values flipped in delta. {_DELTA}
    + gamma * next_values - values -> - gamma * next_values + values
Off by one in rewards: you take reward_(t+1). {_DELTA}
    rewards + gamma -> F.pad(rewards[:, 1:], (0, 1)) + gamma
Rewards of row 0 used for every row: rewards[:, t] has one for each. {_DELTA}
    rewards + gamma -> rewards[:1] + gamma
Only row 0 is filled: rewards[:, t] has one for each row, and so has advantages[:, t].
    result[:, t] = after -> result[0, t] = after[0]
No recursion: you return delta, whatever lam is. {_RECURSION}
    deltas[:, t] + gamma * lam * after -> deltas[:, t]
The recursion runs forward: start at the last token. {_RECURSION}
    reversed(range(deltas.shape[1])) -> range(deltas.shape[1])
Last token left out: the loop starts at T - 1, where nothing follows. {_RECURSION}
    reversed(range(deltas.shape[1])) -> reversed(range(deltas.shape[1] - 1))
The recursion adds delta_(t+1) instead of advantage_(t+1). {_RECURSION}
    gamma * lam * after -> gamma * lam * F.pad(deltas, (0, 1))[:, t + 1]
Order of the tokens reversed: a list built from the last token to the first has to be turned around.
    return result, result + values -> return result.flip(1), result.flip(1) + values
    return result, result + values -> return result.flip(1), (result + values).flip(1)
Returns without the values. {_RETURN}
    result + values -> result
Returns that are discounted sums of rewards, whatever lam is. {_RETURN}
    result + values -> (rewards * mask) @ (gamma ** (torch.arange(mask.shape[1])[:, None]
        - torch.arange(mask.shape[1])).clamp(min=0)).tril()
Returns that are one-step (TD) targets, reward_t + gamma * value_(t+1), whatever lam is. {_RETURN}
    result + values -> rewards + gamma * next_values
Returns with the values subtracted. {_RETURN}
    result + values -> result - values
Returns off by one: you add value_(t+1). {_RETURN}
    result + values -> result + next_values
Advantages and returns swapped: return (advantages, returns), in this order.
    return result, result + values -> return result + values, result
Advantages whitened: that is a step of its own, after GAE.
    return result, -> return (result - result[mask > 0].mean()) / result[mask > 0].std(),
    return result, -> return (result - result.mean()) / result.std(),
    return result, -> result = (result - result.mean()) / result.std(); return result,
    return result, -> kept = result[mask > 0]; result = (result - kept.mean()) / kept.std();
        return result,
"""


def _cases():
    yield worked_case(
        rewards=[[1.0, 0.0, 2.0, 4.0], [0.0, 3.0, 0.0, 1.0]],
        values=[[1.0, 3.0, 1.0, 8.0], [2.0, 1.0, 4.0, 2.0]],
        mask=[[1.0, 1.0, 1.0, 0.0], [1.0, 1.0, 1.0, 1.0]],
        gamma=0.5,
        lam=0.25,
    )
    generator = torch.Generator().manual_seed(0)
    for lengths, gamma, lam in (((5, 1, 3), 0.9, 0.6), ((2, 7), 0.7, 0.95)):
        mask = ragged_mask(lengths)
        rewards, values = torch.randn((2, *mask.shape), generator=generator)
        text = f"a random batch (lengths {lengths}, gamma {gamma}, lam {lam})"
        yield Case((rewards, values, mask, gamma, lam), text)


gae = Exercise(
    reference=advantages.gae,
    answer=my_gae,
    styles=[_LATE, _BOTH],
    mistakes=_MISTAKES,
    cases=list(_cases()),
    success="advantages and returns equal utils.advantages.gae",
    padding="mask",
)
