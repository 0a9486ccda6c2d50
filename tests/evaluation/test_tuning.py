"""The search for parameters: repeatable, on validation targets alone, and slow to leave the defaults."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import optuna
import pandas as pd
import pytest
from scipy.stats import spearmanr

from forgetcast.errors import InputError, UnknownNameError
from forgetcast.evaluation.fit_settings import FitSettings
from forgetcast.evaluation.holdout import leave_one_group_out
from forgetcast.evaluation.tuning import SEARCHED, choose_params, validation_targets
from forgetcast.predictor.columns import labels_of, training_weights
from forgetcast.predictor.heads import fit_head
from synthetic import FEATURES, training_table

QUICK = {"num_boost_round": 20, "learning_rate": 0.12}
STUNTED = {"num_boost_round": 8, "learning_rate": 0.12, "min_data_in_leaf": 100}
"""So few and small trees that almost any change helps."""


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    """Six synthetic targets of three datasets and two architectures."""
    return training_table()


def test_the_first_trial_is_what_is_there_and_is_scored_as_the_evaluation_does(table: pd.DataFrame) -> None:
    """Its rho is the mean over validation targets and objectives of leave-one-target-out forecasts."""
    chosen, tried = choose_params(table, FitSettings(FEATURES, QUICK), ["target 0", "target 3"], trials=1)
    assert chosen == QUICK
    out = leave_one_group_out(table, FEATURES, params=QUICK)
    rho = {
        (objective, target): spearmanr(rows["percentile"], rows["percentile_measured"]).statistic
        for (objective, target), rows in out.groupby(["objective", "target"])
        if target in ("target 0", "target 3")
    }
    assert tried["rho"].item() == pytest.approx(np.mean(list(rho.values())), abs=1e-12)
    for objective in ("retrain", "erase"):
        expected = np.mean([value for (name, _), value in rho.items() if name == objective])
        assert tried[objective].item() == pytest.approx(expected, abs=1e-12)
    assert tried["chosen"].tolist() == [True]
    assert tried["num_leaves"].item() == 12


def test_parameters_that_are_clearly_better_are_found_and_all_trials_are_on_record(table: pd.DataFrame) -> None:
    """From a stunted start the search leaves it; parameters that are not searched stay."""
    chosen, tried = choose_params(table, FitSettings(FEATURES, STUNTED), ["target 0", "target 3"], trials=8)
    row = tried[tried["chosen"]]
    assert len(tried) == 8
    assert len(row) == 1
    assert row["rho"].item() == tried["rho"].max() > tried["rho"].iloc[0] + 0.05
    assert chosen == {**STUNTED, **row[list(SEARCHED)].iloc[0].to_dict()}
    assert isinstance(chosen["num_leaves"], int)


def test_a_gain_within_the_noise_does_not_leave_the_defaults(table: pd.DataFrame) -> None:
    """Where labels are noise every difference between trials is luck, so the start is kept."""
    rng = np.random.default_rng(1)
    labels = [f"percentile_{objective}" for objective in ("retrain", "erase")]
    noise = table.assign(**{label: rng.permutation(table[label].to_numpy()) for label in labels})
    chosen, tried = choose_params(noise, FitSettings(FEATURES, QUICK), ["target 0", "target 3"], trials=6)
    assert tried["rho"].max() > tried["rho"].iloc[0]
    assert chosen == QUICK
    assert tried["chosen"].tolist() == [True, *5 * [False]]


def test_other_targets_labels_are_not_scored(table: pd.DataFrame) -> None:
    """Without any row of the validation target in the fits, its score is that of one fit to the others."""
    others, own = table[table["target"] != "target 1"], table[table["target"] == "target 1"]
    label = labels_of(others, "erase", "percentile")
    head = fit_head(others[FEATURES].to_numpy(), label, training_weights(others), FEATURES, "percentile", QUICK, 0)
    expected = spearmanr(head.raw(own[FEATURES].to_numpy()), own["percentile_erase"]).statistic
    _, tried = choose_params(table, FitSettings(FEATURES, QUICK), ["target 1"], trials=1)
    assert tried["erase"].item() == pytest.approx(expected)


def test_the_same_seed_gives_the_same_trials_and_optuna_stays_as_it_was(
    table: pd.DataFrame, capfd: pytest.CaptureFixture[str]
) -> None:
    """Repeatable in any parallelism; nothing is printed, and Optuna's own logging is given back."""
    before = optuna.logging.get_verbosity()
    chosen, tried = choose_params(table, FitSettings(FEATURES, {**QUICK, "num_leaves": 100}), ["target 2"], trials=5)
    again, tried_again = choose_params(
        table, FitSettings(FEATURES, {**QUICK, "num_leaves": 100}, n_jobs=1), ["target 2"], trials=5
    )
    assert chosen == again
    pd.testing.assert_frame_equal(tried, tried_again, check_exact=True)
    assert tried["num_leaves"].iloc[0] == 100  # a start outside what is searched is tried all the same
    assert optuna.logging.get_verbosity() == before
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""


def test_optuna_is_imported_by_a_search_only() -> None:
    """Training without a search does without its second of imports."""
    program = "import sys, forgetcast.evaluation.training; print('optuna' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout == "False\n"


def test_choosing_without_targets_or_with_unusable_ones_is_refused(table: pd.DataFrame) -> None:
    """Names are checked against the table, and a validation target must say something about order."""
    with pytest.raises(UnknownNameError, match="did you mean 'target 0'"):
        choose_params(table, FitSettings(FEATURES), ["target 00"])
    with pytest.raises(InputError, match="at least one validation target"):
        choose_params(table, FitSettings(FEATURES), [])
    with pytest.raises(InputError, match="two targets in the table"):
        choose_params(training_table(1), FitSettings(FEATURES), ["target 0"])
    tiny = table[(table["target"] != "target 0") | (table["index"] < 15)]
    with pytest.raises(InputError, match="target 0 say nothing about order"):
        choose_params(tiny, FitSettings(FEATURES), ["target 0"])


def test_validation_targets_are_spread_over_datasets_and_architectures() -> None:
    """A quarter, four at most, no chance involved; those that are not scored anyway come first."""
    table = training_table(12, 10)
    chosen = validation_targets(table)
    assert chosen == validation_targets(table.sample(frac=1, random_state=0))
    own = table[table["target"].isin(chosen)]
    assert (len(chosen), own["dataset"].nunique(), own["architecture"].nunique()) == (3, 3, 2)
    assert len(validation_targets(training_table(40, 3))) == 4
    assert validation_targets(training_table(2, 3)) == ["target 0"]
    assert set(validation_targets(table, prefer=["target 5", "target 7", "target 9"])) == {
        "target 5",
        "target 7",
        "target 9",
    }
