"""What the answer key asks of its arguments, said once: precision, padding, shapes and ranges."""

import torch
from torch import Tensor


def full_precision(x: Tensor) -> Tensor:
    """x in float32 at least."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def same_shape(mask: Tensor, **tensors: Tensor) -> None:
    """ValueError unless each tensor has the shape of the mask: another might broadcast to it."""
    for name, x in tensors.items():
        if x.shape != mask.shape:
            raise ValueError(
                f"{name} {tuple(x.shape)} and mask {tuple(mask.shape)} differ in shape: need one "
                "entry a token, (B, T) (to spread (B,) over them: x.unsqueeze(1).expand(-1, T))"
            )


def unpadded(mask: Tensor, **tensors: Tensor) -> list[Tensor]:
    """Each tensor in float32 at least and 0 where masked; ValueError as in `same_shape`.

    Before any arithmetic: behind an exp or a square, `torch.where` cannot keep a NaN out of the
    gradient any more (0 * inf is NaN).
    """
    same_shape(mask, **tensors)
    return [torch.where(mask.bool(), full_precision(x), 0.0) for x in tensors.values()]


def one_each(mask: Tensor, **tensors: Tensor) -> None:
    """ValueError unless each tensor has one entry a row of the mask, (B,)."""
    for name, x in tensors.items():
        if x.shape != mask.shape[:1]:
            raise ValueError(
                f"{name} {tuple(x.shape)}: need one a completion, {tuple(mask.shape[:1])}"
            )


def per_sequence(**tensors: Tensor) -> list[Tensor]:
    """Each tensor in float32 at least; ValueError unless all are (B,) with at least one row."""
    shapes = {tuple(x.shape) for x in tensors.values()}
    if len(shapes) > 1 or any(len(shape) != 1 or not shape[0] for shape in shapes):
        given = ", ".join(f"{name} {tuple(x.shape)}" for name, x in tensors.items())
        raise ValueError(
            f"{given}: need one number a sequence, all (B,) with at least one row; "
            "masked_sum(logprobs, mask, dim=1) sums log-probs, squeeze(-1) drops a last dimension"
        )
    return [full_precision(x) for x in tensors.values()]


def tokens_in_every_row(mask: Tensor) -> None:
    """ValueError unless each row of the mask (B, T) has a token."""
    empty = int((~mask.bool().any(1)).sum())
    if empty:
        raise ValueError(
            f"{empty} of {len(mask)} completions have no token: their mask is all 0, and it must "
            "cover EOS"
        )


def positive(**numbers: float | None) -> None:
    """ValueError unless each number is there and above 0."""
    for name, number in numbers.items():
        if number is None or not number > 0:
            raise ValueError(f"{name} must be above 0, not {number}")


def not_negative(**numbers: float) -> None:
    """ValueError unless each number is 0 or more."""
    for name, number in numbers.items():
        if not number >= 0:
            raise ValueError(f"{name} must be 0 or more, not {number}")


def one_of(options, **choices: str) -> None:
    """ValueError unless each choice is one of the options."""
    for name, choice in choices.items():
        if choice not in options:
            raise ValueError(f"{name} must be one of {', '.join(options)}, not {choice!r}")
