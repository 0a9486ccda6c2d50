"""Files written whole or not at all, and the drafts that killed processes have left.

A file is written to a draft beside its place and moved there when it is complete. So readers find the old content or
the new, whatever stops the writer. A draft carries the machine and the process that writes it: one of a process of this
machine that is no more is removed by whoever writes to the folder next.
"""

from __future__ import annotations

import errno
import hashlib
import os
import platform
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

from forgetcast.errors import ForgetcastError, PathError

__all__ = ["PREVIOUS", "draft_beside", "naming", "remove_stale_drafts", "whole_file"]

MACHINE = hashlib.sha256(platform.node().encode()).hexdigest()[:8]
PREVIOUS = "previous"
"""Inside a draft of a folder: where the one that it replaces waits, under its name, where the two cannot be exchanged
in one step."""
FULL = {
    errno.ENOSPC: "make room there and run it again",
    getattr(errno, "EDQUOT", errno.ENOSPC): "make room there and run it again",
    errno.EFBIG: "raise the limit on the size of files and run it again",
}
_numbers = count()


@contextmanager
def naming(what: str, path: str | os.PathLike[str]) -> Iterator[None]:
    """A block that writes ``path``; the error of one that fails names it and says how to fix it.

    >>> with naming("report", "r.html"):
    ...     raise OSError(errno.ENOSPC, "some library's words")
    Traceback (most recent call last):
    forgetcast.errors.PathError: the report cannot be written to r.html: No space left on device; make room there and \
run it again

    Raises:
        PathError: wraps any ``OSError`` that forgetcast did not raise.
    """
    try:
        yield
    except OSError as error:
        if isinstance(error, ForgetcastError):
            raise
        reason = os.strerror(error.errno) if error.errno else str(error)
        remedy = FULL.get(error.errno or 0)
        message = f"the {what} cannot be written to {path}: {reason}"
        raise PathError(f"{message}; {remedy}" if remedy else message) from error


def draft_beside(path: Path) -> Path:
    """A name beside ``path``, with its suffix, that no other process or thread writes to."""
    return path.with_name(f".forgetcast.{MACHINE}.{os.getpid()}.{next(_numbers)}{path.suffix}")


@contextmanager
def whole_file(path: Path, what: str = "file", *, tidy: bool = True) -> Iterator[Path]:
    """A draft beside ``path`` that takes its place when the block ends without an error; parent folders are made.

    Args:
        path: the file.
        what: what it is, for messages.
        tidy: remove the drafts of dead processes first; leave it out where many files go to one folder.

    Raises:
        PathError: it cannot be written; what was there is as before, and no draft is left.
    """
    draft = draft_beside(path)
    with naming(what, path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):
            os.lstat(path)  # a name that is too long is refused before the work
        if tidy:
            remove_stale_drafts(path.parent)
        try:
            yield draft
            os.replace(draft, path)
        finally:
            draft.unlink(missing_ok=True)


def remove_stale_drafts(folder: Path) -> None:
    """Remove the drafts that dead processes of this machine left in ``folder``; a living one's are left alone.

    A folder that was on its way out when its process was killed, with nothing in its place yet, goes back.
    """
    for draft in folder.glob(f".forgetcast.{MACHINE}.*"):
        found = re.match(r"\.forgetcast\.\w+\.(\d+)\.\d+", draft.name)
        if found is None or _is_running(int(found[1])):
            continue
        try:
            if draft.is_dir():
                for previous in (draft / PREVIOUS).glob("*"):
                    if not (folder / previous.name).exists():
                        previous.replace(folder / previous.name)
                shutil.rmtree(draft)
            else:
                draft.unlink()
        except OSError:  # another process tidies up at the same time, or the draft is somebody else's
            continue


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True
