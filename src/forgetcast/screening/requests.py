"""Deletion requests, checked row by row: what can be served, and what is wrong with the rest."""

from __future__ import annotations

import os
import re
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from forgetcast._arguments import checked
from forgetcast.errors import InputError
from forgetcast.files.exact_values import (
    AS_TEXT,
    InexactNumber,
    exact_values,
    is_missing,
    names_exactly,
    value_text,
    written_float,
)
from forgetcast.screening.columns import COLUMNS
from forgetcast.screening.request_columns import free_name, named_column, naming_columns
from forgetcast.screening.request_files import read_requests
from forgetcast.screening.request_rows import raw_requests, records_as_requests

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
        person_rows: for every row of ``table`` how many samples its person asks for in this queue, those that cannot
            be served counted with them, int64 (m,); 0 where it is not known whose row it is. None without a
            ``person_column``.
    """

    table: pd.DataFrame
    problems: pd.DataFrame
    person_rows: np.ndarray | None = None


@checked("requests")
def checked_requests(
    source: Any, n: int, *, ids: Any = None, id_column: str | None = None, person_column: str | None = None
) -> Requests:
    """Find the sample that each request names; whatever is wrong with a request is reported and costs no other.

    A request names its sample by number, from 0 to n - 1, in a column ``index`` (or ``sample_index``, ``sample``), or
    by its id in ``id`` (or ``sample_id``, or ``id_column``). A number is written in digits; 7.0 is the number 7. With
    ``ids`` an id must be one of them; where a request has several of these columns, they must name the same sample.
    Without ``ids`` the columns of numbers decide, and where there is none an id that is a whole number is taken for
    the number of the sample. The first request for a sample is served, later ones are reported.

    What is served is exactly what was asked for. Text is compared as text. A number stands for the id that is written
    as this number, if no other id reads as the same one ("7" beside "007"). A float that can no longer be distinguished
    from its neighbours (2⁵³ for float64, 2²⁴ for float32) names nothing.

    Args:
        source: what :func:`read_requests` returned, the path of a file for it, a table with such columns, a list of
            mappings, or a list or array of sample numbers. A list of text is one of ids, where ``ids`` is given.
        n: how many samples the data has.
        ids: the id of each sample, n distinct values, compared as text.
        id_column: the column of the ids, as for :func:`read_requests`.
        person_column: the column that says whose row a request is about, compared as text without blanks around it.

    Raises:
        PathError: the file is missing, a folder, or not readable.
        FileFormatError: the file is of another kind, empty, damaged, or without a single row.
        SchemaError: no column names a sample, or there is no ``person_column``.
        InputError: ``source`` is of another kind or empty, or ``ids`` are not n distinct values, each exactly known.
    """
    if isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 1:
        raise InputError(f"expected the number of samples, at least 1; got {n!r}")
    known = None if ids is None else _Ids.of(ids, int(n))
    raw = _as_raw(source, known is not None, id_column)
    if len(raw) == 0:
        raise InputError("there are no requests; expected at least one")
    id_column = raw.attrs["id_column"]
    names = [str(name) for name in raw.columns if name not in ("row", "line", "problem")]
    by_number, by_id = naming_columns(names, id_column, "the requests")
    ids_given = by_id
    shown = list(dict.fromkeys([*by_id[:1], *by_number, *by_id]))
    if known is None:  # then ids are no more than a remark, unless there is nothing else
        shown = [*by_id[:1], *by_number] if by_number else by_id
        by_number, by_id = by_number or by_id, []
    values = {name: exact_values(raw[name]) for name in {*by_number, *by_id, *shown}}
    found = _found(raw, values, by_number, by_id, int(n), known, ids_given)
    texts = [value_text(value) for value in values[shown[0]]]
    for name in shown[1:]:
        texts = [text or value_text(value) for text, value in zip(texts, values[name], strict=True)]
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
    people = None
    if person_column is not None:
        counted = _rows_of_person(found, _people(raw, person_column))
        people = np.array([counted[place] for place in kept], dtype=np.int64)
    wrong = pd.DataFrame(problems, columns=["row", "id", "problem"]).astype({"row": np.int64})
    return Requests(table, wrong, people)


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
    values = exact_values(source)
    if any(isinstance(value, Mapping) for value in values):
        return records_as_requests(values, id_column)
    column = "id" if with_ids and any(isinstance(value, str) for value in values) else "index"
    return raw_requests(pd.DataFrame({column: pd.Series(values, dtype=object)}))


def _found(
    raw: pd.DataFrame,
    values: Mapping[str, list[Any]],
    by_number: list[str],
    by_id: list[str],
    n: int,
    known: _Ids | None,
    ids: list[str],
) -> list[int | str]:
    """For each request the number of its sample, or what is wrong; ``ids`` are columns of ids, looked up or not."""
    found: list[int | str] = []
    naming: list[tuple[str, list[Any], _Ids | None]] = [(name, values[name], None) for name in by_number]
    naming += [(name, values[name], known) for name in by_id]
    for place, wrong in enumerate(raw["problem"].tolist()):
        if wrong:
            found.append(str(wrong))
            continue
        named = [
            (name, known.find(column[place]) if known is not None else _by_number(column[place], n, name in ids))
            for name, column, known in naming
            if not is_missing(column[place])
        ]
        if not named:
            found.append(f"no sample is named: {' and '.join(repr(name) for name, *_ in naming)} is empty")
            continue
        wrongs = [sample for _, sample in named if isinstance(sample, str)]
        if not wrongs and len({sample for _, sample in named}) > 1:
            named_here = ", ".join(f"{name!r} names sample {sample}" for name, sample in named)
            wrongs = [f"the columns disagree: {named_here}"]
        found.append(wrongs[0] if wrongs else named[0][1])
    return found


def _by_number(value: object, n: int, is_id: bool = False) -> int | str:
    """The sample number that a request gives, or what is wrong with it."""
    if isinstance(value, InexactNumber):
        return value.problem
    number = _whole(value)
    if number is None or (is_id and isinstance(value, str) and re.match(r"\s*(\+|0\d)", value)):
        hint = " (the ids of the samples are not known here)" if is_id else ""
        return f"expected a sample number, a whole number from 0 to {n - 1} in digits{hint}; got {_shown(value)}"
    if not 0 <= number < n:
        return f"{_shown(value)} is out of range: the data has {n} samples (0 to {n - 1})"
    return number


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
    if isinstance(value, int) and not isinstance(value, bool):
        return max(min(value, _BEYOND), -_BEYOND)
    return None


def _shown(value: object, most: int = 60) -> str:
    """A value for a sentence: text in quotes, shortened, and on one line whatever it holds."""
    text = repr(value) if isinstance(value, str) else value_text(value).encode("unicode_escape").decode()
    return text if len(text) <= most else f"{text[:most]}…"


def _writable(text: str, most: int = 100) -> str:
    """Text that a file can hold, shortened: lone surrogates as escapes."""
    text = text if len(text) <= most else f"{text[:most]}…"
    return text.encode("utf-8", "backslashreplace").decode()


@dataclass(frozen=True)
class _Ids:
    """The ids of the samples."""

    positions: dict[str, int]
    """The number of the sample of each id, as it is written."""

    @classmethod
    def of(cls, ids: Any, n: int) -> _Ids:
        """From whatever holds them.

        Raises:
            InputError: not n distinct ids, each exactly known.
        """
        if isinstance(ids, pd.DataFrame) and ids.shape[1] == 1:
            ids = ids.iloc[:, 0]
        shape = getattr(ids, "shape", (n,))
        if isinstance(ids, str | bytes | Mapping) or not isinstance(ids, Iterable) or len(shape) != 1:
            got = f"{type(ids).__name__} of shape {tuple(shape)}" if len(shape) != 1 else type(ids).__name__
            raise InputError(f"ids: expected a sequence with the id of each sample; got {got}")
        values = exact_values(ids)
        if len(values) != n:
            raise InputError(f"ids: expected one for each of the {n} samples; got {len(values)}")
        positions: dict[str, int] = {}
        for place, value in enumerate(values):
            if is_missing(value):
                raise InputError(f"ids: sample {place} has none; expected {n} distinct ids")
            read = written_float(value) if isinstance(value, str) and not value.isdigit() else value
            if isinstance(read, InexactNumber):
                raise InputError(f"ids: the id of sample {place} is not known exactly: {read.problem}")
            if not names_exactly(value):
                raise InputError(f"ids: sample {place}: {_no_name(value)}")
            first = positions.setdefault(value_text(value), place)
            if first != place:
                raise InputError(
                    f"ids: samples {first} and {place} are both called {_shown(value)}; ids must be distinct"
                )
        return cls(positions)

    @cached_property
    def _by_number(self) -> dict[int, list[str]]:
        """Ids by the whole number that they can be read as: "7", "007", "+7" and "7.0" are all 7."""
        found: dict[int, list[str]] = {}
        for text in self.positions:
            read = re.fullmatch(r"\s*([-+]?\d{1,1000})(?:\.0*)?\s*", text, re.ASCII)
            if read is not None:
                found.setdefault(int(read[1]), []).append(text)
        return found

    @cached_property
    def _stripped(self) -> dict[str, list[str]]:
        """Ids by what is left of them without blanks around it."""
        found: dict[str, list[str]] = {}
        for text in self.positions:
            found.setdefault(text.strip(), []).append(text)
        return found

    def find(self, value: object) -> int | str:
        """The number of the sample with this id, or what is wrong with it."""
        if isinstance(value, InexactNumber):
            return value.problem
        if not names_exactly(value):
            return _no_name(value)
        text = value_text(value)
        number: int | InexactNumber | None = value if isinstance(value, int) and not isinstance(value, bool) else None
        if number is None:
            if text in self.positions:
                return self.positions[text]
            alike = self._stripped.get(text.strip(), [])
            number = written_float(text)
            if len(alike) > 1:
                return _several(value, alike)
            if alike and alike[0] == text.strip():
                return self.positions[alike[0]]
        if isinstance(number, InexactNumber):
            return f"no sample has this id: {number.problem}"
        if number is not None:
            alike = self._by_number.get(number, [])
            if len(alike) > 1:
                return _several(value, alike)
            if alike and alike[0] == str(number):
                return self.positions[alike[0]]
        return f"no sample has the id {_shown(value)}"


def _several(value: object, alike: list[str]) -> str:
    named = " and ".join(_shown(text) for text in alike[:3])
    return f"{_shown(value)} may stand for the ids {named}: {AS_TEXT}"


def _no_name(value: object) -> str:
    """What is wrong with a value of a type that names nothing exactly."""
    return f"a value of type {type(value).__name__} is no exact id, got {_shown(value)}: {AS_TEXT}"


# -- people ------------------------------------------------------------------------------------------------


def _people(raw: pd.DataFrame, person_column: str) -> list[str | None]:
    """Whose row each request is about; None where that is not known.

    Raises:
        SchemaError: there is no such column.
    """
    columns = {str(name): str(name) for name in raw.columns if name not in ("row", "line", "problem")}
    for name in ("row", "line", "problem"):
        if f"{name}_request" in columns:
            columns.setdefault(name, f"{name}_request")
    column = columns[named_column(list(columns), person_column, "the requests")]
    return [
        None if is_missing(value) or not names_exactly(value) else value_text(value).strip()
        for value in exact_values(raw[column])
    ]


def _rows_of_person(found: list[int | str], whose: list[str | None]) -> list[int]:
    """For each request how many samples its person asks for; 0 where that is not known.

    A sample that two people ask for has the rows of the one who asks for more. A request that cannot be served counts,
    for the record it is about may be in the data all the same.
    """
    what: list[Hashable] = [sample if isinstance(sample, int) else ("row", k) for k, sample in enumerate(found)]
    asked: dict[str, set[Hashable]] = {}
    unknown: set[Hashable] = set()
    for item, person in zip(what, whose, strict=True):
        if person is None:
            unknown.add(item)
        else:
            asked.setdefault(person, set()).add(item)
    most: dict[Hashable, int] = {}
    for items in asked.values():
        for item in items:
            most[item] = max(most.get(item, 0), len(items))
    return [0 if item in unknown and most.get(item, 0) < 2 else most[item] for item in what]
