"""Shared fixtures: checked shapes, one thread, a tokenizer, a random model, real data."""

import copy
import importlib.util
import os
from pathlib import Path

import jaxtyping
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

# Shape annotations are checked at every call, in tests only. The hook has to stand before the first
# import of what it checks. The engines' environment has no beartype.
if importlib.util.find_spec("beartype"):
    from checked import MODULES

    jaxtyping.install_import_hook(MODULES, "checked.check")

from utils.chat import CHAT_TEMPLATE  # noqa: E402

TINY_BASE = Path(__file__).resolve().parents[1] / "assets/tiny/base"
LINES = [
    "CREATE TABLE head (name VARCHAR, age INTEGER, city VARCHAR)",
    "SELECT COUNT(*) FROM head WHERE age > 56 ORDER BY name DESC LIMIT 3",
    "How many heads are older than 56? What is the lowest age in each city?",
    "Tom has 12 apples. He buys 7 more and gives away 5. How many apples does Tom have now?",
    "user\nassistant\nThe film was not good, but I liked the actors.\n",
]

# The template of SmolLM2-135M-Instruct, with its system turn where none is given.
SMOLLM2_TEMPLATE = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
    "<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + "
    "'<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
    "{% endif %}"
)


def pytest_configure() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def unchecked():
    """As outside the tests: shapes are not checked against annotations, only by the functions."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def small_tokenizer() -> PreTrainedTokenizerFast:
    """The shipped tokenizer's kind, trained on a few lines: byte-level BPE, digits split."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=360,
        special_tokens=specials,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(LINES, trainer)
    bpe.add_tokens(["<think>", "</think>"])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
        additional_special_tokens=["<|im_start|>"],
        padding_side="left",
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def make_random_model(
    vocab_size: int, hidden: int = 64, layers: int = 2, seed: int = 0, **config
) -> Qwen3ForCausalLM:
    """A Qwen3 with random weights; `initializer_range` far above the default spreads its logits."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        settings = {
            "hidden_size": hidden,
            "intermediate_size": 2 * hidden,
            "num_hidden_layers": layers,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "max_position_embeddings": 512,
            "initializer_range": 0.15,
            "tie_word_embeddings": True,
            "attn_implementation": "sdpa",
            "bos_token_id": None,
        }
        return Qwen3ForCausalLM(Qwen3Config(vocab_size=vocab_size, **{**settings, **config})).eval()


def make_random_llama(vocab_size: int, seed: int = 0, **config) -> LlamaForCausalLM:
    """SmolLM2's architecture with random weights: 9 query heads on 3 key heads, tied embeddings."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        settings = {
            "hidden_size": 72,
            "intermediate_size": 96,
            "num_hidden_layers": 2,
            "num_attention_heads": 9,
            "num_key_value_heads": 3,
            "rope_theta": 100000.0,
            "rms_norm_eps": 1e-5,
            "max_position_embeddings": 2048,
            "initializer_range": 0.15,
            "tie_word_embeddings": True,
            "attn_implementation": "sdpa",
            "bos_token_id": None,
            "eos_token_id": None,
            "pad_token_id": 0,
        }
        settings |= {"vocab_size": vocab_size, **config}
        return LlamaForCausalLM(LlamaConfig(**settings)).eval()


@pytest.fixture(scope="session")
def tokenizer():
    """The shipped tokenizer; before the checkpoint exists, one trained on a few lines."""
    if (TINY_BASE / "tokenizer.json").is_file():
        return AutoTokenizer.from_pretrained(TINY_BASE)
    return small_tokenizer()


@pytest.fixture(scope="session")
def speaks_like_smol(tokenizer):
    """The tokenizer with SmolLM2's chat template."""
    changed = copy.deepcopy(tokenizer)
    changed.chat_template = SMOLLM2_TEMPLATE
    return changed


@pytest.fixture(scope="session")
def make_model():
    """The function behind `random_model`, for tests that need another size or their own copy."""
    return make_random_model


@pytest.fixture(scope="session")
def random_model(tokenizer):
    """Two layers, hidden size 64, random weights, eval mode. Shared: do not train it, copy it."""
    return make_random_model(len(tokenizer))


@pytest.fixture(scope="session")
def random_llama(tokenizer):
    """SmolLM2's architecture, tiny, random weights, eval mode. Shared: do not train it, copy it."""
    return make_random_llama(len(tokenizer))


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder with the real data samples."""
    folder = os.environ.get("COURSE_DATA_DIR")
    if not folder or not Path(folder).is_dir():
        pytest.skip("needs real data: set COURSE_DATA_DIR to a folder with it")
    return Path(folder)
