"""forgetcast forecasts how hard each training sample is to unlearn, and says why."""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from forgetcast.corpus.corpus import Corpus
    from forgetcast.corpus.generate import generate_corpus
    from forgetcast.corpus.measuring import measure
    from forgetcast.errors import ForgetcastError
    from forgetcast.evaluation.training import train_predictor
    from forgetcast.predict import DifficultyReport, predict_difficulty
    from forgetcast.predictor.predictor import DifficultyPredictor
    from forgetcast.screening.policy import Policy
    from forgetcast.screening.triage import Triage, triage
    from forgetcast.screening.verification import verify_triage
    from forgetcast.target.target import Target
    from forgetcast.target.trajectory import Trajectory

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
    "Corpus": "corpus.corpus",
    "DifficultyPredictor": "predictor.predictor",
    "DifficultyReport": "predict",
    "ForgetcastError": "errors",
    "Policy": "screening.policy",
    "Target": "target.target",
    "Trajectory": "target.trajectory",
    "Triage": "screening.triage",
    "generate_corpus": "corpus.generate",
    "measure": "corpus.measuring",
    "predict_difficulty": "predict",
    "train_predictor": "evaluation.training",
    "triage": "screening.triage",
    "verify_triage": "screening.verification",
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


class _FormerPaths:
    """The last way to find a module: paths from before the package had folders (``_former_paths``)."""

    @staticmethod
    def find_spec(name: str, path: Any = None, target: Any = None) -> Any:
        if not name.startswith("forgetcast.") or name.count(".") > 1:
            return None
        from forgetcast._former_paths import spec_of

        return spec_of(name)


sys.meta_path.append(_FormerPaths)
