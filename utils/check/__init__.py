"""Checks for the exercises, one module a lesson, and `claim`, the assert of the notebooks."""

import os

from utils.check.lesson00 import k3, reinforce_gradient
from utils.check.lesson01 import lora_forward, sft_loss
from utils.check.lesson02 import bradley_terry_loss
from utils.check.lesson03_gae import gae
from utils.check.lesson03_policy import clipped_policy_loss
from utils.check.lesson04 import dpo_loss
from utils.check.lesson05_advantages import group_advantages
from utils.check.lesson05_loss import grpo_loss
from utils.check.lesson06 import importance_weights
from utils.check.lesson07 import Quiz

__all__ = [
    "Quiz",
    "bradley_terry_loss",
    "claim",
    "clipped_policy_loss",
    "dpo_loss",
    "gae",
    "group_advantages",
    "grpo_loss",
    "importance_weights",
    "k3",
    "lora_forward",
    "reinforce_gradient",
    "sft_loss",
]


def claim(text: str, holds: object) -> None:
    """Print `text: True`; AssertionError if the claim does not hold on the profile `tiny`.

    The lessons' claims were measured on `tiny`. On other profiles one that fails prints False and
    the notebook goes on. Under COURSE_SMOKE=1, where nothing is trained long enough to learn, it
    prints "not checked".
    """
    if os.environ.get("COURSE_SMOKE") == "1":
        print(f"{text}: not checked")
    elif holds:
        print(f"{text}: True")
    elif (os.environ.get("COURSE_PROFILE") or "tiny") == "tiny":
        raise AssertionError(f"{text}: False. The lesson's text is not true of this run.")
    else:
        print(f"{text}: False on this profile; it was measured on `tiny`.")
