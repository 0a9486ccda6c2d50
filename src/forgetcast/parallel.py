"""Run independent tasks through joblib, as its users know it, with a progress bar."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from joblib import Parallel, delayed
from tqdm import tqdm

from forgetcast.allocation import keep_freed_memory

__all__ = ["one_thread", "pool_of", "run_tasks"]


@contextmanager
def one_thread() -> Iterator[None]:
    """One torch thread for the duration: parallel workers do not fight over cores, and sums round as everywhere."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _call(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    keep_freed_memory()
    with one_thread():
        return function(*arguments)


def pool_of(n_jobs: int | None, prefer: Literal["processes", "threads"] | None = None) -> Parallel:
    """joblib's ``Parallel`` that hands out results as they come, in order, where its backend can do so."""
    try:
        return Parallel(n_jobs=n_jobs, prefer=prefer, return_as="generator")
    except ValueError:  # a backend that gives all results at the end, as Ray's
        return Parallel(n_jobs=n_jobs, prefer=prefer)


def run_tasks(
    function: Callable[..., Any],
    tasks: Sequence[tuple[Any, ...]],
    *,
    n_jobs: int | None = None,
    title: str = "",
    progress: bool = True,
) -> list[Any]:
    """``[function(*task) for task in tasks]`` through joblib, in the order of the tasks.

    ``n_jobs=None`` obeys the caller's ``joblib.parallel_config(...)`` and else means 1, as in joblib. Every task runs
    on one torch thread, so results do not depend on the number of jobs.
    """
    pool = pool_of(n_jobs)
    work = (delayed(_call)(function, task) for task in tasks)
    with one_thread():  # once for all tasks that run as threads of this process: the count is common to them
        return list(tqdm(pool(work), total=len(tasks), desc=title, disable=not progress, leave=False))
