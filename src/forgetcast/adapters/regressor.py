"""The predictor's trees as an estimator of scikit-learn, for its pipelines, searches and validations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from crepes import ConformalRegressor
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.utils.validation import check_consistent_length, check_is_fitted

from forgetcast.errors import InputError, NotApplicableError
from forgetcast.predictor.heads import fit_head
from forgetcast.predictor.intervals import balanced_residuals

__all__ = ["DifficultyRegressor"]


class DifficultyRegressor(RegressorMixin, BaseEstimator):
    """Gradient-boosted trees from factors to difficulty, with the parameters of ``DifficultyPredictor``.

    It fits one head: whatever ``y`` is (a percentile, ``labels.consensus``, a measurement of your own). A factor that
    does not apply is NaN.

    Args:
        params: LightGBM parameters over ``heads.DEFAULT_PARAMS``.
        random_state: seed of row and column sampling.

    Attributes:
        n_features_in_: number of factor columns, as everywhere in scikit-learn.
        feature_names_in_: their names, where ``X`` has some.
        head_: the fitted ``heads.Head``.
        residuals_: absolute errors on groups that a fit had not seen, as many from each; None without groups.

    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(200, 3))
    >>> regressor = DifficultyRegressor().fit(X, X[:, 0], groups=np.arange(200) % 4)
    >>> low, high = regressor.predict_interval(X, level=0.9)
    >>> bool((low < high).all())
    True
    """

    def __init__(self, params: Mapping[str, Any] | None = None, random_state: int = 0) -> None:
        self.params = params
        self.random_state = random_state

    def fit(self, X: Any, y: Any, sample_weight: Any = None, groups: Any = None) -> DifficultyRegressor:
        """Fit to factors ``X`` (n, F) and difficulty ``y`` (n,).

        Args:
            X: factor columns, NaN where one does not apply.
            y: what is forecast.
            sample_weight: weight of every row, (n,), at least 0.
            groups: target of every row, (n,); with at least two, errors on targets left out give the intervals.

        Raises:
            InputError: groups that are fewer than two, or LightGBM refuses a parameter.
            ValueError: as usual in scikit-learn: wrong shapes, infinite values, strings.
        """
        X, y = _validated(self, X, y=y, y_numeric=True)
        y = np.asarray(y, dtype=float)
        weight = _weights(sample_weight, X)
        names = [f"factor_{number}" for number in range(X.shape[1])]

        def fitted(rows: np.ndarray) -> Any:
            return fit_head(X[rows], y[rows], weight[rows], names, "value", self.params or {}, self.random_state)

        self.head_ = fitted(np.arange(len(y)))
        self.residuals_ = None
        if groups is not None:
            group = np.asarray(groups)
            check_consistent_length(X, group)
            there = np.unique(group)
            if len(there) < 2:
                raise InputError(f"groups: expected at least 2 different ones to leave out; got {len(there)}")
            errors = [y[group == one] - fitted(np.flatnonzero(group != one)).raw(X[group == one]) for one in there]
            self.residuals_ = balanced_residuals(errors)
        return self

    def predict(self, X: Any) -> np.ndarray:
        """Forecasts, (m,), for factors ``X`` (m, F)."""
        check_is_fitted(self)
        return self.head_.raw(_validated(self, X, reset=False))

    def predict_interval(self, X: Any, level: float = 0.9) -> tuple[np.ndarray, np.ndarray]:
        """Bounds, each (m,), for factors ``X`` (m, F), that would cover ``level`` of the rows of a group that was not
        fitted to.

        Raises:
            NotApplicableError: it was fitted without groups.
            InputError: ``level`` outside (0, 1).
        """
        check_is_fitted(self)
        if self.residuals_ is None:
            raise NotApplicableError("intervals rest on groups that were left out: fit(X, y, groups=...)")
        if not 0 < level < 1:
            raise InputError(f"level: expected a number between 0 and 1; got {level!r}")
        bounds = ConformalRegressor().fit(self.residuals_).predict_int(self.predict(X), confidence=level)
        return bounds[:, 0], bounds[:, 1]

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags


def _validated(estimator: Any, X: Any, **more: Any) -> Any:
    """As scikit-learn checks, NaN allowed among the factors."""
    try:
        from sklearn.utils.validation import validate_data
    except ImportError:  # before 1.6
        return type(estimator)._validate_data(estimator, X, force_all_finite="allow-nan", dtype=np.float64, **more)
    return validate_data(estimator, X, ensure_all_finite="allow-nan", dtype=np.float64, **more)


def _weights(sample_weight: Any, X: np.ndarray) -> np.ndarray:
    from sklearn.utils.validation import _check_sample_weight

    return _check_sample_weight(sample_weight, X, dtype=np.float64, ensure_non_negative=True)
