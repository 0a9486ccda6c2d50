"""Standard output and error that take any text, and never stop a command that has done its work.

A console of Windows (cp1252) or an ASCII one holds no Greek letter and hardly anybody's name: what the encoding lacks
is written as an escape. Printing comes after files were written and decisions recorded, so whoever ran a command again
because printing failed would record them twice. A reader that has gone (``| head``) is no failure; a disk that is full
is reported at the end.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TextIO

__all__ = ["AnyText", "any_text"]


class AnyText(io.TextIOBase):
    """A text stream that writes to another one. It has no ``buffer``, so that nobody goes around it."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.narrowed = False
        """Whether letters were written as escapes."""
        self.lost = ""
        """Why the stream below takes no more, for another reason than that its reader has gone."""
        self._open = True

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """That of the stream below."""
        return getattr(self._stream, "encoding", None) or "utf-8"

    def write(self, text: str) -> int:
        """Write all of ``text``, in escapes where need be; nothing any more where the stream below takes no more."""
        with self._survived():
            try:
                self._stream.write(text)
            except UnicodeEncodeError:
                self.narrowed = True
                self._stream.write(text.encode(self.encoding, "backslashreplace").decode(self.encoding))
        return len(text)

    def flush(self) -> None:
        """Flush the stream below."""
        with self._survived():
            self._stream.flush()

    @contextmanager
    def _survived(self) -> Iterator[None]:
        if not self._open:
            with suppress(UnicodeEncodeError, OSError, ValueError):
                yield
            return
        try:
            yield
        except UnicodeEncodeError:
            raise
        except (OSError, ValueError) as error:  # the latter where it was closed
            self._open = False
            if not isinstance(error, BrokenPipeError):
                self.lost = getattr(error, "strerror", None) or str(error)
            with suppress(OSError, ValueError):  # else Python complains when it flushes at its end
                os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())

    def writable(self) -> bool:
        """Yes."""
        return True

    def isatty(self) -> bool:
        """Whether the stream below is a terminal."""
        return self._stream.isatty()

    def fileno(self) -> int:
        """Of the stream below."""
        return self._stream.fileno()


@contextmanager
def any_text() -> Iterator[AnyText | None]:
    """A block in which ``sys.stdout`` and ``sys.stderr`` take any text; yields the former, None where it is closed."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (stream and AnyText(stream) for stream in before)  # type: ignore[assignment]
    try:
        yield sys.stdout  # type: ignore[misc]
    finally:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
        sys.stdout, sys.stderr = before
