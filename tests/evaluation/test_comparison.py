"""Old against new predictor: on targets that neither was fitted to, paired, with a verdict that noise cannot buy."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

from forgetcast.evaluation.comparison import Comparison, compare
from forgetcast.evaluation.fit_settings import FitSettings
from forgetcast.evaluation.holdout import leave_one_group_out
from forgetcast.predictor.predictor import DifficultyPredictor
from synthetic import FEATURES, training_table

QUICK = {"num_boost_round": 40, "learning_rate": 0.12}
STUNTED = {"num_boost_round": 3, "learning_rate": 0.05, "num_leaves": 2}


def named(table: pd.DataFrame, kind: str) -> pd.DataFrame:
    """The same targets under other names."""
    return table.assign(target=kind + " " + table["target"])


OLD_TARGETS = named(training_table(4, 40, seed=1), "old")
NEW_TARGETS = named(training_table(4, 40, seed=2), "new")
BOTH = pd.concat([OLD_TARGETS, NEW_TARGETS], ignore_index=True)


@pytest.fixture(scope="module")
def old() -> DifficultyPredictor:
    """A good predictor, fitted to the old targets."""
    return DifficultyPredictor.fit(OLD_TARGETS, FEATURES, params=QUICK)


@pytest.fixture(scope="module")
def poor() -> DifficultyPredictor:
    """One that learned the wrong way round."""
    labels = {
        f"percentile_{objective}": 1 - OLD_TARGETS[f"percentile_{objective}"] for objective in ("retrain", "erase")
    }
    return DifficultyPredictor.fit(OLD_TARGETS.assign(**labels), FEATURES, params=QUICK)


def test_each_is_scored_on_targets_it_was_not_fitted_to(old: DifficultyPredictor) -> None:
    """The new one's rho is its leave-one-target-out rho, the old one's that of its forecasts."""
    result = compare(old, NEW_TARGETS, FitSettings(FEATURES, QUICK))
    out = leave_one_group_out(NEW_TARGETS, FEATURES, params=QUICK)
    assert len(result.per_target) == 8
    for row in result.per_target.to_dict(orient="records"):
        rows = NEW_TARGETS[NEW_TARGETS["target"] == row["target"]]
        before = old.predict(rows[FEATURES], row["objective"])["percentile"]
        assert row["old"] == pytest.approx(spearmanr(before, rows[f"percentile_{row['objective']}"]).statistic)
        own = out[(out["objective"] == row["objective"]) & (out["target"] == row["target"])]
        assert row["new"] == pytest.approx(spearmanr(own["percentile"], own["percentile_measured"]).statistic)
        assert (row["rows"], row["old_fit"]) == (40, "as saved")
    for row in result.summary.to_dict(orient="records"):
        own = result.per_target[result.per_target["objective"] == row["objective"]]
        assert row["difference"] == pytest.approx((own["new"] - own["old"]).mean())
        assert (row["old"], row["new"]) == (pytest.approx(own["old"].mean()), pytest.approx(own["new"].mean()))
        assert row["low"] <= row["difference"] <= row["high"]


def test_verdicts_follow_the_interval(old: DifficultyPredictor, poor: DifficultyPredictor) -> None:
    """Better than one that is the wrong way round; worse when stunted, for all to read."""
    better = compare(poor, NEW_TARGETS, FitSettings(FEATURES, QUICK), against="poor")
    assert better.summary["verdict"].tolist() == ["better", "better"]
    assert better.better
    assert better.sentences()[0].startswith("for retrain the new predictor is better: +1.")
    worse = compare(old, NEW_TARGETS, FitSettings(FEATURES, STUNTED))
    assert worse.summary["verdict"].tolist() == ["worse", "worse"]
    assert not worse.better


@pytest.mark.parametrize(
    ("verdicts", "undecided", "better"),
    [
        (("better", "better"), (), True),
        (("better", "no worse"), (), True),
        (("better", "unclear"), (), False),
        (("better", "worse"), (), False),
        (("no worse", "no worse"), (), False),
        (("better",), ("erase",), False),
        ((), (), False),
    ],
)
def test_better_needs_one_gain_no_loss_and_every_objective(
    verdicts: tuple[str, ...], undecided: tuple[str, ...], better: bool
) -> None:
    """What is unclear, lost or not compared at all does not replace anything."""
    assert Comparison("old", pd.DataFrame({"verdict": verdicts}), undecided=undecided).better is better


def test_targets_that_the_old_one_saw_are_left_out_where_it_cannot_be_fitted_again(old: DifficultyPredictor) -> None:
    """Part of its targets, or fewer rows of them, would not give its fit: they are named and not compared."""
    part = BOTH[BOTH["target"] != "old target 0"]
    result = compare(old, part, FitSettings(FEATURES, QUICK))
    assert set(result.per_target["target"]) == {f"new target {k}" for k in range(4)}
    assert result.left_out == {f"old target {k}": "old was fitted to it" for k in (1, 2, 3)}
    assert "not compared on old target 1, old target 2, old target 3: old was fitted to it" in result.sentences()
    nothing = compare(old, part[part["target"].str.startswith("old")], FitSettings(FEATURES, QUICK))
    assert nothing.summary.empty
    assert not nothing.better
    assert "for retrain no target is left with enough samples to compare on" in nothing.sentences()


def test_the_old_one_is_fitted_again_without_a_target_where_its_data_are_there(old: DifficultyPredictor) -> None:
    """On its own targets it is scored by leave-one-target-out among them; the same recipe is no better than itself."""
    result = compare(old, BOTH, FitSettings(FEATURES, QUICK))
    assert result.left_out == {}
    out = leave_one_group_out(OLD_TARGETS, FEATURES, params=QUICK).query("objective == 'erase'")
    rows = result.per_target.query("objective == 'erase'").set_index("target")
    assert rows["old_fit"].tolist() == 4 * ["refitted without it"] + 4 * ["as saved"]
    for name, own in out.groupby("target"):
        assert rows.loc[name, "old"] == pytest.approx(
            spearmanr(own["percentile"], own["percentile_measured"]).statistic
        )
    same = compare(old, OLD_TARGETS, FitSettings(FEATURES, QUICK))
    assert same.summary[["difference", "low", "high"]].to_numpy().tolist() == [[0, 0, 0], [0, 0, 0]]
    assert same.summary["verdict"].tolist() == ["no worse", "no worse"]
    assert not same.better


def test_targets_that_parameters_were_chosen_on_are_not_compared(old: DifficultyPredictor) -> None:
    """They serve the fits of the others and appear in no score."""
    plain, tuned = (
        compare(old, NEW_TARGETS, FitSettings(FEATURES, QUICK), tuned_on=names) for names in ((), ["new target 2"])
    )
    assert tuned.left_out == {"new target 2": "parameters were chosen on it"}
    expected = plain.per_target[plain.per_target["target"] != "new target 2"].reset_index(drop=True)
    pd.testing.assert_frame_equal(tuned.per_target, expected)


def test_the_old_one_is_not_favoured_where_its_parameters_were_chosen() -> None:
    """Fitted again, it would be scored on targets that its parameters suit: those are left out."""
    tuning = {"trials": 9, "validated_on": ["old target 1"]}
    tuned = DifficultyPredictor.fit(OLD_TARGETS, FEATURES, params=QUICK, provenance={"tuning": tuning})
    result = compare(tuned, BOTH, FitSettings(FEATURES, QUICK))
    assert result.left_out == {"old target 1": "parameters of old were chosen on it"}
    assert len(result.per_target) == 2 * 7


def test_an_objective_that_a_continuation_leaves_alone_does_not_stand_in_its_way(poor: DifficultyPredictor) -> None:
    """Without labels of ``erase`` its heads stay the same, so there is nothing to lose for it."""
    erase = [f"{name}_erase" for name in ("percentile", "difficulty", "trivial")]
    table = NEW_TARGETS.drop(columns=erase)
    assert compare(poor, table, FitSettings(FEATURES, QUICK), continue_from=poor).better
    other = DifficultyPredictor.fit(OLD_TARGETS, FEATURES, params=STUNTED)
    assert compare(other, table, FitSettings(FEATURES, QUICK), continue_from=poor).undecided == ("erase",)


def test_a_continuation_is_compared_with_what_it_continues(poor: DifficultyPredictor) -> None:
    """Each new target is forecast by a continuation on the other new ones."""
    result = compare(poor, NEW_TARGETS, FitSettings(FEATURES, QUICK), continue_from=poor)
    assert result.better
    row = result.per_target.iloc[0]
    rest, own = (NEW_TARGETS[(NEW_TARGETS["target"] == row["target"]) == held] for held in (False, True))
    fitted = DifficultyPredictor.fit(rest, FEATURES, params=QUICK, continue_from=poor)
    forecast = fitted.predict(own[FEATURES], row["objective"])["percentile"]
    assert row["new"] == pytest.approx(spearmanr(forecast, own[f"percentile_{row['objective']}"]).statistic)


def test_what_cannot_be_compared_says_why(old: DifficultyPredictor) -> None:
    """Missing factors, a single target, too few rows, and an objective that only one of the two has."""
    lacking = compare(
        old, NEW_TARGETS.drop(columns="margin"), FitSettings([name for name in FEATURES if name != "margin"])
    )
    assert lacking.sentences() == ["old needs factors that the corpus lacks: margin"]
    single = compare(old, NEW_TARGETS[NEW_TARGETS["target"] == "new target 0"], FitSettings(FEATURES))
    assert "only one target to learn from, new target 0" in single.sentences()[0]
    few = NEW_TARGETS[NEW_TARGETS["index"] < 15]
    assert "no target is left with enough samples" in compare(old, few, FitSettings(FEATURES, QUICK)).sentences()[0]
    erase = [f"{name}_erase" for name in ("percentile", "difficulty", "trivial")]
    partial = compare(old, NEW_TARGETS.drop(columns=erase), FitSettings(FEATURES, QUICK))
    assert partial.undecided == ("erase",)
    assert "for erase the corpus has no labels to compare by" in partial.sentences()
    assert partial.summary["objective"].tolist() == ["retrain"]
    unmeasured = NEW_TARGETS.assign(**{erase[0]: NEW_TARGETS[erase[0]].where(NEW_TARGETS["target"] == "new target 0")})
    thin = compare(old, unmeasured, FitSettings(FEATURES, QUICK))
    assert thin.summary["objective"].tolist() == ["retrain"]
    assert thin.undecided == ("erase",)
    assert "for erase no target is left with enough samples to compare on" in thin.reasons


def test_noise_alone_is_seldom_called_better() -> None:
    """Two predictors that know nothing: over 20 corpora of pure noise hardly any difference passes for one."""
    rng = np.random.default_rng(0)
    called = []
    for seed in range(20):
        noise = named(training_table(4, 40, seed=100 + seed), "noise")
        noise["percentile_erase"] = rng.permutation(noise["percentile_erase"].to_numpy())
        noise = noise.drop(columns="percentile_retrain")
        blind = DifficultyPredictor.fit(
            OLD_TARGETS.assign(percentile_erase=rng.permutation(OLD_TARGETS["percentile_erase"].to_numpy())).drop(
                columns="percentile_retrain"
            ),
            FEATURES,
            params=STUNTED,
        )
        called.append(compare(blind, noise, FitSettings(FEATURES, STUNTED, resamples=200)).better)
    assert sum(called) <= 2
