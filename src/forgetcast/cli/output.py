"""Files that a command leaves behind: checked before the work starts, written whole or not at all."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from forgetcast.errors import InputError, PathError
from forgetcast.files.atomic import whole_file
from forgetcast.wording import count

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "TABLE_SUFFIXES",
    "check_distinct",
    "check_output",
    "first_reason",
    "put_page",
    "put_table",
    "table_json",
    "without_formulas",
    "write_each",
    "write_table",
]

TABLE_SUFFIXES = (".csv", ".parquet", ".json")


def check_output(path: Path | None, suffixes: tuple[str, ...]) -> None:
    """Check that a file can be put at ``path`` before anything is computed; None passes.

    Raises:
        InputError: the suffix is not one of ``suffixes``.
        PathError: a folder is there, or the place for its folder is taken by a file.
    """
    if path is None:
        return
    if path.suffix.lower() not in suffixes:
        raise InputError(f"{path}: expected a file name ending in {', '.join(suffixes)}")
    if path.is_dir():
        raise PathError(f"{path} is a folder; expected the name of a file")
    for folder in path.parents:
        if folder.exists():
            if not folder.is_dir():
                raise PathError(f"{path} cannot be written: {folder} is a file, not a folder")
            return


def check_distinct(written: Mapping[str, Path | None], read: Mapping[str, Path | None]) -> None:
    """Check that no two options name one file to be written, and none a file that is read; None passes.

    Raises:
        InputError: two do.
    """
    owner = {path.resolve(): name for name, path in read.items() if path is not None}
    for name, path in written.items():
        if path is not None and owner.setdefault(path.resolve(), name) != name:
            raise InputError(f"{owner[path.resolve()]} and {name} both name {path}: give another file")


def write_each(*writes: Callable[[], None]) -> None:
    """Write several results: one that cannot be written does not cost the others.

    Raises:
        PathError: the first error, when all others are written.
    """
    failed: list[PathError] = []
    for write in writes:
        try:
            write()
        except PathError as error:
            failed.append(error)
    if failed:
        raise failed[0]


def put_page(draw: Callable[[Path], object], path: Path | None) -> None:
    """Draw a page into a file and say so on stderr; None draws nothing."""
    if path is not None:
        draw(path)
        click.echo(f"wrote {path}", err=True)


def put_table(frame: pd.DataFrame, path: Path | None, provenance: Mapping[str, Any]) -> None:
    """Write a table into a file and say so on stderr; None writes nothing."""
    if path is not None:
        write_table(frame, path, provenance)
        click.echo(f"wrote {path} ({count(len(frame), 'row')})", err=True)


def table_json(frame: pd.DataFrame, provenance: Mapping[str, Any]) -> str:
    """``{"provenance": {...}, "samples": [...]}`` one object per row; NaN becomes null."""
    from forgetcast.files.canonical_json import json_value

    samples = json_value(frame.to_dict("records"))
    return json.dumps({"provenance": dict(provenance), "samples": samples}, indent=2, default=str)


def first_reason(reasons: str) -> str:
    """The strongest of the sentences that a row's reasons were joined from."""
    from forgetcast.report.explain import split_reasons

    return next(iter(split_reasons(reasons)), "")


def without_formulas(frame: pd.DataFrame) -> pd.DataFrame:
    """The table with an apostrophe before every text that a spreadsheet would run as a formula, names of columns too.

    Requests come from strangers, and queues in CSV are opened in spreadsheets: text that begins with ``=``, ``+``,
    ``-``, ``@``, tab or carriage return is taken for a formula there (OWASP, CSV Injection). Numbers stay, also
    those written as text and of telephones. Parquet and JSON have the text as it came.
    """

    import pandas as pd
    from pandas.api.types import is_numeric_dtype

    def plain(value: Any) -> Any:
        risky = isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r"))
        return f"'{value}" if risky and not re.fullmatch(r"[-+]?[\d\s.,()/-]+", value, re.ASCII) else value

    safe = frame.copy()
    for place in range(safe.shape[1]):
        if not is_numeric_dtype(safe.dtypes.iloc[place]):
            values = [plain(value) for value in safe.iloc[:, place]]  # map would make floats of long numbers with a gap
            safe.isetitem(place, pd.Series(values, dtype=object).array)
    return safe.set_axis([plain(name) for name in safe.columns], axis=1)


def write_table(frame: pd.DataFrame, path: Path, provenance: Mapping[str, Any]) -> None:
    """Write a table as CSV, Parquet or JSON, by the suffix of ``path``."""
    with whole_file(path, "table") as draft:
        if path.suffix.lower() == ".parquet":
            frame.to_parquet(draft, index=False)
        elif path.suffix.lower() == ".json":
            draft.write_text(table_json(frame, provenance), encoding="utf-8")
        else:
            without_formulas(frame).to_csv(draft, index=False)
