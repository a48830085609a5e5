"""Answer extraction and rule rewards: plain Python, linear in the length of the text, no `eval`.

Every function reads the completion alone. A prompt that shows the tags as an example would
otherwise be scored as an answer.
"""

from tasks.rewards.extract import (
    extract_hash_answer,
    extract_xml_answer,
    first_number,
    normalise_number,
    same_number,
)
from tasks.rewards.gsm8k import (
    GSM8K_MAXIMA,
    correctness_reward,
    gsm8k_rewards,
    integer_reward,
    soft_format_reward,
    strict_format_reward,
    xmlcount_reward,
)
from tasks.rewards.reasoning import (
    REASONING_RANGES,
    answer_reward,
    exact_format_reward,
    extract_solution,
    number_reward,
    reasoning_rewards,
    tag_count_reward,
)
from tasks.rewards.sales import sales_reward, sales_reward_naive

__all__ = [
    "GSM8K_MAXIMA",
    "REASONING_RANGES",
    "answer_reward",
    "correctness_reward",
    "exact_format_reward",
    "extract_hash_answer",
    "extract_solution",
    "extract_xml_answer",
    "first_number",
    "gsm8k_rewards",
    "integer_reward",
    "normalise_number",
    "number_reward",
    "reasoning_rewards",
    "sales_reward",
    "sales_reward_naive",
    "same_number",
    "soft_format_reward",
    "strict_format_reward",
    "tag_count_reward",
    "xmlcount_reward",
]
