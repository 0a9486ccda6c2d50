"""The names that the versioning policy speaks of, by the module that they are imported from.

This is the one list: the tests hold every name to it (annotated, documented, importable), and
``docs/reference/api.md``, ``docs/public_api.txt`` and the site are made from it. What is not here may change in any
release, even where it has no underscore.
"""

from __future__ import annotations

import forgetcast

__all__ = ["PUBLIC"]

PUBLIC: dict[str, tuple[str, ...]] = {
    "forgetcast": tuple(forgetcast.__all__),
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
"""Public names by module, modules and names in order."""
