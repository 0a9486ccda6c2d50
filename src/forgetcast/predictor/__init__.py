"""The predictor: from a factor table to difficulty, with intervals, familiarity and calibration."""

from __future__ import annotations

from forgetcast._former_paths import found_in

__getattr__ = found_in(
    __name__,
    ("predictor.predictor", "objectives", "predictor.columns"),
    (
        "DifficultyPredictor",
        "OBJECTIVES",
    ),
)
