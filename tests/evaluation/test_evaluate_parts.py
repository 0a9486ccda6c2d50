"""Evaluation of the parts of an outcome, of named unlearners, named rivals, and of many targets at once."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from forgetcast.corpus.corpus import Corpus
from forgetcast.evaluation.choice import unlearner_choice
from forgetcast.evaluation.evaluate import Evaluation, evaluate
from forgetcast.evaluation.holdout import _exclusions, leave_one_group_out
from forgetcast.evaluation.page import page
from forgetcast.predictor.intervals import FOLDS
from synthetic import FEATURES, UNLEARNERS, corpus, training_table

QUICK = {"num_boost_round": 40}


@pytest.fixture(scope="module")
def measured() -> Corpus:
    """Four targets with two columns beside those of the forecast: a KSD score and a confidence over training."""
    made = corpus()
    signal = made.instances["memorization"].to_numpy()
    made.factors["stein_mean"] = np.random.default_rng(1).normal(size=len(signal))
    made.factors["training_confidence"] = -signal
    return made


@pytest.fixture(scope="module")
def evaluation(measured: Corpus) -> Evaluation:
    """Of the synthetic corpus, without the two columns among the features."""
    return evaluate(measured, features=FEATURES, unlearners=UNLEARNERS, params=QUICK, resamples=60)


def test_parts_are_graded_within_unseen_targets(evaluation: Evaluation) -> None:
    """For every group, objective and subset; what the corpus did not record has no row."""
    parts = evaluation.parts
    assert set(parts["part"]) == {"collateral_test", "steps"}
    assert set(parts["group"]) == {"target", "architecture", "dataset"}
    assert (parts.query("subset == 'all'")["rho"] > 0.8).all()
    assert (parts["worst"] <= parts["rho"] + 1e-12).all()


def test_scores_of_the_literature_are_rivals_although_the_forecast_never_saw_them(evaluation: Evaluation) -> None:
    """KSD, which is noise here, and averaged confidence, which is not; their signs are learned elsewhere."""
    own = evaluation.summary.query("group == 'target' and objective == 'retrain' and subset == 'all'")
    rho = own.set_index("method")["rho"]
    assert abs(rho["KSD score"]) < 0.35
    assert rho["averaged confidence"] > 0.5
    against = evaluation.differences.query("group == 'target' and objective == 'retrain' and subset == 'all'")
    difference = against.set_index("against")["rho"]["KSD score"]
    assert difference == pytest.approx(rho["forecast"] - rho["KSD score"])


def test_the_gain_over_single_factors_is_counted_target_by_target(evaluation: Evaluation) -> None:
    """Gain and its lower bound per target, and the share of targets where the bound is above 0."""
    own = evaluation.per_target.query("group == 'target' and objective == 'retrain'")
    np.testing.assert_allclose(own["gain"], own["rho"] - own["baseline"])
    assert (own["gain_low"] <= own["gain"] + 0.02).all()
    counted = evaluation.metrics.query("group == 'target' and objective == 'retrain'").set_index("metric")["value"]
    share = counted["share of targets with a gain over the best single factor (95 %)"]
    assert share == pytest.approx((own["gain_low"] > 0).mean())
    assert own["familiarity"].between(0, 1).all()


def test_a_named_unlearner_does_less_harm() -> None:
    """Where samples differ in which unlearner suits them, naming one beats any fixed one, and hindsight bounds both."""
    choice = unlearner_choice(training_table(targets=5, rows=80), FEATURES, params=QUICK).set_index("objective")
    assert set(choice.index) == {"retrain", "erase"}
    for _, row in choice.iterrows():
        assert row["hindsight"] <= row["named"] < row["single_best"]
        assert row["named"] < row["any"]
        assert row["high"] < 0
        assert row["hit"] > 0.8
        assert row["targets"] == 5


def test_without_unlearners_there_is_no_choice() -> None:
    """A table with fewer than two unlearners gives no row."""
    table = training_table(targets=3, rows=20)
    assert unlearner_choice(table.drop(columns=[c for c in table if c.startswith("under_")]), FEATURES).empty


def test_the_page_has_the_new_sections(evaluation: Evaluation) -> None:
    """Parts, and the choice of an unlearner with the name of the best single one."""
    text = page(vars(evaluation), evaluation.settings)
    for heading in ("## Parts of the outcome", "## Naming an unlearner"):
        assert heading in text
    assert f"({evaluation.choice['best'].iloc[0]})" in text


def test_many_targets_give_intervals_by_folds() -> None:
    """Of twenty targets a fit leaves out two eighths, which hold the group and the target whose error is kept."""
    names = [f"t{number}" for number in range(20)]
    sets = _exclusions({name: frozenset([name]) for name in names}, names)
    assert len(set(sets.values())) == FOLDS * (FOLDS - 1) // 2
    for (group, target), left_out in sets.items():
        assert {group, target} <= left_out
        assert len(left_out) <= 6
    assert {target for group, target in sets if group == "t0"} == set(names) - {"t0", "t8", "t16"}
    pair = _exclusions({"ab": frozenset(["t0", "t1"])}, names)
    assert all({"t0", "t1", target} <= left_out for (_, target), left_out in pair.items())
    assert {target for _, target in pair} == set(names[2:])


def test_labels_of_a_group_do_not_reach_its_intervals_through_the_folds() -> None:
    """With more targets than folds, spoiling a target's labels leaves its own forecast and bounds as they were."""
    table = training_table(targets=10, rows=20)
    spoilt = table.copy()
    own = (spoilt["target"] == "target 3").to_numpy()
    spoilt.loc[own, "percentile_retrain"] = spoilt.loc[own, "percentile_retrain"].to_numpy()[::-1]
    spoilt.loc[own, "difficulty_retrain"] = 0.9
    columns = ["percentile", "percentile_lower", "percentile_upper", "difficulty", "lower", "upper"]
    before, after = (
        leave_one_group_out(frame, FEATURES, params={"num_boost_round": 10}).query(
            "target == 'target 3' and objective == 'retrain'"
        )[columns]
        for frame in (table, spoilt)
    )
    pd.testing.assert_frame_equal(before, after)
