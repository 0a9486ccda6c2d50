"""Files of deletion requests: read row by row, so that a broken row is reported and the others are served."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from forgetcast._arguments import checked
from forgetcast.errors import FileFormatError, PathError
from forgetcast.screening.request_csv import csv_rows
from forgetcast.screening.request_json import json_rows
from forgetcast.screening.request_parquet import parquet_rows

__all__ = ["read_requests"]

SUFFIXES = (".csv", ".parquet", ".jsonl", ".ndjson")


@checked()
def read_requests(path: str | Path, *, id_column: str | None = None) -> pd.DataFrame:
    """The rows of a file of deletion requests, unchecked.

    Args:
        path: ``.csv`` (a header line, then one request a line; delimiter comma, semicolon, tab or ``|``; UTF-8, with
            or without BOM, or UTF-16), ``.parquet``, or ``.jsonl``/``.ndjson`` (one object a line).
        id_column: the column that names the sample by its id, whatever it is called. None: a column of
            ``request_columns.INDEX_COLUMNS`` or ``ID_COLUMNS``.

    Returns:
        One row per request, values as they came (text for CSV), after three columns: ``row``, the number of the data
        row from 1 (blank lines and the header do not count); ``line``, its first line in the file (0 for Parquet);
        ``problem``, what is wrong with the row as such (a clause, or ""). Columns of the file with these names get the
        suffix ``_request``; of two columns with one name the second is ``name_2``. Nested values are kept as JSON text,
        and so is every value of a JSON column of mixed kinds, so that it can be written to a table again; a JSON number
        that no float holds exactly is kept as its text; bytes of a Parquet file are read as text.

    Raises:
        PathError: missing, a folder, or not readable.
        FileFormatError: of another kind, empty, binary, damaged, or without a single row.
        SchemaError: no column names a sample, or several could.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    try:
        if path.is_dir():
            raise PathError(f"requests: expected a file; {path} is a folder")
        if suffix not in SUFFIXES:
            expected = ", ".join(SUFFIXES)
            raise FileFormatError(f"requests {path}: expected a {expected} file; got {suffix or 'no suffix'}")
        if not path.exists():
            raise PathError(f"requests: there is no file {path}")
        if not path.is_file():
            raise PathError(f"requests: expected a file; {path} is something else")
        content = path.read_bytes()
    except PathError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a name with a NUL byte
        reason = getattr(error, "strerror", None) or error
        raise PathError(f"requests: {str(path)!r} cannot be read: {reason}") from error
    if not content.strip():
        raise FileFormatError(f"requests {path}: the file is empty; expected at least one request")
    read = {".csv": csv_rows, ".parquet": parquet_rows}.get(suffix, json_rows)
    rows = read(content, path, id_column)
    if not rows.row:
        raise FileFormatError(f"requests {path}: there is no row; expected at least one request")
    return rows.frame(f"requests {path}", id_column)
