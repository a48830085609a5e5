"""Answer extraction and rule rewards: plain Python, linear in the length of the text, no `eval`.

Every function reads the completion alone. A prompt that shows the tags as an example would
otherwise be scored as an answer.

| question | file |
|---|---|
| where does the answer stand? | `extract` |
| what of it is markup, a name, a unit? | `markup` |
| which number is it? | `number` |
| is it the gold answer? | `same`, with `formula` for what is not a number |
| how many points? | `gsm8k`, `reasoning`, `sales` |
"""

from tasks.rewards.extract import (
    after_hashes,
    extract_boxed,
    extract_hash_answer,
    extract_xml_answer,
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
from tasks.rewards.number import normalise_number, same_number
from tasks.rewards.reasoning import (
    REASONING_RANGES,
    answer_reward,
    exact_format_reward,
    extract_solution,
    number_reward,
    number_reward_recipe,
    reasoning_rewards,
    tag_count_reward,
)
from tasks.rewards.sales import sales_reward, sales_reward_naive
from tasks.rewards.same import same_answer

__all__ = [
    "GSM8K_MAXIMA",
    "REASONING_RANGES",
    "after_hashes",
    "answer_reward",
    "correctness_reward",
    "exact_format_reward",
    "extract_boxed",
    "extract_hash_answer",
    "extract_solution",
    "extract_xml_answer",
    "gsm8k_rewards",
    "integer_reward",
    "normalise_number",
    "number_reward",
    "number_reward_recipe",
    "reasoning_rewards",
    "sales_reward",
    "sales_reward_naive",
    "same_answer",
    "same_number",
    "soft_format_reward",
    "strict_format_reward",
    "tag_count_reward",
    "xmlcount_reward",
]
