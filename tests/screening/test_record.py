"""The record of decisions: every edit is found and named, and appending is safe."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from forgetcast.errors import InputError, PathError, RecordError
from forgetcast.screening.record import BEGINNING, CheckedRecord, append, check

ENTRIES = [{"index": 3, "route": "quick"}, {"index": 5, "harm": 0.25}, {"who": "ü"}, {"index": 9, "list": [1, None]}]


@pytest.fixture
def record(tmp_path: Path) -> Path:
    """A record of four entries, written by two calls."""
    path = tmp_path / "record.jsonl"
    append(path, ENTRIES[:2])
    append(path, ENTRIES[2:])
    return path


def lines(path: Path) -> list[bytes]:
    """With their ends."""
    return path.read_bytes().splitlines(keepends=True)


def edited(path: Path, parts: list[bytes], **settings: Any) -> str:
    """What is said of a record of these lines; appending to it never makes it sound."""
    path.write_bytes(b"".join(parts))
    with pytest.raises(RecordError) as caught:
        check(path, **settings)
    return str(caught.value)


def test_a_record_holds_what_was_appended(record: Path) -> None:
    """In order, chained from 64 zeros, with the time, and the last hash is the one that was returned."""
    found = [json.loads(line) for line in lines(record)]
    assert [line["entry"] for line in found] == ENTRIES
    assert [line["sequence"] for line in found] == [1, 2, 3, 4]
    assert [line["previous"] for line in found] == [BEGINNING, *(line["hash"] for line in found[:-1])]
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}\+00:00", line["time"]) for line in found)
    assert check(record) == CheckedRecord(4, found[-1]["hash"])
    last = append(record, [{"n": np.int64(3)}])
    assert check(record, expected=last) == CheckedRecord(5, last)
    assert append(record, []) == last
    assert check(record, expected=last.upper()).entries == 5


def test_any_byte_counts(record: Path) -> None:
    """Each byte of each line, changed, removed or doubled, is found, in its line or (a rewritten line end) the next."""
    whole = record.read_bytes()
    for place in range(len(whole)):
        number = whole[:place].count(b"\n") + 1
        for parts in (
            [whole[:place], bytes([whole[place] ^ 1]), whole[place + 1 :]],
            [whole[:place], whole[place + 1 :]],
            [whole[: place + 1], whole[place:]],
        ):
            said = edited(record, parts)
            named = int(re.search(r"line (\d+)", said)[1])  # type: ignore[index]
            assert named == number or (whole[place : place + 1] == b"\n" and named == number + 1), said


@pytest.mark.parametrize("k", [1, 2, 3])
def test_lines_that_were_removed_swapped_or_inserted_are_named(record: Path, k: int) -> None:
    """Line k of four, from 1."""
    own = lines(record)
    before, line, after = own[: k - 1], own[k - 1], own[k:]
    assert f"line {k} holds entry {k + 1}: entry {k} was removed before it" in edited(record, before + after)
    swapped = edited(record, [*before, own[k], line, *own[k + 1 :]])
    assert f"line {k} holds entry {k + 1}, and entry {k} stands in line {k + 1}: lines were swapped" in swapped
    repeated = edited(record, [*before, line, line, *after])
    assert f"line {k + 1} holds entry {k} where entry {k + 1} is expected" in repeated
    for inserted in (b"\n", b'{"index":1}\n', b"[]\n", b"\xff\n"):
        assert f"line {k} was changed" in edited(record, [*before, inserted, line, *after])
    for changed in (b" " + line, line[:-1] + b"\r\n", line.replace(b":", b": ", 1), b"\xef\xbb\xbf" + line):
        assert f"line {k} was changed" in edited(record, [*before, changed, *after])


@pytest.mark.parametrize("k", [1, 2, 3])
def test_a_line_that_was_changed_with_its_hash_breaks_the_chain(record: Path, tmp_path: Path, k: int) -> None:
    """The next line still carries the old hash; of the last line only the expected hash tells."""
    own = lines(record)
    last = json.loads(own[-1])["hash"]
    forged = tmp_path / "forged.jsonl"
    append(forged, ENTRIES[: k - 1])
    forged.write_bytes(b"".join(own[: k - 1]))
    append(forged, [{"index": 1000}])
    said = edited(record, lines(forged) + own[k:])
    assert f"line {k + 1} does not follow the one before: line {k} was changed together with its hash" in said
    append(forged, ENTRIES[k:])
    assert check(forged).entries == 4
    assert "written anew" in edited(record, lines(forged), expected=last)


@pytest.mark.parametrize("kept", [0, 1, 2, 3])
def test_an_end_that_was_cut_off_is_found_by_the_expected_hash(record: Path, kept: int) -> None:
    """The chain alone cannot tell."""
    last = check(record).last
    said = edited(record, lines(record)[:kept], expected=last)
    assert f"line {kept + 1} and whatever followed it was cut off" in said
    assert check(record).entries == kept


def test_entries_after_the_expected_one_are_counted(record: Path) -> None:
    """The record has grown since, or somebody wrote into it."""
    last = check(record).last
    append(record, [{}, {}])
    with pytest.raises(RecordError, match="expected line 4 to be the last; 2 more follow it, from line 5 on"):
        check(record, expected=last)


def test_half_a_line_is_refused_until_it_is_cut_off(record: Path) -> None:
    """What a crash leaves: nothing is appended to it, and the message says where the sound part ends."""
    own = lines(record)
    sound = b"".join(own[:3])
    for half in (own[3][:1], own[3][:40], own[3][:-1]):
        said = edited(record, [sound, half])
        assert "line 4 is cut short" in said
        cut = int(re.search(r"truncate -s (\d+)", said)[1])  # type: ignore[index]
        with pytest.raises(RecordError, match="line 4 is cut short"):
            append(record, [{"index": 1}])
        assert record.read_bytes() == sound + half
        os.truncate(record, cut)
        assert check(record, expected=append(record, [{"index": 1}])).entries == 4


@pytest.mark.parametrize("parts", [(0, 1, 3), (0, 1, 3, 2), (3,), (0, 0), (1, 2, 3)])
def test_nothing_is_appended_to_an_end_that_does_not_verify(record: Path, parts: tuple[int, ...]) -> None:
    """The file stays as it is."""
    own = lines(record)
    record.write_bytes(b"".join(own[k] for k in parts))
    before = record.read_bytes()
    if parts == (1, 2, 3):  # an edit far from the end is for verify to find
        append(record, [{}])
        with pytest.raises(RecordError, match="line 1"):
            check(record)
        return
    with pytest.raises(RecordError, match="line"):
        append(record, [{}])
    assert record.read_bytes() == before


def test_long_lines_are_read_whole_from_the_end(tmp_path: Path) -> None:
    """Longer than what is read from the end at first."""
    path = tmp_path / "record.jsonl"
    for size in (3, 100_000, 5, 9000, 9000):
        last = append(path, [{"text": "x" * size}])
    assert check(path, expected=last).entries == 5


def _many(path: Path, who: int) -> None:
    for k in range(40):
        append(path, [{"who": who, "k": k}, {"who": who, "k": k, "second": True}])


def test_processes_that_append_at_once_wait_for_each_other(tmp_path: Path) -> None:
    """All entries are there, those of one call side by side, and the chain is sound."""
    path = tmp_path / "record.jsonl"
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_many, args=(path, who)) for who in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    assert check(path).entries == 240
    entries = [json.loads(line)["entry"] for line in lines(path)]
    assert all(one | {"second": True} == other for one, other in zip(entries[::2], entries[1::2], strict=True))
    assert [entry["k"] for entry in entries if entry["who"] == 1][::2] == list(range(40))


def test_a_write_that_fails_leaves_the_record_as_it_was(record: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk, after half of the line."""
    before, write = record.read_bytes(), os.write
    calls: list[int] = []

    def full(descriptor: int, content: bytes) -> int:
        calls.append(len(content))
        if len(calls) > 1:
            raise OSError(28, "No space left on device")
        return write(descriptor, content[:20])

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(PathError, match="No space left on device"):
        append(record, [{"index": 1}])
    monkeypatch.undo()
    assert record.read_bytes() == before
    assert len(calls) == 2


@pytest.mark.parametrize(
    "entries", [{"index": 1}, "x", 3, [3], [{"a": float("nan")}], [{1: 2}], [{"a": object()}], [{}, {"a": {1, 2}}]]
)
def test_what_json_cannot_hold_is_refused_before_anything_is_written(tmp_path: Path, entries: Any) -> None:
    """No file appears."""
    with pytest.raises(InputError, match="expected"):
        append(tmp_path / "record.jsonl", entries)
    assert append(tmp_path / "record.jsonl", []) == BEGINNING
    assert not list(tmp_path.iterdir())


def test_a_record_without_entries_verifies(tmp_path: Path) -> None:
    """An empty file; it can be appended to."""
    path = tmp_path / "record.jsonl"
    path.touch()
    assert check(path, expected=BEGINNING) == CheckedRecord(0, BEGINNING)
    assert check(path, expected=append(path, [{}])).entries == 1


def test_a_path_or_hash_that_cannot_be_is_refused(tmp_path: Path, record: Path) -> None:
    """A folder, a file that is not there, a place that is not there; a hash that is none."""
    for path in (tmp_path, tmp_path / "none.jsonl", tmp_path / "none" / "record.jsonl"):
        with pytest.raises(PathError, match="record"):
            check(path)
    for path in (tmp_path, tmp_path / "none" / "record.jsonl"):
        with pytest.raises(PathError, match="record"):
            append(path, [{}])
    for expected in ("", "abc", "g" * 64):
        with pytest.raises(InputError, match="64 hexadecimal digits"):
            check(record, expected=expected)
