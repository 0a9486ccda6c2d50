"""The predictor: factors in; difficulty and percentile with intervals, and the chance to be trivial, out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from forgetcast._arguments import checked
from forgetcast.errors import InputError, NotApplicableError, SchemaError, UnknownNameError
from forgetcast.files.folders import locked_folder, shipped_folder
from forgetcast.predictor.calibrated import Calibration, holds_calibration, read_calibrated, write_calibrated
from forgetcast.predictor.columns import (
    EXPLAINED,
    PART_HEADS,
    UNLEARNER,
    UNLEARNER_HEADS,
    as_features,
    from_log_scale,
    residuals_under,
)
from forgetcast.predictor.familiarity import Familiarity, familiarity
from forgetcast.predictor.fitting import Fit
from forgetcast.predictor.folder import Heads, Residuals, read_folder, write_folder
from forgetcast.predictor.heads import Head
from forgetcast.predictor.intervals import balanced_residuals, conformal_interval
from forgetcast.predictor.unlearner_heads import known_unlearners, with_unlearner

__all__ = ["DifficultyPredictor"]

ROWS = 4096
"""Samples that are forecast at a time where every unlearner takes a copy of their features."""


class DifficultyPredictor:
    """Forecasts difficulty from factors, for one or both objectives.

    Per objective there are gradient-boosted heads (LightGBM) for the within-target percentile of difficulty, the
    absolute difficulty and the probability that the goal is already met before unlearning ("trivial"); where the
    training table has them, also for the parts of the outcome (``objectives.PARTS``), and one for the difficulty under
    each unlearner. Intervals are conformal: their width is a quantile of the errors made on targets that the fit had
    not seen.

    Attributes:
        features: the factor columns it needs, in order.
        objectives: the objectives it was fitted for.
        manifest: feature schema, versions, training data, metrics and fingerprint, as saved.
        calibration: what measured samples of one target change in the forecasts for it; None: it was not calibrated.
    """

    features: tuple[str, ...]
    objectives: tuple[str, ...]
    manifest: dict[str, Any]
    calibration: Calibration | None

    def __init__(
        self,
        heads: Heads,
        residuals: Residuals,
        manifest: dict[str, Any],
        calibration: Calibration | None = None,
    ) -> None:
        self._heads = heads
        self._residuals = residuals
        self._fitted = manifest
        self.calibration = calibration
        self.manifest = manifest if calibration is None else calibration.completed(manifest)
        self.features = tuple(self.manifest["features"])
        self.objectives = tuple(heads)

    def with_calibration(self, calibration: Calibration) -> DifficultyPredictor:
        """This predictor with another calibration."""
        return DifficultyPredictor(self._heads, self._residuals, self._fitted, calibration)

    @property
    def uncalibrated(self) -> DifficultyPredictor:
        """The predictor as it was fitted: without its calibration, or itself where it has none."""
        if self.calibration is None:
            return self
        return DifficultyPredictor(self._heads, self._residuals, self._fitted)

    # -- fitting -----------------------------------------------------------------------------------

    @classmethod
    @checked()
    def fit(
        cls,
        table: pd.DataFrame,
        features: Sequence[str],
        *,
        params: Mapping[str, Any] | None = None,
        seed: int = 0,
        metrics: Mapping[str, Any] | None = None,
        provenance: Mapping[str, Any] | None = None,
        n_jobs: int = 2,
        continue_from: DifficultyPredictor | None = None,
        progress: bool = False,
    ) -> DifficultyPredictor:
        """Fit to measured targets. The same table, features, parameters and seed give the same bytes.

        With ``continue_from`` boosting goes on from that predictor's trees, which stay: ``num_boost_round`` more are
        added to each head. An objective that the table has no labels for stays as it is. Intervals rest on the targets
        of the table alone, each forecast by a continuation without it (for a single target: by the predictor as it
        was).

        Args:
            table: one row per measured instance with columns target, weight (> 0), the feature columns (NaN
                where a factor does not apply), and for at least one objective o: percentile_o and
                difficulty_o in [0, 1] and trivial_o. Rows without labels (NaN) of an objective are left out
                of its fit. With a column memorization, trivial samples of retrain, which tie, are placed by it
                (see ``columns.labels_of``). Columns of parts (steps_o, ...), of unlearners (under_u_o) and of parts
                under unlearners (steps_under_u_o, ...) give the heads for them.
            features: the feature columns, F of them, each a valid Python identifier.
            params: LightGBM parameters over ``heads.DEFAULT_PARAMS``, ``num_boost_round`` included.
            seed: of row and column sampling.
            metrics: evaluation results kept in the manifest (JSON values).
            provenance: where the data came from, kept in the manifest (JSON values).
            n_jobs: fits run at a time.
            continue_from: a predictor of the same features, fitted to other targets.
            progress: a bar on stderr.

        Raises:
            SchemaError: columns are missing, repeated or not numeric, or not those of ``continue_from``.
            InputError: labels or weights out of range, infinite features, fewer than 10 rows, unusable
                parameters, or a target that ``continue_from`` was fitted to.
        """
        start = None
        if continue_from is not None:
            start = (continue_from._heads, continue_from._residuals, continue_from.manifest)
        settings = Fit(list(features), params or {}, seed, n_jobs, progress)
        return cls(*settings.run(table, start, metrics or {}, provenance or {}))

    def heads(self, objective: str) -> Mapping[str, Head]:
        """The fitted heads of an objective by name; none where it was not fitted for it."""
        return self._heads.get(objective, {})

    # -- predicting --------------------------------------------------------------------------------

    @property
    def fingerprint(self) -> str:
        """SHA-256 over everything that determines predictions, hexadecimal."""
        return str(self.manifest["fingerprint"])

    @checked()
    def predict(self, features: pd.DataFrame, objective: str, *, level: float | None = None) -> pd.DataFrame:
        """Forecast each row on its own: other rows of the table make no difference.

        A calibrated predictor adapts the forecast of objectives that were measured.

        Args:
            features: exactly the columns ``self.features`` in any order, shape (m, F); NaN where a factor
                does not apply.
            objective: one of ``self.objectives``.
            level: share of measured values that the intervals should cover on a target like those seen, in
                (0, 1); default 0.9. A level that the held-out errors cannot support gives the interval [0,
                1].

        Returns:
            Index of ``features``; columns difficulty, lower, upper, percentile, percentile_lower,
            percentile_upper and p_trivial, all in [0, 1] with lower <= value <= upper.

        Raises:
            UnknownNameError: no such objective.
            SchemaError: columns are missing or unknown; the message lists both.
            InputError: infinite values, or a level outside (0, 1).
        """
        heads = self._of(objective)
        level = self._level(level)
        X = self._matrix(features)
        raw = heads["percentile"].raw(X)
        percentile = np.clip(raw, 0, 1)
        scaled = np.clip(heads["difficulty"].raw(X), 0, 1)
        percentile_lower, percentile_upper = self._interval(objective, "percentile", percentile, level)
        scaled_lower, scaled_upper = self._interval(objective, "difficulty", scaled, level)
        columns = {
            "difficulty": from_log_scale(scaled),
            "lower": from_log_scale(scaled_lower),
            "upper": from_log_scale(scaled_upper),
            "percentile": percentile,
            "percentile_lower": percentile_lower,
            "percentile_upper": percentile_upper,
            "p_trivial": np.clip(heads["trivial"].raw(X), 0, 1),
        }
        frame = pd.DataFrame(columns, index=features.index)
        if self.calibration is None:
            return frame
        return self.calibration.adapted(frame, objective, raw, features, self._residuals[objective], level)

    @checked()
    def predict_parts(self, features: pd.DataFrame, objective: str) -> pd.DataFrame:
        """Forecast what unlearning will take and do, as the mean over the unlearners of the label.

        Args:
            features: factor columns ``self.features`` in any order, float, (m, F); NaN where a factor does not apply.
            objective: one of ``self.objectives``.

        Returns:
            Index of ``features``; those that the corpus recorded of: collateral_test and collateral_neighbours (total
            variation of the predictions on held-out data and on the sample's nearest neighbours, in [0, 1]), steps (>=
            0) and parameter_shift (>= 0, Euclidean).

        Raises:
            UnknownNameError: no such objective.
            SchemaError: columns are missing or unknown; the message lists both.
            InputError: infinite values.
        """
        heads, X = self._of(objective), self._matrix(features)
        columns = {name: from_log_scale(heads[name].raw(X), name) for name in PART_HEADS if name in heads}
        return pd.DataFrame(columns, index=features.index)

    @checked()
    def predict_unlearners(self, features: pd.DataFrame, objective: str) -> pd.DataFrame:
        """Forecast the difficulty of each sample under each unlearner, should the sample not be trivial.

        Args:
            features: factor columns ``self.features`` in any order, float, (m, F); NaN where a factor does not apply.
            objective: one of ``self.objectives``.

        Returns:
            Index of ``features``; a column per unlearner, in [0, 1]; none if the corpus had a single unlearner. The
            smallest of a row names the unlearner that is forecast to do the least harm.

        Raises:
            UnknownNameError: no such objective.
            SchemaError: columns are missing or unknown; the message lists both.
            InputError: infinite values.
        """
        heads, X = self._of(objective), self._matrix(features)
        names = known_unlearners(self._heads, self.manifest).get(objective, [])
        if not names:
            return pd.DataFrame(index=features.index)
        pieces = [X[start : start + ROWS] for start in range(0, len(X), ROWS)] or [X]
        raw = np.concatenate([heads[UNLEARNER].raw(with_unlearner(piece, len(names))) for piece in pieces])
        values = from_log_scale(raw).reshape(len(X), len(names))
        return pd.DataFrame(values, index=features.index, columns=names)

    @checked()
    def predict_under(
        self, features: pd.DataFrame, objective: str, unlearners: Sequence[str], *, level: float | None = None
    ) -> pd.DataFrame:
        """Forecast what each sample's own unlearner will take and do, should the sample not be trivial.

        Args:
            features: factor columns ``self.features`` in any order, float, (m, F); NaN where a factor does not apply.
            objective: one of ``self.objectives``.
            level: share of measured values that the intervals should cover, in (0, 1); default 0.9.
            unlearners: the unlearner of every row, m of those in the columns of ``predict_unlearners``.

        Returns:
            Index of ``features``; difficulty with lower and upper, in [0, 1]; steps along the unlearner's path (>= 0),
            collateral_test and collateral_neighbours (total variation, in [0, 1]); of the last three those that the
            corpus recorded. Bounds rest on errors of the same unlearner on targets that the fit had not seen; they are
            NaN for a predictor that was fitted without them.

        Raises:
            UnknownNameError: an unlearner or objective that the predictor does not know.
            SchemaError: columns are missing or unknown; the message lists both.
            InputError: infinite values, a level outside (0, 1), or not one unlearner per row.
        """
        heads, X = self._of(objective), self._matrix(features)
        known = known_unlearners(self._heads, self.manifest).get(objective, [])
        strangers = [name for name in dict.fromkeys(unlearners) if name not in known]
        if strangers:
            raise UnknownNameError.of("unlearner of this predictor", str(strangers[0]), known)
        if len(unlearners) != len(X):
            raise InputError(f"unlearners: expected one for each of the {len(X)} rows; got {len(unlearners)}")
        level = self._level(level)
        places = np.array([known.index(name) for name in unlearners], dtype=float)
        with_own = np.column_stack([X, places])
        raw = {part: heads[head].raw(with_own) for head, part in UNLEARNER_HEADS.items() if head in heads}
        scaled = np.clip(raw["difficulty"], 0, 1)
        lower, upper = np.full(len(X), np.nan), np.full(len(X), np.nan)
        for place, name in enumerate(known):
            own = places == place
            if own.any() and residuals_under(name) in self._residuals[objective]:
                lower[own], upper[own] = self._interval(objective, residuals_under(name), scaled[own], level)
        columns = {part: from_log_scale(values, part) for part, values in raw.items()}
        columns |= {"lower": from_log_scale(lower), "upper": from_log_scale(upper)}
        return pd.DataFrame(columns, index=features.index)

    def familiarity(self, features: pd.DataFrame) -> Familiarity:
        """How much the target that ``features`` come from is like those the predictor was fitted to.

        Args:
            features: factor columns ``self.features`` of samples of one target, float, shape (m, F).

        Returns:
            The p-value of a target like those, the nearest of them, and the context values outside their range.

        Raises:
            SchemaError: columns are missing or unknown; the message lists both.
            InputError: infinite values.
        """
        self._matrix(features)
        return familiarity(self.manifest.get("contexts", {}), features)

    def contributions(
        self, features: pd.DataFrame, objective: str, head: str = "percentile"
    ) -> tuple[np.ndarray, float]:
        """SHAP values of one head (path-dependent TreeSHAP, Lundberg et al. 2020, "From local explanations to global
        understanding with explainable AI for trees").

        Factors that carry the same information share the credit between them, more or less as the trees happened to
        choose; the sum of a family is what to rely on.

        Those of a calibrated percentile are those of the trees, weighted, and those of the linear change.

        Args:
            features: factor columns ``self.features`` in any order, float, (m, F); NaN where a factor does not apply.
            objective: one of ``self.objectives``.
            head: "percentile"; "difficulty", on the logarithmic scale of ``columns.log_scale``; "trivial", in log-odds;
                or a part of the outcome, a column of ``predict_parts``, on its logarithmic scale.

        Returns:
            values of shape (m, F) in the order of ``self.features``, and the base value: base + row sum is
            the head's forecast on its scale, before anything is clipped.

        Raises:
            UnknownNameError: no such objective or head.
            NotApplicableError: the predictor was not fitted to that part of the outcome; or is always sure whether a
                sample is trivial, so that log-odds are infinite; or calibrating replaced the head: difficulty then
                follows from the percentile, and the chance to be trivial partly from retrained models.
            SchemaError: columns are missing or unknown; the message lists both.
            InputError: infinite values.
        """
        known = self._of(objective)
        if head not in EXPLAINED:
            raise UnknownNameError.of("head", str(head), EXPLAINED)
        if head not in known:
            raise NotApplicableError(
                f"this predictor was fitted to a corpus without {head} for {objective}: explain "
                f"{', '.join(name for name in EXPLAINED if name in known)}, or fit it to a corpus that has it"
            )
        if self.calibration is not None:
            self.calibration.check_explained(objective, head)
        if head == "trivial" and known[head].booster is None:
            raise NotApplicableError(
                f"p_trivial for {objective} is {known[head].constant:g} for every sample, as in the corpus the "
                "predictor was fitted to: there is nothing to explain"
            )
        found = known[head].contributions(self._matrix(features))
        if self.calibration is None:
            return found
        return self.calibration.contributions(found, features[list(self.features)], objective, head)

    def _level(self, level: float | None) -> float:
        """The level of intervals that was asked for, or the predictor's own."""
        level = self.manifest["intervals"]["level"] if level is None else level
        if not 0 < level < 1:
            raise InputError(f"expected a level between 0 and 1, such as 0.9; got {level!r}")
        return float(level)

    def _of(self, objective: str) -> Mapping[str, Head]:
        if objective not in self._heads:
            raise UnknownNameError.of("objective", str(objective), self.objectives)
        return self._heads[objective]

    def _matrix(self, features: pd.DataFrame) -> np.ndarray:
        """The columns that the heads were fitted to, after checking all columns, shape (m, F)."""
        missing = [name for name in self.features if name not in features.columns]
        unknown = [str(name) for name in features.columns if name not in set(self.features)]
        if missing or unknown or len(features.columns) != len(self.features):
            raise SchemaError(
                f"expected the {len(self.features)} feature columns this predictor was fitted to; "
                f"missing: {', '.join(missing) or 'none'}; unknown: {', '.join(unknown) or 'none'}"
                + ("" if missing or unknown else "; some columns are repeated")
            )
        return as_features(features, self.features)[:, : len(self._fitted["features"])]

    def _interval(self, objective: str, head: str, value: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray]:
        scores = balanced_residuals(list(self._residuals[objective][head].values()))
        return conformal_interval(scores, value, level)

    # -- saving and loading ------------------------------------------------------------------------

    @checked()
    def save(self, folder: str | Path, records: Mapping[str, bytes] | None = None) -> Path:
        """Write the predictor as a folder of LightGBM text and JSON files; no pickle.

        Everything is written to a sibling folder first and then moved into place, so that a failure leaves
        an existing predictor as it was. Other files in that folder, such as a model card, are kept. A calibrated
        predictor is a folder with the calibration (JSON, Parquet) and, below it, the predictor that was calibrated.

        Args:
            folder: where to; an existing predictor of its kind there is replaced.
            records: contents by file name that document how it was chosen, "comparison.csv" and "tuning.csv".

        Raises:
            PathError: the folder cannot be written, is a file, or holds something that is not a predictor.
        """
        folder = Path(folder)
        fitted = (self._heads, self._residuals, self._fitted, records or {})
        if self.calibration is None:
            write_folder(folder, *fitted)
        else:
            write_calibrated(folder, self.calibration, *fitted)
        return folder

    @classmethod
    @checked()
    def load(cls, folder: str | Path) -> DifficultyPredictor:
        """Read a saved predictor, calibrated or not; its predictions equal the saved one's bit for bit.

        Raises:
            PathError: there is no such folder, or it holds no predictor.
            FileFormatError: a file is corrupt, truncated, missing, or not what its hash in the manifest says.
            SchemaError: it was written in another format version.
        """
        folder = Path(folder)
        with locked_folder(folder.parent, shared=True):
            return cls(*(read_calibrated(folder) if holds_calibration(folder) else read_folder(folder)))

    @classmethod
    def published(cls) -> DifficultyPredictor:
        """The predictor that comes with forgetcast: inside the installed package, or in the checkout.

        Raises:
            PathError: this installation has none.
        """
        lacking = (
            "this installation comes without a published predictor: fit one with `forgetcast train` "
            "and pass its folder as predictor"
        )
        return cls.load(shipped_folder("published_model", "models/published", lacking))

    def __repr__(self) -> str:
        return (
            f"DifficultyPredictor(objectives={self.objectives}, features={len(self.features)}, "
            f"targets={len(self.manifest['training']['rows'])}, fingerprint={self.fingerprint[:12]!r})"
        )
