"""Losses of post-training. Each returns `(loss, metrics)`: a scalar and a dict of floats.

A file for each method, the options of its successors in `*_variants`. Arguments that do not fit
raise ValueError. Metrics, limits and where other libraries differ: docs/losses.md.
"""

from utils.losses.dpo import dpo_loss
from utils.losses.dpo_variants import dpo_variant_loss
from utils.losses.grpo import grpo_loss
from utils.losses.grpo_variants import grpo_variant_loss
from utils.losses.policy import clipped_policy_loss, clipped_value_loss
from utils.losses.preference import bradley_terry_loss
from utils.losses.relatives import kto_loss, orpo_loss, simpo_loss, tdpo_loss
from utils.losses.supervised import sft_loss

__all__ = [
    "bradley_terry_loss",
    "clipped_policy_loss",
    "clipped_value_loss",
    "dpo_loss",
    "dpo_variant_loss",
    "grpo_loss",
    "grpo_variant_loss",
    "kto_loss",
    "orpo_loss",
    "sft_loss",
    "simpo_loss",
    "tdpo_loss",
]
