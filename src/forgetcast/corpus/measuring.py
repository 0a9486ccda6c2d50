"""Measuring one target: the oracle, then every unlearner on every sample, each on its own."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from forgetcast._arguments import checked
from forgetcast.corpus.oracle import summarise
from forgetcast.corpus.preconditions import asks_for_all, check_numbers, check_target, checked_names, named_failures
from forgetcast.corpus.task_runner import Runner, call
from forgetcast.corpus.tasks import MeasurementSettings, factor_rows, oracle_tasks, outcome_tasks, screen_tasks
from forgetcast.errors import PluginWarning, UnlearnerFailedError
from forgetcast.objectives import OBJECTIVES
from forgetcast.parallel import run_tasks
from forgetcast.target.target import Target

__all__ = ["Measurement", "measure", "measure_instances", "retrained_answers", "suspicion"]


@dataclass(frozen=True)
class Measurement:
    """What was measured of some samples of one target."""

    outcomes: pd.DataFrame
    """One row per unlearner, seed, objective and sample, without unlearners that failed."""
    instances: pd.DataFrame
    """One row per sample: target, index, label, weight and what the oracle says of it."""
    failed: dict[str, str]
    """What unlearners of plugins raised, by name."""
    factors: tuple[pd.DataFrame, dict[str, str]] | None = None
    """What :func:`forgetcast.corpus.tasks.factor_rows` returns, where it was asked for."""


def measure_instances(
    target: Target,
    instances: pd.DataFrame,
    settings: MeasurementSettings,
    runner: Runner,
    *,
    oracle: pd.DataFrame | None = None,
    with_factors: bool = False,
) -> Measurement:
    """Ask the oracle, then run every unlearner on every instance, and compute the factor table beside them.

    Args:
        target: checked by :func:`forgetcast.corpus.preconditions.check_target`.
        instances: samples, with the columns index, label and weight.
        settings: what is measured of each.
        runner: where shards lie, and how many jobs there are.
        oracle: its answers, if it has been asked before.
        with_factors: also compute the factors of the instances.

    Raises:
        InputError: too few runs or models.
    """
    check_numbers(settings)
    fingerprint = "" if runner.folder is None else f"{_fingerprint(target)}{instances['index'].tolist()}"
    if "retrain" in settings.objectives:
        if oracle is None:
            index, groups = instances["index"].to_numpy(), settings.oracle_groups
            tasks = [
                task
                for number in range(settings.oracle_seeds)
                for task in oracle_tasks(target, index, groups, number, settings.seed)
            ]
            oracle = summarise(runner.run(tasks, f"{target.name}: oracle", fingerprint=fingerprint).table)
        instances = instances.merge(oracle, on="index", validate="one_to_one")
    else:
        unknown = ("p_out", "p_in", "memorization", "p_out_half_a", "p_out_half_b")
        instances = instances.assign(**dict.fromkeys(unknown, np.nan))
    tasks = outcome_tasks(target, instances, settings)
    beside = [(factor_rows, target, instances["index"], settings.seed)] if with_factors else []
    done = runner.run(tasks, f"{target.name}: unlearners", fingerprint=fingerprint, beside=beside)
    instances.insert(0, "target", target.name)
    return Measurement(done.table, instances, done.failed, done.beside[0] if with_factors else None)


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
        seeds: runs per unlearner with different seeds (see ``tasks.SEEDS`` for the exceptions).
        objectives: some of "retrain" and "erase".
        oracle_groups: how many groups of samples the oracle leaves out, a group at a time.
        oracle_seeds: models that the oracle trains without each group.
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
    names = checked_names(unlearners, objectives)
    check_target(target, names, objectives)
    index = target.data.check_indices(indices).numpy()
    instances = pd.DataFrame({"index": index, "label": target.labels.numpy()[index], "weight": 1.0})
    settings = MeasurementSettings(
        names, objectives, seeds, oracle_groups, oracle_seeds, retraining_instances or len(index), seed
    )
    runner = Runner(None, n_jobs, progress)
    measured = measure_instances(target, instances, settings, runner, oracle=oracle)
    if measured.failed:
        failures = named_failures(measured.failed)
        if measured.outcomes.empty or not asks_for_all(unlearners):
            raise UnlearnerFailedError(
                f"{failures}; fix the plugin or leave it out (the outcomes of the others are kept in the "
                "attribute 'outcomes' of this error)",
                measured.outcomes,
                measured.instances,
            )
        warnings.warn(f"{failures}; it is left out", PluginWarning, stacklevel=3)
        measured.outcomes.attrs["left_out"] = measured.failed
    return measured.outcomes, measured.instances


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
        groups: parts of the data, of which each model goes without one.
        seeds: models per group; every seed deals the groups anew.
        n_jobs: processes, as in joblib; None obeys ``joblib.parallel_config``.
        progress: bars on stderr.
        seed: of the groups.

    Returns:
        As :func:`forgetcast.corpus.oracle.summarise`.

    Raises:
        NotApplicableError: the target cannot retrain.
    """
    everyone = np.arange(len(target))
    tasks = [
        (task.function, *task.arguments)
        for number in range(seeds)
        for task in oracle_tasks(target, everyone, groups, number, seed + number)
    ]
    title = f"{target.name}: retraining"
    answers = run_tasks(call, tasks, n_jobs=n_jobs, title=title, progress=progress, in_turn=True)
    return summarise(pd.concat(answers, ignore_index=True))


def suspicion(target: Target, models: int, seed: int, runner: Runner) -> np.ndarray:
    """How much models on subsets of the data suspect each sample of being memorized, (n,).

    Args:
        target: with a ``train`` callable.
        models: how many are trained.
        seed: of the subsets and the training runs.
        runner: where shards lie, and how many jobs there are.
    """
    done = runner.run(screen_tasks(target, models, seed), f"{target.name}: screen", fingerprint=_fingerprint(target))
    table = summarise(done.table).set_index("index")
    return table["memorization"].reindex(range(len(target))).to_numpy()


def _fingerprint(target: Target) -> str:
    return f"{target.model_hash}{target.data_hash}"
