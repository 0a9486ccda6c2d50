"""Tasks whose results are shards of a corpus, and the runner that computes those that are missing."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from forgetcast.corpus.shards import Rows, make_shard, read_shard
from forgetcast.errors import PathError
from forgetcast.files.stores import Place, remove_stale_drafts
from forgetcast.parallel import run_tasks
from forgetcast.unlearn.protocol import OUTCOME_COLUMNS

__all__ = ["Done", "Failure", "Runner", "Task", "call"]


@dataclass(frozen=True)
class Task:
    """A call whose result is one shard."""

    key: str
    """What the shard is called among those of one target: its kind, a hyphen, and all settings that matter."""
    rows: Rows
    """What the shard must hold."""
    function: Callable[..., Any]
    arguments: tuple[Any, ...]

    def shard(self, folder: Place, fingerprint: str) -> Place:
        """Where the shard lies; ``fingerprint`` stands for model, data and samples."""
        digest = hashlib.sha256(f"{fingerprint}|{self.key}".encode()).hexdigest()[:16]
        return folder / f"{self.key.split('-')[0]}-{digest}.parquet"


@dataclass(frozen=True)
class Failure:
    """In place of outcomes: an unlearner of a plugin raised."""

    unlearner: str
    reason: str


@dataclass(frozen=True)
class Done:
    """What tasks gave."""

    table: pd.DataFrame
    """Their tables below each other, without rows of unlearners that failed in any task: those that succeed are no fair
    share of all."""
    beside: list[Any] = field(default_factory=list)
    """Results of the calls that ran beside them."""
    failed: dict[str, str] = field(default_factory=dict)
    """The first reason of each unlearner that failed."""


@dataclass(frozen=True)
class Runner:
    """How tasks are run: the folder of their shards (None keeps none), jobs as in joblib, a bar on stderr."""

    folder: Place | None = None
    n_jobs: int | None = None
    progress: bool = True

    def run(
        self, tasks: Sequence[Task], title: str, *, fingerprint: str = "", beside: Sequence[tuple[Any, ...]] = ()
    ) -> Done:
        """Run tasks, through shards when there is a folder, and join their tables.

        Args:
            tasks: what is computed, unless its shard is there.
            title: of the bar.
            fingerprint: of what all tasks are about; part of the shards' names.
            beside: calls (function, arguments ...) that go through the same pool, before the tasks because they take
                long.

        Raises:
            PathError: workers wrote where this process does not see it.
        """
        if self.folder is None:
            results = self._results([*beside, *((task.function, *task.arguments) for task in tasks)], title)
            made = results[len(beside) :]
            return _done([one for one in made if not isinstance(one, Failure)], results[: len(beside)], _failed(made))
        shards = {task.shard(self.folder, fingerprint): task for task in tasks}
        remove_stale_drafts(self.folder)
        kept = {path: read_shard(path, task.rows) for path, task in shards.items()}
        missing = {path: task for path, task in shards.items() if kept[path] is None}
        calls = [(make_shard, path, task.rows, task.function, *task.arguments) for path, task in missing.items()]
        work = [*beside, *calls]
        results = self._results(work, title) if work else []
        made = results[len(beside) :]
        broken = [path for path, one in zip(missing, made, strict=True) if isinstance(one, Failure)]
        kept.update((path, read_shard(path, task.rows)) for path, task in missing.items() if path not in broken)
        frames = [frame for frame in kept.values() if frame is not None]
        lost = len(shards) - len(broken) - len(frames)
        if lost:
            raise PathError(
                f"{lost} shards that were written into {self.folder} are not there, or damaged: the folder "
                "must be one that this process and all workers reach, on a shared disk or in a store such as s3://bucket"
            )
        return _done(frames, results[: len(beside)], _failed(made))

    def _results(self, work: list[tuple[Any, ...]], title: str) -> list[Any]:
        return run_tasks(call, work, n_jobs=self.n_jobs, title=title, progress=self.progress, in_turn=True)


def call(function: Callable[..., Any], *arguments: Any) -> Any:
    """``function(*arguments)``, so that different functions go through one pool."""
    return function(*arguments)


def _failed(results: Sequence[Any]) -> dict[str, str]:
    """The first reason of each unlearner that failed."""
    failed: dict[str, str] = {}
    for result in results:
        if isinstance(result, Failure):
            failed.setdefault(result.unlearner, result.reason)
    return failed


def _done(frames: list[pd.DataFrame], beside: list[Any], failed: dict[str, str]) -> Done:
    if not failed:
        return Done(pd.concat(frames, ignore_index=True), beside)
    kept = [frame[~frame["unlearner"].isin(list(failed))] for frame in frames]
    return Done(pd.concat(kept or [pd.DataFrame(columns=OUTCOME_COLUMNS)], ignore_index=True), beside, failed)
