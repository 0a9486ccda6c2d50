"""Tasks through joblib: in order, the same for any number of jobs, one thread each, as the user configured joblib."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from typing import Any

import joblib
import pytest
import torch
from joblib.parallel import BACKENDS, ThreadingBackend

from forgetcast.corpus.zoo.architectures import build
from forgetcast.corpus.zoo.training import train_classifier
from forgetcast.errors import DatasetError
from forgetcast.parallel import run_tasks

# Functions are made inside the tests: then they travel to worker processes by value.


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    """Every test starts with three torch threads and must leave three, for itself and for threads to come."""
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    after = [torch.get_num_threads()]
    other = threading.Thread(target=lambda: after.append(torch.get_num_threads()))
    other.start()
    other.join()
    torch.set_num_threads(before)
    assert after == [3, 3]


@pytest.mark.parametrize("n_jobs", [None, 1, 2])
def test_results_come_in_the_order_of_the_tasks(n_jobs: int | None) -> None:
    """Also when later tasks are done first; arguments are passed by position."""

    def slow_first(k: int, word: str) -> str:
        time.sleep(0.2 if k == 0 else 0)
        return f"{word}{k}"

    tasks = [(k, "task") for k in range(6)]
    assert run_tasks(slow_first, tasks, n_jobs=n_jobs, progress=False) == [f"task{k}" for k in range(6)]


def test_results_do_not_depend_on_the_number_of_jobs() -> None:
    """A training run in a worker process gives the same bits as at home."""

    def train(seed: int) -> torch.Tensor:
        x = torch.randn(300, 40, generator=torch.Generator().manual_seed(seed))
        model = train_classifier(build("wide_mlp", (40,), 3, seed=seed), x, torch.arange(300) % 3, epochs=2, seed=seed)
        with torch.no_grad():
            return model(x)

    one, two = (run_tasks(train, [(0,), (1,), (2,)], n_jobs=n_jobs, progress=False) for n_jobs in (1, 2))
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    assert not torch.equal(one[0], one[1])


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_every_task_has_one_torch_thread(n_jobs: int) -> None:
    """So that tasks side by side do not fight over cores."""

    def threads(_k: int) -> int:
        return torch.get_num_threads()

    assert run_tasks(threads, [(k,) for k in range(4)], n_jobs=n_jobs, progress=False) == [1] * 4


def test_the_threads_come_back_from_tasks_in_threads() -> None:
    """Tasks that overlap within one process do not leave the one thread behind that they were given."""

    for last in (0, 1):
        started, first_done = threading.Barrier(2, timeout=20), threading.Event()

        def overlap(k: int, last: int = last, started: Any = started, first_done: Any = first_done) -> list[int]:
            seen = [torch.get_num_threads()]
            started.wait()
            if k == last:
                first_done.wait(20)
                time.sleep(0.1)  # the other has left its block as well
            else:
                first_done.set()
            return [*seen, torch.get_num_threads()]

        with joblib.parallel_config(backend="threading", n_jobs=2):
            assert run_tasks(overlap, [(0,), (1,)], progress=False) == [[1, 1], [1, 1]]
        assert torch.get_num_threads() == 3


def here() -> tuple[int, bool]:
    """Process, and whether this is its main thread."""
    return os.getpid(), threading.current_thread() is threading.main_thread()


def test_without_a_word_tasks_run_at_home() -> None:
    """As in joblib: one job, in the process and thread of the caller."""
    assert run_tasks(here, [()] * 3, progress=False) == [(os.getpid(), True)] * 3


def test_the_users_joblib_configuration_is_obeyed() -> None:
    """Backend and number of jobs of ``parallel_config``; an explicit number of jobs wins over the configured one."""

    def where(k: int) -> tuple[int, bool]:
        time.sleep(0.05)
        return os.getpid(), threading.current_thread() is threading.main_thread()

    tasks = [(k,) for k in range(4)]
    with joblib.parallel_config(backend="threading", n_jobs=2):
        assert run_tasks(where, tasks, progress=False) == [(os.getpid(), False)] * 4
        assert run_tasks(where, tasks, n_jobs=1, progress=False) == [(os.getpid(), True)] * 4
    with joblib.parallel_config(backend="loky", n_jobs=2):
        assert os.getpid() not in {process for process, _ in run_tasks(where, tasks, progress=False)}


def test_a_backend_that_cannot_give_results_one_by_one_works(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some (Ray's) only hand over everything at the end."""

    class AllAtOnce(ThreadingBackend):
        supports_return_generator = False

    monkeypatch.setitem(BACKENDS, "all_at_once", AllAtOnce)
    with joblib.parallel_config(backend="all_at_once", n_jobs=2):
        assert run_tasks(pow, [(2, 3), (3, 2), (5, 1)], progress=False) == [8, 9, 5]


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_an_error_of_a_task_reaches_the_caller(n_jobs: int) -> None:
    """With its class and message, from another process too."""

    def fails(k: int) -> int:
        if k == 2:
            raise DatasetError(f"no data for {k}")
        return k

    with pytest.raises(DatasetError, match=r"^no data for 2$"):
        run_tasks(fails, [(k,) for k in range(4)], n_jobs=n_jobs, progress=False)


def test_no_task_is_no_result() -> None:
    """An empty list of tasks is answered with an empty list."""
    assert run_tasks(pow, [], progress=False) == []
    assert run_tasks(pow, [], n_jobs=2, progress=False) == []


def test_progress_goes_to_stderr_with_its_title(capsys: pytest.CaptureFixture[str]) -> None:
    """A bar that counts the tasks, only when asked for; never anything on stdout."""
    run_tasks(pow, [(1, 1)] * 3, progress=False)
    assert capsys.readouterr() == ("", "")
    run_tasks(pow, [(1, 1)] * 3, title="unlearning")
    out, err = capsys.readouterr()
    assert out == ""
    assert "unlearning" in err
    assert "/3" in err


def test_the_first_results_are_counted_before_the_last_task_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bar moves while tasks run: results are taken one by one."""
    seen: list[Any] = []

    class Bar:
        def __init__(self, results: Any, **_: Any) -> None:
            self.results = results

        def __iter__(self) -> Iterator[Any]:
            for result in self.results:
                seen.append(("counted", result))
                yield result

    def note(k: int) -> int:
        seen.append(("done", k))
        return k

    monkeypatch.setattr("forgetcast.parallel.tqdm", Bar)
    run_tasks(note, [(0,), (1,)])
    assert seen.index(("counted", 0)) < seen.index(("done", 1))
