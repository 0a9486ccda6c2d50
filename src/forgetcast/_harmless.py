"""Text of strangers that a page or a picture can hold."""

from __future__ import annotations

import re

__all__ = ["harmless"]

_HARMFUL = re.compile("[\\x00-\\x08\\x0b\\x0c\\x0e-\\x1f\\x7f-\\x9f\\ud800-\\udfff\\u202a-\\u202e\\u2066-\\u2069]")


def harmless(text: str) -> str:
    """Text that a page can hold, whoever wrote it: U+FFFD for control characters, for halves of surrogate pairs, which
    no file can hold, and for signs that would turn the text around them to another direction.

    >>> harmless("a\\0b\\u202ec")
    'a\ufffdb\ufffdc'
    """
    return _HARMFUL.sub("\ufffd", text)
