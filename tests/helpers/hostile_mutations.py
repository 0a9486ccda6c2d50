# ruff: noqa: E501
"""Damage: bytes, JSON documents, LightGBM text, Parquet tables, archives and folders, made hostile at random.

Every mutation is decided by the random generator that it is given, so an input can be made again from its number.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import random
import shutil
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

__all__ = ["Canary", "mutate"]

NUMBERS: tuple[Any, ...] = (
    0, -1, 1, 2**31 - 1, 2**31, 2**32, 2**63 - 1, 2**63, -(2**63) - 1, 10**40, 10**400, 1e308, -1e308, 5e-324, 0.5, 1.5,
    float("nan"), float("inf"), float("-inf"), -0.0,
)  # fmt: skip
TEXTS = (
    "", "\0", "a\0b", "..", "../../../../etc/passwd", "/etc/passwd", "~", "predictor/../../x", "\ud800", "\udc80", "é",
    "\u202egnp.exe", "\x1b[2J\x1b]0;owned\x07", "line\nline\r\u2028line", "<script>alert(1)</script>", "=1+1", "%s%n{0}",
    "x" * 3000, "1e999", "nan", "null", "index", "id", "row", "label", "target", "measurements.parquet", "CON",
)  # fmt: skip
TOKENS = (
    b"", b"\0", b"\xff", b"\xfe\xff", b"\xff\xfe", b"\xef\xbb\xbf", b"\n", b"\r", b"\r\n", b'"', b"'", b",", b";", b"\t",
    b"{", b"}", b"[", b"]", b"[" * 100_000, b'{"a":' * 5000, b"9" * 5000, b"-", b"1e999", b"1e-999", b"NaN", b"Infinity",
    b"null", b"true", b"\\ud800", b"\\u0000", b"\x1b[2J", b"PAR1", b"PK\x03\x04", b"\x93NUMPY", b"\x80\x02", b"\x1f\x8b",
    b"../", b"/etc/passwd", b"inf", b"-1", b"2147483648", b"99999999999999999999", b"=1+1", b"\xe2\x80\xa8", b"\xc3",
    b"x" * 70_000, b'"' + b"y" * 200_000, b"num_leaves=2000000000", b"Tree=0\n",
)  # fmt: skip


class Canary:
    """Unpickled, it writes a file: the proof that reading ran code."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.write_text, (self.path, "code ran")


def mutate(folder: Path, rng: random.Random, canary: Path) -> str:
    """Damage one file of ``folder``, or the folder; returns in words what was done. No repair is tried."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    if rng.random() < 0.07:
        return _folder(folder, files, rng)
    path = _chosen(files, rng)
    done = []
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        kinds: list[Callable[..., str]] = [_bytes, _SPECIAL.get(path.suffix, _bytes), _SPECIAL.get(path.suffix, _bytes)]
        mutation = rng.choice(kinds)
        try:
            done.append(mutation(path, rng, canary))
        except Exception:  # the file is damaged already: bytes can always be
            done.append(_bytes(path, rng, canary))
        if "bomb" in done[-1]:
            break
    return f"{path.relative_to(folder)}: {', then '.join(done)}"


def _chosen(files: list[Path], rng: random.Random) -> Path:
    """A file; each suffix is as likely as any other, so that many text files do not hide one manifest."""
    suffix = rng.choice(sorted({path.suffix for path in files}))
    return rng.choice([path for path in files if path.suffix == suffix])


# -- folders --------------------------------------------------------------------------------------------------


def _folder(folder: Path, files: list[Path], rng: random.Random) -> str:
    path, other = rng.choice(files), rng.choice(files)
    kind = rng.randrange(9)
    if kind == 0:
        path.unlink()
        return f"{path.name} removed"
    if kind == 1:
        path.write_bytes(b"")
        return f"{path.name} emptied"
    if kind == 2:
        first, second = path.read_bytes(), other.read_bytes()
        path.write_bytes(second)
        other.write_bytes(first)
        return f"{path.name} and {other.name} swapped"
    if kind == 3:
        (folder / rng.choice(("stranger", "..hidden", "-rf", "new\nline", "a" * 200))).write_bytes(b"x")
        return "a file added"
    content = path.read_bytes()
    path.unlink()
    if kind == 4:
        path.mkdir()
        return f"{path.name} made a folder"
    if kind == 5:
        os.mkfifo(path)
        return f"{path.name} made a pipe"
    if kind == 6:
        outside = folder.parent / f"outside-{path.name}"
        outside.write_bytes(content)
        path.symlink_to(outside)
        return f"{path.name} made a link to the same content outside"
    goal = rng.choice(("/dev/zero", "/etc/passwd", str(path), "nowhere", "/proc/self/mem", "/dev/stdin", other.name))
    path.symlink_to(goal)
    return f"{path.name} made a link to {goal}"


# -- bytes ----------------------------------------------------------------------------------------------------


def _bytes(path: Path, rng: random.Random, canary: Path) -> str:
    content = bytearray(path.read_bytes())
    kind = rng.randrange(9)
    place = rng.randrange(len(content) + 1)
    if rng.random() < 0.3:  # formats keep their lengths at the ends
        place = min(len(content), rng.randrange(64)) if rng.random() < 0.5 else max(0, len(content) - rng.randrange(64))
    length = int(2 ** rng.uniform(0, 10))
    if kind == 0 and content:
        for _ in range(rng.choice((1, 2, 8))):
            content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        name = "bits flipped"
    elif kind == 1:
        del content[place:]
        name = f"cut at {place}"
    elif kind == 2:
        content[place:place] = rng.randbytes(length)
        name = f"{length} random bytes put in at {place}"
    elif kind == 3:
        del content[place : place + length]
        name = f"{length} bytes taken out at {place}"
    elif kind == 4:
        content[place:place] = content[place : place + length] * rng.choice((1, 2, 50))
        name = f"{length} bytes repeated at {place}"
    elif kind == 5:
        form, bits = rng.choice((("<I", 32), (">I", 32), ("<Q", 64), ("<H", 16), ("<B", 8)))
        value = rng.choice((0, 1, 2**bits - 1, 2 ** (bits - 1), 2 ** (bits - 1) - 1, rng.getrandbits(bits)))
        content[place : place + bits // 8] = struct.pack(form, value)
        name = f"a field of {bits} bits set to {value} at {place}"
    elif kind == 6:
        start = rng.randrange(len(content) + 1)
        content[place : place + length] = content[start : start + length]
        name = f"{length} bytes of {start} written over {place}"
    else:
        token = rng.choice(TOKENS)
        content[place : place + rng.choice((0, 0, len(token), 1))] = token
        name = f"{token[:12]!r} written at {place}"
    path.write_bytes(bytes(content))
    return name


# -- JSON -----------------------------------------------------------------------------------------------------


def _evil(rng: random.Random) -> Any:
    kind = rng.randrange(8)
    if kind < 3:
        return rng.choice(NUMBERS)
    if kind < 5:
        return rng.choice(TEXTS)
    if kind == 5:
        return rng.choice((None, True, False, [], {}, [None], {"": None}, [[]], [1, "a"], {"file": "../x"}))
    deep: Any = 0
    for _ in range(rng.choice((3, 200, 900))):
        deep = [deep] if kind == 6 else {"a": deep}
    return deep


def _places(value: Any) -> list[tuple[Any, Any]]:
    """(container, key) of every value inside; from big lists the first few."""
    found, left = [], [value]
    while left:
        here = left.pop()
        keys: list[Any] = list(here) if isinstance(here, dict) else list(range(min(len(here), 5)))
        for key in keys:
            found.append((here, key))
            if isinstance(here[key], (dict, list)):
                left.append(here[key])
    return found


def _json(path: Path, rng: random.Random, canary: Path) -> str:
    lines = path.read_text(encoding="utf-8").split("\n") if path.suffix == ".jsonl" else [path.read_text("utf-8")]
    row = rng.randrange(len(lines))
    whole = json.loads(lines[row])
    places = _places([whole])
    container, key = rng.choice(places)
    kind = rng.randrange(8)
    twice = ""
    if kind < 4 or not isinstance(container, dict):
        container[key] = _evil(rng)
        name = f"{key!r} replaced"
    elif kind == 4:
        del container[key]
        name = f"{key!r} left out"
    elif kind == 5:
        container[rng.choice(TEXTS)] = container.pop(key)
        name = f"{key!r} renamed"
    elif kind == 6:
        other, second = rng.choice(places)
        container[key], other[second] = other[second], container[key]
        name = f"{key!r} and {second!r} swapped"
    else:
        twice = json.dumps({key: _evil(rng)})[1:-1] + ","
        name = f"{key!r} twice"
    text = json.dumps(whole if places[0][0][0] is whole else places[0][0][0])
    if twice:
        text = text.replace("{", "{" + twice, 1)
    lines[row] = text
    path.write_text("\n".join(lines), encoding="utf-8")
    return name


# -- text -----------------------------------------------------------------------------------------------------


def _text(path: Path, rng: random.Random, canary: Path) -> str:
    lines = path.read_bytes().split(b"\n")
    row, other = rng.randrange(len(lines)), rng.randrange(len(lines))
    kind = rng.randrange(6)
    if kind == 0:
        del lines[row]
    elif kind == 1:
        lines.insert(row, lines[other])
    elif kind == 2:
        lines[row], lines[other] = lines[other], lines[row]
    else:
        delimiter = next((mark for mark in (b"=", b",") if mark in lines[row]), b" ")
        head, found, tail = lines[row].partition(delimiter)
        parts = (tail if found else head).split(b" " if delimiter == b"=" else delimiter)
        place = rng.randrange(len(parts))
        value = rng.choice((*map(str, NUMBERS), *TEXTS, "-2", "3", "7", "1e5", "0x10", "1_0", "٣", "+1"))
        parts[place] = str(value).encode("utf-8", "surrogatepass")
        tail = (b" " if delimiter == b"=" else delimiter).join(parts)
        lines[row] = head + found + tail if found else tail
    path.write_bytes(b"\n".join(lines))
    return f"line {row} edited ({kind})"


# -- Parquet --------------------------------------------------------------------------------------------------


def _column(rng: random.Random, rows: int, canary: Path) -> pa.Array:
    """A column of some other kind."""
    kinds: tuple[Callable[[], Any], ...] = (
        lambda: pa.nulls(rows),
        lambda: pa.array([rng.choice(TEXTS).encode("utf-8", "replace").decode() for _ in range(rows)]),
        lambda: pa.array([pickle.dumps(Canary(canary))] * rows),
        lambda: pa.array([b"\xff\xfe\0"] * rows).cast(pa.binary()).view(pa.binary()),
        lambda: pa.array([[1, None]] * rows),
        lambda: pa.array([{"a": 1, "": [2]}] * rows),
        lambda: pa.array([float("nan"), float("inf"), -1e308, 5e-324] * rows)[:rows],
        lambda: pa.array([True, None] * rows)[:rows],
        lambda: pa.array([2**63 + 5] * rows, pa.uint64()),
        lambda: pa.array([-(2**63)] * rows, pa.int64()),
        lambda: pa.array([2**62] * rows, pa.timestamp("us")),
        lambda: pa.array([1] * rows, pa.duration("ns")),
        lambda: pa.array([1] * rows, pa.time64("us")),
        lambda: pa.array([2**31 - 1] * rows, pa.date32()),
        lambda: pa.array([1.5] * rows, pa.float16()),
        lambda: pa.array(["a", "b"] * rows)[:rows].dictionary_encode(),
        lambda: pa.array([10**37] * rows, pa.decimal128(38, 0)),
        lambda: pa.MapArray.from_arrays(list(range(rows + 1)), ["k"] * rows, [1] * rows),
    )
    return rng.choice(kinds)()


def _parquet(path: Path, rng: random.Random, canary: Path) -> str:
    table = pq.read_table(path)
    names, columns = list(table.column_names), list(table.columns)
    metadata = dict(table.schema.metadata or {})
    place = rng.randrange(len(names))
    rows = table.num_rows
    kind = rng.randrange(8) if rng.random() < 0.97 else rng.choice((8, 9))
    if kind < 3:
        columns[place] = _column(rng, rows, canary)
    elif kind == 3:
        del names[place], columns[place]
    elif kind == 4:
        names[place] = rng.choice((*names, *(t for t in TEXTS if t.isascii() or t == "é")))
    elif kind == 5:
        names.append(rng.choice((*names, "y", "label", "index")))
        columns.append(columns[place])
    elif kind == 6:
        take = rng.choice(([], [0], [0, 0, 1], list(range(rows)) * 2, list(range(rows))[::-1]))
        columns = [column.take(pa.array(take, pa.int64())) for column in columns]
    elif kind == 7:
        described = json.loads(metadata.get(b"pandas", b"null")) or {
            "index_columns": [names[place]],
            "columns": [{"name": name, "field_name": name, "pandas_type": "object", "numpy_type": "object",
                         "metadata": None} for name in names],
            "column_indexes": [], "pandas_version": "9.9",
        }  # fmt: skip
        container, key = rng.choice(_places(described))
        evil = (
            _evil(rng),
            "object",
            "datetimetz",
            "categorical",
            "__index_level_0__",
            names[place],
            "bytes",
            "decimal",
        )
        container[key] = rng.choice(evil)
        metadata[b"pandas"] = json.dumps(described).encode()
    elif kind == 8:
        many = rng.choice((2_000_000, 300_000_000))  # run-length encoded: a few bytes a column
        value = columns[place][:1]
        _bomb(path, names[place], value, many)
        return f"a bomb of {many} rows"
    else:
        value = pa.array(["x" * rng.choice((100, 10_000_000))])
        _bomb(path, names[place], value, rng.choice((1000, 20_000)))
        return "a bomb of long text"
    fields = [pa.field(name, column.type) for name, column in zip(names, columns, strict=True)]
    if rng.random() < 0.1:
        fields[-1] = fields[-1].with_metadata(
            {"ARROW:extension:name": "arrow.py_extension_type", "ARROW:extension:metadata": "cos\nsystem\n(S'x'\ntR."}
        )
    made = pa.table(columns, schema=pa.schema(fields, metadata=metadata))
    pq.write_table(made, path, compression=rng.choice(("none", "zstd", "snappy")))
    return f"column {place} edited ({kind})"


def _bomb(path: Path, name: str, value: Any, rows: int) -> None:
    """A table of one value many times, in a file of some kilobytes."""
    value = value.combine_chunks() if isinstance(value, pa.ChunkedArray) else value
    value = value.chunk(0) if isinstance(value, pa.ChunkedArray) else value
    step = min(rows, 1_000_000)
    codes = pa.array(np.zeros(step, dtype=np.int32))
    part = pa.table({name: pa.DictionaryArray.from_arrays(codes, value)})
    with pq.ParquetWriter(
        path,
        part.schema,
        compression="zstd",
        store_schema=False,
        dictionary_pagesize_limit=1 << 30,
        write_statistics=False,
    ) as writer:
        writer.write_table(part)
    if rows > step:  # the same row group over and over: only the footer grows
        _repeat_row_group(path, rows // step)


def _repeat_row_group(path: Path, times: int) -> None:
    metadata = pq.read_metadata(path)
    whole = pq.read_metadata(path)
    for _ in range(times - 1):
        whole.append_row_groups(metadata)
    content = path.read_bytes()
    (length,) = struct.unpack("<I", content[-8:-4])
    sink = io.BytesIO()
    whole.write_metadata_file(sink)
    footer = sink.getvalue()
    (own,) = struct.unpack("<I", footer[-8:-4])
    path.write_bytes(content[: -8 - length] + footer[-8 - own :])


# -- archives -------------------------------------------------------------------------------------------------


def _npy(header: str, body: bytes) -> bytes:
    raw = header.encode("latin-1", "replace")
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(raw) % 65536) + raw + body


def _npz(path: Path, rng: random.Random, canary: Path) -> str:
    with zipfile.ZipFile(path) as archive:
        members = [(item.filename, archive.read(item)) for item in archive.infolist()]
    place = rng.randrange(len(members))
    name, content = members[place]
    kind = rng.randrange(8)
    arrays: tuple[Any, ...] = (
        np.array([Canary(canary)] * 24, dtype=object), np.array(["a"] * 24), np.zeros(24, "M8[ns]"), np.zeros((0, 4)),
        np.full(24, np.nan), np.full(24, -1), np.full(24, 2**62), np.zeros(24, np.complex128), np.zeros((24, 4), bool),
        np.zeros(24, [("a", "i4"), ("b", "f8")]), np.zeros((2,) * 20, np.int8), np.array(3), np.zeros((24, 1)),
        np.arange(24, dtype=np.uint64) + 2**63, np.full((24, 4), np.inf), np.zeros((24, 4), np.float16), np.zeros(24, "V3"),
    )  # fmt: skip
    if kind < 3:
        sink = io.BytesIO()
        np.save(sink, rng.choice(arrays), allow_pickle=True)
        members[place] = (name, sink.getvalue())
    elif kind == 3:
        shape = rng.choice(("(10**15,)", "(1000000000000000,)", "(-5,)", "(24, 4)", "(2**40, 2**40)", "(4294967296, 4)",
                            "(0, 18446744073709551616)", "(1e3,)", "(True,)", "'x'", "(" * 90 + ")" * 90))  # fmt: skip
        kinds = ("'<f4'", "'|O'", "'<f8'", "'|S100000000'", "[('a', '<f4')]", "'<U99999999'", "'x'", "__import__('os')")
        header = f"{{'descr': {rng.choice(kinds)}, 'fortran_order': False, 'shape': {shape}, }}\n"
        members[place] = (name, _npy(header, content[128:]))
    elif kind == 4 and rng.random() < 0.15:
        count = rng.choice((30_000_000, 30_000_000, 150_000_000))
        header = f"{{'descr': '|i1', 'fortran_order': False, 'shape': ({count},), }}\n"
        _zip_bomb(path, name, _npy(header, b""), count)
        return f"a bomb of {count} bytes"
    elif kind == 5:
        members[place] = (
            rng.choice(("z.npy", "../x.npy", "/etc/x.npy", "x", "images.npy", "\0.npy", "y.npy")),
            content,
        )
    elif kind == 6:
        members.append(rng.choice((members[place], ("x.npy", b""), ("y.npy", b"junk"), ("x.npy", pickle.dumps(1)))))
    else:
        damaged = bytearray(content)
        damaged[rng.randrange(min(len(damaged), 200))] ^= 1 << rng.randrange(8)
        members[place] = (name, bytes(damaged))
    _write_zip(path, members)
    return f"member {place} edited ({kind})"


def _write_zip(path: Path, members: list[tuple[str, bytes]]) -> None:
    import warnings

    with warnings.catch_warnings(), zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        warnings.simplefilter("ignore")  # of names that come twice
        for name, content in members:
            archive.writestr(name, content)


def _zip_bomb(path: Path, name: str, head: bytes, zeros: int) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for member in dict.fromkeys((name, "x.npy", "y.npy")):
            with archive.open(member, "w", force_zip64=True) as sink:
                sink.write(head)
                if member == name:
                    for _ in range(zeros // 10_000_000):
                        sink.write(bytes(10_000_000))


_OPCODES = (
    b"cos\nsystem\n(S'touch {canary}'\ntR.",
    b'cbuiltins\neval\n(S\'open("{canary}", "w")\'\ntR.',
    b'cbuiltins\nexec\n(S\'open("{canary}", "w")\'\ntR.',
    b"ctorch\nload\n(S'/etc/passwd'\ntR.",
    b"cnumpy\nload\n(S'/etc/passwd'\ntR.",
    b"ccollections\nOrderedDict\n(tR.",
    b"\x80\x02}q\x00.",
    b"\x80\x02" + b"(" * 20_000 + b".",
    b"\x80\x02" + b"]" * 20_000 + b"a" * 19_999 + b".",
    b"\x80\x02X\xff\xff\xff\x7fabc.",
    b"\x80\x02(X\x01\x00\x00\x00aK\x01d.",
)


def _pt(path: Path, rng: random.Random, canary: Path) -> str:
    kind = rng.randrange(6)
    if kind == 0:
        path.write_bytes(pickle.dumps(Canary(canary), protocol=rng.choice((0, 2, 4))))
        return "replaced by a pickle"
    with zipfile.ZipFile(path) as archive:
        members = [(item.filename, archive.read(item)) for item in archive.infolist()]
    pickled = next(place for place, (name, _) in enumerate(members) if name.endswith("data.pkl"))
    name, content = members[pickled]
    if kind == 1:
        members[pickled] = (name, rng.choice(_OPCODES).replace(b"{canary}", str(canary).encode()))
    elif kind < 4:
        damaged = bytearray(content)
        for _ in range(rng.choice((1, 1, 3))):
            place = rng.randrange(len(damaged))
            if rng.random() < 0.5:
                damaged[place] ^= 1 << rng.randrange(8)
            else:
                damaged[place : place + rng.choice((0, 1, 4))] = rng.choice(
                    (b"\xff\xff\xff\x7f", b".", b"0", b"J\xff\xff\xff\x7f")
                )
        members[pickled] = (name, bytes(damaged))
    elif kind == 4:
        place = rng.randrange(len(members))
        members[place] = (members[place][0], rng.choice((b"", b"\0" * 3, members[place][1] * 3)))
    else:
        place = rng.randrange(len(members))
        members[place] = (rng.choice(("../x", "/etc/x", "archive/data/0", "a/b\0")), members[place][1])
    stored = rng.random() < 0.8
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED if stored else zipfile.ZIP_DEFLATED) as archive:
        for member, body in dict(members).items():
            archive.writestr(member, body)
    return f"the pickle inside edited ({kind})"


def _safetensors(path: Path, rng: random.Random, canary: Path) -> str:
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header, body = json.loads(content[8 : 8 + length]), content[8 + length :]
    container, key = rng.choice(_places(header))
    container[key] = rng.choice(
        (_evil(rng), "F8_E5M2", "I64", "BOOL", "F4", [0, 2**63], [8, 0], [2**32, 2**32], [0], [4, 5])
    )
    raw = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", rng.choice((len(raw), len(raw), len(raw), 2**63, 0, 10**8))) + raw + body)
    return f"{key!r} of the header replaced"


_SPECIAL: dict[str, Callable[[Path, random.Random, Path], str]] = {
    ".json": _json,
    ".jsonl": _json,
    ".txt": _text,
    ".csv": _text,
    ".parquet": _parquet,
    ".npz": _npz,
    ".pt": _pt,
    ".safetensors": _safetensors,
}
"""Mutations that know the format, by suffix."""


def fresh(seed: Path, folder: Path) -> None:
    """Put a copy of ``seed`` in the place of ``folder``, and nothing beside it."""
    for path in folder.parent.iterdir():
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    shutil.copytree(seed, folder)
