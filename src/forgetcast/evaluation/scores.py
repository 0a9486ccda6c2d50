"""How well a forecast fits measurements, target by target, with bootstrap intervals that pair methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import norm, rankdata
from sklearn.metrics import roc_auc_score

from forgetcast.predictor.agreement import rank_correlation

__all__ = [
    "Bootstrap",
    "auc",
    "bootstrap_rho",
    "concordance",
    "partial_rho",
    "says_something",
    "tie_ceiling",
    "top_recall",
    "within_target_rho",
]

FEWEST_ROWS = 8
"""A target with fewer instances in a subset says nothing about order there and is left out of it."""


def within_target_rho(
    scores: np.ndarray, measured: np.ndarray, targets: np.ndarray, names: Sequence[str]
) -> np.ndarray:
    """Spearman correlation of every score with the measurement inside every target.

    Instances count equally, whatever their sampling weight: rank correlation is about order among those measured.

    Args:
        scores: shape (n, K), one column per score. A missing value takes its column's median within the target.
        measured: shape (n,).
        targets: target of every row, shape (n,).
        names: which targets, T of them.

    Returns:
        Shape (T, K). 0 where a score does not vary within the target (it gives no order); NaN where the target has
        fewer than 8 rows or its measurement does not vary.
    """
    out = np.full((len(names), scores.shape[1]), np.nan)
    for number, name in enumerate(names):
        rows = targets == name
        if says_something(measured[rows]):
            out[number] = rank_correlation(_filled(scores[rows]).T, measured[rows][None])
    return out


@dataclass(frozen=True)
class Bootstrap:
    """Within-target Spearman correlations of several methods and their resampled values."""

    methods: tuple[str, ...]
    targets: tuple[str, ...]
    """Targets that say something, T of them."""
    rho: np.ndarray
    """Shape (methods, T)."""
    resampled: np.ndarray
    """Shape (methods, resamples, T): instances drawn again within each target, the same draws for all methods."""
    seed: int

    def mean(self, method: str, against: str | None = None) -> dict[str, float]:
        """Mean over targets (or of the difference to ``against``) with two 95 % intervals.

        ``low`` and ``high`` redraw instances only: what is known about these targets. ``low_targets`` and
        ``high_targets`` redraw targets too: what is known about targets like these.
        """
        own = self.methods.index(method)
        rho, draws = self.rho[own], self.resampled[own]
        if against is not None:
            other = self.methods.index(against)
            rho, draws = rho - self.rho[other], draws - self.resampled[other]
        if not len(self.targets):
            return dict.fromkeys(("rho", "low", "high", "low_targets", "high_targets"), np.nan)
        low, high = _interval(float(rho.mean()), draws.mean(axis=1))
        rng = np.random.default_rng(self.seed)
        picks = rng.integers(len(self.targets), size=draws.shape)
        low_t, high_t = _interval(float(rho.mean()), np.take_along_axis(draws, picks, axis=1).mean(axis=1))
        values = (rho.mean(), low, high, low_t, high_t)
        return {
            name: float(value)
            for name, value in zip(("rho", "low", "high", "low_targets", "high_targets"), values, strict=True)
        }

    def of_target(self, method: str, target: str, against: str | None = None) -> tuple[float, float, float]:
        """rho (or its difference to ``against``), low and high on one target; NaN where the target says nothing."""
        if target not in self.targets:
            return np.nan, np.nan, np.nan
        own, at = self.methods.index(method), self.targets.index(target)
        rho, draws = float(self.rho[own, at]), self.resampled[own, :, at]
        if against is not None:
            other = self.methods.index(against)
            rho, draws = rho - float(self.rho[other, at]), draws - self.resampled[other, :, at]
        return rho, *_interval(rho, draws)

    def worst(self, method: str) -> tuple[str, float]:
        """The target with the lowest rho, and that rho."""
        if not len(self.targets):
            return "", np.nan
        own = self.rho[self.methods.index(method)]
        return self.targets[int(own.argmin())], float(own.min())


def bootstrap_rho(
    scores: Mapping[str, np.ndarray],
    measured: np.ndarray,
    targets: np.ndarray,
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> Bootstrap:
    """Paired bootstrap over instances of within-target Spearman correlations.

    Intervals are bias-corrected percentiles (Efron 1981, "Nonparametric standard errors and confidence intervals"):
    repeated instances are ties, which pull the rank correlation of a resample down.

    Args:
        scores: method -> score of every row, shape (n,); higher means harder.
        measured: shape (n,).
        targets: target of every row, shape (n,).
        resamples: draws per target.
        seed: of the draws.
    """
    methods = tuple(scores)
    stacked = np.column_stack([scores[name] for name in methods])
    names = [name for name in dict.fromkeys(targets.tolist()) if says_something(measured[targets == name])]
    rng = np.random.default_rng(seed)
    draws = np.zeros((len(methods), resamples, len(names)))
    for number, name in enumerate(names):
        rows = np.flatnonzero(targets == name)
        picks = rows[rng.integers(len(rows), size=(resamples, len(rows)))]
        filled = np.zeros_like(stacked)
        filled[rows] = _filled(stacked[rows])
        for k in range(len(methods)):
            draws[k, :, number] = rank_correlation(filled[picks, k], measured[picks])
    rho = within_target_rho(stacked, measured, targets, names).T
    return Bootstrap(methods, tuple(names), rho, draws, seed)


def partial_rho(score: np.ndarray, measured: np.ndarray, given: np.ndarray) -> float:
    """Spearman correlation of score and measurement with the ranks of ``given`` regressed out of both; (n,) each.

    0 where ``given`` leaves nothing of the score; NaN where nothing is left of the measurement.
    """
    base = np.column_stack([np.ones(len(given)), rankdata(given)])
    rest = []
    for values in (score, measured):
        ranks = rankdata(values)
        residual = ranks - base @ np.linalg.lstsq(base, ranks, rcond=None)[0]
        rest.append(np.where(np.abs(residual) < 1e-8 * len(ranks), 0.0, residual))
    a, b = (np.linalg.norm(part) for part in rest)
    if b == 0:
        return np.nan
    return 0.0 if a == 0 else float(rest[0] @ rest[1] / (a * b))


def auc(score: np.ndarray, positive: np.ndarray) -> float:
    """Area under the ROC curve; NaN unless both classes have at least 3 rows."""
    positive = positive.astype(bool)
    if min(positive.sum(), (~positive).sum()) < 3:
        return np.nan
    return float(roc_auc_score(positive, _filled(score[:, None])[:, 0]))


def concordance(score: np.ndarray, measured: np.ndarray) -> float:
    """Share of pairs with different measured values that the score orders rightly, its own ties counting half.

    Chance is 0.5. Unlike Spearman's rho it asks nothing of samples whose measured values tie, such as trivial ones.
    NaN where all measured values tie.
    """
    pairs = np.sign(measured[:, None] - measured[None])
    agree = np.sign(score[:, None] - score[None]) * pairs
    different = pairs != 0
    return float((1 + agree[different].mean()) / 2) if different.any() else np.nan


def tie_ceiling(measured: np.ndarray) -> float:
    """Spearman's rho of a perfect order that has no ties with a measurement that has some.

    √(1 - Σ(t³ - t) / (n³ - n)) over groups of t tied values: what is left when tied samples are ordered at random.

    >>> tie_ceiling(np.array([1.0, 2, 3, 4])), round(tie_ceiling(np.array([0.0, 0, 0, 1])), 3)
    (1.0, 0.775)
    """
    n = len(measured)
    ties = np.unique(measured, return_counts=True)[1].astype(float)
    return float(np.sqrt(1 - (ties**3 - ties).sum() / (n**3 - n))) if n > 1 else np.nan


def top_recall(score: np.ndarray, measured: np.ndarray, share: float = 0.1) -> float:
    """Share of the measured hardest ``share`` of rows that is among the forecast hardest; chance is ``share``.

    Ties at the border belong to the top in part, so that the value is the mean over all ways to break them.
    """
    count = max(1, round(share * len(score)))
    return float(_membership(score, count) @ _membership(measured, count) / count)


def _membership(values: np.ndarray, count: int) -> np.ndarray:
    border = np.sort(values)[-count]
    above, tied = values > border, values == border
    return above + tied * (count - above.sum()) / tied.sum()


def _interval(value: float, draws: np.ndarray) -> tuple[float, float]:
    """Bias-corrected 95 % percentile interval of ``value`` from its resampled values, shape (resamples,)."""
    below = np.clip(np.mean(draws < value) + np.mean(draws == value) / 2, 1 / len(draws), 1 - 1 / len(draws))
    shift = 2 * norm.ppf(below)
    low, high = np.quantile(draws, norm.cdf(shift + norm.ppf([0.025, 0.975])))
    return float(low), float(high)


def says_something(measured: np.ndarray) -> bool:
    """Whether the measurements of a target, (n,), distinguish good orders from bad ones: enough, and not all equal."""
    return len(measured) >= FEWEST_ROWS and np.ptp(measured) > 0


def _filled(scores: np.ndarray) -> np.ndarray:
    """Missing values at their column's median; a column without any value becomes 0."""
    missing = np.isnan(scores)
    if not missing.any():
        return scores
    median = np.array([np.nanmedian(column) if not np.isnan(column).all() else 0.0 for column in scores.T])
    return np.where(missing, median, scores)
