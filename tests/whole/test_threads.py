"""Forecasts in several threads: each as if it were alone, and torch's settings and generators afterwards as before."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from torch.utils import checkpoint
from torch.utils.data import Dataset

from forgetcast import Target
from forgetcast.corpus.measuring import measure
from forgetcast.factors import factor_table
from forgetcast.parallel import one_thread, run_tasks
from forgetcast.target.layers import reproducible
from forgetcast.target.seeding import seeded
from forgetcast.target.settings import TORCH_LOCK, own_settings

pytestmark = pytest.mark.slow

N, CLASSES = 30, 3
Y = torch.arange(N) % CLASSES
X = torch.randn(N, 6, generator=torch.Generator().manual_seed(0)) + Y[:, None] / 2


class Items(Dataset[Any]):
    """Read item by item, with a draw that leaves no trace in the item."""

    def __len__(self) -> int:
        return N

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        torch.rand(3)
        return X[index], int(Y[index])


def make(seed: int) -> nn.Module:
    """A perceptron with fixed random weights, or every other time a transformer layer in front of it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        front = nn.TransformerEncoderLayer(6, 2, 8, batch_first=True) if seed % 2 else nn.Identity()
        return nn.Sequential(nn.Unflatten(1, (1, 6)), front, nn.Flatten(), nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))


def settings() -> tuple[Any, ...]:
    """Whatever of torch is common to all threads, or to all that follow."""
    flags = torch.backends.cudnn
    return (
        *(torch.get_default_dtype(), torch.get_num_threads(), torch.backends.mha.get_fastpath_enabled()),
        *(flags.enabled, flags.benchmark, flags.deterministic, flags.allow_tf32),
        *(torch.random.get_rng_state().tolist(), np.random.get_state()[1].tolist()),
        *(checkpoint.CheckpointFunction, checkpoint._checkpoint_without_reentrant_generator),
        torch.is_grad_enabled(),
    )


@pytest.fixture
def of_caller() -> Iterator[tuple[Any, ...]]:
    """Settings that are none of forgetcast's; they must be there at the end."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    torch.set_default_dtype(torch.float64)
    try:
        with torch.backends.cudnn.flags(deterministic=False, allow_tf32=True):
            before = settings()
            yield before
            assert settings() == before
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_num_threads(threads)


def forecast(model: nn.Module) -> pd.DataFrame:
    return factor_table(Target(model, Items(), heldout=(X + 0.1, Y))).values


def measured(model: nn.Module) -> pd.DataFrame:
    target = Target(model, Items(), heldout=(X + 0.1, Y))
    found, _ = measure(target, [0, 4], unlearners=["bad_teaching"], objectives=["erase"], progress=False)
    return found


@pytest.mark.parametrize("work", [forecast, measured])
def test_threads_get_what_one_thread_gets(work: Callable[[int], pd.DataFrame], of_caller: tuple[Any, ...]) -> None:
    """The same tables to the bit, whoever else is at work."""
    models = [make(seed).float() for seed in range(2)]
    alone = [work(model) for model in models]
    assert settings() == of_caller
    with ThreadPoolExecutor(2) as pool:
        for one, other in zip(alone, pool.map(work, models), strict=True):
            pd.testing.assert_frame_equal(one, other)


@pytest.mark.parametrize(
    "block",
    [
        own_settings,
        one_thread,
        lambda: seeded(3),
        lambda: reproducible(Target(make(0).float(), (X, Y)), 0),
    ],
)
def test_blocks_that_overlap_leave_no_trace(block: Callable[[], Any], of_caller: tuple[Any, ...]) -> None:
    """The first to come in is the first to go out: what it found must not be put back by the other."""
    inside, leave = threading.Event(), threading.Event()

    def first() -> None:
        with block():
            inside.set()
            leave.wait(0.3)

    def second() -> None:
        inside.wait()
        with block():
            leave.set()

    threads = [threading.Thread(target=work) for work in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert not any(thread.is_alive() for thread in threads)
    assert settings() == of_caller


def _table(target: Target) -> pd.DataFrame:
    return factor_table(target, names=["margin", "gradient_norm"]).values


def test_workers_that_are_threads_take_turns_without_waiting_for_ever() -> None:
    """Measuring on joblib's threads: the outcomes of one process."""
    target = Target(make(1), (X, Y), heldout=(X + 0.1, Y))
    call = {"unlearners": ["gradient_ascent", "influence"], "objectives": ["erase"], "progress": False}
    alone, _ = measure(target, [0, 1], **call)
    with joblib.parallel_config("threading", n_jobs=3):
        beside, _ = measure(target, [0, 1], **call)
        tables = run_tasks(_table, [(target,)] * 3, progress=False, in_turn=True)
    pd.testing.assert_frame_equal(alone, beside)
    pd.testing.assert_frame_equal(tables[0], tables[2])


def test_the_turn_is_over_when_a_forecast_fails() -> None:
    """The next thread gets it."""

    @own_settings()
    def failing() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        failing()
    taken = []

    def next_one() -> None:
        if TORCH_LOCK.acquire(timeout=5):
            taken.append(True)
            TORCH_LOCK.release()

    thread = threading.Thread(target=next_one)
    thread.start()
    thread.join()
    assert taken
