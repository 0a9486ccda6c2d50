"""Rows that come part by part, put into one array from the start.

Parts that are kept one by one lie between the large blocks of memory that each was made from. Where the next block does
not fit the gap that the one before left, memory grows by a block for every part, though nothing refers to it.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

__all__ = ["PreallocatedRows", "concatenated"]


class PreallocatedRows:
    """An array of n rows that is filled from the top.

    >>> rows = PreallocatedRows(3)
    >>> rows.add(torch.tensor([5, 7]))
    >>> rows.add(torch.tensor([9]))
    >>> rows.array
    tensor([5, 7, 9])
    """

    def __init__(self, n: int) -> None:
        self.count = 0
        """Rows that are there."""
        self._n = n
        self._array = torch.empty(0)

    def add(self, part: Tensor) -> None:
        """The next rows (b, ...); the first ones say of which type and device the array is."""
        if not self.count:
            self._array = part.new_empty((self._n, *part.shape[1:]))
        self._array[self.count : self.count + len(part)] = part
        self.count += len(part)

    @property
    def array(self) -> Tensor:
        """What is there, shape (count, ...)."""
        return self._array[: self.count]


def concatenated(n: int, parts: Iterable[Tensor]) -> Tensor:
    """The parts one after the other: n rows in all."""
    rows = PreallocatedRows(n)
    for part in parts:
        rows.add(part)
    return rows.array
