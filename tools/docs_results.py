"""The results tables of README and docs, from `benchmarks/results` and the lessons' settings.

A function each, which returns Markdown; `tools/docs_parts.py` gives them their names.
"""

import ast
import json
import re
from statistics import fmean
from typing import NamedTuple

from benchmarks import report
from scripts.run_notebooks import ROOT
from utils import results
from utils.evaluate import wilson_interval

RESULTS = ROOT / "benchmarks" / "results"


def load(name: str) -> dict:
    """A results file; ValueError says how to make one that is missing."""
    path = RESULTS / f"{name}.json"
    if not path.exists():
        raise ValueError(f"{path.name} is missing in benchmarks/results: measure it first")
    return json.loads(path.read_text(encoding="utf-8"))


def cells_of(notebook: str) -> list[dict]:
    """The cells of a committed notebook."""
    path = ROOT / "notebooks" / f"{notebook}.ipynb"
    return json.loads(path.read_text(encoding="utf-8"))["cells"]


def code_of(notebook: str) -> str:
    """All code of a notebook."""
    cells = (cell for cell in cells_of(notebook) if cell["cell_type"] == "code")
    return "\n\n".join("".join(cell["source"]) for cell in cells)


def settings(notebook: str) -> dict[str, float]:
    """The defaults of the notebook's `Config`: what the profile `tiny` runs with."""
    for cell in cells_of(notebook):
        source = "".join(cell["source"])
        if cell["cell_type"] == "code" and "class Config" in source:
            classes = (n for n in ast.parse(source).body if isinstance(n, ast.ClassDef))
            body = next(node for node in classes if node.name == "Config").body
            fields = (node for node in body if isinstance(node, ast.AnnAssign) and node.value)
            return {node.target.id: ast.literal_eval(node.value) for node in fields}
    raise ValueError(f"{notebook}: no cell defines `class Config`")


# One task, all methods

# Answers judged by execution and gold queries behind the shipped reward model, PPO's judge, as its
# card says: its recipe was longer than today's lesson 02.
SHIPPED_JUDGE = 5200, 2400


class Method(NamedTuple):
    """A row: where its numbers are, how they were measured, and what the method paid."""

    name: str
    file: str
    place: str  # in a run's summary
    questions: int  # held out
    answers: int  # a question, for the accuracy of sampled answers
    in_use: int = 1  # answers sampled for one that is given
    demonstrations: int = 0  # of the SFT before it or of its own
    by_execution: int = 0  # answers sampled for training and judged by execution
    by_model: int = 0  # answers sampled for training and judged by the reward model
    gold: int = 0  # questions whose gold query served as a judge

    def keys(self, kind: str) -> tuple[str, ...]:
        """Where a run's summary has the accuracy; greedy: nowhere, if several are sampled."""
        if self.in_use > 1:
            return {"sampled": (self.place,), "greedy": ()}[kind]
        return self.place, kind

    def each(self, kind: str) -> list[float]:
        """The accuracy of each seed; none for greedy answers where several are sampled."""
        keys = self.keys(kind)
        found = results.of_seeds(load(self.file)["runs"], *keys) if keys else []
        if keys and not found:
            raise ValueError(f"{self.file}.json holds no {', '.join(keys)}")
        return found

    def mean(self, kind: str) -> str:
        """Mean over the seeds with its 95% interval over the questions; empty without seeds."""
        return interval(self.each(kind), self.questions)


def interval(values: list[float], questions: int) -> str:
    """The mean of some seeds with Wilson's interval, as if each question were answered once.

    All seeds answer the same questions, and answers to one question go together: their number
    counts, not that of the answers. An interval from it is never too narrow for these questions.
    """
    if not values:
        return ""
    low, high = wilson_interval(fmean(values) * questions, questions)
    return f"{fmean(values):.3f} [{low:.3f}, {high:.3f}]"


def sql_rollouts() -> int:
    """The rollouts of lesson 05's run on text-to-SQL."""
    found = re.search(r"^sql_config = .*steps=min\((\d+), config.steps\)", code_of("05_grpo"), re.M)
    if not found:
        raise ValueError("05_grpo: no line sets the rollouts of the run on SQL (sql_config)")
    return int(found[1])


def methods() -> list[Method]:
    """The rows of the table, with the settings that the lessons ran with."""
    names = ("01_sft", "02_reward_model", "03_ppo", "04_dpo", "05_grpo")
    sft, rm, ppo, dpo, grpo = map(settings, names)
    rm_paid = {
        "demonstrations": sft["demonstrations"],
        "by_execution": rm["sampled_prompts"] * rm["samples"],
        "gold": rm["sampled_prompts"] + rm["other_prompts"],
    }
    judge_paid = rm_paid | {"by_execution": SHIPPED_JUDGE[0], "gold": SHIPPED_JUDGE[1]}
    grpo_prompts = sql_rollouts() * grpo["prompts"]
    sft_test = sft["eval_prompts"], sft["samples"]
    return [
        Method("base model, chat format", "01_sft", "base", *sft_test),
        Method("SFT", "01_sft", "SFT, full", *sft_test, demonstrations=sft["demonstrations"]),
        Method(
            "best of 8 by the reward model",
            "02_reward_model",
            "best of 8",
            rm["test_prompts"],
            rm["test_samples"] // 8,
            in_use=8,
            **rm_paid,
        ),
        Method(
            "PPO",
            "03_ppo",
            "PPO",
            ppo["eval_prompts"],
            ppo["samples"],
            by_model=ppo["steps"] * ppo["prompts"] * ppo["group_size"],
            **judge_paid,
        ),
        Method(
            "DPO, pairs of its own answers",
            "04_dpo_sweep",
            "DPO as in 4.6",
            dpo["test_prompts"],
            dpo["test_samples"],
            demonstrations=sft["demonstrations"],
            by_execution=dpo["prompts"] * dpo["samples"],
            gold=dpo["prompts"],
        ),
        Method(
            "GRPO, execution as the reward",
            "05_grpo_sweep",
            "GRPO on SQL as in 5.9",
            grpo["test_prompts"],
            grpo["test_samples"],
            demonstrations=sft["demonstrations"],
            by_execution=grpo_prompts * grpo["group_size"],
            gold=grpo_prompts,
        ),
    ]


def seeds_and_dates(files: set[str]) -> str:
    """The seeds and the dates of some results files, for a caption."""
    documents = [load(file) for file in sorted(files)]
    seeds = sorted({results.seeds(document["runs"]) for document in documents})
    dates = sorted({document["date"] for document in documents})
    return f"seeds {' / '.join(seeds)}; measured {' and '.join(dates)}"


def methods_short() -> str:
    """The README's table: mean accuracy, and the samples that each method paid for."""
    rows = []
    for m in methods():
        trained = m.by_execution + m.by_model
        rows.append([m.name, m.mean("sampled"), m.mean("greedy"), f"{trained:,}", str(m.in_use)])
    header = ["method", "sampled at temperature 1", "greedy"]
    header += ["answers sampled to train", "answers sampled in use"]
    sizes = sorted({m.questions for m in methods()}, reverse=True)
    measured = seeds_and_dates({m.file for m in methods()})
    caption = (
        "*Share of held-out text-to-SQL questions whose answer returns the right result. Mean of "
        f"{measured}; n = {sizes[0]} questions ({sizes[-1]} for best of 8), 95% interval over the "
        "questions. PPO's samples include those of its reward model.*"
    )
    return f"{report.markdown(header, rows)}\n\n{caption}"


def methods_seeds() -> str:
    """The full table of accuracies: every seed, n, date."""
    rows = []
    for m in methods():
        document = load(m.file)
        for kind, answers in (("sampled", m.answers), ("greedy", 1)):
            values = m.each(kind)
            if values:
                each = ", ".join(f"{value:.3f}" for value in values)
                n = f"{m.questions} x {answers}"
                seeds = results.seeds(document["runs"])
                rows.append([m.name, kind, each, m.mean(kind), n, seeds, document["date"]])
    header = [
        "method",
        "answers",
        "each seed",
        "mean [95%]",
        "questions x answers",
        "seeds",
        "date",
    ]
    return report.markdown(header, rows)


def methods_paid() -> str:
    """What each method paid, before and in use."""
    rows = []
    for m in methods():
        paid = (m.demonstrations, m.by_execution, m.by_model, m.gold, m.in_use)
        rows.append([m.name, *(f"{number:,}" for number in paid)])
    header = ["method", "demonstrations", "samples judged by execution"]
    header += ["samples judged by the reward model", "gold queries used to judge"]
    return report.markdown([*header, "answers sampled in use"], rows)


def methods_chain() -> str:
    """The same when each seed trains every stage anew: `make chain`; and what that adds."""
    rows, dates, false = [], set(), 0
    seeds = {run["seed"] for run in load("05_grpo_chain")["runs"]}  # its last stage
    for m in methods()[1:]:  # the base is the same in both
        lesson = m.file.removesuffix("_sweep")
        document = load(m.file if lesson == "01_sft" else f"{lesson}_chain")
        keys = m.keys("sampled")
        runs, shared = (
            [run for run in found["runs"] if run["seed"] in seeds]
            for found in (document, load(m.file))
        )
        own = keys if lesson == m.file else keys[1:]  # a variant of a sweep stands alone there
        values, shared = results.of_seeds(runs, *own), results.of_seeds(shared, *keys)
        each = ", ".join(f"{value:.3f}" for value in values)
        spreads = (f"{max(v) - min(v):.3f}" for v in (values, shared))
        rows.append([m.name, each, f"{fmean(values):.3f}", *spreads])
        dates.add(document["date"])
        false += sum(len(run.get("false", ())) for run in runs)
    header = ["method", "sampled, each seed", "mean", "largest minus smallest"]
    table = report.markdown([*header, "the same from the shipped stages"], rows)
    measured = f"Seeds {', '.join(map(str, sorted(seeds)))}; measured {' and '.join(sorted(dates))}"
    return (
        f"{table}\n\n*{measured}; questions and answers as above. Claims of lessons 01 to 03 that "
        f"these starts made false: {false}.*"
    )


def start() -> str:
    """Which model lessons 02 to 05 start from."""
    each = next(m for m in methods() if m.name == "SFT").each("sampled")
    rank = sorted(each, reverse=True).index(each[0]) + 1
    order = {1: "the best", len(each): "the worst"}.get(rank, "neither the best nor the worst")
    return (
        f"Lessons 02 to 05 start from the shipped SFT model: seed 0 of lesson 01, {each[0]:.3f} "
        f"when sampled, {order} of its {len(each)} seeds."
    )


# Other results


def word_problems() -> str:
    """GRPO on word problems, and the share of answers in steps."""
    config, document = settings("05_grpo"), load("05_grpo_sweep")
    rows = []
    for name, place in (("base model", "base"), ("GRPO, right or wrong", "GRPO as in 5.6")):
        cells = [
            interval(results.of_seeds(document["runs"], place, key), config["test_prompts"])
            for key in ("sampled", "greedy", "in_steps")
        ]
        rows.append([name, *cells])
    header = ["model", "accuracy, sampled", "greedy", "answers that work in steps, sampled"]
    caption = (
        f"*Mean of {seeds_and_dates({'05_grpo_sweep'})}; n = {config['test_prompts']} held-out "
        f"problems x {config['test_samples']} answers (greedy: one), 95% interval over the "
        "problems.*"
    )
    return f"{report.markdown(header, rows)}\n\n{caption}"


def lesson_06() -> str:
    """Lesson 06's stages: the form, then the reasoning."""
    config, document = settings("06_qwen3_4b_grpo"), load("06_qwen3_4b_grpo")
    rows = []
    for name in document["runs"][0]["summary"]:
        accuracy, form = (
            results.of_seeds(document["runs"], name, key) for key in ("accuracy", "form")
        )
        each = ", ".join(f"{value:.3f}" for value in accuracy)
        rows.append([name, each, interval(accuracy, config["test_problems"]), f"{fmean(form):.3f}"])
    header = ["stage", "accuracy, each seed", "mean [95%]", "share in the form"]
    caption = (
        f"*{seeds_and_dates({'06_qwen3_4b_grpo'}).capitalize()}; n = {config['test_problems']} "
        f"held-out problems x {config['test_samples']} answers, 95% interval over the problems.*"
    )
    return f"{report.markdown(header, rows)}\n\n{caption}"
