"""Folders written whole or not at all, what a place lies under, and where the folders that are shipped lie."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from forgetcast.errors import PathError

__all__ = ["nearest_existing", "replaced_folder", "shipped_folder"]


def nearest_existing(path: Path) -> Path:
    """``path`` itself if it is there, else the nearest of its parents that is."""
    return next(place for place in (path, *path.absolute().parents) if place.exists())


def shipped_folder(module: str, inside: str, checkout: str) -> Path | None:
    """A shipped folder with a manifest: inside the package that the file ``module`` is of, or in the checkout."""
    package = Path(module).resolve().parent
    places = (package / inside, package.parents[1] / checkout)
    return next((place for place in places if (place / "manifest.json").is_file()), None)


@contextmanager
def replaced_folder(folder: Path, what: str, check: Callable[[Path], None]) -> Iterator[Path]:
    """A place beside ``folder`` for a new one, which takes its place when the block ends without an error.

    Until then, and after any error, ``folder`` is as it was.

    Args:
        folder: what is replaced, or made.
        what: what it holds, for messages.
        check: called with ``folder`` first; raises where it must not be replaced.

    Raises:
        PathError: something cannot be written.
    """
    try:
        check(folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as scratch:
            fresh = Path(scratch) / "fresh"
            yield fresh
            _swap(fresh, folder, Path(scratch) / "previous")
    except OSError as error:
        if isinstance(error, PathError):
            raise
        raise PathError(f"the {what} cannot be saved in {folder}: {error.strerror or error}") from error


def _swap(fresh: Path, folder: Path, previous: Path) -> None:
    """Put ``fresh`` in the place of ``folder``; on failure ``folder`` is as before."""
    if not folder.exists():
        fresh.replace(folder)
        return
    mode = folder.stat().st_mode
    folder.replace(previous)
    try:
        fresh.replace(folder)
        folder.chmod(mode)
    except OSError:
        previous.replace(folder)
        raise
