"""Losses of post-training. Each returns `(loss, metrics)`: a scalar and a dict of floats."""

from utils.losses.policy import clipped_policy_loss, clipped_value_loss
from utils.losses.preference import bradley_terry_loss
from utils.losses.supervised import sft_loss

__all__ = ["bradley_terry_loss", "clipped_policy_loss", "clipped_value_loss", "sft_loss"]
