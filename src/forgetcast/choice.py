"""Does naming an unlearner for each sample do less harm than always taking the same one?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import joblib
import numpy as np
import pandas as pd

from forgetcast.holdout import fold_rows, objectives_of
from forgetcast.unlearner_heads import fit_unlearner_head, unlearners_of, with_unlearner

__all__ = ["unlearner_choice"]


def unlearner_choice(
    table: pd.DataFrame,
    features: Sequence[str],
    *,
    params: Mapping[str, Any] | None = None,
    resamples: int = 1000,
    seed: int = 0,
    n_jobs: int = 2,
) -> pd.DataFrame:
    """Measured difficulty of unseen targets' samples under the unlearner that the forecast names.

    Targets are left out by eighths. Scored are samples that are not trivial and were measured under every unlearner.

    Args:
        table: training table with columns under_<unlearner>_<objective>.
        features: feature columns.
        params, seed, n_jobs: as in ``holdout.leave_one_group_out``.
        resamples: of the bootstrap over targets.

    Returns:
        One row per objective: unlearners (how many), named, single_best (the unlearner that was best on the training
        targets, for all samples), hindsight (the best for every sample, known afterwards), any (mean over unlearners):
        mean over targets of mean difficulty; difference (named minus single_best) with low and high (95 %, targets
        redrawn); best (the single best's name in most folds); hit (share of samples whose least harmful unlearner is
        named); targets. Without objectives that have two unlearners it is empty.
    """
    records = []
    for objective in objectives_of(table):
        names = unlearners_of(table, objective)
        under = [f"under_{name}_{objective}" for name in names]
        if len(names) < 2:
            continue
        rows = table[~table[f"trivial_{objective}"].astype(bool)].dropna(subset=under).reset_index(drop=True)
        targets = rows["target"].astype(str).to_numpy(dtype=object)
        folds = fold_rows(targets)
        if len(folds) < 2:
            continue

        def forecast(
            own: np.ndarray, rows: pd.DataFrame = rows, objective: str = objective
        ) -> tuple[np.ndarray, list[str]]:
            order = unlearners_of(rows[~own], objective)
            head = fit_unlearner_head(rows[~own], features, objective, order, params or {}, seed)
            X = rows.loc[own, list(features)].to_numpy(dtype=float)
            return head.raw(with_unlearner(X, len(order))).reshape(len(X), len(order)), order

        results = joblib.Parallel(n_jobs=n_jobs, prefer="threads")(joblib.delayed(forecast)(own) for own in folds)
        measured = rows[under].to_numpy(dtype=float)
        named, single, best = np.zeros(len(rows), dtype=int), np.zeros(len(rows), dtype=int), []
        for own, (scores, order) in zip(folds, results, strict=True):
            place = np.array([names.index(name) for name in order])
            named[own], single[own] = place[scores.argmin(axis=1)], place[0]
            best.append(order[0])
        at = np.arange(len(rows))
        harm = pd.DataFrame(
            {
                "named": measured[at, named],
                "single_best": measured[at, single],
                "hindsight": measured.min(axis=1),
                "any": measured.mean(axis=1),
                "hit": (measured[at, named] <= measured.min(axis=1)).astype(float),
            }
        )
        means = harm.groupby(targets).mean()
        gain = (means["named"] - means["single_best"]).to_numpy()
        draws = gain[np.random.default_rng(seed).integers(len(gain), size=(resamples, len(gain)))].mean(axis=1)
        low, high = np.quantile(draws, [0.025, 0.975])
        records.append(
            {"objective": objective, "unlearners": len(names), **means.mean().to_dict()}
            | {"difference": gain.mean(), "low": low, "high": high}
            | {"best": max(dict.fromkeys(best), key=best.count), "targets": len(means)}
        )
    return pd.DataFrame(records)
