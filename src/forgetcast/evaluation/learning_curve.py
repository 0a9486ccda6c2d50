"""What more data would bring: more targets, or a few measured samples of the target itself."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from forgetcast.corpus.corpus import Corpus
from forgetcast.evaluation.fit_settings import FitSettings
from forgetcast.evaluation.scores import bootstrap_rho, within_target_rho
from forgetcast.evaluation.table import training_table
from forgetcast.predictor.columns import head_weights, labels_of, objectives_of
from forgetcast.predictor.heads import fit_head
from forgetcast.predictor.intervals import fold_rows
from forgetcast.ranks import weighted_percentile

__all__ = ["few_samples_curve", "targets_curve", "unseen_unlearners"]

MOST_HELD_OUT = 16
"""Targets that a learning curve is averaged over."""

EMPHASIS = 5.0
"""How much more a measured sample of the target itself counts than one of another target."""


def targets_curve(table: pd.DataFrame, settings: FitSettings, *, repeats: int = 2) -> pd.DataFrame:
    """Rank correlation on unseen targets against the number of targets fitted to.

    For every held-out target (of many, ``MOST_HELD_OUT`` spread over the table), ``repeats`` random subsets of the
    others of sizes 1, 2, 4, ... and all of them once.

    Returns:
        objective, size, rho (mean over targets and subsets), low and high (5 % and 95 % quantile over them).
    """
    rng = np.random.default_rng(settings.seed)
    names = list(pd.unique(table["target"]))
    full = len(names) - 1
    sizes = [2**k for k in range(full.bit_length()) if 2**k < full] + [full]
    tasks = [
        (objective, size, name, rng.permutation([other for other in names if other != name])[:size].tolist())
        for objective in objectives_of(table)
        for name in _spread(names)
        for size in sizes
        for _ in range(1 if size == full else repeats)
    ]

    def one(objective: str, name: str, chosen: list[str]) -> float:
        rows = _labelled(table, objective)
        fit, test = rows[rows["target"].isin(chosen)], rows[rows["target"] == name]
        return _rho(fit, test, objective, np.ones(len(fit)), settings)

    rhos = settings.in_threads(one, [(objective, name, chosen) for objective, _, name, chosen in tasks])
    return _curve([(objective, size) for objective, size, _, _ in tasks], rhos)


def few_samples_curve(
    table: pd.DataFrame, settings: FitSettings, *, sizes: Sequence[int] = (0, 10, 20, 40)
) -> pd.DataFrame:
    """Rank correlation on a new target when a few of its own samples were measured and join the fit.

    The measured samples count five times; their percentile is taken among themselves. All sizes are scored on the same
    remaining samples; targets with fewer than twice the largest size are left out.

    Returns:
        objective, size, rho (mean over targets), low and high (5 % and 95 % quantile over targets).
    """
    most = max(sizes)
    counts = table["target"].value_counts()
    names = [name for name in pd.unique(table["target"]) if counts[name] >= 2 * most]
    tasks = [(objective, size, name) for objective in objectives_of(table) for name in _spread(names) for size in sizes]

    def one(objective: str, size: int, name: str) -> float:
        rows = _labelled(table, objective)
        own, others = rows[rows["target"] == name], rows[rows["target"] != name]
        order = np.random.default_rng(settings.seed).permutation(len(own))
        measured = own.iloc[order[:size]]
        label = f"percentile_{objective}"
        if size:  # what could be known: ranks among the measured samples alone
            ranks = weighted_percentile(measured[label].to_numpy(float), measured["weight"].to_numpy(float))
            measured = measured.assign(**{label: ranks})
        fit = pd.concat([others, measured])
        emphasis = np.r_[np.ones(len(others)), np.full(size, EMPHASIS)]
        return _rho(fit, own.iloc[order[most:]], objective, emphasis, settings)

    rhos = settings.in_threads(one, tasks)
    return _curve([(objective, size) for objective, size, _ in tasks], rhos)


def unseen_unlearners(corpus: Corpus, unlearners: Sequence[str], settings: FitSettings) -> pd.DataFrame:
    """Forecast what an unlearner that gave no labels does to targets that gave none either.

    For each unlearner the label is the consensus of the others; targets are left out by eighths, and scored is the
    left-out unlearner's own percentile on them.

    Returns:
        objective, unlearner, rho (mean over targets), low, high, low_targets, high_targets, targets.
    """
    records = []
    for left_out in unlearners:
        taught = training_table(corpus, [name for name in unlearners if name != left_out])
        own = training_table(corpus, [left_out])
        for objective in objectives_of(taught):
            label = f"percentile_{objective}"
            rows = _labelled(taught, objective).merge(
                own[["target", "index", label]].rename(columns={label: "left_out"}), on=["target", "index"]
            )
            targets = rows["target"].to_numpy(dtype=object)

            def one(own: np.ndarray, rows: pd.DataFrame = rows, objective: str = objective) -> np.ndarray:
                fit, test = rows[~own], rows[own]
                return _forecast(fit, test, objective, np.ones(len(fit)), settings)

            folds = fold_rows(targets)
            parts = settings.in_threads(one, [(own,) for own in folds])
            score = np.zeros(len(rows))
            for own_rows, part in zip(folds, parts, strict=True):
                score[own_rows] = part
            measured = rows["left_out"].to_numpy(dtype=float)
            result = bootstrap_rho(
                {"forecast": score}, measured, targets, resamples=settings.resamples, seed=settings.seed
            )
            records.append(
                {"objective": objective, "unlearner": left_out}
                | result.mean("forecast")
                | {"targets": len(result.targets)}
            )
    return pd.DataFrame(records)


def _spread(names: Sequence[str]) -> list[str]:
    """At most ``MOST_HELD_OUT`` of the names, evenly spread."""
    return list(names[:: max(1, -(-len(names) // MOST_HELD_OUT))])


def _labelled(table: pd.DataFrame, objective: str) -> pd.DataFrame:
    return table.dropna(subset=[f"percentile_{objective}"])


def _forecast(
    fit: pd.DataFrame, test: pd.DataFrame, objective: str, emphasis: np.ndarray, settings: FitSettings
) -> np.ndarray:
    """Percentile forecast for ``test`` after a fit to ``fit``, whose weights are multiplied by ``emphasis``."""
    columns = list(settings.features)
    head = fit_head(
        fit[columns].to_numpy(dtype=float),
        labels_of(fit, objective, "percentile"),
        head_weights(fit, objective, "percentile") * emphasis,
        columns,
        "percentile",
        settings.params or {},
        settings.seed,
    )
    return head.raw(test[columns].to_numpy(dtype=float))


def _rho(fit: pd.DataFrame, test: pd.DataFrame, objective: str, emphasis: np.ndarray, settings: FitSettings) -> float:
    score = _forecast(fit, test, objective, emphasis, settings)
    targets = test["target"].to_numpy(dtype=object)
    measured = test[f"percentile_{objective}"].to_numpy(dtype=float)
    return float(within_target_rho(score[:, None], measured, targets, [targets[0]])[0, 0]) if len(test) else np.nan


def _curve(keys: Sequence[tuple[str, int]], rhos: Sequence[float]) -> pd.DataFrame:
    frame = pd.DataFrame(keys, columns=["objective", "size"]).assign(rho=rhos)
    grouped = frame.groupby(["objective", "size"], sort=False)["rho"]
    return grouped.agg(
        rho="mean", low=lambda values: values.quantile(0.05), high=lambda values: values.quantile(0.95)
    ).reset_index()
