"""Ctrl-C in a command that keeps what it has finished."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import click

__all__ = ["Interrupted", "kept"]


class Interrupted(click.Abort):
    """Interrupted, with a word on what was kept."""


@contextmanager
def kept(what: str) -> Iterator[None]:
    """Within this block, an interruption says that ``what`` is kept."""
    try:
        yield
    except KeyboardInterrupt as interrupt:
        raise Interrupted(what) from interrupt
