"""Module paths from before the package had folders: they still lead to the names that they held.

Loaded only when such a path is imported. ``forgetcast.generate`` is one; its names lie in three modules now.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from importlib import import_module
from importlib.abc import Loader
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

__all__ = ["FORMER", "found_in", "spec_of"]

FORMER = {
    "_cells": ("factors.probes.cells",),
    "_check_factor": ("factors.laws",),
    "_check_unlearner": ("unlearn.laws",),
    "_conformance": ("target.example",),
    "_content_order": ("target.content_order",),
    "_cross_fitted": ("factors.probes.cross_fitted",),
    "_disjoint": ("target.disjoint",),
    "_drawing": ("report.plots.drawing",),
    "_duration": ("wording",),
    "_filled": ("target.preallocated",),
    "_gradient_norms": ("factors.probes.gradient_norms",),
    "_gradient_pass": ("factors.probes.gradient_pass",),
    "_harmless": ("wording",),
    "_input_types": ("target.input_types",),
    "_last_layer": ("target.last_layer",),
    "_layer_gradients": ("factors.probes.layer_gradients",),
    "_layers": ("target.layers",),
    "_learning_curves": ("factors.probes.training_dynamics",),
    "_loaders": ("target.loaders",),
    "_logits": ("target.logits",),
    "_neighbour_vote": ("factors.probes.neighbour_vote",),
    "_neighbours": ("factors.probes.nearest",),
    "_page": (
        "report.page_parts",
        "wording",
    ),
    "_plain_copy": ("target.plain_copy",),
    "_plain_gradients": ("factors.probes.plain_gradients",),
    "_precision": ("target.precision",),
    "_random": ("target.seeding",),
    "_rehearsal": ("factors.probes.damage",),
    "_settings": ("target.settings",),
    "_stein": ("factors.probes.stein_kernel",),
    "_torchvision": ("corpus.zoo.torchvision_import",),
    "adaptation": ("predictor.adaptation",),
    "adapted_predictor": ("predictor.calibrated",),
    "agreement": ("predictor.agreement",),
    "allocation": ("parallel",),
    "architectures": ("corpus.zoo.architectures",),
    "augmentation": ("corpus.zoo.augmentation",),
    "baselines": ("evaluation.baselines",),
    "canonical_json": ("files.canonical_json",),
    "choice": ("evaluation.choice",),
    "comparison": ("evaluation.comparison",),
    "contract": ("registry",),
    "corpus_check": ("corpus.checks",),
    "corpus_growth": ("corpus.growth",),
    "costs": ("screening.costs",),
    "counterfactual": ("report.counterfactual",),
    "data": (
        "target.data",
        "target.inputs",
        "target.samples",
        "target.dataset_reader",
    ),
    "datasets": ("corpus.zoo.datasets",),
    "decisions": ("screening.decisions",),
    "demo": ("cli.self_check",),
    "evaluate": ("evaluation.evaluate",),
    "evaluation_page": ("evaluation.page",),
    "exact_values": ("files.exact_values",),
    "explain": ("report.explain",),
    "factor_store": ("factors.store",),
    "familiarity": ("predictor.familiarity",),
    "folders": ("files.folders",),
    "foreign_files": ("files.foreign",),
    "generate": (
        "corpus.generate",
        "corpus.measuring",
        "corpus.tasks",
    ),
    "goal": ("objectives",),
    "grading": ("evaluation.grading",),
    "heads": (
        "predictor.heads",
        "predictor.columns",
    ),
    "holdout": (
        "evaluation.holdout",
        "predictor.intervals",
        "predictor.columns",
    ),
    "inspection": ("corpus.inspection",),
    "interactions": ("screening.interactions",),
    "intervals": ("predictor.intervals",),
    "labels": (
        "corpus.labels",
        "ranks",
    ),
    "learning": ("evaluation.learning_curve",),
    "lightgbm_text": ("predictor.lightgbm_text",),
    "loading": ("adapters.loading",),
    "movers": ("report.movers",),
    "oracle": ("corpus.oracle",),
    "parts": ("objectives",),
    "plots": ("report.plots",),
    "plots_queue": ("screening.plots",),
    "policy": ("screening.policy",),
    "predictor_folder": ("predictor.folder",),
    "predictor_training": ("evaluation.training",),
    "queue_columns": ("screening.columns",),
    "queue_totals": ("screening.totals",),
    "recipes": ("corpus.zoo.recipes",),
    "record": ("screening.record",),
    "refresh": ("corpus.refresh",),
    "request_files": (
        "screening.request_files",
        "screening.requests",
    ),
    "requests": ("screening.requests",),
    "retrained": ("predictor.retrained",),
    "routes": ("screening.routes",),
    "sampling": ("corpus.sampling",),
    "scores": ("evaluation.scores",),
    "shards": ("corpus.shards",),
    "storage": ("files.stores",),
    "tiers": ("predictor.tiers",),
    "training": ("corpus.zoo.training",),
    "trajectory": ("target.trajectory",),
    "triage_page": ("screening.page",),
    "tuning": ("evaluation.tuning",),
    "unlearner_heads": (
        "predictor.unlearner_heads",
        "predictor.columns",
    ),
    "verification": ("screening.verification",),
    "weights": ("target.weights",),
    "whole_files": ("files.atomic",),
}
"""Modules below ``forgetcast``, by former path: where their names are, in the order that they are looked up."""


def found_in(path: str, homes: tuple[str, ...], names: tuple[str, ...] = ()) -> Callable[[str], Any]:
    """A module's ``__getattr__``, which looks names up in other modules of forgetcast; in a package ``names`` alone."""

    def lookup(name: str) -> Any:
        for home in homes if name in names or not (names or name.startswith("__")) else ():
            module = import_module(f"forgetcast.{home}")
            if hasattr(module, name):
                return getattr(module, name)
        raise AttributeError(f"module {path!r} has no attribute {name!r}")

    return lookup


class _Former(Loader):
    """Makes a module that holds nothing itself."""

    def exec_module(self, module: ModuleType) -> None:
        homes = FORMER[module.__name__.removeprefix("forgetcast.")]
        moved = " and ".join(f"forgetcast.{home}" for home in homes)
        warnings.warn(f"{module.__name__} is {moved} now", DeprecationWarning, stacklevel=2)
        module.__getattr__ = found_in(module.__name__, homes)  # type: ignore[method-assign]


def spec_of(name: str) -> ModuleSpec | None:
    """How a former path is imported; None for any other."""
    return ModuleSpec(name, _Former()) if name.removeprefix("forgetcast.") in FORMER else None
