"""Data: one view of every kind of dataset a user may hand over, checked as it is read."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, default_collate

from forgetcast.errors import DatasetError, IndexRangeError
from forgetcast.files.exact_values import sample_numbers
from forgetcast.target.content_hash import row_hashes
from forgetcast.target.dataset_reader import DatasetReader
from forgetcast.target.inputs import Inputs, joined, leaves, map_leaves, named_leaves
from forgetcast.target.loaders import check_gives_all
from forgetcast.target.samples import check_finite_inputs, checked_inputs, checked_labels
from forgetcast.target.seeding import fork_torch_rng

__all__ = ["Data"]

CACHE_BYTES = 1 << 30
"""Bytes of a dataset's samples that are kept once read, at most; larger data is read again whenever it is needed."""


class Data:
    """Samples (x, y) behind one interface: in order, in batches, or by index.

    Accepts a pair of tensors or arrays, a map-style ``torch.utils.data.Dataset`` of (x, y), or a ``DataLoader``
    (its dataset and collate function are used, in the dataset's order; one whose sampler leaves samples out is refused,
    so that sample k is item k of the dataset). An item or a batch may also be one dict that
    holds the label under ``labels`` or ``label``, as those of Hugging Face do; the rest is x. Items of a dataset are
    read once and kept while they take at most 1 GiB; beyond that they are read again whenever they are needed. A few
    are read a second time at once: a dataset that draws its items at random (augmentation) is refused, since what was
    measured on one draw says nothing about the next. Reading leaves the random state of torch as it was.

    Args:
        source: the samples.
        collate_fn: turns a list of items into a batch (x, y); default ``torch.utils.data.default_collate``.
        role: what messages call it, such as "dataset" or "held-out dataset".

    Raises:
        DatasetError: empty, of unequal lengths, sparse or not finite; labels that are missing or no integers >= 0;
            items that differ when they are read again, or a length that changes; a loader that leaves some samples out.
    """

    labels: Tensor
    """Class of every sample, int64, shape (n,), on the CPU."""

    def __init__(
        self,
        source: Any,
        *,
        collate_fn: Callable[[list[Any]], Any] | None = None,
        role: str = "dataset",
    ) -> None:
        self.role = role
        self._reader: DatasetReader | None = None
        self._x: Inputs | None = None
        self._items: list[Any] | None = None
        self._hashes: np.ndarray | None = None
        self._order: Tensor | None = None
        if isinstance(source, DataLoader):
            check_gives_all(source, role)
            if source.batch_sampler is not None:  # without one, its collate function is for single items
                collate_fn = collate_fn or source.collate_fn
            source = source.dataset
        if isinstance(source, (tuple, list)):
            self._from_pair(source)
        else:
            self._from_dataset(DatasetReader(source, collate_fn or default_collate, role))

    def __getstate__(self) -> dict[str, Any]:
        """What is copied or sent to another process: of a slice the slice alone, not all that it was cut from."""
        x = None if self._x is None else map_leaves(_own, self._x)
        return {**self.__dict__, "labels": _own(self.labels), "_x": x}

    def _from_pair(self, pair: Sequence[Any]) -> None:
        if len(pair) != 2:
            raise DatasetError(
                f"the {self.role}: expected a pair (inputs, labels) or a map-style dataset; "
                f"got a {type(pair).__name__} of {len(pair)} items"
            )
        x, y = pair
        x = checked_inputs(self.role, x)
        self.labels = checked_labels(self.role, y)
        lengths = {len(leaf) for leaf in leaves(x)}
        if lengths != {len(self.labels)}:
            raise DatasetError(
                f"the {self.role}: expected as many inputs as labels; got {sorted(lengths)} inputs and "
                f"{len(self.labels)} labels"
            )
        self._check_not_empty()
        check_finite_inputs(self.role, x, range(len(self.labels)))
        self._x = x

    def _from_dataset(self, reader: DatasetReader) -> None:
        self._reader = reader
        kept: list[Any] | None = []  # joined batches or, of a collate function that may pad, the items
        size = 0
        labels = [torch.empty(0, dtype=torch.long, device="cpu")]
        hashes: list[np.ndarray] = []
        with fork_torch_rng():
            for indices, items, x, y in reader.pieces():
                labels.append(y)
                if reader.joinable:
                    hashes.append(row_hashes(x))
                else:  # a sample must not look other beside a longer one
                    alone = (reader.batch([item], [k])[0] for k, item in zip(indices, items, strict=True))
                    hashes += [row_hashes(one) for one in alone]
                size += sum(leaf.nbytes for leaf in leaves(x))
                if size > CACHE_BYTES:
                    kept = None
                elif kept is not None:
                    kept += [x] if reader.joinable else items
            self.labels = torch.cat(labels)
            self._check_not_empty()
            reader.check_steady()
            self._hashes = np.concatenate(hashes)
        if kept is not None:
            if reader.joinable:
                self._x = joined(kept)
            else:
                self._items = kept

    def _check_not_empty(self) -> None:
        if len(self.labels) == 0:
            raise DatasetError(f"the {self.role} is empty: expected at least one sample (x, y)")

    def __len__(self) -> int:
        return len(self.labels)

    def check_indices(self, indices: Any) -> Tensor:
        """Indices as an int64 tensor of shape (m,), in the order given.

        Raises:
            IndexRangeError: not integers, repeated, or outside the dataset.
        """
        array = sample_numbers(indices)
        if array.size == 0:
            raise IndexRangeError("expected at least one sample index; got none")
        outside = array[(array < 0) | (array >= len(self))]
        if len(outside):
            raise IndexRangeError(
                f"sample index {int(outside[0])} is out of range: the {self.role} has {len(self)} samples "
                f"(0 to {len(self) - 1})"
            )
        values, counts = np.unique(array, return_counts=True)
        if (counts > 1).any():
            raise IndexRangeError(f"sample index {int(values[counts > 1][0])} is given more than once")
        return torch.as_tensor(array, device="cpu")

    def fetch(self, indices: Tensor | Sequence[int]) -> tuple[Inputs, Tensor]:
        """Inputs and labels (int64) of the given samples, in that order, on the CPU."""
        index = torch.as_tensor(indices, dtype=torch.long, device="cpu")
        place = self.numbers(index)
        if self._x is not None:
            return map_leaves(lambda leaf: leaf[place], self._x), self.labels[index]
        assert self._reader is not None, "a pair is kept"
        where = place.tolist()
        with fork_torch_rng():
            items = self._reader.items(where) if self._items is None else [self._items[k] for k in where]
            x, y = self._reader.batch(items, where)
        if bool((y != self.labels[index]).any()):
            k = int((y != self.labels[index]).nonzero()[0])
            raise DatasetError(
                f"the {self.role} gives another label when item {where[k]} is read again: first "
                f"{int(self.labels[where[k]])}, now {int(y[k])}. The order or the labels change as it is read: hand "
                "over the data without shuffling."
            )
        return x, self.labels[index]

    def reordered(self, order: Tensor) -> Data:
        """A view of the same samples in another order, a permutation of int64, (n,); messages keep the numbers."""
        other = copy.copy(self)
        other._order, other.labels = self.numbers(order), self.labels[order]
        other._hashes = self.content_hashes()[order.numpy()]
        return other

    @property
    def in_memory(self) -> bool:
        """Whether samples are read from memory, in any order at the same cost."""
        return self._x is not None or self._items is not None

    def numbers(self, index: Tensor) -> Tensor:
        """The numbers that the source gives to the samples ``index``, of the same shape."""
        return index if self._order is None else self._order[index]

    def batches(self, size: int = 256) -> Iterator[tuple[Tensor, Inputs, Tensor]]:
        """All samples in order: (indices, x, y) for each batch."""
        for start in range(0, len(self), size):
            index = torch.arange(start, min(start + size, len(self)), device="cpu")
            yield index, *self.fetch(index)

    def content_hashes(self) -> np.ndarray:
        """A 64-bit hash of every sample's inputs, shape (n,), uint64: equal for equal numbers, whatever their dtype.

        Of a dataset they are made as it is read first, so that asking for them reads nothing again.
        """
        if self._hashes is None:
            self._hashes = np.concatenate([row_hashes(x) for _, x, _ in self.batches(1 << 12)])
        return self._hashes

    def digest(self) -> str:
        """SHA-256 over labels and inputs (reads everything once), hexadecimal."""
        sha = hashlib.sha256(self.labels.numpy().tobytes())
        for _, x, _ in self.batches():
            for name, leaf in named_leaves(x):
                sha.update(f"{name}{(leaf.dtype, tuple(leaf.shape[1:]))}".encode())
                sha.update(leaf.contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return sha.hexdigest()


def _own(tensor: Tensor) -> Tensor:
    """The tensor itself, or a copy where it is a small part of a larger one."""
    return tensor if tensor.untyped_storage().nbytes() <= 2 * tensor.nbytes else tensor.clone()
