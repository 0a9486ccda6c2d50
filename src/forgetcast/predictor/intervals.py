"""Conformal intervals from the errors made on targets that a fit had not seen."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import pandas as pd
from crepes import ConformalRegressor
from numpy.typing import ArrayLike

__all__ = ["FOLDS", "balanced_residuals", "residual_groups", "conformal_interval", "deal_targets", "fold_rows"]

FOLDS = 8
"""Targets are dealt into so many folds for the errors that intervals come from."""


def balanced_residuals(groups: Sequence[ArrayLike]) -> np.ndarray:
    """Absolute residuals of all groups, the same number from each: evenly spaced order statistics.

    Targets differ in their number of measured instances; what should be covered is the next target, so every
    target counts the same (pooling of group-wise distributions, Dunn, Wasserman & Ramdas 2023,
    "Distribution-free prediction sets for two-layer hierarchical models"). The number is the median group's
    size.

    >>> balanced_residuals([[0.1, -0.3, 0.2], [0.5]]).round(2).tolist()
    [0.1, 0.3, 0.5, 0.5]
    """
    size = max(1, int(np.median([np.size(group) for group in groups])))
    steps = (np.arange(size) + 0.5) / size
    return np.concatenate([np.quantile(np.abs(group), steps, method="inverted_cdf") for group in groups])


def conformal_interval(scores: np.ndarray, value: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray]:
    """Bounds, each (m,) and within [0, 1], around ``value`` (m,) that would cover ``level`` of ``scores``."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # too few scores for the level: [0, 1], as documented
        bounds = ConformalRegressor().fit(scores).predict_int(value, confidence=level, y_min=0.0, y_max=1.0)
    return bounds[:, 0], bounds[:, 1]


def residual_groups(rows: pd.DataFrame, seed: int, by_target: bool = False) -> tuple[np.ndarray, str]:
    """Group of every row whose errors give the intervals, and what the groups are: targets, or folds of the rows of
    a single one unless ``by_target``."""
    if by_target or rows["target"].nunique() > 1:
        return rows["target"].astype(str).to_numpy(dtype=object), "target"
    folds = np.arange(len(rows)) % 5
    return np.array([f"fold {k}" for k in np.random.default_rng(seed).permutation(folds)], dtype=object), "rows"


def deal_targets(names: Sequence[str]) -> list[frozenset[str]]:
    """Targets in at most ``FOLDS`` sets of about one size.

    >>> [sorted(fold) for fold in deal_targets(["a", "b"])]
    [['a'], ['b']]
    """
    return [frozenset(names[number::FOLDS]) for number in range(min(FOLDS, len(names)))]


def fold_rows(targets: np.ndarray) -> list[np.ndarray]:
    """Which rows are of every fold of ``deal_targets``; targets (n,), each mask (n,).

    >>> [mask.tolist() for mask in fold_rows(np.array(["a", "b", "a"]))]
    [[True, False, True], [False, True, False]]
    """
    return [np.isin(targets, list(fold)) for fold in deal_targets(list(dict.fromkeys(targets)))]
