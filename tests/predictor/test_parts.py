"""Parts of an outcome, and the unlearner that does the least harm: labels, heads, forecasts, files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

from forgetcast.corpus.labels import outcome_parts
from forgetcast.errors import FileFormatError, InputError, UnknownNameError
from forgetcast.evaluation.table import training_table as table_of
from forgetcast.predictor.columns import from_log_scale, log_scale
from forgetcast.predictor.predictor import DifficultyPredictor
from synthetic import FEATURES, UNLEARNERS, corpus, training_table

SMALL = {"num_boost_round": 60}


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    """Six targets; the last is kept from the fit."""
    return training_table(targets=6, rows=80)


@pytest.fixture(scope="module")
def predictor(table: pd.DataFrame) -> DifficultyPredictor:
    """Fitted to the first five targets."""
    return DifficultyPredictor.fit(table[table["target"] != "target 5"], FEATURES, params=SMALL)


def test_parts_are_means_over_unlearners_of_means_over_seeds() -> None:
    """An unlearner that ran more often counts no more than another."""
    rows = [("a", 0, 2.0), ("a", 1, 4.0), ("b", 0, 9.0)]
    outcomes = pd.DataFrame(rows, columns=["unlearner", "seed", "steps"])
    outcomes = outcomes.assign(target="t", index=3, objective="erase", tv_test=0.5)
    parts = outcome_parts(outcomes, "erase", ("a", "b"))
    assert parts.to_dict(orient="records") == [{"target": "t", "index": 3, "collateral_test": 0.5, "steps": 6.0}]


def test_the_training_table_has_what_the_corpus_recorded() -> None:
    """Parts that no outcome holds have no column; every unlearner has one."""
    made = table_of(corpus(targets=2, rows=12), UNLEARNERS)
    assert {"steps_erase", "collateral_test_retrain", "under_influence_erase"} <= set(made.columns)
    assert not [name for name in made if name.startswith(("parameter_shift", "collateral_neighbours"))]


@pytest.mark.parametrize("head", ["difficulty", "steps", "parameter_shift", "collateral_test"])
def test_the_log_scale_is_undone(head: str) -> None:
    """There and back, for every head that is fitted on it; unbounded parts go beyond 1."""
    values = np.array([0.0, 1e-4, 0.3, 1.0]) * (40 if head in ("steps", "parameter_shift") else 1)
    assert from_log_scale(log_scale(values, head), head) == pytest.approx(values, abs=1e-12)


@pytest.mark.parametrize("objective", ["retrain", "erase"])
def test_parts_are_forecast_on_an_unseen_target(
    table: pd.DataFrame, predictor: DifficultyPredictor, objective: str
) -> None:
    """In their own units and in the right order."""
    own = table[table["target"] == "target 5"]
    parts = predictor.predict_parts(own[FEATURES], objective)
    assert list(parts.columns) == ["collateral_neighbours", "steps"]
    assert parts["collateral_neighbours"].between(0, 1).all()
    for name in parts:
        measured = own[f"{name}_{objective}"]
        assert spearmanr(parts[name], measured).statistic > 0.85
        assert np.abs(parts[name] - measured).mean() < 0.5 * np.abs(measured - measured.mean()).mean()


@pytest.mark.parametrize("objective", ["retrain", "erase"])
def test_the_gentler_unlearner_is_named(table: pd.DataFrame, predictor: DifficultyPredictor, objective: str) -> None:
    """Which of the two does less harm depends on the sample, and is found on an unseen target."""
    own = table[(table["target"] == "target 5") & ~table[f"trivial_{objective}"].astype(bool)]
    under = predictor.predict_unlearners(own[FEATURES], objective)
    assert set(under.columns) == {"gentle", "rough"}
    assert under.to_numpy().min() >= 0
    named = under.columns.to_numpy()[under.to_numpy().argmin(1)]
    gentler = np.where(own["noise_quantile"] > 0.5, "rough", "gentle")
    assert (named == gentler).mean() > 0.9


@pytest.mark.parametrize("objective", ["retrain", "erase"])
def test_what_the_named_unlearner_takes_is_forecast(
    table: pd.DataFrame, predictor: DifficultyPredictor, objective: str
) -> None:
    """Its steps, not those of another, and an interval that holds on an unseen target."""
    own = table[(table["target"] == "target 5") & ~table[f"trivial_{objective}"].astype(bool)]
    for name in ("gentle", "rough"):
        under = predictor.predict_under(own[FEATURES], objective, [name] * len(own))
        assert list(under.columns) == ["difficulty", "steps", "lower", "upper"]
        assert spearmanr(under["steps"], own[f"steps_under_{name}_{objective}"]).statistic > 0.85
        assert (under["steps"] / own[f"steps_under_{name}_{objective}"]).median() == pytest.approx(1, rel=0.5)
        measured = own[f"under_{name}_{objective}"]
        assert ((under["lower"] <= measured) & (measured <= under["upper"])).mean() > 0.7
        wider = predictor.predict_under(own[FEATURES], objective, [name] * len(own), level=0.99)
        assert (wider["upper"] >= under["upper"]).all()


def test_each_row_has_its_own_unlearner(table: pd.DataFrame, predictor: DifficultyPredictor) -> None:
    """Rows do not disturb each other, and the difficulty is that of ``predict_unlearners``."""
    features = table[FEATURES].tail(4)
    names = ["gentle", "rough", "rough", "gentle"]
    mixed = predictor.predict_under(features, "erase", names)
    every = predictor.predict_unlearners(features, "erase")
    for place, name in enumerate(names):
        alone = predictor.predict_under(features.iloc[[place]], "erase", [name])
        pd.testing.assert_frame_equal(mixed.iloc[[place]], alone)
        assert mixed["difficulty"].iloc[place] == every[name].iloc[place]


def test_unlearners_that_the_predictor_does_not_know_are_refused(
    table: pd.DataFrame, predictor: DifficultyPredictor
) -> None:
    """With the names that it knows; and one is needed per row."""
    features = table[FEATURES].head(2)
    with pytest.raises(UnknownNameError, match=r"'gentel'.*gentle"):
        predictor.predict_under(features, "erase", ["gentel", "rough"])
    with pytest.raises(InputError, match=r"one for each of the 2 rows; got 1"):
        predictor.predict_under(features, "erase", ["gentle"])


def test_a_predictor_without_errors_per_unlearner_gives_no_bounds(predictor: DifficultyPredictor) -> None:
    """Predictors of earlier versions still forecast the difficulty itself."""
    residuals = {
        objective: {name: values for name, values in heads.items() if ":" not in name}
        for objective, heads in predictor._residuals.items()
    }
    older = DifficultyPredictor(predictor._heads, residuals, predictor.manifest)
    features = training_table(targets=1, rows=3)[FEATURES]
    under = older.predict_under(features, "erase", ["rough"] * 3)
    assert under["upper"].isna().all()
    assert under["difficulty"].notna().all()


def test_many_samples_are_forecast_a_few_at_a_time(
    table: pd.DataFrame, predictor: DifficultyPredictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pieces make no difference, and no samples are no trouble."""
    features = table[FEATURES].tail(20)
    whole = predictor.predict_unlearners(features, "erase")
    monkeypatch.setattr("forgetcast.predictor.predictor.ROWS", 7)
    pd.testing.assert_frame_equal(predictor.predict_unlearners(features, "erase"), whole)
    assert predictor.predict_unlearners(features.head(0), "erase").shape == (0, 2)


def test_a_table_without_parts_gives_a_predictor_without(table: pd.DataFrame) -> None:
    """A corpus of an earlier format still teaches difficulty."""
    plain = table.drop(columns=[name for name in table if name.startswith(("under_", "steps_", "collateral_"))])
    predictor = DifficultyPredictor.fit(plain, FEATURES, params=SMALL)
    features = plain[FEATURES].head(3)
    assert predictor.predict_parts(features, "erase").shape == (3, 0)
    assert predictor.predict_unlearners(features, "erase").shape == (3, 0)


def test_a_negative_part_is_refused(table: pd.DataFrame) -> None:
    """Steps and shifts have no sign."""
    with pytest.raises(InputError, match=r"steps_erase must be numbers of at least 0; got -1"):
        DifficultyPredictor.fit(table.assign(steps_erase=-1.0), FEATURES, params=SMALL)


def test_parts_survive_saving(table: pd.DataFrame, predictor: DifficultyPredictor, tmp_path: Path) -> None:
    """Bit for bit, and saving over it leaves no file of the old one behind."""
    again = DifficultyPredictor.load(predictor.save(tmp_path / "kept"))
    features = table[FEATURES].tail(20)
    for method in ("predict_parts", "predict_unlearners"):
        pd.testing.assert_frame_equal(
            getattr(again, method)(features, "retrain"), getattr(predictor, method)(features, "retrain")
        )
    assert again.familiarity(features) == predictor.familiarity(features)
    plain = table.drop(columns=[name for name in table if name.startswith("under_")])
    DifficultyPredictor.fit(plain, FEATURES, params=SMALL).save(tmp_path / "kept")
    assert not list((tmp_path / "kept").glob("*unlearner*"))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("unlearners", {"erase": "gentle"}),
        ("unlearners", {}),
        ("unlearners", [1]),
        ("contexts", {"columns": ["nothing"], "targets": {}}),
        ("contexts", {"columns": ["train_accuracy"], "targets": {"a": [1, 2]}}),
        ("contexts", {"columns": ["train_accuracy"], "targets": {"a": ["x"]}}),
        ("contexts", []),
    ],
)
def test_a_damaged_manifest_is_refused(predictor: DifficultyPredictor, tmp_path: Path, key: str, value: object) -> None:
    """Lists of another shape never reach the forecast."""
    path = predictor.save(tmp_path / "kept") / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    with pytest.raises(FileFormatError, match="corrupt"):
        DifficultyPredictor.load(tmp_path / "kept")


def test_a_continuation_goes_on_with_parts_and_unlearners(table: pd.DataFrame, predictor: DifficultyPredictor) -> None:
    """Their heads gain trees, unlearners keep their places; what the new targets did not record stays as it was."""
    new = table[table["target"] == "target 5"].drop(columns=["steps_erase", "under_rough_erase"])
    new["under_unheard_of_erase"] = 0.5
    fitted = DifficultyPredictor.fit(new, FEATURES, params=SMALL, continue_from=predictor)
    before, after = predictor.heads("erase"), fitted.heads("erase")
    for name in ("collateral_neighbours", "unlearner"):
        assert after[name].booster.num_trees() == 2 * before[name].booster.num_trees()  # type: ignore[union-attr]
    assert after["steps"] == before["steps"]
    assert fitted.manifest["unlearners"] == predictor.manifest["unlearners"]
    forecast = fitted.predict_unlearners(new[FEATURES], "erase")
    assert list(forecast) == predictor.manifest["unlearners"]["erase"]
    less = new.drop(columns=["under_gentle_erase", "under_unheard_of_erase"])
    kept = DifficultyPredictor.fit(less, FEATURES, params=SMALL, continue_from=predictor)
    assert kept.heads("erase")["unlearner"] == before["unlearner"]


def test_continuing_an_older_predictor_adds_what_it_lacked(table: pd.DataFrame) -> None:
    """One without parts and unlearners gets their heads from the new targets alone."""
    plain = [name for name in table if name.startswith(("under_", "steps_", "collateral_"))]
    old = DifficultyPredictor.fit(table[table["target"] < "target 4"].drop(columns=plain), FEATURES, params=SMALL)
    old.manifest.pop("unlearners")
    old.manifest.pop("contexts")
    new = table[table["target"] >= "target 4"]
    fitted = DifficultyPredictor.fit(new, FEATURES, params=SMALL, continue_from=old)
    assert fitted.heads("erase")["steps"].booster.num_trees() == 60  # type: ignore[union-attr]
    assert list(fitted.predict_unlearners(new[FEATURES], "erase")) == fitted.manifest["unlearners"]["erase"]
    assert np.isnan(fitted.familiarity(new[FEATURES]).p_value)
