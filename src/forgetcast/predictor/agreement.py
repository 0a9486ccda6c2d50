"""Rank agreement of a forecast with a measurement, with its uncertainty."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from forgetcast.errors import InputError

__all__ = ["RankAgreement", "rank_correlation", "spearman_interval"]

BOOTSTRAP_LIMIT = 1_000
"""Up to this many pairs the interval is bootstrapped; above, Fisher's z gives the same at no cost."""


class RankAgreement(NamedTuple):
    """Spearman correlation with an interval; all three are NaN where rank correlation is not defined."""

    rho: float
    low: float
    high: float
    n: int
    """Pairs used: those without NaN on either side."""

    def __str__(self) -> str:
        if np.isnan(self.rho):
            return f"Spearman ρ not defined (n = {self.n})"
        return f"Spearman ρ = {self.rho:.2f} [{self.low:.2f}, {self.high:.2f}], n = {self.n:,}"


def spearman_interval(
    x: ArrayLike, y: ArrayLike, seed: int = 0, *, confidence: float = 0.95, resamples: int = 2_000
) -> RankAgreement:
    """Spearman's rank correlation of ``x`` and ``y`` with a two-sided confidence interval.

    Up to 1,000 pairs: bias-corrected and accelerated bootstrap over pairs (Efron 1987, "Better bootstrap
    confidence intervals"); a resample in which either side is constant counts as 0. Above:
    Fisher's z with standard error √((1 + ρ²/2) / (n - 3)) (Bonett & Wright 2000, "Sample size requirements
    for estimating Pearson, Kendall and Spearman correlations"). Pairs are taken to be independent.

    Args:
        x: shape (n,). Pairs with a NaN on either side are left out.
        y: shape (n,).
        seed: of the bootstrap; the same seed gives the same interval.
        confidence: coverage of the interval, in (0, 1).
        resamples: bootstrap resamples.

    Returns:
        rho, low, high in [-1, 1] and n. With fewer than 4 pairs, or where one side is constant, rank
        correlation says nothing and rho, low and high are NaN. A perfect order leaves nothing to resample:
        the interval is then the point itself, and only n says how much it is worth.

    Raises:
        InputError: the two do not have the same length.

    >>> print(spearman_interval([1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 5, 6]))
    Spearman ρ = 1.00 [1.00, 1.00], n = 6
    >>> print(spearman_interval([1, 2, 3], [1, 2, 3]))
    Spearman ρ not defined (n = 3)
    """
    a, b = np.asarray(x, dtype=float).ravel(), np.asarray(y, dtype=float).ravel()
    if len(a) != len(b):
        raise InputError(f"expected two lists of the same length; got {len(a)} and {len(b)} values")
    both = ~(np.isnan(a) | np.isnan(b))
    a, b = a[both], b[both]
    n = len(a)
    if n < 4 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return RankAgreement(np.nan, np.nan, np.nan, n)
    order = np.lexsort((b, a))  # the interval belongs to the pairs, not to the order they come in
    a, b = a[order], b[order]
    rho = float(rank_correlation(a, b))
    if abs(rho) > 1 - 1e-12:  # every resample is perfect too, and both intervals degenerate
        return RankAgreement(rho, rho, rho, n)
    if n > BOOTSTRAP_LIMIT:
        half = stats.norm.ppf(0.5 + confidence / 2) * np.sqrt((1 + rho**2 / 2) / (n - 3))
        low, high = np.tanh(np.arctanh(rho) + np.array([-half, half]))
    else:
        low, high = stats.bootstrap(
            (a, b),
            rank_correlation,
            paired=True,
            vectorized=True,
            n_resamples=resamples,
            batch=max(1, 1_000_000 // n),
            confidence_level=confidence,
            method="BCa",
            random_state=np.random.default_rng(seed),
        ).confidence_interval
    return RankAgreement(rho, float(low), float(high), n)


def rank_correlation(x: np.ndarray, y: np.ndarray, axis: int = -1) -> np.ndarray:
    """Spearman's rho along ``axis``, ties at their mean rank; 0 where one side is constant."""
    a, b = stats.rankdata(x, axis=axis), stats.rankdata(y, axis=axis)
    a = a - a.mean(axis=axis, keepdims=True)
    b = b - b.mean(axis=axis, keepdims=True)
    norm = np.sqrt((a**2).sum(axis=axis) * (b**2).sum(axis=axis))
    return np.divide((a * b).sum(axis=axis), norm, out=np.zeros_like(norm), where=norm > 0)
