"""The gradient-boosted models inside a predictor, and their fits with whole groups of rows left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import joblib
import lightgbm as lgb
import numpy as np
import pandas as pd
from tqdm import tqdm

from forgetcast.errors import InputError
from forgetcast.parallel import pool_of
from forgetcast.predictor.columns import HEADS, head_weights, labels_of
from forgetcast.predictor.lightgbm_text import read_booster

__all__ = [
    "DEFAULT_PARAMS",
    "Head",
    "fit_excluding",
    "fit_head",
    "fit_without",
]


DEFAULT_PARAMS: dict[str, Any] = {
    "num_boost_round": 250,
    "learning_rate": 0.05,
    "num_leaves": 12,
    "min_data_in_leaf": 20,
    "feature_fraction": 0.5,
    "bagging_fraction": 0.8,
    "bagging_freq": 1,
    "lambda_l2": 5.0,
    "max_bin": 127,
}
"""LightGBM parameters of every head. A corpus has few targets, so trees are small and every tree sees half
of the
columns: a fit that leans on one column fails on the target where that column does not hold."""

_FIXED: dict[str, Any] = {
    "deterministic": True,
    "force_row_wise": True,
    "num_threads": 1,  # written into the model text, so a constant keeps the bytes the same on every machine
    "verbosity": -1,
}


@dataclass(frozen=True)
class Head:
    """One fitted model: LightGBM trees, or a constant where the label did not vary.

    ``raw`` is on the head's own scale: percentile in (0, 1) but not clipped, difficulty and the parts on a logarithmic
    scale (``columns.log_scale``), or the probability of being trivial.
    """

    features: tuple[str, ...]
    text: str | None = None
    constant: float = 0.0

    @cached_property
    def booster(self) -> lgb.Booster | None:
        """The trees, read back from their text, so that a fresh and a loaded head are the same thing."""
        return None if self.text is None else read_booster(self.text, self.features, "the fitted model")

    def __getstate__(self) -> dict[str, Any]:
        """What a process is sent: the text, not the trees as well."""
        return {name: value for name, value in vars(self).items() if name != "booster"}

    def with_booster(self, booster: lgb.Booster) -> Head:
        """The same with the trees that its text was read as, which need not be read again."""
        self.__dict__["booster"] = booster
        return self

    def raw(self, X: np.ndarray) -> np.ndarray:
        """Predictions, shape (m,), for features ``X`` of shape (m, F) in the order of ``features``."""
        if self.booster is None or len(X) == 0:
            return np.full(len(X), self.constant)
        return np.asarray(self.booster.predict(X), dtype=float)

    def contributions(self, X: np.ndarray) -> tuple[np.ndarray, float]:
        """TreeSHAP values, shape (m, F), and their base.

        base + row sum is ``raw``; for the probability of being trivial it is its log-odds (of a constant head the
        constant).
        """
        if self.booster is None or len(X) == 0:
            return np.zeros((len(X), len(self.features))), self._base()
        values = np.asarray(self.booster.predict(X, pred_contrib=True), dtype=float)
        return values[:, :-1], float(values[0, -1])

    def _base(self) -> float:
        if self.booster is None:
            return self.constant
        nowhere = np.zeros((1, len(self.features)))
        return float(np.asarray(self.booster.predict(nowhere, pred_contrib=True))[0, -1])


def fit_head(
    X: np.ndarray,
    y: np.ndarray,
    weight: np.ndarray,
    features: Sequence[str],
    head: str,
    params: Mapping[str, Any],
    seed: int,
    init: Head | None = None,
) -> Head:
    """Fit one head to features ``X`` (n, F), labels ``y`` (n,) and weights (n,); same inputs, same bytes.

    Boosting goes on from the trees of ``init`` where it has any: they stay, and ``num_boost_round`` more are added.
    Where there is nothing to learn from (no rows, or labels that do not vary) those trees stay alone.

    Raises:
        InputError: LightGBM refuses a parameter.
    """
    start = None if init is None else init.booster
    if init is not None and (len(y) == 0 or (start is not None and np.ptp(y) == 0)):
        return init
    if np.ptp(y) == 0:
        return Head(tuple(features), constant=float(y[0]))
    settings = {**DEFAULT_PARAMS, **params}
    rounds = int(settings.pop("num_boost_round"))
    settings |= _FIXED | {"seed": seed, "objective": "binary" if head == "trivial" else "regression"}
    try:
        data = lgb.Dataset(X, y, weight=weight, feature_name=list(features), params=settings)
        booster = lgb.train(settings, data, num_boost_round=rounds, init_model=start)
    except (lgb.basic.LightGBMError, TypeError, ValueError) as error:
        raise InputError(f"LightGBM could not fit the {head} head with {dict(params)}: {error}") from error
    return Head(tuple(features), text=booster.model_to_string())


def fit_excluding(
    table: pd.DataFrame,
    features: Sequence[str],
    objective: str,
    groups: np.ndarray,
    exclusions: Sequence[frozenset[Any]],
    *,
    heads: Sequence[str] = HEADS,
    params: Mapping[str, Any] | None = None,
    seed: int = 0,
    n_jobs: int = 2,
    init: Mapping[str, Head] | None = None,
    title: str = "",
) -> list[pd.DataFrame]:
    """Predictions for every set of groups by heads fitted to all groups outside that set.

    Args:
        table: a training table without missing labels of ``objective``.
        features: feature columns, F of them.
        objective: "retrain" or "erase".
        groups: group of every row, shape (n,).
        exclusions: sets of groups; each must leave rows to fit to, unless the fit goes on from ``init``.
        heads: which heads to fit.
        params: LightGBM parameters over the defaults.
        seed: of row and column sampling.
        n_jobs: fits run at a time, in threads.
        init: fitted heads by name; every fit goes on from them (see ``fit_head``).
        title: of a progress bar on stderr; without one there is no bar.

    Returns:
        One table per set: its rows (index of ``table``), one column per head on the head's own scale (see ``Head``).
    """
    X = table[list(features)].to_numpy(dtype=float)
    weights = {head: head_weights(table, objective, head) for head in heads}
    labels = {head: labels_of(table, objective, head) for head in heads}

    def one(excluded: frozenset[Any], head: str) -> np.ndarray:
        out = np.isin(groups, list(excluded))
        start = (init or {}).get(head)
        fitted = fit_head(X[~out], labels[head][~out], weights[head][~out], features, head, params or {}, seed, start)
        return fitted.raw(X[out])

    tasks = [(excluded, head) for excluded in exclusions for head in heads]
    work = pool_of(n_jobs, prefer="threads")(joblib.delayed(one)(*task) for task in tasks)
    results = list(tqdm(work, total=len(tasks), desc=title, unit="fit", disable=not title, leave=False))
    frames = [pd.DataFrame(index=table.index[np.isin(groups, list(excluded))]) for excluded in exclusions]
    for number, ((_, head), values) in enumerate(zip(tasks, results, strict=True)):
        frames[number // len(heads)][head] = values
    return frames


def fit_without(
    table: pd.DataFrame,
    features: Sequence[str],
    objective: str,
    groups: np.ndarray,
    *,
    heads: Sequence[str] = HEADS,
    params: Mapping[str, Any] | None = None,
    seed: int = 0,
    n_jobs: int = 2,
    only: Sequence[Any] | None = None,
    init: Mapping[str, Head] | None = None,
    title: str = "",
) -> pd.DataFrame:
    """Out-of-group predictions: each group is predicted by heads fitted to all other groups.

    Args:
        table, features, objective, groups, heads, params, seed, n_jobs, init, title: see ``fit_excluding``; at least
            two groups, unless the fit goes on from ``init``.
        only: predict these groups alone (all others still serve as training data).

    Returns:
        One column per head on the head's own scale (see ``Head``), index of ``table``; NaN for rows not predicted.
    """
    exclusions = [frozenset([group]) for group in dict.fromkeys(groups if only is None else only)]
    settings: dict[str, Any] = {"params": params, "seed": seed, "n_jobs": n_jobs, "init": init, "title": title}
    frames = fit_excluding(table, features, objective, groups, exclusions, heads=heads, **settings)
    return pd.concat(frames).reindex(table.index)
