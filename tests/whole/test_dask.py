"""Dask: corpora and factors are those of one process to the byte, and a lost worker costs only its shard."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import joblib
import pytest
from distributed import Client, LocalCluster

from cluster_cases import (
    TRAININGS,
    check_corpus,
    check_measurements_and_factors,
    contents,
    make,
    mortal,
    target,
    trainings,
)
from forgetcast.errors import InputError

pytestmark = pytest.mark.slow

Backend = Callable[[], AbstractContextManager[Any]]


@pytest.fixture(scope="module")
def dask_backend() -> Iterator[Backend]:
    """joblib on two Dask workers, processes with one thread each."""
    with LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, silence_logs=50
    ) as cluster, Client(cluster) as client:  # fmt: skip

        def configured() -> AbstractContextManager[Any]:
            client.wait_for_workers(2)
            return joblib.parallel_config("dask")

        yield configured


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The corpus as this process makes it by itself."""
    folder = tmp_path_factory.mktemp("alone")
    make(folder)
    return folder


def test_a_corpus_is_that_of_one_process(alone: Path, tmp_path: Path, dask_backend: Backend) -> None:
    """Every byte of it; the workers do all the work."""
    with dask_backend():
        check_corpus(alone, tmp_path)


def test_measurements_and_fresh_factors_are_those_of_one_process(
    alone: Path, tmp_path: Path, dask_backend: Backend
) -> None:
    """``measure`` without a folder, and the factor tables of several targets side by side."""
    with dask_backend():
        check_measurements_and_factors(alone, tmp_path)


def test_a_killed_dask_worker_costs_only_its_shard(alone: Path, tmp_path: Path, dask_backend: Backend) -> None:
    """The run goes on without it; two trainings of its shard are done again."""
    with dask_backend():
        make(tmp_path / "corpus", mortal(tmp_path, shard=0))
    assert (tmp_path / "flags" / "third").exists()
    assert contents(tmp_path / "corpus") == contents(alone)
    assert trainings(tmp_path) == TRAININGS + 2


def test_what_cannot_be_sent_is_named(tmp_path: Path, dask_backend: Backend) -> None:
    """Before any work: Dask itself would wait for ever."""
    message = r"Target.train \(a CloudTrainer\) cannot be sent to other processes \(TypeError: .*lock.*: keep locks"
    with dask_backend(), pytest.raises(InputError, match=message) as caught:
        make(tmp_path / "corpus", target(lock=threading.Lock()))
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.rglob("*.parquet"))
