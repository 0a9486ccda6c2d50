"""Random numbers that leave the caller's generators alone."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from forgetcast.target.settings import TORCH_LOCK

__all__ = ["fork_all_rngs", "fork_torch_rng", "sample_positions", "seeded"]


@contextmanager
def fork_torch_rng(device: torch.device | None = None) -> Iterator[None]:
    """A block after which torch's generator on the CPU, and on ``device`` if it is a GPU, is as before.

    One thread at a time: the generators are common to all, and another would put back what it found in the middle.
    Unlike :func:`fork_all_rngs` it lets NumPy and Python draw on, so that data drawn at random differ when read again.
    """
    gpus = [device] if device is not None and device.type == "cuda" else []
    with TORCH_LOCK, torch.random.fork_rng(devices=gpus):
        yield


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
    with fork_torch_rng(device):
        torch.default_generator.manual_seed(seed)
        if device is not None and device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield


@contextmanager
def fork_all_rngs() -> Iterator[None]:
    """A block after which the generators of Python, NumPy and torch, on all devices in use, are as before.

    For the code of others, which may draw from any of them; it takes no lock, so that such code may use threads.
    """
    gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
    states = random.getstate(), np.random.get_state(), torch.random.get_rng_state()
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.random.set_rng_state(states[2])
        if gpus is not None:
            torch.cuda.set_rng_state_all(gpus)


def sample_positions(n: int, m: int, seed: int) -> Tensor:
    """min(m, n) of n positions drawn by ``seed``, sorted, int64.

    >>> sample_positions(4, 9, seed=0).tolist()
    [0, 1, 2, 3]
    """
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed), device="cpu")[:m].sort().values
