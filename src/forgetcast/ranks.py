"""Ranks under sampling weights."""

from __future__ import annotations

import numpy as np

__all__ = ["weighted_percentile"]


def weighted_percentile(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Mid-rank percentile in (0, 1): the weight below plus half the weight of ties, over the total.

    With inverse sampling probabilities as weights it estimates the rank within the whole target.

    >>> weighted_percentile(np.array([3.0, 1.0, 1.0]), np.ones(3)).round(3).tolist()
    [0.833, 0.333, 0.333]
    """
    unique, inverse = np.unique(values, return_inverse=True)
    mass = np.bincount(inverse, weights=weights, minlength=len(unique))
    return ((np.cumsum(mass) - mass / 2) / mass.sum())[inverse]
