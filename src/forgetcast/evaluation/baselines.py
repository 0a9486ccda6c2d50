"""What a forecast has to beat: every single factor, true memorization and a linear model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from sklearn.impute import SimpleImputer
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from forgetcast.evaluation.scores import within_target_rho
from forgetcast.predictor.columns import training_weights

__all__ = ["RIDGE_PENALTIES", "ridge", "single_factors", "single_columns"]

RIDGE_PENALTIES = tuple(10.0**k for k in range(-1, 6))


def single_columns(table: pd.DataFrame, features: Sequence[str]) -> list[str]:
    """Feature columns that can order samples within a target, without quantiles of columns that are there too.

    A quantile has the same order as its factor, and a column that is constant within every target has none.
    """
    raw = [name for name in features if name.removesuffix("_quantile") == name or name[:-9] not in features]
    varying = (table.groupby("target")[raw].nunique() > 1).any()
    return [name for name in raw if varying[name]]


def single_factors(
    table: pd.DataFrame, columns: Sequence[str], label: str, groups: np.ndarray
) -> tuple[dict[str, np.ndarray], pd.DataFrame, dict[str, str]]:
    """Every single factor as a forecast, its sign chosen on the training groups alone.

    Args:
        table: rows to score, with columns target, ``label`` and ``columns``.
        columns: factor columns, K of them.
        label: the measured column.
        groups: group of every row, shape (n,); all rows of a target are in one group.

    Returns:
        Scores of every row, higher means harder, shape (n,) each: "best single factor" (for each group the factor
        with the largest mean |rho| on all other groups, with that sign) and "best factor in hindsight" (chosen with
        the very rows it is scored on: no method, but a bound on what one factor can do); then a table with one row per
        factor: rho (mean over targets, sign from the training groups), worst, hindsight (|mean rho|, sign chosen
        afterwards); then the factor chosen for each group.
    """
    targets = table["target"].to_numpy(dtype=object)
    names = list(dict.fromkeys(targets))
    values = table[list(columns)].to_numpy(dtype=float)
    rho = within_target_rho(values, table[label].to_numpy(dtype=float), targets, names)
    group_of = dict(zip(targets, groups, strict=True))
    of_name = np.array([group_of[name] for name in names], dtype=object)
    chosen: dict[str, str] = {}
    best = np.zeros(len(table))
    signed = np.full_like(rho, np.nan)
    for group in dict.fromkeys(groups):
        mean = _mean(rho[of_name != group])
        sign = np.where(mean < 0, -1.0, 1.0)
        top = int(np.abs(mean).argmax())
        chosen[str(group)] = f"{'' if sign[top] > 0 else '-'}{columns[top]}"
        best[groups == group] = sign[top] * values[groups == group, top]
        signed[of_name == group] = sign * rho[of_name == group]
    overall = _mean(rho)
    hindsight = int(np.abs(overall).argmax())
    frame = pd.DataFrame(
        {
            "factor": list(columns),
            "rho": _mean(signed),
            "worst": np.nanmin(signed, axis=0, initial=1.0),
            "hindsight": np.abs(overall),
        }
    )
    scores = {
        "best single factor": best,
        "best factor in hindsight": np.where(overall[hindsight] < 0, -1, 1) * values[:, hindsight],
    }
    chosen["hindsight"] = f"{'' if overall[hindsight] > 0 else '-'}{columns[hindsight]}"
    return scores, frame.sort_values("rho", ascending=False, ignore_index=True), chosen


def ridge(table: pd.DataFrame, features: Sequence[str], label: str, groups: np.ndarray) -> np.ndarray:
    """Out-of-group forecasts of a linear model on the same columns, shape (n,).

    Ridge regression on standardised columns, missing values at the training median, penalty by generalised
    cross-validation on the training groups, same sample weights as the trees.
    """
    X = table[list(features)].to_numpy(dtype=float)
    y, weight = table[label].to_numpy(dtype=float), training_weights(table)
    out = np.zeros(len(table))
    for group in dict.fromkeys(groups):
        kept = groups != group
        model = make_pipeline(
            SimpleImputer(strategy="median", keep_empty_features=True),
            StandardScaler(),
            RidgeCV(RIDGE_PENALTIES),
        )
        model.fit(X[kept], y[kept], ridgecv__sample_weight=weight[kept])
        out[~kept] = model.predict(X[~kept])
    return out


def _mean(rho: np.ndarray) -> np.ndarray:
    """Mean over targets, shape (K,), without those that say nothing; 0 where none is left."""
    said = rho[~np.isnan(rho).all(axis=1)]
    return said.mean(axis=0) if len(said) else np.zeros(rho.shape[1])
