"""Search for LightGBM parameters (Optuna) on named validation targets, never on those that are scored."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from forgetcast.errors import InputError, UnknownNameError
from forgetcast.evaluation.fit_settings import FitSettings
from forgetcast.evaluation.scores import bootstrap_rho, says_something, within_target_rho
from forgetcast.predictor.columns import objectives_of
from forgetcast.predictor.heads import DEFAULT_PARAMS, Head, fit_without

if TYPE_CHECKING:
    import optuna

__all__ = ["SEARCHED", "choose_params", "validation_targets"]

MOST_VALIDATION_TARGETS = 4
SEARCHED = ("num_leaves", "num_boost_round", "min_data_in_leaf", "feature_fraction", "lambda_l2")
"""What is searched. The learning rate is not: more or fewer trees do the same."""


def validation_targets(table: pd.DataFrame, prefer: Collection[str] = ()) -> list[str]:
    """A quarter of the targets, one to four, of as many datasets and architectures as can be; no chance is involved.

    Args:
        table: training table (``evaluation_table.training_table``).
        prefer: targets to take before all others, such as those that will not be scored anyway.
    """
    known = table.drop_duplicates("target").astype({"target": str}).set_index("target").sort_index()
    chosen: list[str] = []
    while len(chosen) < min(MOST_VALIDATION_TARGETS, max(1, len(known) // 4)):
        taken = known.loc[chosen]
        left = known.drop(index=chosen)
        new = [~left[kind].isin(taken[kind]).to_numpy() for kind in ("dataset", "architecture")]
        worth = new[0].astype(int) + new[1] + 3 * left.index.isin(list(prefer))
        chosen.append(str(left.index[worth.argmax()]))
    return chosen


def choose_params(
    table: pd.DataFrame,
    settings: FitSettings,
    groups: Sequence[str],
    *,
    trials: int = 30,
    init: Mapping[str, Mapping[str, Head]] | None = None,
    progress: bool = False,
) -> tuple[dict[str, Any], pd.DataFrame]:
    """The parameters that forecast the validation targets best when each of them is left out.

    Each validation target is forecast by a fit to all other targets. The score is the within-target Spearman
    correlation of the percentile, mean over validation targets and objectives. The first trial is
    ``settings.params``; the others are drawn by a tree-structured Parzen estimator (Bergstra et al. 2011, "Algorithms
    for hyper-parameter optimization"; Optuna, Akiba et al. 2019, arXiv 1907.10902). A handful of validation targets
    cannot separate many candidates. So the best trial is taken only if the whole 95 % interval of its gain over the
    first is above 0 (paired bootstrap, instances and targets redrawn). Targets named here must not be scored in what
    follows (``evaluate(tuned_on=...)``).

    Args:
        table: training table.
        settings: of the fits: features, parameters to begin with, and the seed of the search too.
        groups: names of the validation targets.
        trials: how many candidates are tried, the parameters to begin with included.
        init: fitted heads by objective and name that every fit goes on from (see ``heads.fit_head``).
        progress: a bar on stderr.

    Returns:
        The chosen parameters, and one row per trial: what was searched, rho, one column per objective, chosen.

    Raises:
        UnknownNameError: a validation target that the table does not have.
        InputError: no validation target, no trial, no other target to fit to, or validation targets that say nothing
            about order (fewer than 8 rows, or labels that do not vary).
    """
    names = list(dict.fromkeys(map(str, groups)))
    known = list(dict.fromkeys(table["target"].astype(str)))
    for name in names:
        if name not in known:
            raise UnknownNameError.of("target", name, known)
    if not names or trials < 1 or len(known) < 2:
        raise InputError(
            "tuning expects at least one validation target, one trial and two targets in the table; "
            f"got {len(names)}, {trials} and {len(known)}"
        )
    import optuna

    base, seed = dict(settings.params or {}), settings.seed
    start = {**DEFAULT_PARAMS, **base}
    parts = _held_out(table, names, init or {})
    keys = np.concatenate([key for _, _, _, key in parts] or [np.empty(0, dtype=object)])
    measured = np.concatenate([rows.loc[at, f"percentile_{name}"] for name, rows, at, _ in parts] or [np.empty(0)])
    scored = list(dict.fromkeys(keys.tolist()))
    if not any(says_something(measured[keys == key]) for key in scored):
        raise InputError(
            f"the validation targets {', '.join(names)} say nothing about order: expected at least 8 samples of one, "
            "of varying difficulty; name others"
        )
    forecasts: list[np.ndarray] = []
    records: list[dict[str, Any]] = []

    def score(trial: optuna.Trial) -> float:
        drawn = _draw(trial, start)
        forecast = [
            fit_without(
                rows,
                settings.features,
                objective,
                rows["target"].to_numpy(dtype=object),
                heads=("percentile",),
                params={**start, **drawn},
                seed=seed,
                n_jobs=settings.n_jobs,
                only=list(dict.fromkeys(rows.loc[at, "target"])),
                init=(init or {}).get(objective),
            )
            .loc[at, "percentile"]
            .clip(0, 1)
            for objective, rows, at, _ in parts
        ]
        forecasts.append(np.concatenate(forecast))
        rho = pd.Series(within_target_rho(forecasts[-1][:, None], measured, keys, scored)[:, 0], index=scored)
        by_objective = rho.groupby([key.split(":")[0] for key in scored], sort=False).mean()
        records.append({**drawn, "rho": float(rho.mean()), **by_objective})
        bar.update()
        return float(rho.mean())

    with _quiet(), tqdm(total=trials, desc="tuning", unit="trial", disable=not progress, leave=False) as bar:
        study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed))
        study.enqueue_trial({name: start[name] for name in SEARCHED})
        study.optimize(score, n_trials=trials)
    tried = pd.DataFrame(records)
    best = int(tried["rho"].to_numpy().argmax())
    gain = bootstrap_rho({"base": forecasts[0], "best": forecasts[best]}, measured, keys, seed=seed)
    best = best if gain.mean("best", "base")["low_targets"] > 0 else 0
    tried["chosen"] = np.arange(len(tried)) == best
    return {**base, **({name: records[best][name] for name in SEARCHED} if best else {})}, tried


def _held_out(
    table: pd.DataFrame, names: Sequence[str], init: Mapping[str, Mapping[str, Head]]
) -> list[tuple[str, pd.DataFrame, pd.Index, np.ndarray]]:
    """By objective: its labelled rows, which of them belong to the validation targets, and "objective: target" of
    those. Objectives for which nothing is left to fit to are left out."""
    parts = []
    for objective in objectives_of(table):
        rows = table.dropna(subset=[f"percentile_{objective}"]).astype({"target": str}).reset_index(drop=True)
        at = rows.index[rows["target"].isin(names)]
        if len(at) and (rows["target"].nunique() > 1 or objective in init):
            parts.append((objective, rows, at, (f"{objective}: " + rows.loc[at, "target"]).to_numpy(dtype=object)))
    return parts


def _draw(trial: optuna.Trial, start: Mapping[str, Any]) -> dict[str, Any]:
    rounds = int(start["num_boost_round"])
    return {
        "num_leaves": trial.suggest_int("num_leaves", 4, 48, log=True),
        "num_boost_round": trial.suggest_int("num_boost_round", max(1, rounds // 4), 3 * rounds, log=True),
        "min_data_in_leaf": trial.suggest_int("min_data_in_leaf", 5, 100, log=True),
        "feature_fraction": trial.suggest_float("feature_fraction", 0.15, 1.0),
        "lambda_l2": trial.suggest_float("lambda_l2", 0.1, 100.0, log=True),
    }


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Optuna's line per trial, and its warning where the first trial lies outside what is searched."""
    import optuna

    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            yield
    finally:
        optuna.logging.set_verbosity(before)
