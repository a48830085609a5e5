"""Losses of post-training. Each returns `(loss, metrics)`: a scalar and a dict of floats.

A file for each method; those of its successors are in `relatives`. Arguments that do not fit raise
ValueError. Metrics, limits and where other libraries differ: docs/losses.md.
"""

from utils.losses.dpo import dpo_loss
from utils.losses.grpo import grpo_loss
from utils.losses.policy import clipped_policy_loss, clipped_value_loss
from utils.losses.preference import bradley_terry_loss
from utils.losses.supervised import sft_loss

__all__ = [
    "bradley_terry_loss",
    "clipped_policy_loss",
    "clipped_value_loss",
    "dpo_loss",
    "grpo_loss",
    "sft_loss",
]
