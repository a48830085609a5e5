"""The checks that the notebooks call, one for each exercise."""

from exercises.lesson00 import k3, leave_one_out, reinforce_gradient
from exercises.lesson01 import lora_forward, sft_loss
from exercises.lesson02 import bradley_terry_loss
from exercises.lesson03_gae import gae
from exercises.lesson03_policy import clipped_policy_loss
from exercises.lesson04 import dpo_loss
from exercises.lesson05_advantages import group_advantages
from exercises.lesson05_loss import grpo_loss
from exercises.lesson06 import importance_weights
from exercises.lesson07 import Quiz

__all__ = [
    "Quiz",
    "bradley_terry_loss",
    "clipped_policy_loss",
    "dpo_loss",
    "gae",
    "group_advantages",
    "grpo_loss",
    "importance_weights",
    "k3",
    "leave_one_out",
    "lora_forward",
    "reinforce_gradient",
    "sft_loss",
]
