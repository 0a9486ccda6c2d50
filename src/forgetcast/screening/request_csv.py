"""Deletion requests in CSV: delimiter, quotes and broken lines."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from forgetcast.errors import FileFormatError, SchemaError
from forgetcast.screening.request_columns import (
    ID_COLUMNS,
    INDEX_COLUMNS,
    distinct_names,
    naming_columns,
    plain_name,
    refuse_twins,
)
from forgetcast.screening.request_rows import RequestRows
from forgetcast.screening.request_text import BROKEN, decoded, not_text, printable, refuse_binary

__all__ = ["csv_rows"]

DELIMITERS = ",;\t|"


def csv_rows(content: bytes, path: Path, id_column: str | None) -> RequestRows:
    refuse_binary(content, path)
    lines = list(io.StringIO(decoded(content), newline=""))
    start = next((place for place, line in enumerate(lines) if line.strip()), None)
    if start is None:
        raise FileFormatError(f"requests {path}: the file is empty; expected at least one request")
    delimiter = _delimiter(lines[start], id_column)
    records = _csv_records(lines, start, delimiter)
    _, _, header, wrong = next(records)
    if wrong or any(BROKEN.search(name) for name in header):
        raise SchemaError(f"requests {path}: the header line cannot be read: {wrong or not_text(''.join(header))}")
    refuse_twins([plain_name(name) for name in header], id_column, f"requests {path}")
    names = distinct_names(header)
    by_number, by_id = naming_columns(names, id_column, f"requests {path}")
    named = names.index((by_number or by_id)[0])
    rows: list[list[str]] = []
    numbers: list[int] = []
    problems: list[str] = []
    width = len(names)
    for first, last, fields, wrong in records:
        problem = wrong
        if not fields and not wrong:
            continue
        if not problem and len(fields) != width:
            problem = f"expected {width} field{'s' * (width > 1)}, as in the header line; got {len(fields)}"
        if not problem and last - first > 1:
            problem = _unclosed_quote(fields, lines[first + 1 : last], named, delimiter, first)
        if not problem and not "".join(fields).isascii():
            problem = not_text("".join(fields))
        if problem:
            fields = [printable(field) for field in fields[:width]]
            fields += [""] * (width - len(fields))
        rows.append(fields)
        numbers.append(first + 1)
        problems.append(problem)
    columns = dict(zip(names, map(list, zip(*rows, strict=True)), strict=True)) if rows else {}
    for name, head in zip(names, header, strict=True):
        if not head.strip() and not any(columns.get(name, [])):
            columns.pop(name, None)  # every line ends with a delimiter
    return RequestRows(list(range(1, len(rows) + 1)), numbers, problems, columns)


def _csv_records(lines: Sequence[str], start: int, delimiter: str) -> Iterator[tuple[int, int, list[str], str]]:
    """(first line, line after the last, fields, "") per record; of what is no record (first, next, [], problem).

    After a line that cannot be read, and after a record of several lines with a wrong number of fields, reading goes on
    with the next line: a quote that is never closed costs its own row, not those after it.
    """
    width = 0
    while start < len(lines):
        reader = csv.reader(_lines_from(lines, start), delimiter=delimiter, strict=True)
        begin = start
        try:
            for fields in reader:
                first, start = start, begin + reader.line_num
                if not any(lines[place].strip() for place in range(first, start)):
                    fields = []
                width = width or len(fields)
                if start - first > 1 and len(fields) != width:
                    yield first, first + 1, fields, f"a quoted field runs over {start - first} lines: close the quote"
                    start = first + 1
                    break
                yield first, start, fields, ""
        except csv.Error as error:
            reason = "a quote is never closed, or text follows the closing one" if '"' in lines[start] else str(error)
            yield start, start + 1, lines[start].replace('"', "").rstrip("\r\n").split(delimiter), reason
            start += 1


def _lines_from(lines: Sequence[str], start: int) -> Iterator[str]:
    for place in range(start, len(lines)):
        yield lines[place]


def _unclosed_quote(fields: Sequence[str], inner: Sequence[str], named: int, delimiter: str, first: int) -> str:
    """What is wrong with a field of several lines that reads like requests of their own, or "".

    A line does if it has as many fields as the row itself, and a name of the same kind in the same place.
    """
    for offset, line in enumerate(inner, 1):
        others = line.rstrip("\r\n").split(delimiter)
        if len(others) == len(fields) and _kind(others[named]) in ("9", _kind(fields[named])):
            where = f"a quoted field holds line {first + offset + 1}, which reads like a request"
            return f"{where}: close the quote, or write the field on one line"
    return ""


def _kind(name: str) -> str:
    """What a name looks like, for runs of letters and digits an "a" and a "9".

    >>> _kind("cust-0017"), _kind(" 17 ")
    ('a-9', '9')
    """
    return re.sub(r"\d+", "9", re.sub(r"[^\W\d_]+", "a", name.strip().strip('"')))


def _delimiter(line: str, id_column: str | None) -> str:
    """The delimiter under which the header line names a sample; among several the one that makes most fields."""

    def names(delimiter: str) -> list[str]:
        return [plain_name(field.strip('"')) for field in line.strip("\r\n").split(delimiter)]

    known = {*INDEX_COLUMNS, *ID_COLUMNS} if id_column is None else {plain_name(id_column)}
    return max(DELIMITERS, key=lambda delimiter: (bool(known & set(names(delimiter))), len(names(delimiter))))
