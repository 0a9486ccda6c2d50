"""What models trained without a sample said of it, as two more factors of the target it was measured on."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType

import numpy as np
import pandas as pd
from scipy.special import expit, logit

from forgetcast.factors import Factor, FactorTable, quantile_column
from forgetcast.objectives import SLACK

__all__ = ["ANSWERS", "GAP", "RETRAINED", "RETRAINED_COLUMNS", "met_before", "retraining_values", "with_retrained"]

ANSWERS = ("p_before", "p_out")
"""Columns of the measured answers, one row per training sample: the label's probability by the model itself, and mean
over models that were trained without the sample."""

GAP = "retraining_gap"
"""The factor that the goal of ``retrain`` is about."""


def _factor(name: str, title: str, unit: str, high: str, low: str) -> Factor:
    return Factor(
        name=name,
        family="retraining",
        title=title,
        source="Feldman & Zhang 2020, arXiv 2008.03703, with folds in place of their subsets",
        unit=unit,
        high=high,
        low=low,
        function=lambda: None,
        probes=(),
        settings=MappingProxyType({}),
        per_target=False,
    )


RETRAINED: dict[str, Factor] = {
    GAP: _factor(
        GAP,
        "What the model's confidence in the label owes to having seen the sample.",
        "probability",
        "models trained without it are less sure of its label than this model, by {value:.0%}",
        "models trained without it are about as sure of its label as this model (less sure by {value:.0%})",
    ),
    "retraining_gap_logit": _factor(
        "retraining_gap_logit",
        "The same in log-odds: how far the label's log-odds have to fall.",
        "nats",
        "its label's log-odds have to fall further than usual here ({value:.2g} nats)",
        "its label's log-odds have to fall less than usual here ({value:.2g} nats)",
    ),
}

RETRAINED_COLUMNS = tuple(column for name in RETRAINED for column in (name, quantile_column(name)))
"""Feature columns of the factors ``RETRAINED``."""


def with_retrained(table: FactorTable, answers: pd.DataFrame) -> FactorTable:
    """The table with the factors ``RETRAINED``, quantiles within all samples.

    Args:
        table: factors of samples of a target.
        answers: the columns ``ANSWERS`` for all training samples, by number.
    """
    before, without = (answers[name].to_numpy(dtype=float) for name in ANSWERS)
    columns = pd.DataFrame(retraining_values(before, without), index=answers.index)
    for name in RETRAINED:
        columns[quantile_column(name)] = (columns[name].rank(method="average") - 0.5) / len(columns)
    return replace(
        table,
        values=table.values.join(columns),
        reference=None if table.reference is None else table.reference.join(columns),
        factors={**table.factors, **RETRAINED},
    )


def retraining_values(before: np.ndarray, without: np.ndarray) -> dict[str, np.ndarray]:
    """The factors ``RETRAINED``, (n,) each, of the label's probability by the model and by those that never saw it."""
    return {GAP: before - without, "retraining_gap_logit": _log_odds(before) - _log_odds(without + SLACK)}


def met_before(gap: np.ndarray, forecast: np.ndarray) -> np.ndarray:
    """Probability that the goal is met before anything is unlearned, (m,).

    Half from the measured gap, which is noisy near the goal, half from the forecast without it.
    """
    return np.asarray((expit(1 - gap / SLACK) + forecast) / 2)


def _log_odds(p: np.ndarray) -> np.ndarray:
    return np.asarray(logit(np.clip(p, 1e-7, 1 - 1e-7)))
