"""What a record keeps of a queue: one entry per request, values that JSON holds, and every edit is found."""

from __future__ import annotations

import json
from datetime import date, datetime, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from forgetcast.errors import RecordError
from forgetcast.screening.columns import COLUMNS
from forgetcast.screening.decisions import decisions
from forgetcast.screening.policy import Policy
from forgetcast.screening.record import append, check
from forgetcast.screening.triage import Triage, triage
from small_targets import clouds

REQUESTS = pd.DataFrame({
    "id": ["u7", "nobody", "u3", "u7", "u12", "u40"],
    "note": ["a", "b", None, "d", "ü\n\"'", "e"],
    "harm": [1.5, 2.5, np.nan, 3.5, np.inf, 4.5],
})  # fmt: skip


@pytest.fixture(scope="module")
def queue() -> Triage:
    """Four requests served and two not."""
    return triage(
        clouds(),
        requests=REQUESTS,
        ids=[f"u{number}" for number in range(45)],
        policy=Policy(retrain_seconds=5),
        timed=False,
    )


def plain(value: Any) -> bool:
    """Whether JSON holds it as it is, down to every leaf, with Python's own kinds."""
    if isinstance(value, dict):
        return all(type(name) is str and plain(part) for name, part in value.items())
    if isinstance(value, list):
        return all(plain(part) for part in value)
    return value is None or type(value) in (str, int, bool) or (type(value) is float and np.isfinite(value))


def test_one_entry_per_request_in_their_order(queue: Triage) -> None:
    """Served or not; each with everything the decision rests on."""
    entries = decisions(queue)
    assert [entry["request"]["row"] for entry in entries] == [1, 2, 3, 4, 5, 6]
    assert [entry["request"]["id"] for entry in entries] == REQUESTS["id"].tolist()
    assert ["problem" in entry for entry in entries] == [False, True, False, True, False, False]
    assert ["decision" in entry for entry in entries] == [True, False, True, False, True, True]
    for entry in entries:
        assert plain(entry)
        assert json.loads(json.dumps(entry, allow_nan=False)) == entry
        for name in ("predictor", "model", "data", "settings", "requests", "forgetcast"):
            assert entry[name] == queue.provenance[name]
        assert entry["policy"] == Policy(retrain_seconds=5).to_dict() | {"fingerprint": queue.policy.fingerprint}
        assert entry["screened"] == queue.provenance["time"]
        assert entry["objective"] == "retrain"
    assert "u7" not in entries[1]["problem"]
    assert "requested already, in row 1" in entries[3]["problem"]


def test_the_request_as_it_came_and_what_was_decided(queue: Triage) -> None:
    """Own columns of the request on one side, ours on the other."""
    first, third, fifth = (decisions(queue)[k] for k in (0, 2, 4))
    assert first["request"] == {"row": 1, "id": "u7", "index": 7, "note": "a", "harm_request": 1.5}
    assert third["request"] == {"row": 3, "id": "u3", "index": 3, "note": None, "harm_request": None}
    assert fifth["request"] == {"row": 5, "id": "u12", "index": 12, "note": "ü\n\"'", "harm_request": None}
    row = queue.table.iloc[0]
    assert set(first["decision"]) == set(COLUMNS) - {"row", "id", "index", "reasons"}
    for name, value in first["decision"].items():
        assert value == row[name] or (value is None and pd.isna(row[name])), name
    assert first["decision"]["seconds"] is None


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        (pd.NA, None),
        (pd.NaT, None),
        (np.float32("nan"), None),
        (-np.inf, None),
        (np.int64(3), 3),
        (np.bool_(True), True),
        (Decimal("1.50"), "1.50"),
        (date(2030, 1, 2), "2030-01-02"),
        (pd.Timestamp("2030-01-02", tz="UTC"), "2030-01-02 00:00:00+00:00"),
        (datetime(2030, 1, 2, tzinfo=timezone.utc), "2030-01-02 00:00:00+00:00"),
        (b"\xff", "b'\\xff'"),
        (np.array([1.0, np.nan]), [1.0, None]),
        ({"a": (1, {2: pd.NaT})}, {"a": [1, {"2": None}]}),
        (2**70, 2**70),
    ],
)
def test_whatever_a_request_brings_along(queue: Triage, tmp_path: Path, value: Any, kept: Any) -> None:
    """Kept as JSON has it."""
    column = pd.Series([value] + [None] * 3, index=queue.table.index, dtype=object)
    odd = Triage(
        queue.table.assign(extra=column), queue.problems, queue.interactions, queue.batch, queue.policy, queue.report,
        queue.objective, queue.provenance,
    )  # fmt: skip
    entries = decisions(odd)
    assert entries[0]["request"]["extra"] == kept
    assert all(plain(entry) for entry in entries)
    append(tmp_path / "record.jsonl", entries)
    assert check(tmp_path / "record.jsonl").entries == 6


def test_an_edit_of_a_decision_is_found(queue: Triage, tmp_path: Path) -> None:
    """A route, a harm, a policy's threshold, the name of who asked: the line is named."""
    path = tmp_path / "record.jsonl"
    last = append(path, decisions(queue))
    append(path, decisions(queue))
    assert check(path).entries == 12
    with pytest.raises(RecordError, match="6 more follow it"):
        check(path, expected=last)
    text = path.read_text()
    lines = text.splitlines(keepends=True)
    route = queue.table["route"].iloc[1]
    for number, old, new in (
        (3, f'"route":"{route}"', '"route":"Quick"'),
        (1, '"quick_to":0.02', '"quick_to":0.03'),
        (9, '"id":"u3"', '"id":"u4"'),
        (2, '"problem":"', '"problem":"?'),
    ):
        edited = list(lines)
        assert old in edited[number - 1]
        edited[number - 1] = edited[number - 1].replace(old, new, 1)
        path.write_text("".join(edited))
        with pytest.raises(RecordError, match=f"line {number} was changed"):
            check(path)
    path.write_text(text)
    assert check(path).entries == 12
