"""What the answer key asks of its arguments, and that its shape annotations are checked here."""

import importlib
import inspect
import pkgutil
import typing

import jaxtyping
import pytest
import torch
from checked import MODULES
from torch import Tensor

from relatives.grpo import grpo_variant_loss
from utils import advantages, arguments, kl, losses, values
from utils import logprobs as lp

NAN = float("nan")


def modules():
    for name in MODULES:
        module = importlib.import_module(name)
        yield module
        for found in pkgutil.iter_modules(getattr(module, "__path__", [])):
            yield importlib.import_module(f"{name}.{found.name}")


def functions():
    for module in modules():
        for name, member in vars(module).items():
            if inspect.isfunction(member) and member.__module__ == module.__name__:
                yield pytest.param(member, id=f"{module.__name__}.{name}")


def plain_tensors(annotation) -> bool:
    """Whether an annotation has a tensor without a shape in it."""
    parts = typing.get_args(annotation)
    if parts and typing.get_origin(annotation) is not typing.get_origin(typing.Callable[[], int]):
        return any(map(plain_tensors, parts))
    return annotation is Tensor


@pytest.mark.parametrize("function", list(functions()))
def test_every_tensor_of_the_answer_key_has_its_shape_written_beside_it(function):
    signature = inspect.signature(function)
    found = [p.annotation for p in signature.parameters.values()] + [signature.return_annotation]
    assert not any(map(plain_tensors, found))


def test_a_tensor_without_a_shape_would_be_seen():
    assert plain_tensors(Tensor) and plain_tensors(Tensor | None) and plain_tensors(list[Tensor])
    assert not plain_tensors(jaxtyping.Float[Tensor, "B T"] | None) and not plain_tensors(float)


X, ROW, ONES = torch.zeros(2, 3), torch.zeros(2), torch.ones(2, 3)
WRONG = {
    "rows": lambda: losses.grpo_loss(X, X, torch.zeros(3), ONES),
    "one row": lambda: losses.grpo_loss(X, X[:1], ROW, ONES),
    "a mask of columns": lambda: grpo_variant_loss(X, X, ROW, ONES[:, :1]),
    "pairs": lambda: losses.dpo_loss(ROW, ROW, ROW[:, None], ROW),
    "tokens": lambda: losses.clipped_policy_loss(X, X, ROW, ONES),
    "labels that are no integers": lambda: losses.sft_loss(torch.zeros(2, 3, 4), ONES),
    "logits": lambda: lp.token_logprobs(X, X.long()),
    "a broadcast": lambda: kl.k3(X, X[:1]),
    "values": lambda: advantages.gae(X, X.T, ONES),
    "scores": lambda: values.last_token(X, ROW),
}


@pytest.mark.parametrize("call", WRONG.values(), ids=WRONG.keys())
def test_a_wrong_shape_is_caught_by_the_annotations(call):
    with pytest.raises(jaxtyping.TypeCheckError, match="Type-check error whilst checking"):
        call()


@pytest.mark.usefixtures("unchecked")
def test_outside_the_tests_the_annotations_cost_and_say_nothing():
    assert kl.k3(X, X[:1]).shape == (2, 3)


# The arguments


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.int64])
def test_full_precision(dtype):
    x = torch.tensor([1, 2]).to(dtype)
    assert arguments.full_precision(x).dtype == torch.float32
    assert arguments.full_precision(x.double()).dtype == torch.float64


def test_padding_is_replaced_before_any_arithmetic():
    x = torch.tensor([[1.0, NAN]], requires_grad=True)
    (clean,) = arguments.unpadded(torch.tensor([[1, 0]]), x=x)
    clean.square().exp().sum().backward()
    assert clean.tolist() == [[1.0, 0.0]] and x.grad[0, 1] == 0


@pytest.mark.parametrize("shape", [(2, 1), (1, 3), (3,), (2, 3, 1)])
def test_another_shape_than_the_mask_is_named(shape):
    with pytest.raises(ValueError, match=r"values \(.*\) and mask \(2, 3\) differ in shape: need"):
        arguments.same_shape(ONES, rewards=X, values=torch.zeros(shape))


@pytest.mark.parametrize("shape", [(), (1,), (3,), (2, 1)])
def test_one_each(shape):
    with pytest.raises(ValueError, match=r"scores \(.*\): need one a completion, \(2,\)"):
        arguments.one_each(ONES, scores=torch.zeros(shape))


def test_rows_without_a_token_are_counted():
    arguments.tokens_in_every_row(torch.tensor([[0, 1], [1, 1]]))
    with pytest.raises(ValueError, match="2 of 3 completions have no token"):
        arguments.tokens_in_every_row(torch.tensor([[0, 0], [1, 0], [0, 0]]))


@pytest.mark.parametrize("number", [0, 0.0, -1, NAN, None])
def test_positive(number):
    arguments.positive(gamma=1e-9)
    with pytest.raises(ValueError, match=f"^beta must be above 0, not {number}"):
        arguments.positive(gamma=1, beta=number)


@pytest.mark.parametrize("number", [-1e-9, NAN])
def test_not_negative(number):
    arguments.not_negative(gamma=0)
    with pytest.raises(ValueError, match=f"^beta must be 0 or more, not {number}"):
        arguments.not_negative(gamma=1, beta=number)


def test_one_of():
    arguments.one_of(("a", "b"), scale="b")
    with pytest.raises(ValueError, match="^scale must be one of a, b, not 'c'"):
        arguments.one_of(("a", "b"), scale="c")
