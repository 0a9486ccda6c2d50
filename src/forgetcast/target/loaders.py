"""Whether a loader gives every sample of its dataset: what it leaves out, the model was not trained on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

from forgetcast.errors import DatasetError, first_line
from forgetcast.target.seeding import fork_all_rngs

__all__ = ["check_gives_all"]

EPOCHS = 10
"""Passes over the data after which a sampler that does not end is taken at what it gave so far."""
SHUFFLING = (RandomSampler, SubsetRandomSampler, WeightedRandomSampler)
"""Samplers with another order each epoch: no sample is at the end every time."""


def check_gives_all(loader: DataLoader, role: str = "dataset") -> None:
    """Refuse a loader that leaves samples of its dataset out, so that sample k is item k of the dataset.

    What the samplers of torch can give over all epochs is known; any other sampler is asked for one epoch.

    Args:
        loader: over a map-style dataset; others are left to ``Data`` to refuse.
        role: what messages call the data.

    Raises:
        DatasetError: it never gives some samples, or gives one process's share of them.
    """
    n = _length(loader.dataset)
    if n is None:
        return
    sampler: Any = loader.sampler if loader.batch_sampler is None else loader.batch_sampler
    inner = sampler.sampler if type(sampler) is BatchSampler else sampler
    name = type(inner).__name__
    if isinstance(inner, DistributedSampler) and inner.num_replicas > 1:
        raise DatasetError(
            f"the {role}: its loader gives one process's share of the samples ({name}, {inner.num_replicas} "
            "processes): if all of them trained the model, hand over the dataset itself (loader.dataset)"
        )
    with fork_all_rngs():
        try:
            given = len(_given(sampler, n))
        except Exception as error:
            raise DatasetError(
                f"the {role}: the loader's {name} raised {type(error).__name__}: {first_line(error)}. Hand over the "
                "dataset itself (loader.dataset)"
            ) from error
    if given < n:
        why = name + (" and drop_last" if getattr(sampler, "drop_last", False) else "")
        raise DatasetError(
            f"the {role}: expected a loader that gives every sample of its dataset; this one gives {given} of {n} "
            f"({why}). Hand over just those, torch.utils.data.Subset(loader.dataset, indices): sample k is then "
            "indices[k]"
        )


def _length(dataset: Any) -> int | None:
    """Number of items, or None where ``Data`` has to say what is wrong."""
    if isinstance(dataset, IterableDataset):
        return None
    try:
        return len(dataset)
    except Exception:
        return None


def _given(sampler: Any, n: int) -> np.ndarray:
    """The positions among n, each once, that a sampler of samples or of batches can give."""
    if type(sampler) in (SequentialSampler, RandomSampler):
        positions: Any = range(len(sampler.data_source))
    elif type(sampler) is SubsetRandomSampler:
        positions = sampler.indices
    elif type(sampler) is WeightedRandomSampler:
        positions = np.flatnonzero(np.asarray(sampler.weights) > 0)
    elif type(sampler) is BatchSampler and not sampler.drop_last:
        return _given(sampler.sampler, n)
    elif type(sampler) is BatchSampler and type(sampler.sampler) in SHUFFLING:
        inner: Any = sampler.sampler
        positions = _given(inner, n) if len(inner) >= sampler.batch_size else []
    else:
        positions = _one_epoch(sampler, n)
    found = np.unique(np.fromiter(map(int, positions), dtype=np.int64))
    return found[(found >= 0) & (found < n)]


def _one_epoch(sampler: Iterable[Any], n: int) -> set[int]:
    """What a sampler gives in one epoch, which may be batches; it is left when all n are there."""
    found: set[int] = set()
    for count, position in enumerate(_flat(sampler)):
        found.add(position)
        if len(found) >= n or count >= EPOCHS * n:
            break
    return found


def _flat(positions: Iterable[Any]) -> Iterator[int]:
    for position in positions:
        if isinstance(position, (list, tuple, np.ndarray)) or (isinstance(position, torch.Tensor) and position.ndim):
            yield from _flat(position)
        else:
            yield int(position)
