"""Seeded random numbers of torch that leave the caller's generators alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

__all__ = ["sample_positions", "seeded"]


@contextmanager
def seeded(seed: int, device: torch.device | None = None) -> Iterator[None]:
    """A block in which the CPU, and ``device`` if it is a GPU, draw from ``seed``; afterwards all is as before.

    ``torch.manual_seed`` seeds every GPU of the machine, also those whose state nobody restores.

    >>> state = torch.random.get_rng_state()
    >>> with seeded(0):
    ...     first = torch.rand(2)
    >>> bool((torch.random.get_rng_state() == state).all())
    True
    """
    gpus = [device] if device is not None and device.type == "cuda" else []
    with torch.random.fork_rng(devices=gpus):
        torch.default_generator.manual_seed(seed)
        for gpu in gpus:
            with torch.cuda.device(gpu):
                torch.cuda.manual_seed(seed)
        yield


def sample_positions(n: int, m: int, seed: int) -> Tensor:
    """min(m, n) of n positions drawn by ``seed``, sorted, int64.

    >>> sample_positions(4, 9, seed=0).tolist()
    [0, 1, 2, 3]
    """
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed))[:m].sort().values
