"""Run independent tasks through joblib, as its users know it, with a progress bar."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, Literal

import cloudpickle
import torch
from joblib import Parallel, delayed, effective_n_jobs
from joblib.parallel import get_active_backend
from tqdm import tqdm

from forgetcast.errors import InputError, first_line
from forgetcast.target.settings import TORCH_LOCK

__all__ = ["one_thread", "pool_of", "run_tasks"]


M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Numbers of the settings in glibc's malloc.h."""
LARGEST = 32 << 20
"""The largest piece of memory that may be reused, in bytes; glibc takes no more."""
KEPT = 512 << 20
"""Bytes of freed memory that stay."""

_COUNTING = threading.Lock()
_blocks = 0
"""Blocks of ``one_thread`` that threads of this process are in."""
_threads_before = 1
"""Torch threads before the first of them. A thread that begins inside knows only the 1."""


@contextmanager
def one_thread() -> Iterator[None]:
    """One torch thread for the duration: parallel workers do not fight over cores, and sums round as everywhere."""
    global _blocks, _threads_before
    with _COUNTING:
        threads = torch.get_num_threads()
        _threads_before = _threads_before if _blocks else threads
        _blocks += 1
        torch.set_num_threads(1)
    try:
        yield
    finally:
        with _COUNTING:
            _blocks -= 1
            torch.set_num_threads(threads if _blocks else _threads_before)


@cache
def keep_freed_memory() -> None:
    """Let this process reuse memory that it has freed, from now on; nothing where the C library is not glibc.

    Stacks of parameters are made and freed at every step. By default glibc gives pieces of that size back to the
    system, and each time they are asked for again every 4 kB of them cost a page fault: 10,000 to 40,000 in a block of
    64 perceptrons, a tenth to a quarter of its time. With this there are none to speak of after the first block.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    mallopt(M_MMAP_THRESHOLD, LARGEST)
    mallopt(M_TRIM_THRESHOLD, KEPT)


def _call(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    keep_freed_memory()
    with one_thread():
        return function(*arguments)


def _call_locked(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    with TORCH_LOCK:
        return _call(function, arguments)


class _NullStream:
    """A file that forgets what is written."""

    def write(self, content: Any) -> int:
        return memoryview(content).nbytes


def _reason_against_sending(value: Any) -> str | None:
    """Why a value cannot be pickled, as the backends do it, or None."""
    try:
        cloudpickle.Pickler(_NullStream()).dump(value)
    except Exception as error:
        return f"{type(error).__name__}: {first_line(error)}"
    return None


def _check_sendable(function: Callable[..., Any], task: Sequence[Any]) -> None:
    """Refuse what cannot travel to another process, by name; some backends would wait for it for ever.

    Raises:
        InputError: the function, an argument or a part of one cannot be pickled.
    """
    if _reason_against_sending((function, task)) is None:
        return
    for value in (function, *task):
        if reason := _reason_against_sending(value):
            what = getattr(value, "__name__", type(value).__name__)
            parts = getattr(value, "__dict__", {}) if not callable(value) else {}
            for name, part in parts.items():
                if of_part := _reason_against_sending(part):
                    what, reason = f"{what}.{name.lstrip('_')} (a {type(part).__name__})", of_part
                    break
            raise InputError(
                f"{what} cannot be sent to other processes ({reason}): keep locks, open files, connections and "
                "generators out of it, for instance by opening them where they are used, or run in one process"
            )


def _uses_processes(backend: Any, n_jobs: int | None) -> bool:
    """Whether joblib runs tasks in other processes or machines."""
    return not getattr(backend, "supports_sharedmem", False) and effective_n_jobs(n_jobs) > 1


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
    in_turn: bool = False,
) -> list[Any]:
    """``[function(*task) for task in tasks]`` through joblib, in the order of the tasks.

    ``n_jobs=None`` obeys the caller's ``joblib.parallel_config(...)`` and else means 1, as in joblib. Every task runs
    on one torch thread, so results do not depend on the number of jobs.

    Args:
        function: called once a task.
        tasks: its arguments, by position.
        n_jobs: as in joblib.
        title: of the bar.
        progress: show a bar on stderr.
        in_turn: tasks call a target's model, which must not be called by two threads at once: tasks that land in
            one process (threads, or a Dask worker with several) take turns.

    Raises:
        InputError: function or arguments cannot be sent to the processes that were asked for.
    """
    backend, _ = get_active_backend()
    if tasks and _uses_processes(backend, n_jobs):
        _check_sendable(function, tasks[0])
    pool = pool_of(n_jobs)
    call = _call_locked if in_turn else _call
    # Arguments travel as one tuple: single ones of more than 1 kB joblib would leave on one Dask worker for the others
    # to fetch, and the whole run would be lost with that worker.
    work = (delayed(call)(function, task) for task in tasks)
    with one_thread():  # once for all tasks that run as threads of this process: the count is common to them
        return list(tqdm(pool(work), total=len(tasks), desc=title, disable=not progress, leave=False))
