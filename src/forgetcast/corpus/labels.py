"""Outcome rows → difficulty. Pure functions of stored outcomes: a better label never needs a new run."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from forgetcast.errors import InputError, UnknownNameError
from forgetcast.objectives import PARTS
from forgetcast.ranks import weighted_percentile

__all__ = [
    "CONSENSUS",
    "agreement",
    "consensus",
    "difficulty",
    "harmonic_score",
    "outcome_parts",
    "per_unlearner",
    "reliability",
]

CONSENSUS = ("bad_teaching", "gradient_ascent", "influence", "neggrad_plus", "random_relabelling")
"""Unlearners averaged into the consensus: all that walk a path and agree with each other.

Exact retraining is the reference and has no strength to be matched, so it is kept in the table and left out here.
"""


def harmonic_score(forgetting: np.ndarray, tv_retain: np.ndarray, tv_test: np.ndarray) -> np.ndarray:
    """H = 3 / (1/F + 1/R + 1/T) with R = 1 - TV_retain and T = 1 - TV_test; 0 where any of them is 0. In [0, 1].

    >>> harmonic_score(np.array([1.0, 1.0]), np.array([0.0, 0.5]), np.array([0.0, 0.5])).round(3).tolist()
    [1.0, 0.6]
    """
    parts = np.stack([forgetting, 1 - np.asarray(tv_retain), 1 - np.asarray(tv_test)])
    positive = (parts > 0).all(0)
    inverse = np.where(positive, parts, 1.0)
    return np.where(positive, 3 / (1 / inverse).sum(0), 0.0)


def difficulty(outcomes: pd.DataFrame) -> pd.Series:
    """Difficulty = 1 - H of every outcome row; see :func:`harmonic_score`.

    Args:
        outcomes: outcome rows (see ``forgetcast.unlearn.protocol.OUTCOME_COLUMNS``).

    Returns:
        One value per row, in [0, 1]; 0 for trivial ones (nothing had to change).
    """
    values = 1 - harmonic_score(
        outcomes["forgetting"].to_numpy(float),
        outcomes["tv_retain"].to_numpy(float),
        outcomes["tv_test"].to_numpy(float),
    )
    return pd.Series(values, index=outcomes.index, name="difficulty").clip(0, 1)


def per_unlearner(
    outcomes: pd.DataFrame, objective: str, unlearners: Sequence[str], part: str = "difficulty"
) -> pd.DataFrame:
    """Difficulty, or a part of the outcome, under every unlearner, averaged over seeds.

    Args:
        outcomes: outcome rows (see ``forgetcast.unlearn.protocol.OUTCOME_COLUMNS``).
        objective: "retrain" or "erase".
        unlearners: which.
        part: "difficulty", or a name of ``forgetcast.objectives.PARTS``.

    Returns:
        Rows (target, index), one column per unlearner; NaN where one did not serve a sample.

    Raises:
        UnknownNameError: one of ``unlearners`` has no outcomes.
        InputError: there are no outcomes for the objective.
    """
    known = sorted(outcomes["unlearner"].unique())
    missing = [name for name in unlearners if name not in known]
    if missing:
        raise UnknownNameError.of("unlearner in these outcomes", missing[0], known)
    chosen = outcomes[(outcomes["objective"] == objective) & outcomes["unlearner"].isin(unlearners)]
    if chosen.empty:
        raise InputError(f"no outcomes for objective {objective!r}; there are {sorted(outcomes['objective'].unique())}")
    if part == "difficulty":
        chosen = chosen.assign(difficulty=difficulty(chosen))
    values = PARTS.get(part, part)
    return chosen.pivot_table(index=["target", "index"], columns="unlearner", values=values, aggfunc="mean")


def _complete(outcomes: pd.DataFrame, objective: str, unlearners: Sequence[str]) -> pd.DataFrame:
    """The rows of ``per_unlearner`` that every unlearner has."""
    table = per_unlearner(outcomes, objective, unlearners).dropna()
    if table.empty:
        raise InputError(
            f"no sample was measured under all of {', '.join(unlearners)} for objective {objective!r}: "
            "average fewer unlearners, or measure more"
        )
    return table


def _ranks(table: pd.DataFrame, weights: pd.Series) -> pd.DataFrame:
    """Within-target weighted percentile of every column of a (target, index) table."""
    parts = []
    for _, part in table.groupby(level="target", sort=False):
        w = weights.reindex(part.index).fillna(1.0).to_numpy(float)
        ranked = {name: weighted_percentile(part[name].to_numpy(float), w) for name in part.columns}
        parts.append(pd.DataFrame(ranked, index=part.index))
    return pd.concat(parts)


def _weights(instances: pd.DataFrame) -> pd.Series:
    return instances.set_index(["target", "index"])["weight"]


def consensus(
    outcomes: pd.DataFrame,
    instances: pd.DataFrame,
    objective: str,
    unlearners: Sequence[str] = CONSENSUS,
) -> pd.DataFrame:
    """Consensus difficulty of every (target, instance) under one objective.

    Args:
        outcomes: outcome rows (see ``forgetcast.unlearn.protocol.OUTCOME_COLUMNS``).
        instances: target, index and weight (inverse sampling probability).
        objective: "retrain" or "erase".
        unlearners: whose difficulty is averaged; seeds are averaged first.

    Returns:
        Columns target, index, objective, difficulty (mean over unlearners, in [0, 1]), percentile (mean over
        unlearners of the weighted within-target mid-rank percentile, in (0, 1)), trivial, weight. Rows missing under
        some unlearner are left out.

    Raises:
        UnknownNameError: an unlearner without outcomes.
        InputError: no outcomes for the objective, or no sample with all unlearners.
    """
    table = _complete(outcomes, objective, unlearners)
    weights = _weights(instances)
    rows = outcomes[(outcomes["objective"] == objective) & outcomes["unlearner"].isin(unlearners)]
    trivial = rows.groupby(["target", "index"])["trivial"].all()
    result = pd.DataFrame(
        {
            "objective": objective,
            "difficulty": table.mean(axis=1),
            "percentile": _ranks(table, weights).mean(axis=1),
            "trivial": trivial.reindex(table.index).astype(bool),
            "weight": weights.reindex(table.index).fillna(1.0),
        }
    )
    return result.reset_index()


def outcome_parts(outcomes: pd.DataFrame, objective: str, unlearners: Sequence[str] = CONSENSUS) -> pd.DataFrame:
    """What it took to meet the goal: mean over unlearners, seeds averaged first, of every part that was recorded.

    Args:
        outcomes: outcome rows (see ``forgetcast.unlearn.protocol.OUTCOME_COLUMNS``).
        objective: "retrain" or "erase".
        unlearners: which are averaged.

    Returns:
        Columns target, index and those of ``PARTS``: total variation on held-out data and on the sample's neighbours
        (in [0, 1]), steps, and the distance of the parameters from their control's.
    """
    chosen = outcomes[(outcomes["objective"] == objective) & outcomes["unlearner"].isin(unlearners)]
    recorded = {name: column for name, column in PARTS.items() if column in outcomes}
    keys = ["target", "index"]
    per_run = chosen.groupby([*keys, "unlearner"], sort=False)[list(recorded.values())].mean()
    parts = per_run.groupby(keys, sort=False).mean()
    return parts.rename(columns={column: name for name, column in recorded.items()}).reset_index()


def agreement(outcomes: pd.DataFrame, objective: str, unlearners: Sequence[str] = CONSENSUS) -> pd.DataFrame:
    """Spearman correlation of difficulty between unlearners, averaged over targets.

    A target on which an unlearner says the same of all samples has no correlation and does not enter the average.

    Args:
        outcomes: outcome rows (see ``forgetcast.unlearn.protocol.OUTCOME_COLUMNS``).
        objective: "retrain" or "erase".
        unlearners: which are compared.

    Returns:
        A square table, rows and columns by unlearner.

    Raises:
        UnknownNameError: one of ``unlearners`` has no outcomes.
        InputError: there are no outcomes for the objective.
    """
    table = per_unlearner(outcomes, objective, unlearners)
    parts = [part.corr(method="spearman") for _, part in table.groupby(level="target")]
    return pd.concat(parts).groupby(level=0).mean()


def spearman_brown(r: float) -> float:
    """Reliability of the whole from the correlation of two halves: 2r / (1 + r).

    >>> round(spearman_brown(0.8), 3)
    0.889
    """
    return 2 * r / (1 + r) if r > -1 else float("nan")


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    keep = np.isfinite(a) & np.isfinite(b)
    if keep.sum() < 4 or np.ptp(a[keep]) == 0 or np.ptp(b[keep]) == 0:
        return float("nan")
    return float(spearmanr(a[keep], b[keep]).statistic)


def reliability(
    outcomes: pd.DataFrame,
    instances: pd.DataFrame,
    objective: str,
    unlearners: Sequence[str] = CONSENSUS,
) -> pd.DataFrame:
    """Split-half reliability of the label, Spearman, corrected by Spearman-Brown: the noise ceiling of a forecast.

    Kinds: "unlearners" (all splits into two disjoint halves, averaged), "seeds" (even against odd seeds; unlearners
    without randomness enter both halves, as they have no seed noise), "oracle" (halves of the oracle's seeds). A
    correlation with the truth cannot exceed the root of the reliability.

    Args:
        outcomes: outcome rows (see ``forgetcast.unlearn.protocol.OUTCOME_COLUMNS``).
        instances: target, index and weight (inverse sampling probability), and the answers of the oracle's seeds.
        objective: "retrain" or "erase".
        unlearners: whose consensus is the label.

    Returns:
        Columns target, objective, kind, reliability; NaN where it cannot be computed.
    """
    weights = _weights(instances)
    records: list[tuple[object, str, float]] = []
    ranks = _ranks(_complete(outcomes, objective, unlearners), weights)
    for target, part in ranks.groupby(level="target", sort=False):
        names = list(part.columns)
        halves = [list(h) for h in combinations(names, len(names) // 2) if len(names) > 1]
        values = [
            _correlation(
                part[half].mean(axis=1).to_numpy(),
                part[[n for n in names if n not in half]].mean(axis=1).to_numpy(),
            )
            for half in halves
        ]
        records.append((target, "unlearners", spearman_brown(float(np.mean(values))) if values else np.nan))
    seed_rank = outcomes["seed"].rank(method="dense").astype(int)
    runs = outcomes.groupby(["target", "unlearner"])["seed"].transform("nunique")
    if (runs > 1).any():
        parts = [outcomes[(seed_rank % 2 == k) | (runs == 1)] for k in (0, 1)]
        tables = [per_unlearner(part, objective, unlearners).dropna() for part in parts]
        means = pd.concat([_ranks(table, weights).mean(axis=1) for table in tables], axis=1, join="inner")
        for target, both in means.groupby(level="target", sort=False):
            records.append((target, "seeds", spearman_brown(_correlation(*both.to_numpy().T))))
    if objective == "retrain":
        for name, part in instances.groupby("target", sort=False):
            halves_a, halves_b = (part[f"p_out_half_{half}"].to_numpy(float) for half in "ab")
            value = _correlation(halves_a, halves_b)
            records.append((name, "oracle", spearman_brown(value)))
    frame = pd.DataFrame(records, columns=["target", "kind", "reliability"])
    frame.insert(1, "objective", objective)
    return frame
