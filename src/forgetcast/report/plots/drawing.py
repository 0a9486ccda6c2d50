"""What pictures have in common: axes of their own, a plain frame, words where there is nothing to draw."""

from __future__ import annotations

from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from forgetcast.errors import InputError

NEUTRAL = "#868E96"
"""For what is neither hard nor easy: grids, bounds, whatever has no value."""


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
