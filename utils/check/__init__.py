"""Checks for the exercises, one module a lesson, and `claim`, the assert of the notebooks."""

import os

from utils.check.lesson01 import lora_forward, sft_loss
from utils.check.lesson02 import bradley_terry_loss
from utils.check.lesson03_gae import gae
from utils.check.lesson03_policy import clipped_policy_loss

__all__ = [
    "bradley_terry_loss",
    "claim",
    "clipped_policy_loss",
    "gae",
    "lora_forward",
    "sft_loss",
]


def claim(text: str, holds: object) -> None:
    """Print `text: True`; AssertionError if the claim does not hold.

    Under COURSE_SMOKE=1, where nothing is trained long enough to learn, it prints "not checked".
    """
    if os.environ.get("COURSE_SMOKE") == "1":
        print(f"{text}: not checked")
        return
    if not holds:
        raise AssertionError(f"{text}: False. The lesson's text is not true of this run.")
    print(f"{text}: True")
