"""What measured samples of one target change in the forecast for it: a ridge on its errors, a scale and intervals.

The starting forecast stays as it is, and its errors on the measured samples are explained by a Bayesian linear model
(ridge regression; a Gaussian process with a linear kernel) of the starting percentile and the factors' quantiles. Its
prior is strong, so few samples suffice, needs no corpus, and was chosen on validation targets of the published one
(``benchmarks/calibration.py``). Being linear, it is explained exactly.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
from sklearn.isotonic import IsotonicRegression

from forgetcast.factors import quantile_column
from forgetcast.objectives import SLACK
from forgetcast.predictor.columns import INTERVAL_HEADS
from forgetcast.predictor.intervals import balanced_residuals
from forgetcast.predictor.retrained import GAP, RETRAINED

__all__ = ["Adaptation", "Prior", "adapt", "fit_ridge"]

FORECAST = "forecast"
"""Name of the starting percentile among the columns of an adaptation."""

UNIFORM = np.sqrt(12)
"""1 / standard deviation of a quantile, so that priors are in units of percentile."""

SHIPPED = 10.0
"""How many measured samples the shipped predictor's errors count as in the intervals."""


FOLDS = 5
"""In which the errors of the difficulty's scale are cross-fitted."""


@dataclass(frozen=True)
class Prior:
    """What is expected of the change before anything is measured: standard deviations in units of percentile."""

    constant: float = 0.1
    forecast: float = 0.15
    """Of the change that the shipped percentile makes."""
    factors: float = 0.1
    """Of the change that all factors make together."""
    retraining: float = 0.15
    """Of the change that each measured factor of retraining makes."""
    noise: float = 0.12
    """Of a measured percentile about what the model can express."""
    gap: float = 0.5
    """Weight of the retraining gap, beside the shipped percentile, in what the ridge starts from."""


ERASE, RETRAIN = Prior(), Prior(factors=0.05)
"""Chosen on validation targets. What is left to explain once the retraining gap is known follows other factors less."""


def fit_ridge(
    columns: np.ndarray, errors: np.ndarray, prior: np.ndarray, noise: float
) -> tuple[np.ndarray, np.ndarray]:
    """Bayesian linear regression with independent zero-mean normal priors.

    Args:
        columns: (m, K).
        errors: what is to be explained, (m,).
        prior: standard deviation of every coefficient, (K,).
        noise: standard deviation of an error about the model.

    Returns:
        coefficients (K,), and the leave-one-out residuals (m,): what is left of each error when the other samples
        explain it (Rasmussen & Williams 2006, "Gaussian Processes for Machine Learning", eq. 5.12).

    >>> fit_ridge(np.ones((3, 1)), np.full(3, 0.2), np.array([9.0]), 0.01)[0].round(3).tolist()
    [0.2]
    """
    scaled = columns * prior
    inverse = np.linalg.inv(scaled @ scaled.T + noise**2 * np.eye(len(errors)))
    weights = inverse @ errors
    return prior * (scaled.T @ weights), weights / np.diag(inverse)


def adapt(
    shipped: np.ndarray,
    features: pd.DataFrame,
    percentile: np.ndarray,
    scaled: np.ndarray,
    weights: np.ndarray,
    prior: Prior | None = None,
) -> tuple[Adaptation, np.ndarray]:
    """Adapt a forecast to measured samples of one target.

    With the factors of retraining among the features, the ridge starts from the mean of the shipped percentile and the
    quantile of the retraining gap. It explains errors on samples whose gap exceeds the goal's slack alone: how trivial
    samples are ordered among themselves says nothing of the others.

    Args:
        shipped: the predictor's percentile of the measured samples, not clipped, (m,).
        features: their feature columns, m rows.
        percentile: measured, (m,).
        scaled: measured difficulty on ``columns.log_scale``, (m,).
        weights: inverse sampling probabilities, (m,).
        prior: default: what was chosen on validation targets.

    Returns:
        The adaptation, and the cross-fitted percentile of every measured sample, not clipped, (m,): what the
        adaptation to all others says of it.
    """
    retrained = GAP in features.columns
    prior = prior or (RETRAIN if retrained else ERASE)
    quantiles = [str(name) for name in features.columns if str(name).endswith(quantile_column(""))]
    measured = [quantile_column(name) for name in RETRAINED] if retrained else []
    factors = [name for name in quantiles if name not in measured]
    start = {FORECAST: 1 - prior.gap, quantile_column(GAP): prior.gap} if retrained else {FORECAST: 1.0}
    above = (GAP, SLACK) if retrained else None
    values = {FORECAST: shipped} | {
        name: np.nan_to_num(features[name].to_numpy(dtype=float), nan=0.5) for name in (*factors, *measured)
    }
    active = features[GAP].to_numpy(dtype=float) > SLACK if retrained else np.ones(len(features), dtype=bool)
    centre = {name: float(column[active].mean()) if active.any() else 0.5 for name, column in values.items()}
    columns = np.column_stack([np.ones(len(features)), *(values[name] - centre[name] for name in values)])
    deviations = UNIFORM * np.array(
        [
            prior.constant / UNIFORM,
            prior.forecast,
            *([prior.factors / np.sqrt(max(1, len(factors)))] * len(factors)),
            *([prior.retraining] * len(measured)),
        ]
    )
    before = np.asarray(sum(weight * values[name] for name, weight in start.items()))
    left = percentile - before
    coefficients = np.zeros(columns.shape[1])
    if active.any():
        coefficients, left[active] = fit_ridge(columns[active], left[active], deviations, prior.noise)
    crossfitted = percentile - left
    weights = weights / weights.mean()
    clipped = np.clip(crossfitted, 0, 1)
    folds = np.argsort(np.argsort(clipped, kind="stable")) % FOLDS
    predicted = np.empty(len(scaled))
    for fold in range(FOLDS):
        without = _monotone(clipped, scaled, weights, folds != fold)
        predicted[folds == fold] = np.interp(clipped[folds == fold], *without)
    scale = _monotone(clipped, scaled, weights, np.ones(len(scaled), dtype=bool))
    adaptation = Adaptation(
        start=start,
        change=dict(zip(values, coefficients[1:].tolist(), strict=True)),
        centre=centre,
        constant=float(coefficients[0]),
        above=above,
        scale=scale,
        errors={
            "percentile": (percentile - clipped).tolist(),
            "difficulty": (scaled - predicted).tolist(),
        },
        weights=weights.tolist(),
    )
    return adaptation, crossfitted


def _monotone(
    percentile: np.ndarray, scaled: np.ndarray, weights: np.ndarray, rows: np.ndarray
) -> tuple[list[float], list[float]]:
    """Knots of the isotonic regression of difficulty on percentile over some rows."""
    fitted = IsotonicRegression(y_min=0, y_max=1).fit(percentile[rows], scaled[rows], weights[rows])
    return fitted.X_thresholds_.tolist(), fitted.y_thresholds_.tolist()


@dataclass(frozen=True)
class Adaptation:
    """The change in one objective's forecast for one target."""

    start: dict[str, float]
    """Weight of the shipped percentile (``forecast``) and of feature columns in what the ridge starts from."""
    change: dict[str, float]
    """Coefficients of the ridge: of the shipped percentile (``forecast``) and of feature columns."""
    centre: dict[str, float]
    """What is subtracted from each of them."""
    constant: float
    above: tuple[str, float] | None
    """Column and value: the change applies to samples above it alone; None: to all."""
    scale: tuple[list[float], list[float]]
    """Knots of the difficulty (logarithmic scale of ``columns.log_scale``) over the percentile."""
    errors: dict[str, list[float]]
    """Per interval head the leave-one-out errors of the measured samples."""
    weights: list[float]
    """Of the measured samples in the intervals, mean 1."""

    def percentile(self, shipped: np.ndarray, features: pd.DataFrame) -> np.ndarray:
        """Adapted percentile, not clipped, (m,).

        Args:
            shipped: the unadapted percentile, (m,).
            features: all feature columns, m rows.
        """
        value = sum(weight * self._column(name, shipped, features) for name, weight in self.start.items())
        change = self.constant + sum(
            weight * (self._column(name, shipped, features) - self.centre[name]) for name, weight in self.change.items()
        )
        return np.asarray(value + self._active(features) * change, dtype=float)

    def contributions(self, shipped: tuple[np.ndarray, float], features: pd.DataFrame) -> tuple[np.ndarray, float]:
        """Contributions of all feature columns, (m, F), and their base, which add up to the adapted percentile.

        Args:
            shipped: contributions (m, F) to the unadapted percentile (0 for columns it does not know), and their base.
            features: the F feature columns, m rows.
        """
        values, base = shipped
        active = self._active(features)
        slope = self.start.get(FORECAST, 0.0) + active * self.change.get(FORECAST, 0.0)
        parts = slope[:, None] * values
        # what every sample has is the base; what only active samples have belongs to the column that says so
        constant = self.start.get(FORECAST, 0.0) * base
        switched = np.full(len(features), self.constant)
        if FORECAST in self.change:
            switched += self.change[FORECAST] * (base - self.centre[FORECAST])
        if self.above is None:
            constant += float(switched[0]) if len(switched) else 0.0
        else:
            parts[:, features.columns.get_loc(self.above[0])] += active * switched
        for number, name in enumerate(features.columns):
            column = self._column(name, base, features)
            if name in self.start:
                parts[:, number] += self.start[name] * (column - 0.5)
                constant += 0.5 * self.start[name]
            if name in self.change:
                parts[:, number] += active * self.change[name] * (column - self.centre[name])
        return parts, constant

    def difficulty(self, percentile: np.ndarray) -> np.ndarray:
        """Difficulty on the logarithmic scale that belongs to a percentile, (m,)."""
        return np.interp(percentile, *self.scale)

    def half_width(self, head: str, shipped: Mapping[str, Sequence[float]], level: float) -> float:
        """Half the width of an interval that would cover ``level`` of the measured samples.

        Each is forecast by the others. The shipped predictor's errors on targets it had not seen count as ten more of
        them. A level that so many cannot support gives 1.

        Args:
            head: "percentile" or "difficulty".
            shipped: errors by target.
            level: in (0, 1).
        """
        others = balanced_residuals(list(shipped.values()))
        size = np.concatenate([np.abs(self.errors[head]), others])
        weight = np.concatenate([self.weights, np.full(len(others), SHIPPED / len(others))])
        order = np.argsort(size, kind="stable")
        if level > 1 - 1 / (weight.sum() + 1):
            return 1.0
        at = int(np.searchsorted(np.cumsum(weight[order]) / weight.sum(), level))
        return float(size[order][min(at, len(size) - 1)])

    @property
    def columns(self) -> set[str]:
        """The feature columns it reads."""
        named = {*self.start, *self.change} - {FORECAST}
        return named if self.above is None else named | {self.above[0]}

    def as_json(self) -> dict[str, Any]:
        """As plain values."""
        return dict(json.loads(json.dumps(asdict(self))))

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> Adaptation:
        """What ``as_json`` gave.

        Raises:
            KeyError, TypeError, ValueError: it is something else.
        """
        above = entry["above"]
        made = cls(
            start={name: float(value) for name, value in entry["start"].items()},
            change={name: float(value) for name, value in entry["change"].items()},
            centre={name: float(entry["centre"][name]) for name in entry["change"]},
            constant=float(entry["constant"]),
            above=None if above is None else (str(above[0]), float(above[1])),
            scale=([float(x) for x in entry["scale"][0]], [float(y) for y in entry["scale"][1]]),
            errors={head: [float(e) for e in entry["errors"][head]] for head in INTERVAL_HEADS},
            weights=[float(weight) for weight in entry["weights"]],
        )
        sizes = {len(made.weights), *map(len, made.errors.values())}
        if len(made.scale[0]) != len(made.scale[1]) or not made.scale[0] or len(sizes) > 1 or 0 in sizes:
            raise ValueError("expected lists of equal lengths")
        numbers = [*made.start.values(), *made.change.values(), *made.centre.values(), made.constant, *made.weights]
        numbers += [number for values in (*made.scale, *made.errors.values()) for number in values]
        numbers += [] if made.above is None else [made.above[1]]
        if not all(abs(number) < 1e30 for number in numbers) or min(made.weights) <= 0:
            raise ValueError("expected finite numbers, and weights above 0")
        return made

    def _column(self, name: str, shipped: Any, features: pd.DataFrame) -> np.ndarray:
        return shipped if name == FORECAST else np.nan_to_num(features[name].to_numpy(dtype=float), nan=0.5)

    def _active(self, features: pd.DataFrame) -> np.ndarray:
        if self.above is None:
            return np.ones(len(features))
        return (features[self.above[0]].to_numpy(dtype=float) > self.above[1]).astype(float)
