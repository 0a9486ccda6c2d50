"""Why a sample is forecast to be hard: SHAP values by factor and family, each with a sentence. Draws nothing.

Factors that carry the same information share the credit between them, more or less as the trees happened to choose. The
sum of a family is what to rely on.
"""

from __future__ import annotations

import re
from collections.abc import Container, Sequence
from dataclasses import dataclass, field
from string import Formatter
from typing import Literal

import numpy as np
import pandas as pd

from forgetcast.errors import InputError
from forgetcast.factors import Factor, FactorTable, quantile_column
from forgetcast.files.exact_values import sample_numbers
from forgetcast.predictor.predictor import DifficultyPredictor
from forgetcast.predictor.tiers import tier_bounds
from forgetcast.wording import significant

__all__ = ["SHARED_CREDIT", "Explainer", "Explanation", "ExplanationSet", "Reason", "factor_of"]

CHUNK = 8_192
CLASS_FROM = 10
"""Samples of a class in the population from which on its medians are called typical for the class."""
SHARED_CREDIT = (
    "Factors that carry the same information share the credit between them; the sum of a family is what to rely on."
)
"""What correlated factors mean for a reader of SHAP values."""
QUANTILE = quantile_column("")


@dataclass(frozen=True)
class Reason:
    """One factor's part in one forecast."""

    factor: str
    family: str
    contribution: float
    """Shift of the forecast: the SHAP values of the factor and of its quantile, summed, on the head's scale."""
    value: float
    """The factor's value, in its unit; NaN where it does not apply."""
    quantile: float
    """Where the value stands within the target, in (0, 1); NaN for a factor of the whole target."""
    direction: Literal["harder", "easier"]
    """Which way the shift goes; easier where it makes a sample more likely to be trivial."""
    sentence: str
    """The direction, then the factor in words, such as "harder: its loss is high (2.1 nats; ...)"."""


@dataclass(frozen=True)
class Explanation:
    """One forecast taken apart: ``base + contributions.sum() == prediction`` to 1e-6."""

    index: int
    objective: str
    prediction: float
    """The head's forecast on its own scale, before anything is clipped: for the percentile a number near [0, 1]."""
    base: float
    """Mean forecast over the predictor's training data."""
    contributions: pd.Series
    """SHAP value of every feature column."""
    by_factor: pd.Series
    """The same, a factor and its quantile column summed."""
    by_family: pd.Series
    """The same, summed over the factors of a family. What correlated factors share stays in one sum here."""
    reasons: tuple[Reason, ...]
    """Every factor that moved the forecast. Those that differ between samples of the model come first,
    then those that hold for the model as a whole (context, factors that do not apply); each part by size."""
    head: str = "percentile"
    """What is explained, as in ``DifficultyPredictor.contributions``."""


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
    families: dict[str, str] = field(default_factory=dict)
    """Family of every factor."""


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
    """Explains the forecasts of one predictor on one target.

    Args:
        predictor: the fitted predictor.
        table: factors of samples of the target, the predictor's columns among them. Samples of the table and of its
            reference sample can be explained; the latter defines what is usual for the target.
        labels: class of every training sample, (n,) integers, index = sample number. With them sentences compare a
            sample with its class, where the table's population has at least 10 samples of it and the factor varies
            within classes; without, with all samples of the model.

    Raises:
        InputError: labels that the table's samples do not fit.
    """

    def __init__(
        self, predictor: DifficultyPredictor, table: FactorTable, labels: Sequence[int] | np.ndarray | None = None
    ) -> None:
        self.predictor = predictor
        self.table = table
        owners = [factor_of(column, table.factors) or column for column in predictor.features]
        self._factors: list[Factor] = [table.factors[name] for name in dict.fromkeys(owners)]
        self.names = [factor.name for factor in self._factors]
        self.families = list(dict.fromkeys(factor.family for factor in self._factors))
        families = {factor.name: factor.family for factor in self._factors}
        self.columns = {
            family: [c for c, o in zip(predictor.features, owners, strict=True) if families[o] == family]
            for family in self.families
        }
        """The feature columns of every family."""
        self._to_factor = _indicator(owners, self.names)
        self._to_family = _indicator([factor.family for factor in self._factors], self.families)
        self._rows = table.worked_out
        n = len(self._rows)
        self._values = self._rows[self.names].to_numpy(dtype=float)
        quantiles = [self._rows.get(quantile_column(name), np.full(n, np.nan)) for name in self.names]
        self._quantiles = np.column_stack([np.asarray(column, dtype=float) for column in quantiles])
        self._class_of, self._class_medians = self._by_class(labels)
        typical = table.population[self.names].median().to_numpy(dtype=float)
        corpus = predictor.manifest["typical"]
        self._typical = [
            _number(corpus.get(factor.name)) if factor.per_target else own
            for factor, own in zip(self._factors, typical, strict=True)
        ]
        self._own = np.array(
            [not factor.per_target and factor.name not in table.not_applicable for factor in self._factors]
        )
        self._varies = self._varies_in_classes()
        self._bounds: dict[str, tuple[float, float]] = {}
        self._cache: dict[tuple[str, bytes], tuple[np.ndarray, float]] = {}

    # -- public -------------------------------------------------------------------------------------------

    def explain(self, index: int, objective: str, head: str = "percentile") -> Explanation:
        """Take one sample's forecast apart.

        Args:
            index: a sample of the table or of its reference sample.
            objective: "retrain" or "erase".
            head: which forecast, as in ``DifficultyPredictor.contributions``: "percentile", "difficulty" (logarithmic
                scale), "trivial" (log-odds) or a part of the outcome.

        Raises:
            IndexError: no such sample.
            UnknownNameError: no such objective or head.
            NotApplicableError: the predictor cannot take that head apart.
        """
        (place,) = self._places(sample_numbers([index]))
        values, base = self.predictor.contributions(self.features(index), objective, head)
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
            reasons=tuple(self._reason(k, place, float(sums[k]), head) for k in order),
            head=head,
        )

    def explain_many(self, indices: Sequence[int] | np.ndarray, objective: str) -> ExplanationSet:
        """Take the forecasts of many samples apart, without sentences.

        Raises:
            IndexError: no such sample.
            UnknownNameError: no such objective.
        """
        index = sample_numbers(indices)
        sums, base = self._sums(index, objective)
        labels = pd.Index(index, name="index")
        return ExplanationSet(
            objective=objective,
            indices=index,
            base=base,
            contributions=pd.DataFrame(sums, index=labels, columns=self.names),
            values=pd.DataFrame(self._values[self._places(index)], index=labels, columns=self.names),
            by_family=pd.DataFrame(sums @ self._to_family, index=labels, columns=self.families),
            families={factor.name: factor.family for factor in self._factors},
        )

    def sentences(self, indices: Sequence[int] | np.ndarray, objective: str, count: int = 3) -> list[str]:
        """For each sample the ``count`` sentences that move its forecast most, joined by "; ".

        Only factors that differ between samples of the model are named; ``explain`` has the rest.
        """
        index = sample_numbers(indices)
        sums, _ = self._sums(index, objective)
        own = np.flatnonzero(self._own)
        top = own[np.argsort(-np.abs(sums[:, own]), axis=1, kind="stable")[:, :count]]
        return [
            "; ".join(self._sentence(k, place, _direction(sums[row, k])) for k in top[row] if sums[row, k] != 0)
            for row, place in enumerate(self._places(index))
        ]

    def typical(self, index: int) -> tuple[pd.Series, str]:
        """Median of every feature column over the sample's class, or where that is too small over the whole model.

        Returns:
            the medians (NaN where a factor does not apply), and "class" or "model".

        Raises:
            IndexError: no such sample.
        """
        (place,) = self._places([index])
        own = self._class_of[place]
        if own < 0:
            return self.table.population[list(self.predictor.features)].median(), "model"
        return self._class_medians.iloc[own][list(self.predictor.features)], "class"

    def features(self, index: int) -> pd.DataFrame:
        """The feature columns of one sample, one row.

        Raises:
            IndexError: no such sample.
        """
        return self._rows.iloc[self._places([index])][list(self.predictor.features)]

    def tier_bounds(self, objective: str) -> tuple[float, float]:
        """The percentiles between the tiers of this target (see ``tiers.tier_bounds``), computed once.

        Raises:
            UnknownNameError: no such objective.
        """
        if objective not in self._bounds:
            everyone = self.predictor.predict(self.table.population[list(self.predictor.features)], objective)
            self._bounds[objective] = tier_bounds(everyone["percentile"].to_numpy(), everyone["p_trivial"].to_numpy())
        return self._bounds[objective]

    # -- what is typical ----------------------------------------------------------------------------------

    def _by_class(self, labels: Sequence[int] | np.ndarray | None) -> tuple[np.ndarray, pd.DataFrame]:
        """Row of every sample's class in a table of class medians, -1 for a class that is too small; that table."""
        known = self._rows.index.to_numpy()
        population = self.table.population
        if labels is None:
            return np.full(len(known), -1), population.iloc[:0]
        classes = np.asarray(labels)
        if classes.ndim != 1 or (len(known) and not 0 <= known.min() <= known.max() < len(classes)):
            raise InputError(
                f"labels: expected one class number per training sample, up to sample {known.max(initial=0)} at least; "
                f"got an array of shape {classes.shape}"
            )
        groups = population.groupby(classes[population.index.to_numpy()])
        medians = groups.median()[groups.size() >= CLASS_FROM]
        return medians.index.get_indexer(pd.Index(classes[known])), medians

    def _varies_in_classes(self) -> np.ndarray:
        """Whether each factor differs between samples of one class; the size of the class does not, (K,)."""
        known = self._class_of >= 0
        if not known.any():
            return np.zeros(len(self.names), dtype=bool)
        by_class = pd.DataFrame(self._values[known]).groupby(self._class_of[known])
        return (by_class.max() > by_class.min()).any().to_numpy()

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

    def _reason(self, k: int, place: int, contribution: float, head: str) -> Reason:
        factor = self._factors[k]
        direction = _direction(contribution if head != "trivial" else -contribution)
        return Reason(
            factor=factor.name,
            family=factor.family,
            contribution=contribution,
            value=float(self._values[place, k]),
            quantile=float(self._quantiles[place, k]),
            direction=direction,
            sentence=self._sentence(k, place, direction),
        )

    def _sentence(self, k: int, place: int, direction: str) -> str:
        factor, value, typical = self._factors[k], self._values[place, k], self._typical[k]
        if factor.name in self.table.not_applicable:
            title = _phrase(factor.title)
            return f"{direction}: not measured: {title} ({self.table.not_applicable[factor.name]})"
        if factor.per_target:
            clause = factor.high if value > typical else factor.low
            shown, usual = _shown(clause, factor, value), _shown(clause, factor, typical)
            note = "" if shown == usual or np.isnan(typical) else f"typical of the models learned from: {usual}"
            return f"{direction}: for the model as a whole: {_fill(clause, factor, value, note)}"
        high = bool(self._quantiles[place, k] > 0.5)
        clause = factor.high if high else factor.low
        shown, usual = _shown(clause, factor, value), _shown(clause, factor, typical)
        of_model = f"typical for this model: {usual}"
        if self._class_of[place] < 0 or not self._varies[k]:
            if shown == usual:  # a clause such as "more than usual" would claim a difference that nobody can see
                return f"{direction}: {_phrase(factor.title)}: {shown}, as usual for this model"
            return f"{direction}: {_fill(clause, factor, value, of_model)}"
        among = float(self._class_medians[factor.name].iloc[self._class_of[place]])
        usual_there = _shown(clause, factor, among)
        if shown == usual_there:
            rest = "" if shown == usual else f" ({of_model})"
            return f"{direction}: {_phrase(factor.title)}: {shown}, as usual for its class{rest}"
        note = f"typical for its class: {usual_there}"
        if high != (value > among):  # the clause holds within the whole model alone
            note = f"compared with the whole model, where {usual} is typical; in its class {usual_there} is"
        return f"{direction}: {_fill(clause, factor, value, note)}"


def _direction(shift: float) -> Literal["harder", "easier"]:
    return "harder" if shift > 0 else "easier"


def split_reasons(reasons: str) -> list[str]:
    """The sentences that ``Explainer.sentences`` joined; a sentence may hold a "; " of its own.

    >>> split_reasons("harder: its loss is high (2.1 nats; typical: 0.1); easier: it is far from others")
    ['harder: its loss is high (2.1 nats; typical: 0.1)', 'easier: it is far from others']
    """
    return re.split(r"; (?=harder: |easier: )", reasons) if reasons else []


class _Plain(float):
    """A number with three significant digits where a clause asks for nothing else, never -0, and without exponent."""

    def __format__(self, spec: str) -> str:
        digits = re.fullmatch(r",?\.(\d+)g", spec or ".3g")
        text = significant(float(self), int(digits[1])) if digits else float.__format__(self, spec)
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
