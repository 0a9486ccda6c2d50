"""A clock that goes back: nothing breaks, no time is negative, and the record still verifies."""

from __future__ import annotations

import json
import time
from datetime import datetime, timedelta, timezone, tzinfo
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from forgetcast.screening import record
from forgetcast.screening.costs import measure_costs
from forgetcast.screening.record import append, check
from small_targets import clouds


class Backwards(datetime):
    """Every look at this clock is a day earlier than the last."""

    looks = 0

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> datetime:
        """A day earlier than the last time."""
        cls.looks += 1
        return datetime(2026, 1, 1, tzinfo=timezone.utc) - timedelta(days=cls.looks)


def test_a_record_orders_by_sequence_not_by_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Times are kept as the machine told them; the chain rests on the sequence and the hashes."""
    path = tmp_path / "record.jsonl"
    monkeypatch.setattr(record, "datetime", Backwards)
    for number in range(3):
        last = append(path, [{"n": number}])
    assert check(path, expected=last).entries == 3
    times = [json.loads(line)["time"] for line in path.read_text().splitlines()]
    assert times == sorted(times, reverse=True)


@pytest.mark.parametrize("clock", ["perf_counter", "time", "monotonic"])
def test_costs_are_never_negative(monkeypatch: pytest.MonkeyPatch, clock: str) -> None:
    """Even if the clock that durations are taken from runs backwards."""
    looks = iter(range(10**6, 0, -1))
    monkeypatch.setattr(time, clock, lambda: float(next(looks)))
    found: Any = measure_costs(clouds(), ["gradient_ascent", "influence"], 3)
    monkeypatch.undo()
    assert not found.failed
    assert (found.unlearners.to_numpy() >= 0).all()
    assert found.epoch >= 0
    assert found.retraining >= 0
    assert np.isfinite(found.seconds("gradient_ascent", 5.0))
