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
    "forgetcast.adapters.loading": ("load_checkpoints", "load_dataset", "load_model", "load_target"),
    "forgetcast.corpus.labels": (
        "CONSENSUS",
        "agreement",
        "consensus",
        "difficulty",
        "outcome_parts",
        "per_unlearner",
        "reliability",
    ),
    "forgetcast.corpus.zoo.datasets": ("NAMES", "load"),
    "forgetcast.corpus.zoo.training": ("Trainer", "train_classifier"),
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
    "forgetcast.evaluation.choice": ("unlearner_choice",),
    "forgetcast.evaluation.comparison": ("Comparison",),
    "forgetcast.evaluation.evaluate": ("Evaluation", "evaluate"),
    "forgetcast.evaluation.scores": ("bootstrap_rho", "within_target_rho"),
    "forgetcast.evaluation.table": ("training_table",),
    "forgetcast.evaluation.training": ("TrainedPredictor",),
    "forgetcast.factors": ("Factor", "FactorTable", "factor", "factor_table"),
    "forgetcast.predictor.familiarity": ("Familiarity",),
    "forgetcast.probes": ("PROBES",),
    "forgetcast.registry": (
        "Plugin",
        "load_factors",
        "load_report_sections",
        "load_unlearners",
        "plugins",
        "unlearner",
    ),
    "forgetcast.report.explain": ("Explanation", "ExplanationSet", "Reason"),
    "forgetcast.report.plots": (
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
    "forgetcast.screening.decisions": ("decisions",),
    "forgetcast.screening.plots": ("queue_costs", "queue_map"),
    "forgetcast.screening.record": ("BEGINNING", "CheckedRecord", "append", "check"),
    "forgetcast.screening.requests": ("Requests", "checked_requests", "read_requests"),
    "forgetcast.screening.verification": ("Verified",),
    "forgetcast.sections": ("Picture", "Section"),
    "forgetcast.testing": ("CONTRACT_VERSION", "check_factor", "check_report_section", "check_unlearner"),
    "forgetcast.unlearn": ("Protocol", "run_unlearner"),
    "forgetcast.unlearn.base": ("GridUnlearner", "IterativeUnlearner", "Samples", "Unlearner", "Walk"),
}
"""Public names by module, modules and names in order."""
