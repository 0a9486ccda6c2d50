"""Durations for people."""

from __future__ import annotations

import math

UNITS = ((172_800.0, 86_400.0, "days"), (7_200.0, 3_600.0, "h"), (120.0, 60.0, "min"))
"""From so many seconds on, in units of so many seconds, with that name."""


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
