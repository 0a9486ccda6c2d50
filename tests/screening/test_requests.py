"""Deletion requests: what is readable is served, what is not is reported by its row, and nothing else goes wrong."""

from __future__ import annotations

import json
import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from forgetcast.errors import FileFormatError, ForgetcastError, InputError, PathError, SchemaError
from forgetcast.screening.requests import OWN_COLUMNS, Requests, checked_requests, read_requests

pytestmark = pytest.mark.slow

N = 100


@pytest.fixture
def served(tmp_path: Path) -> Any:
    """Writes content to a file and checks it; every row is served or reported, once."""

    def check(content: str | bytes, name: str = "requests.csv", n: int = N, **settings: Any) -> Requests:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        found = checked_requests(path, n, **settings)
        assert_each_row_once(found)
        return found

    return check


def assert_each_row_once(found: Requests) -> None:
    """Rows 1 to m, each in one of the two tables; samples distinct and within the data."""
    rows = [*found.table["row"], *found.problems["row"]]
    assert sorted(rows) == list(range(1, len(rows) + 1))
    assert found.table["row"].is_monotonic_increasing
    assert found.table["index"].is_unique
    assert found.table["index"].dtype == np.int64
    assert list(found.table)[:3] == ["row", "id", "index"]
    assert list(found.problems) == ["row", "id", "problem"]


def problem(found: Requests, row: int) -> str:
    """What is reported of one row."""
    return str(found.problems.set_index("row").loc[row, "problem"])


# -- what a single value may be ------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "index"), [("7", 7), ("7.0", 7), (" 007 ", 7), ("+7", 7), ("-0", 0), ("0.00", 0)])
def test_a_whole_number_is_a_sample_number(served: Any, text: str, index: int) -> None:
    """However it is written in digits; the text stays as it came."""
    found = served(f"index,note\n{text},x\n")
    assert found.table.to_dict("records") == [{"row": 1, "id": text, "index": index, "note": "x"}]


@pytest.mark.parametrize("text", ["7.5", "abc", "NaN", "1e3", "٧", "²", "True", "1_0", "0x1", "inf", "1 2", ".", "--1"])
def test_another_text_is_reported(served: Any, text: str) -> None:
    """With what came, and the row after it is served."""
    found = served(f"index,note\n{text},x\n3,y\n")
    assert list(found.table["index"]) == [3]
    assert problem(found, 1) == (
        f"expected a sample number, a whole number from 0 to 99 in digits; got {text!r} (line 2)"
    )
    assert list(found.problems["id"]) == [text]


@pytest.mark.parametrize("text", ["-3", "100", "99999999999999999999", "9" * 6000, "-" + "9" * 50 + ".0"])
def test_a_number_out_of_range_is_reported(served: Any, text: str) -> None:
    """Negative, one too high, or of more digits than Python reads."""
    found = served(f"index\n{text}\n0\n")
    assert "out of range: the data has 100 samples (0 to 99)" in problem(found, 1)
    assert len(problem(found, 1)) < 200
    assert list(found.table["index"]) == [0]


VALUES = [3, True, None, float("nan"), 7.5, np.int8(4), np.float32(5), Decimal(6), float("inf"), 1e300, 10**5000, [1]]


def test_values_in_python_follow_the_same_rules() -> None:
    """Numbers without a fraction of any type count, truth values do not."""
    found = checked_requests(VALUES, N)
    assert_each_row_once(found)
    assert list(found.table["index"]) == [3, 4, 5, 6]
    assert list(found.problems["row"]) == [2, 3, 4, 5, 9, 10, 11, 12]


@pytest.mark.parametrize(
    "source",
    [
        [5, 2],
        (5, 2),
        np.array([5, 2]),
        np.array([5.0, 2.0]),
        torch.tensor([5, 2]),
        pd.Series([5, 2], index=[9, 9]),
        range(5, 0, -3),
        ["5", "2"],
        iter([5, 2]),
        [{"index": 5}, {"Index": "2"}],
        pd.DataFrame({"sample": [5, 2]}, index=["a", "b"]),
        pd.DataFrame({"note": ["", ""]}, index=pd.Index([5, 2], name="index")),
    ],
)
def test_requests_may_come_from_python(source: Any) -> None:
    """Lists, arrays, tensors, series, mappings, tables; rows are counted from 1 whatever their own index says."""
    found = checked_requests(source, N)
    assert list(found.table["index"]) == [5, 2]
    assert list(found.table["row"]) == [1, 2]


@pytest.mark.parametrize("source", [[], np.array([]), pd.DataFrame({"index": []}), 5, None, {"index": [1]}, np.eye(2)])
def test_what_holds_no_requests_is_refused(source: Any) -> None:
    """Nothing in it, or of another kind."""
    with pytest.raises(InputError, match="expected"):
        checked_requests(source, N)


# -- rows of CSV ---------------------------------------------------------------------------------------


def test_blank_lines_are_no_rows_and_empty_cells_are(served: Any) -> None:
    """Line numbers in messages count every line, row numbers only rows."""
    found = served("\nindex,note\n\n1,a\n   \n,b\n\n2,c\n\n")
    assert list(found.table["row"]) == [1, 3]
    assert problem(found, 2) == "no sample is named: 'index' is empty (line 6)"


def test_a_sample_is_served_once(served: Any) -> None:
    """The first request for it; the others name its row."""
    found = served("index\n1\n2\n1\n1.0\n")
    assert list(found.table["row"]) == [1, 2]
    assert problem(found, 3) == "sample 1 is requested already, in row 1 (line 4)"
    assert "in row 1" in problem(found, 4)


def test_a_wrong_number_of_fields_is_reported(served: Any) -> None:
    """Too few and too many, with the id that the row seems to name."""
    found = served("note,index\na,1\n2\nc,3,x\nd,4\n")
    assert list(found.table["index"]) == [1, 4]
    assert problem(found, 2) == "expected 2 fields, as in the header line; got 1 (line 3)"
    assert problem(found, 3) == "expected 2 fields, as in the header line; got 3 (line 4)"
    assert list(found.problems["id"]) == ["", "3"]


@pytest.mark.parametrize(
    "broken", ['2,"oops', '2,"oops""', '"2', '2,"oops"s', '"', '2,"a"b,"c', '"2,oops\n"2,more'], ids=repr
)
@pytest.mark.parametrize("after", ["3,c\n4,d\n", '3,"c"\n4,"d"\n', '3,"c, ""d"""\n4,"two\nlines"\n'], ids=repr)
def test_a_quote_that_is_never_closed_costs_its_own_row(served: Any, broken: str, after: str) -> None:
    """Whether or not another quote comes after it."""
    found = served(f"index,note\n1,a\n{broken}\n{after}")
    assert list(found.table["index"]) == [1, 3, 4]
    assert "quote" in problem(found, 2)


def test_a_quoted_field_that_swallows_requests_is_reported(served: Any) -> None:
    """The quotes of two rows may pair up: nothing between them is lost without a word."""
    found = served('index,note\n1,a\n2,"oops\n3,c\n4,d"\n5,e\n')
    assert list(found.table["index"]) == [1, 5]
    assert "holds line 4, which reads like a request" in problem(found, 2)
    found = served('id,note\nu-1,"oops\nu-2,c\nu-3,d"\nu-4,"Dear all,\nplease, thanks"\n', ids=["u-1", "u-4"], n=2)
    assert list(found.table["index"]) == [1]
    assert "holds line 3, which reads like a request" in problem(found, 1)


def test_a_quoted_field_may_hold_lines_delimiters_and_quotes(served: Any) -> None:
    """As RFC 4180 has it; line numbers go on counting lines."""
    found = served('index,note\n1,"a, ""b""\n\nc"\nx,d\n')
    assert found.table["note"].tolist() == ['a, "b"\n\nc']
    assert "(line 5)" in problem(found, 2)


def test_bytes_that_are_no_text_are_reported(served: Any) -> None:
    """Latin-1 in a UTF-8 file, NUL bytes, an encoded surrogate; what is reported can be written."""
    found = served(b"index,note\n1,\xc3\xbc\n2,\xfc\n3,a\x00b\n4,\xed\xa0\x80\n\xff5,x\n6,y\n")
    assert found.table[["index", "note"]].values.tolist() == [[1, "ü"], [6, "y"]]
    assert problem(found, 2) == "not UTF-8 (byte 0xfc): save the file as UTF-8 (line 3)"
    assert problem(found, 3) == "a NUL byte (line 4)"
    found.problems.to_json(orient="records").encode()
    assert found.problems["id"].tolist() == ["2", "3", "4", "\\xff5"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_files_of_spreadsheets_are_read(served: Any, encoding: str, end: str, delimiter: str) -> None:
    """Every byte-order mark, line end and delimiter they write."""
    lines = [["Sample ID", "Name, first"], ["3", "Zoë"], ["4", "x"]]
    content = end.join(delimiter.join(f'"{field}"' for field in line) for line in lines).encode(encoding)
    found = served(content)
    assert found.table.to_dict("list") == {
        "row": [1, 2], "id": ["3", "4"], "index": [3, 4], "Name, first": ["Zoë", "x"],
    }  # fmt: skip


def test_a_delimiter_at_every_end_makes_no_column(served: Any) -> None:
    """But a column without a name that holds something is kept."""
    assert list(served("index,note,\n1,a,\n2,b,\n").table) == ["row", "id", "index", "note"]
    assert served("index,note,\n1,a,\n2,b,c\n").table["column_3"].tolist() == ["", "c"]


# -- columns -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["index", " Index ", "SAMPLE", "sample index", "Sample-Index", "id", "Sample ID"])
def test_the_naming_column_has_several_names(served: Any, name: str) -> None:
    """Upper case, blanks and hyphens do not matter; without ids an id is a number."""
    assert list(served(f"note,{name}\nx,5\n").table["index"]) == [5]


def test_extra_columns_stay_and_make_way(served: Any) -> None:
    """They come as they are, in order; names of the result's own columns get a suffix, the second of two a number."""
    found = served("row,index,tier,Tier,who,who,tier_request\n9,5,gold,x,a,b,c\n")
    assert found.table.iloc[0].to_dict() == {
        "row": 1, "id": "5", "index": 5,
        "row_request": "9", "tier_request_request": "gold", "Tier": "x", "who": "a", "who_2": "b", "tier_request": "c",
    }  # fmt: skip
    every = pd.DataFrame({"sample": [1], **{name: ["mine"] for name in OWN_COLUMNS if name not in ("index", "id")}})
    table = checked_requests(every, N).table
    assert [name for name in table if name in OWN_COLUMNS] == ["row", "id", "index"]
    assert (table.iloc[0, 3:] == "mine").all()


def test_an_id_without_ids_says_what_is_missing(served: Any) -> None:
    """Whoever forgot to give them learns it from the first problem."""
    assert "(the ids of the samples are not known here); got 'u-1'" in problem(served("id\nu-1\n"), 1)


def test_ids_are_looked_up(served: Any) -> None:
    """As text, whatever kind they are; a number that is no id is not taken for a sample number."""
    found = served("id\nb\n c\n2\nB\n", n=3, ids=["a", "b", "c"])
    assert list(found.table["index"]) == [1, 2]
    assert problem(found, 3) == "no sample has the id '2' (line 4)"
    for ids in ([1001, 1002], np.array([1001, 1002]), pd.Series([1001.0, 1002.0]), ["1001", "1002"]):
        assert list(served("id\n1002\n1001.0\n", n=2, ids=ids).table["index"]) == [1, 0]
    assert list(checked_requests(["b", "x", "a"], 2, ids=["a", "b"]).table["index"]) == [1, 0]
    assert list(checked_requests([1, 0], 2, ids=["a", "b"]).table["index"]) == [1, 0]


def test_a_number_and_an_id_must_agree(served: Any) -> None:
    """With ids both name the sample, one may be missing; without, the id is a remark."""
    content = "id,index\na,0\nb,0\n,1\nc,\nx,3\n"
    found = served(content, n=4, ids=["a", "b", "c", "d"])
    assert list(found.table["index"]) == [0, 1, 2]
    assert list(found.table["id"]) == ["a", "1", "c"]
    assert problem(found, 2) == "the columns disagree: 'index' names sample 0, 'id' names sample 1 (line 3)"
    assert "no sample has the id 'x'" in problem(found, 5)
    found = served(content, n=4)
    assert found.table[["id", "index"]].values.tolist() == [["a", 0], ["1", 1], ["x", 3]]


def test_the_column_of_ids_can_be_named(served: Any) -> None:
    """Then no other names the sample."""
    found = served("key,index,row\nb,0,1\n", n=2, ids=["a", "b"], id_column="Key")
    assert found.table.iloc[0].to_dict() == {"row": 1, "id": "b", "index": 1, "index_request": "0", "row_request": "1"}
    assert list(served("row\n1\n", n=2, id_column="row").table["index"]) == [1]
    with pytest.raises(SchemaError, match="no column 'kye'; got key"):
        served("key\nb\n", id_column="kye")


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (["a"], "one for each of the 2 samples; got 1"),
        (["a", "a"], "samples 0 and 1 are both called 'a'"),
        ([1, "1"], "samples 0 and 1 are both called '1'"),
        (["a", None], "sample 1 has none"),
        ("ab", "expected a sequence"),
        (7, "expected a sequence"),
    ],
)
def test_ids_that_are_not_one_per_sample_are_refused(ids: Any, message: str) -> None:
    """Before any request is looked at."""
    with pytest.raises(InputError, match=message):
        checked_requests([0], 2, ids=ids)


# -- JSON lines ----------------------------------------------------------------------------------------

JSON_LINES = {
    '{"index": 1, "who": {"name": "ü"}, "since": 2020}': 1,
    "7": "expected an object",
    "[1]": "expected an object",
    "null": "expected an object",
    '"x"': "expected an object",
    '{"index": 2': "not JSON",
    "{'index': 2}": "not JSON",
    '{"index": 2} {"index": 3}': "not JSON: Extra data",
    '{"index": 2, "index": 3}': "'index' is given twice",
    '{"who": 3}': "no sample is named",
    '{"index": null}': "no sample is named",
    '{"index": NaN}': "no sample is named",
    '{"index": true}': "got True",
    '{"index": [4]}': "got [4]",
    '{"index": 5.5}': "got 5.5",
    '{"index": 6, "who": "\\ud800"}': "half a surrogate pair",
    '{"index": ' + "9" * 5000 + "}": "too many digits",
    "[" * 100_000: "nested too deeply",
    '{"index": 7.0, "who": 12}\r': 7,
    '{"Index": "8", "since": 99999999999999999999}': 8,
}


def test_each_line_of_json_stands_for_itself(served: Any, tmp_path: Path) -> None:
    """Broken lines are reported, others served, and what they hold beside the index can be written to a table."""
    found = served("\n\n".join(JSON_LINES), "requests.jsonl")
    for row, expected in enumerate(JSON_LINES.values(), 1):
        if isinstance(expected, int):
            assert found.table.set_index("row").loc[row, "index"] == expected
        else:
            assert expected in problem(found, row)
            assert problem(found, row).endswith(f"(line {2 * row - 1})")
    assert found.table["who"].tolist()[:2] == ['{"name": "ü"}', "12"]
    found.table.to_parquet(tmp_path / "written.parquet")


# -- Parquet -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "kept", "reported"),
    [
        (pa.array([3, 1, 200]), [3, 1], [3]),
        (pa.array([3, None, 1]), [3, 1], [2]),
        (pa.array([3.0, float("nan"), 1.5]), [3], [2, 3]),
        (pa.array(["3", "", "x"]), [3], [2, 3]),
        (pa.array(["3", "1", "3"]).dictionary_encode(), [3, 1], [3]),
        (pa.array([True, False, None]), [], [1, 2, 3]),
        (pa.array([b"3", b"\xff", b"1"], pa.binary()), [3, 1], [2]),
        (pa.array([b"3", b"\xff", b"1"], pa.binary()).view(pa.string()), [3, 1], [2]),
        (pa.array([2**64 - 1, 0, 1], pa.uint64()), [0, 1], [1]),
        (pa.array([Decimal("3.0"), Decimal("1.5"), None], pa.decimal128(5, 1)), [3], [2, 3]),
        (pa.array([[1], [], None]), [], [1, 2, 3]),
        (pa.array([0, 1, 2], pa.timestamp("us")), [], [1, 2, 3]),
        (pa.nulls(3), [], [1, 2, 3]),
    ],
    ids=lambda value: str(getattr(value, "type", "")),
)
def test_a_parquet_column_of_any_type_is_checked(
    tmp_path: Path, values: pa.Array, kept: list[int], reported: list[int]
) -> None:
    """Beside extra columns, which stay."""
    path = tmp_path / "requests.parquet"
    pq.write_table(pa.table({"index": values, "n": pa.array([1, None, 2]), "l": pa.array([[1], None, [2]])}), path)
    found = checked_requests(path, N)
    assert_each_row_once(found)
    assert list(found.table["index"]) == kept
    assert list(found.problems["row"]) == reported
    assert list(found.table) == ["row", "id", "index", "n", "l"]
    assert all(value is None or type(value) is int for value in found.table["n"])


def test_a_parquet_file_of_pandas_keeps_a_named_index(tmp_path: Path) -> None:
    """One without a name is no column."""
    path = tmp_path / "requests.parquet"
    pd.DataFrame({"id": [4]}, index=[77]).to_parquet(path)
    assert list(checked_requests(path, N).table) == ["row", "id", "index"]
    pd.DataFrame({"who": ["x"]}, index=pd.Index([4], name="index")).to_parquet(path)
    assert list(checked_requests(path, N).table["index"]) == [4]


# -- files ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "kind", "message"),
    [
        ("r.csv", b"", FileFormatError, "is empty"),
        ("r.csv", b"\xef\xbb\xbf", FileFormatError, "is empty"),
        ("r.csv", b" \r\n\r\n", FileFormatError, "is empty"),
        ("r.csv", b"index,note\n", FileFormatError, "no row"),
        ("r.csv", b"index,note\n\n \n", FileFormatError, "no row"),
        ("r.csv", b"3\n5\n", SchemaError, "the first line is '3': put a header line before it"),
        ("r.csv", b"number,note\n1,a\n", SchemaError, "expected a column 'index'.*got 'number', 'note'"),
        ("r.csv", b"index,Index\n1,2\n", SchemaError, "two columns are named 'index'"),
        ("r.csv", b"ind\xffex\n1\n", SchemaError, "the header line cannot be read: not UTF-8"),
        ("r.csv", b'"index,note\n1,a\n', SchemaError, "the header line cannot be read: a quote"),
        ("r.csv", b"\x00\x01\x02", FileFormatError, "this is a binary file"),
        ("r.csv", b"PK\x03\x04 ", FileFormatError, "this is a zip or Excel file"),
        ("r.jsonl", b"\n\n", FileFormatError, "is empty"),
        ("r.jsonl", b"oops\n", FileFormatError, "no line is a JSON object; line 1 is not JSON"),
        ("r.jsonl", b'{"a": 1}\n', SchemaError, "expected a column 'index'.*got 'a'"),
        ("r.jsonl", b'[{"index": 1},\n{"index": 2}]', FileFormatError, "one array of them"),
        ("r.ndjson", b"PAR1\x00", FileFormatError, "this is a Parquet file"),
        ("r.parquet", b"", FileFormatError, "is empty"),
        ("r.parquet", b"index\n1\n", FileFormatError, "expected a Parquet file"),
        ("r.parquet", b"PAR1 and no more", FileFormatError, "not a readable Parquet file"),
        ("r.txt", b"index\n1\n", FileFormatError, "expected a .csv, .*file; got .txt"),
        ("requests", b"index\n1\n", FileFormatError, "got no suffix"),
    ],
)
def test_a_file_without_requests_is_one_error(
    tmp_path: Path, name: str, content: bytes, kind: type[ForgetcastError], message: str
) -> None:
    """In one line that names the file."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(kind, match=message) as caught:
        read_requests(tmp_path / name)
    assert len(str(caught.value).splitlines()) == 1
    assert name in str(caught.value)


def test_a_path_that_is_no_file_is_an_error(tmp_path: Path) -> None:
    """A folder, nothing, or a name that no file can have."""
    (tmp_path / "folder.csv").mkdir()
    for name in ("folder.csv", "none.csv", "x" * 300 + ".csv"):
        with pytest.raises(PathError, match="requests"):
            checked_requests(tmp_path / name, N)
    with pytest.raises(ForgetcastError):
        checked_requests("none\0.csv", N)


def test_a_damaged_parquet_file_is_one_error(tmp_path: Path) -> None:
    """Cut anywhere."""
    path = tmp_path / "requests.parquet"
    pd.DataFrame({"index": range(50)}).to_parquet(path)
    whole = path.read_bytes()
    for size in range(1, len(whole), 97):
        path.write_bytes(whole[:size])
        with pytest.raises(FileFormatError):
            read_requests(path)


ROWS = st.text(alphabet='index,"note;\n\r 017-.x\t\0\ud800ü{}[]:', max_size=80)


@settings(max_examples=300, deadline=None)
@given(body=st.one_of(ROWS.map(lambda text: text.encode("utf-8", "surrogatepass")), st.binary(max_size=80)))
@pytest.mark.parametrize(("suffix", "head"), [(".csv", b"index,note\n"), (".csv", b""), (".jsonl", b'{"index": 0}\n')])
def test_no_content_makes_anything_but_rows_or_one_error(
    tmp_path_factory: pytest.TempPathFactory, suffix: str, head: bytes, body: bytes
) -> None:
    """Whatever a file holds, each row is served or reported, or the file is refused; what comes out can be written."""
    path = tmp_path_factory.getbasetemp() / f"fuzz{suffix}"
    path.write_bytes(head + body)
    try:
        found = checked_requests(path, 20)
    except ForgetcastError:
        assert not head.startswith(b"{")  # its first row can be served
        return
    assert_each_row_once(found)
    json.dumps([found.table.to_dict("list"), found.problems.to_dict("list")], ensure_ascii=False).encode()


def test_many_rows_take_no_longer_each(tmp_path: Path) -> None:
    """Also when every one of them opens a quote that is never closed: work grows with the file, not with its square."""
    path = tmp_path / "requests.csv"
    n = 100_000
    path.write_text("index,who\n" + "".join(f"{n - 1 - i},customer {i}\n" for i in range(n)))
    assert len(checked_requests(path, n).table) == n
    path.write_text("index,who\n" + "".join(f'{i},"customer\n' for i in range(n)))
    assert len(checked_requests(path, n).problems) == n


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "frame", "categories", "records"])
def test_a_nul_is_reported_wherever_it_comes_from(tmp_path: Path, kind: str) -> None:
    """csv before Python 3.11 cannot write one; in the name of a column it is replaced."""
    records = [{"index": 1, "x": "a\0", "y\0": "b"}, {"index": 2, "x": r"\u0000", "y\0": "c"}]
    frame = pd.DataFrame(records)
    source: Any = {"frame": frame, "categories": frame.astype({"x": "category"}), "records": records}.get(kind)
    if source is None:
        source = tmp_path / f"requests.{kind}"
        if kind == "parquet":
            frame.to_parquet(source)
        else:
            source.write_text("\n".join(map(json.dumps, records)))
    found = checked_requests(source, 45)
    assert found.table["index"].tolist() == [2]
    assert found.table["y\ufffd"].tolist() == ["c"]
    assert found.problems["problem"].str.startswith("a NUL byte").tolist() == [True]
    assert "\0" not in found.table.to_csv() + found.problems.to_csv()


def test_a_nul_in_an_id_or_in_bytes_is_reported(tmp_path: Path) -> None:
    """Where it names the sample, and in a column of bytes, which is read as text."""
    frame = pd.DataFrame({"id": ["1\0", "2", "3"], "x": [b"a", b"a", b"b\0"]})
    frame.to_parquet(tmp_path / "requests.parquet")
    found = checked_requests(tmp_path / "requests.parquet", 45)
    assert found.table["index"].tolist() == [2]
    assert found.problems["problem"].tolist() == ["a NUL byte", "a NUL byte"]


@pytest.mark.parametrize(
    "source",
    [
        [{"index": 3, "x": "\ud800"}, {"index": 4, "x": 1}],
        [{"id": "\ud800"}, {"id": "4"}],
        ["3\udcff", 4],
        pd.DataFrame({"index": [3, 4], "x": pd.Series(["\ud800", "b"], dtype=object)}),
        [{"index": 3, "x": "a\0b"}, {"index": 4, "x": "ab"}],
    ],
)
def test_text_from_python_that_no_file_can_hold_is_reported(source: Any) -> None:
    """Lone surrogates and NUL, as JSON has them: the row is reported, the others are served."""
    found = checked_requests(source, 45)
    assert found.table["index"].tolist() == [4]
    assert found.problems["row"].tolist() == [1]
    assert re.search(r"half a surrogate pair|not UTF-8|a NUL byte", found.problems["problem"].iloc[0])
    found.table.to_csv().encode()
    found.problems.to_csv().encode()
