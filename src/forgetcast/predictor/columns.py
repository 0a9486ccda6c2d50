"""The columns of a training table, the heads that are fitted to them, and the scales they are fitted on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from forgetcast.errors import InputError, SchemaError
from forgetcast.objectives import OBJECTIVES, PARTS
from forgetcast.ranks import weighted_percentile

__all__ = [
    "EXPLAINED",
    "HEADS",
    "INTERVAL_HEADS",
    "PART_HEADS",
    "UNLEARNER",
    "UNLEARNER_HEADS",
    "as_features",
    "from_log_scale",
    "head_weights",
    "labelled",
    "labels_of",
    "log_scale",
    "objectives_of",
    "recorded_parts",
    "recorded_unlearner_heads",
    "residuals_under",
    "training_weights",
    "under_column",
    "under_each",
    "unlearners_of",
]

HEADS = ("percentile", "difficulty", "trivial")
INTERVAL_HEADS = ("percentile", "difficulty")
PART_HEADS = tuple(PARTS)
"""Heads for the parts of an outcome that people act on, where the training table has them."""

EXPLAINED = (*HEADS, *PART_HEADS)
"""Heads whose forecasts can be taken apart by factors."""

UNLEARNER = "unlearner"
"""Head and further column of the head that forecasts difficulty under each unlearner."""

UNLEARNER_HEADS = {
    UNLEARNER: "difficulty",
    **{f"{UNLEARNER}_{part}": part for part in ("steps", "collateral_test", "collateral_neighbours")},
}
"""Heads that distinguish unlearners, and what each forecasts; those after the first where the training table has it."""

EMPHASIS = {("retrain", "percentile"): 5.0}
"""How much more a sample that is not trivial counts, by objective and head: two thirds of the samples tie as trivial,
and trees that spend themselves on distinguishing those order the others worse (benchmarks/emphasis.md)."""

WEIGHT_LIMIT = 5.0
SMALLEST = {"steps": 0.1}
"""What the protocol cannot distinguish from none, by head, if it is not 0.001."""


def as_features(table: pd.DataFrame, features: Sequence[str]) -> np.ndarray:
    """The feature columns as float64, shape (n, F).

    Raises:
        SchemaError: a column is not numeric.
        InputError: a value is infinite.
    """
    odd = [name for name in features if not pd.api.types.is_numeric_dtype(table[name])]
    if odd:
        raise SchemaError(f"feature columns must be numbers; these are not: {', '.join(odd)}")
    X = table[list(features)].to_numpy(dtype=float, na_value=np.nan)
    infinite = np.isinf(X).any(axis=0)
    if infinite.any():
        names = [name for name, bad in zip(features, infinite, strict=True) if bad]
        raise InputError(f"feature columns must be finite, or NaN where a factor does not apply: {', '.join(names)}")
    return X


def objectives_of(table: pd.DataFrame) -> list[str]:
    """The objectives that a training table has labels for."""
    return [o for o in OBJECTIVES if all(f"{head}_{o}" in table.columns for head in HEADS)]


def labelled(table: pd.DataFrame, objective: str) -> pd.DataFrame:
    """The rows of a training table that have all labels of an objective."""
    return table.dropna(subset=[f"{head}_{objective}" for head in HEADS])


def training_weights(table: pd.DataFrame) -> np.ndarray:
    """Weight of every row, shape (n,), with mean 1 in every target.

    The corpus weight is an inverse sampling probability. Taken as it is, the few rows that stand for many others would
    carry most of the fit. The rare memorized samples, drawn more often because their order matters, would carry almost
    none. So it is taken relative to the target's mean and held within [1/5, 5] (Potter 1990, "A study of procedures to
    identify and trim extreme sampling weights"). Its square root is used: half-way between the population and the rows.
    """
    weight = table["weight"].to_numpy(dtype=float)
    relative = weight / table.groupby("target", sort=False)["weight"].transform("mean").to_numpy(dtype=float)
    tempered = pd.Series(np.sqrt(np.clip(relative, 1 / WEIGHT_LIMIT, WEIGHT_LIMIT)), index=table.index)
    return (tempered / tempered.groupby(table["target"], sort=False).transform("mean")).to_numpy()


def head_weights(table: pd.DataFrame, objective: str, head: str) -> np.ndarray:
    """``training_weights``, with more weight on samples that are not trivial where ``EMPHASIS`` says so, (n,)."""
    trivial = table[f"trivial_{objective}"].to_numpy(dtype=float) == 1
    return training_weights(table) * np.where(trivial, 1.0, EMPHASIS.get((objective, head), 1.0))


def log_scale(value: np.ndarray, head: str = "difficulty") -> np.ndarray:
    """A value >= 0 on a logarithmic scale, 0 to 0 and 1 to 1: log(1 + v/ε) / log(1 + 1/ε) with ε = 0.001.

    It is monotone, so that an interval formed on it stays valid on the way back, where errors are multiples: the
    interval is narrow where difficulty is small. Damage below ε is beyond what the protocol can distinguish from none;
    for steps ε is 0.1.
    """
    smallest = SMALLEST.get(head, 1e-3)
    return np.log1p(np.maximum(value, 0) / smallest) / np.log1p(1 / smallest)


def from_log_scale(scaled: np.ndarray, head: str = "difficulty") -> np.ndarray:
    """The value that ``log_scale`` maps to ``scaled``; at least 0, and at most 1 where more has no meaning.

    >>> from_log_scale(log_scale(np.array([0.0, 0.05, 1.0]))).round(12).tolist()
    [0.0, 0.05, 1.0]
    >>> from_log_scale(log_scale(np.array([0.5, 12.0]), "steps"), "steps").round(9).tolist()
    [0.5, 12.0]
    """
    smallest = SMALLEST.get(head, 1e-3)
    value = np.maximum(smallest * np.expm1(scaled * np.log1p(1 / smallest)), 0)
    if head in ("steps", "parameter_shift"):
        return value
    return np.where(np.asarray(scaled) >= 1, 1.0, np.minimum(value, 1))


def recorded_parts(table: pd.DataFrame, objective: str) -> list[str]:
    """The part heads that a training table has labels for."""
    return [head for head in PART_HEADS if f"{head}_{objective}" in table.columns]


def labels_of(table: pd.DataFrame, objective: str, head: str) -> np.ndarray:
    """What a head is fitted to, shape (n,): the percentile, 0/1 for trivial, or difficulty or a part on a log scale.

    Percentile: the trivial samples of a target tie at the middle of their band. For ``retrain`` they are spread over
    that band by memorization (where the table has it), that is by how near they are to the goal: a sample far beyond it
    and one that barely meets it then get different values, which also helps to order the samples that are not trivial.

    Difficulty is fitted on the scale of ``log_scale``: most values are below 0.1, some targets are ten times as hard
    as others, and squared loss on the plain scale would spend the trees on those.
    """
    column = table[f"{head}_{objective}"].to_numpy(dtype=float).copy()
    if head == "difficulty" or head in PART_HEADS:
        return log_scale(column, head)
    if head == "percentile" and objective == "retrain" and "memorization" in table.columns:
        memorization, weight = (table[name].to_numpy(dtype=float) for name in ("memorization", "weight"))
        tied = (table["trivial_retrain"].to_numpy(dtype=float) == 1) & ~np.isnan(memorization)
        targets = table["target"].to_numpy(dtype=object)
        for name in dict.fromkeys(targets[tied]):
            at = tied & (targets == name)
            column[at] = np.minimum(2 * column[at], 1) * weighted_percentile(memorization[at], weight[at])
    return column


def under_column(unlearner: str, objective: str, part: str = "difficulty") -> str:
    """Column of a training table with the difficulty, or a part of the outcome, under one unlearner.

    >>> under_column("scrub", "erase"), under_column("scrub", "erase", "steps")
    ('under_scrub_erase', 'steps_under_scrub_erase')
    """
    return f"{'' if part == 'difficulty' else f'{part}_'}under_{unlearner}_{objective}"


def under_each(rows: pd.DataFrame, objective: str, unlearners: Sequence[str], part: str = "difficulty") -> np.ndarray:
    """What was measured under every unlearner, (n, unlearners); NaN where it was not."""
    columns = [under_column(name, objective, part) for name in unlearners]
    return rows.reindex(columns=columns).to_numpy(dtype=float)


def unlearners_of(table: pd.DataFrame, objective: str) -> list[str]:
    """The unlearners that a training table has columns for, the least harmful first (mean on the log scale)."""
    prefix, suffix = "under_", f"_{objective}"
    columns = [str(name) for name in table if str(name).startswith(prefix) and str(name).endswith(suffix)]
    counted = table.loc[~table[f"trivial_{objective}"].astype(bool), columns]
    harm = counted.apply(log_scale).mean().fillna(0.0)
    return [name.removeprefix(prefix).removesuffix(suffix) for name in sorted(columns, key=lambda name: harm[name])]


def recorded_unlearner_heads(table: pd.DataFrame, objective: str, unlearners: Sequence[str]) -> list[str]:
    """The heads of ``UNLEARNER_HEADS`` that a training table has labels for."""
    return [
        head
        for head, part in UNLEARNER_HEADS.items()
        if any(under_column(name, objective, part) in table.columns for name in unlearners)
    ]


def residuals_under(unlearner: str) -> str:
    """Name of the errors made on the difficulty under one unlearner, among those of the heads."""
    return f"{UNLEARNER}:{unlearner}"
