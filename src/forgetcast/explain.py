"""Why a sample is forecast to be hard: SHAP values by factor and family, each with a sentence. Draws nothing."""

from __future__ import annotations

import re
from collections.abc import Container, Sequence
from dataclasses import dataclass
from string import Formatter
from typing import Literal

import numpy as np
import pandas as pd

from forgetcast.factors import Factor, FactorTable, quantile_column
from forgetcast.predictor import DifficultyPredictor

__all__ = ["Explainer", "Explanation", "ExplanationSet", "Reason", "factor_of"]

CHUNK = 8_192
QUANTILE = quantile_column("")


@dataclass(frozen=True)
class Reason:
    """One factor's part in one forecast."""

    factor: str
    family: str
    contribution: float
    """Shift of the predicted percentile: the SHAP values of the factor and of its quantile, summed."""
    value: float
    """The factor's value, in its unit; NaN where it does not apply."""
    quantile: float
    """Where the value stands within the target, in (0, 1); NaN for a factor of the whole target."""
    direction: Literal["harder", "easier"]
    sentence: str
    """The direction, then the factor in words, such as "harder: its loss is high (2.1 nats; ...)"."""


@dataclass(frozen=True)
class Explanation:
    """One forecast taken apart: ``base + contributions.sum() == prediction`` to 1e-6."""

    index: int
    objective: str
    prediction: float
    """Predicted percentile before it is clipped to [0, 1]."""
    base: float
    """Mean forecast over the predictor's training data."""
    contributions: pd.Series
    """SHAP value of every feature column."""
    by_factor: pd.Series
    """The same, a factor and its quantile column summed."""
    by_family: pd.Series
    """The same, summed over the factors of a family."""
    reasons: tuple[Reason, ...]
    """Every factor that moved the forecast. Those that tell this sample from others of the model come first,
    then those that hold for the model as a whole (context, factors that do not apply); each part by size."""


@dataclass(frozen=True)
class ExplanationSet:
    """Forecasts of many samples taken apart, in tables with one row per sample (index: sample index)."""

    objective: str
    indices: np.ndarray
    """Sample indices, int64, shape (m,)."""
    base: float
    contributions: pd.DataFrame
    """SHAP values by factor, shape (m, factors)."""
    values: pd.DataFrame
    """Values of the same factors, in their units."""
    by_family: pd.DataFrame
    """SHAP values by family, shape (m, families)."""


def factor_of(column: str, known: Container[str]) -> str | None:
    """The factor that a feature column belongs to: its own name or that of its quantile; None if unknown.

    >>> factor_of("margin_quantile", {"margin"}), factor_of("margin", {"margin"}), factor_of("age", {"margin"})
    ('margin', 'margin', None)
    """
    for name in (column, column.removesuffix(QUANTILE)):
        if name in known:
            return name
    return None


class Explainer:
    """Explains the percentile forecasts of one predictor on one target.

    Args:
        predictor: the fitted predictor.
        table: factors of samples of the target, the predictor's columns among them. Samples of the table and of its
            reference sample can be explained; what is usual for the target is told from the latter.
    """

    def __init__(self, predictor: DifficultyPredictor, table: FactorTable) -> None:
        self.predictor = predictor
        self.table = table
        owners = [factor_of(column, table.factors) or column for column in predictor.features]
        self._factors: list[Factor] = [table.factors[name] for name in dict.fromkeys(owners)]
        self.names = [factor.name for factor in self._factors]
        self.families = list(dict.fromkeys(factor.family for factor in self._factors))
        self._to_factor = _indicator(owners, self.names)
        self._to_family = _indicator([factor.family for factor in self._factors], self.families)
        self._rows = table.worked_out
        n = len(self._rows)
        self._values = self._rows[self.names].to_numpy(dtype=float)
        quantiles = [self._rows.get(quantile_column(name), np.full(n, np.nan)) for name in self.names]
        self._quantiles = np.column_stack([np.asarray(column, dtype=float) for column in quantiles])
        typical = table.population[self.names].median().to_numpy(dtype=float)
        corpus = predictor.manifest["typical"]
        self._typical = [
            _number(corpus.get(factor.name)) if factor.per_target else own
            for factor, own in zip(self._factors, typical, strict=True)
        ]
        self._own = np.array(
            [not factor.per_target and factor.name not in table.not_applicable for factor in self._factors]
        )
        self._cache: dict[tuple[str, bytes], tuple[np.ndarray, float]] = {}

    # -- public -------------------------------------------------------------------------------------------

    def explain(self, index: int, objective: str) -> Explanation:
        """Take one sample's forecast apart.

        Raises:
            IndexError: no such sample.
            UnknownNameError: no such objective.
        """
        (place,) = self._places([index])
        rows = self._rows.iloc[[place]]
        values, base = self.predictor.contributions(rows[list(self.predictor.features)], objective)
        sums = values[0] @ self._to_factor
        own = [k for k in np.argsort(-np.abs(sums), kind="stable") if sums[k] != 0]
        order = [k for k in own if self._own[k]] + [k for k in own if not self._own[k]]
        return Explanation(
            index=int(index),
            objective=objective,
            prediction=float(base + values[0].sum()),
            base=base,
            contributions=pd.Series(values[0], index=list(self.predictor.features)),
            by_factor=pd.Series(sums, index=self.names),
            by_family=pd.Series(sums @ self._to_family, index=self.families),
            reasons=tuple(self._reason(k, place, float(sums[k])) for k in order),
        )

    def explain_many(self, indices: Sequence[int] | np.ndarray, objective: str) -> ExplanationSet:
        """Take the forecasts of many samples apart, without sentences.

        Raises:
            IndexError: no such sample.
            UnknownNameError: no such objective.
        """
        index = np.asarray(indices, dtype=np.int64)
        sums, base = self._sums(index, objective)
        labels = pd.Index(index, name="index")
        return ExplanationSet(
            objective=objective,
            indices=index,
            base=base,
            contributions=pd.DataFrame(sums, index=labels, columns=self.names),
            values=pd.DataFrame(self._values[self._places(index)], index=labels, columns=self.names),
            by_family=pd.DataFrame(sums @ self._to_family, index=labels, columns=self.families),
        )

    def sentences(self, indices: Sequence[int] | np.ndarray, objective: str, count: int = 3) -> list[str]:
        """For each sample the ``count`` sentences that move its forecast most, joined by "; ".

        Only factors that tell this sample from others of the model are named; ``explain`` has the rest.
        """
        index = np.asarray(indices, dtype=np.int64)
        sums, _ = self._sums(index, objective)
        own = np.flatnonzero(self._own)
        top = own[np.argsort(-np.abs(sums[:, own]), axis=1, kind="stable")[:, :count]]
        return [
            "; ".join(self._sentence(k, place, sums[row, k]) for k in top[row] if sums[row, k] != 0)
            for row, place in enumerate(self._places(index))
        ]

    # -- contributions ------------------------------------------------------------------------------------

    def _sums(self, index: np.ndarray, objective: str) -> tuple[np.ndarray, float]:
        """SHAP values by factor, shape (m, K), and the base; computed once per objective and set of samples."""
        key = (objective, index.tobytes())
        if key not in self._cache:
            columns = self._rows[list(self.predictor.features)]
            places = self._places(index)
            parts = [
                self.predictor.contributions(columns.iloc[places[start : start + CHUNK]], objective)
                for start in range(0, max(len(index), 1), CHUNK)
            ]
            self._cache[key] = np.concatenate([values @ self._to_factor for values, _ in parts]), parts[0][1]
        return self._cache[key]

    def _places(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Where samples stand among the rows.

        Raises:
            IndexError: a sample that the table does not have.
        """
        places = self._rows.index.get_indexer(pd.Index(indices))
        if (places < 0).any():
            raise IndexError(f"the table has no sample {np.asarray(indices)[places < 0][0]}")
        return places

    # -- sentences ----------------------------------------------------------------------------------------

    def _reason(self, k: int, place: int, contribution: float) -> Reason:
        factor = self._factors[k]
        return Reason(
            factor=factor.name,
            family=factor.family,
            contribution=contribution,
            value=float(self._values[place, k]),
            quantile=float(self._quantiles[place, k]),
            direction="harder" if contribution > 0 else "easier",
            sentence=self._sentence(k, place, contribution),
        )

    def _sentence(self, k: int, place: int, contribution: float) -> str:
        factor, value, typical = self._factors[k], self._values[place, k], self._typical[k]
        direction = "harder" if contribution > 0 else "easier"
        if factor.name in self.table.not_applicable:
            title = _phrase(factor.title)
            return f"{direction}: not measured: {title} ({self.table.not_applicable[factor.name]})"
        if factor.per_target:
            clause = factor.high if value > typical else factor.low
            shown, usual = _shown(clause, factor, value), _shown(clause, factor, typical)
            note = "" if shown == usual or np.isnan(typical) else f"typical of the models learned from: {usual}"
            return f"{direction}: for the model as a whole: {_fill(clause, factor, value, note)}"
        clause = factor.high if self._quantiles[place, k] > 0.5 else factor.low
        shown, usual = _shown(clause, factor, value), _shown(clause, factor, typical)
        if shown == usual:  # a clause such as "more than usual" would claim a difference that nobody can see
            return f"{direction}: {_phrase(factor.title)}: {shown}, as usual for this model"
        return f"{direction}: {_fill(clause, factor, value, f'typical for this model: {usual}')}"


class _Plain(float):
    """A number that formats to three significant digits where a clause asks for nothing else, and never to -0."""

    def __format__(self, spec: str) -> str:
        text = float.__format__(self, spec or ",.3g")
        return text[1:] if text.startswith("-") and not re.search("[1-9]", text) else text


def _shown(clause: str, factor: Factor, value: float) -> str:
    """The value as the clause would show it; a percentage or with its unit where the clause shows none.

    What stands right before the value belongs to it, as in "10^{value:.1f}".
    """
    for before, name, spec, _ in Formatter().parse(clause):
        if name is not None:
            return re.split(r"[\s(]", before)[-1] + format(_Plain(value), spec or "")
    if factor.unit in ("probability", "share"):
        return format(_Plain(value), ".0%")
    return f"{_Plain(value)} {factor.unit}".rstrip()


def _fill(clause: str, factor: Factor, value: float, note: str) -> str:
    """The clause with its value, and a note in brackets: those that it ends with, or its own."""
    text = clause.format(value=_Plain(value))
    notes = [_shown(clause, factor, value)] if "{" not in clause else []
    notes += [note] if note else []
    if not notes:
        return text
    if text.endswith(")"):
        return f"{text[:-1]}; {'; '.join(notes)})"
    return f"{text} ({'; '.join(notes)})"


def _phrase(title: str) -> str:
    """A title's first sentence inside another: no full stop, no capital unless it begins with an acronym."""
    first = title.split(". ")[0].rstrip(".")
    return first if first[:2].isupper() else first[:1].lower() + first[1:]


def _indicator(owners: Sequence[str], names: Sequence[str]) -> np.ndarray:
    """0/1 matrix, shape (len(owners), len(names)), that sums what belongs to each name."""
    return (np.asarray(owners, dtype=object)[:, None] == np.asarray(names, dtype=object)[None]).astype(float)


def _number(value: float | None) -> float:
    return np.nan if value is None else float(value)
