"""Pictures: what is drawn equals the data, on the axes given, and pyplot is left alone."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Iterator
from itertools import combinations
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb, to_rgba
from matplotlib.figure import Figure
from scipy import stats

from forgetcast.errors import InputError, UnknownNameError
from forgetcast.predict import DifficultyReport
from forgetcast.report import plots
from forgetcast.report.explain import Explanation
from forgetcast.report.plots import explanations
from sample_report import measurements, sample_report


@pytest.fixture(scope="module")
def report() -> DifficultyReport:
    """Forecasts of 120 samples for both objectives."""
    return sample_report()


@pytest.fixture(autouse=True)
def nothing_left_in_pyplot() -> Iterator[None]:
    """Every test here ends with as many pyplot figures as it began with, and pyplot's mode unchanged."""
    before = plt.get_fignums(), plt.isinteractive()
    yield
    assert (plt.get_fignums(), plt.isinteractive()) == before


def _measured(report: DifficultyReport) -> pd.DataFrame:
    return report.table.merge(measurements(report, 40), on=["index", "objective"], suffixes=("", "_measured"))


def _evaluation() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "target": ["digits-mlp", "a $x$ name", "unknown"],
            "rho": [0.8, 0.6, np.nan],
            "low": [0.7, 0.5, np.nan],
            "high": [0.9, 0.7, np.nan],
            "baseline": [0.6, -0.2, 0.1],
            "ceiling": [0.95, np.nan, np.nan],
        }
    )


PLOTS: dict[str, Callable[[DifficultyReport, Axes | None], Axes]] = {
    "waterfall": lambda report, ax: plots.waterfall(report.explain(3), ax),
    "waterfall by family": lambda report, ax: plots.waterfall(report.explain(3), ax, by="family"),
    "beeswarm": lambda report, ax: plots.beeswarm(report.explanations(), ax),
    "family_importance": lambda report, ax: plots.family_importance(report.explanations(), ax),
    "difficulty_histogram": lambda report, ax: plots.difficulty_histogram(report.table, "retrain", ax),
    "measured_scatter": lambda report, ax: plots.measured_scatter(_measured(report), "retrain", ax=ax),
    "evaluation_bars": lambda report, ax: plots.evaluation_bars(_evaluation(), ax),
    "factor_correlations": lambda report, ax: plots.factor_correlations(_correlations(), ax),
    "dependence": lambda report, ax: plots.dependence(report.explanations(), "loss", ax),
    "mover_pictures": lambda report, ax: plots.mover_pictures(_images(8), _movers(7), 17, 3, ax),
}


def _movers(count: int) -> pd.DataFrame:
    """As a report returns them."""
    change = np.linspace(-0.4, 0.2, count)
    columns = {"index": 100 + np.arange(count), "label": np.arange(count) % 3, "change": change}
    return pd.DataFrame(columns).assign(total_variation=np.abs(change), similarity=0.9)


def _images(count: int, channels: tuple[int, ...] = ()) -> np.ndarray:
    """Pictures of 6 by 5 pixels with values about 0, as after standardising."""
    return np.random.default_rng(0).normal(size=(count, 6, 5, *channels))


@pytest.mark.parametrize("name", PLOTS)
def test_draws_on_the_axes_it_is_given(report: DifficultyReport, name: str) -> None:
    """The axes that come back are those that went in, with something on them."""
    ax = Figure(layout="constrained").add_subplot()
    assert PLOTS[name](report, ax) is ax
    assert ax.has_data()


@pytest.mark.parametrize("name", PLOTS)
def test_makes_its_own_figure_and_saves_without_a_display(report: DifficultyReport, name: str, tmp_path: Path) -> None:
    """Without axes the picture has a figure of its own; every text of it lies inside."""
    figure = PLOTS[name](report, None).figure
    assert isinstance(figure, Figure)
    figure.savefig(tmp_path / "picture.png")
    whole = figure.get_tightbbox()
    assert whole.x0 >= -0.1
    assert whole.y0 >= -0.1
    assert whole.x1 <= figure.get_figwidth() + 0.1
    assert whole.y1 <= figure.get_figheight() + 0.1


def _linear(colour: str) -> np.ndarray:
    """Linear RGB of an sRGB colour, shape (3,)."""
    return np.array([c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)])


def _contrast(one: str, other: str) -> float:
    """WCAG 2 contrast ratio of two colours."""
    light, dark = sorted((float(_linear(c) @ [0.2126, 0.7152, 0.0722]) for c in (one, other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


COLOUR_VISION = {
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
    "usual": np.eye(3),
}
"""Linear RGB as seen, from Machado, Oliveira & Fernandes 2009, severity 1."""


def _distance(one: str, other: str, seen: np.ndarray) -> float:
    """CIE 1976 colour difference of two colours under a kind of colour vision; 2.3 is just noticeable."""

    def lab(colour: str) -> np.ndarray:
        to_xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
        xyz = np.array(to_xyz) @ np.clip(np.asarray(seen) @ _linear(colour), 0, 1) / [0.9505, 1, 1.089]
        f = np.cbrt(xyz)
        return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])

    return float(np.linalg.norm(lab(one) - lab(other)))


@pytest.mark.parametrize("colour", [plots.HARDER, plots.EASIER, *plots.TIER_COLOURS.values()])
@pytest.mark.parametrize("page", ["#ffffff", "#15181c"])
def test_colours_are_visible_on_light_and_dark(colour: str, page: str) -> None:
    """Graphics need a contrast of 3:1 (WCAG 2, criterion 1.4.11)."""
    assert _contrast(colour, page) >= 3


@pytest.mark.parametrize("vision", COLOUR_VISION)
def test_colours_stay_apart_for_colour_blind_readers(vision: str) -> None:
    """Harder and easier, each pair of tiers, and both ends of the scale differ clearly, as each reader sees them."""
    ends = [to_hex(explanations.LOW_TO_HIGH(end)) for end in (0.0, 1.0)]
    pairs = [(plots.HARDER, plots.EASIER), *combinations(plots.TIER_COLOURS.values(), 2), (ends[0], ends[1])]
    assert min(_distance(*pair, np.asarray(COLOUR_VISION[vision])) for pair in pairs) > 20


# -- waterfall ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["factor", "family"])
def test_waterfall_bars_are_the_contributions_and_end_at_the_forecast(report: DifficultyReport, by: str) -> None:
    """Widths are the SHAP values, largest first; each bar starts where the one above ends; colours tell the sign."""
    explanation = report.explain(7, "erase")
    shifts = explanation.by_factor if by == "factor" else explanation.by_family
    bars = plots.waterfall(explanation, by=by, max_reasons=20).patches  # type: ignore[arg-type]
    widths = np.array([bar.get_width() for bar in bars])
    assert sorted(widths) == pytest.approx(sorted(shifts))
    assert (np.diff(np.abs(widths)) <= 1e-12).all()
    assert bars[0].get_x() == pytest.approx(explanation.base)
    ends = [bar.get_x() + bar.get_width() for bar in bars]
    assert [bar.get_x() for bar in bars[1:]] == pytest.approx(ends[:-1])
    assert ends[-1] == pytest.approx(explanation.prediction)
    wanted = [to_rgba(plots.HARDER if width > 0 else plots.EASIER) for width in widths]
    assert [bar.get_facecolor() for bar in bars] == wanted


def test_waterfall_sums_up_what_does_not_fit(report: DifficultyReport) -> None:
    """With three rows the last one holds all the rest and says how many, and nothing is lost."""
    explanation = report.explain(7)
    ax = plots.waterfall(explanation, max_reasons=3)
    widths = [bar.get_width() for bar in ax.patches]
    rest = explanation.by_factor.abs().sort_values(ascending=False).index[2:]
    assert len(widths) == 3
    assert widths[-1] == pytest.approx(explanation.by_factor[rest].sum())
    assert ax.get_yticklabels()[-1].get_text() == f"{len(rest)} other factors"
    assert explanation.base + sum(widths) == pytest.approx(explanation.prediction)


def test_waterfall_shows_titles_and_values(report: DifficultyReport) -> None:
    """Labels are titles where given, with the sample's own value; dollar signs are no formulas."""
    explanation = report.explain(7)
    values = {reason.factor: reason.value for reason in explanation.reasons}
    ax = plots.waterfall(explanation, titles={"loss": "Costs $5 to $9."})
    labels = [" ".join(text.get_text().split()) for text in ax.get_yticklabels()]
    assert rf"Costs \$5 to \$9 = {values['loss']:.3g}" in labels
    assert f"margin = {values['margin']:.3g}" in labels
    told = plots.waterfall(explanation, values={"loss": "very high"})
    assert any("very high" in text.get_text() for text in told.get_yticklabels())


def test_waterfall_clips_the_forecast_it_names(report: DifficultyReport) -> None:
    """The bars show the raw sum, the title a percentile."""
    explanation = report.explain(7)
    beyond = dataclasses.replace(explanation, base=explanation.base + 2, prediction=explanation.prediction + 2)
    assert plots.waterfall(beyond).get_title(loc="left").endswith("→ 1.00")


def test_waterfall_of_no_contributions_is_empty() -> None:
    """A predictor without factors has only its base."""
    nothing = pd.Series(dtype=float)
    ax = plots.waterfall(Explanation(0, "retrain", 0.5, 0.5, nothing, nothing, nothing, ()))
    assert not ax.patches


@pytest.mark.parametrize("options", [{"by": "sample"}, {"max_reasons": 0}])
def test_waterfall_refuses_what_it_cannot_draw(report: DifficultyReport, options: dict[str, object]) -> None:
    """The message names the argument."""
    with pytest.raises(InputError, match=next(iter(options))):
        plots.waterfall(report.explain(0), **options)  # type: ignore[arg-type]


# -- views over all samples -----------------------------------------------------------------------------------


def test_beeswarm_dots_are_the_contributions(report: DifficultyReport) -> None:
    """Row by row, the strongest factor at the top, the dots' places along x are that factor's SHAP values."""
    explanations = report.explanations("retrain")
    ax = plots.beeswarm(explanations, max_factors=20)
    labels = [text.get_text() for text in ax.get_yticklabels()]
    order = explanations.contributions.abs().mean().sort_values().index
    assert labels == [name.replace("_", " ") for name in order]
    drawn = np.concatenate([np.asarray(dots.get_offsets()) for dots in ax.collections])
    for row, name in enumerate(order):
        xs = drawn[np.abs(drawn[:, 1] - row) < 0.5, 0]
        assert np.sort(xs) == pytest.approx(np.sort(explanations.contributions[name]))


def test_beeswarm_of_many_dots_is_an_image_in_a_vector_file() -> None:
    """A file with a path per dot would be large: few dots stay paths, many do not."""
    few, many = (sample_report(n=n, objectives=["erase"]).explanations() for n in (30, 300))
    assert not any(dots.get_rasterized() for dots in plots.beeswarm(few).collections)
    assert all(dots.get_rasterized() for dots in plots.beeswarm(many).collections)


def test_beeswarm_sums_up_the_rest(report: DifficultyReport) -> None:
    """The lowest row counts the factors that have none of their own."""
    ax = plots.beeswarm(report.explanations(), max_factors=3)
    assert next(text.get_text() for text in ax.get_yticklabels()) == "3 other factors"


def test_beeswarm_leaves_the_global_random_state_alone_and_is_the_same_twice(report: DifficultyReport) -> None:
    """The placing of dots is seeded, and numpy's global stream goes on as if nothing had been drawn."""
    np.random.seed(1)
    expected = np.random.rand(3)
    np.random.seed(1)
    first = plots.beeswarm(report.explanations())
    assert (np.random.rand(3) == expected).all()
    second = plots.beeswarm(report.explanations())
    for one, other in zip(first.collections, second.collections, strict=True):
        assert np.array_equal(one.get_offsets(), other.get_offsets())


def test_beeswarm_of_factors_without_values_warns_of_nothing(report: DifficultyReport) -> None:
    """A factor that does not apply is drawn grey and without numpy's warnings."""
    explanations = report.explanations()
    assert explanations.values["noise"].isna().all()
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        plots.beeswarm(explanations)


def test_family_importance_is_the_mean_absolute_shift(report: DifficultyReport) -> None:
    """Bar by bar, the largest at the top."""
    explanations = report.explanations()
    expected = explanations.by_family.abs().mean().sort_values(ascending=False)
    ax = plots.family_importance(explanations)
    assert [bar.get_width() for bar in ax.patches] == pytest.approx(expected.to_list())
    assert [text.get_text() for text in ax.get_yticklabels()] == list(expected.index)


def test_histogram_counts_every_forecast_once_by_tier(report: DifficultyReport) -> None:
    """Bar areas by colour are the tiers' counts, of one objective only."""
    table = report.table
    ax = plots.difficulty_histogram(table, "retrain")
    counts = table[table["objective"] == "retrain"]["tier"].value_counts()
    drawn = dict.fromkeys(plots.TIER_COLOURS, 0.0)
    for bar in ax.patches:
        tier = next(t for t, colour in plots.TIER_COLOURS.items() if bar.get_facecolor() == to_rgba(colour))
        drawn[tier] += bar.get_height()
    assert {tier: count for tier, count in drawn.items() if count} == counts.to_dict()
    assert ax.get_ylim()[1] > max(bar.get_y() + bar.get_height() for bar in ax.patches)
    left, right = ax.patches[0].get_x(), max(bar.get_x() + bar.get_width() for bar in ax.patches)
    own = table[table["objective"] == "retrain"]["difficulty"]
    assert left <= own.min()
    assert right >= own.max() - 0.05


# -- against measurements -------------------------------------------------------------------------------------


def test_scatter_points_are_the_data_and_the_title_their_agreement(report: DifficultyReport) -> None:
    """Points are (predicted, measured) of one objective; the title has their Spearman rho."""
    frame = _measured(report)
    rows = frame[frame["objective"] == "erase"]
    ax = plots.measured_scatter(frame, "erase")
    dots = [np.asarray(c.get_offsets()) for c in ax.collections if len(np.asarray(c.get_offsets())) == len(rows)]
    assert any(np.allclose(xy, rows[["percentile", "percentile_measured"]]) for xy in dots)
    rho = stats.spearmanr(rows["percentile"], rows["percentile_measured"]).statistic
    assert f"ρ = {rho:.2f} [" in ax.get_title(loc="left")
    assert f"n = {len(rows)}" in ax.get_title(loc="left")


def test_scatter_can_show_difficulty_and_its_intervals(report: DifficultyReport) -> None:
    """The absolute value has its own columns and its own bounds."""
    frame = _measured(report)
    rows = frame[frame["objective"] == "retrain"]
    ax = plots.measured_scatter(frame, "retrain", "difficulty", "difficulty_measured")
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("predicted difficulty", "measured difficulty")
    spans = [tuple(path.vertices[:, 0]) for c in ax.collections for path in c.get_paths() if len(path.vertices) == 2]
    assert np.allclose(sorted(spans), sorted(zip(rows["lower"], rows["upper"], strict=True)))


def test_scatter_names_a_missing_column(report: DifficultyReport) -> None:
    """A table without measurements is told what it lacks."""
    with pytest.raises(InputError, match="percentile_measured"):
        plots.measured_scatter(report.table, "retrain")


def test_evaluation_bars_are_the_frame() -> None:
    """Bars are rho, intervals low to high, diamonds the baseline; NaN draws nothing."""
    frame = _evaluation()
    ax = plots.evaluation_bars(frame)
    assert [bar.get_width() for bar in ax.patches] == [0.8, 0.6, 0.0]
    segments = [path.vertices for c in ax.collections for path in c.get_paths() if len(path.vertices) == 2]
    across = [tuple(s[:, 0]) for s in segments if s[0, 0] < s[1, 0]]
    assert across == [(0.7, 0.9), (0.5, 0.7)]
    upright = [s[0, 0] for s in segments if s[0, 0] == s[1, 0] and s[0, 1] != s[1, 1]]
    assert upright == [0.95]
    diamonds = next(c for c in ax.collections if c.get_label() == "best single factor")
    assert np.asarray(diamonds.get_offsets())[:, 0].tolist() == frame["baseline"].tolist()
    assert [text.get_text() for text in ax.get_yticklabels()] == ["digits-mlp", r"a \$x\$ name", "unknown"]
    assert ax.get_xlim()[0] < -0.2


def test_evaluation_bars_name_a_missing_column() -> None:
    """The message lists what is expected and what is missing."""
    with pytest.raises(InputError, match=r"missing: low, ceiling"):
        plots.evaluation_bars(_evaluation().drop(columns=["low", "ceiling"]))


def _correlations() -> pd.DataFrame:
    """Three factors on two targets; one does not apply to the second."""
    rows = [
        ("one", "margin", "confidence", 0.2, 0.1, 0.3),
        ("one", "stein_mean", "stein", -0.9, -0.95, -0.8),
        ("one", "expansion", "rehearsal", 0.5, 0.4, 0.6),
        ("two", "margin", "confidence", 0.3, 0.2, 0.4),
        ("two", "stein_mean", "stein", -0.7, -0.8, -0.6),
        ("two", "expansion", "rehearsal", np.nan, np.nan, np.nan),
    ]
    return pd.DataFrame(rows, columns=["target", "factor", "family", "rho", "low", "high"])


def test_factors_are_sorted_by_the_strength_of_their_mean() -> None:
    """Sign does not matter for the order; a mark per target at rho, a line from low to high, none for NaN."""
    ax = plots.factor_correlations(_correlations())
    names = [text.get_text() for text in ax.get_yticklabels()]
    assert names == ["stein mean  (stein)", "expansion  (rehearsal)", "margin  (confidence)"]
    marks = {c.get_label(): np.asarray(c.get_offsets()) for c in ax.collections if not c.get_label().startswith("_")}
    assert sorted(marks["one"][:, 0]) == [-0.9, 0.2, 0.5]
    assert sorted(marks["two"][:, 0]) == [-0.7, 0.3]
    assert marks["one"][marks["one"][:, 0] == -0.9][0, 1].round() == 0
    spans = [tuple(path.vertices[:, 0]) for c in ax.collections for path in c.get_paths() if len(path.vertices) == 2]
    assert sorted(spans) == sorted(zip(*(_correlations().dropna()[k] for k in ("low", "high")), strict=True))


def test_factor_correlations_name_a_missing_column() -> None:
    """The message lists what is expected and what is missing."""
    with pytest.raises(InputError, match=r"missing: family, high"):
        plots.factor_correlations(_correlations().drop(columns=["family", "high"]))


# -- nothing to draw ------------------------------------------------------------------------------------------


def test_empty_results_say_so_instead_of_failing(report: DifficultyReport) -> None:
    """No rows, or only NaN: the axes carry one sentence."""
    empty = dataclasses.replace(report, table=report.table.iloc[:0])
    nothing = report.explanations()
    nothing = dataclasses.replace(
        nothing,
        indices=nothing.indices[:0],
        contributions=nothing.contributions.iloc[:0],
        values=nothing.values.iloc[:0],
        by_family=nothing.by_family.iloc[:0],
    )
    unknown = report.table.assign(difficulty=np.nan, percentile_measured=np.nan)
    for ax in (
        plots.beeswarm(nothing),
        plots.family_importance(nothing),
        plots.difficulty_histogram(empty.table, "retrain"),
        plots.difficulty_histogram(unknown, "retrain"),
        plots.measured_scatter(unknown, "retrain"),
        plots.evaluation_bars(_evaluation().iloc[:0]),
    ):
        assert [text.get_text() for text in ax.texts] != []
        assert not ax.patches


def test_one_sample_is_enough_for_every_picture() -> None:
    """A report on a single sample can be drawn."""
    report = sample_report(indices=[4])
    for name in PLOTS:
        if name != "measured_scatter":
            ax = PLOTS[name](report, None) if "waterfall" not in name else plots.waterfall(report.explain(4))
            assert ax.has_data()
    one = report.table.assign(percentile_measured=0.5)
    assert "not defined (n = 1)" in plots.measured_scatter(one, "retrain").get_title(loc="left")


# -- dependence ---------------------------------------------------------------------------------------------


def test_dependence_shows_shap_value_against_value(report: DifficultyReport) -> None:
    """One dot per sample, coloured by the SHAP sum of the strongest family that the factor is not in."""
    explanations = report.explanations("erase")
    dots = plots.dependence(explanations, "loss").collections[0]
    points = np.column_stack([explanations.values["loss"], explanations.contributions["loss"]])
    np.testing.assert_allclose(np.asarray(dots.get_offsets()), points)
    others = explanations.by_family.drop(columns="confidence")
    strongest = others.abs().mean().idxmax()
    np.testing.assert_allclose(np.asarray(dots.get_array()), others[strongest])
    bar = dots.colorbar
    assert bar is not None
    assert str(strongest) in bar.ax.get_ylabel()


def test_dependence_takes_a_second_factor(report: DifficultyReport) -> None:
    """Then the colour is that factor's value, named by its title."""
    explanations = report.explanations()
    ax = plots.dependence(explanations, "loss", colour_by="margin", titles={"margin": "How sure. Shape."})
    dots = ax.collections[0]
    np.testing.assert_allclose(np.asarray(dots.get_array()), explanations.values["margin"])
    assert dots.colorbar is not None
    assert dots.colorbar.ax.get_ylabel() == "How sure"


def test_dependence_of_wide_values_is_logarithmic(report: DifficultyReport) -> None:
    """Over more than two powers of ten; a factor that does not apply says so; unknown names are listed."""
    explanations = report.explanations()
    wide = explanations.values.assign(loss=np.geomspace(1e-3, 1e4, len(explanations.values)))
    assert plots.dependence(dataclasses.replace(explanations, values=wide), "loss").get_xscale() == "log"
    assert plots.dependence(explanations, "loss").get_xscale() == "linear"
    assert "does not apply" in plots.dependence(explanations, "noise").texts[0].get_text()
    with pytest.raises(UnknownNameError, match="unknown factor 'los'"):
        plots.dependence(explanations, "los")
    with pytest.raises(UnknownNameError, match="factor or family 'weather'"):
        plots.dependence(explanations, "loss", colour_by="weather")


# -- movers -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [(), (3,)])
def test_movers_are_shown_after_the_sample_with_their_captions(channels: tuple[int, ...]) -> None:
    """Every picture once, in order, its values stretched from black to white; number, label and signed change below."""
    movers, images = _movers(7), _images(8, channels)
    ax = plots.mover_pictures(images, movers, 17, 3)
    shown = [np.asarray(picture.get_array()) for picture in ax.images]
    low, high = (f(images, axis=(0, 1, 2), keepdims=True) for f in (np.min, np.max))
    np.testing.assert_allclose(shown, (images - low) / (high - low))
    captions = [text.get_text() for text in ax.texts]
    assert captions[0] == "sample 17\nlabel 3"
    for caption, row in zip(captions[1:], movers.rename(columns={"index": "number"}).itertuples(), strict=True):
        number, change = caption.split("\n")
        assert number == f"{row.number}, label {row.label}"
        assert float(change.replace("−", "-")) == pytest.approx(row.change, abs=1e-3)


def test_one_picture_per_mover_or_none() -> None:
    """The message says how many and of which shape; a sample without movers is shown alone; flat pictures are black."""
    with pytest.raises(InputError, match="expected 3, the sample's and one per mover; got 5"):
        plots.mover_pictures(_images(5), _movers(2), 0, 1)
    with pytest.raises(InputError, match=r"got \(3, 6, 5, 4\)"):
        plots.mover_pictures(_images(3, (4,)), _movers(2), 0, 1)
    alone = plots.mover_pictures(np.ones((1, 4, 4)), _movers(0), 0, 1)
    assert len(alone.images) == 1
    assert not np.asarray(alone.images[0].get_array()).any()


def test_waterfall_of_another_head_is_on_its_scale(report: DifficultyReport) -> None:
    """Log-odds are not clipped, named on the axis, and what makes a sample trivial is drawn as easier."""
    explanation = report.explain(7, "retrain", head="trivial")
    ax = plots.waterfall(explanation, max_reasons=20)
    assert "log-odds of being trivial" in ax.get_xlabel()
    assert ax.get_title(loc="left").endswith(f"→ {explanation.prediction:.2f}")
    for bar in ax.patches:
        assert bar.get_facecolor() == to_rgba(plots.HARDER if bar.get_width() < 0 else plots.EASIER)
