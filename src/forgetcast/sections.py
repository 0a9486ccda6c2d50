"""Report sections from plugins: what a function says of a report, shown at the end of the pages.

A section is plain words, pictures and tables, never HTML: the page escapes, draws and lays out all of it, so that no
plugin can break it or have it load anything.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

__all__ = ["Picture", "Section"]


@dataclass(frozen=True)
class Picture:
    """A picture of a section, drawn with the page's fonts and colours."""

    draw: Callable[[], Axes | Figure]
    """Draws it into a new ``matplotlib.figure.Figure`` and returns that or its axes; called when the page is made."""
    alt: str
    """What it shows, in words, for readers who cannot see it."""
    caption: str = ""
    """Stands below it."""


@dataclass(frozen=True)
class Section:
    """What a report section returns."""

    title: str
    content: Sequence[str | Picture | Axes | Figure | pd.DataFrame]
    """In order: paragraphs (plain text), pictures (or axes drawn already), tables (their columns; an index that matters
    is made a column with ``reset_index``)."""
