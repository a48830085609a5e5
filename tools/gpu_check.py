"""Run the notebooks under the profile `small` on this machine's GPU, and measure it.

    python -m tools.gpu_check                             # or: make gpu-check
    python -m tools.gpu_check --smoke --notebooks 01 05   # CHECK_ARGS="--smoke ..." with make

Measured, with Qwen3-0.6B-Base: tokens per second and peak memory of sampling and of one GRPO step
(LoRA, gradient checkpointing), beside what `engines.memory` computes. Then the notebooks run,
and its row of the table in docs/where.md is printed. Everything goes to
benchmarks/results/gpu_check.json (with `--device cpu` to build/), whole or not at all. `--smoke`
needs no download: random weights of the same shape, made-up data, two steps a loop. It tests the
code and the speed, not the learning. Exit status 1 without a GPU, without weights, when memory
runs out, or when a notebook failed.
"""

import argparse
import contextlib
import datetime
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import nbformat
import torch
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerBase, Qwen3Config

import engines
from engines import memory, sizes
from scripts.run_notebooks import Progress, error_of, find_notebooks
from scripts.whole_file import write_whole
from tools import small_profile
from utils import models, profiles, rollout
from utils.advantages import group_advantages
from utils.logprobs import gather_logprobs
from utils.losses import grpo_loss

ROOT = Path(__file__).resolve().parents[1]
RESULTS = {"cuda": ROOT / "benchmarks/results", "cpu": ROOT / "build"}
SHAPES = {shape.name: shape for shape in (sizes.QWEN3_0_6B, sizes.QWEN3_4B)}
FIXED = ("logits_chunk", "rollout_batch", "optimizer", "lora_rank", "weights")  # no option here
NEVER = [-1]  # a stop token that no model samples: every completion has the full length
PEAK = "import torch; print(torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0)"


def random_config(shape: sizes.ModelShape) -> tuple[Qwen3Config, PreTrainedTokenizerBase]:
    """A configuration of this shape, and the shipped tokenizer, which uses a few of its ids."""
    tokenizer = AutoTokenizer.from_pretrained(ROOT / "assets/tiny/base", trust_remote_code=False)
    config = Qwen3Config(
        vocab_size=max(shape.vocab, len(tokenizer)),
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        tie_word_embeddings=shape.tied,
        max_position_embeddings=32768,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    return config, tokenizer


def sync(device: str) -> float:
    """The time, once the device has done all its work."""
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter()


def peak_gib(device: str) -> float | None:
    """Most memory that tensors held since the last call, in GiB; None on a CPU."""
    if device == "cpu":
        return None
    peak = torch.cuda.max_memory_allocated() / memory.GIB
    torch.cuda.reset_peak_memory_stats()
    return round(peak, 2)


def train_step(
    policy: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    sampled: rollout.Rollout,
    micro_batch: int,
) -> None:
    """One GRPO update with made-up rewards, `micro_batch` rows at a time."""
    rewards = torch.arange(len(sampled.texts), device=sampled.mask.device).remainder(2).float()
    advantages = group_advantages(rewards, sampled.group_size)
    prompts = sampled.prompt_ids.repeat_interleave(sampled.group_size, dim=0)
    width = sampled.completion_ids.shape[1]
    for rows in torch.arange(len(rewards), device=rewards.device).split(micro_batch):
        ids = torch.cat([prompts[rows], sampled.completion_ids[rows]], dim=1)
        logits = policy(ids, use_cache=False, logits_to_keep=width + 1).logits[:, :-1]
        logprobs = gather_logprobs(logits, sampled.completion_ids[rows])
        batch = (sampled.logprobs[rows], advantages[rows], sampled.mask[rows])
        loss, _ = grpo_loss(logprobs, *batch)
        (loss * len(rows) / len(rewards)).backward()
    optimizer.step()
    optimizer.zero_grad()


def measure(plan: memory.Plan) -> dict:
    """Tokens per second and peak memory of sampling and training, after a warm-up of each."""
    profile = profiles.get_profile("small")
    device = profile.device
    profiles.seed_everything(profile.seed)
    tokenizer = models.load_tokenizer(profile)
    model = models.load_policy(profile)
    ids = torch.randint(100, 1000, (plan.prompts, plan.prompt_length)).tolist()

    def sample(tokens: int) -> rollout.Rollout:
        return rollout.sample(
            model,
            tokenizer,
            ids,
            plan.group_size,
            tokens,
            max_batch=plan.rollout_batch,
            stop_ids=NEVER,
        )

    sample(2)
    peak_gib(device)
    began = sync(device)
    sampled = sample(plan.completion_length)
    sampling = {"seconds": sync(device) - began, "peak_gib": peak_gib(device)}

    lora = LoraConfig(r=plan.lora_rank, target_modules=list(plan.targets))
    policy = get_peft_model(model, lora).train()
    policy.gradient_checkpointing_enable({"use_reentrant": False})
    trained = [p for p in policy.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-5)
    train_step(policy, optimizer, sampled, plan.micro_batch)
    peak_gib(device)
    began = sync(device)
    train_step(policy, optimizer, sampled, plan.micro_batch)
    training = {"seconds": sync(device) - began, "peak_gib": peak_gib(device)}

    sampling["tokens_per_second"] = plan.rows * plan.completion_length / sampling["seconds"]
    training["tokens_per_second"] = plan.rows * plan.length / training["seconds"]
    # The context is not among what torch counts, and only torch's count is measured.
    shape = sizes.ModelShape.from_config(model.config)
    parts = memory.budget(shape, sizes.CARDS["A100-80GB"], plan).rows
    for phase, row in (("sampling", sampling), ("training", training)):
        # Before training there are no adapters, gradients or optimizer states.
        held = ("weights",) if phase == "sampling" else ("weights", "LoRA", "grad", "optim")
        row["computed_gib"] = round(
            sum(size for part, when, size in parts if when == phase or part.startswith(held)), 2
        )
    return {
        "parameters": shape.parameters,
        "layers": shape.layers,
        "sampling": {key: value and round(value, 2) for key, value in sampling.items()},
        "training": {key: value and round(value, 2) for key, value in training.items()},
    }


def measure_apart(plan: memory.Plan) -> dict:
    """`measure` in a process of its own, so that the notebooks find the whole GPU free."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as pool:
        return pool.submit(measure, plan).result()


def explain(error: torch.OutOfMemoryError, plan: memory.Plan) -> str:
    """Which of this script's options saves memory."""
    path = models.checkpoint_path(profiles.get_profile("small"), "base")
    shape = sizes.ModelShape.from_config(AutoConfig.from_pretrained(path, trust_remote_code=False))
    steps = memory.advice(shape, sizes.CARDS["A100-80GB"], plan, without=FIXED)
    return memory.explain_out_of_memory(error, steps)


def run_notebook(path: Path) -> dict:
    """Execute a notebook as it is; seconds, peak memory and the error, if any."""
    node = nbformat.read(path, as_version=4)
    node.cells.append(nbformat.v4.new_code_cell(PEAK))
    code = [cell for cell in node.cells if cell.cell_type == "code" and cell.source.strip()]
    progress = Progress(path.stem, len(code))
    client = NotebookClient(
        node,
        kernel_name="python3",
        timeout=None,
        extra_arguments=["--IPKernelApp.log_level=ERROR"],
        resources={"metadata": {"path": str(path.parent)}},
        on_cell_executed=progress.cell_done,
    )
    failure, peak = "", 0
    try:
        client.execute()
        peak = int(node.cells[-1].outputs[0]["text"])
    except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
        failure = error_of(node, error)
    progress.finish(failure or "done")
    seconds = round(time.monotonic() - progress.start)
    gib = round(peak / memory.GIB, 2) if peak else None
    return {"notebook": path.name, "seconds": seconds, "peak_gib": gib, "failure": failure}


def machine(device: str) -> dict:
    """Name, memory, driver and CUDA of the GPU; on a CPU the cores."""
    if device == "cpu":
        return {"device": f"CPU, {os.cpu_count()} cores", "driver": "none"}
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, check=True)
        driver = done.stdout.split()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        driver = "unknown"
    properties = torch.cuda.get_device_properties(0)
    return {
        "device": properties.name,
        "memory_gib": round(properties.total_memory / memory.GIB, 1),
        "driver": driver,
        "cuda": torch.version.cuda,
        "bf16": torch.cuda.is_bf16_supported(including_emulation=False),
    }


def table_row(results: dict) -> str:
    """Head and row of the table of GPUs in docs/where.md, in Markdown."""
    found, done = results["machine"], results["notebooks"]
    passed = sum(not run["failure"] for run in done)
    versions = results["versions"]
    cells = {
        "GPU": found["device"],
        "driver": found["driver"],
        "model": results["model"],
        "notebooks under `small`": f"{passed} of {len(done)} run",
    }
    for phase in ("sampling", "training"):
        row = results[phase]
        peak = "" if row["peak_gib"] is None else f"{row['peak_gib']} GiB measured, "
        cells[f"{phase}, tokens/s"] = f"{row['tokens_per_second']:,.0f}"
        cells[f"{phase}, peak"] = f"{peak}{row['computed_gib']} GiB computed"
    packages = ("torch", "transformers", "trl", "peft")
    cells["versions"] = ", ".join(f"{name} {versions[name]}" for name in packages)
    cells["date"] = results["date"]
    lines = (cells.keys(), ["---"] * len(cells), cells.values())
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--notebooks", nargs="*", default=[""], metavar="NB", help="such as 01 05")
    parser.add_argument("--smoke", action="store_true", help="random weights, two steps a loop")
    parser.add_argument("--shape", choices=SHAPES, default="Qwen3-0.6B", help="with --smoke")
    parser.add_argument("--layers", type=int, help="with --smoke: fewer layers than the shape has")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--prompts", type=int, default=4)
    parser.add_argument("--group-size", type=int, default=8)
    parser.add_argument("--prompt-tokens", type=int, default=512)
    parser.add_argument("--completion-tokens", type=int, default=512)
    parser.add_argument("--micro-batch", type=int, default=4)
    parser.add_argument("--out", type=Path, help="the results file")
    args = parser.parse_args(arguments)
    args.out = args.out or RESULTS[args.device] / "gpu_check.json"
    return args


@contextlib.contextmanager
def environment_kept() -> Iterator[None]:
    """What is set for the notebooks ends with the block."""
    before = dict(os.environ)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def prepare(args: argparse.Namespace, folder: Path) -> str:
    """Set the notebooks' environment; with `--smoke` make models and data. Return the model's name.

    Raises OSError when the weights are neither on disk nor to be had from the hub.
    """
    runs = folder / "runs"  # stages go from one notebook to the next
    os.environ |= {"COURSE_PROFILE": "small", "COURSE_DEVICE": args.device}
    os.environ |= {"COURSE_RUNS": str(runs), "JUPYTER_PREFER_ENV_PATH": "1"}
    os.environ.pop("COURSE_SMOKE", None)
    if not args.smoke:
        profile = profiles.get_profile("small")
        AutoConfig.from_pretrained(models.checkpoint_path(profile, "base"), trust_remote_code=False)
        return profile.base_model.rstrip("/").rpartition("/")[2]
    shape = SHAPES[args.shape]
    shape = replace(shape, layers=args.layers or shape.layers)
    data = Path(os.environ.get("COURSE_DATA_DIR") or folder / "data")
    if not os.environ.get("COURSE_DATA_DIR"):
        small_profile.make_data(data)
    os.environ |= small_profile.settings(folder, data, runs, device=args.device)
    dtype = profiles.get_profile("small").dtype
    small_profile.make_models(folder, *random_config(shape), dtype)
    small_profile.leave_stages(folder, runs)
    return f"{shape.name}, {shape.layers} layers, random weights"


def main(arguments: list[str] | None = None) -> int:
    """Measure, run the notebooks, print the row, write the file."""
    with environment_kept():
        return check(parse(arguments))


def check(args: argparse.Namespace) -> int:
    """What `main` does, with the options read."""
    os.environ["COURSE_DEVICE"] = args.device
    chosen = [path for start in args.notebooks for path in find_notebooks(start)]
    plan = memory.Plan(
        weights="fp32" if args.device == "cpu" else "bf16",
        optimizer="adamw_fp32",
        prompts=args.prompts,
        group_size=args.group_size,
        prompt_length=args.prompt_tokens,
        completion_length=args.completion_tokens,
        micro_batch=args.micro_batch,
        rollout_batch=args.prompts * args.group_size,
    )
    try:
        engines.check_machine("small")
    except RuntimeError as error:
        print(f"gpu-check: {error}", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as folder:
        try:
            model = prepare(args, Path(folder))
        except OSError as error:
            print(
                f"gpu-check: no weights. {error}\nSet COURSE_BASE_MODEL to a folder with "
                "Qwen3-0.6B-Base, or pass --smoke to run with random weights.",
                file=sys.stderr,
            )
            return 1
        print(f"measuring {model} ...", flush=True)
        try:
            measured = measure_apart(plan)
        except torch.OutOfMemoryError as error:
            print(f"gpu-check: {explain(error, plan)}", file=sys.stderr)
            return 1
        runs = [run_notebook(path) for path in chosen]
    results = {
        "date": datetime.date.today().isoformat(),
        "machine": machine(args.device),
        "versions": profiles.versions(),
        "model": model,
        "smoke": args.smoke,
        "tokens": {
            "rows": plan.rows,
            "prompt": plan.prompt_length,
            "completion": plan.completion_length,
        },
        **measured,
        "notebooks": runs,
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    write_whole(args.out, json.dumps(results, indent=1) + "\n")
    print(f"\n{table_row(results)}\n\nwrote {args.out.name}")
    return int(any(run["failure"] for run in runs))


if __name__ == "__main__":
    sys.exit(main())
