"""Kill a process after every byte that it adds to a record, and check what the record holds then.

    python killed_record.py RECORD WRITES

A program of its own, for it forks at every byte: a process that holds little forks twenty times as fast as one that
runs tests.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

from forgetcast.screening.record import append, check


def main(path: Path, writes: int) -> None:
    """Fails with an AssertionError where a kill left anything but nothing, or all, of a call."""
    append(path, [{"n": 0}])
    before, write = path.read_bytes(), os.write
    entries = [{"n": 1, "text": "x" * 50}, {"n": 2}]
    append(path, entries)
    added = len(path.read_bytes()) - len(before)
    assert added > 300
    for kept in range(added + 1):
        path.write_bytes(before)
        parts = iter([kept // 2, kept - kept // 2] if writes == 2 else [kept])

        def stopped(descriptor: int, content: bytes, parts: Iterator[int] = parts) -> int:
            done = write(descriptor, content[: next(parts)])
            if parts.__length_hint__() == 0:  # type: ignore[attr-defined]
                os.kill(os.getpid(), signal.SIGKILL)
            return done

        child = os.fork()
        if child == 0:
            os.write = stopped  # type: ignore[assignment]
            append(path, entries)
            os._exit(1)
        assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
        assert len(path.read_bytes()) == len(before) + kept
        assert check(path).entries == (3 if kept == added else 1)
        last = append(path, [{"n": 3}])
        assert check(path, expected=last).entries == (4 if kept == added else 2)
        assert [file.name for file in path.parent.iterdir()] == [path.name]


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
