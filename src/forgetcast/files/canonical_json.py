"""Values as JSON: as near as JSON holds them, and spelt one way, so that equal values have equal hashes."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from forgetcast.errors import InputError

__all__ = ["canonical_json", "json_value"]


def canonical_json(value: Any) -> str:
    """``value`` as ASCII JSON with sorted keys and no blanks; what it reads back as is spelt the same.

    Tuples become lists, and NumPy's numbers those of Python.

    Raises:
        InputError: NaN or infinite numbers, keys that are no text, or values that JSON does not know.

    >>> canonical_json({"b": (1, 2.0), "a": None})
    '{"a":null,"b":[1,2.0]}'
    """
    try:
        return json.dumps(_plain(value), sort_keys=True, separators=(",", ":"), allow_nan=False)
    except RecursionError:
        raise InputError("expected a value that JSON can hold; this one is nested too deeply") from None
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"expected numbers that JSON can hold: {error}; write None for what is not known") from error


def json_value(value: Any) -> Any:
    """``value`` as JSON holds it, every digit of a number kept.

    Numbers of NumPy become Python's, what is missing or no finite number None, anything else text.

    >>> json_value({"a": np.float64(0.1), 7: [float("nan"), 2**70]})
    {'a': 0.1, '7': [None, 1180591620717411303424]}
    """
    if isinstance(value, Mapping):
        return {str(name): json_value(part) for name, part in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [json_value(part) for part in value]
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | str):
        return value
    if type(value).__name__ in ("NAType", "NaTType"):  # of pandas, which --help need not wait for
        return None
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return str(value)


def _plain(value: Any) -> Any:
    """Only dictionaries with text as keys, lists, text, numbers, truth values and None."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise InputError(f"expected text as keys; got {key!r} ({type(key).__name__})")
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray):
        return [_plain(item) for item in value]
    raise InputError(f"expected text, numbers, lists and mappings; got {type(value).__name__}")
