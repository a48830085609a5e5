import math
import statistics

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from relatives.advantages import reinforce_pp_advantages, rloo_advantages
from utils.advantages import group_advantages

torch.set_num_threads(1)
SCALES = ["group", "batch", "none"]


@st.composite
def grouped(draw, least=1):
    """Rewards in groups, as lists; many of them equal, as those of rules are."""
    prompts, size = draw(st.integers(least, 4)), draw(st.integers(2, 5))
    reward = st.one_of(st.sampled_from([0.0, 1.0, 0.1]), st.floats(-100, 100))
    return draw(
        st.lists(st.lists(reward, min_size=size, max_size=size), min_size=prompts, max_size=prompts)
    )


def flat(groups):
    return torch.tensor([r for group in groups for r in group], dtype=torch.float64)


def slow_group_advantages(groups, scale):
    """The specification: one completion at a time."""
    everything = [r for group in groups for r in group]
    advantages = []
    for group in groups:
        mean, std = statistics.mean(group), statistics.stdev(group)
        if scale == "batch":
            std = statistics.stdev(everything)
        advantages += [(r - mean) / (1 if scale == "none" else std + 1e-4) for r in group]
    return advantages


def close(got, expected):
    expected = torch.as_tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(got, expected, atol=1e-9, rtol=1e-9)


@pytest.mark.truth("group_advantages", "loop")
@settings(deadline=None)
@given(grouped(), st.sampled_from(SCALES))
def test_against_a_loop(groups, scale):
    got = group_advantages(flat(groups), len(groups[0]), scale)
    close(got, slow_group_advantages(groups, scale))


def test_a_case_small_enough_for_paper():
    # Two prompts, two completions each: means 2 and 5, sample stds sqrt(2) and 0.
    rewards = torch.tensor([1.0, 3.0, 5.0, 5.0], dtype=torch.float64)
    one = 1 / (math.sqrt(2) + 1e-4)
    close(group_advantages(rewards, 2), [-one, one, 0, 0])
    one = 1 / (math.sqrt((2.5**2 + 0.5**2 + 1.5**2 + 1.5**2) / 3) + 1e-4)  # the batch's mean is 3.5
    close(group_advantages(rewards, 2, "batch"), [-one, one, 0, 0])
    close(group_advantages(rewards, 2, "none"), [-1, 1, 0, 0])
    close(rloo_advantages(rewards, 2), [-2, 2, 0, 0])
    close(reinforce_pp_advantages(rewards), [-2.5 * one, -0.5 * one, 1.5 * one, 1.5 * one])


@settings(deadline=None)
@given(grouped(least=2), st.sampled_from(SCALES))
def test_every_group_sums_to_zero(groups, scale):
    got = group_advantages(flat(groups), len(groups[0]), scale)
    assert got.view(len(groups), -1).sum(1).tolist() == pytest.approx([0] * len(groups), abs=1e-8)


@settings(deadline=None)
@given(grouped(least=2), st.sampled_from(["group", "none"]), st.floats(-50, 50))
def test_a_prompt_knows_nothing_of_the_others(groups, scale, shift):
    size = len(groups[0])
    whole = group_advantages(flat(groups), size, scale)
    alone = torch.cat([group_advantages(flat([g]), size, scale) for g in groups])
    close(whole, alone)
    # An easier prompt, with the same differences, gives the same advantages.
    spread = max(groups[0]) - min(groups[0])
    assume(spread == 0 or spread > 1e-3)  # below, adding the shift rounds the differences away
    shifted = [[r + shift for r in groups[0]], *groups[1:]]
    torch.testing.assert_close(
        group_advantages(flat(shifted), size, scale), whole, atol=1e-6, rtol=1e-6
    )


@pytest.mark.parametrize("reward", [0.1, 0.7, 1 / 3, 1e6 + 0.1, -0.3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_equal_rewards_give_exactly_zero(reward, dtype):
    rewards = torch.full((14,), reward, dtype=dtype)
    for scale in SCALES:
        assert group_advantages(rewards, 7, scale).tolist() == [0.0] * 14
    assert rloo_advantages(rewards, 7).tolist() == [0.0] * 14
    assert reinforce_pp_advantages(rewards).tolist() == [0.0] * 14


def test_an_equal_group_beside_an_unequal_one():
    rewards = torch.tensor([0.1] * 3 + [0.0, 0.0, 1.0])
    for scale in SCALES:
        got = group_advantages(rewards, 3, scale)
        assert got[:3].tolist() == [0.0] * 3 and got[5] > 0


@pytest.mark.truth("rloo_advantages", "loop")
@settings(deadline=None)
@given(grouped())
def test_rloo_against_a_loop(groups):
    expected = [
        reward - statistics.mean(group[:i] + group[i + 1 :])
        for group in groups
        for i, reward in enumerate(group)
    ]
    close(rloo_advantages(flat(groups), len(groups[0])), expected)


@pytest.mark.truth("reinforce_pp_advantages", "loop")
@settings(deadline=None)
@given(st.lists(st.floats(-100, 100), min_size=2, max_size=9))
def test_reinforce_pp_against_a_loop(rewards):
    mean, std = statistics.mean(rewards), statistics.stdev(rewards)
    got = reinforce_pp_advantages(torch.tensor(rewards, dtype=torch.float64))
    close(got, [(r - mean) / (std + 1e-4) for r in rewards])


def test_reinforce_pp_forgets_how_hard_a_prompt_is():
    # An easy prompt and a hard one: the better answer to the hard one still counts as bad.
    rewards = torch.tensor([0.8, 1.0, 0.0, 0.2])
    assert reinforce_pp_advantages(rewards).sign().tolist() == [1, 1, -1, -1]
    assert group_advantages(rewards, 2).sign().tolist() == [-1, 1, -1, 1]


ALL = [
    lambda rewards: group_advantages(rewards, 2),
    lambda rewards: rloo_advantages(rewards, 2),
    reinforce_pp_advantages,
]


@pytest.mark.parametrize("fn", ALL)
class TestAll:
    @pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.bfloat16, torch.float32])
    def test_rewards_of_other_dtypes_give_float32(self, fn, dtype):
        got = fn(torch.tensor([0, 1, 1, 1]).to(dtype))
        assert got.dtype == torch.float32
        assert got.equal(fn(torch.tensor([0.0, 1.0, 1.0, 1.0])))

    def test_no_gradient_flows_and_nothing_is_overwritten(self, fn):
        rewards = torch.tensor([0.0, 1.0, 2.0, 4.0], requires_grad=True)
        assert not fn(rewards).requires_grad
        assert rewards.tolist() == [0.0, 1.0, 2.0, 4.0]

    @pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
    def test_rewards_that_are_no_numbers_are_refused(self, fn, bad):
        with pytest.raises(ValueError, match="1 rewards are NaN or infinite"):
            fn(torch.tensor([0.0, bad, 1.0, 1.0]))

    @pytest.mark.usefixtures("unchecked")
    @pytest.mark.parametrize("shape", [(), (1,), (0,), (2, 2)])
    def test_other_shapes_are_refused(self, fn, shape):
        with pytest.raises(ValueError, match=r"rewards \(.*\): need one a completion, \(B,\), and"):
            fn(torch.zeros(shape))


@pytest.mark.parametrize("fn", [group_advantages, rloo_advantages])
@pytest.mark.parametrize("size", [1, 0, -2, 4, 12])
def test_other_group_sizes_are_refused(fn, size):
    with pytest.raises(ValueError, match=f"6 rewards in groups of {size}: need 2 or more"):
        fn(torch.zeros(6), size)


def test_another_scale_is_refused():
    with pytest.raises(ValueError, match="scale must be one of group, batch, none, not 'std'"):
        group_advantages(torch.zeros(2), 2, "std")


def test_reinforce_pp_with_baseline_divides_what_is_left_by_its_own_std():
    rewards = torch.tensor([0.8, 1.0, 0.0, 0.2], dtype=torch.float64)
    got = reinforce_pp_advantages(group_advantages(rewards, 2, "none"))
    one = 0.1 / (math.sqrt(4 * 0.01 / 3) + 1e-4)
    close(got, [-one, one, -one, one])
