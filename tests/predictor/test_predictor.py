"""The predictor's laws: honest intervals, additive contributions, rows on their own, files that never surprise."""

from __future__ import annotations

import itertools
import json
import math
import shutil
from pathlib import Path

import lightgbm as lgb
import numpy as np
import pandas as pd
import pytest
import shap
from scipy.stats import spearmanr

from forgetcast.errors import FileFormatError, InputError, PathError, SchemaError, UnknownNameError
from forgetcast.files import folders
from forgetcast.objectives import OBJECTIVES
from forgetcast.predictor.columns import head_weights, labels_of, training_weights
from forgetcast.predictor.heads import DEFAULT_PARAMS, Head, fit_without
from forgetcast.predictor.intervals import balanced_residuals, conformal_interval
from forgetcast.predictor.predictor import DifficultyPredictor
from synthetic import FEATURES, training_table

pytestmark = pytest.mark.slow

QUICK = {"num_boost_round": 60, "learning_rate": 0.1}


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    """Six synthetic targets."""
    return training_table()


@pytest.fixture(scope="module")
def predictor(table: pd.DataFrame) -> DifficultyPredictor:
    """A predictor of both objectives, fitted to the six targets."""
    return DifficultyPredictor.fit(table, FEATURES, params=QUICK, metrics={"rho": 0.5})


@pytest.fixture
def folder(predictor: DifficultyPredictor, tmp_path: Path) -> Path:
    """The predictor, saved."""
    return predictor.save(tmp_path / "predictor")


def fresh_features(seed: int = 9) -> pd.DataFrame:
    """Factor columns of a target that the predictor has not seen."""
    return training_table(1, 80, seed=seed)[FEATURES]


def same(a: pd.DataFrame, b: pd.DataFrame) -> bool:
    """Equal bit for bit, index and columns included."""
    return a.equals(b) and a.to_numpy().tobytes() == b.to_numpy().tobytes()


# -- what it learns ---------------------------------------------------------------------------------------


def test_a_relation_shared_by_targets_is_found_on_an_unseen_target(predictor: DifficultyPredictor) -> None:
    """Rank correlation on a new target is high, for both objectives and for difficulty as for percentile."""
    unseen = training_table(1, 150, seed=5)
    for objective in OBJECTIVES:
        forecast = predictor.predict(unseen[FEATURES], objective)
        assert spearmanr(forecast["percentile"], unseen[f"percentile_{objective}"]).statistic > 0.85
        assert spearmanr(forecast["difficulty"], unseen[f"difficulty_{objective}"]).statistic > 0.8


def test_trivial_samples_are_told_apart_on_an_unseen_target(predictor: DifficultyPredictor) -> None:
    """The probability of being trivial is mostly on the right side of one half."""
    unseen = training_table(1, 150, seed=5)
    forecast = predictor.predict(unseen[FEATURES], "retrain")["p_trivial"]
    assert ((forecast >= 0.5) == unseen["trivial_retrain"]).mean() > 0.85


def test_shuffled_labels_teach_nothing(table: pd.DataFrame) -> None:
    """Held-out targets cannot be ordered when labels are shuffled within targets."""
    shuffled = table.copy()
    rng = np.random.default_rng(0)
    labels = shuffled.groupby("target")["percentile_retrain"].transform(lambda y: rng.permutation(y.to_numpy()))
    shuffled["percentile_retrain"] = labels
    groups = shuffled["target"].to_numpy(dtype=object)
    predicted = fit_without(shuffled, FEATURES, "retrain", groups, heads=("percentile",), params=QUICK)
    rhos = [
        spearmanr(predicted.loc[rows.index, "percentile"], rows["percentile_retrain"]).statistic
        for _, rows in shuffled.groupby("target")
    ]
    assert abs(np.mean(rhos)) < 0.15


def test_weights_are_relative_to_their_target_and_bounded() -> None:
    """Scaling one target's weights changes nothing; no row counts more than its share allows."""
    table = training_table(2, 50)
    before = training_weights(table)
    scaled = table.assign(weight=table["weight"] * np.where(table["target"] == "target 0", 1000, 1))
    np.testing.assert_allclose(training_weights(scaled), before)
    extreme = table.assign(weight=np.where(table["index"] == 0, 1e6, 1.0))
    assert training_weights(extreme).max() / training_weights(extreme).min() <= 25
    for _, rows in extreme.groupby("target"):
        assert training_weights(rows).mean() == pytest.approx(1)


def test_trivial_samples_are_placed_within_their_band_by_memorization() -> None:
    """The tied percentile is spread over its band, its mean stays, the others keep theirs; without it, ties stay."""
    table = training_table(2, 60)
    trivial = table["trivial_retrain"].to_numpy()
    table.loc[trivial, "percentile_retrain"] = 1 / 6
    tied = table["percentile_retrain"].to_numpy()
    placed = labels_of(table.assign(weight=1.0), "retrain", "percentile")
    assert (placed[~trivial] == tied[~trivial]).all()
    assert placed[trivial].mean() == pytest.approx(1 / 6)
    assert 0 < placed[trivial].min() < placed[trivial].max() < 1 / 3
    for _, rows in table.assign(placed=placed)[trivial].groupby("target"):
        assert spearmanr(rows["placed"], rows["memorization"]).statistic == pytest.approx(1)
    for other in (table.drop(columns="memorization"), table.assign(memorization=np.nan)):
        np.testing.assert_array_equal(labels_of(other, "retrain", "percentile"), tied)
    np.testing.assert_array_equal(labels_of(table, "erase", "percentile"), table["percentile_erase"])


# -- shape of a forecast ----------------------------------------------------------------------------------


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("level", [None, 0.5, 0.99, 0.99999])
def test_bounds_hold_the_forecast_within_zero_and_one(
    predictor: DifficultyPredictor, objective: str, level: float | None
) -> None:
    """0 <= lower <= value <= upper <= 1 for difficulty and percentile at every level."""
    out = predictor.predict(fresh_features(), objective, level=level)
    assert list(out.columns) == [
        "difficulty",
        "lower",
        "upper",
        "percentile",
        "percentile_lower",
        "percentile_upper",
        "p_trivial",
    ]
    assert out.notna().all(axis=None)
    assert ((out >= 0) & (out <= 1)).all(axis=None)
    assert ((out["lower"] <= out["difficulty"]) & (out["difficulty"] <= out["upper"])).all()
    assert ((out["percentile_lower"] <= out["percentile"]) & (out["percentile"] <= out["percentile_upper"])).all()


def test_a_level_beyond_the_calibration_data_gives_the_whole_range(predictor: DifficultyPredictor) -> None:
    """With too few residuals for the level the interval is [0, 1], without a warning."""
    out = predictor.predict(fresh_features(), "retrain", level=0.99999)
    assert (out["lower"] == 0).all()
    assert (out["upper"] == 1).all()


def test_a_higher_level_never_narrows_an_interval(predictor: DifficultyPredictor) -> None:
    """Intervals are nested in their level."""
    narrow, wide = (predictor.predict(fresh_features(), "erase", level=level) for level in (0.5, 0.9))
    assert (wide["lower"] <= narrow["lower"]).all()
    assert (wide["upper"] >= narrow["upper"]).all()
    assert (wide["upper"] - wide["lower"]).mean() > (narrow["upper"] - narrow["lower"]).mean()


@pytest.mark.parametrize("level", [0, 1, -0.1, 90])
def test_a_level_outside_zero_and_one_is_an_input_error(predictor: DifficultyPredictor, level: float) -> None:
    """A level is a share."""
    with pytest.raises(InputError, match="level between 0 and 1"):
        predictor.predict(fresh_features(), "erase", level=level)


def test_rows_are_forecast_on_their_own(predictor: DifficultyPredictor) -> None:
    """One row, a shuffled table and the whole table give the same numbers for the same row."""
    X = fresh_features()
    whole = predictor.predict(X, "retrain")
    shuffled = predictor.predict(X.sample(frac=1, random_state=0), "retrain").loc[X.index]
    single = pd.concat([predictor.predict(X.iloc[[row]], "retrain") for row in range(10)])
    assert same(shuffled, whole)
    assert same(single, whole.iloc[:10])


def test_the_order_of_columns_does_not_matter(predictor: DifficultyPredictor) -> None:
    """Columns are found by name."""
    X = fresh_features()
    assert same(predictor.predict(X[FEATURES[::-1]], "erase"), predictor.predict(X, "erase"))


def test_a_factor_that_does_not_apply_is_fed_as_nan(predictor: DifficultyPredictor) -> None:
    """Columns of NaN are accepted, in the fit and in the forecast."""
    X = fresh_features().assign(margin=np.nan, margin_quantile=np.nan)
    assert predictor.predict(X, "retrain").notna().all(axis=None)
    table = training_table(3, 40)
    table.loc[table["target"] == "target 1", ["margin", "margin_quantile"]] = np.nan
    table["noise"] = np.nan
    fitted = DifficultyPredictor.fit(table, FEATURES, params=QUICK)
    assert fitted.predict(X, "retrain").notna().all(axis=None)
    assert fitted.manifest["typical"]["noise"] is None


def test_an_empty_table_gives_an_empty_forecast(predictor: DifficultyPredictor) -> None:
    """No rows in, no rows out."""
    nothing = fresh_features().iloc[:0]
    assert predictor.predict(nothing, "retrain").shape == (0, 7)
    assert predictor.contributions(nothing, "retrain")[0].shape == (0, len(FEATURES))


def test_missing_and_unknown_columns_are_both_named(predictor: DifficultyPredictor) -> None:
    """A table with other columns is refused with both lists."""
    X = fresh_features().drop(columns=["margin", "noise"]).assign(age=1.0)
    with pytest.raises(SchemaError, match=r"missing: margin, noise; unknown: age"):
        predictor.predict(X, "retrain")
    with pytest.raises(SchemaError, match="repeated"):
        predictor.predict(pd.concat([fresh_features(), fresh_features()[["noise"]]], axis=1), "retrain")


def test_columns_that_are_no_numbers_or_infinite_are_refused(predictor: DifficultyPredictor) -> None:
    """Text is a schema error, infinity an input error; both name the column."""
    with pytest.raises(SchemaError, match="margin"):
        predictor.predict(fresh_features().assign(margin="high"), "retrain")
    with pytest.raises(InputError, match="noise_quantile"):
        predictor.predict(fresh_features().assign(noise_quantile=np.inf), "retrain")


def test_an_unknown_objective_lists_the_known_ones(predictor: DifficultyPredictor) -> None:
    """A misspelt objective is answered with the right one."""
    with pytest.raises(UnknownNameError, match="did you mean 'erase'"):
        predictor.predict(fresh_features(), "erasee")


# -- intervals --------------------------------------------------------------------------------------------


def test_intervals_cover_unseen_targets_about_as_often_as_they_say() -> None:
    """Over 20 new targets the mean coverage of 90 % intervals is near 90 %, for both heads."""
    fitted = DifficultyPredictor.fit(training_table(10, 60, seed=1, noise=0.2), FEATURES, params=QUICK)
    unseen = training_table(20, 60, seed=77, noise=0.2)
    for objective in OBJECTIVES:
        out = fitted.predict(unseen[FEATURES], objective)
        percentile, difficulty = unseen[f"percentile_{objective}"], unseen[f"difficulty_{objective}"]
        covered = percentile.between(out["percentile_lower"], out["percentile_upper"]).mean()
        assert 0.86 < covered < 0.94
        assert 0.86 < difficulty.between(out["lower"], out["upper"]).mean() < 0.95
        assert (out["percentile_upper"] - out["percentile_lower"]).mean() < 0.8


def test_conformal_bounds_are_the_textbook_order_statistic() -> None:
    """The half-width is the ceil((n + 1) level)-th smallest of n absolute residuals."""
    scores = np.random.default_rng(0).random(150) / 2
    lower, upper = conformal_interval(scores, np.array([0.5]), 0.9)
    expected = np.sort(scores)[math.ceil(151 * 0.9) - 1]
    assert (upper - lower).item() / 2 == pytest.approx(expected)


def test_every_target_counts_the_same_in_the_calibration() -> None:
    """Repeating the instances of one target does not move the pooled residuals' distribution."""
    rng = np.random.default_rng(0)
    small, large = rng.normal(size=40), 3 * rng.normal(size=40)
    once = balanced_residuals([small, large, small])
    repeated = balanced_residuals([small, np.repeat(large, 25), small])
    np.testing.assert_array_equal(np.sort(once), np.sort(repeated))


def test_one_target_is_calibrated_on_rows_and_says_so() -> None:
    """Without a second target, folds of rows take the place of targets, and the manifest tells."""
    single = DifficultyPredictor.fit(training_table(1, 60), FEATURES, params=QUICK)
    assert single.manifest["intervals"]["folds"] == "rows"
    assert "fifth of the rows" in single.manifest["intervals"]["method"]
    several = DifficultyPredictor.fit(training_table(2, 30), FEATURES, params=QUICK)
    assert several.manifest["intervals"]["folds"] == "target"


# -- contributions ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_contributions_add_up_to_the_forecast(predictor: DifficultyPredictor, objective: str) -> None:
    """Base value and row sum give the percentile before clipping."""
    X = fresh_features()
    values, base = predictor.contributions(X, objective)
    total = np.clip(base + values.sum(axis=1), 0, 1)
    np.testing.assert_allclose(total, predictor.predict(X, objective)["percentile"], atol=1e-6)
    assert values.shape == X.shape


def test_contributions_are_those_of_the_shap_library(predictor: DifficultyPredictor) -> None:
    """The fast path equals shap.TreeExplainer."""
    X = fresh_features()
    values, base = predictor.contributions(X, "retrain")
    head = predictor._heads["retrain"]["percentile"]
    explainer = shap.TreeExplainer(head.booster)
    np.testing.assert_allclose(values, explainer.shap_values(X.to_numpy()), atol=1e-6)
    assert base == pytest.approx(np.ravel(explainer.expected_value)[0], abs=1e-6)


def test_contributions_are_shapley_values_by_definition() -> None:
    """On a few columns they equal the sum over all coalitions of the trees' conditional expectations."""
    columns = ["loss_quantile", "neighbour_share_quantile", "margin"]
    table = training_table(2, 60)
    fitted = DifficultyPredictor.fit(table, columns, params={"num_boost_round": 8, "learning_rate": 0.3})
    booster = fitted._heads["retrain"]["percentile"].booster
    assert booster is not None
    X = training_table(1, 5, seed=3)[columns]
    values, base = fitted.contributions(X, "retrain")
    for row in range(len(X)):
        x = X.iloc[row].to_numpy()
        np.testing.assert_allclose(values[row], exact_shapley(booster, x), atol=1e-9)
    assert base == pytest.approx(expectation(booster, X.iloc[0].to_numpy(), set()), abs=1e-9)


def exact_shapley(booster: lgb.Booster, x: np.ndarray) -> np.ndarray:
    """Shapley values by enumeration of all coalitions."""
    count = len(x)
    out = np.zeros(count)
    for player in range(count):
        others = [other for other in range(count) if other != player]
        for size in range(count):
            share = math.factorial(size) * math.factorial(count - size - 1) / math.factorial(count)
            for coalition in itertools.combinations(others, size):
                with_player = expectation(booster, x, {*coalition, player})
                out[player] += share * (with_player - expectation(booster, x, set(coalition)))
    return out


def expectation(booster: lgb.Booster, x: np.ndarray, known: set[int]) -> float:
    """Expected prediction when only some features are known; the others follow the training counts."""

    def walk(node: dict) -> float:
        if "leaf_value" in node:
            return node["leaf_value"]
        left, right = node["left_child"], node["right_child"]
        if node["split_feature"] in known:
            return walk(left if x[node["split_feature"]] <= node["threshold"] else right)
        n_left, n_right = (child.get("internal_count", child.get("leaf_count")) for child in (left, right))
        return (n_left * walk(left) + n_right * walk(right)) / (n_left + n_right)

    return sum(walk(tree["tree_structure"]) for tree in booster.dump_model()["tree_info"])


# -- fitting ----------------------------------------------------------------------------------------------


def test_the_same_data_give_the_same_bytes(
    table: pd.DataFrame, predictor: DifficultyPredictor, folder: Path, tmp_path: Path
) -> None:
    """Fitting again, in other parallelism, writes identical files."""
    again = DifficultyPredictor.fit(table, FEATURES, params=QUICK, metrics={"rho": 0.5}, n_jobs=1)
    other = again.save(tmp_path / "again")
    assert sorted(path.name for path in other.iterdir()) == sorted(path.name for path in folder.iterdir())
    for path in folder.iterdir():
        assert (other / path.name).read_bytes() == path.read_bytes()


def test_another_seed_or_other_data_give_another_fingerprint(
    table: pd.DataFrame, predictor: DifficultyPredictor
) -> None:
    """The fingerprint follows what determines the forecasts, and metrics do not."""
    fits = [
        DifficultyPredictor.fit(table, FEATURES, params=QUICK, seed=1),
        DifficultyPredictor.fit(table.iloc[:-5], FEATURES, params=QUICK),
    ]
    assert len({predictor.fingerprint, *(fit.fingerprint for fit in fits)}) == 3
    assert DifficultyPredictor.fit(table, FEATURES, params=QUICK).fingerprint == predictor.fingerprint


def test_a_label_that_does_not_vary_becomes_a_constant_head(table: pd.DataFrame, tmp_path: Path) -> None:
    """All trivial, none trivial and a constant percentile are forecast as such, before and after loading."""
    table = table.drop(columns="memorization")
    constant = table.assign(trivial_retrain=True, percentile_retrain=0.5, difficulty_retrain=0.0)
    fitted = DifficultyPredictor.fit(constant, FEATURES, params=QUICK)
    loaded = DifficultyPredictor.load(fitted.save(tmp_path / "constant"))
    for one in (fitted, loaded):
        out = one.predict(fresh_features(), "retrain")
        assert (out["p_trivial"] == 1).all()
        assert (out["percentile"] == 0.5).all()
        assert (out["difficulty"] == 0).all()
        assert (one.predict(fresh_features(), "erase")["p_trivial"] == 0).all()
        values, base = one.contributions(fresh_features(), "retrain")
        assert not values.any()
        assert base == 0.5


def test_rows_without_labels_of_one_objective_serve_the_other(table: pd.DataFrame) -> None:
    """NaN labels leave rows out of that objective's fit alone; without any the objective is absent."""
    part = table.copy()
    names = ["percentile_erase", "difficulty_erase", "trivial_erase"]
    part[names] = part[names].astype(float)
    part.loc[part["target"] != "target 0", names] = np.nan
    fitted = DifficultyPredictor.fit(part, FEATURES, params=QUICK)
    assert set(fitted._residuals["erase"]) >= {"percentile", "difficulty"}
    assert sum(map(len, fitted._residuals["erase"]["percentile"].values())) == 60
    assert sum(map(len, fitted._residuals["retrain"]["percentile"].values())) == 360
    alone = DifficultyPredictor.fit(table.drop(columns=names), FEATURES, params=QUICK)
    assert alone.objectives == ("retrain",)
    with pytest.raises(UnknownNameError, match="Known: retrain"):
        alone.predict(fresh_features(), "erase")


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"percentile_retrain": 1.5}, InputError, "percentile_retrain must lie in"),
        ({"weight": 0.0}, InputError, "above 0"),
        ({"weight": np.nan}, InputError, "above 0"),
        ({"loss": np.inf}, InputError, "loss"),
        ({"loss": "high"}, SchemaError, "loss"),
    ],
)
def test_a_table_that_cannot_be_learned_from_says_why(
    table: pd.DataFrame, change: dict, error: type[Exception], message: str
) -> None:
    """Labels and weights out of range, infinite and textual features are refused by name."""
    with pytest.raises(error, match=message):
        DifficultyPredictor.fit(table.assign(**change), FEATURES, params=QUICK)


def test_missing_columns_of_the_training_table_are_named(table: pd.DataFrame) -> None:
    """Features, weights and labels that the table lacks are listed."""
    with pytest.raises(SchemaError, match="weight, age"):
        DifficultyPredictor.fit(table.drop(columns="weight"), [*FEATURES, "age"])
    with pytest.raises(SchemaError, match="percentile_o, difficulty_o and trivial_o"):
        DifficultyPredictor.fit(table[["target", "weight", *FEATURES]], FEATURES)
    with pytest.raises(SchemaError, match="none twice"):
        DifficultyPredictor.fit(table, ["loss", "loss"])
    with pytest.raises(SchemaError, match="identifiers"):
        DifficultyPredictor.fit(table.rename(columns={"loss": "a,b"}), ["a,b"])
    with pytest.raises(InputError, match="at least 10"):
        DifficultyPredictor.fit(table.head(9), FEATURES)


def test_an_unusable_parameter_is_an_input_error(table: pd.DataFrame) -> None:
    """What LightGBM refuses comes back as ours."""
    with pytest.raises(InputError, match="num_leaves"):
        DifficultyPredictor.fit(table, FEATURES, params={"num_leaves": -3})
    with pytest.raises(InputError, match="JSON"):
        DifficultyPredictor.fit(table, FEATURES, params=QUICK, metrics={"rho": float("nan")})


# -- continuing -------------------------------------------------------------------------------------------


def new_targets(count: int = 3, seed: int = 21) -> pd.DataFrame:
    """Targets that the predictor has not seen, on which its relation runs the other way for ``retrain``."""
    table = training_table(count, 60, seed=seed)
    table["target"] = "new " + table["target"]
    table["percentile_retrain"] = 1 - table["percentile_retrain"]
    return table.drop(columns="memorization")


def continued_by_hand(head: Head, rows: pd.DataFrame, objective: str, name: str) -> lgb.Booster:
    """The trees of ``head`` and those that LightGBM adds to them for these rows."""
    settings = {**DEFAULT_PARAMS, **QUICK, "deterministic": True, "force_row_wise": True, "num_threads": 1}
    settings |= {"verbosity": -1, "seed": 0, "objective": "regression"}
    rounds = settings.pop("num_boost_round")
    data = lgb.Dataset(
        rows[FEATURES].to_numpy(), labels_of(rows, objective, name), weight=head_weights(rows, objective, name)
    )
    return lgb.train(settings, data, rounds, init_model=lgb.Booster(model_str=head.text))


@pytest.fixture(scope="module")
def continued(predictor: DifficultyPredictor) -> DifficultyPredictor:
    """The predictor, continued on three new targets."""
    return DifficultyPredictor.fit(new_targets(), FEATURES, params=QUICK, continue_from=predictor)


def test_a_continued_predictor_keeps_its_trees_and_adds_to_them(
    predictor: DifficultyPredictor, continued: DifficultyPredictor, tmp_path: Path
) -> None:
    """The first trees forecast as before, the whole as LightGBM's own continuation does; it loads bit for bit."""
    X = fresh_features()
    before, after = (one.heads("retrain")["percentile"] for one in (predictor, continued))
    assert after.booster.num_trees() == 2 * before.booster.num_trees() == 120
    np.testing.assert_array_equal(after.booster.predict(X, num_iteration=60), before.raw(X.to_numpy()))
    by_hand = continued_by_hand(before, new_targets(), "retrain", "percentile")
    np.testing.assert_array_equal(after.raw(X.to_numpy()), by_hand.predict(X))
    loaded = DifficultyPredictor.load(continued.save(tmp_path / "continued"))
    for objective in OBJECTIVES:
        assert same(loaded.predict(X, objective), continued.predict(X, objective))
    values, base = continued.contributions(X, "retrain")
    np.testing.assert_allclose(
        np.clip(base + values.sum(axis=1), 0, 1), continued.predict(X, "retrain")["percentile"], atol=1e-6
    )


def test_continuing_learns_what_the_new_targets_tell(
    predictor: DifficultyPredictor, continued: DifficultyPredictor
) -> None:
    """On an unseen target like the new ones the forecast turns round, and nothing is lost where nothing was new."""
    unseen = new_targets(1, seed=50)
    for one, low, high in ((predictor, -1, -0.8), (continued, 0.8, 1)):
        rho = spearmanr(one.predict(unseen[FEATURES], "retrain")["percentile"], unseen["percentile_retrain"]).statistic
        assert low < rho < high
        erase = spearmanr(one.predict(unseen[FEATURES], "erase")["percentile"], unseen["percentile_erase"]).statistic
        assert erase > 0.85


@pytest.mark.parametrize("count", [1, 3])
def test_intervals_of_a_continued_predictor_rest_on_continuations_without_the_target(
    predictor: DifficultyPredictor, count: int
) -> None:
    """Each new target's errors are those of a continuation on the others; a single one's, those of the old trees."""
    table = new_targets(count)
    fitted = DifficultyPredictor.fit(table, FEATURES, params=QUICK, continue_from=predictor)
    for objective, head in itertools.product(OBJECTIVES, ("percentile", "difficulty")):
        before = predictor.heads(objective)[head]
        for name, rows in table.groupby("target"):
            others = table[table["target"] != name]
            forecast = (
                continued_by_hand(before, others, objective, head).predict(rows[FEATURES].to_numpy())
                if len(others)
                else before.raw(rows[FEATURES].to_numpy())
            )
            expected = labels_of(rows, objective, head) - np.clip(forecast, 0, 1)
            np.testing.assert_allclose(fitted._residuals[objective][head][name], expected, atol=1e-12)
        assert set(fitted._residuals[objective][head]) == set(table["target"])


def test_the_manifest_of_a_continued_predictor_names_all_its_targets(
    predictor: DifficultyPredictor, continued: DifficultyPredictor
) -> None:
    """Old and new targets with their rows, and what was continued."""
    training = continued.manifest["training"]
    assert set(training["rows"]) == {f"{kind}target {k}" for kind, n in (("", 6), ("new ", 3)) for k in range(n)}
    assert training["continued_from"]["fingerprint"] == predictor.fingerprint
    assert training["continued_from"]["training"] == predictor.manifest["training"]
    assert "going on from the same trees" in continued.manifest["intervals"]["method"]
    assert continued.manifest["typical"] == predictor.manifest["typical"]


def test_an_objective_without_new_labels_stays_as_it_was(predictor: DifficultyPredictor) -> None:
    """Heads and residuals of ``erase`` are the old ones where the new targets were not measured for it."""
    table = new_targets().drop(columns=["percentile_erase", "difficulty_erase", "trivial_erase"])
    fitted = DifficultyPredictor.fit(table, FEATURES, params=QUICK, continue_from=predictor)
    assert fitted.objectives == OBJECTIVES
    assert fitted.heads("erase") == predictor.heads("erase")
    assert fitted._residuals["erase"] == predictor._residuals["erase"]
    assert fitted.heads("retrain") != predictor.heads("retrain")


def test_a_head_without_trees_is_fitted_afresh_and_one_without_news_stays(predictor: DifficultyPredictor) -> None:
    """ "Never trivial" has no trees to go on from; where all new samples are trivial, the trees stay."""
    table = new_targets()
    fitted = DifficultyPredictor.fit(
        table.assign(trivial_erase=table["trivial_retrain"], trivial_retrain=True),
        FEATURES,
        params=QUICK,
        continue_from=predictor,
    )
    assert predictor.heads("erase")["trivial"].booster is None
    assert fitted.heads("erase")["trivial"].booster.num_trees() == 60
    assert fitted.heads("retrain")["trivial"] == predictor.heads("retrain")["trivial"]


def test_continuing_on_seen_targets_or_other_features_is_refused(
    table: pd.DataFrame, predictor: DifficultyPredictor
) -> None:
    """Boosting twice on the same rows, and trees over other columns, are errors that name them."""
    with pytest.raises(InputError, match="target 0, target 1, target 2, target 3 and 2 more already"):
        DifficultyPredictor.fit(table, FEATURES, continue_from=predictor)
    with pytest.raises(SchemaError, match="keeps its 9 features"):
        DifficultyPredictor.fit(new_targets(), FEATURES[:4], continue_from=predictor)


# -- files ------------------------------------------------------------------------------------------------


def test_saving_and_loading_keeps_every_bit(predictor: DifficultyPredictor, folder: Path) -> None:
    """Forecasts, contributions and manifest of a loaded predictor equal the saved one's."""
    loaded = DifficultyPredictor.load(folder)
    X = fresh_features()
    for objective in OBJECTIVES:
        for level in (0.9, 0.6):
            expected = predictor.predict(X, objective, level=level)
            assert same(loaded.predict(X, objective, level=level), expected)
        assert loaded.contributions(X, objective)[0].tobytes() == predictor.contributions(X, objective)[0].tobytes()
    assert loaded.manifest == predictor.manifest
    assert loaded.features == tuple(FEATURES)


def test_the_manifest_tells_where_the_predictor_comes_from(table: pd.DataFrame, predictor: DifficultyPredictor) -> None:
    """Rows per target, versions, parameters and metrics are on record."""
    manifest = predictor.manifest
    assert manifest["training"]["rows"] == {f"target {k}": 60 for k in range(6)}
    assert manifest["metrics"] == {"rho": 0.5}
    assert manifest["params"]["num_boost_round"] == 60
    assert manifest["versions"]["lightgbm"] == lgb.__version__
    assert manifest["typical"]["train_accuracy"] == pytest.approx(
        table.groupby("target")["train_accuracy"].first().median()
    )


def test_saving_over_a_predictor_replaces_it_and_keeps_other_files(
    predictor: DifficultyPredictor, folder: Path
) -> None:
    """A model card beside the predictor survives; files of heads that no longer exist, and old records, do not."""
    (folder / "README.md").write_text("card")
    (folder / "figures").mkdir()
    (folder / "figures" / "a.txt").write_text("figure")
    predictor.save(folder, {"tuning.csv": b"rho\n0.5\n"})
    assert (folder / "tuning.csv").read_bytes() == b"rho\n0.5\n"
    alone = DifficultyPredictor.fit(training_table(2, 40).drop(columns=["percentile_erase"]), FEATURES, params=QUICK)
    alone.save(folder)
    assert (folder / "README.md").read_text() == "card"
    assert (folder / "figures" / "a.txt").read_text() == "figure"
    assert not (folder / "erase-percentile.txt").exists()
    assert not (folder / "tuning.csv").exists()
    assert DifficultyPredictor.load(folder).fingerprint == alone.fingerprint
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


@pytest.mark.parametrize("failing", ["write_bytes", "replace", "exchange"])
def test_a_failed_save_leaves_the_old_predictor(
    predictor: DifficultyPredictor, folder: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    """A full disk while writing, or a failed move, changes nothing and leaves no scrap."""
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    other = DifficultyPredictor.fit(training_table(2, 40), FEATURES, params=QUICK)
    if failing == "replace":  # two steps, of which the second fails, where the system cannot do it in one
        monkeypatch.setattr("forgetcast.files.folders._exchanged", lambda one, other: False)
    owner, name = (folders, "_exchanged") if failing == "exchange" else (Path, failing)
    original = getattr(owner, name)

    def broken(self: Path, *args: object) -> object:
        if (failing == "write_bytes" and self.name == "manifest.json") or self.name == "fresh":
            raise OSError(28, "No space left on device")
        return original(self, *args)

    monkeypatch.setattr(owner, name, broken)
    with pytest.raises(PathError, match="No space left"):
        other.save(folder)
    monkeypatch.undo()
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_a_predictor_is_not_saved_over_something_else(predictor: DifficultyPredictor, tmp_path: Path) -> None:
    """A file, or a folder of other things, is refused and left alone; an empty folder will do."""
    (tmp_path / "file").write_text("mine")
    with pytest.raises(PathError, match="is a file"):
        predictor.save(tmp_path / "file")
    with pytest.raises(PathError, match="holds no predictor"):
        predictor.save(tmp_path)
    with pytest.raises(PathError, match="cannot be saved"):
        predictor.save(tmp_path / "file" / "below")
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / ".gitkeep").touch()
    assert DifficultyPredictor.load(predictor.save(empty)).fingerprint == predictor.fingerprint


def test_paths_without_a_predictor_are_path_errors(tmp_path: Path) -> None:
    """Missing folders, files and folders without a manifest are told apart."""
    with pytest.raises(PathError, match="does not exist"):
        DifficultyPredictor.load(tmp_path / "nowhere")
    with pytest.raises(PathError, match=r"manifest\.json is missing"):
        DifficultyPredictor.load(tmp_path)
    (tmp_path / "file").write_text("{}")
    with pytest.raises(PathError, match="is a file"):
        DifficultyPredictor.load(tmp_path / "file")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000, b'{"format": 3}'])
def test_a_manifest_that_is_none_is_a_file_format_error(folder: Path, content: bytes) -> None:
    """Truncated JSON, other JSON, no text and deep nesting are all one kind of error."""
    (folder / "manifest.json").write_bytes(content)
    with pytest.raises(FileFormatError, match=r"manifest\.json"):
        DifficultyPredictor.load(folder)


def test_a_number_beyond_all_bounds_is_a_file_format_error(folder: Path) -> None:
    """Integers too large for a float are refused like any other wrong value."""
    edit_manifest(folder, lambda manifest: manifest["typical"].update(loss=10**400))
    with pytest.raises(FileFormatError, match="typical"):
        DifficultyPredictor.load(folder)


def test_another_format_version_is_a_schema_error(folder: Path) -> None:
    """A newer or older format names both versions."""
    edit_manifest(folder, lambda manifest: manifest.update(format_version=99))
    with pytest.raises(SchemaError, match="expected format version 1; got 99"):
        DifficultyPredictor.load(folder)


def edit_manifest(folder: Path, change: object) -> None:
    """Apply ``change`` to the parsed manifest and write it back."""
    manifest = json.loads((folder / "manifest.json").read_text())
    change(manifest)  # type: ignore[operator]
    (folder / "manifest.json").write_text(json.dumps(manifest))


KEYS = [
    "features",
    "typical",
    "objectives",
    "intervals",
    "training",
    "metrics",
    "provenance",
    "versions",
    "files",
    "fingerprint",
]


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("value", [None, 3, "text", [], [1], {}, {"a": None}, True])
def test_a_manifest_field_of_the_wrong_type_is_a_file_format_error(folder: Path, key: str, value: object) -> None:
    """No wrong type in a field that loading relies on gets past the check, nor raises anything else."""
    edit_manifest(folder, lambda manifest: manifest.update({key: value}))
    if key in ("metrics", "provenance", "versions") and isinstance(value, dict):
        assert DifficultyPredictor.load(folder).manifest[key] == value
        return
    with pytest.raises(FileFormatError):
        DifficultyPredictor.load(folder)


@pytest.mark.parametrize("key", KEYS)
def test_a_manifest_field_that_is_missing_is_a_file_format_error(folder: Path, key: str) -> None:
    """Every field that the manifest has is needed."""
    edit_manifest(folder, lambda manifest: manifest.pop(key))
    with pytest.raises(FileFormatError):
        DifficultyPredictor.load(folder)


def test_a_manifest_cannot_point_outside_its_folder(folder: Path) -> None:
    """File names are fixed; a path is refused before anything is read."""
    edit_manifest(folder, lambda m: m["objectives"]["retrain"].update(trivial={"file": "../../etc/passwd"}))
    with pytest.raises(FileFormatError, match="trivial head"):
        DifficultyPredictor.load(folder)


@pytest.mark.parametrize("name", ["retrain-percentile.txt", "erase-difficulty.txt", "residuals.json"])
@pytest.mark.parametrize("damage", ["truncate", "flip", "empty", "delete", "folder"])
def test_a_damaged_file_is_found_by_its_hash(folder: Path, name: str, damage: str) -> None:
    """Truncated, altered, emptied and missing files are refused with their name."""
    path = folder / name
    content = path.read_bytes()
    if damage == "truncate":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "flip":
        path.write_bytes(content.replace(b"1", b"2", 1))
    elif damage == "empty":
        path.write_bytes(b"")
    else:
        path.unlink()
        if damage == "folder":
            path.mkdir()
    with pytest.raises((FileFormatError, PathError), match=name):
        DifficultyPredictor.load(folder)


def reseal(folder: Path) -> None:
    """Make hashes and fingerprint fit the folder's content again, as someone with ill intent would."""
    from forgetcast.files.hashes import sha256
    from forgetcast.predictor.folder import _fingerprint

    def change(manifest: dict) -> None:
        manifest["files"] = {name: sha256((folder / name).read_bytes()) for name in manifest["files"]}
        manifest["fingerprint"] = _fingerprint(manifest)

    edit_manifest(folder, change)


TREE = "retrain-percentile.txt"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("left_child=", "left_child=9999 "),
        ("left_child=1", "left_child=0"),
        ("right_child=", "right_child=-9999 "),
        ("split_feature=", "split_feature=88 "),
        ("num_leaves=", "num_leaves=1"),
        ("num_cat=0", "num_cat=1"),
        ("decision_type=2", "decision_type=3"),
        ("leaf_value=", "leaf_value=x "),
        ("leaf_count=", "leaf_count=1 "),
        ("threshold=", "hreshold="),
        ("max_feature_idx=", "max_feature_idx=9"),
        ("feature_names=loss ", "feature_names=boss "),
        ("tree_sizes=", "tree_sizes=1"),
        ("tree_sizes=", "tree_sizes=-1 "),
        ("num_class=1", "num_class=3"),
        ("is_linear=0", "is_linear=1"),
        ("version=v4", "version=v2"),
        ("end of trees", "end"),
        ("end of parameters", ""),
        ("num_cat=0", "num_cat=0\nnum_cat=0"),
        ("leaf_value=", "leaf_value=inf "),
    ],
)
def test_trees_that_do_not_hold_together_are_refused_even_with_the_right_hash(folder: Path, old: str, new: str) -> None:
    """A tree that would read outside its arrays or walk in circles never reaches LightGBM."""
    text = (folder / TREE).read_text()
    assert old in text
    damaged = text.replace(old, new, 1)
    (folder / TREE).write_text(damaged)
    reseal(folder)
    with pytest.raises(FileFormatError, match=TREE):
        DifficultyPredictor.load(folder)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.99])
def test_a_truncated_model_is_refused_even_with_the_right_hash(folder: Path, share: float) -> None:
    """Wherever the text ends, the error is ours."""
    text = (folder / TREE).read_text()
    (folder / TREE).write_text(text[: int(share * len(text))])
    reseal(folder)
    with pytest.raises(FileFormatError, match=TREE):
        DifficultyPredictor.load(folder)


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"retrain": 3, "erase": {}}', '{"retrain": {"percentile": {"t": [null]}}}']
)
def test_residuals_of_another_shape_are_refused_even_with_the_right_hash(folder: Path, content: str) -> None:
    """Residuals must be lists of numbers for every objective and head."""
    (folder / "residuals.json").write_text(content)
    reseal(folder)
    with pytest.raises(FileFormatError, match=r"residuals\.json"):
        DifficultyPredictor.load(folder)


def test_a_model_of_other_features_is_refused_even_with_the_right_hash(folder: Path, tmp_path: Path) -> None:
    """Heads must be over the columns that the manifest lists."""
    other = DifficultyPredictor.fit(training_table(2, 40), FEATURES[:4], params=QUICK).save(tmp_path / "other")
    shutil.copy(other / TREE, folder / TREE)
    reseal(folder)
    with pytest.raises(FileFormatError, match="feature names"):
        DifficultyPredictor.load(folder)


def test_a_file_that_may_not_be_read_is_a_path_error(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Missing rights are reported as such (played, for root may read everything)."""
    read = Path.read_bytes

    def refuse(path: Path) -> bytes:
        if path.name == "residuals.json":
            raise PermissionError(13, "Permission denied", str(path))
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(PathError, match=r"residuals\.json"):
        DifficultyPredictor.load(folder)


def test_loading_prints_nothing(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Neither a good nor a damaged predictor writes to stdout or stderr."""
    DifficultyPredictor.load(folder).predict(fresh_features(), "retrain")
    (folder / TREE).write_text("tree")
    with pytest.raises(FileFormatError):
        DifficultyPredictor.load(folder)
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""


def test_the_published_predictor_is_looked_for_beside_the_package(
    predictor: DifficultyPredictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """First inside the package, then in the checkout; without either the message says how to get one."""
    package = tmp_path / "src" / "forgetcast"
    package.mkdir(parents=True)
    monkeypatch.setattr(folders, "PACKAGE", package)
    with pytest.raises(PathError, match="forgetcast train"):
        DifficultyPredictor.published()
    predictor.save(tmp_path / "models" / "published")
    assert DifficultyPredictor.published().fingerprint == predictor.fingerprint
    inside = DifficultyPredictor.fit(training_table(2, 40), FEATURES, params=QUICK)
    inside.save(package / "published_model")
    assert DifficultyPredictor.published().fingerprint == inside.fingerprint
