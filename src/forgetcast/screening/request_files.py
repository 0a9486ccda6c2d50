"""Files of deletion requests: read row by row, so that a broken row is reported and the others are served."""

from __future__ import annotations

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd

from forgetcast._arguments import checked
from forgetcast.errors import FileFormatError, PathError, SchemaError, first_line, shortened
from forgetcast.files.exact_values import LIMIT
from forgetcast.files.foreign import each_once, read_table

__all__ = [
    "ID_COLUMNS",
    "INDEX_COLUMNS",
    "free_name",
    "named_column",
    "naming_columns",
    "raw_requests",
    "read_requests",
    "records_as_requests",
]

INDEX_COLUMNS = ("index", "sample_index", "sample")
"""Columns that name a sample by its number, 0 to n - 1; upper case, spaces and hyphens do not matter."""
ID_COLUMNS = ("id", "sample_id")
"""Columns that name a sample by its id."""
SUFFIXES = (".csv", ".parquet", ".jsonl", ".ndjson")
DELIMITERS = ",;\t|"

_BROKEN = re.compile("[\ud800-\udfff]")
"""Half of a surrogate pair: what surrogateescape makes of a byte that is not UTF-8, and no file can hold again."""
_NUL = "\udc00"
"""Stands for a NUL byte, which surrogateescape never makes and csv before Python 3.11 cannot read."""
_BINARY = {
    b"PAR1": "Parquet",
    b"PK\x03\x04": "zip or Excel",
    b"\x1f\x8b": "gzip",
    b"\x93NUMPY": "NumPy",
    b"%PDF": "PDF",
}


@checked()
def read_requests(path: str | Path, *, id_column: str | None = None) -> pd.DataFrame:
    """The rows of a file of deletion requests, unchecked.

    Args:
        path: ``.csv`` (a header line, then one request a line; delimiter comma, semicolon, tab or ``|``; UTF-8, with
            or without BOM, or UTF-16), ``.parquet``, or ``.jsonl``/``.ndjson`` (one object a line).
        id_column: the column that names the sample by its id, whatever it is called. None: a column of
            :data:`INDEX_COLUMNS` or :data:`ID_COLUMNS`.

    Returns:
        One row per request, values as they came (text for CSV), after three columns: ``row``, the number of the data
        row from 1 (blank lines and the header do not count), ``line``, its first line in the file (0 for Parquet), and
        ``problem``, what is wrong with the row as such (a clause, or ""). Columns of the file with these names get
        the suffix ``_request``; of two columns with one name the second is ``name_2``. Nested values are kept as JSON
        text, and so is every value of a JSON column of mixed kinds, so that it can be written to a table again;
        a JSON number that no float holds exactly is kept as its text; bytes of a Parquet file are read as text.

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
    read = {".csv": _csv_rows, ".parquet": _parquet_rows}.get(suffix, _json_rows)
    rows = read(content, path, id_column)
    if not rows.row:
        raise FileFormatError(f"requests {path}: there is no row; expected at least one request")
    return rows.frame(f"requests {path}", id_column)


def records_as_requests(records: Iterable[Any], id_column: str | None = None) -> pd.DataFrame:
    """Requests given as mappings, in the form of :func:`read_requests`; what is no mapping is reported by its row."""
    rows = _Rows.of_records((0, record, "") for record in records)
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
    if frame.index.name is not None and _plain(frame.index.name) in (*INDEX_COLUMNS, *ID_COLUMNS):
        frame = frame.reset_index()
    _refuse_twins(frame.columns, id_column, "the requests")
    m = len(frame)
    problems = [""] * m
    columns: dict[str, Any] = {}
    for place, name in enumerate(_distinct(frame.columns)):
        values = frame.iloc[:, place]
        columns[name] = values.tolist() if values.dtype == object else values.array
    return _Rows(list(range(1, m + 1)), [0] * m, problems, columns).frame("the requests", id_column)


def naming_columns(columns: Sequence[str], id_column: str | None, source: str) -> tuple[list[str], list[str]]:
    """Which columns name a sample by number, and which by id.

    Raises:
        SchemaError: none does.
    """
    if id_column is not None:
        return [], [named_column(columns, id_column, source)]
    by_number = [name for known in INDEX_COLUMNS for name in columns if _plain(name) == known]
    by_id = [name for known in ID_COLUMNS for name in columns if _plain(name) == known]
    if by_number or by_id:
        return by_number, by_id
    wanted = f"expected a column {', '.join(repr(name) for name in INDEX_COLUMNS)} (the number of the sample) or 'id'"
    got = [repr(str(name)[:40]) for name in columns]
    if columns and all(re.fullmatch(r"\s*[-+]?\d*\.?\d*\s*", name) for name in columns):
        raise SchemaError(f"{source}: {wanted}; the first line is {', '.join(got[:4])}: put a header line before it")
    raise SchemaError(
        f"{source}: {wanted}; got {shortened(got, 8) or 'none'}: rename one, or name the column of the ids"
    )


def named_column(columns: Sequence[str], wanted: str, source: str) -> str:
    """The column of this name, or the only one whose name differs in case, blanks and hyphens alone.

    Raises:
        SchemaError: there is none.
    """
    for like in ([wanted], [name for name in columns if _plain(name) == _plain(wanted)]):
        if len(like) == 1 and like[0] in columns:
            return like[0]
    raise SchemaError(f"{source}: there is no column {wanted!r}; got {shortened(columns, 8) or 'none'}")


@dataclass
class _Rows:
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
    def of_records(cls, numbered: Iterable[tuple[int, Any, str]]) -> _Rows:
        """From (line, mapping, problem); a mapping with a problem may be anything."""
        lines: list[int] = []
        problems: list[str] = []
        records: list[Mapping[Any, Any]] = []
        names: dict[str, None] = {}
        for line, record, problem in numbered:
            if not problem and not isinstance(record, Mapping):
                kind = "null" if record is None else type(record).__name__
                problem = f'expected an object such as {{"index": 17}}; got {_quoted(record)} ({kind})'
            lines.append(line)
            problems.append(problem)
            records.append(record if isinstance(record, Mapping) else {})
            names.update(dict.fromkeys(map(str, records[-1])))
        columns: dict[str, Any] = {name: [None] * len(records) for name in names}
        for place, record in enumerate(records):
            for name, value in record.items():
                columns[str(name)][place] = value
        for name, values in columns.items():
            if _plain(name) not in (*INDEX_COLUMNS, *ID_COLUMNS):
                columns[name] = _one_kind(values)
        return cls(list(range(1, len(records) + 1)), lines, problems, columns)


def _refuse_twins(names: Iterable[object], id_column: str | None, source: str) -> None:
    """Refuse two columns of one name, where it names the sample: nobody can tell which is meant.

    Raises:
        SchemaError: there are two.
    """
    counts = Counter(str(name).strip() for name in names)
    for name, times in counts.items():
        naming = _plain(name) in (*INDEX_COLUMNS, *ID_COLUMNS) or (
            id_column is not None and _plain(name) == _plain(id_column)
        )
        if times > 1 and naming:
            raise SchemaError(f"{source}: two columns are named {name!r}: rename or drop one")


def free_name(name: str, taken: Iterable[str]) -> str:
    """``name``, with ``_request`` after it until it is none of those ``taken``."""
    while name in taken:
        name += "_request"
    return name


def _plain(name: object) -> str:
    """A column's name as it is compared: lower case, without surrounding blanks, words joined by underscores."""
    return re.sub(r"[\s-]+", "_", str(name).strip().lower())


def _distinct(names: Iterable[object]) -> list[str]:
    """Names as text; one that came before gets a number, one without a name its place."""
    found: dict[str, None] = {}
    for place, name in enumerate(names, 1):
        plain = str(name).strip() or f"column_{place}"
        unique, count = plain, 1
        while unique in found:
            count += 1
            unique = f"{plain}_{count}"
        found[unique] = None
    return list(found)


def _quoted(value: object, most: int = 60) -> str:
    """A value for a message: one line of printable text, shortened."""
    try:
        text = repr(value)
    except ValueError:  # Python does not write out an int of more than 4300 digits
        text = "a number of thousands of digits"
    return text if len(text) <= most else f"{text[:most]}…"


def _decoded(content: bytes) -> str:
    """As text; a byte that is not UTF-8 and a NUL become surrogates, so that they can be reported where they stand."""
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return content.decode("utf-16", errors="replace").replace("\0", _NUL)
    return content.decode("utf-8-sig", errors="surrogateescape").replace("\0", _NUL)


def _not_text(text: str) -> str:
    """What is wrong with a row that holds a surrogate, or ""."""
    found = _BROKEN.search(text)
    if found is None:
        return ""
    if found[0] == _NUL:
        return "a NUL byte"
    code = ord(found[0])
    if 0xDC80 <= code <= 0xDCFF:
        return f"not UTF-8 (byte 0x{code - 0xDC00:02x}): save the file as UTF-8"
    return f"half a surrogate pair (\\u{code:04x}), which is no character"


def _writable(column: Any, problems: list[str]) -> Any:
    """The values of a column, text that no file can hold as escapes; it is reported in ``problems``."""
    if not isinstance(column, list) and not isinstance(column.dtype, pd.CategoricalDtype | pd.StringDtype):
        return column
    values, found = list(column), False
    for place, value in enumerate(values):
        if not isinstance(value, str) or (value.isascii() and "\0" not in value):
            continue
        text = value.replace("\0", _NUL)
        if problem := _not_text(text):
            problems[place], values[place], found = problems[place] or problem, _printable(text), True
    return values if found else column


def _refuse_binary(content: bytes, path: Path) -> None:
    kind = next((kind for magic, kind in _BINARY.items() if content.startswith(magic)), None)
    if kind is None and not content.startswith((b"\xff\xfe", b"\xfe\xff")) and b"\0" in content.split(b"\n", 1)[0]:
        kind = "binary"
    if kind is not None:
        raise FileFormatError(f"requests {path}: expected text ({path.suffix}); this is a {kind} file")


# -- CSV -----------------------------------------------------------------------------------------------


def _csv_rows(content: bytes, path: Path, id_column: str | None) -> _Rows:
    _refuse_binary(content, path)
    lines = list(io.StringIO(_decoded(content), newline=""))
    start = next((place for place, line in enumerate(lines) if line.strip()), None)
    if start is None:
        raise FileFormatError(f"requests {path}: the file is empty; expected at least one request")
    delimiter = _delimiter(lines[start], id_column)
    records = _csv_records(lines, start, delimiter)
    _, _, header, wrong = next(records)
    if wrong or any(_BROKEN.search(name) for name in header):
        raise SchemaError(f"requests {path}: the header line cannot be read: {wrong or _not_text(''.join(header))}")
    _refuse_twins([_plain(name) for name in header], id_column, f"requests {path}")
    names = _distinct(header)
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
            problem = _swallowed(fields, lines[first + 1 : last], named, delimiter, first)
        if not problem and not "".join(fields).isascii():
            problem = _not_text("".join(fields))
        if problem:
            fields = [_printable(field) for field in fields[:width]]
            fields += [""] * (width - len(fields))
        rows.append(fields)
        numbers.append(first + 1)
        problems.append(problem)
    columns = dict(zip(names, map(list, zip(*rows, strict=True)), strict=True)) if rows else {}
    for name, head in zip(names, header, strict=True):
        if not head.strip() and not any(columns.get(name, [])):
            columns.pop(name, None)  # every line ends with a delimiter
    return _Rows(list(range(1, len(rows) + 1)), numbers, problems, columns)


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


def _swallowed(fields: Sequence[str], inner: Sequence[str], named: int, delimiter: str, first: int) -> str:
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
        return [_plain(field.strip('"')) for field in line.strip("\r\n").split(delimiter)]

    known = {*INDEX_COLUMNS, *ID_COLUMNS} if id_column is None else {_plain(id_column)}
    return max(DELIMITERS, key=lambda delimiter: (bool(known & set(names(delimiter))), len(names(delimiter))))


def _printable(text: str) -> str:
    """Surrogates as escapes, so that the text can be written to a file."""
    return _BROKEN.sub(lambda found: f"\\x{(ord(found[0]) - 0xDC00) % 0x400:02x}", text)


# -- JSON lines ----------------------------------------------------------------------------------------


def _json_rows(content: bytes, path: Path, id_column: str | None) -> _Rows:
    _refuse_binary(content, path)
    text = _decoded(content)
    if text.lstrip().startswith("["):
        try:
            whole = json.loads(text)
        except (ValueError, RecursionError):
            whole = None
        if isinstance(whole, list) and (text.strip().count("\n") or any(isinstance(item, dict) for item in whole)):
            raise FileFormatError(f"requests {path}: expected one JSON object a line; the file is one array of them")
    rows = _Rows.of_records(
        (number, *_json_object(line)) for number, line in enumerate(text.split("\n"), 1) if line.strip()
    )
    if rows.row and all(rows.problem):
        raise FileFormatError(f"requests {path}: no line is a JSON object; line {rows.line[0]} is {rows.problem[0]}")
    return rows


def _json_object(line: str) -> tuple[Any, str]:
    """The value of one line and what is wrong with it, or ""."""
    if not line.isascii() and (problem := _not_text(line)):
        return None, problem
    repeated: list[str] = []
    try:
        value = json.loads(line, object_pairs_hook=each_once(lambda name, _: repeated.append(name)))
    except json.JSONDecodeError as error:
        return None, f"not JSON: {error.msg} at character {error.pos + 1}"
    except RecursionError:
        return None, "not readable: nested too deeply"
    except ValueError:
        return None, "not readable: a number of too many digits"
    if isinstance(value, dict) and any(isinstance(part, float) and part.is_integer() for part in value.values()):
        for name, written in json.loads(line, parse_float=str).items():
            number = value[name]
            if (
                isinstance(number, float)
                and number.is_integer()
                and (abs(number) >= LIMIT or Decimal(written) != number)
            ):
                value[name] = written
    if repeated:
        return value, f"the name {_quoted(repeated[0])} is given twice"
    if "\\u" in line and (problem := _not_text(json.dumps(value, ensure_ascii=False))):
        return None, problem
    return value, ""


def _one_kind(values: list[Any]) -> list[Any]:
    """A column that a table file can hold: values of one kind as they are, else as text."""
    kinds = {type(value) for value in values if value is not None}
    plain = kinds <= {bool} or kinds <= {str} or kinds <= {int, float}
    if plain and not any(type(value) is int and abs(value) >= 2**63 for value in values):
        return values
    return [value if value is None or isinstance(value, str) else _as_text(value) for value in values]


def _as_text(value: object) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, default=str)
    except (TypeError, ValueError):  # keys that are no text, a value inside itself, an int of thousands of digits
        return hex(value) if isinstance(value, int) else type(value).__name__


# -- Parquet -------------------------------------------------------------------------------------------


def _parquet_rows(content: bytes, path: Path, id_column: str | None) -> _Rows:
    if not content.startswith(b"PAR1"):
        raise FileFormatError(f"requests {path}: expected a Parquet file; it does not begin like one")
    try:
        table = read_table(content, f"requests {path}", utf8=False)
    except FileFormatError:
        raise
    except Exception as error:  # a damaged file can raise nearly anything
        raise FileFormatError(f"requests {path}: not a readable Parquet file: {first_line(error)}") from error
    _refuse_twins(table.column_names, id_column, f"requests {path}")
    problems = [""] * table.num_rows
    columns: dict[str, Any] = {}
    for name, column in zip(_distinct(table.column_names), table.columns, strict=True):
        if not re.fullmatch(r"__index_level_\d+__", name) or _plain(id_column) == name:
            columns[name] = _parquet_column(column, name, path, problems)
    return _Rows(list(range(1, table.num_rows + 1)), [0] * table.num_rows, problems, columns)


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
            return [None if value is None else _as_text(value) for value in column.to_pylist()]
        if pa.types.is_uint64(column.type) and column.null_count:
            return _one_kind(column.to_pylist())
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
        if text is not None and (problem := _not_text(text)):
            problems[place], text = problem, _printable(text)
        found.append(text)
    return found
