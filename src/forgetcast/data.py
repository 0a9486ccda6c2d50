"""Data: one view of every kind of dataset a user may hand over, checked as it is read."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, default_collate

from forgetcast.errors import DatasetError, IndexRangeError

__all__ = ["Data", "Inputs", "channels_last"]

Inputs = Any
"""A batch of inputs: a tensor, or a dict or tuple of tensors with the batch as first dimension."""

CACHE_BYTES = 1 << 30


def leaves(x: Inputs) -> list[Tensor]:
    """Every tensor of a batch of inputs."""
    if isinstance(x, Tensor):
        return [x]
    parts = x.values() if isinstance(x, dict) else x
    return [leaf for part in parts for leaf in leaves(part)]


def map_leaves(function: Callable[[Tensor], Tensor], x: Inputs) -> Inputs:
    """The same batch with ``function`` applied to every tensor."""
    if isinstance(x, Tensor):
        return function(x)
    if isinstance(x, dict):
        return {name: map_leaves(function, part) for name, part in x.items()}
    return tuple(map_leaves(function, part) for part in x)


def channels_last(x: Inputs) -> Inputs:
    """The same batch with every 4-D tensor laid out channels last, also where there is one channel.

    ``Tensor.contiguous`` takes a single channel for laid out already, and convolutions then fall back to slow paths.
    On one core a small CNN runs 2.6 times as fast this way and trains 1.7 times as fast; results differ by rounding.
    """

    def lay_out(leaf: Tensor) -> Tensor:
        if leaf.ndim != 4:
            return leaf
        return torch.empty_like(leaf, memory_format=torch.channels_last).copy_(leaf)

    return map_leaves(lay_out, x)


def _join(parts: list[Inputs]) -> Inputs:
    first = parts[0]
    if isinstance(first, Tensor):
        return torch.cat(parts)
    if isinstance(first, dict):
        return {name: _join([part[name] for part in parts]) for name in first}
    return tuple(_join([part[k] for part in parts]) for k in range(len(first)))


class Data:
    """Samples (x, y) behind one interface: in order, in batches, or by index.

    Accepts a pair of tensors or arrays, a map-style ``torch.utils.data.Dataset`` of (x, y), or a ``DataLoader``
    (its dataset and collate function are used, its sampling is not). Items of a dataset are read once and kept
    while they take at most 1 GiB; beyond that they are read again whenever they are needed.

    Args:
        source: the samples.
        collate_fn: turns a list of items into a batch (x, y); default ``torch.utils.data.default_collate``.
        role: what messages call it, such as "dataset" or "held-out dataset".

    Raises:
        DatasetError: empty, of unequal lengths, not finite, or with labels that are not integers >= 0.
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
        self._dataset: Any = None
        self._x: Inputs | None = None
        if isinstance(source, DataLoader):
            collate_fn = collate_fn or source.collate_fn
            source = source.dataset
        self._collate = collate_fn or default_collate
        if isinstance(source, (tuple, list)):
            self._from_pair(source)
        else:
            self._from_dataset(source)
        if len(self.labels) == 0:
            raise DatasetError(f"the {role} is empty: expected at least one sample (x, y)")

    def _from_pair(self, pair: Sequence[Any]) -> None:
        if len(pair) != 2:
            raise DatasetError(
                f"the {self.role}: expected a pair (inputs, labels) or a map-style dataset; "
                f"got a {type(pair).__name__} of {len(pair)} items"
            )
        x, y = pair
        if not isinstance(x, (dict, tuple, list)):
            try:
                x = torch.as_tensor(x)
            except (TypeError, ValueError, RuntimeError) as error:
                raise DatasetError(f"the {self.role}: inputs are not numeric arrays: {error}") from error
        else:
            x = map_leaves(torch.as_tensor, x)
        self.labels = self._checked_labels(y)
        lengths = {len(leaf) for leaf in leaves(x)}
        if lengths != {len(self.labels)}:
            raise DatasetError(
                f"the {self.role}: expected as many inputs as labels; got {sorted(lengths)} inputs and "
                f"{len(self.labels)} labels"
            )
        self._check_finite(x, 0)
        self._x = x

    def _from_dataset(self, source: Any) -> None:
        if isinstance(source, IterableDataset) or not (hasattr(source, "__len__") and hasattr(source, "__getitem__")):
            raise DatasetError(
                f"the {self.role}: expected a map-style dataset (with __len__ and __getitem__), a pair of tensors or "
                f"a DataLoader over one; got {type(source).__name__}. Materialise an iterable dataset first."
            )
        self._dataset = source
        n = len(source)
        if n == 0:
            self.labels = torch.empty(0, dtype=torch.long)
            return
        kept: list[Inputs] | None = []
        size = 0
        labels = []
        for start in range(0, n, 512):
            x, y = self._read(range(start, min(start + 512, n)))
            labels.append(self._checked_labels(y))
            size += sum(leaf.nbytes for leaf in leaves(x))
            kept = None if kept is None or size > CACHE_BYTES else [*kept, x]
        self.labels = torch.cat(labels)
        if kept is not None:
            self._x = _join(kept)

    def _read(self, indices: Sequence[int]) -> tuple[Inputs, Any]:
        items = []
        for index in indices:
            try:
                items.append(self._dataset[int(index)])
            except Exception as error:
                raise DatasetError(f"the {self.role} raised {type(error).__name__} at item {index}: {error}") from error
        try:
            batch = self._collate(items)
        except Exception as error:
            raise DatasetError(
                f"the {self.role}: items {indices[0]}-{indices[-1]} cannot be made into a batch "
                f"({type(error).__name__}: {error}). Items must be tensors or arrays of one shape: add a transform "
                "such as ToTensor, or give a collate_fn."
            ) from error
        if not isinstance(batch, (tuple, list)) or len(batch) != 2:
            raise DatasetError(
                f"the {self.role}: expected items (x, y); a batch came out as {type(batch).__name__}"
                + (f" of {len(batch)}" if isinstance(batch, (tuple, list)) else "")
                + ". Give a collate_fn that returns (x, y)."
            )
        x, y = batch
        x = map_leaves(torch.as_tensor, x)
        self._check_finite(x, indices[0])
        return x, y

    def _checked_labels(self, y: Any) -> Tensor:
        try:
            labels = torch.as_tensor(np.asarray(y) if not isinstance(y, Tensor) else y).detach().cpu()
        except (TypeError, ValueError, RuntimeError) as error:
            raise DatasetError(
                f"the {self.role}: labels must be class numbers (integers); got {type(y).__name__}: {error}"
            ) from error
        if labels.ndim != 1:
            raise DatasetError(
                f"the {self.role}: expected labels of shape (n,); got {tuple(labels.shape)}. "
                "For one-hot labels pass labels.argmax(1)."
            )
        if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
            raise DatasetError(
                f"the {self.role}: labels must be integers (class numbers from 0); got {labels.dtype}. "
                "Convert with labels.long()."
            )
        labels = labels.long()
        if len(labels) and int(labels.min()) < 0:
            where = int((labels < 0).nonzero()[0])
            raise DatasetError(
                f"the {self.role}: labels must be class numbers from 0; item {where} has label {int(labels[where])}"
            )
        return labels

    def _check_finite(self, x: Inputs, offset: int) -> None:
        for leaf in leaves(x):
            if leaf.is_floating_point():
                bad = ~torch.isfinite(leaf.flatten(1) if leaf.ndim > 1 else leaf[:, None]).all(1)
                if bad.any():
                    items = (bad.nonzero().flatten()[:5] + offset).tolist()
                    raise DatasetError(
                        f"the {self.role} has NaN or infinite inputs in {int(bad.sum())} item(s), first {items}: "
                        "clean or impute them first"
                    )

    def __len__(self) -> int:
        return len(self.labels)

    def check_indices(self, indices: Any) -> Tensor:
        """Indices as an int64 tensor of shape (m,), in the order given.

        Raises:
            IndexRangeError: not integers, repeated, or outside the dataset.
        """
        array = np.atleast_1d(np.asarray(indices))
        if array.size == 0:
            raise IndexRangeError("expected at least one sample index; got none")
        if array.ndim != 1 or array.dtype.kind not in "iu":
            raise IndexRangeError(f"sample indices must be integers; got {array.dtype} of shape {array.shape}")
        outside = array[(array < 0) | (array >= len(self))]
        if len(outside):
            raise IndexRangeError(
                f"sample index {int(outside[0])} is out of range: the {self.role} has {len(self)} samples "
                f"(0 to {len(self) - 1})"
            )
        values, counts = np.unique(array, return_counts=True)
        if (counts > 1).any():
            raise IndexRangeError(f"sample index {int(values[counts > 1][0])} is given more than once")
        return torch.as_tensor(array.astype(np.int64))

    def fetch(self, indices: Tensor | Sequence[int]) -> tuple[Inputs, Tensor]:
        """Inputs and labels (int64) of the given samples, in that order, on the CPU."""
        index = torch.as_tensor(indices, dtype=torch.long)
        if self._x is not None:
            return map_leaves(lambda leaf: leaf[index], self._x), self.labels[index]
        x, _ = self._read(index.tolist())
        return x, self.labels[index]

    def batches(self, size: int = 256) -> Iterator[tuple[Tensor, Inputs, Tensor]]:
        """All samples in order: (indices, x, y) for each batch."""
        for start in range(0, len(self), size):
            index = torch.arange(start, min(start + size, len(self)))
            yield index, *self.fetch(index)

    def digest(self) -> str:
        """SHA-256 over labels and inputs (reads everything once), hexadecimal."""
        sha = hashlib.sha256(self.labels.numpy().tobytes())
        for _, x, _ in self.batches():
            for leaf in leaves(x):
                sha.update(str((leaf.dtype, tuple(leaf.shape[1:]))).encode())
                sha.update(leaf.detach().cpu().contiguous().numpy().tobytes())
        return sha.hexdigest()
