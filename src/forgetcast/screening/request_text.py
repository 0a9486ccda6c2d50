"""Text of request files, which may hold bytes that are no text: kept as surrogates until their row is reported."""

from __future__ import annotations

import re
from pathlib import Path

from forgetcast.errors import FileFormatError

__all__ = ["BROKEN", "NUL", "decoded", "not_text", "printable", "quoted", "refuse_binary"]

BROKEN = re.compile("[\ud800-\udfff]")
"""Half of a surrogate pair: what surrogateescape makes of a byte that is not UTF-8, and no file can hold again."""
NUL = "\udc00"
"""Stands for a NUL byte, which surrogateescape never makes and csv before Python 3.11 cannot read."""
_BINARY = {
    b"PAR1": "Parquet",
    b"PK\x03\x04": "zip or Excel",
    b"\x1f\x8b": "gzip",
    b"\x93NUMPY": "NumPy",
    b"%PDF": "PDF",
}


def decoded(content: bytes) -> str:
    """As text; a byte that is not UTF-8 and a NUL become surrogates, so that they can be reported where they stand."""
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return content.decode("utf-16", errors="replace").replace("\0", NUL)
    return content.decode("utf-8-sig", errors="surrogateescape").replace("\0", NUL)


def not_text(text: str) -> str:
    """What is wrong with a row that holds a surrogate, or ""."""
    found = BROKEN.search(text)
    if found is None:
        return ""
    if found[0] == NUL:
        return "a NUL byte"
    code = ord(found[0])
    if 0xDC80 <= code <= 0xDCFF:
        return f"not UTF-8 (byte 0x{code - 0xDC00:02x}): save the file as UTF-8"
    return f"half a surrogate pair (\\u{code:04x}), which is no character"


def printable(text: str) -> str:
    """Surrogates as escapes, so that the text can be written to a file."""
    return BROKEN.sub(lambda found: f"\\x{(ord(found[0]) - 0xDC00) % 0x400:02x}", text)


def quoted(value: object, most: int = 60) -> str:
    """A value for a message: one line of printable text, shortened."""
    try:
        text = repr(value)
    except ValueError:  # Python does not write out an int of more than 4300 digits
        text = "a number of thousands of digits"
    return text if len(text) <= most else f"{text[:most]}…"


def refuse_binary(content: bytes, path: Path) -> None:
    kind = next((kind for magic, kind in _BINARY.items() if content.startswith(magic)), None)
    if kind is None and not content.startswith((b"\xff\xfe", b"\xfe\xff")) and b"\0" in content.split(b"\n", 1)[0]:
        kind = "binary"
    if kind is not None:
        raise FileFormatError(f"requests {path}: expected text ({path.suffix}); this is a {kind} file")
