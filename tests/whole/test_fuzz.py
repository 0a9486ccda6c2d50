"""A short run of ``benchmarks/fuzz.py``: damaged files of every kind are read, or refused in one line."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hostile_judge import judge
from hostile_mutations import fresh, mutate
from hostile_seeds import LOADERS, SHARES

pytestmark = pytest.mark.slow

INPUTS = 30
"""Inputs for each share of a loader; about 2,100 in all."""


class Place:
    """A valid file or folder of one kind, and room for damaged copies of it."""

    def __init__(self, kind: str, root: Path) -> None:
        self.kind, self.loader = kind, LOADERS[kind]
        self.valid, self.folder, self.canary = root / "valid", root / "inputs" / "folder", root / "canary"
        self.valid.mkdir()
        self.folder.parent.mkdir()
        self.loader.make(self.valid)

    def fresh(self) -> Path:
        """A new copy."""
        fresh(self.valid, self.folder)
        return self.folder

    def check(self, what: str) -> str:
        """Read what is there; "accepted" or "refused", anything else fails."""
        outcome, said = judge(self.loader.read, self.folder, self.canary)
        assert outcome != "finding", f"{self.kind}, {what}: {said}"
        return outcome


@pytest.fixture(scope="module", params=list(LOADERS))
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """One of every kind, hashes made right again where there are any."""
    return Place(request.param, tmp_path_factory.mktemp(request.param))


def test_what_is_valid_is_read(place: Place) -> None:
    """Also after hashes were made anew: else the fuzzer would only test the check of hashes."""
    place.fresh()
    assert place.check("valid") == "accepted"
    if place.loader.repair is not None:
        place.fresh()
        place.loader.repair(place.folder)
        assert place.check("repaired") == "accepted"


def test_damaged_files_are_read_or_refused(place: Place) -> None:
    """Bytes, JSON values, columns, archives, links and pipes, as in the long run with another seed."""
    counts = {"accepted": 0, "refused": 0}
    for number in range(INPUTS * SHARES[place.kind]):
        rng = random.Random(f"ci/{place.kind}/{number}")
        place.fresh()
        done = mutate(place.folder, rng, place.canary)
        if place.loader.repair is not None and rng.random() < 0.7:
            place.loader.repair(place.folder)
        counts[place.check(f"input {number}: {done}")] += 1
    assert counts["refused"] > 0


DOCUMENTS = {
    "predictor": "manifest.json",
    "predictor residuals": "residuals.json",
    "calibrated": "calibration.json",
    "corpus": "manifest.json",
    "factors": "manifest.json",
    "policy": "policy.json",
    "record": "record.jsonl",
    "requests-jsonl": "requests.jsonl",
}
scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["\0", "\ud800", "../x", 10**400, "loss", "retrain", "a\nb"])
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@pytest.fixture(scope="module", params=list(DOCUMENTS))
def document(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Place, str]:
    """A folder, and the JSON document in it that is made up."""
    return Place(request.param.split(" ")[0], tmp_path_factory.mktemp("document")), DOCUMENTS[request.param]


def _put(whole: Any, route: list[int], value: Any) -> Any:
    """``whole`` with ``value`` in the place that ``route`` leads to."""
    if not route or not isinstance(whole, (dict, list)) or not whole:
        return value
    keys = list(whole) if isinstance(whole, dict) else list(range(len(whole)))
    key = keys[route[0] % len(keys)]
    whole[key] = _put(whole[key], route[1:], value)
    return whole


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(route=st.lists(st.integers(0, 50), max_size=5), value=values)
def test_documents_with_any_value_anywhere_are_read_or_refused(
    document: tuple[Place, str], route: list[int], value: Any
) -> None:
    """A whole document of anything, or a valid one with anything in one place, hashes made right again."""
    place, name = document
    path = place.fresh() / name
    lines = path.read_text().split("\n") if name.endswith("l") else [path.read_text()]
    lines[0] = json.dumps(_put(json.loads(lines[0]), route, value))
    path.write_text("\n".join(lines))
    if place.loader.repair is not None:
        place.loader.repair(place.folder)
    place.check(f"{name} with {value!r} at {route}")
