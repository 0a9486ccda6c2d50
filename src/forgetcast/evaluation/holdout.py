"""Forecasts for whole targets, architectures or datasets that the fit has not seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd

from forgetcast.errors import InputError, SchemaError
from forgetcast.predictor.columns import (
    HEADS,
    INTERVAL_HEADS,
    from_log_scale,
    labelled,
    labels_of,
    objectives_of,
    recorded_parts,
)
from forgetcast.predictor.heads import fit_excluding, fit_without
from forgetcast.predictor.intervals import balanced_residuals, conformal_interval, deal_targets, residual_groups

__all__ = ["Group", "leave_one_group_out"]

Group = Literal["target", "architecture", "dataset"]


Residuals = dict[str, dict[str, np.ndarray]]
"""target -> head -> measured minus predicted on the head's own scale."""


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

    Intervals come from the errors of fits that leave out the group and an eighth of the other targets, whose errors are
    kept; with up to eight targets this is what ``DifficultyPredictor.fit`` does with all other groups. Nothing measured
    on the group reaches them.

    Args:
        table: training table (``evaluation_table.training_table``).
        features: feature columns.
        group: what is left out at a time: a target, or all targets of an architecture or dataset.
        params: LightGBM parameters over the defaults.
        level: of the intervals.
        seed: of row and column sampling.
        n_jobs: fits run at a time.

    Returns:
        One row per objective and instance: objective, target, index, group, weight, memorization (NaN where the table
        has none); difficulty_measured, percentile_measured, trivial_measured, percentile_placed (ties among trivial
        samples resolved as in the fit, see ``columns.labels_of``); the columns of ``DifficultyPredictor.predict``; for
        every recorded part in ``objectives.PARTS`` its forecast and, with _measured, what was measured.

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
        rows = labelled(table, objective).reset_index(drop=True)
        groups = rows[group].astype(str).to_numpy(dtype=object)
        raw, residuals = _out_of_group(rows, features, objective, groups, params, seed, n_jobs)
        raw[list(HEADS)] = raw[list(HEADS)].clip(0, 1)
        out = pd.DataFrame({"objective": objective, "target": rows["target"].astype(str), "index": rows["index"]})
        out["group"] = groups
        out["weight"] = rows["weight"].to_numpy(dtype=float)
        out["memorization"] = rows["memorization"].to_numpy(dtype=float) if "memorization" in rows else np.nan
        for head in HEADS:
            out[f"{head}_measured"] = rows[f"{head}_{objective}"].to_numpy()
        out["percentile_placed"] = labels_of(rows, objective, "percentile")
        out["difficulty"] = from_log_scale(raw["difficulty"].to_numpy())
        bounds = _bounds(raw, residuals, groups, level)
        out["lower"], out["upper"] = map(from_log_scale, bounds["difficulty"])
        out["percentile"] = raw["percentile"]
        out["percentile_lower"], out["percentile_upper"] = bounds["percentile"]
        out["p_trivial"] = raw["trivial"]
        for part in recorded_parts(rows, objective):
            out[part] = from_log_scale(raw[part].to_numpy(), part)
            out[f"{part}_measured"] = rows[f"{part}_{objective}"].to_numpy(dtype=float)
        parts.append(out)
    return pd.concat(parts, ignore_index=True)


def _out_of_group(
    rows: pd.DataFrame,
    features: Sequence[str],
    objective: str,
    groups: np.ndarray,
    params: Mapping[str, Any] | None,
    seed: int,
    n_jobs: int,
) -> tuple[pd.DataFrame, dict[str, Residuals]]:
    """Out-of-group predictions of all heads (index of ``rows``), and for every group the residuals by head and target
    of fits that left out the group and the target's fold."""
    targets = rows["target"].astype(str).to_numpy(dtype=object)
    own = {group: frozenset(targets[groups == group]) for group in dict.fromkeys(groups)}
    excluded = _exclusions(own, list(dict.fromkeys(targets)))
    settings: dict[str, Any] = {"params": params, "seed": seed, "n_jobs": n_jobs}
    heads = (*HEADS, *recorded_parts(rows, objective))
    predicted = pd.concat(
        fit_excluding(rows, features, objective, targets, list(own.values()), heads=heads, **settings)
    )
    sets = list(dict.fromkeys(excluded.values()))  # leaving out two folds serves the groups of both
    frames = fit_excluding(rows, features, objective, targets, sets, heads=INTERVAL_HEADS, **settings)
    by_set = dict(zip(sets, frames, strict=True))
    residuals: dict[str, Residuals] = {group: {} for group in own}
    for (group, target), left_out in excluded.items():
        at = rows.index[targets == target]
        residuals[group][target] = _residuals(rows.loc[at], by_set[left_out].loc[at], objective)
    for group in own:
        if not residuals[group]:  # a single target is left to fit to: folds of its rows, as in the predictor itself
            rest = rows[groups != group]
            folds, _ = residual_groups(rest, seed)
            frame = fit_without(rest, features, objective, folds, heads=INTERVAL_HEADS, **settings)
            residuals[group]["folds"] = _residuals(rest, frame, objective)
    return predicted.reindex(rows.index), residuals


def _exclusions(own: Mapping[str, frozenset[str]], targets: Sequence[str]) -> dict[tuple[str, str], frozenset[str]]:
    """For every group and every target outside it, the targets that a fit leaves out.

    Its error on that target enters the group's intervals. It leaves out the group (a single target with its fold) and
    the target's fold.
    """
    fold = {name: members for members in deal_targets(targets) for name in members}
    sets = {}
    for group, members in own.items():
        base = fold[next(iter(members))] if len(members) == 1 else members
        for name in targets:
            left_out = base | fold[name]
            if name not in base and len(left_out) < len(targets):
                sets[group, name] = left_out
    return sets


def _residuals(rows: pd.DataFrame, predicted: pd.DataFrame, objective: str) -> dict[str, np.ndarray]:
    return {head: labels_of(rows, objective, head) - predicted[head].clip(0, 1).to_numpy() for head in INTERVAL_HEADS}


def _bounds(
    predicted: pd.DataFrame, residuals: dict[str, Residuals], groups: np.ndarray, level: float
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Lower and upper bound of every row on the head's own scale, from errors outside the row's group."""
    out = {}
    for head in INTERVAL_HEADS:
        lower, upper = np.zeros(len(predicted)), np.ones(len(predicted))
        for group, of_target in residuals.items():
            own = groups == group
            scores = balanced_residuals([values[head] for values in of_target.values()])
            lower[own], upper[own] = conformal_interval(scores, predicted[head].to_numpy()[own], level)
        out[head] = lower, upper
    return out
