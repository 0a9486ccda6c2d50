"""Parts of a table on disk: each with its checksum, and taken up only when it is whole and holds what was asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import pandas as pd

from forgetcast.corpus.checks import unsound
from forgetcast.errors import FileFormatError
from forgetcast.files.hashes import sha256
from forgetcast.files.parquet import parquet_bytes, parquet_table
from forgetcast.files.stores import Place, read_if_there, write_atomically

__all__ = ["Rows", "make_shard", "read_shard"]


@dataclass(frozen=True)
class Rows:
    """The rows that a shard must hold: one for every combination of the keys."""

    keys: dict[str, Sequence[Any]]
    """Values of each key column."""
    columns: tuple[str, ...]
    """All columns, in any order."""

    def match(self, table: pd.DataFrame) -> bool:
        """Whether the table holds these rows and no others, with values of the right kinds."""
        if sorted(table.columns) != sorted(self.columns) or len(table) != prod(map(len, self.keys.values())):
            return False
        if table.duplicated(list(self.keys)).any():
            return False
        if any(set(table[name].tolist()) != set(values) for name, values in self.keys.items()):
            return False
        answered = "p" not in table or table["p"].notna().all()  # a model always answers
        return bool(answered) and not any(unsound(table[name]) for name in table.columns)


def make_shard(path: Place, rows: Rows, function: Callable[..., Any], *arguments: Any) -> Any:
    """Write the table that ``function`` makes, unless it is there; what is no table is returned and leaves no shard."""
    if read_shard(path, rows) is not None:
        return None
    made = function(*arguments)
    if not isinstance(made, pd.DataFrame):
        return made
    content = parquet_bytes(made)
    write_atomically(path, content)
    write_atomically(path.with_suffix(".sha256"), sha256(content).encode())
    return None


def read_shard(path: Place, rows: Rows) -> pd.DataFrame | None:
    """The table of a shard; None where there is none, it does not have its checksum, or it holds other rows."""
    content, digest = read_if_there(path), read_if_there(path.with_suffix(".sha256"))
    if content is None or digest != sha256(content).encode():
        return None
    try:
        table = parquet_table(content, path)
    except FileFormatError:
        return None
    return table if rows.match(table) else None
