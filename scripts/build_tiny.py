"""Rebuild `assets/tiny/base` from a seed: tokenizer, pretraining, measurements, model card.

    python -m scripts.build_tiny                 # about an hour on 2 cores
    python -m scripts.build_tiny --steps 50 --out /some/folder   # a quick try

An interrupted run goes on from its last checkpoint (`runs/build_tiny/`). Data for step `s`
come from the seed and `s` alone, so a resumed run sees what an uninterrupted one would.
"""

import argparse
import math
import random
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from scripts.whole_file import write_whole
from tasks import identity, reviews, sql
from tasks import math as math_task
from tasks.sql import annotators
from tasks.sql import questions as sql_questions
from utils import chat, display, evaluate, profiles
from utils.models import load_policy, load_tokenizer, save_checkpoint

ROOT = Path(__file__).resolve().parents[1]
VOCAB_SIZE = 1024
CONTROL_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]  # skipped when decoding
TEXT_TOKENS = ["<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"]
TEXT_TOKENS += ["<think>", "</think>"]
# Shares of documents. The noise is random slips, so a majority of the data is right.
MIXTURE = {"sql": 0.45, "math": 0.37, "reviews": 0.10, "questions": 0.08}
SQL_NOISE = 0.25
MATH_NOISE = 0.05
# Names and numbers of a question are random: predicting them teaches little, so they weigh less.
PROMPT_WEIGHT = 0.1


def sample_document(rng: random.Random) -> tuple[str, str]:
    """Prompt and completion of one pretraining document, by the shares in `MIXTURE`."""
    kind = rng.choices(list(MIXTURE), weights=MIXTURE.values())[0]
    if kind == "sql":
        example = sql_questions.sample_example(rng, "pretrain")
        if rng.random() < SQL_NOISE:
            example = annotators.corrupt(rng, example)
        return example.document()
    if kind == "math":
        example = math_task.sample_example(rng, "pretrain")
        with_steps = rng.random() < math_task.STEP_SHARE
        prompt, completion = example.document(with_steps)
        if rng.random() < MATH_NOISE:
            wrong = str(max(0, int(example.answer) + rng.choice((-10, -1, 1, 10))))
            completion = completion.rpartition(" ")[0] + f" {wrong}"
        return prompt, completion
    if kind == "reviews":
        return reviews.sample_example(rng, "pretrain").document()
    return identity.sample_example(rng).document()


def build_tokenizer(seed: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE that splits digits, with Qwen's control tokens and ChatML template."""
    rng = random.Random(f"tokenizer/{seed}")
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE - len(TEXT_TOKENS),
        special_tokens=CONTROL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(("".join(sample_document(rng)) for _ in range(20_000)), trainer)
    backend.add_tokens(
        [AddedToken(token, special=False, normalized=False) for token in TEXT_TOKENS]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        padding_side="left",
        model_max_length=1024,
    )
    tokenizer.chat_template = chat.CHAT_TEMPLATE
    return tokenizer


def build_model(
    tokenizer: PreTrainedTokenizerFast, seed: int, hidden: int, layers: int
) -> Qwen3ForCausalLM:
    """A Qwen3 with random weights, sized for two CPU cores."""
    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=3 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 32,
        num_key_value_heads=hidden // 64,
        head_dim=32,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        eos_token_id=[tokenizer.eos_token_id, tokenizer.pad_token_id],
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
    )
    config._attn_implementation = "sdpa"
    return Qwen3ForCausalLM(config)


def make_batch(
    tokenizer: PreTrainedTokenizerFast, seed: int, step: int, rows: int, length: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Documents packed end to end -> ids and weights (rows, length + 1)."""
    rng = random.Random(f"pretrain/{seed}/{step}")
    ids, weights = [], []
    while len(ids) < rows * (length + 1):
        prompts, completions = zip(*(sample_document(rng) for _ in range(32)), strict=True)
        encoded = zip(tokenizer(prompts).input_ids, tokenizer(completions).input_ids, strict=True)
        for prompt, completion in encoded:
            ids += prompt + completion + [tokenizer.pad_token_id]
            weights += [PROMPT_WEIGHT] * len(prompt) + [1.0] * (len(completion) + 1)
    shape, n = (rows, length + 1), rows * (length + 1)
    return torch.tensor(ids[:n]).view(shape), torch.tensor(weights[:n]).view(shape)


def learning_rate(step: int, steps: int, peak: float) -> float:
    """Linear warm-up over 100 steps, then cosine decay to 2% of the peak."""
    warm_up = min(1.0, (step + 1) / 100)
    return peak * warm_up * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / steps)))


def pretrain(model, tokenizer, args, work: Path) -> tuple[list[float], float]:
    """Train to `args.steps`, a checkpoint every 250 steps -> loss of each step, seconds in all."""
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=args.lr, weight_decay=0.01, betas=(0.9, 0.98)
    )
    start, losses, seconds, state_file = 0, [], 0.0, work / "state.pt"
    if state_file.is_file():
        state = torch.load(state_file, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        start, losses, seconds = state["step"], state["losses"], state["seconds"]
        print(f"going on from step {start}")
    model.train()
    began = time.monotonic() - seconds
    bar = tqdm(range(start, args.steps), initial=start, total=args.steps, desc="pretraining")
    for step in bar:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, args.steps, args.lr)
        ids, weights = make_batch(tokenizer, args.seed, step, args.rows, args.length)
        weights = weights[:, 1:].flatten()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = model(ids[:, :-1]).logits
        token_losses = F.cross_entropy(
            logits.float().flatten(0, 1), ids[:, 1:].flatten(), reduction="none"
        )
        loss = (token_losses * weights).sum() / weights.sum()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        if step % 50 == 0:
            bar.set_postfix(loss=f"{sum(losses[-50:]) / len(losses[-50:]):.3f}")
        if (step + 1) % 250 == 0 or step + 1 == args.steps:
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
            seconds = time.monotonic() - began
            state |= {"step": step + 1, "losses": losses, "seconds": seconds}
            torch.save(state, state_file.with_suffix(".new"))
            state_file.with_suffix(".new").replace(state_file)
    return losses, seconds


def measure(model, tokenizer, prompts: int = 500) -> dict[str, evaluate.EvalResult]:
    """Held-out abilities, greedy and sampled (4 answers a prompt at temperature 1)."""
    model.eval()
    results = {}

    def run(name, examples, encode, score, max_new_tokens):
        for label, temperature in (("greedy", 0.0), ("sampled", 1.0)):
            results[f"{name}, {label}"] = evaluate.evaluate_completions(
                model,
                tokenizer,
                [encode(example) for example in examples],
                lambda i, text: score(examples[i], text),
                max_new_tokens=max_new_tokens,
                temperature=temperature,
                generator=torch.Generator().manual_seed(0),
                progress=name,
            )

    def as_document(example):
        return example.document()[0]

    def in_chat(example):
        return chat.encode_prompt(tokenizer, example.prompt)

    for split, said in (("test", "unseen tables"), ("seen_names", "seen names, new combinations")):
        examples = sql.make_examples(split, prompts)
        run(f"text-to-SQL, {said}", examples, as_document, sql.score, sql.MAX_NEW_TOKENS)
    examples = sql.make_examples("test", prompts)
    run("text-to-SQL, unseen tables, chat format", examples, in_chat, sql.score, sql.MAX_NEW_TOKENS)
    problems = math_task.make_examples("test", prompts)
    limit = math_task.MAX_NEW_TOKENS
    run("word problems", problems, lambda e: e.document(False)[0], math_task.score, limit)
    run("plain facts", identity.facts(), as_document, identity.score, 12)
    return results


def steps_pay(result: evaluate.EvalResult) -> list[str]:
    """Lines of the model card: how often steps are worked, and how right either way is.

    The intervals are bootstrap ones over problems: the answers to one problem are no independent
    ones.
    """
    right = torch.stack(list(result.scores)).double()  # (problems, answers)
    worked = torch.tensor([["=" in t for t in texts] for texts in result.texts]).double()
    generator = torch.Generator().manual_seed(0)
    draws = torch.randint(len(right), (4000, len(right)), generator=generator)
    lines = []
    for kind, name in ((worked, "worked step by step"), (1 - worked, "answered at once")):
        hits, answers = (right * kind).sum(1), kind.sum(1)
        shares = hits[draws].sum(1) / answers[draws].sum(1)
        low, high = shares.quantile(torch.tensor([0.025, 0.975]).double()).tolist()
        lines.append(
            f"| {name} | {kind.mean():.3f} | {hits.sum() / answers.sum():.3f} "
            f"[{low:.3f}, {high:.3f}] |"
        )
    return lines


def measured_again(card: str, results: dict[str, evaluate.EvalResult]) -> str:
    """The card with the rows of its two tables measured anew."""
    head, first, rest = card.partition("| task | accuracy |\n|---|---|\n")
    _, second, _ = rest.partition("| answer | share | accuracy |\n|---|---|---|\n")
    if not second:
        raise ValueError("the card has not the two tables of scripts/tiny_card.md: build it anew")
    between = rest[: rest.index(second)].partition("\n\n")[2]
    return "".join((head, first, abilities(results), "\n\n", between, second)) + "\n".join(
        [*steps_pay(results["word problems, sampled"]), ""]
    )


def abilities(results: dict[str, evaluate.EvalResult]) -> str:
    """The rows of the card's first table."""
    return "\n".join(f"| {name} | {result} |" for name, result in results.items())


def write_card(out: Path, args, losses: list[float], minutes: float, results) -> None:
    """Model card and loss curve beside the weights."""
    window = max(1, len(losses) // 200)
    smooth = [
        sum(losses[i : i + window]) / window for i in range(0, len(losses) - window + 1, window)
    ]
    display.use_style()
    steps = [window * (i + 1) for i in range(len(smooth))]
    axis = display.plot_curves({"loss": (steps, smooth)}, "step", "weighted loss (nats a token)")
    axis.figure.savefig(out / "loss_curve.png")
    shares = ", ".join(f"{kind} {share:.0%}" for kind, share in MIXTURE.items())
    template = Path(__file__).with_name("tiny_card.md").read_text(encoding="utf-8")
    card = template.format(
        millions=f"{args.parameters / 1e6:.2f}",
        shares=shares,
        sql_noise=f"{SQL_NOISE:.0%}",
        math_noise=f"{MATH_NOISE:.0%}",
        step_share=f"{math_task.STEP_SHARE:.0%}",
        prompt_weight=PROMPT_WEIGHT,
        tokens=f"{args.steps * args.rows * args.length / 1e6:.0f}",
        minutes=f"{minutes:.0f}",
        loss=f"{sum(losses[-50:]) / 50:.3f}",
        abilities=abilities(results),
        steps_pay="\n".join(steps_pay(results["word problems, sampled"])),
        **vars(args),
    )
    (out / "README.md").write_text(card, encoding="utf-8")


def main() -> None:
    """Build, train, measure, save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "assets" / "tiny" / "base")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "build_tiny")
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--prompts", type=int, default=500, help="held-out prompts a measurement")
    parser.add_argument("--measure", action="store_true", help="only measure, renew the card")
    args = parser.parse_args()
    if args.measure:
        profile = profiles.get_profile("tiny")
        model, tokenizer = load_policy(profile), load_tokenizer(profile)
        card = args.out / "README.md"
        results = measure(model, tokenizer, args.prompts)
        write_whole(card, measured_again(card.read_text(encoding="utf-8"), results))
        return
    args.work.mkdir(parents=True, exist_ok=True)
    tokenizer = build_tokenizer(args.seed)
    model = build_model(tokenizer, args.seed, args.hidden, args.layers)
    args.parameters = model.num_parameters()
    print(f"{args.parameters / 1e6:.2f}M parameters, {len(tokenizer)} tokens")
    losses, seconds = pretrain(model, tokenizer, args, args.work)
    save_checkpoint(model, tokenizer, args.out)
    results = measure(model, tokenizer, args.prompts)
    write_card(args.out, args, losses, seconds / 60, results)
    print((args.out / "README.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
