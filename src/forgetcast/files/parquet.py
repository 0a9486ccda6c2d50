"""Tables as Parquet files: the same table gives the same bytes, and a file of somebody else is read with care."""

from __future__ import annotations

import io
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from forgetcast.errors import FileFormatError, first_line
from forgetcast.files.foreign import read_table
from forgetcast.files.hashes import sha256
from forgetcast.files.stores import Place, write_atomically

__all__ = ["parquet_bytes", "parquet_table", "write_draft", "write_parquet"]


def parquet_bytes(frame: pd.DataFrame) -> bytes:
    """A Parquet file of a table; the same frame gives the same bytes."""
    content = io.BytesIO()
    table = pa.Table.from_pandas(frame, preserve_index=False).replace_schema_metadata(None)
    pq.write_table(table, content, compression="zstd")
    return content.getvalue()


def write_parquet(frame: pd.DataFrame, path: Place) -> str:
    """Write atomically; returns the file's SHA-256. The same frame gives the same bytes."""
    content = parquet_bytes(frame)
    write_atomically(path, content)
    return sha256(content)


def write_draft(frame: pd.DataFrame, draft: Path) -> str:
    """Write in place; returns the file's SHA-256."""
    content = parquet_bytes(frame)
    draft.write_bytes(content)
    return sha256(content)


def parquet_table(content: bytes, path: Place) -> pd.DataFrame:
    """The table in the bytes of a Parquet file; ``path`` is where they were found.

    Raises:
        FileFormatError: they are not a readable Parquet file.
    """
    try:
        table = read_table(content, str(path))
        if len(set(table.column_names)) < table.num_columns:
            raise ValueError("a column comes twice")
        return table.to_pandas(ignore_metadata=True)
    except FileFormatError:
        raise
    except Exception as error:
        raise FileFormatError(
            f"{path} is not a readable Parquet file ({type(error).__name__}: {first_line(error)}); "
            "it is corrupt or truncated: make it again"
        ) from error
