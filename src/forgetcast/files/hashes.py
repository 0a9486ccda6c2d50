"""SHA-256 of files, as manifests name them."""

from __future__ import annotations

import hashlib
from typing import Any

from forgetcast.errors import FileFormatError
from forgetcast.files.stores import Place

__all__ = ["check_hash", "sha256"]


def sha256(content: bytes) -> str:
    """Hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def check_hash(content: bytes, expected: Any, path: Place, remedy: str) -> None:
    """Hold the content of a file to the hash that its manifest names.

    Args:
        content: of the file.
        expected: the manifest's SHA-256 of it, hexadecimal; anything else fits no content.
        path: where the content was read.
        remedy: what the message tells the reader to do.

    Raises:
        FileFormatError: another hash.
    """
    if sha256(content) != expected:
        raise FileFormatError(f"{path} is not the file its manifest names (SHA-256 differs); {remedy}")
