"""What the notebooks need to run under a large profile without a download.

Random weights, made-up rows in the format of the hub's data sets, and the settings. The code path
is the real one from data to saved model; nothing is learned.
"""

import copy
import json
from collections.abc import Iterable
from pathlib import Path

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
)

from scripts.whole_file import write_whole
from utils import models

ROWS = {
    "sql_create_context": {
        "prompt": "Human: context= CREATE TABLE t{0} (week INTEGER, game_site VARCHAR) question= "
        "What is the earliest week at site {0}? Assistant:",
        "chosen": 'SELECT MIN(week) FROM t{0} WHERE game_site = "site {0}"',
    },
    "gsm8k": {
        "question": "Ann has {0} pens. She buys 2 more.\nHow many pens does she have?",
        "answer": "She has {0}+2=<<{0}+2=1{0}>>1{0} pens.\n#### 1{0}",
    },
}


def make_data(folder: Path) -> None:
    """Write forty rows a split to folder/<data set>/<split>.jsonl."""
    for name, row in ROWS.items():
        for split in ("train", "test"):
            lines = [{key: text.format(i) for key, text in row.items()} for i in range(40)]
            (folder / name).mkdir(parents=True, exist_ok=True)
            write_whole(folder / name / f"{split}.jsonl", "\n".join(map(json.dumps, lines)))


def make_models(
    folder: Path,
    config: PreTrainedConfig,
    tokenizer: PreTrainedTokenizerBase,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Save a policy (folder/base) and a reward model (folder/reward_model) with random weights."""
    judge = copy.deepcopy(config)
    judge.num_labels = 1
    kinds = {
        "base": (AutoModelForCausalLM, config),
        "reward_model": (AutoModelForSequenceClassification, judge),
    }
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for name, (kind, shape) in kinds.items():
            made = kind.from_config(shape, dtype=dtype)
            models.save_checkpoint(made, tokenizer, folder / name)


def leave_stages(
    made: Path,
    runs: Path,
    stages: Iterable[str] = ("sft", "reward_model"),
    profile: str = "small",
) -> None:
    """Put what earlier lessons leave behind into the runs of a profile: links to `make_models`'."""
    (runs / profile).mkdir(parents=True, exist_ok=True)
    for stage in stages:
        source = "reward_model" if stage == "reward_model" else "base"
        (runs / profile / stage).symlink_to(made / source)


def settings(
    made: Path, data: Path, runs: Path, profile: str = "small", device: str = "cpu"
) -> dict[str, str]:
    """Environment of a notebook: the models of `make_models`, no hub, two steps a loop."""
    return {
        "COURSE_PROFILE": profile,
        "COURSE_DEVICE": device,
        "COURSE_BASE_MODEL": str(made / "base"),
        "COURSE_DATA_DIR": str(data),
        "COURSE_RUNS": str(runs),
        "COURSE_SMOKE": "1",
        "HF_HUB_OFFLINE": "1",
    }
