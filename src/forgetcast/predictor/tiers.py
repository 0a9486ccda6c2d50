"""Tiers: forecasts of one model in words, trivial, easy, medium or hard."""

from __future__ import annotations

import numpy as np

__all__ = ["TRIVIAL_FROM", "tier_bounds", "tiers"]

TRIVIAL_FROM = 0.5
"""A sample is called trivial from this p_trivial on."""


def tier_bounds(percentile: np.ndarray, p_trivial: np.ndarray) -> tuple[float, float]:
    """The percentiles that part easy from medium and medium from hard: thirds of the samples that are not trivial.

    Args:
        percentile, p_trivial: forecasts for all samples of a model, shape (n,).

    >>> tier_bounds(np.array([0.2, 0.7, 0.8, 0.9, 1.0]), np.array([0.9, 0.1, 0.1, 0.1, 0.1]))
    (0.8, 0.9)
    """
    counted = percentile[p_trivial < TRIVIAL_FROM]
    if not len(counted):
        return 1 / 3, 2 / 3
    low, high = np.quantile(counted, [1 / 3, 2 / 3])
    return float(low), float(high)


def tiers(percentile: np.ndarray, p_trivial: np.ndarray, bounds: tuple[float, float]) -> np.ndarray:
    """Tier of each forecast, shape (m,): "trivial", or "easy", "medium", "hard" with ``bounds`` between them.

    >>> tiers(np.array([0.2, 0.5, 0.9, 0.9]), np.array([0.1, 0.1, 0.1, 0.8]), (1 / 3, 2 / 3)).tolist()
    ['easy', 'medium', 'hard', 'trivial']
    """
    by_third = np.select([percentile <= bounds[0], percentile <= bounds[1]], ["easy", "medium"], "hard")
    return np.where(p_trivial >= TRIVIAL_FROM, "trivial", by_third).astype(object)
