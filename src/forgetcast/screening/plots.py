"""Pictures of a queue of deletion requests: what it costs against one retraining, and what harm is forecast.

As in ``report.plots``: each function draws on the axes it is given, or on a figure of its own, and returns the axes.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from forgetcast.report.plots.drawing import NEUTRAL, TIER_COLOURS, axes_or_new, ink, nothing, plain, require
from forgetcast.screening.routes import ROUTE

__all__ = ["ROUTE_COLOURS", "queue_costs", "queue_map"]

ROUTE_COLOURS = {name: TIER_COLOURS[route.tier] for name, route in ROUTE.items()}
"""In the order of effort, in the colours of the tiers."""
LINEAR_TO = 0.01
"""Harm above this is drawn on a logarithmic scale, below on a linear one that holds 0."""
MOST_VECTOR_MARKS = 1_000
UNITS = ((86_400.0, "days"), (3_600.0, "hours"), (60.0, "minutes"))


def queue_costs(
    table: pd.DataFrame,
    retraining_seconds: float | None = None,
    ax: Axes | None = None,
    *,
    preparing_seconds: float = 0.0,
) -> Axes:
    """Wall time of unlearning one request after another, summed up in processing order, against one retraining.

    The area takes the colour of the route of the request being served. Requests that are routed to retraining are left
    out: one retraining serves them all, and that is the dashed line. Where the sum passes it there is a
    mark, and the legend says by which request.

    Args:
        table: one row per request: columns order, route and seconds (NaN: not timed, counted as nothing).
        retraining_seconds: of one retraining; None or NaN where it is not known.
        ax: axes to draw on.
        preparing_seconds: what unlearners compute once, counted with the first request that is not trivial.

    Raises:
        InputError: a column is missing.
    """
    require(table, ["order", "route", "seconds"])
    ax = axes_or_new(ax, 7.6, 3.2)
    rows = table[table["route"] != "retrain"].sort_values("order")
    seconds = rows["seconds"].to_numpy(dtype=float)
    if not np.isfinite(seconds).any():
        return nothing(ax, "no request to unlearn was timed")
    whole = np.nan if retraining_seconds is None else float(retraining_seconds)
    total = np.nancumsum(seconds) + preparing_seconds * np.maximum.accumulate((rows["route"] != "trivial").to_numpy())
    top = float(np.nanmax([total[-1], whole]))
    scale, unit = next(((size, name) for size, name in UNITS if top >= 2 * size), (1.0, "seconds"))
    total, whole, places = total / scale, whole / scale, np.arange(1, len(rows) + 1)
    for route, colour in ROUTE_COLOURS.items():
        own = (rows["route"] == route).to_numpy()
        if own.any():
            bars = ax.bar(
                places[own],
                total[own],
                width=1.0,
                color=colour,
                edgecolor=colour,
                linewidth=0.4,
                label=f"{route} ({own.sum():,})",
            )
            for bar in bars:
                bar.set_rasterized(len(rows) > MOST_VECTOR_MARKS)
    if np.isfinite(whole):
        label = "one retraining"
        if total[-1] > whole:
            place = int(np.argmax(total > whole)) + 1
            label += f",\npassed by request {place:,}"
            ax.plot(place, whole, marker="o", markersize=5, color=ink(), zorder=4, clip_on=False)
        ax.axhline(whole, color=ink(), linewidth=1.2, linestyle=(0, (4, 3)), zorder=3, label=label)
    ax.set_xlim(0.5, len(rows) + 0.5)
    ax.set_ylim(0, 1.15 * top / scale or 1.0)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_xlabel("requests to unlearn, in processing order")
    ax.set_ylabel(f"{unit}, summed up")
    ax.set_title(f"what unlearning {_requests(len(rows))} costs", loc="left")
    ax.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    plain(ax)
    return ax


def queue_map(
    table: pd.DataFrame,
    ax: Axes | None = None,
    *,
    quick_to: float | None = None,
    retrain_from: float | None = None,
) -> Axes:
    """Forecast harm of every request with its interval: routes side by side, each from the least harm to the most.

    Harm is drawn on a logarithmic scale above 0.01 and on a linear one below.

    Args:
        table: one row per request: columns route, harm, harm_lower and harm_upper (in [0, 1]; NaN leaves a mark out).
        ax: axes to draw on.
        quick_to: the policy's threshold of harm for "quick", drawn as a dashed line.
        retrain_from: its threshold for "retrain", drawn likewise.

    Raises:
        InputError: a column is missing.
    """
    require(table, ["route", "harm", "harm_lower", "harm_upper"])
    ax = axes_or_new(ax, 7.6, 3.6)
    rows = table[np.isfinite(table["harm"].to_numpy(dtype=float))]
    if rows.empty:
        return nothing(ax, "no harm was forecast")
    marks = len(rows) > MOST_VECTOR_MARKS
    start = 0
    for route, colour in ROUTE_COLOURS.items():
        own = rows[rows["route"] == route].sort_values("harm")
        if own.empty:
            continue
        place = start + np.arange(len(own))
        start += len(own) + max(1, round(0.02 * len(rows)))
        lower, upper = own["harm_lower"].to_numpy(dtype=float), own["harm_upper"].to_numpy(dtype=float)
        known = np.isfinite(lower) & np.isfinite(upper)
        ax.vlines(place[known], lower[known], upper[known], color=colour, alpha=0.5, linewidth=1.2, rasterized=marks)
        label = f"{route} ({len(own):,})"
        ax.scatter(place, own["harm"], s=14, color=colour, linewidths=0, label=label, zorder=3, rasterized=marks)
    for threshold, name, side in ((quick_to, "quick up to", "top"), (retrain_from, "retrain from", "bottom")):
        if threshold is not None:
            ax.axhline(threshold, color=NEUTRAL, linewidth=0.9, linestyle=(0, (4, 3)))
            ax.annotate(
                f"{name} {threshold:g}",
                (1, threshold),
                xycoords=("axes fraction", "data"),
                xytext=(6, 0),
                textcoords="offset points",
                va=side,
                fontsize="small",
            )
    ax.set_yscale("symlog", linthresh=LINEAR_TO, linscale=0.6)
    upper = float(np.nanmax(rows[["harm", "harm_upper"]].to_numpy(dtype=float)))
    ax.set_yticks([0, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0])
    ax.set_yticks([], minor=True)
    ax.set_ylim(0, min(1.0, max(1.3 * upper, 1.3 * (retrain_from or 0), 2 * LINEAR_TO)))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.set_xticks([])
    ax.set_xlabel("requests, by route and forecast harm")
    ax.set_ylabel("forecast harm")
    ax.set_title(f"harm of {_requests(len(rows))}, with intervals", loc="left")
    ax.legend(frameon=False, loc="upper left", ncols=4, bbox_to_anchor=(0.0, -0.08), markerscale=2)
    plain(ax)
    return ax


def _requests(n: int) -> str:
    return f"{n:,} request" + ("" if n == 1 else "s")
