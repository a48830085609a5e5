"""The checks that the notebooks call, one for each exercise."""

from exercises.lesson00 import k3, leave_one_out, reinforce_gradient
from exercises.lesson01 import lora_forward, sft_loss
from exercises.lesson01_loop import completion_labels, sft_steps
from exercises.lesson02 import best_of_n, bradley_terry_loss, calibration_error, rewards
from exercises.lesson03_gae import gae
from exercises.lesson03_policy import clipped_policy_loss
from exercises.lesson03_reward import kl_controller, kl_shaped_rewards
from exercises.lesson04 import dpo_loss, dpop_loss, implicit_reward, logprob_sum
from exercises.lesson05_advantages import group_advantages
from exercises.lesson05_loss import grpo_loss
from exercises.lesson05_reward import think_rewards
from exercises.lesson06 import importance_weights
from exercises.lesson07 import Quiz

__all__ = [
    "Quiz",
    "best_of_n",
    "bradley_terry_loss",
    "calibration_error",
    "clipped_policy_loss",
    "completion_labels",
    "dpo_loss",
    "dpop_loss",
    "gae",
    "group_advantages",
    "grpo_loss",
    "implicit_reward",
    "importance_weights",
    "k3",
    "kl_controller",
    "kl_shaped_rewards",
    "leave_one_out",
    "logprob_sum",
    "lora_forward",
    "reinforce_gradient",
    "rewards",
    "sft_loss",
    "sft_steps",
    "think_rewards",
]
