"""Is a target like those of the corpus? If not, a forecast for it is an extrapolation, and says so."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import RobustScaler

from forgetcast.wording import significant

__all__ = ["Familiarity", "check_contexts", "contexts", "extended", "familiarity"]

ODD_BELOW = 0.05
"""A target is called unlike the corpus when its p-value is below this."""
SPREAD = 20.0
"""Positive columns whose largest value is so many times their smallest are compared as logarithms."""


@dataclass(frozen=True)
class Familiarity:
    """How far a target lies from those of the corpus, by the factors that have one value per target."""

    p_value: float = math.nan
    """Share of the corpus's own targets that lie as far from their nearest other as this one does, itself counted: a
    conformal p-value (Bates et al. 2023, arXiv 2104.08279, equation 1). NaN if the predictor does not know."""
    nearest: str = ""
    """The most similar target of the corpus."""
    unusual: dict[str, tuple[float, float, float]] = field(default_factory=dict)
    """Factors outside the range of the corpus: value, smallest and largest of the corpus."""

    @property
    def out_of_distribution(self) -> bool:
        """Whether the target is unlike the corpus: forecasts and intervals are then extrapolations."""
        return self.p_value < ODD_BELOW

    def __str__(self) -> str:
        if math.isnan(self.p_value):
            return "this predictor does not record what its training targets were like"
        unusual = "; ".join(
            f"{name} is {significant(value, 4)}, theirs are {significant(low, 4)} to {significant(high, 4)}"
            for name, (value, low, high) in self.unusual.items()
        )
        how = "unlike" if self.out_of_distribution else "like"
        return (
            f"this model and its data are {how} those the predictor was fitted to (p = {self.p_value:.2f}, nearest: "
            f"{self.nearest}{'; ' if unusual else ''}{unusual})"
        )


def contexts(table: pd.DataFrame, features: Sequence[str]) -> dict[str, Any]:
    """The features that have one value per target, for all targets of a training table, as JSON values."""
    grouped = table.groupby("target", sort=False)[list(features)]
    constant = grouped.nunique().le(1).all() & grouped.first().nunique().gt(1)
    names = [name for name in features if constant[name]]
    return {"columns": names, "targets": _rows(grouped.first()[names])}


def extended(known: Mapping[str, Any], table: pd.DataFrame) -> dict[str, Any]:
    """``contexts`` of a corpus with the targets of another training table besides, in the same columns."""
    if not known.get("columns"):
        return dict(known)
    more = table.groupby("target", sort=False)[known["columns"]].median()
    return {**known, "targets": known["targets"] | _rows(more)}


def _rows(values: pd.DataFrame) -> dict[str, list[float | None]]:
    return {
        str(target): [None if np.isnan(value) else float(value) for value in row]
        for target, row in zip(values.index, values.to_numpy(dtype=float), strict=True)
    }


def familiarity(known: Mapping[str, Any], features: pd.DataFrame) -> Familiarity:
    """Compare one target's factors with ``contexts`` of the corpus.

    Distance is Euclidean over columns scaled by their interquartile range, wide ones as logarithms, unknown values at
    the median.
    """
    columns = known.get("columns", [])
    targets = known.get("targets", {})
    if not columns or len(targets) < 2:
        return Familiarity()
    corpus = pd.DataFrame(targets.values(), columns=columns, dtype=float)
    own = features[columns].astype(float).median()
    low, high = corpus.min(), corpus.max()
    wide = [name for name in columns if low[name] > 0 and high[name] > SPREAD * low[name]]
    together = pd.concat([corpus, own.to_frame().T], ignore_index=True)
    together[wide] = np.log10(together[wide].clip(lower=1e-12))
    together = together.fillna(together.iloc[:-1].median())
    scaler = RobustScaler().fit(together.iloc[:-1])
    points = scaler.transform(together)
    distances, _ = NearestNeighbors(n_neighbors=2).fit(points[:-1]).kneighbors(points[:-1])
    distance, nearest = NearestNeighbors(n_neighbors=1).fit(points[:-1]).kneighbors(points[-1:])
    farther = int((distances[:, 1] >= distance[0, 0]).sum())
    unusual = {
        name: (float(own[name]), float(low[name]), float(high[name]))
        for name in columns
        if own[name] < low[name] or own[name] > high[name]
    }
    return Familiarity((1 + farther) / (1 + len(corpus)), list(targets)[nearest[0, 0]], unusual)


def check_contexts(known: Any, features: Sequence[str], need: Callable[[bool, str], None]) -> None:
    """Call ``need(holds, what)`` for what has to hold of the ``contexts`` of a manifest that was read."""
    need(isinstance(known, dict), "expected 'contexts' to be an object")
    columns, targets = known.get("columns", []), known.get("targets", {})
    named = isinstance(columns, list) and all(isinstance(name, str) for name in columns)
    need(
        named and set(columns) <= set(features) and len(set(columns)) == len(columns),
        "expected 'contexts.columns' among the features",
    )
    rows = targets.values() if isinstance(targets, dict) else [None]
    need(
        all(
            isinstance(row, list)
            and len(row) == len(columns)
            and all(value is None or (isinstance(value, (int, float)) and abs(value) < 1e300) for value in row)
            for row in rows
        ),
        "expected 'contexts.targets' to be rows of numbers",
    )
