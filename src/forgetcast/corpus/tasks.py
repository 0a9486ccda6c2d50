"""The tasks of measuring one target: models of the oracle, blocks of unlearning, and the factors beside them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from forgetcast import registry
from forgetcast.corpus.oracle import (
    ANSWER_COLUMNS,
    SHARE,
    SUBSET_COLUMNS,
    TOGETHER,
    deal_groups,
    leave_groups_out,
    subset_answers,
    subset_seeds,
)
from forgetcast.corpus.shards import Rows
from forgetcast.corpus.task_runner import Failure, Task
from forgetcast.errors import ForgetcastError, ModelError, first_line, shortened
from forgetcast.factors import factor_table
from forgetcast.target.settings import own_settings
from forgetcast.target.target import Target
from forgetcast.unlearn import Protocol, Unlearner, run_unlearner
from forgetcast.unlearn.protocol import OUTCOME_COLUMNS
from forgetcast.unlearn.workbench import Workbench

__all__ = [
    "BLOCK",
    "RETRAINING",
    "SEEDS",
    "MeasurementSettings",
    "Prepared",
    "factor_rows",
    "oracle_tasks",
    "outcome_block",
    "outcome_tasks",
    "runs_of",
    "runs_per_sample",
    "screen_tasks",
]

SEEDS = {"amnesiac": 4, "bad_teaching": 4, "random_relabelling": 4, "retraining": 1, "salun": 4}
"""Runs per unlearner where the general number does not fit: the drawn label and the drawn teacher decide in which
direction a sample is pushed (one run agrees with another at 0.7-0.8 only), and retraining is costly."""

RETRAINING = "retraining"
BLOCK = 64
"""Samples that one task unlearns."""
ORACLE_BLOCK = 5
"""Models that one task trains where the target does not train many at once."""


@dataclass(frozen=True)
class MeasurementSettings:
    """What is measured of every sample of a target."""

    unlearners: tuple[str, ...]
    objectives: Sequence[str]
    seeds: int
    """Runs per unlearner (``SEEDS`` has the exceptions)."""
    oracle_groups: int
    """Groups that the samples are dealt into; each model of the oracle is trained without one."""
    oracle_seeds: int
    """Models per group."""
    retraining_instances: int
    """Samples that exact retraining serves."""
    seed: int
    """Of the groups and the factors."""


# -- the oracle --------------------------------------------------------------------------------------------------------


def oracle_tasks(target: Target, indices: np.ndarray, groups: int, number: int, seed: int) -> list[Task]:
    """Models without a group of the samples each, one of every group.

    Args:
        target: with a ``train`` callable.
        indices: samples that are asked about, (m,).
        groups: how many they are dealt into.
        number: of the training seed.
        seed: of the groups.
    """
    group = deal_groups(target.labels.numpy()[indices], groups, seed)
    block = _models_per_task(target)
    tasks = []
    for start in range(0, int(group.max()) + 1, block):
        left_out = [g for g in range(start, start + block) if g <= group.max()]
        key = f"oracle-{groups}-{number}-{start}-{block}-{seed}"
        arguments = (target, indices, group, left_out, [1000 + number] * len(left_out))
        rows = Rows({"left_out": left_out, "seed": [1000 + number], "index": indices.tolist()}, ANSWER_COLUMNS)
        tasks.append(Task(key, rows, leave_groups_out, arguments))
    return tasks


def screen_tasks(target: Target, models: int, seed: int) -> list[Task]:
    """Models on random subsets of the data, asked about every sample."""
    block = _models_per_task(target)
    tasks = []
    for start in range(0, models, block):
        numbers = range(start, min(start + block, models))
        rows = Rows({"seed": subset_seeds(numbers, seed), "index": range(len(target))}, SUBSET_COLUMNS)
        key = f"screen-{start}-{block}-{models}-{seed}"
        tasks.append(Task(key, rows, subset_answers, (target, numbers, SHARE, seed)))
    return tasks


def _models_per_task(target: Target) -> int:
    return TOGETHER if target.trains_together else ORACLE_BLOCK


# -- unlearning --------------------------------------------------------------------------------------------------------


def runs_of(name: str, seeds: int) -> int:
    """How many seeds an unlearner runs with; one where the seed changes nothing."""
    return SEEDS.get(name, seeds) if registry.load_unlearners()[name].stochastic else 1


def runs_per_sample(unlearners: Sequence[str], seeds: int = 2) -> int:
    """How often :func:`forgetcast.measure` unlearns each sample."""
    return sum(runs_of(name, seeds) for name in unlearners)


def outcome_tasks(target: Target, instances: pd.DataFrame, settings: MeasurementSettings) -> list[Task]:
    """Every unlearner with every seed, on ``BLOCK`` samples at a time; instances with columns index and p_out."""
    objectives = settings.objectives
    tasks = []
    for name in settings.unlearners:
        chosen = instances
        if name == RETRAINING:
            step = max(1, len(instances) // max(1, settings.retraining_instances))
            chosen = instances.iloc[::step][: settings.retraining_instances]
        for seed in range(runs_of(name, settings.seeds)):
            for start in range(0, len(chosen), BLOCK):
                part = chosen.iloc[start : start + BLOCK]
                method = f"{registry.unlearner(name)!r}{Protocol()!r}{seed}{tuple(objectives)}"
                samples = hashlib.sha256(part[["index", "p_out"]].to_numpy(float).tobytes()).hexdigest()
                arguments = (target, name, part["index"].to_numpy(), part["p_out"].to_numpy(), seed, objectives)
                keys: dict[str, Sequence[Any]] = {"unlearner": [name], "seed": [seed], "objective": objectives}
                rows = Rows({**keys, "index": part["index"].tolist()}, OUTCOME_COLUMNS)
                tasks.append(Task(f"{name}-{seed}-{start}-{method}{samples}", rows, outcome_block, arguments))
    return tasks


class Prepared:
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


@own_settings()
def outcome_block(
    target: Target, name: str, indices: np.ndarray, p_out: np.ndarray, seed: int, objectives: Sequence[str]
) -> pd.DataFrame | Failure:
    """Outcomes of some samples under one unlearner, as :func:`forgetcast.unlearn.run_unlearner` gives them.

    What an unlearner of a plugin raises is returned, so that other tasks go on.
    """
    plugin = registry.third_party(registry.UNLEARNER_GROUP, name)
    target = target.full_precision
    try:
        workbench = Prepared.bench(target)
        unlearner = registry.unlearner(name)
        state = Prepared.state(target, unlearner)
        return run_unlearner(
            target, unlearner, indices, p_out, seed=seed, objectives=objectives, workbench=workbench, state=state
        )
    except Exception as error:
        Prepared.latest = ()  # it holds this target's data and model, which may be what has to be fixed
        if not isinstance(error, ForgetcastError) and target.raised(error):
            samples = shortened([str(index) for index in indices])
            raise ModelError(
                f"the model raised {type(error).__name__} while {name} unlearned samples {samples}: "
                f"{first_line(error)}: it must answer for every batch of the data"
            ) from error
        if plugin is None:
            raise
        return Failure(name, registry.raised(error))


# -- factors -----------------------------------------------------------------------------------------------------------


def factor_rows(target: Target, index: pd.Series, seed: int) -> tuple[pd.DataFrame, dict[str, str]]:
    """Factors of some samples of a target, as a corpus holds them, and why those of plugins failed."""
    table = factor_table(target, seed=seed)
    rows = table.values.loc[index].reset_index(names="index")
    rows.insert(0, "target", target.name)
    return rows, {f"factor {name} on {target.name}": table.not_applicable[name] for name in table.failed}
