"""Does naming an unlearner for each sample do less harm than always taking the same one?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from forgetcast.evaluation.fit_settings import FitSettings
from forgetcast.predictor.columns import objectives_of, under_column, under_each, unlearners_of
from forgetcast.predictor.intervals import fold_rows
from forgetcast.predictor.unlearner_heads import fit_unlearner_head, with_unlearner

__all__ = ["Chosen", "choice_table", "chosen_unlearners", "unlearner_choice"]


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
        params: LightGBM parameters over the defaults.
        resamples: of the bootstrap over targets.
        seed: of row and column sampling, and of the bootstrap.
        n_jobs: fits run at a time.

    Returns:
        One row per objective: unlearners (how many), named, single_best (the unlearner that was best on the training
        targets, for all samples), hindsight (the best for every sample, known afterwards), any (mean over unlearners):
        mean over targets of mean difficulty; difference (named minus single_best) with low and high (95 %, targets
        redrawn); best (the single best's name in most folds); hit (share of samples whose least harmful unlearner is
        named); targets. Without objectives that have two unlearners it is empty.
    """
    return choice_table(table, FitSettings(features, params, seed, n_jobs, resamples))


def choice_table(table: pd.DataFrame, settings: FitSettings) -> pd.DataFrame:
    """What :func:`unlearner_choice` returns."""
    records = []
    for objective in objectives_of(table):
        chosen = chosen_unlearners(table, objective, settings)
        if chosen is None:
            continue
        measured = chosen.under("difficulty")
        harm = chosen.compared(measured)
        harm["hit"] = (harm["named"] <= harm["hindsight"]).astype(float)
        means = harm.groupby(chosen.targets).mean()
        low, high = chosen.interval(measured, settings.resamples, settings.seed)
        best = [chosen.unlearners[place] for place in chosen.single]
        records.append(
            {"objective": objective, "unlearners": len(chosen.unlearners), **means.mean().to_dict()}
            | {"difference": (means["named"] - means["single_best"]).mean(), "low": low, "high": high}
            | {"best": max(dict.fromkeys(best), key=best.count), "targets": len(means)}
        )
    return pd.DataFrame(records)


@dataclass(frozen=True)
class Chosen:
    """Which unlearner a forecast names for samples of targets that it has not seen."""

    rows: pd.DataFrame
    """The samples: rows of the training table that are not trivial and were measured under every unlearner."""
    objective: str
    unlearners: tuple[str, ...]
    named: np.ndarray
    """Place of the unlearner that is forecast to do the least harm, (n,)."""
    single: np.ndarray
    """Place of the one that did the least on the targets that were fitted to, (n,)."""

    @property
    def targets(self) -> np.ndarray:
        """Target of every sample, (n,)."""
        return self.rows["target"].astype(str).to_numpy(dtype=object)

    def under(self, part: str) -> np.ndarray:
        """What was measured under every unlearner, (n, unlearners): "difficulty" or a part of the outcome."""
        return under_each(self.rows, self.objective, self.unlearners, part)

    def compared(self, measured: np.ndarray) -> pd.DataFrame:
        """What was measured (n, unlearners) under the choices, one row per sample: named, single_best, hindsight (the
        least of all), any (their mean)."""
        at = np.arange(len(measured))
        return pd.DataFrame(
            {
                "named": measured[at, self.named],
                "single_best": measured[at, self.single],
                "hindsight": measured.min(axis=1),
                "any": measured.mean(axis=1),
            }
        )

    def gain(self, measured: np.ndarray) -> pd.Series:
        """Mean of named minus single best by target, of what was measured (n, unlearners)."""
        compared = self.compared(measured)
        return (compared["named"] - compared["single_best"]).groupby(self.targets).mean()

    def interval(self, measured: np.ndarray, resamples: int = 1000, seed: int = 0) -> tuple[float, float]:
        """95 % interval of the mean gain over targets, targets redrawn."""
        gain = self.gain(measured).to_numpy()
        draws = gain[np.random.default_rng(seed).integers(len(gain), size=(resamples, len(gain)))].mean(axis=1)
        low, high = np.quantile(draws, [0.025, 0.975])
        return float(low), float(high)


def chosen_unlearners(table: pd.DataFrame, objective: str, settings: FitSettings) -> Chosen | None:
    """Name an unlearner for every sample by a fit to other targets; None with fewer than two unlearners or targets.

    Args:
        table: as for :func:`unlearner_choice`.
        objective: one that the table has labels for.
        settings: of the fits.
    """
    names = unlearners_of(table, objective)
    if len(names) < 2:
        return None
    under = [under_column(name, objective) for name in names]
    rows = table[~table[f"trivial_{objective}"].astype(bool)].dropna(subset=under).reset_index(drop=True)
    folds = fold_rows(rows["target"].astype(str).to_numpy(dtype=object))
    if len(folds) < 2:
        return None

    features = list(settings.features)

    def forecast(own: np.ndarray) -> tuple[np.ndarray, list[str]]:
        order = unlearners_of(rows[~own], objective)
        head = fit_unlearner_head(rows[~own], features, objective, order, settings.params or {}, settings.seed)
        X = rows.loc[own, features].to_numpy(dtype=float)
        return head.raw(with_unlearner(X, len(order))).reshape(len(X), len(order)), order

    results = settings.in_threads(forecast, [(own,) for own in folds])
    named, single = np.zeros(len(rows), dtype=int), np.zeros(len(rows), dtype=int)
    for own, (scores, order) in zip(folds, results, strict=True):
        place = np.array([names.index(name) for name in order])
        named[own], single[own] = place[scores.argmin(axis=1)], place[0]
    return Chosen(rows, objective, tuple(names), named, single)
