"""What is served is exactly what was asked for, or a problem of its row: over all readers, types and sizes of ids."""

from __future__ import annotations

import array
import csv
import json
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from forgetcast.errors import IndexRangeError, InputError, SchemaError
from forgetcast.files.exact_values import InexactNumber, exact_values, names_exactly, sample_numbers
from forgetcast.screening.requests import checked_requests

pytestmark = pytest.mark.slow

LIMITS = [0, 2**8, 2**11, 2**24, 2**31, 2**53, 2**54, 12345678901234567, 2**63 - 8]
"""Sizes of ids: where bfloat16, float16, float32 and float64 begin to round, and those of large systems."""

EXACT: dict[str, Callable[[list[int]], Any]] = {
    "list": list,
    "list with a gap": lambda asked: [*asked, None],
    "text": lambda asked: [str(value) for value in asked],
    "decimals": lambda asked: [Decimal(value) for value in asked],
    "int64": np.array,
    "uint64": lambda asked: np.array(asked, dtype=np.uint64),
    "tensor": torch.tensor,
    "tensors": lambda asked: [torch.tensor(value) for value in asked],
    "series": pd.Series,
    "Int64 with a gap": lambda asked: pd.Series([*asked, None], dtype="Int64"),
    "UInt64 with a gap": lambda asked: pd.Series([*asked, None], dtype="UInt64"),
    "objects with a gap": lambda asked: pd.Series([*asked, None], dtype=object),
    "category": pd.Categorical,
    "arrow ints": lambda asked: pd.Series([*asked, None], dtype=pd.ArrowDtype(pa.int64())),
    "arrow decimals": lambda asked: pd.Series(map(Decimal, asked), dtype=pd.ArrowDtype(pa.decimal128(30))),
    "pyarrow": lambda asked: pa.array([*asked, None]),
    "pyarrow dictionary": lambda asked: pa.array([*asked, None]).dictionary_encode(),
    "masked": lambda asked: np.ma.masked_array([*asked, 0], [False] * len(asked) + [True]),
}
LOSSY: dict[str, Callable[[list[int]], Any]] = {
    "floats": lambda asked: [float(value) for value in asked],
    "floats beside ints": lambda asked: [float(asked[0]), *asked[1:]],
    "float64": lambda asked: np.array(asked, dtype=np.float64),
    "float32": lambda asked: np.array(asked, dtype=np.float32),
    "float16": lambda asked: np.array(asked).astype(np.float16),
    "long double": lambda asked: np.array(asked, dtype=np.longdouble),
    "float32 scalars": lambda asked: [np.float32(value) for value in asked],
    "float tensor": lambda asked: torch.tensor(asked, dtype=torch.float32),
    "float tensors": lambda asked: [torch.tensor(float(value)) for value in asked],
    "double tensor": lambda asked: torch.tensor(asked, dtype=torch.float64),
    "half tensor": lambda asked: torch.tensor(asked).half(),
    "bfloat16 tensor": lambda asked: torch.tensor(asked).bfloat16(),
    "series with a gap": lambda asked: pd.Series([*asked, None]),
    "float32 series": lambda asked: pd.Series(asked, dtype="float32"),
    "Float32": lambda asked: pd.Series(asked, dtype="float64").astype("Float32"),
    "Float64 with a gap": lambda asked: pd.Series([*map(float, asked), None], dtype="Float64"),
    "float index": lambda asked: pd.Index(asked, dtype="float64"),
    "category of float32": lambda asked: pd.Series(np.array(asked, dtype=np.float32)).astype("category"),
    "sparse": lambda asked: pd.Series(pd.arrays.SparseArray(np.array(asked, dtype=np.float32))),
    "arrow float": lambda asked: pd.Series(map(float, asked), dtype=pd.ArrowDtype(pa.float32())),
    "pyarrow float": lambda asked: pa.array(map(float, asked), pa.float32()),
    "array of C": lambda asked: array.array("f", asked),
    "memory of C": lambda asked: memoryview(np.array(asked, dtype=np.float32)),
}
MEMORY = {**EXACT, **LOSSY}


def csv_file(texts: Callable[[int], str]) -> Callable[[Path, list[int]], Path]:
    """Writes ids as such texts."""

    def write(folder: Path, asked: list[int]) -> Path:
        path = folder / "requests.csv"
        with path.open("w", newline="") as file:
            csv.writer(file).writerows([["id", "note"], *([texts(value), "x"] for value in asked)])
        return path

    return write


def json_file(texts: Callable[[int], str]) -> Callable[[Path, list[int]], Path]:
    """Writes ids as such JSON, one of them missing."""

    def write(folder: Path, asked: list[int]) -> Path:
        path = folder / "requests.jsonl"
        path.write_text("".join(f'{{"id": {texts(value)}}}\n' for value in asked) + '{"id": null}\n')
        return path

    return write


def parquet_file(column: Callable[[list[int]], Any]) -> Callable[[Path, list[int]], Path]:
    """Writes ids as such a column."""

    def write(folder: Path, asked: list[int]) -> Path:
        path = folder / "requests.parquet"
        pq.write_table(pa.table({"id": column(asked)}), path)
        return path

    return write


EXACT_FILES = {
    "csv": csv_file(str),
    "csv with blanks": csv_file(lambda value: f" {value} "),
    "json": json_file(str),
    "json text": json_file(lambda value: f'"{value}"'),
    "parquet": parquet_file(lambda asked: pa.array([*asked, None])),
    "parquet uint64": parquet_file(lambda asked: pa.array([*asked, None], pa.uint64())),
    "parquet dictionary": parquet_file(lambda asked: pa.array([*asked, None]).dictionary_encode()),
    "parquet decimal": parquet_file(lambda asked: pa.array(map(Decimal, asked), pa.decimal128(20))),
    "parquet text": parquet_file(lambda asked: pa.array(map(str, asked))),
}
LOSSY_FILES = {
    "csv .0": csv_file(lambda value: f"{value}.0"),
    "csv of floats": csv_file(lambda value: str(float(value))),
    "csv of a spreadsheet": csv_file(lambda value: f"{value:.5E}"),
    "json .0": json_file(lambda value: f"{value}.0"),
    "json float": json_file(lambda value: json.dumps(float(value))),
    "json exponent": json_file(lambda value: f"{value:.5e}"),
    "parquet float": parquet_file(lambda asked: pa.array([*map(float, asked), None])),
    "parquet float32": parquet_file(lambda asked: pa.array(map(float, asked), pa.float32())),
    "parquet dictionary of float32": parquet_file(
        lambda asked: pa.array(map(float, asked), pa.float32()).dictionary_encode()
    ),
}
FILES = {**EXACT_FILES, **LOSSY_FILES}


def queue(start: int) -> tuple[list[int], list[str]]:
    """Every second number from ``start`` on, and the ids of the data: all of them with their neighbours."""
    return [start + 1, start + 2, start + 5], [str(start + k) for k in range(8)]


def assert_exact(source: Any, start: int, whole: bool) -> None:
    """Every id is served as itself or reported; all are served if nothing was lost (``whole``)."""
    asked, ids = queue(start)
    found = checked_requests(source, len(ids), ids=ids, id_column="id" if isinstance(source, pd.DataFrame) else None)
    served = dict(zip(found.table["row"], found.table["index"], strict=True))
    right = {row: ids.index(str(value)) for row, value in enumerate(asked, 1)}
    assert served.items() <= right.items()
    assert {*served, *found.problems["row"]} >= {*right}
    assert not whole or served == right
    for row in served:
        assert ids[served[row]] == str(asked[row - 1])


@pytest.mark.parametrize("start", LIMITS)
@pytest.mark.parametrize("kind", MEMORY)
def test_ids_in_memory_are_served_exactly_or_reported(kind: str, start: int) -> None:
    """In a column of a table, whatever it is made of; small numbers are served from floats too."""
    column = MEMORY[kind](queue(start)[0])
    if isinstance(column, list | torch.Tensor | pa.Array | array.array | memoryview | np.ma.MaskedArray):
        values = pd.Series(exact_values(column), dtype=object)
        if isinstance(column, list):
            values = pd.Series(column, dtype=object)
    else:
        values = pd.Series(column)
    assert_exact(pd.DataFrame({"id": values}), start, kind in EXACT or start == 0)


@pytest.mark.parametrize("start", LIMITS)
@pytest.mark.parametrize("kind", FILES)
def test_ids_in_files_are_served_exactly_or_reported(tmp_path: Path, kind: str, start: int) -> None:
    """In every kind of file, as text and as numbers."""
    exponent = kind in ("csv of a spreadsheet", "json exponent")
    assert_exact(FILES[kind](tmp_path, queue(start)[0]), start, kind in EXACT_FILES or (start == 0 and not exponent))


@pytest.mark.parametrize("start", LIMITS)
@pytest.mark.parametrize("kind", MEMORY)
def test_ids_of_samples_are_exact_or_refused(kind: str, start: int) -> None:
    """``ids=`` of any type: every text finds its own sample, or the error names the first that is not exact."""
    asked, _ = queue(start)
    ids = MEMORY[kind](asked)
    n = len(ids)
    if n > len(asked):  # a gap
        with pytest.raises(InputError, match=r"ids: sample 3 has none|ids: the id of sample \d is not known exactly"):
            checked_requests([0], n, ids=ids)
        return
    wanted = [str(value) for value in range(start, start + 8)]
    if any(isinstance(value, InexactNumber | float) for value in exact_values(ids)):
        assert kind in LOSSY
        assert start > 0
        with pytest.raises(InputError, match=r"^ids: .*sample \d.*dtype=str[^\n]*$"):
            checked_requests(wanted, n, ids=ids)
        return
    found = checked_requests(wanted, n, ids=ids)
    assert dict(zip(found.table["id"], found.table["index"], strict=True)) == {str(v): k for k, v in enumerate(asked)}


@pytest.mark.parametrize("start", LIMITS[:-1])
@pytest.mark.parametrize("kind", MEMORY)
def test_sample_numbers_are_served_exactly_or_reported(kind: str, start: int) -> None:
    """Handed over as they are: a float32 beyond 2^24 names no sample, whatever the data's size."""
    asked, _ = queue(start)
    found = checked_requests(MEMORY[kind](asked), start + 8)
    served = dict(zip(found.table["row"], found.table["index"], strict=True))
    assert served.items() <= dict(enumerate(asked, 1)).items()
    assert len(served) == len(asked) or kind in LOSSY
    assert {*served, *found.problems["row"]} >= {1, 2, 3}


@given(st.integers(-(2**70), 2**70), st.sampled_from([np.float16, np.float32, np.float64, np.longdouble]))
def test_a_float_is_itself_or_blurred(value: int, kind: type[np.floating]) -> None:
    """No whole number comes out of a float as another one; below the limit each comes out as itself."""
    with np.errstate(over="ignore"):
        number = np.array([value]).astype(object).astype(kind)
    (read,) = exact_values(number)
    limit = 2 ** (np.finfo(kind).nmant + 1)
    if abs(value) < limit:
        assert (read, type(read)) == (value, int)
    else:
        assert isinstance(read, InexactNumber) or np.isinf(read)


@pytest.mark.parametrize(
    ("ids", "request_", "index"),
    [
        (["7", "007"], "7", 0),
        (["7", "007"], "007", 1),
        (["7", "007"], 7, None),
        (["7", "007"], 7.0, None),
        (["7", "7.0"], 7.0, None),
        (["7", "7.0"], "7.0", 1),
        (["7", "8"], 7.0, 0),
        (["7", "8"], "7.0", 0),
        (["007", "8"], 7, None),
        (["007", "8"], "7.0", None),
        (["+7", "7"], "+7", 0),
        (["+7", "7"], 7, None),
        (["7", "7 "], " 7", None),
        (["7", "8"], " 7 ", 0),
        (["1e3", "1000"], "1e3", 0),
        (["1e3", "1000"], "1.0e3", None),
        (["1000", "8"], "1e3", None),
        (["1000", "8"], "1_000", None),
        (["7", "8"], "７", None),
        (["1", "0"], True, None),
        (["1.5", "8"], 1.5, None),
        (["1.5", "8"], "1.5", 0),
        (["12345678901234561", "8"], "12345678901234561.0", None),
        (["12345678901234561", "8"], "1.2345678901234561e16", None),
        (["7", "8"], "7.00000000000000000001", None),
    ],
)
def test_one_number_written_in_several_ways(ids: list[str], request_: Any, index: int | None) -> None:
    """Text is the id it spells; a number is served where one id alone reads as it and is written so."""
    found = checked_requests(pd.DataFrame({"id": pd.Series([request_], dtype=object)}), len(ids), ids=ids)
    assert found.table["index"].tolist() == ([] if index is None else [index])
    assert len(found.problems) == (index is None)


def test_json_numbers_that_a_float_would_round_are_no_other_number(tmp_path: Path) -> None:
    """A fraction that float64 drops is not dropped."""
    path = tmp_path / "r.jsonl"
    path.write_text('{"id": 7.00000000000000000001}\n{"id": 4503599627370496.3}\n{"id": 8.0}\n')
    assert checked_requests(path, 3, ids=["7", "4503599627370496", "8"]).table["index"].tolist() == [2]
    assert checked_requests(path, 9).table["index"].tolist() == [8]


def test_an_id_that_looks_like_no_sample_number_is_none() -> None:
    """Without ids an id with zeros before it is not taken for a number; in a column of numbers it is one."""
    assert "the ids of the samples are not known here" in checked_requests([{"id": "007"}], 9).problems["problem"][0]
    assert checked_requests([{"index": "007"}], 9).table["index"].tolist() == [7]


def test_the_column_of_ids_is_heeded_in_mappings_and_tables_read_before(tmp_path: Path) -> None:
    """Not only in files."""
    rows = [{"id": "b", "key": "a"}]
    assert checked_requests(rows, 2, ids=["a", "b"], id_column="key").table["index"].tolist() == [0]


def test_ids_as_a_table_of_one_column() -> None:
    """Its values, not its name; more columns are refused."""
    ids = pd.DataFrame({"key": ["a", "b"]})
    assert checked_requests(["b"], 2, ids=ids).table["index"].tolist() == [1]
    with pytest.raises(InputError, match=r"got DataFrame of shape \(2, 2\)"):
        checked_requests(["b"], 2, ids=pd.concat([ids, ids], axis=1))


@pytest.mark.parametrize("value", [1.5, (1, 2), 3j, object()])
def test_what_has_no_exact_text_names_nothing(value: Any) -> None:
    """Neither a request nor a sample."""
    assert not names_exactly(value)
    found = checked_requests(pd.DataFrame({"id": pd.Series([value], dtype=object)}), 2, ids=["a", "b"])
    assert "is no exact id" in found.problems["problem"][0]
    with pytest.raises(InputError, match="sample 1: a value of type"):
        checked_requests(["a"], 2, ids=["a", value])


@pytest.mark.parametrize(
    "indices", [[1.0, 2.0], np.array([1.5]), torch.tensor([1.0]), [True, 5], np.array([True, False]), ["1"], [[1]]]
)
def test_indices_are_never_cut_to_whole_numbers(indices: Any) -> None:
    """Floats, truth values, text and nested lists are refused."""
    with pytest.raises(IndexRangeError, match="must be integers"):
        sample_numbers(indices)


def test_indices_of_every_integer_type_are_taken() -> None:
    """In the order given, as int64."""
    for indices in ([3, 1], np.array([3, 1], dtype=np.uint8), torch.tensor([3, 1]), range(3, 0, -2), pd.Series([3, 1])):
        assert sample_numbers(indices).tolist() == [3, 1]
        assert sample_numbers(indices).dtype == np.int64


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    """In a table and in Parquet as in CSV: which one is meant cannot be told."""
    rows = pd.DataFrame([["a", "b"]], columns=["id", "id"])
    table = pa.table([pa.array(["a"]), pa.array(["b"])], names=["key", "key"])
    pq.write_table(table, tmp_path / "r.parquet")
    (tmp_path / "r.csv").write_text("Key,key\na,b\n")
    for source, column in ((rows, None), (tmp_path / "r.parquet", "key"), (tmp_path / "r.csv", "key")):
        with pytest.raises(SchemaError, match="two columns are named"):
            checked_requests(source, 2, ids=["a", "b"], id_column=column)
