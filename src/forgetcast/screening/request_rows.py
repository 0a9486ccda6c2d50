"""Rows of deletion requests as they came, whatever they came from, as one kind of table."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from forgetcast.screening.request_columns import (
    distinct_names,
    free_name,
    named_column,
    names_sample,
    naming_columns,
    refuse_twins,
)
from forgetcast.screening.request_text import NUL, not_text, printable, quoted

__all__ = ["RequestRows", "as_text", "one_kind", "raw_requests", "records_as_requests"]


@dataclass
class RequestRows:
    """Rows as read: number, line and problem of each, and the columns, all of one length m."""

    row: list[int]
    line: list[int]
    problem: list[str]
    columns: dict[str, Any]

    def frame(self, source: str, id_column: str | None) -> pd.DataFrame:
        """As a table; its ``attrs`` say which column was named as that of the ids."""
        renamed = {name: name for name in self.columns}
        for name in self.columns:
            if "\0" in name:
                renamed[name] = free_name(name.replace("\0", "\ufffd"), renamed.values())
        for name in ("row", "line", "problem"):
            if name in renamed:
                renamed[name] = free_name(f"{name}_request", self.columns)
        if id_column is not None:
            id_column = naming_columns(list(self.columns), id_column, source)[1][0]
            id_column = renamed[id_column]
        naming_columns(list(renamed.values()), id_column, source)
        columns = {name: _writable(values, self.problem) for name, values in self.columns.items()}
        own: dict[str, Any] = {"row": self.row, "line": self.line, "problem": pd.Series(self.problem, dtype=object)}
        for name, values in columns.items():
            own[renamed[name]] = pd.Series(values, dtype=object) if isinstance(values, list) else values
        frame = pd.DataFrame(own)
        frame.attrs = {"id_column": id_column}
        return frame

    @classmethod
    def of_records(cls, numbered: Iterable[tuple[int, Any, str]]) -> RequestRows:
        """From (line, mapping, problem); a mapping with a problem may be anything."""
        lines: list[int] = []
        problems: list[str] = []
        records: list[Mapping[Any, Any]] = []
        names: dict[str, None] = {}
        for line, record, problem in numbered:
            if not problem and not isinstance(record, Mapping):
                kind = "null" if record is None else type(record).__name__
                problem = f'expected an object such as {{"index": 17}}; got {quoted(record)} ({kind})'
            lines.append(line)
            problems.append(problem)
            records.append(record if isinstance(record, Mapping) else {})
            names.update(dict.fromkeys(map(str, records[-1])))
        columns: dict[str, Any] = {name: [None] * len(records) for name in names}
        for place, record in enumerate(records):
            for name, value in record.items():
                columns[str(name)][place] = value
        for name, values in columns.items():
            if not names_sample(name):
                columns[name] = one_kind(values)
        return cls(list(range(1, len(records) + 1)), lines, problems, columns)


def records_as_requests(records: Iterable[Any], id_column: str | None = None) -> pd.DataFrame:
    """Requests given as mappings, in the form of :func:`read_requests`; what is no mapping is reported by its row."""
    rows = RequestRows.of_records((0, record, "") for record in records)
    return rows.frame("the requests", id_column)


def raw_requests(frame: pd.DataFrame, id_column: str | None = None) -> pd.DataFrame:
    """A table of requests in the form of :func:`read_requests`, which it may have come from.

    Raises:
        SchemaError: no column names a sample, or several could.
    """
    if "id_column" in frame.attrs and {"row", "line", "problem"} <= set(frame.columns):
        if id_column is not None and frame.attrs["id_column"] is None:
            frame = frame.copy(deep=False)
            frame.attrs = {"id_column": named_column([str(name) for name in frame.columns], id_column, "the requests")}
        return frame
    if frame.index.name is not None and names_sample(frame.index.name):
        frame = frame.reset_index()
    refuse_twins(frame.columns, id_column, "the requests")
    m = len(frame)
    problems = [""] * m
    columns: dict[str, Any] = {}
    for place, name in enumerate(distinct_names(frame.columns)):
        values = frame.iloc[:, place]
        columns[name] = values.tolist() if values.dtype == object else values.array
    return RequestRows(list(range(1, m + 1)), [0] * m, problems, columns).frame("the requests", id_column)


def _writable(column: Any, problems: list[str]) -> Any:
    """The values of a column, text that no file can hold as escapes; it is reported in ``problems``."""
    if not isinstance(column, list) and not isinstance(column.dtype, pd.CategoricalDtype | pd.StringDtype):
        return column
    values, found = list(column), False
    for place, value in enumerate(values):
        if not isinstance(value, str) or (value.isascii() and "\0" not in value):
            continue
        text = value.replace("\0", NUL)
        if problem := not_text(text):
            problems[place], values[place], found = problems[place] or problem, printable(text), True
    return values if found else column


def one_kind(values: list[Any]) -> list[Any]:
    """A column that a table file can hold: values of one kind as they are, else as text."""
    kinds = {type(value) for value in values if value is not None}
    plain = kinds <= {bool} or kinds <= {str} or kinds <= {int, float}
    if plain and not any(type(value) is int and abs(value) >= 2**63 for value in values):
        return values
    return [value if value is None or isinstance(value, str) else as_text(value) for value in values]


def as_text(value: object) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, default=str)
    except (TypeError, ValueError):  # keys that are no text, a value inside itself, an int of thousands of digits
        return hex(value) if isinstance(value, int) else type(value).__name__
