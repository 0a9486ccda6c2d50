"""The generator: runs many unlearners on single training samples of many targets and stores what happened.

A run is a list of shards, each written atomically beside its checksum. Started again with the same settings it
repeats only what is missing or damaged, and ends with the same corpus.
"""

from __future__ import annotations

import hashlib
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from torch import nn
from torch.nn import functional as F

from forgetcast import registry
from forgetcast._arguments import checked
from forgetcast.corpus.corpus import FORMAT, Corpus, corpus_folder
from forgetcast.corpus.growth import UNKNOWN_FACTOR, Standing, add, marked, partial_of
from forgetcast.corpus.labels import CONSENSUS
from forgetcast.corpus.oracle import (
    ANSWER_COLUMNS,
    SHARE,
    SUBSET_COLUMNS,
    TOGETHER,
    deal_groups,
    leave_groups_out,
    subset_answers,
    subset_seeds,
    summarise,
)
from forgetcast.corpus.sampling import draw_instances
from forgetcast.corpus.shards import Rows, make_shard, read_shard
from forgetcast.corpus.zoo.recipes import Recipe
from forgetcast.errors import (
    ForgetcastError,
    ForgetcastWarning,
    InputError,
    ModelError,
    NotApplicableError,
    PathError,
    PluginError,
    PluginWarning,
    UnknownNameError,
    UnlearnerFailedError,
    first_line,
    shortened,
)
from forgetcast.factors import factor_table
from forgetcast.files.stores import Place, check_writable, sweep
from forgetcast.objectives import OBJECTIVES
from forgetcast.parallel import run_tasks
from forgetcast.target.settings import own_settings
from forgetcast.target.target import Target
from forgetcast.unlearn import Protocol, Unlearner, run_unlearner
from forgetcast.unlearn.protocol import OUTCOME_COLUMNS
from forgetcast.unlearn.workbench import Workbench

__all__ = ["SEEDS", "generate_corpus", "measure", "retrained_answers", "runs_per_sample"]

SEEDS = {"amnesiac": 4, "bad_teaching": 4, "random_relabelling": 4, "retraining": 1, "salun": 4}
"""Runs per unlearner where the general number does not fit: the drawn label and the drawn teacher decide in which
direction a sample is pushed (one run agrees with another at 0.7-0.8 only), and retraining is costly."""

RETRAINING = "retraining"
ALL = ("all",)
BLOCK = 64
ORACLE_BLOCK = 5

Task = tuple[str, Rows, Callable[..., Any], tuple[Any, ...]]
"""Key of the shard and what it must hold, function, arguments."""


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


class _Prepared:
    """What blocks of one target share, kept by every process for the latest target it worked on."""

    latest: ClassVar[tuple[str, ...]] = ()
    workbench: ClassVar[Workbench]
    states: ClassVar[dict[str, Any]]

    @classmethod
    def bench(cls, target: Target) -> Workbench:
        """The workbench."""
        latest = (target.model_hash, target.data_hash, target.heldout_hash, str(target.device), repr(Protocol()))
        if cls.latest != latest:
            cls.workbench, cls.states, cls.latest = Workbench(target, Protocol()), {}, latest
        return cls.workbench

    @classmethod
    def state(cls, target: Target, unlearner: Unlearner) -> Any:
        """What ``unlearner.prepare`` returns, for the target of the workbench."""
        key = repr(unlearner)
        if key not in cls.states:
            cls.states.clear()  # one at a time: a Hessian can be large
            cls.states[key] = unlearner.prepare(target)
        return cls.states[key]


@dataclass(frozen=True)
class _Failure:
    """In place of outcomes: an unlearner of a plugin raised."""

    unlearner: str
    reason: str


@own_settings()
def outcome_block(
    target: Target, name: str, indices: np.ndarray, p_out: np.ndarray, seed: int, objectives: Sequence[str]
) -> pd.DataFrame | _Failure:
    """Outcomes of some samples under one unlearner, as :func:`forgetcast.unlearn.run_unlearner` gives them.

    What an unlearner of a plugin raises is returned, so that other tasks go on.
    """
    plugin = registry.third_party(registry.UNLEARNER_GROUP, name)
    target = target.full_precision
    try:
        workbench = _Prepared.bench(target)
        unlearner = registry.unlearner(name)
        state = _Prepared.state(target, unlearner)
        return run_unlearner(
            target, unlearner, indices, p_out, seed=seed, objectives=objectives, workbench=workbench, state=state
        )
    except Exception as error:
        _Prepared.latest = ()  # it holds this target's data and model, which may be what has to be mended
        if not isinstance(error, ForgetcastError) and target.raised(error):
            samples = shortened([str(index) for index in indices])
            raise ModelError(
                f"the model raised {type(error).__name__} while {name} unlearned samples {samples}: "
                f"{first_line(error)}: it must answer for every batch of the data"
            ) from error
        if plugin is None:
            raise
        return _Failure(name, registry.raised(error))


def _models_per_task(target: Target) -> int:
    return TOGETHER if target.trains_together else ORACLE_BLOCK


def _oracle_tasks(target: Target, indices: np.ndarray, groups: int, seeds: int, seed: int) -> list[Task]:
    group = deal_groups(target.labels.numpy()[indices], groups, seed)
    block = _models_per_task(target)
    tasks: list[Task] = []
    for s in range(seeds):
        for start in range(0, int(group.max()) + 1, block):
            left_out = [g for g in range(start, start + block) if g <= group.max()]
            key = f"oracle-{groups}-{s}-{start}-{block}-{seed}"
            arguments = (target, indices, group, left_out, [1000 + s] * len(left_out))
            rows = Rows({"left_out": left_out, "seed": [1000 + s], "index": indices.tolist()}, ANSWER_COLUMNS)
            tasks.append((key, rows, leave_groups_out, arguments))
    return tasks


def _suspicion(target: Target, models: int, seed: int, folder: Place, n_jobs: int | None, progress: bool) -> np.ndarray:
    """How much models on subsets of the data suspect each sample of being memorized, (n,)."""
    block = _models_per_task(target)
    tasks: list[Task] = []
    for start in range(0, models, block):
        numbers = range(start, min(start + block, models))
        rows = Rows({"seed": subset_seeds(numbers, seed), "index": range(len(target))}, SUBSET_COLUMNS)
        key = f"screen-{start}-{block}-{models}-{seed}"
        tasks.append((key, rows, subset_answers, (target, numbers, SHARE, seed)))
    fingerprint = f"{target.model_hash}{target.data_hash}"
    table = summarise(_run(tasks, folder, fingerprint, f"{target.name}: screen", n_jobs, progress)[0])
    return table.set_index("index")["memorization"].reindex(range(len(target))).to_numpy()


def _runs(name: str, seeds: int) -> int:
    """How many seeds an unlearner runs with; one where the seed changes nothing."""
    return SEEDS.get(name, seeds) if registry.load_unlearners()[name].stochastic else 1


def runs_per_sample(unlearners: Sequence[str], seeds: int = 2) -> int:
    """How often :func:`measure` unlearns each sample."""
    return sum(_runs(name, seeds) for name in unlearners)


def _outcome_tasks(
    target: Target,
    instances: pd.DataFrame,
    unlearners: Sequence[str],
    seeds: int,
    objectives: Sequence[str],
    retraining_instances: int,
) -> list[Task]:
    tasks: list[Task] = []
    for name in unlearners:
        chosen = instances
        if name == RETRAINING:
            step = max(1, len(instances) // max(1, retraining_instances))
            chosen = instances.iloc[::step][:retraining_instances]
        for seed in range(_runs(name, seeds)):
            for start in range(0, len(chosen), BLOCK):
                part = chosen.iloc[start : start + BLOCK]
                settings = f"{registry.unlearner(name)!r}{Protocol()!r}{seed}{tuple(objectives)}"
                settings += hashlib.sha256(part[["index", "p_out"]].to_numpy(float).tobytes()).hexdigest()
                arguments = (
                    target,
                    name,
                    part["index"].to_numpy(),
                    part["p_out"].to_numpy(),
                    seed,
                    objectives,
                )
                keys: dict[str, Sequence[Any]] = {"unlearner": [name], "seed": [seed], "objective": objectives}
                rows = Rows({**keys, "index": part["index"].tolist()}, OUTCOME_COLUMNS)
                tasks.append((f"{name}-{seed}-{start}-{settings}", rows, outcome_block, arguments))
    return tasks


def _do(function: Callable[..., Any], *arguments: Any) -> Any:
    return function(*arguments)


def _run(
    tasks: list[Task],
    folder: Place | None,
    fingerprint: str,
    title: str,
    n_jobs: int | None,
    progress: bool,
    beside: Sequence[tuple[Any, ...]] = (),
    failed: dict[str, str] | None = None,
) -> tuple[pd.DataFrame, list[Any]]:
    """Run tasks, through shards when a folder is given, and join their tables.

    ``beside`` are calls (function, arguments ...) that go through the same pool, before the tasks because they take
    long; their results come second. Rows of unlearners that failed in any task are left out, for those that succeed are
    no fair share of all, and what was raised is put into ``failed``.

    Raises:
        PathError: workers wrote where this process does not see it.
    """
    failed = {} if failed is None else failed
    if folder is None:
        work = [*beside, *((function, *arguments) for _, _, function, arguments in tasks)]
        results = run_tasks(_do, work, n_jobs=n_jobs, title=title, progress=progress, in_turn=True)
        made = [frame for frame in results[len(beside) :] if not _failed(frame, failed)]
        return _joined(made, failed), results[: len(beside)]
    shards: dict[Place, tuple[Any, ...]] = {}
    for key, rows, function, arguments in tasks:
        digest = hashlib.sha256(f"{fingerprint}|{key}".encode()).hexdigest()[:16]
        shards[folder / f"{key.split('-')[0]}-{digest}.parquet"] = (rows, function, *arguments)
    sweep(folder)
    kept = {path: read_shard(path, rows) for path, (rows, *_) in shards.items()}
    missing = [path for path in shards if kept[path] is None]
    work = [*beside, *((make_shard, path, *shards[path]) for path in missing)]
    results = run_tasks(_do, work, n_jobs=n_jobs, title=title, progress=progress, in_turn=True) if work else []
    broken = [path for path, made in zip(missing, results[len(beside) :], strict=True) if _failed(made, failed)]
    kept.update((path, read_shard(path, shards[path][0])) for path in missing if path not in broken)
    frames = [frame for frame in kept.values() if frame is not None]
    lost = len(shards) - len(broken) - len(frames)
    if lost:
        raise PathError(
            f"{lost} shards that were written into {folder} are not there, or damaged: the folder "
            "must be one that this process and all workers reach, on a shared disk or in a store such as s3://bucket"
        )
    return _joined(frames, failed), results[: len(beside)]


def _failed(result: Any, failed: dict[str, str]) -> bool:
    """Whether a task failed; the first reason of each unlearner is put into ``failed``."""
    if isinstance(result, _Failure):
        failed.setdefault(result.unlearner, result.reason)
    return isinstance(result, _Failure)


def _joined(frames: list[pd.DataFrame], failed: dict[str, str]) -> pd.DataFrame:
    if not failed:
        return pd.concat(frames, ignore_index=True)
    kept = [frame[~frame["unlearner"].isin(list(failed))] for frame in frames]
    return pd.concat(kept or [pd.DataFrame(columns=OUTCOME_COLUMNS)], ignore_index=True)


def _label(
    target: Target,
    instances: pd.DataFrame,
    unlearners: Sequence[str],
    *,
    seeds: int,
    objectives: Sequence[str],
    oracle_groups: int,
    oracle_seeds: int,
    retraining_instances: int,
    n_jobs: int | None,
    progress: bool,
    seed: int,
    folder: Place | None,
    failed: dict[str, str],
    oracle: pd.DataFrame | None = None,
    with_factors: bool = False,
) -> tuple[pd.DataFrame, pd.DataFrame, Any]:
    """Oracle (unless it has answered), then every unlearner on every instance of one target, and beside them its
    factor table: (outcomes, instances, what ``factor_rows`` returns).

    What unlearners of plugins raised is put into ``failed``; they are left out of the outcomes.
    """
    for what, value, least in (
        ("seeds", seeds, 1),
        ("oracle_groups", oracle_groups, 2),
        ("oracle_seeds", oracle_seeds, 1),
    ):
        if value < least:
            raise InputError(f"{what}: expected at least {least}; got {value}")
    fingerprint = "" if folder is None else f"{target.model_hash}{target.data_hash}{instances['index'].tolist()}"
    if "retrain" in objectives:
        if oracle is None:
            tasks = _oracle_tasks(target, instances["index"].to_numpy(), oracle_groups, oracle_seeds, seed)
            oracle = summarise(_run(tasks, folder, fingerprint, f"{target.name}: oracle", n_jobs, progress)[0])
        instances = instances.merge(oracle, on="index", validate="one_to_one")
    else:
        unknown = ("p_out", "p_in", "memorization", "p_out_half_a", "p_out_half_b")
        instances = instances.assign(**dict.fromkeys(unknown, np.nan))
    tasks = _outcome_tasks(target, instances, unlearners, seeds, objectives, retraining_instances)
    beside = [(factor_rows, target, instances["index"], seed)] if with_factors else []
    title = f"{target.name}: unlearners"
    outcomes, rest = _run(tasks, folder, fingerprint, title, n_jobs, progress, beside, failed)
    instances.insert(0, "target", target.name)
    return outcomes, instances, (rest[0] if rest else None)


def _checked(unlearners: Sequence[str] | None, objectives: Sequence[str]) -> tuple[str, ...]:
    everything = unlearners is not None and tuple(unlearners) == ALL
    names = CONSENSUS if unlearners is None else _usable() if everything else tuple(unlearners)
    for name in names:
        _check_usable(name)
    for objective in objectives:
        if objective not in OBJECTIVES:
            raise UnknownNameError.of("objective", objective, OBJECTIVES)
    for what, given in (("unlearner", names), ("objective", objectives)):
        if not given:
            raise InputError(f"expected at least one {what}; got none")
    return names


def _check_usable(name: str) -> None:
    """Make an unlearner, to see that it can be.

    Raises:
        UnknownNameError: there is none of that name.
        PluginError: it comes from a plugin that cannot be used.
    """
    made = registry.unlearner(name)
    if not isinstance(made, Unlearner):
        raise PluginError(
            f"unlearner {name!r}: expected a class derived from forgetcast.unlearn.base.Unlearner; got "
            f"{type(made).__name__}"
        )


def _usable() -> tuple[str, ...]:
    """Every registered unlearner; a plugin's that cannot be made is left out."""
    names = []
    for name in registry.load_unlearners():
        try:
            _check_usable(name)
        except PluginError as error:
            if registry.third_party(registry.UNLEARNER_GROUP, name) is None:
                raise
            warnings.warn(f"{error}; it is left out", PluginWarning, stacklevel=4)
        else:
            names.append(name)
    return tuple(names)


def _left_out(failed: dict[str, str]) -> str:
    """Which unlearners failed, and over what."""
    return "; ".join(
        f"{registry.third_party(registry.UNLEARNER_GROUP, name)} raised {reason}" for name, reason in failed.items()
    )


def _ready(target: Target, names: Sequence[str], objectives: Sequence[str]) -> None:
    """Fail before any work, not after hours of it."""
    if target.heldout is None:
        raise NotApplicableError(
            f"target {target.name!r} has no held-out data: pass heldout=(x, y) to Target; collateral is measured on it"
        )
    if not target.can_train and ("retrain" in objectives or RETRAINING in names):
        raise NotApplicableError(
            f"target {target.name!r} has no train callable, which the objective 'retrain' and the unlearner "
            "'retraining' need: pass train=function(indices, seed) -> trained model to Target, or leave both out"
        )


@checked()
def measure(
    target: Target,
    indices: Sequence[int],
    *,
    unlearners: Sequence[str] | None = None,
    seeds: int = 2,
    objectives: Sequence[str] = OBJECTIVES,
    oracle_groups: int = 20,
    oracle_seeds: int = 4,
    retraining_instances: int = 0,
    n_jobs: int | None = None,
    progress: bool = True,
    seed: int = 0,
    oracle: pd.DataFrame | None = None,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Really unlearn some samples of one target, each on its own, and measure how hard each was.

    Args:
        target: with held-out data; with a ``train`` callable for the objective ``retrain``.
        indices: samples to unlearn.
        unlearners: registered names, or ("all",); default those that the label averages (``labels.CONSENSUS``).
        seeds: runs per unlearner with different seeds (see ``SEEDS`` for the exceptions).
        objectives: some of "retrain" and "erase".
        oracle_groups, oracle_seeds: the oracle trains groups x seeds models without a group of the samples each.
        retraining_instances: how many samples exact retraining serves, if it is among the unlearners.
        n_jobs: as in joblib; None obeys ``joblib.parallel_config``.
        progress: show bars on stderr.
        seed: of the groups.
        oracle: what :func:`retrained_answers` said of these samples, and maybe of others; None: the oracle is asked.

    Returns:
        (outcomes, instances): frames that ``forgetcast.corpus.labels`` turns into difficulty.

    An unlearner of a plugin that raises is left out wholly and named; all others finish. Asked for by name it is an
    error, for what the label averages must not change in silence; the error has the outcomes of the others. With
    ("all",) it is a warning, and ``outcomes.attrs["left_out"]`` says why, by name.

    Raises:
        UnlearnerFailedError: an unlearner of a plugin that was asked for by name raised, or none is left.
        PluginError: an unlearner comes from a plugin that cannot be used.
        NotApplicableError: held-out data or the ``train`` callable is missing.
        UnknownNameError: unknown unlearner or objective.
        InputError: no unlearner or no objective.
        IndexRangeError: a bad index.
    """
    names = _checked(unlearners, objectives)
    _ready(target, names, objectives)
    index = target.data.check_indices(indices).numpy()
    instances = pd.DataFrame({"index": index, "label": target.labels.numpy()[index], "weight": 1.0})
    failed: dict[str, str] = {}
    outcomes, instances, _ = _label(
        target,
        instances,
        names,
        seeds=seeds,
        objectives=objectives,
        oracle_groups=oracle_groups,
        oracle_seeds=oracle_seeds,
        retraining_instances=retraining_instances or len(index),
        n_jobs=n_jobs,
        progress=progress,
        seed=seed,
        folder=None,
        failed=failed,
        oracle=oracle,
    )
    if failed:
        if outcomes.empty or tuple(unlearners or ()) != ALL:
            raise UnlearnerFailedError(
                f"{_left_out(failed)}; mend the plugin or leave it out (the outcomes of the others are kept in the "
                "attribute 'outcomes' of this error)",
                outcomes,
                instances,
            )
        warnings.warn(f"{_left_out(failed)}; it is left out", PluginWarning, stacklevel=3)
        outcomes.attrs["left_out"] = failed
    return outcomes, instances


def retrained_answers(
    target: Target,
    *,
    groups: int = 20,
    seeds: int = 4,
    n_jobs: int | None = None,
    progress: bool = True,
    seed: int = 0,
) -> pd.DataFrame:
    """What models trained without a ``1 / groups`` of the data say of the samples they have not seen: all samples.

    Costs as much as the oracle of a few samples and takes away a little more of their neighbourhood.

    Args:
        target: with a ``train`` callable.
        groups, seeds, n_jobs, progress, seed: as in :func:`measure`; every seed deals the groups anew.

    Returns:
        As :func:`forgetcast.corpus.oracle.summarise`.

    Raises:
        NotApplicableError: the target cannot retrain.
    """
    everyone = np.arange(len(target))
    tasks = [
        (function, *arguments[:-1], [1000 + number] * len(arguments[-1]))
        for number in range(seeds)
        for _, _, function, arguments in _oracle_tasks(target, everyone, groups, 1, seed + number)
    ]
    title = f"{target.name}: retraining"
    answers = run_tasks(_do, tasks, n_jobs=n_jobs, title=title, progress=progress, in_turn=True)
    return summarise(pd.concat(answers, ignore_index=True))


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
    mended, the same call measures what is missing and no more.

    Args:
        targets: targets, recipes, or functions that return a target (built one at a time).
        folder: where the corpus goes: a folder, or a place in a store (``"s3://bucket/corpus"``, any URL that fsspec
            knows). Workers write their shards there themselves.
        instances: samples per target (fewer where a target has fewer).
        retraining_instances: samples per target that exact retraining serves, spread over the instances.
        screen_models: half of the instances are drawn from those suspected of being memorized. 0: suspect those whose
            neighbours have other labels; else train so many models on random 70 % of the data and suspect those that
            only models that saw them get right (:func:`forgetcast.corpus.oracle.subset_screen`).
        unlearners, seeds, objectives, oracle_groups, oracle_seeds, n_jobs, progress, seed: as in :func:`measure`,
            with exact retraining beside the default unlearners.

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
    names = _checked((*CONSENSUS, RETRAINING) if unlearners is None else unlearners, objectives)
    if not targets:
        raise InputError("expected at least one target; got none")
    known = [source.name for source in targets if isinstance(source, (Target, Recipe))]
    _check_names(known)
    for source in targets:
        if isinstance(source, Target):
            _ready(source, names, objectives)
    folder = corpus_folder(folder)
    standing = Standing.of(folder)
    standing.check(known, len(targets) - len(known))
    check_writable(folder)
    sweep(folder)
    settings = {
        "instances": instances,
        "unlearners": {name: repr(registry.unlearner(name)) for name in names},
        "seeds": {name: _runs(name, seeds) for name in names},
        "objectives": list(objectives),
        "oracle_groups": oracle_groups,
        "oracle_seeds": oracle_seeds,
        "screen_models": screen_models,
        "retraining_instances": retraining_instances,
        "protocol": repr(Protocol()),
        "seed": seed,
    }
    manifest: dict[str, Any] = {"format": FORMAT, "forgetcast": version("forgetcast"), "settings": settings}
    tables: dict[str, list[pd.DataFrame]] = {"outcomes": [], "instances": [], "factors": []}
    described: list[dict[str, Any]] = []
    origins = {name: registry.third_party(registry.UNLEARNER_GROUP, name) for name in names}
    plugins = {name: f"{plugin.package} {plugin.version}".strip() for name, plugin in origins.items() if plugin}
    if plugins:
        manifest["settings"] = {**settings, "plugins": plugins}
    everything = unlearners is not None and tuple(unlearners) == ALL
    left_out: dict[str, str] = {}
    if everything:
        unusable = (plugin for plugin in registry.found(registry.UNLEARNER_GROUP).plugins if plugin.reason)
        left_out |= {str(plugin): plugin.reason for plugin in unusable}
    not_served: list[str] = []
    failed: dict[str, str]
    for number, source in enumerate(targets, start=1):
        with _naming_target(number, len(targets), source, folder):
            target = built(source)
            _check_names([*(entry["target"] for entry in described), target.name])
            _ready(target, names, objectives)
            standing.check_target(target, manifest["settings"])
            shards = folder / "shards" / target.name
            suspicion = _suspicion(target, screen_models, seed, shards, n_jobs, progress) if screen_models else None
            chosen = draw_instances(target, min(instances, len(target)), seed, suspicion=suspicion)
            outcomes, labelled, described_factors = _label(
                target,
                chosen,
                names,
                seeds=seeds,
                objectives=objectives,
                oracle_groups=oracle_groups,
                oracle_seeds=oracle_seeds,
                retraining_instances=retraining_instances,
                n_jobs=n_jobs,
                progress=progress,
                seed=seed,
                folder=shards,
                failed=(failed := {}),
                with_factors=True,
            )
            described.append(_describe(target))
            if failed:
                not_served.append(f"target {target.name!r}: {_left_out(failed)}")
                described[-1]["partial"] = [not_served[-1]]
                warnings.warn(f"{not_served[-1]}; it is left out", PluginWarning, stacklevel=3)
                left_out |= {f"unlearner {name} on {target.name}": reason for name, reason in failed.items()}
            factors, failed_factors = described_factors
            left_out |= failed_factors
            for name, frame in (("outcomes", outcomes), ("instances", labelled), ("factors", factors)):
                tables[name].append(frame)
            unfinished = [f"{number} of {len(targets)} targets"] if number < len(targets) else []
            measured = Corpus(
                **{name: _rows(parts) for name, parts in tables.items()},
                manifest=manifest | {"targets": marked(described, unfinished), "files": {}},
            )
            if partly := partial_of(measured.manifest["targets"]):
                measured.manifest["partial"] = partly
            if left_out:
                measured.manifest["left_out"] = dict(left_out)
            corpus = add(measured, folder, over=standing.damage if number == 1 else "")
    if dropped := [name for name in standing.names if name not in corpus.targets["target"].tolist()]:
        warnings.warn(
            f"the corpus in {folder} was damaged and is written anew without {shortened(dropped)}, which this run did "
            f"not measure; their shards stay ({standing.damage})",
            ForgetcastWarning,
            stacklevel=3,
        )
    if any(why == UNKNOWN_FACTOR for why in corpus.manifest.get("left_out", {}).values()):
        warnings.warn(
            f"targets in {folder} were measured with other factors than those that are installed now: values are "
            "missing until 'forgetcast generate --factors-only' has worked them out",
            ForgetcastWarning,
            stacklevel=3,
        )
    if not_served and not everything:
        raise UnlearnerFailedError(
            f"{'; '.join(not_served)}. The corpus {folder} has everything else: mend the plugin and run the same "
            "again, what is finished is not done again"
        )
    return corpus


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
        told = f"{which}: {error}"
        if (folder / "shards").exists():
            told = f"{told.rstrip('.')}. What is finished stays in {folder}: run the same again when this is mended"
        raise type(error)(told) from error


def _rows(parts: list[pd.DataFrame]) -> pd.DataFrame:
    """Tables below each other; empty ones would blur the types of the columns."""
    return pd.concat([part for part in parts if len(part)] or parts, ignore_index=True)


def factor_rows(target: Target, index: pd.Series, seed: int) -> tuple[pd.DataFrame, dict[str, str]]:
    """Factors of some samples of a target, as a corpus holds them, and why those of plugins failed."""
    table = factor_table(target, seed=seed)
    rows = table.values.loc[index].reset_index(names="index")
    rows.insert(0, "target", target.name)
    return rows, {f"factor {name} on {target.name}": table.not_applicable[name] for name in table.failed}


def _check_names(names: Sequence[str]) -> None:
    """Shards and rows of two targets of one name could not be told apart; a name is also the name of a folder."""
    for name in names:
        if not re.fullmatch(r"[\w+-][\w .+-]*", name):
            raise InputError(
                f"a target's name becomes the name of a folder: expected letters, digits, space, '_', '.', '+' or '-', "
                f"not beginning with '.'; got {name!r}"
            )
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise InputError(f"two targets are named {repeated[0]!r}: give Target(..., name=...) different names")


def built(source: Target | Recipe | Callable[[], Target]) -> Target:
    """The target itself, or the one that a recipe or a function makes."""
    made: Any = source
    if isinstance(source, Recipe):
        made = source.build()
    elif callable(source) and not isinstance(source, nn.Module):
        made = source()
    if not isinstance(made, Target):
        raise InputError(f"expected a Target, a Recipe or a function returning a Target; got {type(made).__name__}")
    return made
