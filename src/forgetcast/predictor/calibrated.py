"""The calibration of a predictor to one target by measured samples of it: a linear change and own intervals."""

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

from forgetcast.errors import FileFormatError, InputError, NotApplicableError, PathError, UnknownNameError, first_line
from forgetcast.factors import FactorTable
from forgetcast.files.folders import nearest_existing, replaced_folder
from forgetcast.files.foreign import file_in, read_bytes, read_table
from forgetcast.predictor.adaptation import Adaptation
from forgetcast.predictor.agreement import spearman_interval
from forgetcast.predictor.columns import from_log_scale
from forgetcast.predictor.folder import Heads, Residuals, check_format, read_folder, read_json, write_folder
from forgetcast.predictor.retrained import ANSWERS, GAP, RETRAINED_COLUMNS, met_before, with_retrained
from forgetcast.target.target import Target

__all__ = ["CALIBRATION", "Calibration", "check_folder", "holds_calibration", "read_calibrated", "write_calibrated"]

FORMAT = "forgetcast-calibration"
FORMAT_VERSION = 1
CALIBRATION = "calibration.json"
MEASURED = ("index", "objective", "difficulty", "percentile", "percentile_before", "percentile_crossfitted")
TABLES = {"measurements.parquet": MEASURED, "retrained.parquet": ANSWERS}
"""Tables of a saved calibration, with the columns each must have."""


def holds_calibration(folder: Path) -> bool:
    """Whether a calibrated predictor was saved in ``folder``."""
    return (folder / CALIBRATION).is_file()


def check_folder(folder: Path) -> None:
    """Check that a calibrated predictor may be saved in ``folder``, before the work that makes it.

    Raises:
        PathError: it is a file or below one, or holds something that is not a calibrated predictor.
    """
    nearest = nearest_existing(folder)
    if not nearest.is_dir():
        raise PathError(f"the predictor cannot be saved in {folder}: {nearest} is a file")
    if folder.exists() and any(folder.iterdir()) and not holds_calibration(folder):
        raise PathError(f"{folder} is not empty and holds no calibrated predictor; give a new or empty folder")


class Calibration:
    """What measured samples of one target change in the forecasts for it.

    Attributes:
        target: name, model (hash), data (hash) and n of the target.
        measurements: what was measured (see ``DifficultyReport.measurements``).
        features: the feature columns that it adds to those of the predictor.
    """

    target: dict[str, Any]
    measurements: pd.DataFrame
    features: tuple[str, ...]

    def __init__(
        self,
        adaptations: Mapping[str, Adaptation],
        target: Mapping[str, Any],
        measurements: pd.DataFrame,
        answers: pd.DataFrame | None = None,
    ) -> None:
        """
        Args:
            adaptations: by objective.
            target: name, model (hash), data (hash) and n of the target.
            measurements: index, objective, difficulty, percentile, percentile_before (forecast before) and
                percentile_crossfitted (forecast by an adaptation to the other samples); further columns are kept.
            answers: what retrained models said of every training sample (``retrained.ANSWERS``); with them the
                factors ``retrained.RETRAINED`` are features.
        """
        self.target = dict(target)
        self.measurements = measurements
        self._adaptations = dict(adaptations)
        self._answers = answers
        self.features = () if answers is None else RETRAINED_COLUMNS

    @property
    def measured(self) -> tuple[str, ...]:
        """The objectives that were measured."""
        return tuple(self._adaptations)

    def completed(self, manifest: Mapping[str, Any]) -> dict[str, Any]:
        """The manifest of a predictor with this calibration, of that of the predictor without."""
        described = {
            "target": self.target,
            "predictor": manifest["fingerprint"],
            "adaptations": {name: adaptation.as_json() for name, adaptation in self._adaptations.items()},
            "tables": {name: _digest(table) for name, table in self._tables().items()},
        }
        return {
            **manifest,
            "features": [*manifest["features"], *self.features],
            "fingerprint": hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest(),
            "calibration": described,
        }

    # -- the target ---------------------------------------------------------------------------------------------

    def check_target(self, target: Target) -> None:
        """Refuse any other target: percentiles, the change and what retrained models said are of this one.

        Raises:
            InputError: the model or the data is another.
        """
        own = self.target
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
        """The table with the measured factors that a predictor with this calibration needs."""
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

    # -- forecasts ----------------------------------------------------------------------------------------------

    def adapted(
        self,
        frame: pd.DataFrame,
        objective: str,
        percentile: np.ndarray,
        features: pd.DataFrame,
        residuals: Mapping[str, Mapping[str, Sequence[float]]],
        level: float,
    ) -> pd.DataFrame:
        """A forecast of the predictor, adapted where the objective was measured.

        Args:
            frame: the forecast, as ``DifficultyPredictor.predict`` returns it, m rows.
            objective: of the forecast.
            percentile: its percentile before it was clipped, shape (m,).
            features: all feature columns, m rows.
            residuals: by head and target, the errors that the predictor's intervals rest on.
            level: of the intervals, in (0, 1).
        """
        adaptation = self._adaptations.get(objective)
        if adaptation is None:
            return frame
        frame, percentile = frame.copy(), np.clip(adaptation.percentile(percentile, features), 0, 1)
        scaled = adaptation.difficulty(percentile)
        for name, value, back in (("percentile", percentile, None), ("difficulty", scaled, from_log_scale)):
            half = adaptation.half_width(name, residuals[name], level)
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

    def check_explained(self, objective: str, head: str) -> None:
        """Refuse heads that calibrating replaced.

        Raises:
            NotApplicableError: difficulty follows from the adapted percentile, and the chance to be trivial partly
                from retrained models.
        """
        if objective not in self._adaptations:
            return
        if head == "difficulty":
            raise NotApplicableError(
                f"calibrated, difficulty for {objective} is read off the adapted percentile and has no SHAP values of "
                "its own: explain the percentile"
            )
        if head == "trivial" and self._answers is not None and objective == "retrain":
            raise NotApplicableError(
                "calibrated, p_trivial for retrain comes half from what retrained models say of the sample (the factor "
                f"{GAP}) and has no SHAP values of its own: explain the percentile"
            )

    def contributions(
        self, found: tuple[np.ndarray, float], features: pd.DataFrame, objective: str, head: str
    ) -> tuple[np.ndarray, float]:
        """Contributions of all feature columns, shape (m, F), and their base.

        Args:
            found: contributions of the predictor's own columns, the first of the F, and their base.
            features: the F feature columns in order, m rows.
            objective: of the forecast.
            head: as for ``DifficultyPredictor.contributions``; of the percentile they are those of the adapted one.
        """
        values, base = found
        values = np.pad(values, ((0, 0), (0, features.shape[1] - values.shape[1])))
        adaptation = self._adaptations.get(objective)
        if adaptation is None or head != "percentile":
            return values, base
        return adaptation.contributions((values, base), features)

    # -- what is saved ------------------------------------------------------------------------------------------

    def _tables(self) -> dict[str, pd.DataFrame]:
        found = {"measurements.parquet": self.measurements}
        return found if self._answers is None else found | {"retrained.parquet": self._answers}

    def _fits(self, manifest: Mapping[str, Any]) -> bool:
        """Whether its objectives and columns are those of the predictor with this manifest."""
        columns = {*manifest["features"], *self.features}
        return set(self._adaptations) <= set(manifest["objectives"]) and all(
            adaptation.columns <= columns for adaptation in self._adaptations.values()
        )


def write_calibrated(
    folder: Path,
    calibration: Calibration,
    heads: Heads,
    residuals: Residuals,
    manifest: dict[str, Any],
    records: Mapping[str, bytes],
) -> None:
    """Write a folder with the calibration (JSON, Parquet) and, below it, the predictor that was calibrated.

    Everything is written to a sibling folder first and then moved into place.

    Args:
        folder: where to; a calibrated predictor there is replaced.
        calibration: what is written.
        heads: of the predictor that was calibrated, by objective and name.
        residuals: of that predictor, by objective and head.
        manifest: of that predictor.
        records: contents by file name that are kept beside it.

    Raises:
        PathError: the folder cannot be written, is a file, or holds something that is not a calibrated predictor.
    """
    completed = calibration.completed(manifest)
    described = {"format": FORMAT, "format_version": FORMAT_VERSION, **completed["calibration"]}
    described["fingerprint"] = completed["fingerprint"]
    with replaced_folder(folder, "predictor", check_folder) as fresh:
        write_folder(fresh / "predictor", heads, residuals, manifest, records)
        for name, table in calibration._tables().items():
            pq.write_table(pa.Table.from_pandas(table, preserve_index=False), fresh / name)
        (fresh / CALIBRATION).write_text(json.dumps(described, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def read_calibrated(folder: Path) -> tuple[Heads, Residuals, dict[str, Any], Calibration]:
    """Heads, residuals and manifest of the predictor that was calibrated, and its calibration.

    Raises:
        PathError: there is none.
        FileFormatError: a file is corrupt, truncated, missing, or not what its hash says.
        SchemaError: it was written in another format version.
    """
    path = folder / CALIBRATION
    described = read_json(folder, CALIBRATION)
    check_format(described, path, FORMAT, FORMAT_VERSION, "calibration", "Calibrate again")
    below = folder / "predictor"
    if below.is_symlink():
        raise FileFormatError(f"{below} is a link, and is not followed: copy the folder itself (cp -rL)")
    heads, residuals, manifest = read_folder(below)
    try:
        named = [described["target"][name] for name in ("name", "model", "data")]
        if not all(isinstance(text, str) for text in named):
            raise ValueError("expected text as name, model and data of the target")
        tables = {}
        for name, digest in described["tables"].items():
            if name not in TABLES:
                raise ValueError(f"it names a table {name!r}")
            tables[name] = _table(folder / name, digest)
        calibration = Calibration(
            {name: Adaptation.from_json(entry) for name, entry in described["adaptations"].items()},
            described["target"],
            tables["measurements.parquet"],
            tables.get("retrained.parquet"),
        )
        whole = calibration.completed(manifest)["fingerprint"] == described["fingerprint"]
        whole = whole and described["predictor"] == manifest["fingerprint"] and calibration._fits(manifest)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise FileFormatError(f"{path} is corrupt ({type(error).__name__}: {error})") from error
    if not whole:
        raise FileFormatError(f"{path} is corrupt: its fingerprint does not match its content")
    return heads, residuals, manifest, calibration


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
