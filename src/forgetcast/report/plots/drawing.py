"""What pictures have in common: axes of their own, a plain frame, words where there is nothing to draw."""

from __future__ import annotations

import textwrap
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from forgetcast.errors import InputError
from forgetcast.wording import sanitized

NEUTRAL = "#868E96"
"""For what is neither hard nor easy: grids, bounds, whatever has no value."""
HARDER = "#D55E00"
"""What makes a sample harder: the vermillion of Okabe & Ito's palette."""
EASIER = "#2B85C6"
"""What makes a sample easier: a blue between the two of that palette, readable on dark too."""
TIER_COLOURS = {"trivial": NEUTRAL, "easy": EASIER, "medium": "#B8860B", "hard": "#C0392B"}
TITLE_WIDTH = 50
TITLE_LINES = 3


def require(frame: pd.DataFrame, columns: list[str]) -> None:
    """Refuse a frame that lacks some of the columns."""
    if missing := [name for name in columns if name not in frame]:
        raise InputError(f"expected columns {', '.join(columns)}; missing: {', '.join(missing)}")


def axes_or_new(ax: Axes | None, width: float, height: float) -> Axes:
    """``ax``, or new axes on a figure of ``width`` × ``height`` inches that pyplot does not know."""
    return Figure(figsize=(width, height), layout="constrained").add_subplot() if ax is None else ax


def plain(ax: Axes, y_ticks: bool = True) -> None:
    """No frame; a light grid along the values."""
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(axis="both" if y_ticks else "x", color=NEUTRAL, alpha=0.25, linewidth=0.6)
    ax.set_axisbelow(True)
    if not y_ticks:
        ax.spines["left"].set_visible(False)
        ax.tick_params(axis="y", length=0)


def ink() -> Any:
    """The colour of text, for lines that belong to it."""
    return mpl.rcParams["text.color"]


def nothing(ax: Axes, why: str) -> Axes:
    """Say why there is nothing to draw."""
    ax.set_axis_off()
    ax.text(0.5, 0.5, why, ha="center", va="center", transform=ax.transAxes)
    return ax


def samples(n: int) -> str:
    return f"{n:,} sample" + ("" if n == 1 else "s")


def of_objective(frame: pd.DataFrame, objective: str) -> pd.DataFrame:
    return frame[frame["objective"] == objective] if "objective" in frame else frame


def readable(name: str) -> str:
    return safe(name.replace("_", " "))


def safe(text: str) -> str:
    """Dollar signs are dollar signs, not the start of a formula."""
    return sanitized(text).replace("$", r"\$")


def wrap(text: str, end: str = "") -> str:
    """Three lines at most: a text that is too long ends in an ellipsis; ``end`` is always kept."""
    text = textwrap.shorten(text, TITLE_LINES * TITLE_WIDTH - 15 - len(end), placeholder=" …")
    return "\n".join(textwrap.wrap(text + end, TITLE_WIDTH))
