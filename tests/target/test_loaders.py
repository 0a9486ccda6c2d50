"""Loaders: whatever draws the samples, those that are forecast are those that it can give, or it is refused."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    DistributedSampler,
    RandomSampler,
    Sampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from forgetcast.errors import DatasetError
from forgetcast.target.data import Data

N = 30
DATA = TensorDataset(torch.arange(N)[:, None].float(), torch.arange(N) % 3)


class Custom(Sampler):
    """Positions, or lists of them, by a rule that nobody else knows; each epoch may draw anew."""

    def __init__(self, epoch: Callable[[], Any]) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[Any]:
        return iter(self.epoch())

    def __len__(self) -> int:
        return N


class EverySecond(SequentialSampler):
    """A subclass that gives other positions than its parent."""

    def __iter__(self) -> Iterator[int]:
        return iter(range(0, len(self.data_source), 2))


def endless() -> Iterator[int]:
    """Epoch after epoch without end."""
    while True:
        yield from np.random.permutation(N).tolist()


def lists(positions: Any, size: int = 4) -> list[list[int]]:
    """Positions in batches."""
    positions = list(positions)
    return [positions[k : k + size] for k in range(0, len(positions), size)]


TAKEN: dict[str, dict[str, Any]] = {
    "in order": {"batch_size": 7},
    "shuffled": {"shuffle": True, "batch_size": 7},
    "shuffled, the last batch dropped": {"shuffle": True, "batch_size": 7, "drop_last": True},
    "in order, nothing to drop": {"batch_size": 10, "drop_last": True},
    "one at a time": {"batch_size": None},
    "drawn with replacement": {"sampler": RandomSampler(DATA, replacement=True)},
    "some each epoch": {"sampler": RandomSampler(DATA, num_samples=5)},
    "a permutation": {"sampler": SubsetRandomSampler(np.random.default_rng(0).permutation(N).tolist())},
    "a list of all": {"sampler": list(range(N))[::-1]},
    "all of some weight": {"sampler": WeightedRandomSampler([0.1 + k for k in range(N)], N)},
    "own sampler": {"sampler": Custom(lambda: np.random.permutation(N))},
    "own sampler of tensors": {"sampler": Custom(lambda: torch.randperm(N))},
    "own sampler that oversamples": {"sampler": Custom(lambda: [*range(N), *range(5)])},
    "own sampler without end": {"sampler": Custom(endless)},
    "own batches": {"batch_sampler": Custom(lambda: lists(torch.randperm(N).tolist()))},
    "batches of a sampler": {"batch_sampler": BatchSampler(RandomSampler(DATA), 7, drop_last=True)},
    "batches as positions": {"sampler": BatchSampler(RandomSampler(DATA), 5, drop_last=False), "batch_size": None},
    "one process": {"sampler": DistributedSampler(DATA, num_replicas=1, rank=0)},
}
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "the first": ({"sampler": SubsetRandomSampler(range(20))}, r"gives 20 of 30 \(SubsetRandomSampler\)"),
    "a list of some": ({"sampler": [3, 1, 4, 1, 5]}, r"gives 4 of 30 \(list\)"),
    "in order, the last batch dropped": ({"batch_size": 7, "drop_last": True}, "gives 28 of 30 .*and drop_last"),
    "less than a batch": ({"shuffle": True, "batch_size": 31, "drop_last": True}, "gives 0 of 30"),
    "a shorter source": ({"sampler": RandomSampler(range(12))}, "gives 12 of 30"),
    "a shorter source in order": ({"sampler": SequentialSampler(range(12))}, "gives 12 of 30"),
    "no weight for some": (
        {"sampler": WeightedRandomSampler([0, 1] * 15, 90)},
        "gives 15 of 30 .WeightedRandomSampler",
    ),
    "a subclass": ({"sampler": EverySecond(DATA)}, "gives 15 of 30 .EverySecond"),
    "own sampler": ({"sampler": Custom(lambda: range(5, 30))}, "gives 25 of 30 .Custom"),
    "own batches": ({"batch_sampler": Custom(lambda: lists(range(9)))}, "gives 9 of 30 .Custom"),
    "batches of a sampler": (
        {"batch_sampler": BatchSampler(SubsetRandomSampler(range(8)), 4, drop_last=False)},
        "gives 8 of 30 .SubsetRandomSampler",
    ),
    "one without end that misses one": ({"sampler": Custom(lambda: (k % 29 for k in endless()))}, "gives 29 of 30"),
    "a process's share": ({"sampler": DistributedSampler(DATA, num_replicas=3, rank=1)}, "one process's share.*3 proc"),
    "one that raises": ({"sampler": Custom(lambda: 1 // 0)}, "Custom raised ZeroDivisionError"),
}


@pytest.mark.parametrize("name", TAKEN)
def test_a_loader_that_gives_all_is_its_dataset(name: str) -> None:
    """Sample k is item k, whatever the order of training; looking leaves every random state as it was."""
    loader = DataLoader(DATA, **TAKEN[name])
    before = torch.random.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    data = Data(loader)
    after = torch.random.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    assert torch.equal(data.fetch(range(N))[0], DATA.tensors[0])
    assert torch.equal(before[0], after[0])
    assert (before[1] == after[1]).all()
    assert before[2] == after[2]


@pytest.mark.parametrize("name", REFUSED)
def test_a_loader_that_leaves_samples_out_is_refused(name: str) -> None:
    """In one line that says how many it gives, and how to hand over just those."""
    settings, message = REFUSED[name]
    with pytest.raises(DatasetError, match=message) as caught:
        Data(DataLoader(DATA, **settings), role="held-out dataset")
    assert "the held-out dataset" in str(caught.value)
    assert "loader.dataset" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", [name for name in REFUSED if "raises" not in name and "share" not in name])
def test_what_is_counted_is_what_the_loader_gives(name: str) -> None:
    """The number in the message, against the loader itself, run for some epochs."""
    settings, message = REFUSED[name]
    loader = DataLoader(DATA, **settings)
    found: set[int] = set()
    for _ in range(20):
        for count, (x, _) in enumerate(loader):
            found |= set(x.flatten().int().tolist())
            if count > 10 * N:
                break
    assert f"gives {len(found)} of 30" in message
    subset = Data(Subset(DATA, sorted(found))) if found else ()
    assert len(subset) == len(found)
