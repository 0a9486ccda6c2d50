"""The data of a report and what can be asked of it: explanations, movers, measurements; pages sit above it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from torch import Tensor

from forgetcast._arguments import checked
from forgetcast.errors import IndexRangeError, NotApplicableError, SchemaError, UnknownNameError
from forgetcast.factors import FactorTable
from forgetcast.files.exact_values import exact_values
from forgetcast.objectives import SLACK
from forgetcast.predictor.familiarity import Familiarity
from forgetcast.predictor.predictor import DifficultyPredictor
from forgetcast.report.counterfactual import what_would_change
from forgetcast.report.explain import Explainer, Explanation, ExplanationSet
from forgetcast.report.movers import Movers
from forgetcast.target.target import Target

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Forecast"]

CONFIDENCE = "surrogate_confidence"
"""The factor that the rehearsed goal of ``retrain`` follows from."""
MEASURED_COLUMNS = ("index", "objective", "difficulty", "percentile")


@dataclass(frozen=True)
class Forecast:
    """Forecasts for samples of one model, and everything needed to explain them."""

    table: pd.DataFrame
    """One row per objective and sample: index, objective, label, difficulty, lower, upper, percentile,
    percentile_lower, percentile_upper, p_trivial (all in [0, 1]), tier; where the predictor knows
    them, the parts of the outcome (collateral_test, collateral_neighbours, steps, parameter_shift: see
    ``DifficultyPredictor.predict_parts``) and best_unlearner, the one forecast to do the least harm; reasons."""
    factors: FactorTable
    """The factors that the predictor uses, for the samples of the table and for the reference sample."""
    predictor: DifficultyPredictor
    provenance: dict[str, Any]
    """Versions, fingerprint of the predictor, hashes of model and data, number of samples, settings."""
    familiarity: Familiarity = field(default_factory=Familiarity)
    """Whether the model and its data are like those that the predictor was fitted to."""
    measurements: pd.DataFrame | None = None
    """Measured difficulty, where ``measured`` attached it or the forecast was calibrated: index, objective,
    difficulty, percentile; after calibrating also weight (inverse sampling probability), trivial, percentile_before
    (forecast before) and percentile_crossfitted (forecast after, by a calibration without that sample)."""
    calibrated: dict[str, str] = field(default_factory=dict)
    """What calibrating changed, in words, by objective; empty where the forecast was not calibrated."""
    _explainer: Explainer | None = field(default=None, repr=False, compare=False)
    _target: Target | None = field(default=None, repr=False, compare=False)
    """The model and data that were forecast, for what needs them again (movers and their pictures). A report without
    them still has everything else."""
    _movers: Movers | None = field(default=None, repr=False, compare=False)

    @checked("index")
    def explain(self, index: int, objective: str | None = None, *, head: str = "percentile") -> Explanation:
        """Take the forecast of one sample apart: SHAP values by factor and family, and sentences.

        Factors that carry the same information share the credit between them; the sum of a family is what to rely on.

        Args:
            index: a sample of the table (or of the reference sample of its factors: up to 2000 samples, any).
            objective: default: the report's first.
            head: which forecast: "percentile", "difficulty" (logarithmic scale), "trivial" (log-odds), or a part of the
                outcome such as "steps"; see ``DifficultyPredictor.contributions``.

        Raises:
            IndexRangeError: no such sample, or one that was not asked for.
            UnknownNameError: no such objective or head.
            NotApplicableError: the predictor cannot take that head apart.
        """
        self._check_index(index)
        return self.explainer.explain(int(index), self._objective(objective), head)

    @checked("index")
    def what_would_change(self, index: int, objective: str | None = None) -> pd.DataFrame:
        """What the forecast would be if one family of the sample's factors were typical for its class.

        See ``counterfactual.what_would_change``.

        Args:
            index: a sample of the table (or of the reference sample of its factors: up to 2000 samples, any).
            objective: "retrain" or "erase"; default: the report's first.

        Returns:
            One row per family, the largest change of the percentile first: family, percentile, change, tier and
            p_trivial then; percentile_now, tier_now and p_trivial_now; sentence. Percentiles and p_trivial are in [0,
            1].

        Raises:
            IndexRangeError: no such sample, or one that was not asked for.
            UnknownNameError: no such objective.
        """
        self._check_index(index)
        return what_would_change(self.explainer, int(index), self._objective(objective))

    @checked("index")
    def movers(self, index: int, objective: str | None = None, *, count: int = 12) -> pd.DataFrame:
        """The training samples whose predictions would change most if this one were unlearned on the last layer.

        The first call reads the data once more; see ``movers.Movers.of``.

        Args:
            index: any sample of the training data.
            objective: default: the report's first.
            count: rows wanted, at most.

        Returns:
            index, label, change (of the true label's probability), total_variation, similarity; the largest total
            variation first. Empty where the goal is probably met before any unlearning.

        Raises:
            NotApplicableError: the model has no last linear layer, or the report no longer has its model and data.
            IndexRangeError: no such sample.
            UnknownNameError: no such objective.
            InputError: ``count`` is no positive whole number.
        """
        objective = self._objective(objective)
        if self._target is None:
            raise NotApplicableError(
                "movers need the model and its data, which this report does not hold: take the report that "
                "predict_difficulty returned, or call forgetcast.report.movers.movers(target, index)"
            )
        if self._movers is None:
            object.__setattr__(self, "_movers", Movers(self._target, seed=self.provenance["settings"]["seed"]))
        assert self._movers is not None
        goal = None
        known = self.factors.worked_out
        if objective == "retrain" and CONFIDENCE in known and known.index.isin([index]).any():
            confidence = float(known.loc[[index], CONFIDENCE].to_numpy()[0])  # fitted already, for the factors
            goal = min(confidence + SLACK, 1.0) if np.isfinite(confidence) else None
        return self._movers.of(index, objective, goal=goal, count=count)

    @checked()
    def images(self, indices: Sequence[int]) -> np.ndarray:
        """Training samples as pictures, for ``plots.mover_pictures``.

        Args:
            indices: m samples of the training data.

        Returns:
            shape (m, h, w), or (m, h, w, 3) for colours; values as the model gets them.

        Raises:
            NotApplicableError: the report does not hold its data, or a sample is neither (h, w) nor (1 or 3, h, w).
            IndexRangeError: no such sample, or one that comes twice.
        """
        if self._target is None:
            raise NotApplicableError("pictures need the data, which this report does not hold")
        data = self._target.data
        inputs, _ = data.fetch(data.check_indices(list(indices)))
        shape = tuple(inputs.shape[1:]) if isinstance(inputs, Tensor) else ()
        if len(shape) not in (2, 3) or (len(shape) == 3 and shape[0] not in (1, 3)):
            raise NotApplicableError(
                f"expected images of shape (h, w), (1, h, w) or (3, h, w); got {shape or 'no tensor'}"
            )
        pictures = inputs.detach().cpu().double()
        if len(shape) == 3:
            pictures = pictures.permute(0, 2, 3, 1).squeeze(3) if shape[0] == 1 else pictures.permute(0, 2, 3, 1)
        return pictures.numpy()

    @checked()
    def explanations(self, objective: str | None = None) -> ExplanationSet:
        """Take the forecasts of all samples of the table apart.

        Args:
            objective: default: the report's first.

        Raises:
            UnknownNameError: the table has no such objective.
        """
        objective = self._objective(objective)
        rows = self.table[self.table["objective"] == objective]
        return self.explainer.explain_many(rows["index"].to_numpy(dtype=np.int64), objective)

    @checked()
    def measured(self, frame: pd.DataFrame) -> Self:
        """The same report with measured difficulty beside the forecast.

        Args:
            frame: index, objective, difficulty in [0, 1] and percentile in [0, 1], one row per measured
                sample and objective; further columns are kept.

        Raises:
            SchemaError: columns are missing.
            UnknownNameError: an objective that the table does not have.
            IndexRangeError: a sample that the data does not have, or one that is measured twice.
        """
        missing = [name for name in MEASURED_COLUMNS if name not in frame.columns]
        if missing:
            raise SchemaError(
                f"expected measurements with columns {', '.join(MEASURED_COLUMNS)}; missing: {', '.join(missing)}"
            )
        for name in pd.unique(frame["objective"]):
            self._objective(str(name))
        n = self.provenance["n"]
        numbers = exact_values(frame["index"])
        for number in numbers:
            if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < n:
                raise IndexRangeError(f"measured sample {number} is not among samples 0 to {n - 1}")
        frame = frame.assign(index=np.array(numbers, dtype=np.int64))
        if frame.duplicated(["index", "objective"]).any():
            raise IndexRangeError("expected one measurement per sample and objective; some come twice")
        return replace(self, measurements=frame.reset_index(drop=True))

    @property
    def explainer(self) -> Explainer:
        """What explains the forecasts of this report."""
        if self._explainer is None:
            object.__setattr__(self, "_explainer", Explainer(self.predictor, self.factors, self._labels()))
        assert self._explainer is not None
        return self._explainer

    def _check_index(self, index: int) -> None:
        """Refuse what is no sample, or none whose factors are known.

        Raises:
            IndexRangeError: no such sample, or one that was not asked for.
        """
        n = self.provenance["n"]
        if isinstance(index, bool) or not isinstance(index, (int, np.integer)) or not 0 <= index < n:
            raise IndexRangeError(f"expected a sample index from 0 to {n - 1}; got {index!r}")
        if index not in self.factors.values.index and index not in self.factors.population.index:
            raise IndexRangeError(f"sample {index} was not forecast: add it to the indices of predict_difficulty")

    def _labels(self) -> np.ndarray | None:
        """Classes by sample number as far as the table knows them; None if it does not know all of the population."""
        known = self.table.drop_duplicates("index").set_index("index")["label"]
        wanted = self.factors.worked_out.index
        if not wanted.isin(known.index).all():
            return None
        labels = np.full(self.provenance["n"], -1)
        labels[known.index.to_numpy()] = known.to_numpy()
        return labels

    def _objective(self, objective: str | None) -> str:
        own = list(dict.fromkeys(self.table["objective"]))
        if objective is None:
            return str(own[0])
        if objective not in own:
            raise UnknownNameError.of("objective", objective, own)
        return objective
