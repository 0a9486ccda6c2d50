"""Deletion requests, checked row by row: what can be served, and what is wrong with the rest."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from forgetcast._arguments import checked
from forgetcast.errors import InputError
from forgetcast.queue_columns import COLUMNS
from forgetcast.request_files import free_name, naming_columns, raw_requests, read_requests, records_as_requests

__all__ = ["OWN_COLUMNS", "Requests", "checked_requests", "read_requests"]

OWN_COLUMNS = (*COLUMNS, "problem", "line")
"""Columns that a result has of its own: one of the requests that has such a name gets the suffix ``_request``."""

_BEYOND = 10**18
"""No data has a sample of this number."""


@dataclass(frozen=True)
class Requests:
    """Deletion requests after their check.

    Attributes:
        table: one row per request that can be served, in the order they came: ``row`` (number of the request from 1),
            ``id`` (the sample as the request names it, text), ``index`` (number of the sample, int64), then all other
            columns as they came.
        problems: one row per request that cannot: ``row``, ``id`` and ``problem``, a sentence.
    """

    table: pd.DataFrame
    problems: pd.DataFrame


@checked("requests")
def checked_requests(source: Any, n: int, *, ids: Any = None, id_column: str | None = None) -> Requests:
    """Find the sample that each request names; whatever is wrong with a request is reported and costs no other.

    A request names its sample by number, from 0 to n - 1, in a column ``index`` (or ``sample_index``, ``sample``), or
    by its id in ``id`` (or ``sample_id``, or ``id_column``). A number is written in digits; 7.0 is the number 7. With
    ``ids`` an id must be one of them; where a request has several of these columns, they must name the same sample.
    Without ``ids`` the columns of numbers decide, and where there is none an id that is a whole number is taken for
    the number of the sample. The first request for a sample is served, later ones are reported.

    Args:
        source: what :func:`read_requests` returned, the path of a file for it, a table with such columns, a list of
            mappings, or a list or array of sample numbers (of ids, if it holds text and ``ids`` is given).
        n: how many samples the data has.
        ids: the id of each sample, n distinct values, compared as text.
        id_column: the column of the ids, as for :func:`read_requests`.

    Raises:
        PathError: the file is missing, a folder, or not readable.
        FileFormatError: the file is of another kind, empty, damaged, or without a single row.
        SchemaError: no column names a sample.
        InputError: ``source`` is of another kind or empty, or ``ids`` are not n distinct values.
    """
    if isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 1:
        raise InputError(f"expected the number of samples, at least 1; got {n!r}")
    positions = None if ids is None else _positions(ids, int(n))
    raw = _as_raw(source, positions is not None, id_column)
    if len(raw) == 0:
        raise InputError("there are no requests; expected at least one")
    id_column = raw.attrs["id_column"]
    names = [str(name) for name in raw.columns if name not in ("row", "line", "problem")]
    by_number, by_id = naming_columns(names, id_column, "the requests")
    ids_given = by_id
    shown = list(dict.fromkeys([*by_id[:1], *by_number, *by_id]))
    if positions is None:  # then ids are no more than a remark, unless there is nothing else
        shown = [*by_id[:1], *by_number] if by_number else by_id
        by_number, by_id = by_number or by_id, []
    values = {name: raw[name].tolist() for name in {*by_number, *by_id, *shown}}
    found = _found(raw, values, by_number, by_id, int(n), positions, ids_given)
    texts = [_text(value) for value in values[shown[0]]]
    for name in shown[1:]:
        texts = [text or _text(value) for text, value in zip(texts, values[name], strict=True)]
    rows, lines = raw["row"].tolist(), raw["line"].tolist()
    served: dict[int, int] = {}
    kept: list[int] = []
    problems: list[tuple[int, str, str]] = []
    for place, sample in enumerate(found):
        if isinstance(sample, int) and sample not in served:
            served[sample] = rows[place]
            kept.append(place)
            continue
        problem = (
            f"sample {sample} is requested already, in row {served[sample]}" if isinstance(sample, int) else sample
        )
        where = f" (line {lines[place]})" if lines[place] else ""
        problems.append((rows[place], _writable(texts[place]), problem + where))
    columns: dict[str, Any] = {
        "row": np.array([rows[place] for place in kept], dtype=np.int64),
        "id": pd.Series([texts[place] for place in kept], dtype=object),
        "index": np.array([found[place] for place in kept], dtype=np.int64),
    }
    for name in names:
        if name not in {*by_number, *by_id, *shown}:
            own = free_name(f"{name}_request", {*names, *columns}) if name in OWN_COLUMNS else name
            columns[own] = raw[name].iloc[kept].array
    table = pd.DataFrame(columns)
    return Requests(table, pd.DataFrame(problems, columns=["row", "id", "problem"]).astype({"row": np.int64}))


def _as_raw(source: Any, with_ids: bool, id_column: str | None) -> pd.DataFrame:
    """Whatever the caller handed over, in the form of :func:`read_requests`."""
    if isinstance(source, str | os.PathLike):
        return read_requests(Path(source), id_column=id_column)
    if isinstance(source, pd.DataFrame):
        return raw_requests(source, id_column) if len(source) else source
    wanted = "expected a file, a table, or a list or array of sample numbers"
    if isinstance(source, bytes | Mapping) or not isinstance(source, Iterable):
        raise InputError(f"requests: {wanted}; got {type(source).__name__}")
    shape = getattr(source, "shape", None)
    if shape is not None and len(shape) != 1:
        raise InputError(f"requests: {wanted}; got an array of shape {tuple(shape)}")
    values = source.tolist() if hasattr(source, "tolist") else list(source)
    if any(isinstance(value, Mapping) for value in values):
        return records_as_requests(values)
    column = "id" if with_ids and any(isinstance(value, str) for value in values) else "index"
    return raw_requests(pd.DataFrame({column: pd.Series(values, dtype=object)}))


def _found(
    raw: pd.DataFrame,
    values: Mapping[str, list[Any]],
    by_number: list[str],
    by_id: list[str],
    n: int,
    positions: Mapping[str, int] | None,
    ids: list[str],
) -> list[int | str]:
    """For each request the number of its sample, or what is wrong; ``ids`` are columns of ids, looked up or not."""
    found: list[int | str] = []
    naming: list[tuple[str, list[Any], Mapping[str, int] | None]] = [(name, values[name], None) for name in by_number]
    naming += [(name, values[name], positions) for name in by_id]
    for place, wrong in enumerate(raw["problem"].tolist()):
        if wrong:
            found.append(str(wrong))
            continue
        named = [
            (name, _by_id(column[place], known) if known is not None else _by_number(column[place], n, name in ids))
            for name, column, known in naming
            if not _missing(column[place])
        ]
        if not named:
            found.append(f"no sample is named: {' and '.join(repr(name) for name, *_ in naming)} is empty")
            continue
        wrongs = [sample for _, sample in named if isinstance(sample, str)]
        if not wrongs and len({sample for _, sample in named}) > 1:
            told = ", ".join(f"{name!r} names sample {sample}" for name, sample in named)
            wrongs = [f"the columns disagree: {told}"]
        found.append(wrongs[0] if wrongs else named[0][1])
    return found


def _missing(value: object) -> bool:
    """None, NaN, NaT, pd.NA, or text of blanks alone."""
    if isinstance(value, str):
        return not value or value.isspace()
    return value is None or value is pd.NA or value is pd.NaT or (isinstance(value, float) and math.isnan(value))


def _by_number(value: object, n: int, is_id: bool = False) -> int | str:
    """The sample number that a request gives, or what is wrong with it."""
    number = _whole(value)
    if number is None:
        hint = " (the ids of the samples are not known here)" if is_id else ""
        return f"expected a sample number, a whole number from 0 to {n - 1} in digits{hint}; got {_shown(value)}"
    if not 0 <= number < n:
        return f"{_shown(value)} is out of range: the data has {n} samples (0 to {n - 1})"
    return number


def _by_id(value: object, positions: Mapping[str, int]) -> int | str:
    """The number of the sample with this id, or what is wrong with it."""
    text = _text(value)
    for like in (text, text.strip()):
        if like in positions:
            return positions[like]
    whole = re.fullmatch(r"\s*(\d+)\.0*\s*", text, re.ASCII)
    if whole and whole[1] in positions:
        return positions[whole[1]]
    return f"no sample has the id {_shown(value)}"


def _whole(value: object) -> int | None:
    """A number without a fraction as an int, one beyond ±10^18 as that; None if it is none."""
    if isinstance(value, str):
        if value.isascii() and value.isdigit() and len(value) < 19:
            return int(value)
        written = re.fullmatch(r"\s*([-+]?)0*(\d*)(?:\.0*)?\s*", value, re.ASCII)
        if written is None or not re.search("[0-9]", value):
            return None
        digits = int(written[2] or 0) if len(written[2]) < 19 else _BEYOND
        return -digits if written[1] == "-" else digits
    if isinstance(value, bool | np.bool_):
        return None
    if isinstance(value, int | np.integer):
        return max(min(int(value), _BEYOND), -_BEYOND)
    if isinstance(value, float | np.floating | Decimal):
        number = float(value)
        if abs(number) >= _BEYOND and math.isfinite(number):
            return _BEYOND if number > 0 else -_BEYOND
        return int(number) if number.is_integer() else None
    return None


def _text(value: object) -> str:
    """A value as text; a number without a fraction is written as one, missing is ""."""
    if isinstance(value, str):
        return value
    if _missing(value):
        return ""
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    whole = _whole(value)
    try:
        return str(value) if whole is None or abs(whole) == _BEYOND else str(whole)
    except ValueError:  # Python does not write out an int of more than 4300 digits
        return "a number of thousands of digits"


def _shown(value: object, most: int = 60) -> str:
    """A value for a sentence: text in quotes, shortened, and on one line whatever it holds."""
    text = repr(value) if isinstance(value, str) else _text(value).encode("unicode_escape").decode()
    return text if len(text) <= most else f"{text[:most]}…"


def _writable(text: str, most: int = 100) -> str:
    """Text that a file can hold, shortened: lone surrogates as escapes."""
    text = text if len(text) <= most else f"{text[:most]}…"
    return text.encode("utf-8", "backslashreplace").decode()


def _positions(ids: Any, n: int) -> dict[str, int]:
    """The number of the sample of each id.

    Raises:
        InputError: not n distinct ids.
    """
    if isinstance(ids, str | bytes | Mapping) or not isinstance(ids, Iterable):
        raise InputError(f"ids: expected a sequence with the id of each sample; got {type(ids).__name__}")
    values = ids.tolist() if hasattr(ids, "tolist") else list(ids)
    if len(values) != n:
        raise InputError(f"ids: expected one for each of the {n} samples; got {len(values)}")
    positions: dict[str, int] = {}
    for place, value in enumerate(values):
        if _missing(value):
            raise InputError(f"ids: sample {place} has none; expected {n} distinct ids")
        first = positions.setdefault(_text(value), place)
        if first != place:
            raise InputError(f"ids: samples {first} and {place} are both called {_shown(value)}; ids must be distinct")
    return positions
