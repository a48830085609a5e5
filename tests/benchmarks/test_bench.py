"""The benchmark's own arithmetic, its file, its tables. Nothing here depends on how fast we are."""

import json
import subprocess
import sys

import bench
import growth
import measuring
import pytest
import report
import torch


def spread(median):
    return {"median": median, "q1": 0.9 * median, "q3": 1.1 * median, "n": 5}


def section(times, peaks=None, point=None, **more):
    """A section's result with these median seconds and peak megabytes."""
    curves = {"loss": [3.0, 1.0], "reward": [0.1, 0.3]}
    variants = {name: {"seconds": spread(t), "curves": curves} for name, t in times.items()}
    row = {"point": point or {"steps": 9}, "variants": variants}
    found = {
        "settings": {"batch": "16 rows", "prompts": 32, "group_size": 8},
        "date": "2026-11-21",
        "machine": {"processor": "a chip", "cores": 2, "threads": 2},
        "versions": {"torch": "2.13.0", "transformers": "5.17.0", "trl": "1.12.0"},
        "rows": [row],
        "memory": [{"point": row["point"], "peak_megabytes": peaks}] if peaks else [],
    }
    return found | more


# Measuring


def test_spread_is_median_and_quartiles():
    assert measuring.spread([4.0, 1.0, 3.0, 2.0, 100.0]) == {
        "median": 3.0,
        "q1": 2.0,
        "q3": 4.0,
        "n": 5,
    }
    assert measuring.spread([0.123456]) == {"median": 0.1235, "q1": 0.1235, "q3": 0.1235, "n": 1}
    with pytest.raises(ValueError, match="two steps"):
        measuring.spread([])


def test_the_first_step_is_not_counted():
    assert measuring.gaps([5.0, 7.0, 10.0]) == [2.0, 3.0]


def test_variants_take_turns_and_the_warm_up_is_not_measured():
    calls = []

    def variant(name):
        def run(point):
            calls.append((name, point["x"]))
            return {"seconds": [float(len(calls))], "curves": {"loss": [len(calls) + 0.12345678]}}

        return run

    rows = measuring.measure_times(
        measuring.Section(
            settings={},
            variants={"ours": variant("ours"), "TRL": variant("TRL")},
            points=[{"x": 1}, {"x": 2}],
            warm_up={"x": 0},
            repeats=2,
        )
    )
    turns = ["ours", "TRL"]
    assert calls == [(name, x) for x in (0, 1, 1, 2, 2) for name in turns]
    assert [row["point"] for row in rows] == [{"x": 1}, {"x": 2}]
    ours = rows[0]["variants"]["ours"]
    assert ours["seconds"] == {"median": 4.0, "q1": 3.5, "q3": 4.5, "n": 2}  # calls 3 and 5
    assert ours["curves"] == {"loss": [3.12346]}  # of the first repeat


linux_only = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells the peak")


@linux_only
def test_peak_counts_what_was_held_at_once_and_forgets_earlier_peaks():
    def hold(megabytes):
        return lambda: torch.ones(megabytes * 250_000).sum()

    assert 40e6 < measuring.peak_of(hold(50)) < 60e6
    assert measuring.peak_of(hold(5)) < 15e6  # not the 50 of before


@linux_only
def test_memory_is_measured_in_a_process_for_each_variant(tmp_path):
    child = tmp_path / "child.py"
    child.write_text(
        "import json, sys\n"
        "variant, file = sys.argv[-2:]\n"
        "if variant == 'broken': sys.exit('out of cheese')\n"
        "json.dump([len(variant)], open(file, 'w'))\n"
    )
    one = measuring.Section({}, {"ours": None, "theirs": None}, [], {}, memory_points=[{"x": 1}])
    assert measuring.measure_memory(one, [str(child)]) == [
        {"point": {"x": 1}, "peak_megabytes": {"ours": 4, "theirs": 6}}
    ]
    one.variants = {"broken": None}
    with pytest.raises(RuntimeError, match="'broken' not measured:\nout of cheese"):
        measuring.measure_memory(one, [str(child)])


def test_exponents_are_slopes_on_logarithms():
    assert growth.slope([1, 2, 4, 8], [3, 12, 48, 192]) == pytest.approx(2)
    points = [{"varies": "new_tokens", "new_tokens": t} for t in (1, 2, 4)]
    rows = [
        {"point": p, "variants": {"update": {"seconds": spread(5.0 * p["new_tokens"])}}}
        for p in points
    ]
    memory = [{"point": p, "peak_megabytes": {"update": p["new_tokens"] ** 1.5}} for p in points]
    assert growth.exponents(rows, memory)["exponents"] == {
        "update": {"seconds": {"new_tokens": 1.0}, "peak_megabytes": {"new_tokens": 1.5}}
    }
    memory[0]["peak_megabytes"]["update"] = 0.0  # too little to see: no line through it
    assert "peak_megabytes" not in growth.exponents(rows, memory)["exponents"]["update"]


# The code that is compared


def test_shared_prompt_and_full_sequences_do_the_same_work(make_model):
    import updates

    from utils.logprobs import completion_logprobs

    model = make_model(1024).double()
    batch = updates.random_batch(2, 3, 5, 7)
    ours = completion_logprobs(model, *batch)
    torch.testing.assert_close(ours, updates.full_logprobs(model, *batch), atol=1e-5, rtol=1e-5)
    assert (ours != 0).sum() == batch[-1].sum() > 6


def test_the_notebooks_still_define_what_is_timed():
    import online

    for name, (file, wanted) in online.LESSONS.items():
        cells = online.lesson_cells(online.NOTEBOOKS / file, wanted)
        source = "\n".join(cells)
        assert f"def {name}(" in source and "log_step(" in source
        assert not any("trainer.train()" in cell for cell in cells)
    with pytest.raises(ValueError, match="no longer defines teleport: see LESSONS"):
        online.lesson_cells(online.NOTEBOOKS / "03_ppo.ipynb", ["ppo", "teleport"])


def test_tokens_count_up_to_the_first_stop():
    import sampling

    assert sampling.up_to(0, [5, 6, 0, 0, 7]) == 3
    assert sampling.up_to(0, [5, 6]) == 2
    assert sampling.up_to(sampling.NO_STOP, [5, 0, 0]) == 3


# The file


def test_a_section_is_merged_and_the_others_stay(tmp_path, monkeypatch):
    path = tmp_path / "deep" / "bench.json"
    bench.merge(path, "grpo", {"a": 1})
    bench.merge(path, "sft", {"b": 2})
    bench.merge(path, "grpo", {"a": 3})
    assert json.loads(path.read_text()) == {"sft": {"b": 2}, "grpo": {"a": 3}}
    assert list(bench.load(path)) == ["sft", "grpo"]  # in the table's order
    before = path.read_text()
    with pytest.raises(TypeError):
        bench.merge(path, "dpo", {"c": object()})
    assert path.read_text() == before and [p.name for p in path.parent.iterdir()] == ["bench.json"]
    assert bench.load(tmp_path / "none.json") == {}


def test_an_unknown_section_is_refused(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["bench.py", "gpro"])
    with pytest.raises(SystemExit):
        bench.main()
    assert "no section gpro; there are: sft, rm, dpo, ppo, grpo" in capsys.readouterr().err


def test_another_release_of_trl_comes_before_the_pinned_one(tmp_path, monkeypatch):
    (tmp_path / "build" / "trl-9.9" / "trl").mkdir(parents=True)
    (tmp_path / "build" / "trl-9.9" / "trl" / "__init__.py").write_text("__version__ = '9.9'")
    monkeypatch.setattr(bench, "ROOT", tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("PYTHONPATH", "")
    bench.use_trl("9.9")  # is there already: nothing is installed
    found = [sys.executable, "-c", "import trl; print(trl.__version__)"]
    assert subprocess.run(found, capture_output=True, text=True).stdout == "9.9\n"
    assert sys.path[0] == str(tmp_path / "build" / "trl-9.9")


def test_ppo_cannot_be_measured_against_a_trl_without_ppo(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["bench.py", "ppo", "--trl", "1.16.0"])
    with pytest.raises(SystemExit):
        bench.main()
    assert "--trl is for sft, rm, dpo, grpo" in capsys.readouterr().err


# The tables


def test_overview_says_ratio_and_target():
    results = {
        "sft": section({"ours": 0.092, "TRL": 0.1}, {"ours": 50.0, "TRL": 40.0}),
        "grpo": section({"ours": 1.5, "TRL": 5.0}, {"ours": 30.0, "TRL": 60.0}),
    }
    text = report.table(results)
    assert (
        "| SFT, a step of 16 rows | 92 ms [82.8, 101] | TRL: 100 ms [90, 110] | 0.92 (missed: 0.9) "
        "| 50 / 40 MB: 1.25 (missed: 1) |" in text
    )
    assert (
        "| GRPO, a rollout of 32 x 8 and its updates | 1.5 s [1.35, 1.65] | TRL: 5 s [4.5, 5.5] "
        "| 0.30 (met: 0.3) | 30 / 60 MB: 0.50 (met: 1) |" in text
    )
    assert "- sft, grpo: 2026-11-21, a chip, 2 cores, 2 threads, torch 2.13.0" in text
    assert "Targets met in this table: 2 of 4. Missed: SFT, a step of 16 rows." in text
    assert "<details>" not in text
    assert "Against TRL" not in text
    newest = {"sft": section({"ours": 0.08, "TRL": 0.1})}
    newest["sft"]["versions"]["trl"] = "1.16.0"
    text = report.table(results, newest)
    assert "Against TRL 1.16.0" in text and "| 80 ms [72, 88] | TRL: 100 ms" in text


@pytest.mark.parametrize(
    ("curve", "level", "steps"),
    [
        ([3.0, 2.0, 1.0, 2.0, 1.0], 1.5, 2),
        ([3.0, 1.0, 3.0, 1.0, 1.0], 1.5, 4),  # one low value alone does not count
        ([0.1, 0.5, 0.7, 0.9], 0.6, 2),
        ([3.0, 2.0], 1.5, None),
    ],
)
def test_a_target_is_reached_by_the_mean_of_two_steps(curve, level, steps):
    assert report.steps_to(curve, level) == steps


def test_time_to_a_target_is_steps_times_median_time():
    found = section({"ours": 2.0, "TRL": 3.0})
    for name, curve in (("ours", [0.1, 0.6, 0.8]), ("TRL", [0.1, 0.2, 0.3])):
        found["rows"][0]["variants"][name]["curves"] = {"reward": curve}
    assert "| GRPO | reward 0.6 | 4 s, 2 steps | not reached |" in report.reached({"grpo": found})


def test_samplers_are_compared_by_tokens_a_second():
    point = {"prompts": 32, "group_size": 8, "prompt_tokens": 40, "new_tokens": 48, "stop": True}
    found = section({"ours": 1.0, "generate": 1.0}, point=point)
    for name, rate in (("ours", 3000.0), ("generate", 1000.0)):
        found["rows"][0]["variants"][name]["tokens_per_second"] = spread(rate)
    text = report.table({"sampling": found})
    assert "| 0.33 (met: 0.4) | not measured |" in text
    assert "| 32 | 8 | 40 | ends itself | 3,000 | 1,000 | 3.00 |" in text


def test_conclusions_name_where_the_sampler_gains_least_and_most():
    sizes = {"prompts": 32, "group_size": 8, "prompt_tokens": 40, "new_tokens": 48}
    found = section({"ours": 1.0, "generate": 1.0}, point=sizes | {"stop": True})
    slow = section({"ours": 1.0, "generate": 1.0}, point=sizes | {"stop": False})
    found["rows"] += slow["rows"]
    for row, rate in zip(found["rows"], (3000.0, 1500.0), strict=True):
        row["variants"]["ours"]["tokens_per_second"] = spread(rate)
        row["variants"]["generate"]["tokens_per_second"] = spread(1000.0)
    size = "32 x 8 completions, 40 prompt tokens"
    assert (
        f"between 1.50 times ({size}, none ends early) and 3.00 times ({size}) as many"
        in report.conclusions({"sampling": found})
    )


def test_shares_are_one_sentence():
    results = {
        "rm": section({"ours": 0.09, "TRL": 0.1}),
        "ppo": section({"ours": 1.0, "TRL": 4.0}),
    }
    assert report.shares(results) == (
        "Time of a step as a share of TRL's: reward model 0.90, PPO 0.25 "
        "(a chip, 2 cores, 2026-11-21)."
    )


def test_vocabulary_update_and_growth_have_their_rows():
    head = {"positions": 1024, "vocabulary": 151_936, "width": 256}
    chunked = section({"chunked": 3.0, "naive": 2.0}, {"chunked": 300.0, "naive": 2000.0}, head)
    point = {"prompts": 8, "group_size": 8, "prompt_tokens": 128, "new_tokens": 48}
    times, peaks = {"ours": 0.2, "full sequences": 0.4}, {"ours": 10.0, "full sequences": 40.0}
    grown = {"update": {"seconds": {"group_size": 0.9, "new_tokens": 1.1}}}
    text = report.table(
        {
            "update": section(times, peaks, point),
            "vocabulary": chunked,
            "growth": section({"update": 1.0}, exponents=grown),
        }
    )
    assert "| log-probs over 151,936 tokens, 1,024 positions | 3 s [2.7, 3.3] |" in text
    assert "| 1.50 | 300 / 2,000 MB: 0.15 (met: 0.5) |" in text
    assert (
        "| 8 | 8 | 128 | 48 | 200 ms [180, 220] | 400 ms [360, 440] | 0.50 | 10 / 40 MB |" in text
    )
    assert "| update, time | 0.90 | 1.10 |  |" in text


def test_a_table_of_nothing_is_refused():
    with pytest.raises(ValueError, match="make bench"):
        report.table({})
