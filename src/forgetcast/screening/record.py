"""A record of decisions that shows every later edit: JSON lines, each of which carries the hash of the one before.

A line is the canonical JSON of ``sequence`` (1, 2, ...), ``time`` (UTC, ISO 8601), ``previous`` (the hash of the line
before; of the first line 64 zeros), ``entry`` (what was recorded) and ``hash`` (SHA-256 of the canonical JSON of the
other four). Whoever changes, removes, inserts or swaps lines breaks the chain there. What the chain alone cannot show
is that lines at the end are gone, or that everything from some line on was written anew: for that, keep the hash that
:func:`append` returns in another place and give it to :func:`check`.

Processes that append at the same time wait for each other (``flock``; POSIX only), and :func:`check` waits for them.
The entries of one call are recorded all or not at all, and are on the disk when the call returns. If the write fails,
the file is cut back to what it was. Where the process is killed in the middle of it, a copy of the lines still lies
beside the record (``.NAME.pending``): what the record holds of them does not count, and the next :func:`append` cuts it
off. A last line that is cut short in any other way is never guessed at: :func:`append` and :func:`check` refuse the
file and say at which byte to cut it, and after that the record goes on from the last whole entry.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from forgetcast._arguments import checked
from forgetcast.errors import InputError, PathError, RecordError
from forgetcast.files.canonical_json import canonical_json

__all__ = ["BEGINNING", "CheckedRecord", "append", "check"]

BEGINNING = "0" * 64
"""What the first line has in place of the hash of the line before, and the last hash of a record without entries."""
_KEYS = {"entry", "hash", "previous", "sequence", "time"}


@dataclass(frozen=True)
class CheckedRecord:
    """What a record holds that passed the check: how many ``entries``, and the ``last`` hash."""

    entries: int
    last: str


@checked("entries")
def append(path: str | Path, entries: Sequence[Mapping[str, Any]]) -> str:
    """Add entries to the record in ``path``, which is made if it is not there.

    Checks the end of the record first, its last two lines; :func:`check` checks all of it.

    Args:
        path: the file.
        entries: what is recorded, a line each: mappings of text to what JSON holds. None at all adds nothing.

    Returns:
        The hash of the last line, 64 hexadecimal digits.

    Raises:
        InputError: an entry is no mapping, or holds what JSON does not.
        RecordError: the record was edited, or ends in half a line; nothing is written then.
        PathError: the file cannot be written.
    """
    if isinstance(entries, Mapping | str | bytes) or not isinstance(entries, Sequence):
        raise InputError(f"record: expected a list of entries; got {type(entries).__name__}")
    for number, entry in enumerate(entries):
        if not isinstance(entry, Mapping):
            raise InputError(f"record: expected mappings as entries; entry {number} is {type(entry).__name__}")
        canonical_json(entry)
    path = Path(path)
    if not entries and not path.exists():
        return BEGINNING
    with _locked(path, writing=True) as file:
        os.ftruncate(file.fileno(), _recorded(file, path))
        sequence, last = _end(file, path)
        lines = []
        for entry in entries:
            sequence += 1
            now = datetime.now(timezone.utc).isoformat(timespec="microseconds")
            line = {"sequence": sequence, "time": now, "previous": last, "entry": entry}
            last = _hash(line)
            lines.append(canonical_json(line | {"hash": last}) + "\n")
        _write(file, "".join(lines).encode(), path)
    return last


@checked("expected")
def check(path: str | Path, *, expected: str | None = None) -> CheckedRecord:
    """Check every line of a record.

    Args:
        path: the file.
        expected: the hash that the last line must have, as :func:`append` returned it.

    Raises:
        RecordError: a line was changed, removed, inserted, swapped or cut short, or the end is not the expected one;
            the message names the line of the first edit.
        InputError: ``expected`` is not 64 hexadecimal digits.
        PathError: the file is missing, a folder, or not readable.
    """
    if expected is not None and not (isinstance(expected, str) and re.fullmatch("[0-9a-fA-F]{64}", expected.strip())):
        raise InputError(f"record: expected a hash of 64 hexadecimal digits; got {expected!r}")
    path = Path(path)
    with _locked(path, writing=False) as file:
        found = _walk(file, path)
        wanted = found.last if expected is None else expected.strip().lower()
        if wanted != found.last:
            file.seek(0)
            hashes = [BEGINNING, *(json.loads(raw)["hash"] for raw in islice(file, found.entries))]
            if wanted in hashes:
                place = hashes.index(wanted)
                raise RecordError(
                    f"record {path}: expected line {place} to be the last; {found.entries - place} more follow it, "
                    f"from line {place + 1} on, in a sound chain: give the hash that was returned when they were added"
                )
            raise RecordError(
                f"record {path}: the end is not the expected one: line {found.entries + 1} and whatever followed it "
                f"was cut off, or lines were written anew; the last of {found.entries} lines has the hash {found.last}"
            )
    return found


# -- lines ---------------------------------------------------------------------------------------------


def _hash(line: Mapping[str, Any]) -> str:
    return hashlib.sha256(canonical_json({key: line[key] for key in _KEYS - {"hash"}}).encode()).hexdigest()


def _line(raw: bytes, number: int, path: Path) -> dict[str, Any]:
    """One line that is what it was when it was written.

    Raises:
        RecordError: it is not.
    """
    where = f"record {path}: line {number}"
    try:
        line = json.loads(raw)
        if not isinstance(line, dict) or set(line) != _KEYS or type(line["sequence"]) is not int:
            raise RecordError(f"{where} was changed: it is no entry of a record")
        spelt = canonical_json(line).encode()
        right = _hash(line)
    except (ValueError, RecursionError) as error:
        raise RecordError(f"{where} was changed: it cannot be read as an entry") from error
    if line["hash"] != right:
        raise RecordError(f"{where} was changed: its content does not have the hash that it carries")
    if spelt != raw.removesuffix(b"\n"):
        raise RecordError(f"{where} was changed: its content is spelt in another way than it was written")
    return line


def _walk(file: BinaryIO, path: Path) -> CheckedRecord:
    """Check all lines from the first.

    Raises:
        RecordError: names the line of the first edit.
    """
    number, last, position = 0, BEGINNING, 0
    end = _recorded(file, path)
    file.seek(0)
    for raw in file:
        if position == end:
            break
        number += 1
        if not raw.endswith(b"\n"):
            raise RecordError(
                f"record {path}: line {number} is cut short: its line end is missing. Either a machine stopped while "
                f"it was written, or it was edited. The {number - 1} lines before it are sound; after looking into it, "
                f"cut the file there (truncate -s {position}) to go on"
            )
        line = _line(raw, number, path)
        if line["sequence"] != number:
            raise RecordError(f"record {path}: line {number} {_misplaced(line['sequence'], number, file)}")
        if line["previous"] != last:
            before = (
                f"line {number - 1} was changed together with its hash" if number > 1 else "lines before it are gone"
            )
            raise RecordError(
                f"record {path}: line {number} does not follow the one before: {before}, or it was inserted"
            )
        last = line["hash"]
        position += len(raw)
    return CheckedRecord(number, last)


def _misplaced(sequence: int, number: int, rest: BinaryIO) -> str:
    """What happened to a line that is sound in itself and holds another entry than its place says."""
    holds = f"holds entry {sequence}"
    if sequence < number:
        return f"{holds} where entry {number} is expected: a line was inserted before it, repeated or moved"
    for later, raw in enumerate(rest, number + 1):
        if re.search(rb'"sequence":%d[,}]' % number, raw):
            return f"{holds}, and entry {number} stands in line {later}: lines were swapped"
    gone = f"entry {number} was" if sequence == number + 1 else f"entries {number} to {sequence - 1} were"
    return f"{holds}: {gone} removed before it"


def _end(file: BinaryIO, path: Path) -> tuple[int, str]:
    """Number and hash of the last entry, after a check of the last two lines.

    Raises:
        RecordError: the record was edited there; names the line of the first edit in all of it.
    """
    size = file.seek(0, os.SEEK_END)
    if size == 0:
        return 0, BEGINNING
    length, tail = 4096, b""
    while tail.count(b"\n") < 3 and len(tail) < size:
        length = min(2 * length, size)
        file.seek(size - length)
        tail = file.read(length)
    lines = tail.split(b"\n")
    try:
        if lines.pop():
            raise RecordError(f"record {path}: the last line is cut short")
        line = _line(lines[-1], 0, path)
        before: dict[str, Any] = {"sequence": 0, "hash": BEGINNING}
        if len(lines) > 1 or line["sequence"] > 1:
            before = _line(lines[-2], 0, path)
        if line["sequence"] != before["sequence"] + 1 or line["previous"] != before["hash"]:
            raise RecordError(f"record {path}: the last line does not follow the one before")
    except (RecordError, IndexError):
        _walk(file, path)
        raise
    return line["sequence"], line["hash"]


# -- the file ------------------------------------------------------------------------------------------


@contextmanager
def _locked(path: Path, *, writing: bool) -> Iterator[BinaryIO]:
    """The open file, locked against those who write, and for writing also against those who read.

    Raises:
        PathError: it cannot be opened, or is no file.
    """
    import fcntl

    try:
        if path.is_dir():
            raise PathError(f"record: expected a file; {path} is a folder")
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND if writing else os.O_RDONLY
        with open(os.open(path, flags | os.O_NONBLOCK, 0o644), "r+b" if writing else "rb", buffering=-1) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise PathError(f"record: expected a file; {path} is something else")
            fcntl.flock(file, fcntl.LOCK_EX if writing else fcntl.LOCK_SH)
            yield file
    except PathError:
        raise
    except FileNotFoundError as error:
        raise PathError(f"record: there is no {'folder' if writing else 'file'} for {path}") from error
    except OSError as error:
        what = "written" if writing else "read"
        raise PathError(f"record: {path} cannot be {what}: {error.strerror or error}") from error


def _pending(path: Path) -> Path:
    """Where the lines of a call that is under way are copied to, after a line with the record's size before it."""
    return path.with_name(f".{path.name}.pending")


def _recorded(file: BinaryIO, path: Path) -> int:
    """Bytes of the record without what a call that was killed had written of its lines."""
    size = os.fstat(file.fileno()).st_size
    if not _pending(path).is_file():
        return size
    try:
        with _pending(path).open("rb") as lines:
            place = int(lines.readline(32))
            file.seek(place)
            while written := file.read(1 << 20):
                if lines.read(len(written)) != written:
                    return size
            return min(place, size) if lines.read(1) else size
    except (OSError, ValueError):
        return size


def _write(file: BinaryIO, content: bytes, path: Path) -> None:
    """Append all of ``content`` and see it to the disk, or leave the file as it was."""
    if not content:
        return
    descriptor = file.fileno()
    size = os.fstat(descriptor).st_size
    try:
        with suppress(PermissionError), _pending(path).open("wb") as copy:  # not where only the record may be written
            copy.write(b"%d\n" % size + content)
            copy.flush()
            os.fsync(copy.fileno())
        written = 0
        while written < len(content):
            written += os.write(descriptor, content[written:])
        os.fsync(descriptor)
    except BaseException:
        os.ftruncate(descriptor, size)
        raise
    finally:
        with suppress(OSError):
            _pending(path).unlink()
    if size == 0:  # the file may be new: its name has to be on the disk as well
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
