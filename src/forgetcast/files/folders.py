"""Folders written whole or not at all, what a place lies under, and where the folders that are shipped lie."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from importlib.resources import files
from pathlib import Path

from forgetcast.errors import PathError
from forgetcast.files.atomic import PREVIOUS, draft_beside, naming, remove_stale_drafts

__all__ = ["locked_folder", "nearest_existing", "replaced_folder", "shipped_folder"]


def nearest_existing(path: Path) -> Path:
    """``path`` itself if it is there, else the nearest of its parents that is."""
    return next(place for place in (path, *path.absolute().parents) if place.exists())


PACKAGE = Path(str(files("forgetcast"))).resolve()
"""Where the package itself lies."""


def shipped_folder(inside: str, checkout: str, lacking: str) -> Path:
    """A shipped folder with a manifest: ``inside`` the package, or in the ``checkout`` whose src folder it lies in.

    Raises:
        PathError: there is neither; ``lacking`` is the message.
    """
    for folder in (PACKAGE / inside, PACKAGE.parents[1] / checkout):
        if (folder / "manifest.json").is_file():
            return folder
    raise PathError(lacking)


@contextmanager
def replaced_folder(folder: Path, what: str, check: Callable[[Path], None]) -> Iterator[Path]:
    """A place beside ``folder`` for a new one, which takes its place when the block ends without an error.

    Until then, and after any error, ``folder`` is as it was. The two change places in one step where the system can
    do that (Linux): at no moment, not even if the process is killed, is ``folder`` missing or half new. Elsewhere the
    old one of a process that was killed between two steps is put back by the next that writes beside it. Processes
    that replace folders of one parent wait for each other, and for those that read one under a shared lock.

    Args:
        folder: what is replaced, or made.
        what: what it holds, for messages.
        check: called with ``folder`` first; raises where it must not be replaced.

    Raises:
        PathError: something cannot be written.
    """
    scratch = draft_beside(folder)
    with naming(what, folder):
        check(folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with locked_folder(folder.parent):
            remove_stale_drafts(folder.parent)
            check(folder)
            scratch.mkdir()
            try:
                yield scratch / "fresh"
                _swap(scratch / "fresh", folder, scratch / PREVIOUS)
            except PathError as error:  # of a part that was itself written whole or not at all
                raise PathError(str(error).replace(str(scratch / "fresh"), str(folder))) from error
            finally:
                shutil.rmtree(scratch, ignore_errors=True)


@contextmanager
def locked_folder(folder: Path, *, shared: bool = False) -> Iterator[None]:
    """A block that one process or thread at a time runs for ``folder``, or any number with ``shared``, which readers
    use; the lock goes with the process. Where the folder cannot be locked the block runs all the same.
    """
    import fcntl

    with ExitStack() as closing:
        with suppress(OSError):
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            closing.callback(os.close, descriptor)
            fcntl.flock(descriptor, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
        yield


def _swap(fresh: Path, folder: Path, previous: Path) -> None:
    """Put ``fresh`` in the place of ``folder``; on failure ``folder`` is as before."""
    if not folder.exists():
        fresh.replace(folder)
        return
    fresh.chmod(folder.stat().st_mode)
    if _exchanged(fresh, folder):
        return
    previous.mkdir()
    folder.replace(previous / folder.name)
    try:
        fresh.replace(folder)
    except OSError:
        (previous / folder.name).replace(folder)
        raise


def _exchanged(one: Path, other: Path) -> bool:
    """Whether two paths changed places in one step; False where the system or the file system cannot do that."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        return False
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE of <linux/fs.h>
    if rename(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
        return False
    raise OSError(code, os.strerror(code), str(other))
