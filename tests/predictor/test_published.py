"""The published corpus, predictor and evaluation belong together and can be made again in part."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.special import logit

from forgetcast import Corpus, DifficultyPredictor
from forgetcast.corpus.labels import CONSENSUS, difficulty
from forgetcast.corpus.tasks import outcome_block
from forgetcast.corpus.zoo.recipes import Recipe
from forgetcast.evaluation.scores import within_target_rho
from forgetcast.evaluation.table import feature_columns, training_table
from forgetcast.predictor.columns import EXPLAINED, from_log_scale
from forgetcast.predictor.heads import fit_without
from places import ROOT

pytestmark = pytest.mark.slow

EVALUATION = ROOT / "benchmarks" / "evaluation"
AGAIN = ("wine-mlp", "digits-mlp")


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    """As it is shipped."""
    return Corpus.published()


@pytest.fixture(scope="module")
def table(corpus: Corpus) -> pd.DataFrame:
    """Labels and factors."""
    return training_table(corpus)


def test_the_corpus_is_as_large_as_its_card_says(corpus: Corpus) -> None:
    """Targets, datasets, architectures, instances, unlearners and seeds; every target has its oracle."""
    targets = corpus.targets
    assert len(targets) >= 36
    assert targets["dataset"].nunique() >= 6
    assert targets["architecture"].nunique() >= 7
    assert corpus.instances.groupby("target").size().min() >= 150
    unlearners = corpus.outcomes.groupby("target")["unlearner"].nunique()
    assert (unlearners >= 8).sum() >= 36
    assert (corpus.outcomes.groupby("unlearner")["seed"].nunique() > 1).sum() >= 3
    assert corpus.instances[["p_out", "p_in", "weight"]].notna().all(axis=None)
    assert set(corpus.outcomes["objective"]) == {"retrain", "erase"}
    assert all(isinstance(target["recipe"], dict) and target["settings"] for target in corpus.manifest["targets"])


def test_the_predictor_was_fitted_to_this_corpus(corpus: Corpus) -> None:
    """The manifest names the corpus's hash, its targets and the same columns."""
    predictor = DifficultyPredictor.published()
    assert predictor.manifest["provenance"]["corpora"] == [corpus.digest]
    assert set(predictor.manifest["training"]["rows"]) == set(corpus.targets["target"])
    assert list(predictor.features) == feature_columns(corpus)


def test_the_evaluation_is_of_this_corpus(table: pd.DataFrame) -> None:
    """The measured side of every stored forecast is the corpus's label."""
    stored = pd.read_parquet(EVALUATION / "predictions.parquet").query("held_out == 'target' and objective == 'erase'")
    both = stored.merge(table[["target", "index", "percentile_erase"]], on=["target", "index"], validate="one_to_one")
    assert len(both) == len(stored) == len(table)
    np.testing.assert_allclose(both["percentile_measured"], both["percentile_erase"], atol=1e-12)


@pytest.mark.parametrize("objective", ["retrain", "erase"])
def test_a_held_out_forecast_comes_out_again(table: pd.DataFrame, objective: str) -> None:
    """One target is left out and forecast anew: the stored forecasts, and the stored rank correlation."""
    name = "satellite-mlp-noise"
    features = list(DifficultyPredictor.published().features)
    params = DifficultyPredictor.published().manifest["params"]
    groups = table["target"].to_numpy(dtype=object)
    again = fit_without(
        table, features, objective, groups, heads=("percentile", "difficulty"), params=params, only=[name]
    )[groups == name]
    stored = pd.read_parquet(EVALUATION / "predictions.parquet").query(
        "held_out == 'target' and objective == @objective and target == @name"
    )
    np.testing.assert_allclose(again["percentile"].clip(0, 1), stored["percentile"], atol=1e-6)
    np.testing.assert_allclose(
        from_log_scale(again["difficulty"].clip(0, 1).to_numpy()), stored["difficulty"], atol=1e-6
    )
    measured = stored["percentile_measured"].to_numpy(float)
    rho = within_target_rho(again[["percentile"]].to_numpy(), measured, stored["target"].to_numpy(dtype=object), [name])
    reported = pd.read_csv(EVALUATION / "per_target.csv").query(
        "group == 'target' and objective == @objective and target == @name"
    )
    assert rho[0, 0] == pytest.approx(reported["rho"].item(), abs=1e-6)


@pytest.mark.parametrize("objective", ["retrain", "erase"])
def test_every_head_of_the_shipped_predictor_is_taken_apart(table: pd.DataFrame, objective: str) -> None:
    """Base plus SHAP values is the head's raw output, for the chance to be trivial its log-odds."""
    predictor = DifficultyPredictor.published()
    rows = table[list(predictor.features)].iloc[::300]
    heads = predictor.heads(objective)
    assert set(EXPLAINED) < set(heads)
    for head in EXPLAINED:
        values, base = predictor.contributions(rows, objective, head)
        raw = heads[head].raw(rows.to_numpy(dtype=float))
        np.testing.assert_allclose(base + values.sum(axis=1), logit(raw) if head == "trivial" else raw, atol=1e-6)
        assert values.any()


@pytest.mark.parametrize("name", AGAIN)
def test_a_target_and_its_labels_come_out_again(corpus: Corpus, name: str) -> None:
    """From the recipe in the manifest: the same data, and for some samples the stored difficulty under two unlearners.

    Another processor may round otherwise, so weights are compared by what they do.
    """
    described = corpus.targets.set_index("target").loc[name]
    target = Recipe.from_dict(described["recipe"]).build()
    assert target.data_hash == described["data_hash"]
    own = corpus.outcomes[(corpus.outcomes["target"] == name) & (corpus.outcomes["seed"] == 0)]
    chosen = corpus.instances[corpus.instances["target"] == name].iloc[::25]
    for unlearner in ("gradient_ascent", "scrub"):
        arguments = (chosen["index"].to_numpy(), chosen["p_out"].to_numpy(), 0, ("retrain", "erase"))
        made = outcome_block(target, unlearner, *arguments)
        made = made.assign(again=difficulty(made))[["index", "objective", "again"]]
        stored = own[own["unlearner"] == unlearner]
        stored = stored.assign(stored=difficulty(stored))[["index", "objective", "stored"]]
        both = made.merge(stored, on=["index", "objective"], validate="one_to_one")
        assert len(both) == 2 * len(chosen)
        np.testing.assert_allclose(both["again"], both["stored"], rtol=0.1, atol=2e-3)


def test_the_consensus_is_of_unlearners_that_every_target_has(corpus: Corpus) -> None:
    """No target is labelled by fewer unlearners than another."""
    counts = corpus.outcomes.groupby("target")["unlearner"].unique()
    assert all(set(CONSENSUS) <= set(names) for names in counts)
