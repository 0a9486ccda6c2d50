"""The heads that distinguish unlearners: the features once per unlearner, with its number beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import joblib
import numpy as np
import pandas as pd

from forgetcast.parallel import pool_of
from forgetcast.predictor.columns import UNLEARNER, log_scale, training_weights, under_each
from forgetcast.predictor.heads import Head, fit_head
from forgetcast.predictor.intervals import fold_rows

__all__ = [
    "fit_unlearner_head",
    "known_unlearners",
    "unlearner_errors",
    "with_unlearner",
]


ERRORS = 40
"""Errors kept per unlearner and target: enough for their quantiles, few enough for a file that people load."""


def known_unlearners(heads: Mapping[str, Mapping[str, Head]], manifest: Mapping[str, Any]) -> dict[str, list[str]]:
    """By objective, the unlearners in the order of the head that distinguishes them; where there is such a head.

    Args:
        heads: by objective and name, of a predictor.
        manifest: of that predictor.
    """
    known = manifest.get("unlearners", {})
    return {name: known[name] for name, fitted in heads.items() if UNLEARNER in fitted and known.get(name)}


def with_unlearner(X: np.ndarray, unlearners: int) -> np.ndarray:
    """Features (m, F) once per unlearner and its number beside them: (m * unlearners, F + 1), samples outermost."""
    return np.column_stack([np.repeat(X, unlearners, axis=0), np.tile(np.arange(unlearners), len(X))])


def fit_unlearner_head(
    table: pd.DataFrame,
    features: Sequence[str],
    objective: str,
    unlearners: Sequence[str],
    params: Mapping[str, Any],
    seed: int,
    init: Head | None = None,
    part: str = "difficulty",
) -> Head:
    """One head for difficulty, or a part, under every unlearner: its last feature is the place in ``unlearners``.

    The places are an order of harm, so that a split on them means something. It is fitted to samples that are not
    trivial: the others ask for no unlearner. It goes on from ``init`` as in ``fit_head``, with the unlearners of
    ``init``; the table need not have all of them.
    """
    rows = table[~table[f"trivial_{objective}"].astype(bool)]
    y = under_each(rows, objective, unlearners, part).ravel()
    X = with_unlearner(rows[list(features)].to_numpy(dtype=float), len(unlearners))
    weight = np.repeat(training_weights(rows), len(unlearners))
    known = ~np.isnan(y)
    columns = [*features, UNLEARNER]
    if not known.any():
        return init or Head(tuple(columns))
    return fit_head(X[known], log_scale(y[known], part), weight[known], columns, UNLEARNER, params, seed, init)


def unlearner_errors(
    table: pd.DataFrame,
    features: Sequence[str],
    objective: str,
    unlearners: Sequence[str],
    groups: np.ndarray,
    *,
    params: Mapping[str, Any] | None = None,
    seed: int = 0,
    n_jobs: int = 2,
    init: Head | None = None,
) -> dict[str, dict[str, list[float]]]:
    """Errors of the head for difficulty under each unlearner on rows that its fit had not seen.

    Args:
        table: labelled rows of an objective, with columns under_<unlearner>_<objective>.
        features: feature columns.
        objective: "retrain" or "erase".
        unlearners: in their order of harm.
        groups: group of every row, shape (n,); eighths of the groups are left out at a time.
        params: LightGBM parameters over the defaults.
        seed: of row and column sampling.
        n_jobs: fits run at a time, in threads.
        init: the head that the fit goes on from, if any.

    Returns:
        By unlearner and group at most ``ERRORS`` evenly spaced order statistics of measured minus predicted difficulty
        on the logarithmic scale, over samples that are not trivial.
    """

    def one(out: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        rest, left = table[~out], table[out & ~table[f"trivial_{objective}"].to_numpy(dtype=bool)]
        head = fit_unlearner_head(rest, features, objective, unlearners, params or {}, seed, init)
        raw = head.raw(with_unlearner(left[list(features)].to_numpy(dtype=float), len(unlearners)))
        error = log_scale(under_each(left, objective, unlearners)) - raw.reshape(-1, len(unlearners)).clip(0, 1)
        return error, groups[table.index.get_indexer(left.index)]

    folds = [out for out in fold_rows(groups) if init is not None or not out.all()]
    found = list(pool_of(n_jobs, prefer="threads")(joblib.delayed(one)(out) for out in folds))
    error = np.concatenate([part for part, _ in found]) if found else np.zeros((0, len(unlearners)))
    owner = np.concatenate([part for _, part in found]) if found else np.zeros(0, dtype=object)
    kept: dict[str, dict[str, list[float]]] = {}
    for place, name in enumerate(unlearners):
        for group in dict.fromkeys(owner):
            values = error[owner == group, place]
            values = values[np.isfinite(values)]
            if len(values):
                steps = (np.arange(min(ERRORS, len(values))) + 0.5) / min(ERRORS, len(values))
                chosen = np.quantile(values, steps, method="inverted_cdf")
                kept.setdefault(name, {})[str(group)] = chosen.round(5).tolist()
    return kept
