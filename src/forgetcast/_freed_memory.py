"""Memory that batches took goes back to the system while a large dataset is read.

glibc keeps freed blocks of up to 32 MB, and what is kept of each batch lies between them: the aligned blocks of the
next batches do not fit the gaps, and the process grows with the data although nothing refers to it.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from typing import TypeVar

__all__ = ["giving_back"]

STRETCH = 1 << 24
"""Bytes that are read before freed memory is given back."""

Part = TypeVar("Part")


def giving_back(parts: Iterable[Part], size: Callable[[Part], int]) -> Iterator[Part]:
    """The same parts; after every stretch of them freed memory is given back. ``size``: the bytes of a part."""
    read = 0
    for part in parts:
        read += size(part)
        yield part
        if read >= STRETCH:
            read = 0
            _malloc_trim()(0)


@lru_cache(maxsize=1)
def _malloc_trim() -> Callable[[int], int]:
    """The function of glibc; one that does nothing where the C library is another."""
    try:
        return ctypes.CDLL(None).malloc_trim  # type: ignore[no-any-return]
    except (AttributeError, OSError, TypeError):  # TypeError: Windows has no library of the whole process
        return lambda pad: 0
