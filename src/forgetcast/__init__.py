"""forgetcast forecasts how hard each training sample is to unlearn, and says why."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from forgetcast.corpus import Corpus
    from forgetcast.errors import ForgetcastError
    from forgetcast.generate import generate_corpus
    from forgetcast.measuring import measure
    from forgetcast.policy import Policy
    from forgetcast.predict import DifficultyReport, predict_difficulty
    from forgetcast.predictor import DifficultyPredictor
    from forgetcast.predictor_training import train_predictor
    from forgetcast.screening import Triage, triage
    from forgetcast.target import Target
    from forgetcast.trajectory import Trajectory
    from forgetcast.verification import verify_triage

__all__ = [
    "Corpus",
    "DifficultyPredictor",
    "DifficultyReport",
    "ForgetcastError",
    "Policy",
    "Target",
    "Trajectory",
    "Triage",
    "generate_corpus",
    "measure",
    "predict_difficulty",
    "train_predictor",
    "triage",
    "verify_triage",
]

try:
    __version__ = version("forgetcast")
except PackageNotFoundError:  # a source tree on sys.path, never installed
    __version__ = "0+unknown"

_HOMES = {
    "Corpus": "corpus",
    "DifficultyPredictor": "predictor",
    "DifficultyReport": "predict",
    "ForgetcastError": "errors",
    "Policy": "policy",
    "Target": "target",
    "Trajectory": "trajectory",
    "Triage": "screening",
    "generate_corpus": "generate",
    "measure": "measuring",
    "predict_difficulty": "predict",
    "train_predictor": "predictor_training",
    "triage": "screening",
    "verify_triage": "verification",
}


def __getattr__(name: str) -> Any:
    """Import public names on first use: predicting never imports the unlearners, ``--help`` never imports torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'forgetcast' has no attribute {name!r}")
    value = getattr(import_module(f"forgetcast.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
