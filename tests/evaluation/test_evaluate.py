"""The evaluation finds what is there, nothing where nothing is, and lets no held-out group leak into its own score."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import kendalltau, pearsonr, rankdata, spearmanr
from sklearn.metrics import roc_auc_score

from forgetcast.corpus.corpus import Corpus
from forgetcast.errors import InputError, PathError, SchemaError, UnknownNameError
from forgetcast.evaluation.baselines import ridge, single_columns, single_factors
from forgetcast.evaluation.evaluate import Evaluation, evaluate
from forgetcast.evaluation.fit_settings import FitSettings
from forgetcast.evaluation.holdout import leave_one_group_out
from forgetcast.evaluation.learning_curve import few_samples_curve, targets_curve
from forgetcast.evaluation.page import page
from forgetcast.evaluation.scores import (
    auc,
    bootstrap_rho,
    concordance,
    partial_rho,
    tie_ceiling,
    top_recall,
    within_target_rho,
)
from forgetcast.predictor.predictor import DifficultyPredictor
from synthetic import FEATURES, UNLEARNERS, corpus, training_table

pytestmark = pytest.mark.slow

QUICK = {"num_boost_round": 50, "learning_rate": 0.12}


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    """Six synthetic targets of three datasets and two architectures."""
    return training_table()


@pytest.fixture(scope="module")
def measured() -> Corpus:
    """A small corpus with two runs of three unlearners."""
    return corpus(4, 60)


@pytest.fixture(scope="module")
def evaluation(measured: Corpus) -> Evaluation:
    """Everything, on the small corpus."""
    return evaluate(measured, unlearners=UNLEARNERS, params=QUICK, resamples=200)


def rho_of(evaluation: Evaluation, method: str, objective: str = "retrain", subset: str = "all") -> float:
    """Mean rho over left-out targets."""
    rows = evaluation.summary.query("group == 'target' and objective == @objective and subset == @subset")
    return rows.set_index("method").loc[method, "rho"].item()


# -- held-out forecasts -----------------------------------------------------------------------------------


@pytest.mark.parametrize("group", ["target", "architecture", "dataset"])
def test_a_shared_relation_is_found_on_groups_never_seen(table: pd.DataFrame, group: str) -> None:
    """Held-out forecasts order every left-out target."""
    out = leave_one_group_out(table, FEATURES, group, params=QUICK)  # type: ignore[arg-type]
    assert len(out) == 2 * len(table)
    for _, rows in out.groupby(["objective", "target"]):
        assert spearmanr(rows["percentile"], rows["percentile_measured"]).statistic > 0.75
        assert (rows["group"] == table.loc[table["target"] == rows["target"].iloc[0], group].iloc[0]).all()


@pytest.mark.parametrize("group", ["target", "dataset"])
def test_the_labels_of_a_held_out_group_do_not_reach_its_forecast(table: pd.DataFrame, group: str) -> None:
    """Reversing them changes neither its forecasts nor its intervals, and does change those of the others."""
    own = (table[group] == table[group].iloc[0]).to_numpy()
    columns = ["percentile_retrain", "difficulty_retrain"]
    changed = table.copy()
    changed.loc[own, columns] = 1 - table.loc[own, columns]
    changed.loc[own, "trivial_retrain"] = ~table.loc[own, "trivial_retrain"]
    forecasts = ["difficulty", "lower", "upper", "percentile", "percentile_lower", "percentile_upper", "p_trivial"]
    before, after = (
        leave_one_group_out(frame, FEATURES, group, params=QUICK).query("objective == 'retrain'")[forecasts]  # type: ignore[arg-type]
        for frame in (table, changed)
    )
    pd.testing.assert_frame_equal(before[own], after[own], check_exact=True)
    assert (before[~own]["percentile"] != after[~own]["percentile"]).mean() > 0.9


def test_held_out_intervals_cover_about_as_often_as_they_say() -> None:
    """Nine tenths of the measured values lie inside 90 % intervals, half inside 50 %."""
    noisy = training_table(8, 60, seed=3, noise=0.2)
    for level in (0.9, 0.5):
        out = leave_one_group_out(noisy, FEATURES, params=QUICK, level=level)
        for _, rows in out.groupby("objective"):
            inside = rows["percentile_measured"].between(rows["percentile_lower"], rows["percentile_upper"]).mean()
            assert abs(inside - level) < 0.05
            inside = rows["difficulty_measured"].between(rows["lower"], rows["upper"]).mean()
            assert abs(inside - level) < 0.05


def test_two_targets_are_enough_to_leave_one_out() -> None:
    """With one target left to fit to, its rows give the intervals, without the other's labels."""
    table = training_table(2, 60)
    out = leave_one_group_out(table, FEATURES, params=QUICK)
    for _, rows in out.groupby(["objective", "target"]):
        assert rows["percentile_measured"].between(rows["percentile_lower"], rows["percentile_upper"]).mean() > 0.7
        assert (rows["percentile_upper"] - rows["percentile_lower"]).mean() < 0.9


def test_held_out_intervals_are_those_of_a_predictor_fitted_to_the_rest(table: pd.DataFrame) -> None:
    """Forecast and bounds equal what ``DifficultyPredictor.fit`` on the other targets gives, bit for bit."""
    rest = table[table["target"] != "target 2"]
    own = table[table["target"] == "target 2"]
    fitted = DifficultyPredictor.fit(rest, FEATURES, params=QUICK)
    out = leave_one_group_out(table, FEATURES, params=QUICK)
    for objective in ("retrain", "erase"):
        expected = fitted.predict(own[FEATURES].reset_index(drop=True), objective)
        rows = out.query("objective == @objective and target == 'target 2'").reset_index(drop=True)
        pd.testing.assert_frame_equal(rows[list(expected.columns)], expected, check_exact=True)


def test_one_group_alone_cannot_be_left_out(table: pd.DataFrame) -> None:
    """The message says what is missing."""
    with pytest.raises(InputError, match="at least two"):
        leave_one_group_out(table.assign(dataset="same"), FEATURES, "dataset")
    with pytest.raises(SchemaError, match="age"):
        leave_one_group_out(table, [*FEATURES, "age"])


# -- scores -----------------------------------------------------------------------------------------------


def test_within_target_rho_is_spearmans_by_target() -> None:
    """Each entry equals scipy's value; no order gives 0, too few rows and constant labels give NaN."""
    rng = np.random.default_rng(0)
    targets = np.repeat(np.array(["a", "b", "c", "d"], dtype=object), [30, 20, 5, 10])
    scores = rng.integers(0, 6, size=(65, 3)).astype(float)
    scores[targets == "b", 1] = 7
    measured = rng.integers(0, 9, size=65).astype(float)
    measured[targets == "d"] = 1
    rho = within_target_rho(scores, measured, targets, ["a", "b", "c", "d"])
    for row, name in enumerate("ab"):
        at = targets == name
        for k in range(3):
            if (row, k) != (1, 1):
                assert rho[row, k] == pytest.approx(spearmanr(scores[at, k], measured[at]).statistic)
    assert rho[1, 1] == 0
    assert np.isnan(rho[2:]).all()


def test_a_missing_score_takes_the_middle() -> None:
    """A factor that does not apply to a target orders nothing there; a single gap is the median."""
    targets = np.array(["a"] * 10, dtype=object)
    y = np.arange(10.0)
    scores = np.column_stack([np.full(10, np.nan), np.where(y == 4, np.nan, y)])
    rho = within_target_rho(scores, y, targets, ["a"])
    assert rho[0, 0] == 0
    assert rho[0, 1] == pytest.approx(spearmanr(np.where(y == 4, 5, y), y).statistic)


def test_bootstrap_intervals_hold_the_true_correlation_as_often_as_they_say() -> None:
    """Over 60 repetitions, 95 % intervals of two targets' mean rho miss rarely but not wildly rarely."""
    truth, hits = 6 / np.pi * np.arcsin(0.7 / 2), 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        x = rng.normal(size=120)
        y = 0.7 * x + np.sqrt(1 - 0.7**2) * rng.normal(size=120)
        targets = np.repeat(np.array(["a", "b"], dtype=object), 60)
        interval = bootstrap_rho({"x": x}, y, targets, resamples=300, seed=seed).mean("x")
        hits += interval["low"] <= truth <= interval["high"]
    assert 51 <= hits <= 60


def test_paired_differences_are_sharper_than_the_intervals_suggest() -> None:
    """Two nearly equal methods differ by little, with an interval far narrower than either's own."""
    rng = np.random.default_rng(1)
    y = rng.normal(size=200)
    a = y + rng.normal(size=200)
    targets = np.repeat(np.array(["a", "b"], dtype=object), 100)
    boot = bootstrap_rho({"a": a, "same": a.copy(), "worse": a + 0.1 * rng.normal(size=200)}, y, targets)
    same = boot.mean("a", "same")
    assert same["rho"] == same["low"] == same["high"] == 0
    own, difference = boot.mean("a"), boot.mean("a", "worse")
    assert difference["high"] - difference["low"] < (own["high"] - own["low"]) / 2
    assert own["low"] < own["rho"] < own["high"]


def test_redrawing_targets_widens_the_interval_when_targets_differ() -> None:
    """One target with order and one without: what is known about targets like these is little."""
    rng = np.random.default_rng(2)
    y = rng.normal(size=300)
    x = np.r_[y[:150], rng.normal(size=150)]
    boot = bootstrap_rho({"x": x}, y, np.repeat(np.array(["a", "b"], dtype=object), 150))
    values = boot.mean("x")
    assert values["high_targets"] - values["low_targets"] > 3 * (values["high"] - values["low"])
    assert boot.worst("x") == ("b", pytest.approx(spearmanr(x[150:], y[150:]).statistic))


def test_partial_rho_is_that_of_residual_ranks() -> None:
    """Equal to the textbook formula from three correlations, and 0 for what the third variable explains."""
    rng = np.random.default_rng(0)
    z = rng.normal(size=80)
    x, y = z + rng.normal(size=80), z + rng.normal(size=80)
    r = {
        pair: pearsonr(rankdata(a), rankdata(b)).statistic for pair, a, b in (("xy", x, y), ("xz", x, z), ("yz", y, z))
    }
    expected = (r["xy"] - r["xz"] * r["yz"]) / np.sqrt((1 - r["xz"] ** 2) * (1 - r["yz"] ** 2))
    assert partial_rho(x, y, z) == pytest.approx(expected)
    assert partial_rho(3 * z, y, z) == 0
    assert np.isnan(partial_rho(x, z, z))


def test_top_recall_counts_and_shares_ties() -> None:
    """All, none, and the expected share under ties."""
    y = np.arange(100.0)
    assert top_recall(y, y) == 1
    assert top_recall(-y, y) == 0
    assert top_recall(np.zeros(100), y) == pytest.approx(0.1)
    rng = np.random.default_rng(0)
    tied = np.round(y / 30)
    shuffled = [top_recall(tied + 1e-6 * rng.random(100), y) for _ in range(4000)]
    assert top_recall(tied, y) == pytest.approx(np.mean(shuffled), abs=0.01)


def test_concordance_asks_nothing_of_ties() -> None:
    """All pairs right is 1, all wrong 0, no order 1/2; tied measurements do not count."""
    measured = np.array([0.0, 0, 0, 0.2, 0.5])
    assert concordance(np.array([3.0, 1, 2, 4, 5]), measured) == 1
    assert concordance(-measured, measured) == 0
    assert concordance(np.zeros(5), measured) == 0.5
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=40), rng.normal(size=40)
    assert concordance(x, y) == pytest.approx((1 + kendalltau(x, y).statistic) / 2)
    assert np.isnan(concordance(x, np.ones(40)))


def test_the_tie_ceiling_is_what_random_order_among_ties_leaves() -> None:
    """Equal to the mean rho of forecasts that are perfect but for random order among tied samples."""
    rng = np.random.default_rng(0)
    measured = np.maximum(np.arange(60) - 40, 0).astype(float)
    rhos = [spearmanr(measured + 0.01 * rng.random(60), measured).statistic for _ in range(50)]
    assert np.std(rhos) < 1e-12
    assert tie_ceiling(measured) == pytest.approx(rhos[0])


def test_auc_needs_both_classes() -> None:
    """The usual area where there are a few of each, NaN elsewhere."""
    rng = np.random.default_rng(0)
    score, positive = rng.normal(size=50), rng.random(50) < 0.3
    assert auc(score, positive) == roc_auc_score(positive, score)
    assert np.isnan(auc(score, np.zeros(50)))


# -- baselines --------------------------------------------------------------------------------------------


def test_the_best_single_factor_is_chosen_without_the_target_it_is_scored_on(table: pd.DataFrame) -> None:
    """A column that orders one target perfectly, and the others against it, is not chosen for that target."""
    rigged = table.copy()
    own = (rigged["target"] == "target 0").to_numpy()
    signal = rigged["percentile_retrain"]
    rigged["oracle"] = np.where(own, signal, -signal)
    groups = rigged["target"].to_numpy(dtype=object)
    scores, frame, chosen = single_factors(rigged, ["oracle", "loss"], "percentile_retrain", groups)
    assert chosen["target 0"] == "-oracle"
    rho = within_target_rho(scores["best single factor"][:, None], signal.to_numpy(), groups, ["target 0"])
    assert rho.item() == pytest.approx(-1)
    assert frame.set_index("factor").loc["oracle", "worst"] == pytest.approx(-1)


def test_hindsight_is_never_worse_than_the_honest_choice(table: pd.DataFrame) -> None:
    """The factor chosen with the scored rows bounds the one chosen without them."""
    columns = single_columns(table, FEATURES)
    groups = table["target"].to_numpy(dtype=object)
    scores, frame, _ = single_factors(table, columns, "percentile_erase", groups)
    names = list(dict.fromkeys(groups))
    measured = table["percentile_erase"].to_numpy()
    best, hindsight = (
        within_target_rho(scores[name][:, None], measured, groups, names).mean()
        for name in ("best single factor", "best factor in hindsight")
    )
    assert hindsight >= best > 0.8
    assert (frame["hindsight"] >= frame["rho"] - 1e-12).all()


def test_single_columns_leave_out_repetitions_and_constants(table: pd.DataFrame) -> None:
    """No quantile beside its factor, no context; a quantile on its own stays."""
    assert single_columns(table, FEATURES) == ["loss", "margin", "neighbour_share", "noise"]
    assert single_columns(table, ["loss_quantile", "train_accuracy"]) == ["loss_quantile"]


def test_the_linear_rival_learns_a_linear_relation_and_bears_missing_columns(table: pd.DataFrame) -> None:
    """It orders unseen targets, with a column that is missing on some and one that is missing on all."""
    gaps = table.assign(noise=np.nan, margin=table["margin"].where(table["target"] != "target 1"))
    groups = table["target"].to_numpy(dtype=object)
    score = ridge(gaps, FEATURES, "percentile_retrain", groups)
    names = list(dict.fromkeys(groups))
    rho = within_target_rho(score[:, None], table["percentile_retrain"].to_numpy(), groups, names)
    assert rho.min() > 0.8


# -- the whole --------------------------------------------------------------------------------------------


def test_what_can_be_forecast_is_and_beats_single_factors(evaluation: Evaluation) -> None:
    """High correlation, above any single factor, for both objectives."""
    for objective in ("retrain", "erase"):
        assert rho_of(evaluation, "forecast", objective) > 0.85
        assert rho_of(evaluation, "forecast", objective) > rho_of(evaluation, "best single factor", objective)
        row = evaluation.differences.query(
            "group == 'target' and objective == @objective and subset == 'all' and against == 'best single factor'"
        )
        difference = rho_of(evaluation, "forecast", objective) - rho_of(evaluation, "best single factor", objective)
        assert row["rho"].item() == pytest.approx(difference)


def test_shuffled_factors_forecast_nothing(measured: Corpus) -> None:
    """With factors moved between samples, rho is near 0 for the forecast and for every rival that forecasts."""
    rng = np.random.default_rng(0)
    factors = measured.factors.copy()
    factors[FEATURES] = factors[FEATURES].to_numpy()[rng.permutation(len(factors))]
    shuffled = Corpus(measured.outcomes, measured.instances, factors, measured.manifest)
    result = evaluate(shuffled, unlearners=UNLEARNERS, params=QUICK, resamples=50, groups=("target",), extras=False)
    for method in ("forecast", "ridge", "best single factor"):
        assert abs(rho_of(result, method)) < 0.2
    assert rho_of(result, "memorization") > 0.4
    partial = result.metrics.query("objective == 'retrain' and metric.str.startswith('partial')")["value"].item()
    assert abs(partial) < 0.2


def test_every_question_has_its_table(evaluation: Evaluation) -> None:
    """Groups, subsets, methods and metrics are all there, in their ranges."""
    summary = evaluation.summary
    assert set(summary["group"]) == {"target", "architecture", "dataset"}
    assert set(summary.query("objective == 'retrain'")["subset"]) == {"all", "not trivial"}
    assert set(summary.query("objective == 'erase'")["subset"]) == {"all"}
    assert set(summary["method"]) == {
        "forecast",
        "ridge",
        "best single factor",
        "best factor in hindsight",
        "memorization",
        "distance to the goal",
    }
    assert set(summary.query("method == 'distance to the goal'")["objective"]) == {"retrain"}
    assert (summary["low"] <= summary["rho"] + 0.02).all()
    assert (summary["rho"] <= summary["high"] + 0.02).all()
    assert (summary["worst"] <= summary["rho"] + 1e-12).all()
    own = evaluation.per_target.query("group == 'target'")
    assert len(own) == 8
    assert own[["coverage", "recall", "rho", "ceiling", "baseline"]].notna().all(axis=None)
    assert set(evaluation.ceilings["kind"]) == {"seeds", "unlearners", "oracle", "ties"}
    np.testing.assert_allclose(
        evaluation.ceilings["share"], evaluation.ceilings["rho"] / evaluation.ceilings["ceiling"]
    )
    assert set(evaluation.learning["kind"]) == {"targets"}
    assert set(evaluation.unlearners["unlearner"]) == set(UNLEARNERS)
    assert evaluation.headline()["retrain"]["targets"] == 4


def test_ceilings_are_roots_of_reliability(evaluation: Evaluation, measured: Corpus) -> None:
    """The per-target ceiling is the lowest root over kinds of label noise, without the oracle's."""
    from forgetcast.corpus.labels import reliability

    frame = reliability(measured.outcomes, measured.instances, "erase", UNLEARNERS)
    lowest = frame[frame["kind"] != "oracle"].groupby("target")["reliability"].min() ** 0.5
    own = evaluation.per_target.query("group == 'target' and objective == 'erase'").set_index("target")["ceiling"]
    pd.testing.assert_series_equal(own, lowest.reindex(own.index), check_names=False)


def test_calibration_compares_weighted_means(evaluation: Evaluation) -> None:
    """Each decile's means are those of its rows, by weight."""
    rows = evaluation.predictions.query("held_out == 'target' and objective == 'erase'").sort_values(
        "difficulty", kind="stable"
    )
    top = rows.tail(24)
    record = evaluation.calibration.query("group == 'target' and objective == 'erase' and decile == 10")
    assert record["rows"].item() == 24
    expected = np.average(top["difficulty_measured"], weights=top["weight"])
    assert record["measured"].item() == pytest.approx(expected)


def test_tuned_targets_are_fitted_to_and_not_scored(measured: Corpus) -> None:
    """They are absent from every score while the others' forecasts stay the same."""
    plain, tuned = (
        evaluate(
            measured,
            unlearners=UNLEARNERS,
            params=QUICK,
            resamples=20,
            groups=("target",),
            extras=False,
            tuned_on=names,
        )
        for names in ((), ("target 1",))
    )
    assert "target 1" not in set(tuned.per_target["target"])
    assert set(tuned.summary["targets"]) == {3}
    pd.testing.assert_frame_equal(plain.predictions, tuned.predictions, check_exact=True)
    expected = plain.per_target.query("target != 'target 1' and objective == 'erase'")["rho"].mean()
    assert rho_of(tuned, "forecast", "erase") == pytest.approx(expected)
    with pytest.raises(UnknownNameError, match="target 9"):
        evaluate(measured, unlearners=UNLEARNERS, tuned_on=["target 9"])
    with pytest.raises(InputError, match="not tuned on"):
        evaluate(measured, unlearners=UNLEARNERS, tuned_on=[f"target {k}" for k in range(4)])


def test_a_kind_of_group_that_does_not_vary_is_noted(measured: Corpus) -> None:
    """One architecture cannot be left out; the rest is evaluated."""
    targets = [{**target, "architecture": "net"} for target in measured.manifest["targets"]]
    same = Corpus(measured.outcomes, measured.instances, measured.factors, {**measured.manifest, "targets": targets})
    result = evaluate(
        same,
        unlearners=UNLEARNERS,
        params=QUICK,
        resamples=20,
        groups=("target", "architecture"),
        extras=False,
    )
    assert set(result.summary["group"]) == {"target"}
    assert result.settings["notes"] == ["only one architecture: none could be left out"]


def test_writing_gives_tables_a_page_and_pictures(evaluation: Evaluation, tmp_path: Path) -> None:
    """JSON without NaN, a CSV for every table, Markdown that shows the pictures, nothing half-written."""
    folder = evaluation.write(tmp_path / "deep" / "evaluation")
    record = json.loads((folder / "evaluation.json").read_text(), parse_constant=pytest.fail)
    assert record["settings"]["targets"] == 4
    assert len(record["summary"]) == len(evaluation.summary)
    pd.testing.assert_frame_equal(pd.read_csv(folder / "per_target.csv"), evaluation.per_target)
    text = (folder / "evaluation.md").read_text()
    for picture in folder.glob("*.png"):
        assert f"({picture.name})" in text
        assert picture.read_bytes().startswith(b"\x89PNG")
    assert len(list(folder.glob("*.png"))) == 4
    assert f"{rho_of(evaluation, 'forecast'):.2f} [" in text
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]
    with pytest.raises(PathError, match="cannot be written"):
        evaluation.write(folder / "evaluation.md")


def test_the_page_tells_bounds_from_forecasts(evaluation: Evaluation) -> None:
    """Rivals that use measurements are marked, and every table has as many cells as headings."""
    text = page(vars(evaluation), evaluation.settings)
    assert "memorization (not known beforehand)" in text
    assert "best factor in hindsight (not known beforehand)" in text
    assert "forecast (not known" not in text
    for block in text.split("\n\n"):
        lines = [line for line in block.splitlines() if line.startswith("|")]
        assert len({line.count("|") for line in lines}) <= 1
    assert "nan" not in text.lower().replace("dominan", "")


def test_the_same_seed_gives_the_same_numbers(evaluation: Evaluation, measured: Corpus) -> None:
    """Resampling and fits are deterministic, whatever the number of threads."""
    again = evaluate(
        measured, unlearners=UNLEARNERS, params=QUICK, resamples=200, groups=("target",), extras=False, n_jobs=1
    )
    rows = evaluation.summary.query("group == 'target'").reset_index(drop=True)
    pd.testing.assert_frame_equal(again.summary, rows, check_exact=True)


# -- learning --------------------------------------------------------------------------------------------


def test_more_targets_help_when_targets_differ() -> None:
    """With noisy targets of 30 rows the curve rises from one target to all."""
    curve = targets_curve(training_table(8, 30, seed=1, noise=0.2), FitSettings(FEATURES, QUICK))
    rows = curve.query("objective == 'retrain'").set_index("size")
    assert rows.index.tolist() == [1, 2, 4, 7]
    assert rows.loc[7, "rho"] > rows.loc[1, "rho"] + 0.02


def test_a_few_samples_of_an_odd_target_help() -> None:
    """Where the target's relation runs against all others, its own samples turn the forecast."""
    table = training_table(3, 90)
    odd = table["target"] == "target 0"
    table.loc[odd, "percentile_retrain"] = 1 - table.loc[odd, "percentile_retrain"]
    curve = few_samples_curve(table, FitSettings(FEATURES, {**QUICK, "min_data_in_leaf": 5}), sizes=(0, 40))
    rows = curve.query("objective == 'retrain'").set_index("size")
    assert rows.loc[40, "low"] > rows.loc[0, "low"] + 0.2
    assert few_samples_curve(table, FitSettings(FEATURES, QUICK), sizes=(0, 60)).empty
