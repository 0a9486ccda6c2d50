"""The generator: runs many unlearners on single training samples of many targets and stores what happened.

A run is a list of shards, each written atomically beside its checksum. Started again with the same settings it
repeats only what is missing or damaged, and ends with the same corpus.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
from torch.nn import functional as F

from forgetcast import registry
from forgetcast._arguments import checked
from forgetcast.corpus.corpus import FORMAT, Corpus, corpus_folder
from forgetcast.corpus.growth import UNKNOWN_FACTOR, ExistingCorpus, add, marked, partial_of
from forgetcast.corpus.labels import CONSENSUS
from forgetcast.corpus.measuring import Measurement, measure_instances, suspicion
from forgetcast.corpus.preconditions import asks_for_all, check_target, checked_names, named_failures
from forgetcast.corpus.sampling import draw_instances
from forgetcast.corpus.task_runner import Runner
from forgetcast.corpus.tasks import RETRAINING, MeasurementSettings, runs_of
from forgetcast.corpus.zoo.recipes import Recipe, built, check_names
from forgetcast.errors import (
    ForgetcastError,
    ForgetcastWarning,
    InputError,
    PathError,
    PluginWarning,
    UnlearnerFailedError,
    shortened,
)
from forgetcast.files.stores import Place, check_writable, remove_stale_drafts
from forgetcast.objectives import OBJECTIVES
from forgetcast.target.target import Target
from forgetcast.unlearn import Protocol

__all__ = ["generate_corpus"]


@checked()
def generate_corpus(
    targets: Sequence[Target | Recipe | Callable[[], Target]],
    folder: str | Path | Place,
    *,
    instances: int = 180,
    unlearners: Sequence[str] | None = None,
    seeds: int = 2,
    objectives: Sequence[str] = OBJECTIVES,
    oracle_groups: int = 20,
    oracle_seeds: int = 6,
    screen_models: int = 0,
    retraining_instances: int = 12,
    n_jobs: int | None = None,
    progress: bool = True,
    seed: int = 0,
) -> Corpus:
    """Label many targets and write a corpus that :class:`forgetcast.DifficultyPredictor` learns from.

    A corpus that the folder holds grows: its targets of other names stay, with the settings they were measured with. A
    target of a name that it holds is measured anew where model, data or settings are others, and replaces the rows of
    that name, with a warning; where no shards of those are left, it is refused. In a store only one process at a time
    may write to a place.

    Resumable: shards live in ``folder/shards`` and are reused where they are whole and belong to the same model, data
    and settings. After every target the corpus of all targets so far is written, marked ``partial`` in its manifest
    until the last one is done: whatever interrupts the run leaves something to work with.

    An unlearner of a plugin that raises is left out of that target wholly, and a factor of one has no values there.
    The manifest names both under ``left_out``, and what an unlearner failed over under ``partial``; everything else is
    measured and written. If the unlearner was asked for by name, the run then ends with an error: with the plugin
    fixed, the same call measures what is missing and no more.

    Args:
        targets: targets, recipes, or functions that return a target (built one at a time).
        folder: where the corpus goes: a folder, or a place in a store (``"s3://bucket/corpus"``, any URL that fsspec
            knows). Workers write their shards there themselves.
        instances: samples per target (fewer where a target has fewer).
        retraining_instances: samples per target that exact retraining serves, spread over the instances.
        screen_models: half of the instances are drawn from those suspected of being memorized. 0: suspect those whose
            neighbours have other labels; else train so many models on random 70 % of the data and suspect those that
            only models that saw them get right (:func:`forgetcast.corpus.oracle.subset_screen`).
        unlearners: registered names, or ("all",); default: those that the label averages, and exact retraining.
        seeds: runs per unlearner with different seeds (see ``tasks.SEEDS`` for the exceptions).
        objectives: some of "retrain" and "erase".
        oracle_groups: how many groups of samples the oracle leaves out, a group at a time.
        oracle_seeds: models that the oracle trains without each group.
        n_jobs: processes, as in joblib; None obeys ``joblib.parallel_config``.
        progress: bars on stderr.
        seed: of the draw of samples, of the groups and of the factors.

    Returns:
        The corpus, as written, with what the folder held before.

    Raises:
        InputError: two targets of one name, or none, or no unlearner or objective, or a target whose rows could not be
            made again would be replaced.
        FileFormatError: the folder holds a ``manifest.json`` of something else, or a damaged corpus with other targets.
        SchemaError: it holds a corpus of another format.
        NotApplicableError, UnknownNameError, PluginError: as in :func:`measure`.
        UnlearnerFailedError: at the end, where an unlearner of a plugin that was asked for by name raised.
        PathError: ``folder`` is a file, or cannot be written or reached, by this process or by a worker.
    """
    names = checked_names((*CONSENSUS, RETRAINING) if unlearners is None else unlearners, objectives)
    if not targets:
        raise InputError("expected at least one target; got none")
    known = [source.name for source in targets if isinstance(source, (Target, Recipe))]
    check_names(known)
    for source in targets:
        if isinstance(source, Target):
            check_target(source, names, objectives)
    folder = corpus_folder(folder)
    existing = ExistingCorpus.of(folder)
    existing.check(known, len(targets) - len(known))
    check_writable(folder)
    remove_stale_drafts(folder)
    settings = MeasurementSettings(names, objectives, seeds, oracle_groups, oracle_seeds, retraining_instances, seed)
    described = _described_settings(settings, instances, screen_models)
    everything = asks_for_all(unlearners)
    gathered = _Gathered(
        {"format": FORMAT, "forgetcast": version("forgetcast"), "settings": described},
        _unusable() if everything else {},
    )
    for number, source in enumerate(targets, start=1):
        with _naming_target(number, len(targets), source, folder):
            target = built(source)
            check_names([*gathered.names, target.name])
            check_target(target, names, objectives)
            existing.check_target(target, described)
            runner = Runner(folder / "shards" / target.name, n_jobs, progress)
            suspected = suspicion(target, screen_models, seed, runner) if screen_models else None
            chosen = draw_instances(target, min(instances, len(target)), seed, suspicion=suspected)
            measured = measure_instances(target, chosen, settings, runner, with_factors=True)
            if lost := gathered.take(target, measured):
                warnings.warn(f"{lost}; it is left out", PluginWarning, stacklevel=3)
            corpus = add(gathered.corpus(len(targets)), folder, over=existing.damage if number == 1 else "")
    if dropped := [name for name in existing.names if name not in corpus.targets["target"].tolist()]:
        warnings.warn(
            f"the corpus in {folder} was damaged and is written anew without {shortened(dropped)}, which this run did "
            f"not measure; their shards stay ({existing.damage})",
            ForgetcastWarning,
            stacklevel=3,
        )
    if any(why == UNKNOWN_FACTOR for why in corpus.manifest.get("left_out", {}).values()):
        warnings.warn(
            f"targets in {folder} were measured with other factors than those that are installed now: values are "
            "missing until 'forgetcast generate --factors-only' has computed them",
            ForgetcastWarning,
            stacklevel=3,
        )
    if gathered.not_served and not everything:
        raise UnlearnerFailedError(
            f"{'; '.join(gathered.not_served)}. The corpus {folder} has everything else: fix the plugin and run the "
            "same again, what is finished is not done again"
        )
    return corpus


@dataclass
class _Gathered:
    """What a run has measured so far."""

    manifest: dict[str, Any]
    """Format, version and settings."""
    left_out: dict[str, str]
    """What has no values, and why."""
    targets: list[dict[str, Any]] = field(default_factory=list)
    """What the manifest says of each target."""
    tables: dict[str, list[pd.DataFrame]] = field(
        default_factory=lambda: {"outcomes": [], "instances": [], "factors": []}
    )
    not_served: list[str] = field(default_factory=list)
    """By target that unlearners failed on: which ones, and over what."""

    @property
    def names(self) -> list[str]:
        """Of the targets."""
        return [entry["target"] for entry in self.targets]

    def take(self, target: Target, measured: Measurement) -> str:
        """Add a target; says which unlearners of plugins failed on it, or ""."""
        assert measured.factors is not None
        lost = ""
        self.targets.append(_describe(target))
        if measured.failed:
            lost = f"target {target.name!r}: {named_failures(measured.failed)}"
            self.targets[-1]["partial"] = [lost]
            self.not_served.append(lost)
            self.left_out |= {f"unlearner {name} on {target.name}": why for name, why in measured.failed.items()}
        factors, failed_factors = measured.factors
        self.left_out |= failed_factors
        for name, frame in (("outcomes", measured.outcomes), ("instances", measured.instances), ("factors", factors)):
            self.tables[name].append(frame)
        return lost

    def corpus(self, total: int) -> Corpus:
        """The corpus of the targets so far, marked as unfinished until it has all."""
        number = len(self.targets)
        unfinished = [f"{number} of {total} targets"] if number < total else []
        corpus = Corpus(
            **{name: _rows(parts) for name, parts in self.tables.items()},
            manifest=self.manifest | {"targets": marked(self.targets, unfinished), "files": {}},
        )
        if partly := partial_of(corpus.manifest["targets"]):
            corpus.manifest["partial"] = partly
        if self.left_out:
            corpus.manifest["left_out"] = dict(self.left_out)
        return corpus


def _described_settings(settings: MeasurementSettings, instances: int, screen_models: int) -> dict[str, Any]:
    """What the manifest says of how targets are measured; versions of plugins where unlearners come from some."""
    described = {
        "instances": instances,
        "unlearners": {name: repr(registry.unlearner(name)) for name in settings.unlearners},
        "seeds": {name: runs_of(name, settings.seeds) for name in settings.unlearners},
        "objectives": list(settings.objectives),
        "oracle_groups": settings.oracle_groups,
        "oracle_seeds": settings.oracle_seeds,
        "screen_models": screen_models,
        "retraining_instances": settings.retraining_instances,
        "protocol": repr(Protocol()),
        "seed": settings.seed,
    }
    origins = {name: registry.third_party(registry.UNLEARNER_GROUP, name) for name in settings.unlearners}
    plugins = {name: f"{plugin.package} {plugin.version}".strip() for name, plugin in origins.items() if plugin}
    return {**described, "plugins": plugins} if plugins else described


def _unusable() -> dict[str, str]:
    """Unlearners of plugins that cannot be used, and why."""
    plugins = registry.found(registry.UNLEARNER_GROUP).plugins
    return {str(plugin): plugin.reason for plugin in plugins if plugin.reason}


def _describe(target: Target) -> dict[str, Any]:
    """What the manifest says of a target; everything needed to make it again, and to recognise it."""
    accuracy = {}
    for name, data in (("train", target.data), ("heldout", target.heldout)):
        if data is not None:
            logits = target.logits(data)
            accuracy[f"{name}_accuracy"] = float((logits.argmax(1) == data.labels).float().mean())
            accuracy[f"{name}_loss"] = float(F.cross_entropy(logits, data.labels))
    return {
        "target": target.name,
        "dataset": target.info.get("dataset", target.name),
        "architecture": target.info.get("architecture", type(target.module).__name__),
        "n": len(target),
        "classes": target.num_classes,
        "parameters": sum(value.numel() for value in target.params.values()),
        **accuracy,
        "model_hash": target.model_hash,
        "data_hash": target.data_hash,
        "recipe": target.info.get("recipe"),
    }


@contextmanager
def _naming_target(number: int, total: int, source: Any, folder: Place) -> Iterator[None]:
    """Say in an error which target it is about, and that what was done before it is kept."""
    try:
        yield
    except PathError:
        raise
    except ForgetcastError as error:
        name = getattr(source, "name", None)
        which = f"target {number} of {total}" + (f", {name!r}" if isinstance(name, str) else "")
        message = f"{which}: {error}"
        if (folder / "shards").exists():
            message = (
                f"{message.rstrip('.')}. What is finished stays in {folder}: run the same again when this is fixed"
            )
        raise type(error)(message) from error


def _rows(parts: list[pd.DataFrame]) -> pd.DataFrame:
    """Tables below each other; empty ones would blur the types of the columns."""
    return pd.concat([part for part in parts if len(part)] or parts, ignore_index=True)
