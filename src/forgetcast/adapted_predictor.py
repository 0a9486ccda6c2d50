"""A predictor adapted to one target by measured samples of it: the shipped trees, a linear change, own intervals."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from forgetcast.adaptation import Adaptation
from forgetcast.agreement import spearman_interval
from forgetcast.columns import as_features, from_log_scale
from forgetcast.errors import (
    FileFormatError,
    ForgetcastError,
    InputError,
    NotApplicableError,
    PathError,
    SchemaError,
    UnknownNameError,
    first_line,
)
from forgetcast.factors import FactorTable, quantile_column
from forgetcast.familiarity import Familiarity
from forgetcast.folders import locked_folder, nearest_existing, replaced_folder
from forgetcast.foreign_files import file_in, parse_json, read_bytes, read_table
from forgetcast.predictor import DifficultyPredictor
from forgetcast.predictor_folder import read_folder
from forgetcast.retrained import ANSWERS, GAP, RETRAINED, met_before, with_retrained
from forgetcast.target import Target

__all__ = ["CALIBRATION", "AdaptedPredictor", "check_folder", "holds_calibration"]

FORMAT = "forgetcast-calibration"
FORMAT_VERSION = 1
CALIBRATION = "calibration.json"
MEASURED = ("index", "objective", "difficulty", "percentile", "percentile_before", "percentile_crossfitted")
TABLES = {"measurements.parquet": MEASURED, "retrained.parquet": ANSWERS}
"""Tables of a saved calibration, with the columns each must have."""


def holds_calibration(folder: Path) -> bool:
    """Whether an adapted predictor was saved in ``folder``."""
    return (folder / CALIBRATION).is_file()


def check_folder(folder: Path) -> None:
    """Check that an adapted predictor may be saved in ``folder``, before the work that makes it.

    Raises:
        PathError: it is a file or below one, or holds something that is not an adapted predictor.
    """
    nearest = nearest_existing(folder)
    if not nearest.is_dir():
        raise PathError(f"the predictor cannot be saved in {folder}: {nearest} is a file")
    if folder.exists() and any(folder.iterdir()) and not holds_calibration(folder):
        raise PathError(f"{folder} is not empty and holds no calibrated predictor; give a new or empty folder")


class AdaptedPredictor(DifficultyPredictor):
    """Forecasts for the one target that its measured samples come from.

    Attributes:
        base: the predictor that was adapted; objectives that were not measured are forecast by it.
        measurements: what was measured (see ``DifficultyReport.measurements``).
    """

    base: DifficultyPredictor
    measurements: pd.DataFrame

    def __init__(
        self,
        base: DifficultyPredictor,
        adaptations: Mapping[str, Adaptation],
        target: Mapping[str, Any],
        measurements: pd.DataFrame,
        answers: pd.DataFrame | None = None,
    ) -> None:
        """
        Args:
            base: the predictor that is adapted.
            adaptations: by objective.
            target: name, model (hash), data (hash) and n of the target.
            measurements: index, objective, difficulty, percentile, percentile_before (forecast before) and
                percentile_crossfitted (forecast by an adaptation to the other samples); further columns are kept.
            answers: what retrained models said of every training sample (``retrained.ANSWERS``); with them the
                factors ``retrained.RETRAINED`` are features.
        """
        super().__init__(base._heads, base._residuals, base.manifest)
        self.base = base
        self.measurements = measurements
        self._adaptations = dict(adaptations)
        self._answers = answers
        if answers is not None:
            self.features = (*base.features, *(c for name in RETRAINED for c in (name, quantile_column(name))))
        calibration = {
            "target": dict(target),
            "predictor": base.fingerprint,
            "adaptations": {name: adaptation.as_json() for name, adaptation in self._adaptations.items()},
            "tables": {name: _digest(table) for name, table in self._tables().items()},
        }
        fingerprint = hashlib.sha256(json.dumps(calibration, sort_keys=True).encode()).hexdigest()
        self.manifest = {**base.manifest, "features": list(self.features), "fingerprint": fingerprint}
        self.manifest["calibration"] = calibration

    @property
    def measured(self) -> tuple[str, ...]:
        """The objectives that were measured."""
        return tuple(self._adaptations)

    # -- the target ---------------------------------------------------------------------------------------------

    def check_target(self, target: Target) -> None:
        """Refuse any other target: percentiles, the change and what retrained models said are of this one.

        Raises:
            InputError: the model or the data is another.
        """
        own = self.manifest["calibration"]["target"]
        other = [
            what for what, found in (("model", target.model_hash), ("data", target.data_hash)) if own[what] != found
        ]
        if other:
            raise InputError(
                f"this predictor was calibrated on samples of target {own['name']!r}; this is another "
                f"{' and other '.join(other)}: calibrate again, or use the predictor it was adapted from "
                "(in the subfolder 'predictor' of a saved one)"
            )

    def complete(self, factors: FactorTable) -> FactorTable:
        """The table with the measured factors that this predictor needs."""
        return factors if self._answers is None else with_retrained(factors, self._answers)

    def gain(self, objective: str) -> str:
        """How well the forecast fits the measured samples before and after, in words.

        Raises:
            UnknownNameError: the objective was not measured.
        """
        if objective not in self._adaptations:
            raise UnknownNameError.of("measured objective", objective, self._adaptations)
        rows = self.measurements[self.measurements["objective"] == objective]
        before, after = (
            spearman_interval(rows[f"percentile_{name}"], rows["percentile"]) for name in ("before", "crossfitted")
        )
        return (
            f"{objective}: forecast against measured percentile of {after.n} samples: before calibrating {before}; "
            f"after, each sample forecast by the others, {after}"
        )

    # -- predicting ---------------------------------------------------------------------------------------------

    def predict(self, features: pd.DataFrame, objective: str, *, level: float | None = None) -> pd.DataFrame:
        """Forecast as ``DifficultyPredictor.predict`` does, adapted where the objective was measured."""
        frame = self.base.predict(self._shipped_columns(features), objective, level=level)
        adaptation = self._adaptations.get(objective)
        if adaptation is None:
            return frame
        percentile = np.clip(adaptation.percentile(self.shipped_percentile(features, objective), features), 0, 1)
        level = self.manifest["intervals"]["level"] if level is None else level
        scaled = adaptation.difficulty(percentile)
        for name, value, back in (("percentile", percentile, None), ("difficulty", scaled, from_log_scale)):
            half = adaptation.half_width(name, self._residuals[objective][name], level)
            bounds = {
                name: value,
                f"{name}_lower": np.clip(value - half, 0, 1),
                f"{name}_upper": np.clip(value + half, 0, 1),
            }
            for column, values in bounds.items():
                frame[column.removeprefix("difficulty_")] = values if back is None else back(values)
        if self._answers is not None and objective == "retrain":
            frame["p_trivial"] = met_before(features[GAP].to_numpy(), frame["p_trivial"].to_numpy())
        return frame

    def predict_parts(self, features: pd.DataFrame, objective: str) -> pd.DataFrame:
        """As the predictor that was adapted."""
        return self.base.predict_parts(self._shipped_columns(features), objective)

    def predict_unlearners(self, features: pd.DataFrame, objective: str) -> pd.DataFrame:
        """As the predictor that was adapted."""
        return self.base.predict_unlearners(self._shipped_columns(features), objective)

    def predict_under(
        self, features: pd.DataFrame, objective: str, unlearners: Sequence[str], *, level: float | None = None
    ) -> pd.DataFrame:
        """As the predictor that was adapted."""
        return self.base.predict_under(self._shipped_columns(features), objective, unlearners, level=level)

    def familiarity(self, features: pd.DataFrame) -> Familiarity:
        """As the predictor that was adapted."""
        return self.base.familiarity(self._shipped_columns(features))

    def contributions(
        self, features: pd.DataFrame, objective: str, head: str = "percentile"
    ) -> tuple[np.ndarray, float]:
        """SHAP values as in ``DifficultyPredictor.contributions``.

        Those of the adapted percentile are those of the trees, weighted, and those of the linear change. Other heads
        are explained by the predictor that was adapted, as far as the forecast is still its own.

        Raises:
            NotApplicableError: also where adapting replaced the head: difficulty follows from the adapted percentile,
                and the chance to be trivial partly from retrained models.
            UnknownNameError, SchemaError, InputError: as for ``predict``.
        """
        adaptation = self._adaptations.get(objective)
        if adaptation is not None and head == "difficulty":
            raise NotApplicableError(
                f"calibrated, difficulty for {objective} is read off the adapted percentile and has no SHAP values of "
                "its own: explain the percentile"
            )
        if adaptation is not None and head == "trivial" and self._answers is not None and objective == "retrain":
            raise NotApplicableError(
                "calibrated, p_trivial for retrain comes half from what retrained models say of the sample (the factor "
                f"{GAP}) and has no SHAP values of its own: explain the percentile"
            )
        values, base = self.base.contributions(self._shipped_columns(features), objective, head)
        values = np.pad(values, ((0, 0), (0, len(self.features) - values.shape[1])))
        if adaptation is None or head != "percentile":
            return values, base
        return adaptation.contributions((values, base), features[list(self.features)])

    def _shipped_columns(self, features: pd.DataFrame) -> pd.DataFrame:
        self._matrix(features)  # checks the columns
        return features[list(self.base.features)]

    def shipped_percentile(self, features: pd.DataFrame, objective: str) -> np.ndarray:
        """The percentile without adaptation, not clipped, (m,)."""
        return self._of(objective)["percentile"].raw(as_features(features, self.base.features))

    # -- saving and loading -------------------------------------------------------------------------------------

    def save(self, folder: str | Path, records: Mapping[str, bytes] | None = None) -> Path:
        """Write a folder with the calibration (JSON, Parquet) and, below it, the predictor that was adapted.

        Everything is written to a sibling folder first and then moved into place.

        Args:
            folder: where to; an adapted predictor there is replaced.
            records: as for ``DifficultyPredictor.save``; they go to the subfolder.

        Raises:
            PathError: the folder cannot be written, is a file, or holds something that is not an adapted predictor.
        """
        folder = Path(folder)
        with replaced_folder(folder, "predictor", check_folder) as fresh:
            self.base.save(fresh / "predictor", records)
            for name, table in self._tables().items():
                pq.write_table(pa.Table.from_pandas(table, preserve_index=False), fresh / name)
            described = {"format": FORMAT, "format_version": FORMAT_VERSION, **self.manifest["calibration"]}
            described["fingerprint"] = self.fingerprint
            (fresh / CALIBRATION).write_text(json.dumps(described, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        return folder

    @classmethod
    def load(cls, folder: str | Path) -> AdaptedPredictor:
        """Read a saved adapted predictor; its predictions equal the saved one's bit for bit.

        Raises:
            PathError: there is none.
            FileFormatError: a file is corrupt, truncated, missing, or not what its hash says.
            SchemaError: it was written in another format version.
        """
        with locked_folder(Path(folder).parent, shared=True):
            return cls._load(Path(folder))

    @classmethod
    def _load(cls, folder: Path) -> AdaptedPredictor:
        path = folder / CALIBRATION
        try:
            described = parse_json(read_bytes(file_in(Path(folder), CALIBRATION), "predictor"))
        except ForgetcastError:
            raise
        except ValueError as error:
            raise FileFormatError(f"{path} is corrupt or truncated: expected JSON; {error}") from error
        if not isinstance(described, dict) or described.get("format") != FORMAT:
            raise FileFormatError(f"{path}: expected the calibration of a forgetcast predictor; it is something else")
        if described.get("format_version") != FORMAT_VERSION:
            raise SchemaError(
                f"{path}: expected format version {FORMAT_VERSION}; got {described.get('format_version')!r}. "
                "Calibrate again"
            )
        below = folder / "predictor"
        if below.is_symlink():
            raise FileFormatError(f"{below} is a link, and is not followed: copy the folder itself (cp -rL)")
        base = DifficultyPredictor(*read_folder(below))
        try:
            named = [described["target"][name] for name in ("name", "model", "data")]
            if not all(isinstance(text, str) for text in named):
                raise ValueError("expected text as name, model and data of the target")
            tables = {}
            for name, digest in described["tables"].items():
                if name not in TABLES:
                    raise ValueError(f"it names a table {name!r}")
                tables[name] = _table(folder / name, digest)
            made = cls(
                base,
                {name: Adaptation.from_json(entry) for name, entry in described["adaptations"].items()},
                described["target"],
                tables["measurements.parquet"],
                tables.get("retrained.parquet"),
            )
            whole = made.fingerprint == described["fingerprint"] and set(made._adaptations) <= set(base.objectives)
            whole = whole and described["predictor"] == base.fingerprint
            whole = whole and all(a.columns <= set(made.features) for a in made._adaptations.values())
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise FileFormatError(f"{path} is corrupt ({type(error).__name__}: {error})") from error
        if not whole:
            raise FileFormatError(f"{path} is corrupt: its fingerprint does not match its content")
        return made

    def _tables(self) -> dict[str, pd.DataFrame]:
        found = {"measurements.parquet": self.measurements}
        return found if self._answers is None else found | {"retrained.parquet": self._answers}


def _digest(table: pd.DataFrame) -> str:
    """SHA-256 over names and values, whatever the file that holds them."""
    sha = hashlib.sha256()
    for name in table.columns:
        sha.update(str(name).encode() + "\n".join(map(repr, table[name].tolist())).encode())
    return sha.hexdigest()


def _table(path: Path, digest: str) -> pd.DataFrame:
    """A table of the calibration, checked against its hash."""
    try:
        content = read_bytes(file_in(path.parent, path.name), "predictor")
        table = read_table(content, str(path))
        if table.num_rows > max(1000, len(content)):
            raise ValueError("more rows than bytes, which no measured numbers are")
        frame = table.to_pandas(ignore_metadata=True)
        odd = [name for name in TABLES[path.name] if not _sound(name, frame[name])]
        if odd:
            raise ValueError(f"the column {odd[0]!r} is of another kind")
    except Exception as error:
        raise FileFormatError(
            f"{path} is missing or corrupt ({type(error).__name__}: {first_line(error)}); copy the folder again"
        ) from error
    if _digest(frame) != digest or not set(TABLES[path.name]) <= set(frame.columns):
        raise FileFormatError(f"{path} is corrupt: its SHA-256 is not the one in {CALIBRATION}; copy the folder again")
    return frame


def _sound(name: str, values: pd.Series) -> bool:
    """Whether a column that every table of its kind has holds what it should."""
    if name == "objective":
        return all(isinstance(value, str) for value in values)
    return values.dtype.kind in "iuf" and bool(np.isfinite(values.to_numpy()).all())
