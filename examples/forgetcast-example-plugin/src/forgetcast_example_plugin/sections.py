"""Which classes are hard to unlearn."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from forgetcast import DifficultyReport
from forgetcast.sections import Picture, Section

__all__ = ["hardest_classes"]


def hardest_classes(report: DifficultyReport) -> Section:
    """Mean forecast percentile by objective and class, the hardest first, as bars and as a table."""
    groups = report.table.groupby(["objective", "label"])["percentile"]
    table = groups.agg(samples="size", percentile="mean").reset_index()
    table = table.sort_values("percentile", ascending=False, ignore_index=True)

    def draw() -> Axes:
        axes = Figure(figsize=(7, 1 + 0.25 * len(table)), layout="constrained").subplots()
        axes.barh([f"{row.objective}, class {row.label}" for row in table.itertuples()], table["percentile"])
        axes.invert_yaxis()
        axes.set_xlabel("mean percentile")
        return axes

    words = "The mean forecast percentile of the samples of each class; classes differ in how hard they are to unlearn."
    picture = Picture(draw, alt="Bars of the mean percentile by objective and class, the hardest first")
    return Section("Hardest classes", [words, picture, table])
