"""Values that name a record or a person, never passed through a float: exactly what came, or marked as blurred.

A floating-point number stands for itself alone only up to a limit: 2⁵³ for float64, 2²⁴ for float32, 2¹¹ for float16,
2⁸ for bfloat16. From there on a whole number shares its float with its neighbours.
"""

from __future__ import annotations

import array
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, time, timedelta
from decimal import Decimal
from pathlib import PurePath
from typing import Any
from uuid import UUID

import numpy as np
import pandas as pd
import torch

from forgetcast.errors import IndexRangeError

__all__ = [
    "AS_TEXT",
    "LIMIT",
    "InexactNumber",
    "exact_values",
    "is_missing",
    "names_exactly",
    "sample_numbers",
    "value_text",
    "written_float",
]

LIMIT = 2**53
"""Whole numbers below it have a float64 of their own."""
AS_TEXT = "read and write the column as text (pandas: dtype=str)"
"""The way out."""

_POINT = re.compile(r"\s*([-+]?\d+)\.0*\s*", re.ASCII)
_EXPONENT = re.compile(r"\s*[-+]?(\d+\.\d*|\.\d+|\d+(?=[eE][-+]))[eE][-+]?\d{1,6}\s*", re.ASCII)
_EXACT = (str, int, bytes, Decimal, date, time, timedelta, np.datetime64, np.timedelta64, UUID, PurePath)
_LONGEST = 4000
"""Digits that Python reads and writes at most, roughly."""


@dataclass(frozen=True)
class InexactNumber:
    """A number that can no longer be distinguished from its neighbours."""

    shown: str
    """As it came."""
    kind: str = ""
    """What it came as, such as float64; "" for a text with an exponent."""
    limit: int = LIMIT
    """From which on such numbers have neighbours."""

    def __str__(self) -> str:
        return self.shown

    @property
    def problem(self) -> str:
        """What is wrong with it and how to fix it, a clause."""
        if not self.kind:
            return f"{self.shown} is written with an exponent, which may have cost it digits: {AS_TEXT}"
        bits = self.limit.bit_length() - 1
        cannot = f"which from 2^{bits} on cannot hold every whole number"
        return f"{self.shown} came as {self.kind}, {cannot}: {AS_TEXT}"


def exact_values(values: Any) -> list[Any]:
    """The values of a column, array, tensor or sequence, each as what it exactly is.

    Args:
        values: (m,), of any type; the type of an array decides which numbers its floats can hold.

    Returns:
        m values: None where one is missing; text; whole numbers of every type as int; a :class:`InexactNumber` for a
        float that is too large to be distinguished from its neighbours; anything else as it came, floats with a
        fraction among them.
    """
    items, limit, kind = _items(values)
    return [_exact(item, limit, kind) for item in items]


def sample_numbers(indices: Any) -> np.ndarray:
    """Numbers of samples as an int64 array (m,), in the order given; a number that is no integer is never cut to one.

    Raises:
        IndexRangeError: not a sequence of integers; floats are none, whatever their value.
    """
    if isinstance(indices, torch.Tensor):
        indices = indices.detach().cpu()
    truths = isinstance(indices, list | tuple) and any(isinstance(number, bool | np.bool_) for number in indices)
    try:
        array = np.atleast_1d(np.asarray(indices))
    except (TypeError, ValueError) as error:
        raise IndexRangeError(f"sample indices must be integers; got {type(indices).__name__}") from error
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu") or truths:
        kind = "bool" if truths else f"{array.dtype} of shape {array.shape}"
        raise IndexRangeError(f"sample indices must be integers; got {kind}")
    if array.dtype.kind == "u" and array.size and array.max() >= 2**63:
        raise IndexRangeError(f"sample index {array.max()} is out of range: no data has as many samples")
    return array.astype(np.int64)


def is_missing(value: object) -> bool:
    """None, NaN, NaT, pd.NA, or text of blanks alone."""
    if isinstance(value, str):
        return not value or value.isspace()
    if isinstance(value, float | np.floating):
        return bool(math.isnan(value))
    if isinstance(value, Decimal):
        return value.is_nan()
    return value is None or value is pd.NA or value is pd.NaT or (isinstance(value, np.datetime64) and np.isnat(value))


def names_exactly(value: object) -> bool:
    """Whether one of :func:`exact_values` is of a type whose text is the value itself; a fraction is not."""
    return isinstance(value, _EXACT)


def value_text(value: object) -> str:
    """One of :func:`exact_values` as text; missing is ""."""
    if isinstance(value, str):
        return str(value)
    if is_missing(value):
        return ""
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    try:
        return str(value)
    except ValueError:  # Python does not write out an int of more than 4300 digits
        return "a number of thousands of digits"


def written_float(text: str) -> int | InexactNumber | None:
    """The whole number that a text such as "7.0" stands for, as floats are written; None for any other text.

    From 2⁵³ on it may have been a neighbour before it was written, and so may every number with an exponent.

    >>> written_float("7.0"), written_float("7"), written_float("7.5")
    (7, None, None)
    >>> written_float("1.23457E+16").problem.split(", ")[0]
    "'1.23457E+16' is written with an exponent"
    """
    whole = _POINT.fullmatch(text)
    if whole is not None and len(text) < _LONGEST:
        number = int(whole[1])
        return number if abs(number) < LIMIT else InexactNumber(repr(text[:60]), "the text of a float")
    if _EXPONENT.fullmatch(text):
        return InexactNumber(repr(text[:60]))
    return None


def _items(values: Any) -> tuple[Iterable[Any], int, str]:
    """The single values, and for floats of one type from where on they are blurred and the type's name."""
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu()
        if values.is_floating_point():
            return values.double().tolist(), round(2 / torch.finfo(values.dtype).eps), str(values.dtype).split(".")[-1]
        return values.tolist(), LIMIT, "float64"
    if type(values).__module__.split(".")[0] == "pyarrow" and hasattr(values, "to_pandas"):
        values = values.to_pandas(integer_object_nulls=True)
    if isinstance(values, pd.Series | pd.Index | pd.api.extensions.ExtensionArray):
        return values.tolist(), *_floats(_numpy_dtype(values.dtype))
    if isinstance(values, np.ma.MaskedArray):
        return values.tolist(), *_floats(values.dtype)
    if isinstance(values, array.array | memoryview) or (hasattr(values, "__array__") and hasattr(values, "__iter__")):
        values = np.asarray(values)
        own = values.dtype.kind in "MmV"  # tolist makes numbers of some times
        return list(values) if own else values.tolist(), *_floats(values.dtype)
    return values, LIMIT, "float64"


def _numpy_dtype(dtype: Any) -> Any:
    """What the numbers of a pandas column are stored as."""
    if isinstance(dtype, pd.CategoricalDtype):
        return _numpy_dtype(dtype.categories.dtype)
    if isinstance(dtype, pd.SparseDtype):
        return dtype.subtype
    if isinstance(dtype, pd.ArrowDtype):
        stored = dtype.pyarrow_dtype
        return np.dtype(getattr(stored, "value_type", stored).to_pandas_dtype())
    return getattr(dtype, "numpy_dtype", dtype)


def _floats(dtype: Any) -> tuple[int, str]:
    """From where on numbers of a type are blurred, and its name; those of float64 for what holds Python's numbers."""
    if isinstance(dtype, np.dtype) and dtype.kind == "f":
        return round(2 / np.finfo(dtype).eps), str(dtype)
    return LIMIT, "float64"


def _exact(item: Any, limit: int, kind: str) -> Any:
    if isinstance(item, str):
        return str(item)
    if isinstance(item, bool | np.bool_):
        return bool(item)
    if isinstance(item, int | np.integer):
        return int(item)
    if is_missing(item):
        return None
    if isinstance(item, float | np.floating):
        if isinstance(item, np.floating) and not isinstance(item, float):
            limit, kind = _floats(item.dtype)
        if not math.isfinite(item):
            return item
        if abs(float(item)) >= limit:
            return InexactNumber(str(item), kind, limit)
        return int(item) if item.is_integer() else item
    if isinstance(item, Decimal):
        whole = item.is_finite() and item.adjusted() < _LONGEST and item == item.to_integral_value()
        return int(item) if whole else item
    if isinstance(item, torch.Tensor | np.ndarray) and item.ndim == 0:
        return exact_values(item.reshape(1))[0]
    return item
