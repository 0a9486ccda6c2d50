"""Forecasts for whole targets, architectures or datasets that the fit has not seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd

from forgetcast.errors import InputError, SchemaError
from forgetcast.heads import HEADS, OBJECTIVES, fit_without, labels_of
from forgetcast.intervals import balanced_residuals, conformal_interval

__all__ = ["Group", "leave_one_group_out", "objectives_of"]

Group = Literal["target", "architecture", "dataset"]


def objectives_of(table: pd.DataFrame) -> list[str]:
    """The objectives that a training table has labels for."""
    return [o for o in OBJECTIVES if all(f"{head}_{o}" in table.columns for head in HEADS)]


def leave_one_group_out(
    table: pd.DataFrame,
    features: Sequence[str],
    group: Group = "target",
    *,
    params: Mapping[str, Any] | None = None,
    level: float = 0.9,
    seed: int = 0,
    n_jobs: int = 2,
) -> pd.DataFrame:
    """Forecast every instance by a fit to all groups but its own.

    Intervals of a group come from the errors made on the other groups, each left out in its turn, and so without any
    measurement of the group itself (cross-conformal over groups; Barber et al. 2021, "Predictive inference with the
    jackknife+", without their extra width for the spread of fits).

    Args:
        table: training table (``corpus.training_table``).
        features: feature columns.
        group: what is left out at a time: a target, or all targets of an architecture or dataset.
        params: LightGBM parameters over the defaults.
        level: of the intervals.
        seed: of row and column sampling.
        n_jobs: fits run at a time.

    Returns:
        One row per objective and instance: objective, target, index, group, weight, memorization (NaN where the table
        has none), difficulty_measured, percentile_measured, trivial_measured, and the columns of
        ``DifficultyPredictor.predict``.

    Raises:
        SchemaError: columns are missing.
        InputError: fewer than two groups.
    """
    missing = [name for name in ("target", "weight", group, *features) if name not in table.columns]
    if missing or not objectives_of(table):
        raise SchemaError(f"the training table lacks {', '.join(missing) or 'labels of any objective'}")
    if table[group].nunique() < 2:
        raise InputError(
            f"leaving one {group} out needs at least two; the table has {table[group].nunique()}: "
            "generate outcomes for more targets"
        )
    parts = []
    for objective in objectives_of(table):
        rows = table.dropna(subset=[f"{head}_{objective}" for head in HEADS]).reset_index(drop=True)
        groups = rows[group].astype(str).to_numpy(dtype=object)
        raw = fit_without(rows, features, objective, groups, params=params, seed=seed, n_jobs=n_jobs).clip(0, 1)
        out = pd.DataFrame({"objective": objective, "target": rows["target"].astype(str), "index": rows["index"]})
        out["group"] = groups
        out["weight"] = rows["weight"].to_numpy(dtype=float)
        out["memorization"] = rows["memorization"].to_numpy(dtype=float) if "memorization" in rows else np.nan
        for head in HEADS:
            out[f"{head}_measured"] = rows[f"{head}_{objective}"].to_numpy()
        out["difficulty"] = raw["difficulty"] ** 2
        bounds = _bounds(raw, rows, objective, groups, level)
        out["lower"], out["upper"] = (bound**2 for bound in bounds["difficulty"])
        out["percentile"] = raw["percentile"]
        out["percentile_lower"], out["percentile_upper"] = bounds["percentile"]
        out["p_trivial"] = raw["trivial"]
        parts.append(out)
    return pd.concat(parts, ignore_index=True)


def _bounds(
    raw: pd.DataFrame, rows: pd.DataFrame, objective: str, groups: np.ndarray, level: float
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Lower and upper bound of every row on the head's own scale, calibrated on the other groups."""
    targets = rows["target"].to_numpy(dtype=object)
    out = {}
    for head in ("difficulty", "percentile"):
        residual = labels_of(rows, objective, head) - raw[head].to_numpy()
        lower, upper = np.zeros(len(rows)), np.ones(len(rows))
        for group in dict.fromkeys(groups):
            own = groups == group
            others = [residual[(targets == name) & ~own] for name in dict.fromkeys(targets[~own])]
            scores = balanced_residuals(others)
            lower[own], upper[own] = conformal_interval(scores, raw[head].to_numpy()[own], level)
        out[head] = lower, upper
    return out
