"""Module paths from before the package had folders still lead to every public name that they held."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module

import pytest

from boundaries import import_graph
from forgetcast._former_paths import FORMER

FORMER_PUBLIC: dict[str, tuple[str, ...]] = {
    "forgetcast.adapters": ("DifficultyRegressor", "from_lightning", "from_skorch", "from_transformers"),
    "forgetcast.choice": ("unlearner_choice",),
    "forgetcast.comparison": ("Comparison",),
    "forgetcast.corpus": ("training_table",),
    "forgetcast.datasets": ("NAMES", "load"),
    "forgetcast.decisions": ("decisions",),
    "forgetcast.errors": (
        "DatasetError",
        "FileFormatError",
        "ForgetcastError",
        "ForgetcastWarning",
        "IndexRangeError",
        "InputError",
        "ModelError",
        "NotApplicableError",
        "PathError",
        "PluginError",
        "PluginWarning",
        "RecordError",
        "SchemaError",
        "UnknownNameError",
        "UnlearnerFailedError",
    ),
    "forgetcast.evaluate": ("Evaluation", "evaluate"),
    "forgetcast.explain": ("Explanation", "ExplanationSet", "Reason"),
    "forgetcast.factors": ("Factor", "FactorTable", "factor", "factor_table"),
    "forgetcast.familiarity": ("Familiarity",),
    "forgetcast.labels": (
        "CONSENSUS",
        "agreement",
        "consensus",
        "difficulty",
        "outcome_parts",
        "per_unlearner",
        "reliability",
    ),
    "forgetcast.loading": ("load_checkpoints", "load_dataset", "load_model", "load_target"),
    "forgetcast.plots": (
        "beeswarm",
        "dependence",
        "difficulty_histogram",
        "evaluation_bars",
        "factor_correlations",
        "family_importance",
        "forgetting_paths",
        "measured_scatter",
        "mover_pictures",
        "waterfall",
    ),
    "forgetcast.plots_queue": ("queue_costs", "queue_map"),
    "forgetcast.predictor_training": ("TrainedPredictor",),
    "forgetcast.probes": ("PROBES",),
    "forgetcast.record": ("BEGINNING", "Verification", "append", "verify"),
    "forgetcast.registry": (
        "Plugin",
        "load_factors",
        "load_report_sections",
        "load_unlearners",
        "plugins",
        "unlearner",
    ),
    "forgetcast.requests": ("Requests", "checked_requests", "read_requests"),
    "forgetcast.scores": ("bootstrap_rho", "within_target_rho"),
    "forgetcast.sections": ("Picture", "Section"),
    "forgetcast.testing": ("CONTRACT_VERSION", "check_factor", "check_report_section", "check_unlearner"),
    "forgetcast.training": ("Trainer", "train_classifier"),
    "forgetcast.unlearn": ("Protocol", "run_unlearner"),
    "forgetcast.unlearn.base": ("GridUnlearner", "IterativeUnlearner", "Samples", "Unlearner", "Walk"),
    "forgetcast.verification": ("Verified",),
}
"""The public names by module, as they stood then."""
CHANGED = {("forgetcast.record", "Verification"), ("forgetcast.record", "verify")}
"""What has another name as well."""


@pytest.mark.parametrize(("module", "name"), [(path, name) for path, names in FORMER_PUBLIC.items() for name in names])
def test_former_public_names_are_found(module: str, name: str) -> None:
    """By import from the former path."""
    if (module, name) in CHANGED:
        with pytest.raises(AttributeError):
            getattr(import_module(module), name)
    else:
        assert getattr(import_module(module), name) is not None


def test_former_paths_lead_to_modules_that_exist() -> None:
    """And none of them hides one that is there."""
    graph = import_graph()
    assert {f"forgetcast.{home}" for homes in FORMER.values() for home in homes} <= graph.modules
    assert not {f"forgetcast.{path}" for path in FORMER} & graph.modules


def test_former_paths_warn_and_other_paths_are_missing() -> None:
    """In a fresh process, where nothing is loaded yet."""
    program = "from forgetcast.generate import measure; print(measure.__module__)"
    done = subprocess.run([sys.executable, "-Wa", "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "forgetcast.corpus.measuring\n"
    assert "forgetcast.generate is forgetcast.corpus.generate and forgetcast.corpus.measuring" in done.stderr
    missing = subprocess.run([sys.executable, "-c", "import forgetcast.nowhere"], capture_output=True, text=True)
    assert "No module named 'forgetcast.nowhere'" in missing.stderr
