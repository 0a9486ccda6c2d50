"""Which types of numbers a model takes its inputs in: their own, unless the model itself refuses them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import product
from typing import TypeVar

import torch
from torch import Tensor

from forgetcast.errors import ForgetcastError
from forgetcast.target.inputs import Inputs, leaves, map_leaves

__all__ = ["Types", "cast", "types_of", "types_taken"]

Types = tuple[torch.dtype, ...]
"""Types of all tensors of a batch, in their order."""

T = TypeVar("T")

MOST = 256
"""Combinations of types that are tried where a model takes several inputs."""


def types_of(x: Inputs) -> Types:
    """The types of the tensors of a batch."""
    return tuple(leaf.dtype for leaf in leaves(x))


def cast(x: Inputs, types: Types) -> Inputs:
    """The batch with its tensors in these types."""
    left = iter(types)
    return map_leaves(lambda leaf: leaf.to(next(left)), x)


def types_taken(ask: Callable[[Inputs], T], x: Inputs, parameters: Iterable[Tensor]) -> tuple[Types, T]:
    """The types in which a model takes a batch, with as few casts as it does with, and its answer.

    Real numbers are cast to real ones and complex to complex ones only, to types that the model's parameters have, the
    most precise first. Integers stay what they are: token numbers and pixels are not the same as real numbers.

    Args:
        ask: runs the model; an error says that it does not take the batch, but for our own errors.
        x: the batch, on the model's device.
        parameters: those of the model; none where nothing may be cast.

    Raises:
        ForgetcastError: what ``ask`` raised.
        Exception: the model takes the batch in no type; what it raised when all was in its most precise type.
    """
    own = types_of(x)
    first: Exception | None = None
    likeliest: Exception | None = None
    for types in _attempts(own, _offered(parameters)):
        try:
            return types, ask(map_leaves(Tensor.clone, cast(x, types)))
        except ForgetcastError:
            raise
        except Exception as error:
            first = first or error
            if len({dtype for dtype in types if dtype.is_floating_point or dtype.is_complex}) <= 1:
                likeliest = likeliest or (None if types == own else error)
    assert first is not None
    raise likeliest or first


def _offered(parameters: Iterable[Tensor]) -> list[torch.dtype]:
    """Types of the parameters that are no whole numbers, the most precise first."""
    found = {p.dtype for p in parameters if p.is_floating_point() or p.is_complex()}
    return sorted(found, key=lambda dtype: torch.finfo(dtype).eps)


def _attempts(own: Types, offered: Iterable[torch.dtype]) -> Iterator[Types]:
    """Combinations of types to try, those with fewer casts first, the batch's own at the very first."""
    choices = [
        [dtype, *(other for other in offered if other != dtype and other.is_complex == dtype.is_complex)]
        if dtype.is_floating_point or dtype.is_complex
        else [dtype]
        for dtype in own
    ]
    combinations = 1
    for choice in choices:
        combinations *= len(choice)
    if combinations > MOST:
        yield own
        for dtype in offered:
            yield tuple(dtype if dtype in choice else choice[0] for choice in choices)
        return
    numbered = product(*(range(len(choice)) for choice in choices))
    for numbers in sorted(numbered, key=lambda numbers: (sum(n > 0 for n in numbers), numbers)):
        yield tuple(choice[n] for choice, n in zip(choices, numbers, strict=True))
