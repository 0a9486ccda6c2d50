"""Files that somebody else may have made: only regular ones, only inside their folder, only as large as they may get.

A manifest, an archive or a table of a few kilobytes can name files elsewhere and claim any size. What is read from one
may take :data:`MEMORY_LIMIT` in memory, or :data:`EXPANSION_LIMIT` times the file's size where that is more: compressed
images take tens of times their size, and only what is made for it more than that.
"""

from __future__ import annotations

import json
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forgetcast.errors import FileFormatError, PathError, first_line

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "MEMORY_LIMIT",
    "check_archive",
    "each_once",
    "file_in",
    "parse_json",
    "read_bytes",
    "read_table",
    "regular_file",
    "without_index",
]

MEMORY_LIMIT = 1 << 27
"""Bytes that the content of any file may take."""
EXPANSION_LIMIT = 100
"""How many times its own size the content of a larger file may take."""
FEW = 100_000
"""Rows that a table of any size may have; a larger one has at most ten for each of its bytes."""
ROWS, FEW_ROWS = 16_384, 64
"""Rows of a table that are decoded at a time, so that its size is known before all of it is there; few of nested
values, whose size is not known beforehand."""


def regular_file(path: str | Path, role: str) -> Path:
    """``path``, checked to be a file: no folder, pipe or device, which could be read without end.

    Raises:
        PathError: it is missing, or something else.
    """
    path = Path(path)
    try:
        if path.is_file():
            return path
        kind = "a folder" if path.is_dir() else "something else" if path.exists() else ""
    except (OSError, ValueError) as error:  # a link to itself; a name with a NUL byte, or too long
        reason = getattr(error, "strerror", None) or error
        raise PathError(f"{role}: {str(path)!r} cannot be read: {reason}") from error
    raise PathError(f"{role}: expected a file; {path} is {kind}" if kind else f"{role}: there is no file {path}")


def read_bytes(path: Path, role: str) -> bytes:
    """All of a regular file.

    Raises:
        PathError: as for :func:`regular_file`, or it cannot be read.
    """
    try:
        return regular_file(path, role).read_bytes()
    except PathError:
        raise
    except OSError as error:
        raise PathError(f"{role}: {path} cannot be read: {error.strerror or error}") from error


def file_in(folder: Path, name: str) -> Path:
    """The file ``name`` of a folder that was handed over as a whole.

    Raises:
        FileFormatError: the name is not a file directly in this folder, the file is no regular one, or it is a link
            to a place outside the folder.
    """
    plain = isinstance(name, str) and name == Path(name).name and name.isprintable() and name not in ("", ".", "..")
    if not plain:
        raise FileFormatError(f"{folder}: expected the name of a file in this folder; got {str(name)[:80]!r}")
    path = folder / name
    try:
        inside = path.resolve().is_relative_to(folder.resolve())
        there = path.is_file()
    except (OSError, RuntimeError) as error:  # a link to itself
        raise FileFormatError(f"{path} cannot be read: {first_line(error)}") from error
    if path.is_symlink() and not inside:
        raise FileFormatError(
            f"{path} is a link to a place outside its folder, and is not followed: copy the folder with the files "
            "themselves (cp -rL)"
        )
    if not there and path.exists():
        raise FileFormatError(f"{path}: expected a file; it is {'a folder' if path.is_dir() else 'something else'}")
    return path


def parse_json(content: bytes) -> Any:
    """The value of a JSON document in UTF-8.

    Raises:
        ValueError: it is none, names a key twice, is nested too deeply, or has text that no file can hold.
    """
    try:
        value = json.loads(content.decode("utf-8"), object_pairs_hook=each_once(_refuse))
        if b"\\ud" in content.lower():
            json.dumps(value, ensure_ascii=False).encode(
                "utf-8"
            )  # a ValueError where half a surrogate pair stands alone
        return value
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def each_once(repeated: Callable[[str, int], None]) -> Callable[[list[tuple[str, Any]]], dict[str, Any]]:
    """An ``object_pairs_hook`` for :mod:`json` that passes ``repeated`` each name that one object gives more than once.

    Args:
        repeated: called with the first such name and how often it comes. Where it raises nothing, the last value of
            the name stands.

    >>> json.loads('{"a": 1, "b": 2, "b": 3}', object_pairs_hook=each_once(print))
    b 2
    {'a': 1, 'b': 3}
    """

    def made(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            times = Counter(name for name, _ in pairs)
            repeated(*next(item for item in times.items() if item[1] > 1))
        return found

    return made


def _refuse(name: str, times: int) -> None:
    raise ValueError(f"the name {name[:80]!r} comes twice in one object")


def check_archive(archive: zipfile.ZipFile, path: Path) -> None:
    """Check what the members of a zip file take before any of them is unpacked.

    Raises:
        FileFormatError: too much.
    """
    _check_size(sum(item.file_size for item in archive.infolist()), path.stat().st_size, str(path))


def read_table(source: Path | bytes, name: str, *, utf8: bool = True) -> pa.Table:
    """A Parquet table, decoded piece by piece so that no claim of its own decides how much memory it takes.

    Columns of dictionaries come as their values.

    Args:
        source: the file, or its content.
        name: what messages call it.
        utf8: whether text must be UTF-8; pyarrow itself does not look.

    Raises:
        FileFormatError: it takes too much.
        Exception: pyarrow's, where it is damaged.
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    stored = len(source) if isinstance(source, bytes) else source.stat().st_size

    def opened(repeated: list[str]) -> pq.ParquetFile:
        return pq.ParquetFile(
            pa.BufferReader(source) if isinstance(source, bytes) else source, read_dictionary=repeated
        )

    with opened([]) as file:
        described, schema = file.metadata, file.schema_arrow
        _check_size(
            sum(described.row_group(group).total_byte_size for group in range(described.num_row_groups)), stored, name
        )
        if described.num_rows > max(FEW, 10 * stored):
            raise FileFormatError(
                f"{name} claims {described.num_rows:,} rows in {stored:,} bytes; no real data is like that: make the "
                "file again"
            )
    kinds = [field.type.value_type if pa.types.is_dictionary(field.type) else field.type for field in schema]
    texts = [field.name for field, kind in zip(schema, kinds, strict=True) if kind in (pa.string(), pa.binary())]
    simple = all(kind in (pa.string(), pa.binary()) or pa.types.is_primitive(kind) for kind in kinds)
    pieces, taken = [], 0
    with opened(texts) as file:  # a long text in many rows comes as one text and numbers
        for piece in file.iter_batches(ROWS if simple else FEW_ROWS, use_threads=False):
            for place, column in enumerate(piece.columns):
                if pa.types.is_dictionary(column.type):
                    if column.dictionary.type in (pa.string(), pa.binary()):
                        lengths = pc.binary_length(column.dictionary).take(column.indices)
                        _check_size(taken + (pc.sum(lengths.cast(pa.int64())).as_py() or 0), stored, name)
                    piece = piece.set_column(place, piece.schema.names[place], column.dictionary_decode())
            pieces.append(piece)
            taken += max(piece.nbytes, 8 * piece.num_rows * max(piece.num_columns, 1))
            _check_size(taken, stored, name)
    fields = [field.with_type(kind) for field, kind in zip(schema, kinds, strict=True)]
    table = pa.Table.from_batches(pieces) if pieces else pa.schema(fields).empty_table()
    if utf8:
        table.validate(full=True)
    return table.replace_schema_metadata(schema.metadata)


def without_index(table: pa.Table) -> pa.Table:
    """The table without the columns that pandas kept an index in; nothing else of what pandas wrote is believed."""
    try:
        kept = parse_json((table.schema.metadata or {}).get(b"pandas", b"{}"))["index_columns"]
        index = {name for name in kept if isinstance(name, str)}
    except (KeyError, TypeError, ValueError):
        index = set()
    return table.select([name for name in table.column_names if name not in index]) if index else table


def _check_size(expanded: int, stored: int, name: str) -> None:
    limit = max(MEMORY_LIMIT, EXPANSION_LIMIT * stored)
    if expanded > limit:
        raise FileFormatError(
            f"{name} holds {stored:,} bytes that take more than {limit:,} when they are unpacked; "
            "no real data is like that: make the file again, with less compression"
        )
