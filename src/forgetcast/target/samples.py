"""Samples as checked tensors: dense, numeric and finite inputs, labels that are class numbers."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from forgetcast.errors import DatasetError, first_line
from forgetcast.target.inputs import Inputs, leaves
from forgetcast.target.settings import TORCH_LOCK

__all__ = ["check_finite_inputs", "checked_inputs", "checked_labels", "is_missing", "made_dense_by", "missing_label"]

SPARSE = (torch.sparse_coo, torch.sparse_csr, torch.sparse_csc, torch.sparse_bsr, torch.sparse_bsc)
"""Layouts of tensors that leave zeros out."""


def checked_inputs(role: str, x: Any) -> Inputs:
    """Inputs in any container as tensors on the CPU, the samples as first dimension.

    Args:
        role: what messages call the data.
        x: tensors, arrays, tables or nested lists, alone or in dicts and tuples.

    Raises:
        DatasetError: sparse, not numeric, or without a first dimension.
    """
    if sparse := made_dense_by(x):
        raise DatasetError(
            f"the {role}: expected dense inputs; got sparse ones ({type(x).__name__}): make them dense with {sparse}"
        )
    try:
        x = _tensors(x)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DatasetError(
            f"the {role}: inputs must be numeric tensors or arrays of one shape; got {type(x).__name__}: "
            f"{first_line(error)}. Turn text and categories into numbers first."
        ) from error
    if not leaves(x) or any(leaf.ndim == 0 for leaf in leaves(x)):
        raise DatasetError(
            f"the {role}: expected inputs with samples as first dimension; got "
            f"{'a single number' if leaves(x) else 'none'}"
        )
    return x


def checked_labels(role: str, y: Any, indices: Sequence[int] | None = None) -> Tensor:
    """Labels in any container as int64, shape (n,), on the CPU.

    Args:
        role: what messages call the data.
        y: one class number per sample.
        indices: numbers of the samples, for messages; default from 0.

    Raises:
        DatasetError: sparse, missing, of another shape, or not integers from 0.
    """
    if sparse := made_dense_by(y):
        raise DatasetError(f"the {role}: expected dense labels; got sparse ones: make them dense with {sparse}")
    try:
        labels = _tensor(y)
    except (TypeError, ValueError, RuntimeError) as error:
        raise _odd_labels(role, y, error, indices) from error
    if labels.ndim != 1:
        hint = ""
        if labels.ndim == 2:
            hint = ": pass labels.squeeze(1)" if labels.shape[1] == 1 else ": for one-hot labels pass labels.argmax(1)"
        raise DatasetError(
            f"the {role}: expected labels of shape (n,), one class number per sample; got {tuple(labels.shape)}{hint}"
        )
    if len(labels) == 0:
        return labels.long()
    if labels.is_floating_point():
        odd = (~labels.isfinite() | (labels != labels.round())).nonzero().flatten().tolist()
        if odd:
            index, label = odd[0] if indices is None else indices[odd[0]], float(labels[odd[0]])
            if np.isnan(label):
                raise missing_label(role, index, label)
            raise DatasetError(
                f"the {role}: labels must be integers (class numbers from 0); item {index} has {label:g}: "
                "forecasts are for classes, not for quantities"
            )
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise DatasetError(
            f"the {role}: labels must be integers (class numbers from 0); got {labels.dtype}. "
            "Convert with labels.long()."
        )
    labels = labels.long()
    if int(labels.min()) < 0:
        where = int((labels < 0).nonzero()[0])
        raise DatasetError(
            f"the {role}: labels must be class numbers from 0; item "
            f"{where if indices is None else indices[where]} has label {int(labels[where])}"
        )
    return labels


def _odd_labels(role: str, y: Any, error: Exception, indices: Sequence[int] | None) -> DatasetError:
    """What is wrong with labels that cannot be made into a tensor."""
    found = list(y) if isinstance(y, Iterable) and not isinstance(y, (str, bytes)) else [y]
    indices = range(len(found)) if indices is None else indices
    for index, label in zip(indices, found, strict=False):
        if is_missing(label):
            return missing_label(role, index, label)
    text = next((label for label in found if isinstance(label, str)), None)
    what = (
        f"got {type(y).__name__}: {first_line(error)}"
        if text is None
        else f"got text ({text!r}): number the classes as the model does, 0 for its first output"
    )
    return DatasetError(f"the {role}: labels must be class numbers (integers); {what}")


def missing_label(role: str, index: int, label: Any) -> DatasetError:
    """The error for item ``index``, whose ``label`` is missing."""
    return DatasetError(
        f"the {role}: the label of item {index} is missing ({label}): every sample needs its class number; "
        "drop the samples without one"
    )


def is_missing(label: Any) -> bool:
    """Whether a label is None, NaN or another mark of pandas for what is not there."""
    return label is None or (np.ndim(label) == 0 and pd.api.types.is_scalar(label) and bool(pd.isna(label)))


def check_finite_inputs(role: str, x: Inputs, indices: Sequence[int]) -> None:
    """Refuse inputs that are NaN or infinite; ``indices`` are the numbers of their samples.

    Raises:
        DatasetError: some are; the message names the first items.
    """
    for leaf in leaves(x):
        if leaf.is_floating_point():
            bad = ~torch.isfinite(leaf.flatten(1) if leaf.ndim > 1 else leaf[:, None]).all(1)
            if bad.any():
                items = [indices[row] for row in bad.nonzero().flatten()[:5].tolist()]
                raise DatasetError(
                    f"the {role} has NaN or infinite inputs in {int(bad.sum())} item(s), the first at "
                    f"{items}: clean or impute them first"
                )


def made_dense_by(x: Any) -> str:
    """How to make the first sparse tensor or matrix of scipy in ``x`` dense; empty where there is none."""
    if isinstance(x, Tensor):
        return ".to_dense()" if x.layout in SPARSE else ""
    if hasattr(x, "nnz") and hasattr(x, "toarray"):
        return ".toarray()"
    parts = x.values() if isinstance(x, Mapping) else x if isinstance(x, (tuple, list)) else ()
    return next(filter(None, map(made_dense_by, parts)), "")


def _tensor(values: Any) -> Tensor:
    """Numbers in any container (tensor, array, table, nested lists) as a tensor without history, on the CPU."""
    if isinstance(values, Tensor):
        return values.detach().cpu()
    array = np.asarray(values)
    array = np.asarray(array, dtype=array.dtype.newbyteorder("="), order="C")  # torch takes no other layout
    with TORCH_LOCK, warnings.catch_warnings():  # which two threads at once would leave changed
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.as_tensor(array, device="cpu")


def _holds_arrays(x: Any) -> bool:
    """Whether a value is, or contains, a mapping or an array of at least one dimension."""
    if isinstance(x, (tuple, list)):
        return any(_holds_arrays(part) for part in x)
    return isinstance(x, Mapping) or (hasattr(x, "__array__") and getattr(x, "ndim", 0) > 0)


def _tensors(x: Any) -> Inputs:
    """Inputs with every leaf a tensor. Tuples and lists of arrays are several inputs, nested numbers are one."""
    if isinstance(x, Mapping):
        return {name: _tensors(part) for name, part in x.items()}
    if isinstance(x, (tuple, list)) and _holds_arrays(x):
        return tuple(_tensors(part) for part in x)
    return _tensor(x)
