"""The health checks on simulated runs, the stop before NaN, the saved log."""

import functools
import json
import math
import random

import pytest
import torch

from utils import monitor as checks
from utils.monitor import Finding, RLMonitor

check_finite = RLMonitor().check_finite

# --- simulated runs -------------------------------------------------------------------


def run(kind, steps, seed):
    """A healthy history: metric -> values. Every metric is noisy and moves as such runs do."""
    rng = random.Random(f"{kind}/{seed}")
    done = [1 - math.exp(-3 * (i + 1) / steps) for i in range(steps)]  # fast first, then slower

    def metric(start, end, sd, low=-math.inf, high=math.inf):
        return [min(max(start + (end - start) * x + rng.gauss(0, sd), low), high) for x in done]

    def share(start, end, sd):
        return metric(start, end, sd, 0, 1)

    def gradients(size):
        norms = [size * math.exp(rng.gauss(0, 0.35)) for _ in done]
        return [norm * (12 if rng.random() < 0.04 else 1) for norm in norms]  # single spikes

    if kind == "ppo_tiny":  # text-to-SQL and a reward model; numbers as measured on this task
        return {
            "reward": metric(0.0, 0.6, 0.1),
            "true_reward": share(0.62, 0.78, 0.05),
            "kl": metric(0.0, 3.0, 0.3),
            "entropy": metric(0.08, 0.045, 0.012, low=0.02),
            "grad_norm": gradients(0.25),
            "clip_fraction": share(0.02, 0.01, 0.004),
            "length": metric(20.5, 19, 0.7),
            "truncated": share(0.01, 0.0, 0.004),
            "value_explained_variance": [-4.6, -1.5, -0.8, *metric(0.2, 0.4, 0.05, high=1)[3:]],
        }
    if kind == "ppo_7b":  # a chat model
        return {
            "reward": metric(-0.4, 1.6, 0.15),
            "true_reward": share(0.55, 0.75, 0.03),
            "kl": metric(0.0, 25.0, 1.0),
            "entropy": metric(0.9, 0.3, 0.04),
            "grad_norm": gradients(2.0),
            "clip_fraction": share(0.12, 0.08, 0.02),
            "length": metric(240, 300, 12),
            "truncated": share(0.02, 0.06, 0.01),
            "value_explained_variance": metric(-0.4, 0.6, 0.12, high=1),
        }
    if kind == "grpo_tiny":  # word problems whose answers grow because reasoning pays
        return {
            "reward": share(0.25, 0.87, 0.04),
            "true_reward": share(0.25, 0.87, 0.03),
            "kl": metric(0.0, 9.0, 0.4),
            "entropy": metric(0.5, 0.12, 0.02),
            "grad_norm": [0.0 if rng.random() < 0.05 else g for g in gradients(0.4)],
            "clip_fraction": share(0.01, 0.03, 0.005),
            "length": metric(5, 28, 0.7),
            "truncated": share(0.0, 0.02, 0.01),
            "zero_spread": share(0.4, 0.68, 0.05),
        }
    assert kind == "grpo_7b"  # math with long answers, no KL term, evaluated every tenth step
    history = {
        "reward": metric(0.35, 0.6, 0.05),
        "true_reward": share(0.33, 0.58, 0.015),
        "kl": metric(0.0, 60.0, 3.0),
        "entropy": metric(0.6, 0.25, 0.03),
        "grad_norm": gradients(0.2),
        "clip_fraction": share(0.001, 0.003, 0.0005),
        "length": metric(600, 950, 25),
        "truncated": share(0.06, 0.11, 0.015),
        "zero_spread": share(0.3, 0.5, 0.05),
    }
    evaluated = enumerate(history["true_reward"])
    return history | {"true_reward": [x if i % 10 == 0 else None for i, x in evaluated]}


def logged(history, **thresholds):
    """A monitor that has seen a simulated history."""
    monitor = RLMonitor(**thresholds)
    for step in zip(*history.values(), strict=True):
        monitor.log(**dict(zip(history, step, strict=True)))
    return monitor


def names(history, **thresholds):
    return [finding.name for finding in logged(history, **thresholds).findings()]


KINDS = ("ppo_tiny", "ppo_7b", "grpo_tiny", "grpo_7b")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("steps", [20, 60, 200])
def test_healthy_runs_have_no_finding(kind, steps):
    for seed in range(8):
        assert names(run(kind, steps, seed)) == [], seed


def positive(values):
    return [max(value, 0.0005) for value in values]


def sick_run(name, kind, steps, seed):
    """A healthy run with the metrics replaced that show what is wrong; nothing else is implied."""
    history = run(kind, steps, seed)
    length = sum(history["length"][-5:]) / 5
    rng = random.Random(f"{name}/{kind}/{seed}")

    def way(start, end, sd, begin=0.3, span=0.3):
        """Noise around `start`, then a straight way to `end` over a part of the run, then there."""
        done = [min(max((i / steps - begin) / span, 0), 1) for i in range(steps)]
        return [start + (end - start) * x + rng.gauss(0, sd) for x in done]

    shows = {
        "reward_hacking": lambda: {"true_reward": way(0.68, 0.5, 0.04)},
        "kl_explosion": lambda: {"kl": way(0.02 * length, 2.0 * length, 0.02 * length)},
        "kl_negative": lambda: {"kl": way(0.0, -1.5, 0.1)},
        "entropy_collapse": lambda: {"entropy": positive(way(0.1, 0.003, 0.002, 0, 4 / steps))},
        "gradient_explosion": lambda: {"grad_norm": positive(way(1.0, 40.0, 0.2))},
        "clip_fraction_high": lambda: {"clip_fraction": way(0.15, 0.45, 0.02)},
        "truncation": lambda: {"truncated": positive(way(0.02, 0.4, 0.005))},
        "zero_spread": lambda: {"zero_spread": way(0.5, 0.92, 0.02)},
        "length_drift": lambda: {
            "length": way(length, 3 * length, 0.02 * length),
            "true_reward": way(0.55, 0.55, 0.03),
        },
        "reward_flat": lambda: {
            "reward": way(0.4, 0.4, 0.1),
            "true_reward": way(0.55, 0.55, 0.03),
            "length": way(length, length, 0.02 * length),
        },
        "value_not_learning": lambda: {"value_explained_variance": way(0.0, 0.0, 0.1)},
    }
    return history | shows[name]()


# Over more seeds: 1 false alarm in 1,920 healthy runs, and 98% or more of the sick ones are found,
# except "reward_hacking" in short runs (24 steps: 70% to 90%).
CASES = [
    (name, kind, steps)
    for name in checks.CHECKS
    for kind in KINDS
    for steps in (20, 60, 200)
    if name != "nan"
    and not (name == "zero_spread" and "ppo" in kind)  # PPO has no groups
    and not (name == "value_not_learning" and "grpo" in kind)  # GRPO has no value model
    # Where the true reward falls, its answers that grow from 5 to 28 tokens are a finding too.
    and not (name == "reward_hacking" and kind == "grpo_tiny")
    and not (name in ("reward_flat", "value_not_learning", "reward_hacking") and steps == 20)
]


@pytest.mark.parametrize(("name", "kind", "steps"), CASES)
def test_each_sick_run_has_exactly_its_finding(name, kind, steps):
    for seed in range(4):
        assert names(sick_run(name, kind, steps, seed)) == [name], seed


def test_every_check_has_a_sick_run_and_advice():
    tables = checks.CHECKS, checks.ADVICE
    assert all(set(table) == {name for name, _, _ in CASES} | {"nan"} for table in tables)


def test_the_step_is_where_it_first_shows():
    """A jump at step 40 fills half of a window of five at step 42 or 43."""
    for name, metric, before, after in [
        ("kl_explosion", "kl", 1.0, 40.0),
        ("entropy_collapse", "entropy", 0.3, 0.001),
        ("clip_fraction_high", "clip_fraction", 0.1, 0.6),
        ("truncation", "truncated", 0.0, 0.5),
        ("zero_spread", "zero_spread", 0.5, 1.0),
        ("gradient_explosion", "grad_norm", 1.0, 30.0),
        ("reward_hacking", "true_reward", 0.7, 0.3),
    ]:
        history = {"length": [20.0] * 80, "reward": list(range(80))}
        history[metric] = [before] * 40 + [after] * 40
        (finding,) = logged(history).findings()
        assert finding.name == name
        assert 40 <= finding.step <= (54 if name == "reward_hacking" else 44), finding
        assert finding == Finding(name, finding.step, finding.evidence)


def test_the_earliest_finding_comes_first():
    history = {
        "kl": [1.0] * 30 + [99.0] * 30,
        "entropy": [0.3] * 20 + [0.001] * 40,
        "clip_fraction": [0.1] * 40 + [0.6] * 20,
        "length": [20.0] * 60,
    }
    assert names(history) == ["entropy_collapse", "kl_explosion", "clip_fraction_high"]


def test_what_a_run_has_recovered_from_is_no_finding_but_an_explosion_is():
    calm, wild = [1.0] * 20, [50.0] * 10
    assert names({"kl": calm + wild + calm, "length": [20.0] * 50}) == []
    assert names({"kl": calm + wild, "length": [20.0] * 30}) == ["kl_explosion"]
    assert names({"grad_norm": calm + wild + [0.01] * 20}) == ["gradient_explosion"]
    assert names({"grad_norm": calm + wild[:3] + calm}) == [], "three spikes in a row"


# --- what separates the healthy from the sick -----------------------------------------


def test_a_policy_that_becomes_surer_has_not_collapsed():
    def falls(end, true_end=None, start=0.25):
        entropy = [start] * 5 + [end] * 20
        true = {"true_reward": [0.5] * 5 + [true_end] * 20} if true_end else {}
        return names({"entropy": entropy} | true)

    assert falls(0.08) == falls(0.03) == []
    assert falls(0.01) == falls(0.0) == ["entropy_collapse"]
    assert falls(0.01, true_end=0.8) == ["entropy_collapse"]
    assert falls(0.01, true_end=0.97) == [], "a solved task leaves nothing to explore"
    assert falls(0.01, true_end=3.0) == ["entropy_collapse"], "a score of 3 is no accuracy"
    assert falls(0.018, start=0.1) == [], "it began sure of itself"
    assert falls(0.3, start=3.0) == [], "a large fall, far from certain"
    assert names({"entropy": [0.25, 0.05] + [0.003] * 20}) == ["entropy_collapse"], "at once"


def test_equal_groups_are_right_in_a_solved_task():
    zero = {"zero_spread": [0.5] * 10 + [0.95] * 10}
    assert names(zero | {"true_reward": [0.6] * 20}) == ["zero_spread"]
    assert names(zero | {"true_reward": [0.6] * 10 + [0.98] * 10}) == []


def test_growing_answers_are_right_when_the_true_reward_rises_with_them():
    grows = {"length": [10.0] * 10 + [40.0] * 20}
    up, flat = [0.3] * 10 + [0.8] * 20, [0.5, 0.51] * 15
    assert names(grows) == ["length_drift"], "nothing known about the result"
    assert names(grows | {"reward": flat}) == ["length_drift"]
    assert names(grows | {"reward": up}) == []
    assert names(grows | {"reward": up, "true_reward": flat}) == ["length_drift"]
    assert names(grows | {"reward": flat, "true_reward": up}) == []
    assert names(grows | {"reward": up, "true_reward": [None] * 25 + flat[:5]}) == ["length_drift"]
    shrinks = {"length": [40.0] * 10 + [10.0] * 20}
    assert names(shrinks | {"reward": flat}) == ["length_drift"]
    assert names({"length": [10.0] * 10 + [19.0] * 10 + [6.0] * 10}) == []


def test_a_reward_model_that_pays_for_length():
    """Both findings are true: the drift is the way in which the reward is hacked."""
    history = run("ppo_tiny", 60, 0)
    history["length"] = [24.0 + i for i in range(60)]
    history["true_reward"] = [0.6 - 0.004 * i for i in range(60)]
    assert set(names(history)) == {"reward_hacking", "length_drift"}


def test_hacking_after_a_good_start():
    """Gao et al. (2022): the true reward rises first. It may still end above its start."""
    true = [0.5 + 0.01 * min(i, 30) - 0.008 * max(i - 30, 0) for i in range(60)]
    (finding,) = logged({"reward": list(range(60)), "true_reward": true}).findings()
    assert finding.name == "reward_hacking" and finding.step > 40 and true[-1] > true[0]
    assert "true reward fell from 0.778 to 0.604" in finding.evidence


@pytest.mark.parametrize(
    ("reward", "true", "why"),
    [
        (1.0, 0.0, "the true reward stays"),
        (0.0, -0.3, "the reward stays"),
        (-1.0, -0.3, "both fall: a broken run, not a hacked reward"),
        (1.0, -0.04, "less than a tenth of its best"),
        (-1.0, 0.3, "the reward falls and the true reward rises"),
    ],
)
def test_no_hacking(reward, true, why):
    rng = random.Random(0)
    history = {
        "reward": [reward * i / 40 + rng.gauss(0, 0.01) for i in range(40)],
        "true_reward": [0.6 + true * i / 40 + rng.gauss(0, 0.001) for i in range(40)],
    }
    assert names(history) == [], why


def test_a_fall_within_the_noise_is_no_hacking():
    """The same fall, from 0.62 to 0.52, with little noise and with much."""
    for noise, expected in ((0.02, ["reward_hacking"]), (0.15, [])):
        for seed in range(5):
            rng = random.Random(seed)
            true = [(0.62 if i < 15 else 0.52) + rng.gauss(0, noise) for i in range(30)]
            assert names({"reward": list(range(30)), "true_reward": true}) == expected


def test_a_true_reward_that_is_measured_now_and_then():
    true = [0.6 - 0.002 * i if i % 10 == 0 else None for i in range(100)]
    (finding,) = logged({"reward": list(range(100)), "true_reward": true}).findings()
    assert finding.name == "reward_hacking" and finding.step % 10 == 0


def test_the_kl_limit_follows_the_length():
    long, short = {"length": [600.0] * 20}, {"length": [20.0] * 20}
    kl = {"kl": [1.0] * 10 + [40.0] * 10}
    assert names(kl | long) == [] and names(kl | short) == ["kl_explosion"]
    assert names({"kl": [99.0] * 20}) == [], "not judged without lengths"


def test_truncation_at_a_level_and_as_a_rise():
    for start, end, expected in [
        (0.0, 0.08, []),
        (0.0, 0.15, ["truncation"]),
        (0.12, 0.2, []),
        (0.2, 0.26, ["truncation"]),
        (0.5, 0.2, []),  # it learns to stop
        (0.5, 0.5, ["truncation"]),
    ]:
        assert names({"truncated": [start] * 10 + [end] * 10}) == expected, (start, end)


def test_steps_without_a_gradient_do_not_set_the_start():
    assert names({"grad_norm": [0.0, 1.0] * 20}) == []
    assert names({"grad_norm": [0.0] * 40}) == []
    # Nor do they hide an explosion: two of five steps have none.
    exploding = [1.0] * 20 + [50.0, 0.0, 60.0, 0.0, 55.0] * 4
    assert names({"grad_norm": exploding}) == ["gradient_explosion"]


def test_the_value_model_gets_time():
    name = "value_explained_variance"
    assert names({name: [-1.0] * 29}) == []
    (finding,) = logged({name: [0.0] * 40}).findings()
    assert (finding.name, finding.step) == ("value_not_learning", 29)
    assert names({name: [-1.0] * 29 + [0.4] * 10}) == []
    assert names({name: [0.4] * 35 + [0.0] * 10}) == ["value_not_learning"]


def test_a_flat_reward_needs_time_and_something_left_to_learn():
    flat = [0.5, 0.6] * 30
    assert names({"reward": flat}) == ["reward_flat"] and names({"reward": flat[:48]}) == []
    assert names({"reward": flat, "true_reward": [0.97] * 60}) == []
    assert names({"reward": [0.0] * 3 + [1.0, 1.1] * 30}) == [], "it rose at once"
    assert names({"reward": [0.01 * i for i in range(60)]}) == [], "it rises slowly"
    assert names({"reward": [-0.01 * i for i in range(60)]}) == ["reward_flat"]


def test_limits_can_be_set(monkeypatch):
    history = {"clip_fraction": [0.2] * 20}
    assert names(history) == []
    lower = functools.partial(checks.outside, name="clip_fraction", high=0.1)
    monkeypatch.setitem(checks.CHECKS, "clip_fraction_high", lower)
    assert names(history) == ["clip_fraction_high"]
    assert names({"entropy": [0.25] * 5 + [0.03] * 9}) == []
    surer = {"entropy": [0.03] * 5 + [0.01] * 9}
    assert names(surer) == [] and names(surer, entropy_fraction=0.5) == ["entropy_collapse"]
    with pytest.raises(TypeError):
        RLMonitor(max_clip=0.1)


# --- short histories, the report, the log ---------------------------------------------


@pytest.mark.parametrize("steps", [0, 1, 9])
def test_a_short_history_gives_nothing_and_says_so(steps, capsys):
    monitor = RLMonitor()
    for _ in range(steps):
        monitor.log(kl=99.0, length=10.0, entropy=0.0, truncated=1.0, clip_fraction=1.0)
    monitor.report()
    text = capsys.readouterr().out
    assert monitor.findings() == []
    assert f"{steps} steps, no finding\n" in text
    few = (
        "reward, true_reward, kl, entropy, grad_norm, clip_fraction, length, truncated, zero_spread"
    )
    assert f"Not judged, fewer than 10 values: {few}" in text


def test_one_more_step_is_enough(capsys):
    history = {"kl": [99.0] * 10, "length": [10.0] * 10}
    assert names(history) == ["kl_explosion"]
    logged(history).report()
    assert "values: reward, true_reward, entropy, grad_norm" in capsys.readouterr().out


def test_the_report_prints_the_findings(capsys):
    monitor = logged(sick_run("kl_explosion", "ppo_tiny", 60, 0))
    monitor.report()
    text = capsys.readouterr().out
    (finding,) = monitor.findings()
    for part in ("60 steps, 1 finding\n", f"kl_explosion, from step {finding.step}: "):
        assert part in text
    for part in (finding.evidence, *checks.ADVICE["kl_explosion"]):
        assert part in text
    assert "fewer than 10 values: zero_spread\n" in text
    assert ", limit 0.5" in finding.evidence
    logged({"kl": [-1.0] * 20, "truncated": [0.9] * 20}).report()
    assert "20 steps, 2 findings\n" in capsys.readouterr().out


def test_log_keeps_what_it_is_given():
    monitor = RLMonitor()
    monitor.log(reward=torch.tensor(1.5), kl=2, true_reward=None, extra={"loss": 0.25})
    monitor.log()
    assert monitor.history == [{"reward": 1.5, "kl": 2.0, "loss": 0.25}, {}]
    assert type(monitor.history[0]["reward"]) is float


def test_log_refuses_unknown_names():
    monitor = RLMonitor()
    with pytest.raises(TypeError, match="true_rewrad.*true_reward"):
        monitor.log(reward=1.0, true_rewrad=0.5)
    assert monitor.history == [], "what is refused leaves no trace"


def test_the_state_survives_json_and_the_run_goes_on():
    """A checkpoint of step 30: the resumed log ends as the uninterrupted one."""
    whole = sick_run("kl_explosion", "ppo_tiny", 60, 0)
    rows = [dict(zip(whole, step, strict=True)) for step in zip(*whole.values(), strict=True)]
    first = RLMonitor()
    for row in rows[:30]:
        first.log(**row)
    with pytest.raises(FloatingPointError):
        first.check_finite(math.nan)
    saved = json.dumps(first.state_dict())
    for row in rows[30:35]:
        first.log(**row)  # lost with the weights of these steps
    second = RLMonitor()
    second.load_state_dict(json.loads(saved))
    for row in rows[30:]:
        second.log(**row)
    assert second.history == logged(whole).history
    assert sorted(finding.name for finding in second.findings()) == ["kl_explosion", "nan"]


def test_the_state_is_a_copy():
    monitor = RLMonitor()
    monitor.log(kl=1.0)
    state = monitor.state_dict()
    other = RLMonitor()
    other.load_state_dict(state)
    monitor.log(kl=2.0)
    monitor.history[0]["kl"] = 7.0
    other.log(kl=3.0)
    assert state["history"] == [{"kl": 1.0}] and other.history == [{"kl": 1.0}, {"kl": 3.0}]
    with pytest.raises(KeyError, match="history"):
        other.load_state_dict({"steps": []})


# --- what is not finite ---------------------------------------------------------------


def test_a_logged_nan_is_a_finding_even_in_a_short_history():
    monitor = RLMonitor()
    monitor.log(reward=1.0, extra={"loss": 0.5})
    monitor.log(reward=math.nan, extra={"loss": math.inf})
    monitor.log(reward=math.nan)
    (finding,) = monitor.findings()
    assert (finding.name, finding.step) == ("nan", 1)
    assert "reward is nan" in finding.evidence and "loss is inf" in finding.evidence


def test_nan_does_not_hide_what_else_is_wrong():
    history = {"kl": [1.0] * 20 + [math.nan] + [99.0] * 20, "length": [20.0] * 41}
    assert names(history) == ["nan", "kl_explosion"]


def little_model():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1))


def test_finite_training_passes():
    model = little_model()
    loss = model(torch.randn(5, 3)).square().mean()
    loss.backward()
    check_finite(loss, model)
    check_finite(1.0)


def test_nan_never_reaches_the_weights():
    """A mean over an empty mask: 0 / 0."""
    model, monitor = little_model(), RLMonitor()
    before = [p.detach().clone() for p in model.parameters()]
    optimizer = torch.optim.Adam(model.parameters())
    mask = torch.zeros(5, 1)
    monitor.log(reward=0.0)
    with pytest.raises(FloatingPointError, match="loss, gradient of 0.weight"):
        loss = (model(torch.randn(5, 3)) * mask).sum() / mask.sum()
        loss.backward()
        monitor.check_finite(loss, model)
        optimizer.step()
    after = list(model.parameters())
    assert all(torch.equal(a, b) for a, b in zip(after, before, strict=True))
    (finding,) = monitor.findings()
    assert (finding.name, finding.step) == ("nan", 1) and "0.weight" in finding.evidence


def test_the_culprit_is_named():
    model = little_model()
    model(torch.ones(1, 3)).sum().backward()
    model[2].weight.grad[0, :2] = torch.tensor([math.nan, -math.inf])
    with pytest.raises(FloatingPointError, match=r"^gradient of 2.weight not finite \(1 in all\)"):
        check_finite(0.0, model)
    model.zero_grad(set_to_none=False)
    model[0].bias.data[1] = math.nan
    with pytest.raises(FloatingPointError, match="weight 0.bias"):
        check_finite(0.0, model)
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, math.inf)
    with pytest.raises(FloatingPointError, match=r"0.weight, .*5 in all"):
        check_finite(0.0, model)


def test_half_precision_overflow_is_caught():
    score = torch.tensor([300.0], dtype=torch.float16)
    with pytest.raises(FloatingPointError, match="^loss not finite"):
        check_finite((score * score).sum())


def test_frozen_layers_have_no_gradient_to_check():
    frozen = little_model()
    for parameter in frozen[0].parameters():
        parameter.requires_grad_(False)
    frozen(torch.ones(1, 3)).sum().backward()
    check_finite(1.0, frozen)


def test_an_earlier_nan_wins():
    monitor = RLMonitor()
    monitor.log(reward=math.nan)
    with pytest.raises(FloatingPointError):
        monitor.check_finite(math.inf)
    (finding,) = monitor.findings()
    assert finding.step == 0 and finding.evidence == "reward is nan"


# --- the statistics -------------------------------------------------------------------


def test_noise_ignores_trends_and_outliers():
    rng = random.Random(0)
    values = [0.5 * i + rng.gauss(0, 3.0) for i in range(4000)]
    values[::100] = [1e6] * 40
    assert checks.noise(values) == pytest.approx(3.0, rel=0.1)


def test_rolling_means_and_series():
    assert checks.rolling([1.0, 2.0, 6.0], 2) == [1.5, 4.0]
    history = [{"a": 1.0, "b": 2.0}, {"a": 3.0}, {"a": math.nan, "b": 4.0}, {"a": 5.0, "b": 6.0}]
    run = RLMonitor(history=history)
    assert checks.series(run, "a") == [[0, 1, 3], [1.0, 3.0, 5.0]]
    assert checks.series(run, "a", "b") == [[0, 3], [1.0, 5.0], [2.0, 6.0]]
    with pytest.raises(checks.NotJudgedError, match="a and b: 2 values, needs 3"):
        checks.series(run, "a", "b", need=3)


def test_rises_need_to_exceed_the_noise():
    """Of 400 runs without a trend few rise; with 2.5 standard deviations of one step nearly all."""
    for rise, low, high in ((0.0, 0, 0.05), (2.5, 0.98, 1)):
        risen = 0
        for seed in range(400):
            rng = random.Random(seed)
            values = [rise * min(i / 30, 1) + rng.gauss(0, 1) for i in range(90)]
            risen += checks.has_risen(values)
        assert low <= risen / 400 <= high, rise
