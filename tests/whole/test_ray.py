"""Ray: corpora and factors are those of one process to the byte, and a lost worker costs only its shard."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import joblib
import pytest
import ray
from ray.cluster_utils import Cluster
from ray.util.joblib import register_ray

from cluster_cases import (
    TRAININGS,
    check_measurements_and_factors,
    contents,
    make,
    mortal,
    target,
    trainings,
)
from forgetcast.errors import InputError
from places import HELPERS

pytestmark = pytest.mark.slow

Backend = Callable[..., AbstractContextManager[Any]]


@pytest.fixture(scope="module")
def ray_backend() -> Iterator[Backend]:
    """joblib on a Ray cluster of two nodes with one core each."""
    with pytest.MonkeyPatch.context() as patch:
        paths = [str(HELPERS), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
        patch.setenv("PYTHONPATH", os.pathsep.join(paths))  # workers find small_targets
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        node = {"num_cpus": 1, "object_store_memory": 80_000_000}
        cluster = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
        cluster.add_node(**node)
        ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
        assert len([known for known in ray.nodes() if known["Alive"]]) == 2
        register_ray()

        def configured(**remote: Any) -> AbstractContextManager[Any]:
            return joblib.parallel_config("ray", n_jobs=-1, ray_remote_args={"num_cpus": 1, **remote})

        yield configured
        ray.shutdown()
        cluster.shutdown()


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The corpus as this process makes it by itself."""
    folder = tmp_path_factory.mktemp("alone")
    make(folder)
    return folder


def test_measurements_and_fresh_factors_are_those_of_one_process(
    alone: Path, tmp_path: Path, ray_backend: Backend
) -> None:
    """``measure`` without a folder, and the factor tables of several targets side by side."""
    with ray_backend():
        check_measurements_and_factors(alone, tmp_path)


def test_a_corpus_is_that_of_one_process_though_a_worker_is_killed(
    alone: Path, tmp_path: Path, ray_backend: Backend
) -> None:
    """The workers, one on each node, do all the work; where actors may start again, a lost one costs its shard only."""
    with ray_backend(max_restarts=-1, max_task_retries=-1):
        make(tmp_path / "corpus", mortal(tmp_path, shard=1))
    assert (tmp_path / "flags" / "third").exists()
    processes = {*(tmp_path / "log").read_text().split()}
    assert len(processes) >= 3, "both workers, and the one in the place of that killed"
    assert str(os.getpid()) not in processes
    assert contents(tmp_path / "corpus") == contents(alone)
    assert trainings(tmp_path) == TRAININGS + 2


def test_a_run_that_lost_a_ray_worker_for_good_is_taken_up(alone: Path, tmp_path: Path, ray_backend: Backend) -> None:
    """Ray's default ends the run; what is whole is kept, and the rest gives the same corpus."""
    killed = mortal(tmp_path, shard=3)
    with ray_backend(), pytest.raises(ray.exceptions.RayActorError):
        make(tmp_path / "corpus", killed)
    done = len(list((tmp_path / "corpus").rglob("oracle-*.sha256")))
    before = trainings(tmp_path)
    assert done >= 1
    make(tmp_path / "corpus", killed)
    assert contents(tmp_path / "corpus") == contents(alone)
    assert trainings(tmp_path) == before + TRAININGS - 4 * done


def test_what_cannot_be_sent_is_named(tmp_path: Path, ray_backend: Backend) -> None:
    """Before any work, and in one line: Ray itself says it in forty."""
    message = r"Target.train \(a CloudTrainer\) cannot be sent to other processes \(TypeError: .*lock.*: keep locks"
    with ray_backend(), pytest.raises(InputError, match=message) as caught:
        make(tmp_path / "corpus", target(lock=threading.Lock()))
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.rglob("*.parquet"))
