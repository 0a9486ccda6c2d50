"""Pictures of explanations: what moves one forecast, or all of them, and which samples would move along."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal, cast

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from forgetcast.errors import InputError, UnknownNameError
from forgetcast.report.plots.drawing import (
    EASIER,
    HARDER,
    NEUTRAL,
    axes_or_new,
    ink,
    nothing,
    plain,
    readable,
    require,
    safe,
    samples,
    wrap,
)
from forgetcast.wording import significant

if TYPE_CHECKING:
    from forgetcast.report.explain import Explanation, ExplanationSet

__all__ = ["beeswarm", "dependence", "family_importance", "first_sentence", "mover_pictures", "waterfall"]

EASIER_TO_HARDER = LinearSegmentedColormap.from_list("easier_to_harder", [EASIER, "#9A9A9A", HARDER])
LOW_TO_HIGH = LinearSegmentedColormap.from_list("low_to_high", ["#7B52C7", "#9A8A95", "#C98A00"])
PICTURES_A_ROW = 6
MOST_VECTOR_DOTS = 1_000


def waterfall(
    explanation: Explanation,
    ax: Axes | None = None,
    *,
    by: Literal["factor", "family"] = "factor",
    max_reasons: int = 10,
    titles: Mapping[str, str] | None = None,
    values: Mapping[str, float | str] | None = None,
) -> Axes:
    """From the average sample to this one: what moved the predicted percentile, the largest shift first.

    Read from the top: the dashed line is the base (the average forecast), each bar one factor's SHAP value, the mark at
    the bottom the forecast before it is clipped to [0, 1]. The scale is that of the head that is explained. What does
    not fit in ``max_reasons`` rows is summed up in the last bar. Drawn here because ``shap.plots.waterfall`` (shap
    0.51) takes no ``ax`` and works on pyplot's current figure.

    Args:
        explanation: of one sample.
        ax: axes to draw on.
        by: bars by factor, or by family of factors.
        max_reasons: most bars drawn, the remainder included; at least 1.
        titles: what a person reads in place of a factor's name.
        values: the sample's own value by factor, a number or a finished text; default: those of the
            explanation's reasons.

    Raises:
        InputError: ``by`` or ``max_reasons`` is out of range.
    """
    if by not in ("factor", "family"):
        raise InputError(f"by: expected 'factor' or 'family'; got {by!r}")
    if max_reasons < 1:
        raise InputError(f"max_reasons: expected at least 1; got {max_reasons}")
    shifts = (explanation.by_factor if by == "factor" else explanation.by_family).astype(float)
    shifts = shifts.iloc[np.argsort(-shifts.abs().to_numpy(), kind="stable")]
    if by == "family":
        labels = [readable(name) for name in shifts.index]
    else:
        if values is None:
            values = {reason.factor: reason.value for reason in explanation.reasons}
        labels = [_label(name, titles, values) for name in shifts.index]
    widths = shifts.to_numpy()
    if len(widths) > max_reasons:
        rest = len(widths) - max_reasons + 1
        widths = np.append(widths[: max_reasons - 1], widths[max_reasons - 1 :].sum())
        labels = [*labels[: max_reasons - 1], f"{rest} other {'factors' if by == 'factor' else 'families'}"]
    rows = np.arange(len(widths))
    ax = axes_or_new(ax, 8.2, 1.2 + _row_height(labels) * len(widths))
    base, ends = float(explanation.base), float(explanation.base) + np.cumsum(widths)
    end = float(ends[-1]) if len(ends) else base
    ax.axvline(base, color=ink(), linewidth=0.8, linestyle=(0, (4, 3)), zorder=0)
    ax.vlines(end, len(widths) - 1, len(widths) - 0.4, color=ink(), linewidth=2, zorder=0)
    harder = widths < 0 if explanation.head == "trivial" else widths > 0
    ax.barh(rows, widths, left=ends - widths, height=0.62, color=np.where(harder, HARDER, EASIER))
    ax.vlines(ends[:-1], rows[:-1], rows[1:], color=NEUTRAL, linewidth=0.8, zorder=0)
    for row, width, stop in zip(rows, widths, ends, strict=True):
        ax.annotate(
            f"{width:+.3f}".replace("-", "−") if abs(width) >= 0.0005 else "0",
            (max(stop, stop - width), row),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize="small",
        )
    corners = np.concatenate([[base], ends])
    span = max(float(np.ptp(corners)), 0.02)
    ax.set_xlim(corners.min() - 0.06 * span, corners.max() + 0.16 * span)
    ax.set_ylim(len(widths) - 0.4, -0.6)
    ax.set_yticks(rows, labels)
    ax.set_xlabel(f"predicted {_scale(explanation.head)} (dashed: the average)")
    shown = np.clip(end, 0, 1) if explanation.head == "percentile" else end
    what = "" if explanation.head == "percentile" else f", {readable(explanation.head)}"
    ax.set_title(f"sample {explanation.index}, {explanation.objective}{what}: {base:.2f} → {shown:.2f}", loc="left")
    plain(ax, y_ticks=False)
    return ax


def beeswarm(
    explanations: ExplanationSet,
    ax: Axes | None = None,
    *,
    max_factors: int = 12,
    titles: Mapping[str, str] | None = None,
    seed: int = 0,
) -> Axes:
    """Every sample's SHAP value for the factors that matter most.

    The colour is the factor's own value, from low to high; grey where it has none.
    Drawn by ``shap.plots.beeswarm``, which takes ``ax`` since shap 0.46; it places dots with numpy's global
    random state, which is seeded here and put back afterwards. More than 1,000 dots become an image.

    Args:
        explanations: of any number of samples.
        ax: axes to draw on; a colour bar is added beside them.
        max_factors: rows drawn, the remaining factors summed up in the last one.
        titles: what a person reads in place of a factor's name.
        seed: of the vertical placing of dots.
    """
    shifts = explanations.contributions
    rows = min(max_factors, shifts.shape[1])
    names = [_label(str(name), titles) for name in shifts.columns]
    ax = axes_or_new(ax, 8.2, 1.6 + _row_height(names) * rows)
    if shifts.empty:
        return nothing(ax, "no samples to explain")
    import shap

    values = explanations.values.reindex(columns=shifts.columns).to_numpy(dtype=float)
    explained = shap.Explanation(
        values=shifts.to_numpy(dtype=float),
        base_values=np.full(len(shifts), explanations.base),
        data=values,
        feature_names=names,
    )
    state = np.random.get_state()
    np.random.seed(seed)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # columns of NaN: a factor that did not apply
            shap.plots.beeswarm(
                explained,
                max_display=max_factors,
                ax=ax,
                show=False,
                plot_size=None,
                s=9,
                color=LOW_TO_HIGH,
                axis_color=ink(),
                color_bar_label="the factor's own value",
            )
    finally:
        np.random.set_state(state)
    for dots in ax.collections:
        dots.set_rasterized(len(shifts) * rows > MOST_VECTOR_DOTS)
    colour_bar = ax.figure.axes[-1]
    colour_bar.set_ylabel(colour_bar.get_ylabel(), size=mpl.rcParams["axes.labelsize"], labelpad=-12)
    colour_bar.set_yticks([0, 1], ["low", "high"], fontsize=mpl.rcParams["ytick.labelsize"])
    ticks = [text.get_text() for text in ax.get_yticklabels()]
    hidden = shifts.shape[1] - max_factors + 1
    if shifts.shape[1] > max_factors:
        ticks[0] = f"{hidden} other factors"
    ax.set_yticks(range(len(ticks)), ticks, fontsize=mpl.rcParams["ytick.labelsize"])
    ax.tick_params("x", labelsize=mpl.rcParams["xtick.labelsize"])
    ax.set_xlabel("shift of the predicted percentile (right: harder)", fontsize=mpl.rcParams["axes.labelsize"])
    ax.set_title(f"{explanations.objective}: what moves the forecast, {samples(len(shifts))}", loc="left")
    plain(ax, y_ticks=False)
    return ax


def dependence(
    explanations: ExplanationSet,
    factor: str,
    ax: Axes | None = None,
    *,
    colour_by: str | None = None,
    titles: Mapping[str, str] | None = None,
) -> Axes:
    """How far one factor moves the forecast, against the factor's own value, one dot per sample.

    Where dots of one value lie at several heights, other factors decide how much this one counts; the colour shows
    whether it is the one chosen. Values over more than two powers of ten have a logarithmic axis.

    Args:
        explanations: of any number of samples.
        factor: its name.
        ax: axes to draw on; a colour bar is added beside them.
        colour_by: another factor, by its value, or a family, by the sum of its SHAP values; default: of the families
            that the factor is not in the one that moves forecasts most.
        titles: what a person reads in place of a factor's name.

    Raises:
        UnknownNameError: no such factor, or no such factor or family to colour by.
    """
    shifts, families = explanations.contributions, explanations.by_family.astype(float)
    if factor not in shifts:
        raise UnknownNameError.of("factor", factor, [str(name) for name in shifts])
    if colour_by is None:
        strength = families.abs().mean()
        others = strength.drop(explanations.families.get(factor, ""), errors="ignore")
        colour_by = str((others if len(others) else strength).idxmax())
    if colour_by in shifts:
        colour, bar, colours = explanations.values[colour_by], _label(colour_by, titles), LOW_TO_HIGH
    elif colour_by in families:
        colour, bar, colours = families[colour_by], f"shift by {readable(colour_by)}", EASIER_TO_HARDER
    else:
        raise UnknownNameError.of("factor or family", colour_by, [*map(str, shifts), *map(str, families)])
    ax = axes_or_new(ax, 7.6, 3.9)
    x, y = explanations.values[factor].to_numpy(dtype=float), shifts[factor].to_numpy(dtype=float)
    known = np.isfinite(x)
    if not known.any():
        return nothing(ax, "the factor does not apply")
    c = colour.to_numpy(dtype=float)
    size = float(np.nanquantile(np.abs(c), 0.95)) if np.isfinite(c).any() else 0.0
    low, high = (-size, size) if colours is EASIER_TO_HARDER else _spread(c)
    dots = ax.scatter(
        x[known],
        y[known],
        c=np.nan_to_num(c[known], nan=(low + high) / 2),
        cmap=colours,
        vmin=low,
        vmax=high,
        s=14,
        alpha=0.75,
        linewidths=0,
        rasterized=known.sum() > MOST_VECTOR_DOTS,
    )
    ax.axhline(0, color=ink(), linewidth=0.8)
    ends = np.quantile(x[known], [0.02, 0.98])
    if x[known].min() > 0 and ends[1] > 100 * ends[0]:
        ax.set_xscale("log")
    cast(Figure, ax.figure).colorbar(dots, ax=ax, label=bar.replace("\n", " ") if len(bar) < 60 else bar)
    ax.set_xlabel(_label(factor, titles))
    ax.set_ylabel("shift of the predicted percentile")
    ax.set_title(f"{explanations.objective}: what its value does, {samples(int(known.sum()))}", loc="left")
    plain(ax)
    return ax


def mover_pictures(
    images: np.ndarray, movers: pd.DataFrame, index: int, label: int | str, ax: Axes | None = None
) -> Axes:
    """A sample's picture, framed, and those of the training samples that would move with it.

    Below each its number and label, and by how much the probability of its label would change if the sample were
    unlearned on the last layer.

    Args:
        images: of the sample and then of its movers, shape (1 + m, h, w), or (1 + m, h, w, 3) for colours. Shown from
            the smallest to the largest value of each channel.
        movers: m rows as ``DifficultyReport.movers`` returns them.
        index: number of the sample.
        label: its label.
        ax: axes to draw on.

    Raises:
        InputError: images of another shape, or not one for each row and the sample; or a column is missing.
    """
    require(movers, ["index", "label", "change"])
    pictures = np.asarray(images, dtype=float)
    if pictures.ndim not in (3, 4) or pictures.shape[3:] not in ((), (3,)) or 0 in pictures.shape:
        raise InputError(f"images: expected shape (1 + m, h, w) or (1 + m, h, w, 3); got {pictures.shape}")
    if len(pictures) != 1 + len(movers):
        raise InputError(f"images: expected {1 + len(movers)}, the sample's and one per mover; got {len(pictures)}")
    low, high = (function(pictures, axis=(0, 1, 2), keepdims=True) for function in (np.min, np.max))
    pictures = (pictures - low) / np.maximum(high - low, 1e-12)
    columns = min(PICTURES_A_ROW, len(pictures))
    tall = pictures.shape[1] / pictures.shape[2]
    rows, pitch = -(-len(pictures) // columns), tall + 0.42
    ax = axes_or_new(ax, 1.35 * columns, 1.35 * pitch * rows + 0.1)
    captions = [f"sample {index}\nlabel {label}"]
    captions += [
        f"{number}, label {own}\n" + f"{change:+.3f}".replace("-", "−")
        for number, own, change in zip(movers["index"], movers["label"], movers["change"], strict=True)
    ]
    for number, (picture, caption) in enumerate(zip(pictures, captions, strict=True)):
        left, top = number % columns, (number // columns) * pitch
        extent = (left, left + 0.94, top + 0.94 * tall, top)
        ax.imshow(picture, cmap="gray", vmin=0, vmax=1, extent=extent, interpolation="nearest")
        if number == 0:
            ax.add_patch(Rectangle((left, top), 0.94, 0.94 * tall, fill=False, edgecolor=HARDER, linewidth=2.5))
        ax.text(left + 0.47, top + 0.94 * tall + 0.03, safe(caption), ha="center", va="top", fontsize=8)
    ax.set(xlim=(-0.03, columns), ylim=(rows * pitch, -0.03), aspect="equal")
    ax.set_axis_off()
    return ax


def family_importance(explanations: ExplanationSet, ax: Axes | None = None) -> Axes:
    """Mean absolute shift of the predicted percentile by family of factors, the strongest at the top.

    Args:
        explanations: of any number of samples.
        ax: axes to draw on.
    """
    size = explanations.by_family.astype(float).abs().mean().sort_values(ascending=False, kind="stable")
    ax = axes_or_new(ax, 7.6, 1.3 + 0.38 * len(size))
    if explanations.by_family.empty:
        return nothing(ax, "no samples to explain")
    bars = ax.barh(np.arange(len(size)), size.to_numpy(), height=0.62, color=EASIER)
    ax.bar_label(bars, fmt="%.3f", padding=4, fontsize="small")
    ax.set_yticks(np.arange(len(size)), [readable(str(name)) for name in size.index])
    ax.set_ylim(len(size) - 0.4, -0.6)
    ax.margins(x=0.12)
    ax.set_xlabel("mean size of the shift of the predicted percentile")
    ax.set_title(f"{explanations.objective}: families of factors, {samples(len(explanations.by_family))}", loc="left")
    plain(ax, y_ticks=False)
    return ax


def _scale(head: str) -> str:
    """What the axis of a head's forecasts counts."""
    if head == "percentile":
        return head
    return "log-odds of being trivial" if head == "trivial" else f"{head.replace('_', ' ')} (logarithmic scale)"


def _spread(values: np.ndarray) -> tuple[float, float]:
    """Where colours begin and end: the 5 % and 95 % quantiles."""
    known = values[np.isfinite(values)]
    low, high = np.quantile(known, [0.05, 0.95]) if len(known) else (0.0, 1.0)
    return float(low), float(high)


def first_sentence(title: str) -> str:
    """What a person reads of a title; a factor's may go on with shape and range.

    >>> first_sentence("Loss of the sample. Shape (n,), in nats, at least 0.")
    'Loss of the sample'
    """
    return title.split(". ")[0].rstrip(".")


def _row_height(labels: list[str]) -> float:
    """Inches per row that the longest label needs."""
    return 0.15 + 0.155 * max((label.count("\n") + 1 for label in labels), default=1)


def _label(name: str, titles: Mapping[str, str] | None, values: Mapping[str, float | str] | None = None) -> str:
    """A factor's title, and the sample's own value of it where there is one."""
    known = None if titles is None else titles.get(name)
    title = first_sentence(known or name.replace("_", " "))
    value = None if values is None else values.get(name)
    end = "" if value is None else f" =\N{NO-BREAK SPACE}{value if isinstance(value, str) else _number(value)}"
    return safe(wrap(title, end))


def _number(value: float) -> str:
    if not np.isfinite(value):
        return "not applicable" if np.isnan(value) else str(value)
    return significant(value)
