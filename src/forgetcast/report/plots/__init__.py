"""Pictures of results: each function takes results, draws on the axes it is given, and returns them.

Without ``ax`` a figure of its own is made through matplotlib's object interface: pyplot knows nothing of it,
so nothing is left open and no display is needed. ``axes.figure`` is the figure: to save, or to show in a notebook
as the last line of a cell, after ``%matplotlib inline``.
Text and axis colours follow ``matplotlib.rcParams``. The fixed colours keep a contrast of about 3:1 or
more on white and on near-black, and stay apart under red-green colour blindness.
"""

from __future__ import annotations

from forgetcast.report.plots.drawing import EASIER, HARDER, TIER_COLOURS
from forgetcast.report.plots.explanations import (
    beeswarm,
    dependence,
    family_importance,
    first_sentence,
    mover_pictures,
    waterfall,
)
from forgetcast.report.plots.measurements import (
    difficulty_histogram,
    evaluation_bars,
    factor_correlations,
    forgetting_paths,
    measured_scatter,
)

__all__ = [
    "EASIER",
    "HARDER",
    "TIER_COLOURS",
    "beeswarm",
    "dependence",
    "difficulty_histogram",
    "evaluation_bars",
    "factor_correlations",
    "first_sentence",
    "family_importance",
    "forgetting_paths",
    "measured_scatter",
    "mover_pictures",
    "waterfall",
]
