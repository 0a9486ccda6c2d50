"""Where a corpus lies: a folder on disk, or a place in an object store that fsspec reaches by its URL."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, Union

from forgetcast.errors import ForgetcastError, PathError, first_line
from forgetcast.files import atomic as whole_files
from forgetcast.files.atomic import whole_file

if TYPE_CHECKING:
    from upath import UPath

__all__ = [
    "Place",
    "check_writable",
    "kind_in_store",
    "place",
    "reached",
    "read_if_there",
    "remove_stale_drafts",
    "write_atomically",
]

Place: TypeAlias = Union[Path, "UPath"]
"""A path on disk, or one of universal_pathlib, which has the same methods, in a store."""

DISK = ("file", "local")


def place(folder: str | os.PathLike[str] | Place) -> Place:
    """The path of a folder or a file; with ``scheme://`` in front one in a store, such as ``s3://bucket/corpus``.

    What opens a store (keys, endpoints) is read from the environment or from fsspec's configuration files, here and by
    every worker. Listings are not kept between calls: workers write what this process has never seen.

    Raises:
        PathError: the scheme is unknown, or its package is not installed.

    >>> place("corpora/mine").name, place("memory://corpora/mine").name
    ('mine', 'mine')
    """
    if not isinstance(folder, str) or "://" not in folder:
        return folder if hasattr(folder, "fs") else Path(folder)  # type: ignore[return-value]
    from upath import UPath

    with reached(folder):
        found = UPath(folder, use_listings_cache=False)
        return Path(found.path) if found.protocol in DISK else _opened(found)


def _opened(found: UPath) -> UPath:
    assert found.fs is not None  # asking for it imports the package of the scheme
    return found


@contextmanager
def reached(where: object) -> Iterator[None]:
    """Within this block, what goes wrong in a store is a PathError that names the place.

    Raises:
        PathError: anything but an error of forgetcast was raised.
    """
    try:
        yield
    except ForgetcastError:
        raise
    except Exception as error:
        raise PathError(
            f"{where} cannot be reached ({type(error).__name__}: {first_line(error)}): expected a folder, or the URL "
            "of a store that fsspec knows, with its package installed and its keys at hand"
        ) from error


def write_atomically(path: Place, content: bytes) -> None:
    """Write a file whole or not at all; its folder is made.

    On disk it is written beside its place and moved. In a store it is one upload, which takes effect when it is
    complete; what a store does otherwise, the checksums of shards and manifests bring to light.

    Raises:
        PathError: the store refuses, or cannot be reached.
        OSError: the disk cannot be written.
    """
    if not isinstance(path, Path):
        with reached(path):
            path.fs.pipe_file(path.path, content)  # not a stream: closing one after an error would upload its beginning
        return
    with whole_file(path, "file", tidy=False) as draft:
        draft.write_bytes(content)


def kind_in_store(found: UPath) -> str | None:
    """What a store has there: "file", "directory" (also one that is only part of names) or None.

    Raises whatever the store raises where it refuses to say.
    """
    try:
        return str(found.fs.info(found.path)["type"])
    except FileNotFoundError:
        return None


def check_writable(folder: Place) -> None:
    """Refuse a store that takes nothing, before there is anything to keep: an empty object comes and goes.

    Raises:
        PathError: the store refuses, or cannot be reached.
    """
    if not isinstance(folder, Path):
        trial = folder / ".trial"
        write_atomically(trial, b"")
        with reached(folder):
            trial.unlink()


def read_if_there(path: Place) -> bytes | None:
    """The content of a file, or None where there is none."""
    try:
        return path.read_bytes()
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        return None


def remove_stale_drafts(folder: Place) -> None:
    """Remove the drafts of this machine's processes that were killed while they wrote. Stores have no drafts."""
    if isinstance(folder, Path):
        whole_files.remove_stale_drafts(folder)
