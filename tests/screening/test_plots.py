"""Pictures of a queue: what is drawn equals the data, on the axes given, and pyplot is left alone."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from forgetcast.errors import InputError
from forgetcast.screening.plots import ROUTE_COLOURS, queue_costs, queue_map


@pytest.fixture
def table() -> pd.DataFrame:
    """Six requests, not in processing order, one of them not timed."""
    return pd.DataFrame(
        {
            "order": [3, 1, 2, 4, 5, 6],
            "route": ["quick", "trivial", "quick", "careful", "careful", "retrain"],
            "seconds": [3.0, 0.0, 2.0, np.nan, 10.0, 40.0],
            "harm": [0.02, 0.001, 0.01, 0.07, 0.05, 0.4],
            "harm_lower": [0.01, 0.0, 0.005, 0.03, np.nan, 0.2],
            "harm_upper": [0.03, 0.004, 0.02, 0.09, np.nan, 0.7],
        }
    )


def test_costs_are_summed_in_processing_order_without_retraining(table: pd.DataFrame) -> None:
    """Heights are running sums, colours are routes, and the dashed line is one retraining."""
    ax = queue_costs(table, 40.0)
    bars = sorted((bar.get_x() + 0.5, bar.get_height(), to_hex(bar.get_facecolor())) for bar in ax.patches)
    routes = ["trivial", "quick", "quick", "careful", "careful"]
    assert [place for place, *_ in bars] == [1, 2, 3, 4, 5]
    assert [height for _, height, _ in bars] == [0, 2, 5, 5, 15]
    assert [colour for *_, colour in bars] == [ROUTE_COLOURS[route].lower() for route in routes]
    assert list(ax.lines[0].get_ydata()) == [40, 40]
    assert ax.get_ylim()[1] > 40
    assert ax.lines[0].get_label() == "one retraining"


def test_break_even_is_marked_where_the_sum_passes_one_retraining(table: pd.DataFrame) -> None:
    """5 seconds after request 3, 15 after request 5: a retraining of 6 seconds is passed by the fifth."""
    ax = queue_costs(table, 6.0)
    mark, line = ax.lines
    assert (mark.get_xdata().tolist(), mark.get_ydata().tolist()) == ([5], [6.0])
    assert line.get_label() == "one retraining,\npassed by request 5"


def test_long_costs_take_a_longer_unit(table: pd.DataFrame) -> None:
    """Hours are hours, on the bars and on the line."""
    ax = queue_costs(table.assign(seconds=table["seconds"] * 720), 7_200.0)
    assert ax.get_ylabel().startswith("hours")
    assert max(bar.get_height() for bar in ax.patches) == pytest.approx(3.0)
    assert ax.lines[0].get_ydata()[0] == pytest.approx(2.0)


def test_preparing_is_counted_with_the_first_that_needs_it(table: pd.DataFrame) -> None:
    """The trivial one first costs nothing, then all sums are higher by it."""
    bars = sorted((bar.get_x(), bar.get_height()) for bar in queue_costs(table, preparing_seconds=7.0).patches)
    assert [height for _, height in bars] == [0, 9, 12, 12, 22]


@pytest.mark.parametrize("whole", [None, float("nan")])
def test_without_the_cost_of_retraining_there_is_no_line(table: pd.DataFrame, whole: float | None) -> None:
    """The sum alone is drawn."""
    ax = queue_costs(table, whole)
    assert len(ax.patches) == 5
    assert not ax.lines


def test_map_shows_each_harm_with_its_interval_by_route(table: pd.DataFrame) -> None:
    """Routes side by side in the order of effort, harm rising inside each, thresholds dashed and named."""
    ax = queue_map(table, quick_to=0.02, retrain_from=0.1)
    dots = [collection.get_offsets() for collection in ax.collections if len(collection.get_offsets()) and
            not hasattr(collection, "get_segments")]  # fmt: skip
    assert [np.asarray(part)[:, 1].tolist() for part in dots] == [[0.001], [0.01, 0.02], [0.05, 0.07], [0.4]]
    places = np.concatenate([np.asarray(part)[:, 0] for part in dots])
    assert (np.diff(places) > 0).all()
    segments = [s[:, 1].tolist() for c in ax.collections if hasattr(c, "get_segments") for s in c.get_segments()]
    assert segments == [[0.0, 0.004], [0.005, 0.02], [0.01, 0.03], [0.03, 0.09], [0.2, 0.7]]
    assert [line.get_ydata()[0] for line in ax.lines] == [0.02, 0.1]
    assert [text.get_text() for text in ax.texts] == ["quick up to 0.02", "retrain from 0.1"]
    low, high = ax.get_ylim()
    assert low == 0
    assert high >= 0.7


def test_axes_given_are_used_and_pyplot_knows_of_nothing(table: pd.DataFrame) -> None:
    """Both draw on what they get."""
    before = plt.get_fignums()
    for ax, draw in zip(Figure().subplots(1, 2), (queue_costs, queue_map), strict=True):
        assert draw(table, ax=ax) is ax
        assert ax.has_data()
    assert plt.get_fignums() == before


def test_nothing_to_draw_is_said(table: pd.DataFrame) -> None:
    """Empty queues, queues without times, queues without harm."""
    assert "timed" in queue_costs(table.assign(seconds=np.nan), 40.0).texts[0].get_text()
    assert "timed" in queue_costs(table.iloc[:0]).texts[0].get_text()
    assert "no harm" in queue_map(table.assign(harm=np.nan)).texts[0].get_text()


def test_missing_columns_are_named(table: pd.DataFrame) -> None:
    """The message says which."""
    with pytest.raises(InputError, match="missing: seconds"):
        queue_costs(table.drop(columns="seconds"))
    with pytest.raises(InputError, match="missing: harm_upper"):
        queue_map(table.drop(columns="harm_upper"))
