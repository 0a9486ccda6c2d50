"""How many samples stand for all of a target's where damage is measured."""

from __future__ import annotations

__all__ = ["reference_size"]

REFERENCE = 1000
"""Samples on which collateral damage is measured, at most where there are many."""

REFERENCE_PAIRS = 10_000_000
"""Pairs with the reference sample up to which it may be larger than that."""

REFERENCE_WORK = 4_000_000_000
"""Samples times classes times reference samples that all rehearsals may visit."""


def reference_size(n: int, classes: int) -> int:
    """Samples to measure damage on, of n: 1000, more where n is below 10,000, fewer where n · C is in the millions."""
    work = REFERENCE_WORK // (n * classes)
    return int(min(max(REFERENCE, REFERENCE_PAIRS // n), max(50, work)))
