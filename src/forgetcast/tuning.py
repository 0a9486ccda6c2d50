"""Choice of LightGBM parameters on named validation targets, never on those that are scored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from forgetcast.errors import InputError, UnknownNameError
from forgetcast.heads import fit_without
from forgetcast.holdout import objectives_of
from forgetcast.scores import within_target_rho

__all__ = ["GRID", "choose_params"]

GRID: tuple[dict[str, Any], ...] = (
    {},
    {"num_leaves": 6},
    {"num_leaves": 24},
    {"num_boost_round": 120},
    {"num_boost_round": 500},
    {"feature_fraction": 0.25},
    {"feature_fraction": 0.8},
    {"min_data_in_leaf": 60},
    {"lambda_l2": 30.0},
    {"num_leaves": 6, "num_boost_round": 500},
    {"num_leaves": 6, "num_boost_round": 500, "feature_fraction": 0.25},
)
"""What is tried: the defaults and one step from them to either side, then smaller trees with more of them. Short on
purpose: a handful of validation targets cannot tell many candidates apart."""


def choose_params(
    table: pd.DataFrame,
    features: Sequence[str],
    groups: Sequence[str],
    *,
    grid: Sequence[Mapping[str, Any]] = GRID,
    seed: int = 0,
    n_jobs: int = 2,
) -> tuple[dict[str, Any], pd.DataFrame]:
    """The candidate that forecasts the validation targets best when each of them is left out.

    Each validation target is forecast by a fit to all other targets. The score is the within-target Spearman
    correlation of the percentile, mean over validation targets and objectives. A later candidate must beat an earlier
    one, so ties go to the defaults. Targets named here must not be scored in the evaluation that follows
    (``evaluate(tuned_on=...)``).

    Args:
        table: training table.
        features: feature columns.
        groups: names of the validation targets.
        grid: candidate parameters, each over the defaults.
        seed: of row and column sampling.
        n_jobs: fits run at a time.

    Returns:
        The chosen parameters, and everything tried: params, rho, one column per objective, chosen.

    Raises:
        UnknownNameError: a validation target that the table does not have.
        InputError: no validation target, no candidate, or no other target to fit to.
    """
    targets = table["target"].astype(str).to_numpy(dtype=object)
    known = list(dict.fromkeys(targets))
    for name in groups:
        if name not in known:
            raise UnknownNameError.of("target", name, known)
    if not groups or not grid or len(known) < 2:
        raise InputError(
            "expected at least one validation target, one candidate and two targets in the table; "
            f"got {len(groups)}, {len(grid)} and {len(known)}"
        )
    records = []
    for candidate in grid:
        scores: dict[str, float] = {}
        for objective in objectives_of(table):
            rows = table.dropna(subset=[f"percentile_{objective}"])
            own = rows["target"].astype(str).to_numpy(dtype=object)
            predicted = fit_without(
                rows,
                features,
                objective,
                own,
                heads=("percentile",),
                params=candidate,
                seed=seed,
                n_jobs=n_jobs,
                only=[name for name in dict.fromkeys(groups) if name in own],
            )
            measured = rows[f"percentile_{objective}"].to_numpy(dtype=float)
            rho = within_target_rho(predicted.to_numpy(), measured, own, list(dict.fromkeys(groups)))
            scores[objective] = float(np.nanmean(rho)) if not np.isnan(rho).all() else np.nan
        records.append({"params": dict(candidate), "rho": float(np.mean(list(scores.values()))), **scores})
    tried = pd.DataFrame(records)
    best = int(tried["rho"].fillna(-2).to_numpy().argmax())
    tried["chosen"] = np.arange(len(tried)) == best
    return dict(grid[best]), tried
