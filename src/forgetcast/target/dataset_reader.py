"""Items of a map-style dataset, read one by one and made into checked batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import IterableDataset, default_collate

from forgetcast.errors import DatasetError, first_line
from forgetcast.target.inputs import Inputs, leaves, named_leaves
from forgetcast.target.samples import (
    check_finite_inputs,
    checked_inputs,
    checked_labels,
    is_missing,
    made_dense_by,
    missing_label,
)
from forgetcast.target.settings import Settings

__all__ = ["LABEL_NAMES", "REREAD", "DatasetReader"]

LABEL_NAMES = ("labels", "label")
"""Where a dict with inputs and label keeps the label."""
PIECE = 512
"""Items of a dataset that are read and checked at a time, at most; fewer of more than 64 kB each."""
PIECE_BYTES = 1 << 25
"""Bytes of a dataset that are read and checked at a time."""
REREAD = 8
"""Items of a dataset, spread over all of it, that are read a second time to see that they come out the same."""


class DatasetReader:
    """Reads a map-style dataset, under the settings of torch that its owner called forgetcast under.

    Args:
        dataset: gives an item (x, y), or a dict with the label, by its number.
        collate_fn: turns a list of items into a batch (x, y).
        role: what messages call the data.

    Raises:
        DatasetError: no samples by number, or no length.
    """

    def __init__(self, dataset: Any, collate_fn: Callable[[list[Any]], Any], role: str) -> None:
        self.role = role
        self._settings = Settings.of_caller().reading
        self._check_source(dataset)
        self._dataset = dataset
        self._collate = collate_fn
        self._length = self._length_now()
        self._remembered: dict[int, tuple[Inputs, Tensor]] = {}

    def __len__(self) -> int:
        """Items that the dataset had when it was handed over."""
        return self._length

    @property
    def joinable(self) -> bool:
        """Whether batches can be joined: those of any collate function but the default may be padded."""
        return self._collate is default_collate

    def pieces(self) -> Iterator[tuple[range, list[Any], Inputs, Tensor]]:
        """All items in order, as many at a time as fit: their numbers, the items, and their batch (x, y).

        Some are remembered for :meth:`check_steady`.

        Raises:
            DatasetError: an item cannot be read, is malformed, or is unlike the first.
        """
        last = len(self) - 1
        chosen = {round(k * last / (REREAD - 1)) for k in range(REREAD)} if len(self) else set()
        first: _FirstItem | None = None
        for indices, items in self._read():
            x, y = self.batch(items, indices)
            if first is None:
                first = _FirstItem(items[0], x, self.batch(items[:1], indices[:1])[0])
            for index in chosen.intersection(indices):
                self._remembered[index] = self.batch([items[index - indices[0]]], [index])
            self._check_alike(first, x, items, indices)
            yield indices, items, x, y

    def items(self, indices: Sequence[int]) -> list[Any]:
        """The items of these numbers.

        Raises:
            DatasetError: the dataset raised; the message names the item.
        """
        items = []
        for index in indices:
            try:
                with self._settings.applied():
                    items.append(self._dataset[int(index)])
            except DatasetError:  # it names the row itself
                raise
            except Exception as error:
                raise DatasetError(
                    f"the {self.role} raised {type(error).__name__} at item {index}: {first_line(error)}"
                ) from error
        return items

    def batch(self, items: list[Any], indices: Sequence[int]) -> tuple[Inputs, Tensor]:
        """The items as one checked batch (x, y); ``indices`` is where they came from.

        Raises:
            DatasetError: they make no batch, or one that is malformed or not finite.
        """
        try:
            with self._settings.applied():
                batch = self._collate(items)
        except Exception as error:
            self._check_items(items, indices)
            raise DatasetError(
                f"the {self.role}: items {indices[0]}-{indices[-1]} cannot be made into a batch "
                f"({type(error).__name__}: {first_line(error)}).{_odd_one(items, indices)} Items must be tensors or "
                "arrays of one shape: add a transform such as ToTensor, or give a collate_fn, such as a DataLoader's."
            ) from error
        name = next((name for name in LABEL_NAMES if name in batch), None) if isinstance(batch, Mapping) else None
        if name is not None:
            batch = {key: part for key, part in batch.items() if key != name}, batch[name]
        if not isinstance(batch, (tuple, list)) or len(batch) != 2:
            raise DatasetError(
                f"the {self.role}: expected items (x, y); a batch came out as {type(batch).__name__}"
                + (f" of {len(batch)}" if isinstance(batch, (tuple, list)) else "")
                + ". Give a collate_fn that returns (x, y), or a dict with the labels under 'labels'."
            )
        x, y = checked_inputs(self.role, batch[0]), checked_labels(self.role, batch[1], indices)
        rows = {len(leaf) for leaf in (*leaves(x), y)}
        if rows != {len(items)}:
            raise DatasetError(
                f"the {self.role}: expected {len(items)} inputs and labels from a batch of as many items; got "
                f"{sorted(rows)}. Fix the collate_fn: it must keep every item, with samples as first dimension."
            )
        check_finite_inputs(self.role, x, indices)
        return x, y

    def check_steady(self) -> None:
        """Read the remembered items again, and forget them.

        Raises:
            DatasetError: they came out otherwise, or the dataset changed its length.
        """
        if (now := self._length_now()) != len(self):
            raise DatasetError(
                f"the {self.role}: expected a fixed number of items; its length went from {len(self)} to {now} while "
                "it was read. Hand over a copy that nobody adds to or takes from."
            )
        for index, (x, y) in sorted(self._remembered.items()):
            x_now, y_now = self.batch(self.items([index]), [index])
            if not (torch.equal(y, y_now) and _alike(x, x_now)):
                what = "inputs" if torch.equal(y, y_now) else f"labels (first {int(y)}, then {int(y_now)})"
                raise DatasetError(
                    f"the {self.role} gives other {what} when item {index} is read again: a transform draws at random "
                    "(augmentation), or the data changes as it is read. Hand over the data without augmentation, as "
                    "the model is evaluated on it; a train callable may augment for itself."
                )
        self._remembered = {}

    def _read(self) -> Iterator[tuple[range, list[Any]]]:
        """All items in order, as many at a time as fit, with their numbers."""
        start, size = 0, 0
        items: list[Any] = []
        for index in range(len(self)):
            items += self.items([index])
            size += _nbytes(items[-1])
            if len(items) == PIECE or size >= PIECE_BYTES or index == len(self) - 1:
                yield range(start, index + 1), items
                start, size, items = index + 1, 0, []

    def _length_now(self) -> int:
        try:
            return len(self._dataset)
        except Exception as error:
            raise DatasetError(
                f"the {self.role}: expected a dataset of known length; its __len__ raised {type(error).__name__}: "
                f"{first_line(error)}"
            ) from error

    def _check_source(self, source: Any) -> None:
        """Refuse what has no samples by number; the message names what it lacks."""
        kind = type(source).__name__
        expected = (
            f"the {self.role}: expected a map-style dataset (with __len__ and __getitem__), a pair of tensors or "
            f"a DataLoader over one; got {kind}"
        )
        if isinstance(source, (str, bytes)) or source is None:
            raise DatasetError(expected)
        if isinstance(source, (IterableDataset, Iterator)):
            raise DatasetError(
                f"{expected}. Materialise it first: x, y = zip(*dataset), then (torch.stack(x), torch.tensor(y))"
            )
        if sparse := made_dense_by(source):
            raise DatasetError(f"{expected}, which is sparse: give a pair (inputs{sparse}, labels)")
        if lacking := [name for name in ("__len__", "__getitem__") if not hasattr(source, name)]:
            raise DatasetError(
                f"{expected}, which has no {' and no '.join(lacking)}: __len__ is to give the number of samples, "
                "__getitem__ a sample (x, y) by its number"
            )

    def _check_alike(self, first: _FirstItem, x: Inputs, items: list[Any], indices: range) -> None:
        """Refuse a piece whose inputs are unlike those of the first."""
        kinds, shapes = _kinds(x), _shapes(x)
        if kinds != first.kinds:
            raise DatasetError(
                f"the {self.role}: expected items of one type; items {indices[0]}-{indices[-1]} have inputs of "
                f"{' and '.join(kinds)}, item 0 of {' and '.join(first.kinds)}."
                f"{_odd_one([first.item, *items], [0, *indices])} Convert them to one type."
            )
        if self.joinable and shapes != first.shapes:
            raise DatasetError(
                f"the {self.role}: expected items of one shape; items from {indices[0]} on have inputs of "
                f"{_listed(shapes)}, those before of {_listed(first.shapes)}. Bring them to one shape, or give a "
                "collate_fn that does, such as a DataLoader's."
            )

    def _check_items(self, items: list[Any], indices: Sequence[int]) -> None:
        """Refuse what keeps items from becoming a batch, where it can be named better than by what that raised."""
        for item, index in zip(items, indices, strict=True):
            if is_missing(_label_of(item)):
                raise missing_label(self.role, index, _label_of(item))
            if sparse := made_dense_by(item):
                raise DatasetError(f"the {self.role}: item {index} is sparse: make it dense with {sparse}")


class _FirstItem:
    """The first item of a dataset and what all others must be like.

    Args:
        item: the first item.
        x: the first batch, in the shape that all must have.
        alone: the first item as a batch, in the type that all must have.
    """

    def __init__(self, item: Any, x: Inputs, alone: Inputs) -> None:
        self.item = item
        self.shapes = _shapes(x)
        self.kinds = _kinds(alone)


def _shapes(x: Inputs) -> list[tuple[int, ...]]:
    """Shape of one sample in every tensor of a batch."""
    return [tuple(leaf.shape[1:]) for leaf in leaves(x)]


def _kinds(x: Inputs) -> list[str]:
    return [_kind(leaf) for leaf in leaves(x)]


def _label_of(item: Any) -> Any:
    """The label of an item of a dataset; 0 where it is of a kind that has none."""
    if isinstance(item, Mapping):
        return next((item[name] for name in LABEL_NAMES if name in item), 0)
    return item[1] if isinstance(item, (tuple, list)) and len(item) == 2 else 0


def _nbytes(item: Any) -> int:
    """Bytes of the arrays in an item of a dataset."""
    if isinstance(item, (tuple, list, Mapping)):
        return sum(_nbytes(part) for part in (item.values() if isinstance(item, Mapping) else item))
    if isinstance(item, Tensor):  # sparse ones refuse to say
        return item.numel() * item.element_size()
    return int(getattr(item, "nbytes", 0))


def _described(item: Any) -> str:
    """Shapes and types in an item of a dataset, for comparing items and for messages.

    >>> _described((torch.zeros(2, 3), 1))
    '((2, 3) of float32, int)'
    """
    if isinstance(item, Mapping):
        return "{" + ", ".join(f"{name}: {_described(part)}" for name, part in item.items()) + "}"
    if isinstance(item, (tuple, list)):
        return "(" + ", ".join(map(_described, item)) + ")"
    if hasattr(item, "shape") and hasattr(item, "dtype"):
        return f"{tuple(item.shape)} of {str(item.dtype).removeprefix('torch.')}"
    return type(item).__name__


def _odd_one(items: Sequence[Any], indices: Sequence[int]) -> str:
    """The first item that is unlike the first of all, in words; empty if all are alike."""
    expected = _described(items[0])
    for item, index in zip(items, indices, strict=True):
        if _described(item) != expected:
            return f" Item {index} is {_described(item)}, item {indices[0]} is {expected}."
    return ""


def _kind(leaf: Tensor) -> str:
    """Whether a tensor holds real numbers, complex ones, truth values or integers."""
    if leaf.is_floating_point():
        return "real numbers"
    return "complex numbers" if leaf.is_complex() else "truth values" if leaf.dtype == torch.bool else "integers"


def _alike(one: Inputs, other: Inputs) -> bool:
    """Whether two batches hold the same, but for the rounding of another thread or kernel."""
    pairs = list(zip(named_leaves(one), named_leaves(other), strict=False))
    return len(list(named_leaves(one))) == len(list(named_leaves(other))) and all(
        a == b
        and x.shape == y.shape
        and (torch.allclose(x.double(), y.double(), rtol=1e-5, atol=1e-6) if not x.is_complex() else torch.equal(x, y))
        for (a, x), (b, y) in pairs
    )


def _listed(shapes: list[tuple[int, ...]]) -> str:
    return " and ".join(str(shape) for shape in shapes)
