"""A triage policy: what it accepts, how it is kept, and what its fingerprint stands for."""

from __future__ import annotations

import inspect
import json
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from forgetcast.errors import FileFormatError, InputError, PathError
from forgetcast.files.canonical_json import canonical_json
from forgetcast.screening.policy import Policy

OTHER = Policy(0.8, 0.01, 0.2, ("influence", "scrub"), 0.95, 40, 12.5, 0.1, 2.0, True)


def test_every_setting_says_what_it_means_and_why() -> None:
    """The docstring has an entry for each, which names the default."""
    text = inspect.getdoc(Policy) or ""  # from Python 3.13 on, __doc__ has no common indentation
    entries = dict(re.findall(r"^    (\w+): (.*?)(?=^    \w+: |\Z)", text, re.M | re.S))
    for field in fields(Policy):
        assert f"{field.default}: " in entries[field.name]


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("trivial_from", 1.01, "a number from 0 to 1; got 1.01"),
        ("trivial_from", -0.1, "a number from 0 to 1; got -0.1"),
        ("quick_to", "0.02", "a number from 0 to 1; got '0.02' (str)"),
        ("quick_to", True, "a number from 0 to 1; got True (bool)"),
        ("quick_to", None, "a number from 0 to 1; got None"),
        ("retrain_from", float("nan"), "a number from 0 to 1; got nan"),
        ("retrain_from", 0.01, "at most retrain_from"),
        ("interaction_from", [0.1], "a number from 0 to 1; got [0.1] (list)"),
        ("level", 1.0, "a number above 0 and below 1; got 1"),
        ("level", 0, "a number above 0 and below 1; got 0"),
        ("step_margin", 0.5, "at least 1; got 0.5"),
        ("step_margin", float("inf"), "at least 1; got inf"),
        ("step_margin", 10**400, "at least 1; got inf"),
        ("retrain_epochs", 0, "a whole number that is at least 1; got 0"),
        ("retrain_epochs", 20.0, "a whole number that is at least 1; got 20.0"),
        ("retrain_epochs", True, "a whole number that is at least 1; got True"),
        ("retrain_seconds", 0, "a number of seconds above 0"),
        ("unlearners", "scrub", "a list of names of unlearners, or nothing (null); got 'scrub'"),
        ("unlearners", [], "a list of names of unlearners, or nothing (null); got []"),
        ("unlearners", ["scrub", 3], "got 3 among them"),
        ("unlearners", ["scrub", "scrub"], "each name once; got 'scrub' more often"),
    ],
)
def test_a_value_of_another_kind_is_refused(tmp_path: Path, key: str, value: Any, expected: str) -> None:
    """In Python, and in a file, which is named then."""
    with pytest.raises(InputError, match=re.escape(expected)) as caught:
        Policy(**{key: value})
    assert key in str(caught.value)
    path = tmp_path / "policy.json"
    path.write_text(json.dumps({key: value}))
    with pytest.raises(InputError, match=re.escape(expected)) as caught:
        Policy.load(path)
    assert str(path) in str(caught.value)


def test_an_unknown_key_comes_with_the_nearest(tmp_path: Path) -> None:
    """And with all there are."""
    path = tmp_path / "policy.json"
    path.write_text('{"quick_too": 0.1}')
    with pytest.raises(InputError, match=r"got 'quick_too': did you mean 'quick_to'\? Known: trivial_from, quick_to"):
        Policy.load(path)
    path.write_text('{"Retrain_From": 0.1}')
    with pytest.raises(InputError, match="did you mean 'retrain_from'"):
        Policy.load(path)


@pytest.mark.parametrize("policy", [Policy(), OTHER])
def test_a_saved_policy_is_the_same(tmp_path: Path, policy: Policy) -> None:
    """Equal, with an equal fingerprint; nothing else is left in the folder."""
    path = tmp_path / "policy.json"
    path.write_text("an older one")
    policy.save(path)
    assert Policy.load(path) == policy
    assert Policy.load(path).fingerprint == policy.fingerprint
    assert [found.name for found in tmp_path.iterdir()] == ["policy.json"]
    assert Policy.from_dict(policy.to_dict()) == policy


def test_a_file_names_only_what_differs(tmp_path: Path) -> None:
    """The rest has its default; a byte-order mark does no harm."""
    path = tmp_path / "policy.json"
    path.write_text('{"quick_to": 0, "unlearners": ["scrub"]}', encoding="utf-8-sig")
    assert Policy.load(path) == Policy(quick_to=0.0, unlearners=("scrub",))


def test_the_fingerprint_is_of_the_values() -> None:
    """However a number is written; any change of any setting changes it."""
    assert (
        Policy(trivial_from=1, retrain_seconds=3).fingerprint
        == Policy(trivial_from=1.0, retrain_seconds=3.0).fingerprint
    )
    changed = [Policy(**{field.name: getattr(OTHER, field.name)}) for field in fields(Policy)]
    assert len({policy.fingerprint for policy in (Policy(), OTHER, *changed)}) == len(changed) + 2
    assert re.fullmatch("[0-9a-f]{64}", Policy().fingerprint)


@pytest.mark.parametrize(
    ("content", "kind", "message"),
    [
        (b"", FileFormatError, "this is not JSON"),
        (b"quick_to = 0.1", FileFormatError, "this is not JSON"),
        (b'{"quick_to": 0.1', FileFormatError, "this is not JSON"),
        (b"\xff\xfe\x00", FileFormatError, "this is not JSON"),
        (b"[" * 100_000, FileFormatError, "this is not JSON"),
        (b"[0.1]", InputError, "expected a JSON object.*got list"),
        (b"null", InputError, "expected a JSON object.*got null"),
        (b'{"quick_to": 0.1, "quick_to": 0.01}', InputError, "quick_to: expected once; got it 2 times"),
    ],
)
def test_a_file_that_is_no_policy_is_refused(tmp_path: Path, content: bytes, kind: Any, message: str) -> None:
    """In one line that names it."""
    path = tmp_path / "policy.json"
    path.write_bytes(content)
    with pytest.raises(kind, match=message) as caught:
        Policy.load(path)
    assert str(path) in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_path_that_is_no_file_is_refused(tmp_path: Path) -> None:
    """To read from and to write to."""
    for path in (tmp_path, tmp_path / "none.json"):
        with pytest.raises(PathError, match=re.escape(str(path))):
            Policy.load(path)
    (tmp_path / "file").touch()
    for path in (tmp_path, tmp_path / "file" / "policy.json"):
        with pytest.raises(PathError, match="the policy cannot be written"):
            Policy().save(path)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_canonical_json_has_one_spelling() -> None:
    """Whatever the order of keys; what JSON cannot hold is refused."""
    assert canonical_json({"b": 1, "a": {"d": (1.0,), "c": "ü"}}) == '{"a":{"c":"\\u00fc","d":[1.0]},"b":1}'
    again: list[Any] = []
    again.append(again)
    for value in (float("nan"), {1: 2}, {"a": {None: 1}}, b"x", {1, 2}, object(), again, 10**5000):
        with pytest.raises(InputError, match="expected"):
            canonical_json(value)
