"""The estimator keeps scikit-learn's laws, and is the predictor's own trees."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.model_selection import GroupKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

from forgetcast.adapters import DifficultyRegressor
from forgetcast.errors import InputError, NotApplicableError
from forgetcast.predictor.heads import fit_head
from synthetic import FEATURES, training_table


def test_scikit_learn_s_own_checks() -> None:
    """All that scikit-learn asks of a regressor."""
    results = check_estimator(DifficultyRegressor({"num_boost_round": 60}), on_skip=None, on_fail="raise")
    assert sum(one["status"] == "passed" for one in results) > 35


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    """Rows of four synthetic targets."""
    return training_table(targets=4)


def test_it_is_the_predictors_own_trees(table: pd.DataFrame) -> None:
    """The same parameters and the same draws."""
    X, y, weight = table[FEATURES], table["percentile_erase"], table["weight"]
    regressor = DifficultyRegressor({"num_boost_round": 30}, random_state=3).fit(X, y, sample_weight=weight)
    names = [f"factor_{number}" for number in range(len(FEATURES))]
    head = fit_head(X.to_numpy(), y.to_numpy(), weight.to_numpy(), names, "x", {"num_boost_round": 30}, 3)
    np.testing.assert_array_equal(regressor.predict(X), head.raw(X.to_numpy()))
    assert list(regressor.feature_names_in_) == FEATURES
    assert clone(regressor).get_params() == {"params": {"num_boost_round": 30}, "random_state": 3}


def test_it_works_in_pipelines_and_validations(table: pd.DataFrame) -> None:
    """Whole targets are left out, as everywhere here."""
    pipeline = make_pipeline(StandardScaler(), DifficultyRegressor({"num_boost_round": 40}))
    score = cross_val_score(
        pipeline, table[FEATURES], table["percentile_erase"], groups=table["target"], cv=GroupKFold(4)
    )
    assert score.mean() > 0.3


def test_intervals_cover_targets_that_were_left_out(table: pd.DataFrame) -> None:
    """With groups they cover about as much as asked of a new target; a higher level is wider."""
    X, y, groups = table[FEATURES], table["percentile_erase"], table["target"]
    new = groups == groups.iloc[-1]
    regressor = DifficultyRegressor({"num_boost_round": 40}).fit(X[~new], y[~new], groups=groups[~new])
    low, high = regressor.predict_interval(X[new], level=0.8)
    lower, higher = regressor.predict_interval(X[new], level=0.95)
    assert ((low <= y[new]) & (y[new] <= high)).mean() == pytest.approx(0.8, abs=0.17)
    assert (higher - lower > high - low).all()


def test_what_cannot_be_is_refused(table: pd.DataFrame) -> None:
    """With the reason."""
    X, y = table[FEATURES], table["percentile_erase"]
    regressor = DifficultyRegressor({"num_boost_round": 2})
    with pytest.raises(InputError, match="groups: expected at least 2"):
        regressor.fit(X, y, groups=np.zeros(len(y)))
    with pytest.raises(InputError, match="LightGBM could not fit"):
        DifficultyRegressor({"num_leaves": -3}).fit(X, y)
    with pytest.raises(NotApplicableError, match="groups"):
        regressor.fit(X, y).predict_interval(X)
    with pytest.raises(InputError, match="level"):
        regressor.fit(X, y, groups=table["target"]).predict_interval(X, level=1)


def test_importing_the_adapters_imports_no_library_they_are_for() -> None:
    """Those come in when an adapter is called."""
    program = (
        "import sys, forgetcast.adapters\n"
        "there = {'transformers', 'pytorch_lightning', 'lightning', 'skorch'} & set(sys.modules)\n"
        "assert not there, there"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
