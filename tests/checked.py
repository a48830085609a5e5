"""Whose shape annotations the tests check, and with what: see `conftest.py`."""

from beartype import BeartypeConf, beartype

MODULES = [
    *(f"utils.{name}" for name in ("forward", "logprobs", "kl", "advantages", "values", "losses")),
    *("utils.rollout", "utils.cache"),
    "relatives",
]
check = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int is a float too
