"""Pictures of measurements and forecasts: distributions, agreement, evaluation, and paths of unlearning."""

from __future__ import annotations

from itertools import cycle
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from forgetcast.errors import InputError
from forgetcast.predictor.agreement import spearman_interval
from forgetcast.report.plots.drawing import (
    EASIER,
    HARDER,
    NEUTRAL,
    TIER_COLOURS,
    axes_or_new,
    ink,
    nothing,
    of_objective,
    plain,
    readable,
    require,
    safe,
    samples,
    wrap,
)

__all__ = ["difficulty_histogram", "evaluation_bars", "factor_correlations", "forgetting_paths", "measured_scatter"]


def difficulty_histogram(table: pd.DataFrame, objective: str, ax: Axes | None = None) -> Axes:
    """How many samples have which predicted difficulty, stacked by tier.

    Args:
        table: a report's table: columns difficulty (in [0, 1]) and tier; rows of other objectives are left
            out where there is a column ``objective``.
        objective: ``retrain`` or ``erase``.
        ax: axes to draw on.
    """
    rows = of_objective(table, objective)
    ax = axes_or_new(ax, 7.6, 3.2)
    rows = rows[np.isfinite(rows["difficulty"].astype(float))]
    if rows.empty:
        return nothing(ax, "no forecast to count")
    difficulty = rows["difficulty"].to_numpy(dtype=float)
    low, high = min(0.0, float(difficulty.min())), max(float(difficulty.max()), 0.05)
    edges = np.linspace(low, np.ceil(high * 20) / 20, 31)
    floor = np.zeros(len(edges) - 1)
    for tier in dict.fromkeys([*TIER_COLOURS, *rows["tier"]]):
        counts, _ = np.histogram(difficulty[(rows["tier"] == tier).to_numpy()], edges)
        if counts.any():
            label, colour = safe(f"{tier} ({counts.sum():,})"), TIER_COLOURS.get(tier, NEUTRAL)
            some = counts > 0  # a bar of no height would still hold the axis to its place
            left, width = edges[:-1][some], np.diff(edges)[some] * 0.94
            ax.bar(left, counts[some], width, floor[some], align="edge", color=colour, label=label)
            floor += counts
    ax.set_xlabel("predicted difficulty (0 free, 1 not without losing the model)")
    ax.set_ylabel("samples")
    ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_title(f"{objective}: predicted difficulty, {samples(len(rows))}", loc="left")
    ax.legend(frameon=False, title="tier")
    plain(ax)
    return ax


def measured_scatter(
    frame: pd.DataFrame,
    objective: str,
    predicted: str = "percentile",
    measured: str = "percentile_measured",
    ax: Axes | None = None,
    *,
    seed: int = 0,
) -> Axes:
    """Measured against predicted, with Spearman's rho and its 95% interval in the title.

    Grey lines are the prediction intervals, where the frame has them (``<predicted>_lower`` and
    ``<predicted>_upper``; for ``difficulty`` plain ``lower`` and ``upper``); the diagonal is a perfect
    forecast.

    Args:
        frame: one row per sample; rows of other objectives are left out where it has a column ``objective``.
        objective: ``retrain`` or ``erase``.
        predicted: column on the x axis, in [0, 1].
        measured: column on the y axis, in [0, 1].
        ax: axes to draw on.
        seed: of the interval's bootstrap.

    Raises:
        InputError: a column is missing.
    """
    rows = of_objective(frame, objective)
    missing = [name for name in (predicted, measured) if name not in rows]
    if missing:
        raise InputError(f"expected columns {predicted!r} and {measured!r}; missing: {', '.join(missing)}")
    rows = rows[rows[[predicted, measured]].notna().all(axis=1)]
    ax = axes_or_new(ax, 5.6, 5.2)
    if rows.empty:
        return nothing(ax, "no sample was measured")
    x, y = rows[predicted].to_numpy(dtype=float), rows[measured].to_numpy(dtype=float)
    ax.plot([0, 1], [0, 1], color=NEUTRAL, linewidth=0.8, linestyle=(0, (4, 3)), zorder=0)
    bounds = ["lower", "upper"] if predicted == "difficulty" else [f"{predicted}_lower", f"{predicted}_upper"]
    if all(bound in rows for bound in bounds):
        ax.hlines(y, rows[bounds[0]], rows[bounds[1]], color=NEUTRAL, linewidth=0.8, alpha=0.5, zorder=1)
    ax.scatter(x, y, s=22, color=EASIER, alpha=0.8, linewidths=0, zorder=2, rasterized=len(x) > 500)
    ax.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), aspect="equal")
    ax.set_xlabel(f"predicted {predicted.replace('_', ' ')}")
    ax.set_ylabel(f"measured {measured.removesuffix('_measured').replace('_', ' ')}")
    ax.set_title(f"{objective}: {spearman_interval(x, y, seed)}", loc="left")
    plain(ax)
    return ax


def evaluation_bars(frame: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Rank correlation on each unseen target: the forecast, the best single factor, the noise ceiling.

    Args:
        frame: columns target, rho, low, high (bounds of rho), baseline (rho of the best single factor) and
            ceiling (what the label's own noise allows); NaN leaves a mark out.
        ax: axes to draw on.

    Raises:
        InputError: a column is missing.
    """
    require(frame, ["target", "rho", "low", "high", "baseline", "ceiling"])
    ax = axes_or_new(ax, 7.6, 1.7 + 0.42 * len(frame))
    if frame.empty:
        return nothing(ax, "no target was evaluated")
    rows = np.arange(len(frame))
    rho, low, high = (frame[name].to_numpy(dtype=float) for name in ("rho", "low", "high"))
    ax.barh(rows, np.nan_to_num(rho), height=0.6, color=EASIER, alpha=0.75, label="forecast (95%)")
    known = np.isfinite(rho) & np.isfinite(low) & np.isfinite(high)
    ax.hlines(rows[known], low[known], high[known], color=ink(), linewidth=1.4)
    baseline, ceiling = frame["baseline"].to_numpy(dtype=float), frame["ceiling"].to_numpy(dtype=float)
    ax.scatter(baseline, rows, marker="D", s=34, color=HARDER, zorder=3, label="best single factor")
    ax.vlines(ceiling, rows - 0.38, rows + 0.38, color=NEUTRAL, linewidth=3, zorder=2, label="noise ceiling")
    ax.axvline(0, color=ink(), linewidth=0.8)
    ax.set_yticks(rows, [safe(wrap(str(name))) for name in frame["target"]])
    ax.set_ylim(len(frame) - 0.4, -0.6)
    finite = np.concatenate([rho, low, baseline])
    ax.set_xlim(min(0.0, float(np.nanmin(finite, initial=0.0)) - 0.05), 1.02)
    ax.set_xlabel("Spearman ρ with the measured difficulty")
    ax.legend(frameon=False, loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=3, columnspacing=1.2)
    plain(ax, y_ticks=False)
    return ax


def factor_correlations(frame: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Rank correlation of every factor with the measured difficulty, strongest first, one mark per target.

    Args:
        frame: columns target, factor, family, rho, low, high (bounds of rho), of one objective; a factor that does not
            apply to a target has NaN there.
        ax: axes to draw on.

    Raises:
        InputError: a column is missing.
    """
    require(frame, ["target", "factor", "family", "rho", "low", "high"])
    known = frame.dropna(subset="rho")
    order = known.groupby("factor")["rho"].mean().abs().sort_values(ascending=False).index
    ax = axes_or_new(ax, 8.2, 1.4 + 0.22 * len(order))
    if known.empty:
        return nothing(ax, "no factor applies")
    targets = list(dict.fromkeys(known["target"]))
    colors = cycle([EASIER, HARDER, NEUTRAL, *mpl.color_sequences["tab10"]])
    shifts = np.linspace(-0.25, 0.25, len(targets)) if len(targets) > 1 else [0.0]
    place = {name: row for row, name in enumerate(order)}
    for target, color, shift in zip(targets, colors, shifts, strict=False):
        part = known[known["target"] == target]
        rows = part["factor"].map(place).to_numpy(float) + shift
        ax.hlines(rows, part["low"], part["high"], color=color, linewidth=1.1, alpha=0.7)
        ax.scatter(part["rho"], rows, color=color, s=13, zorder=3, label=safe(str(target)))
    family = known.drop_duplicates("factor").set_index("factor")["family"]
    ax.set_yticks(range(len(order)), [f"{readable(name)}  ({readable(family[name])})" for name in order], fontsize=7)
    ax.set_ylim(len(order) - 0.4, -0.6)
    ax.axvline(0, color=ink(), linewidth=0.8)
    ax.set_xlim(-1, 1)
    ax.set_xlabel("Spearman ρ with the measured difficulty, 95% intervals")
    ax.legend(frameon=False, loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=len(targets), columnspacing=1.2)
    plain(ax, y_ticks=False)
    return ax


def forgetting_paths(points: pd.DataFrame, measure: str = "tv_test") -> Figure:
    """One sample under every unlearner: what is forgotten per step, and at what cost.

    Left: true-label probability along the path. Right: collateral damage against what is left of that probability;
    the lower a line runs, the cheaper its forgetting.

    Args:
        points: one row per unlearner and step, as ``forgetcast.unlearn.trace.trace`` returns them.
        measure: the damage shown on the right: tv_retain, tv_test or tv_neighbours.

    Returns:
        A figure with two axes (it needs both, so it takes no ``ax``).

    Raises:
        InputError: a column is missing.
    """
    missing = [name for name in ("unlearner", "step", "p", measure) if name not in points]
    if missing:
        raise InputError(f"expected the columns of a trace; missing: {', '.join(missing)}")
    figure = Figure(figsize=(11.5, 5.0), layout="constrained")
    left, right = figure.subplots(1, 2)
    names = list(dict.fromkeys(points["unlearner"]))
    colours = mpl.colormaps["tab20"](np.linspace(0, 1, 20))
    for number, name in enumerate(names):
        rows = points[points["unlearner"] == name].sort_values("step")
        style: dict[str, Any] = {
            "color": colours[number % 20],
            "linestyle": ("-", (0, (4, 2)), (0, (1, 1.4)))[number % 3],
            "linewidth": 1.8,
            "label": safe(str(name)),
        }
        left.plot(rows["step"], rows["p"], **style)
        right.plot(rows["p"], rows[measure], **style)
    left.set(xlabel="step of growing strength", ylabel="true-label probability", ylim=(-0.03, 1.03))
    where = {"tv_retain": "retained samples", "tv_test": "held-out data", "tv_neighbours": "its neighbours"}
    right.set(xlabel="true-label probability left", ylabel=f"damage on {where.get(measure, measure)} (total variation)")
    right.set_xlim(1.03, -0.03)
    right.set_ylim(bottom=0)
    left.set_title("What is forgotten", loc="left")
    right.set_title("and at what cost", loc="left")
    for axes in (left, right):
        plain(axes)
    figure.legend(*left.get_legend_handles_labels(), loc="outside right center", frameon=False)
    return figure
