"""Deletion requests in Parquet: columns of every kind, as values that a table can hold."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from forgetcast.errors import FileFormatError, first_line
from forgetcast.files.foreign import read_table
from forgetcast.screening.request_columns import distinct_names, plain_name, refuse_twins
from forgetcast.screening.request_rows import RequestRows, as_text, one_kind
from forgetcast.screening.request_text import not_text, printable

__all__ = ["parquet_rows"]


def parquet_rows(content: bytes, path: Path, id_column: str | None) -> RequestRows:
    if not content.startswith(b"PAR1"):
        raise FileFormatError(f"requests {path}: expected a Parquet file; it does not begin like one")
    try:
        table = read_table(content, f"requests {path}", utf8=False)
    except FileFormatError:
        raise
    except Exception as error:  # a damaged file can raise nearly anything
        raise FileFormatError(f"requests {path}: not a readable Parquet file: {first_line(error)}") from error
    refuse_twins(table.column_names, id_column, f"requests {path}")
    problems = [""] * table.num_rows
    columns: dict[str, Any] = {}
    for name, column in zip(distinct_names(table.column_names), table.columns, strict=True):
        if not re.fullmatch(r"__index_level_\d+__", name) or plain_name(id_column) == name:
            columns[name] = _parquet_column(column, name, path, problems)
    return RequestRows(list(range(1, table.num_rows + 1)), [0] * table.num_rows, problems, columns)


def _parquet_column(column: Any, name: str, path: Path, problems: list[str]) -> Any:
    """Values of one column; text that is not UTF-8 is reported in ``problems``."""
    import pyarrow as pa

    try:
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
            return _text_column(column, problems)
        if (
            pa.types.is_binary(column.type)
            or pa.types.is_large_binary(column.type)
            or (pa.types.is_fixed_size_binary(column.type))
        ):
            return [
                None if value is None else value.decode("utf-8", "backslashreplace") for value in column.to_pylist()
            ]
        if pa.types.is_nested(column.type):
            return [None if value is None else as_text(value) for value in column.to_pylist()]
        if pa.types.is_uint64(column.type) and column.null_count:
            return one_kind(column.to_pylist())
        return column.to_pandas(integer_object_nulls=True).array
    except Exception as error:  # a damaged page, or a kind of value that pandas does not know
        raise FileFormatError(
            f"requests {path}: column {name!r} ({column.type}) cannot be read: {first_line(error)}"
        ) from error


def _text_column(column: Any, problems: list[str]) -> list[str | None]:
    import pyarrow as pa

    try:
        return list(column.to_pylist())
    except UnicodeDecodeError:
        values = column.cast(pa.large_binary()).to_pylist()
    found: list[str | None] = []
    for place, value in enumerate(values):
        text = None if value is None else value.decode("utf-8", "surrogateescape")
        if text is not None and (problem := not_text(text)):
            problems[place], text = problem, printable(text)
        found.append(text)
    return found
