"""Numbers, counts, durations and the text of strangers, as pages and commands show them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["LONGEST_LIST", "count", "duration", "flat", "number", "sanitized", "signed", "significant"]

LONGEST_LIST = 12
"""Longer lists of the provenance are counted, not spelled out."""
UNITS = ((172_800.0, 86_400.0, "days"), (7_200.0, 3_600.0, "h"), (120.0, 60.0, "min"))
"""(threshold in seconds, seconds per unit, unit name)"""

_UNSAFE = re.compile("[\\x00-\\x08\\x0b\\x0c\\x0e-\\x1f\\x7f-\\x9f\\ud800-\\udfff\\u202a-\\u202e\\u2066-\\u2069]")


def significant(value: float, digits: int = 3) -> str:
    """So many significant digits; whole numbers with commas, not exponents, from there on to a billion.

    >>> [significant(value) for value in (0.00012345, 1.5, 999.6, 12_345.6, 2e9)]
    ['0.000123', '1.5', '1,000', '12,346', '2e+09']
    """
    text = f"{value:.{digits}g}"
    return f"{value:,.0f}" if "e+" in text and abs(value) < 1e9 else text


def number(value: Any) -> str:
    """Two decimals for what lies in [-1, 1], else three digits; a dash for what is missing."""
    if isinstance(value, float):  # numpy's float64 is one
        if math.isnan(value):
            return "–"
        return (f"{value:.2f}" if abs(value) <= 1 else significant(value)).replace("-", "−")
    return str(value)


def signed(value: float) -> str:
    """Two decimals with the sign.

    >>> signed(0.126), signed(-0.5)
    ('+0.13', '−0.50')
    """
    return f"{value:+.2f}".replace("-", "−")


def count(number: int, noun: str) -> str:
    """A number of things.

    >>> count(1, "sample"), count(1200, "sample"), count(2, "entry")
    ('1 sample', '1,200 samples', '2 entries')
    """
    plural = f"{noun[:-1]}ies" if noun.endswith("ry") else f"{noun}s"
    return f"{number:,} {noun if number == 1 else plural}"


def duration(seconds: float | None) -> str:
    """Seconds in the unit that a person would choose; a dash for what is missing.

    >>> [duration(value) for value in (0.0, 0.034, 5.25, 75.0, 600.0, 10_000.0, 500_000.0, None, float("nan"))]
    ['0 s', '0.034 s', '5.2 s', '75 s', '10 min', '2.8 h', '5.8 days', '–', '–']
    """
    if seconds is None or math.isnan(seconds):
        return "–"
    for start, size, unit in UNITS:
        if seconds >= start:
            return f"{seconds / size:.2g} {unit}" if seconds < 100 * size else f"{seconds / size:,.0f} {unit}"
    return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"


def flat(mapping: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, str]]:
    """Nested settings as lines (name, value); long lists and tables are counted."""
    for name, value in mapping.items():
        label = f"{path}{name}".replace("_", " ")
        if isinstance(value, Mapping) and 0 < len(value) <= LONGEST_LIST:
            yield from flat(value, f"{label} · ")
        elif isinstance(value, (Mapping, list, tuple)):
            yield label, f"{len(value):,} values" if len(value) > LONGEST_LIST else ", ".join(map(str, value)) or "none"
        else:
            yield label, significant(value, 4) if isinstance(value, float) else str(value)


def sanitized(text: str) -> str:
    """Text that a page can hold, whoever wrote it: U+FFFD for control characters, for halves of surrogate pairs, which
    no file can hold, and for signs that would turn the text around them to another direction.

    >>> sanitized("a\\0b\\u202ec")
    'a\ufffdb\ufffdc'
    """
    return _UNSAFE.sub("\ufffd", text)
