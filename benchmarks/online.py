"""PPO and GRPO: a whole rollout step of lessons 03 and 05, sampling included, against TRL's.

Ours is the lesson's own code: the cells that define its loop are executed as they stand.
"""

import ast
import contextlib
import copy
import io
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nbformat
import torch
from datasets import Dataset
from measuring import Measured, Point, Section, gaps
from supervised import Clock
from transformers import DataCollatorWithPadding, PrinterCallback
from trl import GRPOConfig, GRPOTrainer

from tasks.rewards import after_hashes, same_answer
from utils import profiles
from utils.values import completion_rewards

NOTEBOOKS = profiles.repo_root() / "notebooks"
# What is taken from each notebook: the cells that define one of these names, in their order.
LESSONS = {
    "ppo": (
        "03_ppo.ipynb",
        "profile config reward_model prompt_batches parts CUT_OFF Run Experience experience_of "
        "losses_of learn log_step ppo".split(),
    ),
    "grpo": (
        "05_grpo.ipynb",
        "profile config base score_all in_steps learn log_step grpo".split(),
    ),
}


def make(name: str, quick: bool) -> Section:
    """The section of one method: "ppo" or "grpo"."""
    file, wanted = LESSONS[name]
    lesson = run_cells(NOTEBOOKS / file, wanted)
    config = lesson["config"]
    if quick:
        config = replace(config, prompts=2, group_size=2, max_new_tokens=8)
    settings = {
        "data": "text-to-SQL prompts" if name == "ppo" else "word problems",
        "prompts": config.prompts,
        "group_size": config.group_size,
        "max_new_tokens": config.max_new_tokens,
        "optimizer_steps": config.minibatches * getattr(config, "epochs", 1),
        "dtype": "float32",
        "first_step": "warms up, not counted",
    }
    return Section(
        settings={"checkpoint": f"assets/tiny/{'sft' if name == 'ppo' else 'base'}"} | settings,
        variants={"ppo": ppo, "grpo": grpo}[name](lesson, config),
        points=[{"steps": 3 if quick else {"ppo": 10, "grpo": 9}[name]}],
        warm_up={"steps": 1},
        repeats=1 if quick else 2,
        memory_points=[{"steps": 1}],
    )


def defined_by(source: str) -> set[str]:
    """The names that a cell defines at its top level; cells with IPython's own syntax: none."""
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return set()
    found = set()
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Assign):
            found |= {n.id for t in node.targets for n in ast.walk(t) if isinstance(n, ast.Name)}
    return found


def lesson_cells(notebook: Path, wanted: list[str]) -> list[str]:
    """For each name the first code cell that defines it; ValueError if none does."""
    cells = [c.source for c in nbformat.read(notebook, as_version=4).cells if c.cell_type == "code"]
    defined = [defined_by(source) for source in cells]
    missing = [name for name in wanted if not any(name in names for names in defined)]
    if missing:
        raise ValueError(f"{notebook.name} no longer defines {', '.join(missing)}: see LESSONS")
    chosen = {next(i for i, names in enumerate(defined) if name in names) for name in wanted}
    return [cells[i] for i in sorted(chosen)]


def run_cells(notebook: Path, wanted: list[str]) -> dict:
    """Execute those cells; return what they define."""
    names: dict = {"__name__": "__bench__"}
    with contextlib.redirect_stdout(io.StringIO()):
        for source in lesson_cells(notebook, wanted):
            exec(compile(source, notebook.name, "exec"), names)  # noqa: S102
    return names


def clocked(lesson: dict) -> list[float]:
    """Times at which the lesson's loop ends a step: when it has written its log."""
    ends: list[float] = []
    log_step = lesson.setdefault("plain_log_step", lesson["log_step"])

    def noted(*args, **kwargs):
        log_step(*args, **kwargs)
        ends.append(time.perf_counter())

    lesson["log_step"] = noted
    return ends


def trl_options(lesson: dict, config, name: str) -> dict:
    """What both of TRL's configurations are told."""
    return {
        "output_dir": str(profiles.runs_folder(lesson["profile"]) / f"trl_{name}"),
        "per_device_train_batch_size": config.prompts * config.group_size // config.minibatches,
        "learning_rate": config.learning_rate,
        "max_grad_norm": config.max_grad_norm,
        "gradient_checkpointing": False,
        "bf16": False,
        "use_cpu": True,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "seed": 0,
    }


def train(trainer, every: int) -> list[float]:
    """Let TRL train, without its printing; the times at which each `every`-th step ended."""
    clock = Clock()
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(clock)
    with contextlib.redirect_stdout(io.StringIO()):
        trainer.train()
    return clock.ends[every - 1 :: every]


def ppo(lesson: dict, config) -> dict[str, Callable[[Point], Measured]]:
    """Policy, reference, reward model and value model, as in lesson 03."""
    from trl.experimental.ppo import PPOConfig, PPOTrainer  # TRL 1.13 and later have none

    start, scorer, tokenizer = lesson["sft_model"], lesson["reward_model"], lesson["tokenizer"]

    def batches(steps):
        return lesson["prompt_batches"](steps, 0, config)

    @torch.no_grad()
    def scores_of(r):
        return completion_rewards(scorer, *lesson["parts"](r))

    def ours(point: Point) -> Measured:
        ends = clocked(lesson)
        run = lesson["Run"](start, scorer, config)
        history = lesson["ppo"](run, batches(point["steps"]), lesson["chat_prompts"], scores_of)
        curves = {key: [entry[key] for entry in history] for key in ("reward", "kl")}
        return {"seconds": gaps(ends), "curves": curves}

    def theirs(point: Point) -> Measured:
        queries = [
            {"input_ids": ids}
            for examples in batches(point["steps"])
            for ids in lesson["chat_prompts"](examples)
            for _ in range(config.group_size)
        ]
        arguments = PPOConfig(
            **trl_options(lesson, config, "ppo"),
            total_episodes=len(queries),
            gradient_accumulation_steps=config.minibatches,
            num_mini_batches=config.minibatches,
            num_ppo_epochs=config.epochs,
            local_rollout_forward_batch_size=config.prompts * config.group_size,
            response_length=config.max_new_tokens,
            temperature=1.0,  # 0.7 by default
            stop_token="eos",
            missing_eos_penalty=1.0,
            lr_scheduler_type="constant",
            adam_beta2=0.95,
            kl_coef=config.kl_coef,
            gamma=config.gamma,
            lam=config.lam,
            cliprange=config.clip_eps,
            cliprange_value=config.value_clip,
            vf_coef=1.0,
            num_sample_generations=0,
        )
        trainer = PPOTrainer(
            args=arguments,
            processing_class=tokenizer,
            model=copy.deepcopy(start).requires_grad_(True),
            ref_model=start,
            reward_model=scorer,
            value_model=copy.deepcopy(scorer).requires_grad_(True),
            train_dataset=Dataset.from_list(queries),
            data_collator=DataCollatorWithPadding(tokenizer),
        )
        ends = train(trainer, every=1)
        log = [m for m in trainer.state.log_history if "objective/kl" in m]
        curves = {"reward": "objective/scores", "kl": "objective/kl"}
        return {
            "seconds": gaps(ends),
            "curves": {ours: [m[key] for m in log] for ours, key in curves.items()},
        }

    return {"ours": ours, "TRL": theirs}


def grpo(lesson: dict, config) -> dict[str, Callable[[Point], Measured]]:
    """Right or wrong as the only reward, as in lesson 05."""
    start = lesson["base"]

    def batches(steps):
        return lesson["prompt_batches"](replace(config, steps=steps), 0)

    def ours(point: Point) -> Measured:
        ends = clocked(lesson)
        data, encode = batches(point["steps"]), lesson["document_prompt"]
        _, watch = lesson["grpo"](start, data, encode, lesson["score_all"], "GRPO", config)
        curves = {key: [entry[key] for entry in watch.history] for key in ("reward", "length")}
        return {"seconds": gaps(ends), "curves": curves}

    def right_or_wrong(completions, answer, **_):  # the verdict of `tasks.math.score`
        pairs = zip(completions, answer, strict=True)
        return [float(same_answer(after_hashes(text), gold)) for text, gold in pairs]

    def theirs(point: Point) -> Measured:
        rows = [
            {"prompt": e.document(True)[0], "answer": e.answer}
            for examples in batches(point["steps"])
            for e in examples
        ]
        updates = point["steps"] * config.minibatches
        arguments = GRPOConfig(
            **trl_options(lesson, config, "grpo"),
            steps_per_generation=config.minibatches,
            num_generations=config.group_size,
            max_steps=updates,
            max_completion_length=config.max_new_tokens,
            temperature=config.temperature,
            loss_type=config.loss_type,
            scale_rewards=config.scale,
            beta=config.beta,
            epsilon=config.clip_eps,
            shuffle_dataset=False,
        )
        tokenizer = copy.deepcopy(lesson["tokenizer"])
        tokenizer.eos_token = "<|endoftext|>"  # documents, not chats
        model = copy.deepcopy(start).requires_grad_(True)
        optimizer = torch.optim.AdamW(model.parameters(), config.learning_rate, weight_decay=0.0)
        falling = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda i: 1 - i // config.minibatches / point["steps"]
        )
        trainer = GRPOTrainer(
            model,
            right_or_wrong,
            args=arguments,
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
            optimizers=(optimizer, falling),
        )
        ends = train(trainer, every=config.minibatches)
        log = [m for m in trainer.state.log_history if "reward" in m]  # one a rollout
        curves = {"reward": "reward", "length": "completions/mean_length"}
        return {
            "seconds": gaps(ends),
            "curves": {ours: [m[key] for m in log] for ours, key in curves.items()},
        }

    return {"ours": ours, "TRL": theirs}
