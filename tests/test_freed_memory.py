"""Freed memory goes back to the system after every stretch of data that is read."""

from __future__ import annotations

import ctypes

import pytest
import torch

from forgetcast import _freed_memory
from forgetcast._freed_memory import giving_back
from forgetcast.data import Data


def test_memory_is_given_back_after_every_stretch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once the parts since the last time have that many bytes; the parts themselves are handed on as they are."""
    seen: list[int] = []
    monkeypatch.setattr(_freed_memory, "STRETCH", 100)
    monkeypatch.setattr(_freed_memory, "_malloc_trim", lambda: seen.append)
    assert list(giving_back([60, 39, 1, 250, 99], lambda part: part)) == [60, 39, 1, 250, 99]
    assert seen == [0, 0]


def test_batches_count_with_all_their_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several inputs by name: 8 numbers of 4 bytes, a label and an index of 8 bytes for each sample."""
    seen: list[int] = []
    monkeypatch.setattr(_freed_memory, "STRETCH", 3 * 48)
    monkeypatch.setattr(_freed_memory, "_malloc_trim", lambda: seen.append)
    data = Data(({"a": torch.zeros(9, 5), "b": torch.zeros(9, 3)}, torch.zeros(9, dtype=torch.long)))
    assert [len(y) for _, _, y in data.batches(2)] == [2, 2, 2, 2, 1]
    assert len(seen) == 2


@pytest.mark.parametrize("error", [AttributeError, OSError, TypeError])
def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch, error: type[Exception]) -> None:
    """Without the function of glibc nothing happens."""

    def missing(_name: object) -> object:
        raise error

    monkeypatch.setattr(ctypes, "CDLL", missing)
    _freed_memory._malloc_trim.cache_clear()
    assert _freed_memory._malloc_trim()(0) == 0
    _freed_memory._malloc_trim.cache_clear()
