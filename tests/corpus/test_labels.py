"""From outcomes to labels: known answers on hand-made outcomes, and reliability of simulated ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import rankdata

from forgetcast.corpus.labels import (
    CONSENSUS,
    agreement,
    consensus,
    difficulty,
    harmonic_score,
    reliability,
    spearman_brown,
)
from forgetcast.errors import InputError, UnknownNameError
from forgetcast.ranks import weighted_percentile
from forgetcast.registry import load_unlearners

SHARES = st.floats(0, 1).map(lambda share: share if share > 1e-9 else 0.0)


def outcomes(values: dict[str, Any], target: str = "t", objective: str = "erase", seed: int = 0) -> pd.DataFrame:
    """Outcome rows in which unlearner u gives sample k the difficulty values[u][k], by damage to all data alike."""
    frames = []
    for unlearner, hard in values.items():
        hard = np.asarray(hard, dtype=float)
        # H = 3 / (1 + 2 / (1 - tv)) = 1 - hard  <=>  tv = 1 - 2 / (3 / (1 - hard) - 1)
        damage = 1 - 2 / (3 / (1 - hard) - 1)
        frames.append(
            pd.DataFrame(
                {
                    "target": target,
                    "index": 10 + np.arange(len(hard)),
                    "unlearner": unlearner,
                    "seed": seed,
                    "objective": objective,
                    "trivial": hard == 0,
                    "forgetting": 1.0,
                    "tv_retain": damage,
                    "tv_test": damage,
                }
            )
        )
    return pd.concat(frames, ignore_index=True)


def instances(n: int, target: str = "t", weight: Any = 1.0) -> pd.DataFrame:
    """Their instances, with weights."""
    return pd.DataFrame({"target": target, "index": 10 + np.arange(n), "weight": weight})


# -- one outcome ----------------------------------------------------------------------------------------------------


@settings(max_examples=100)
@given(SHARES, SHARES, SHARES)
def test_the_harmonic_score_is_the_harmonic_mean(forgetting: float, tv_retain: float, tv_test: float) -> None:
    """Of forgetting and both fidelities; between the least and the greatest of them, and 0 where one is 0."""
    score = float(harmonic_score(*(np.array([value]) for value in (forgetting, tv_retain, tv_test)))[0])
    parts = [forgetting, 1 - tv_retain, 1 - tv_test]
    if min(parts) == 0:
        assert score == 0
    else:
        assert score == pytest.approx(3 / sum(1 / part for part in parts))
        assert min(parts) - 1e-12 <= score <= max(parts) + 1e-12


@settings(max_examples=50)
@given(SHARES, SHARES, SHARES, st.floats(0, 1))
def test_more_damage_or_less_forgetting_is_harder(forgetting: float, tv: float, other: float, more: float) -> None:
    """Difficulty never falls when one part gets worse."""
    worse = tv + more * (1 - tv)
    frame = pd.DataFrame(
        {
            "forgetting": [forgetting, forgetting, forgetting * (1 - more)],
            "tv_retain": [tv, worse, tv],
            "tv_test": other,
        }
    )
    values = difficulty(frame)
    assert values.between(0, 1).all()
    assert values[1] >= values[0] - 1e-12
    assert values[2] >= values[0] - 1e-12


def test_nothing_to_do_is_no_difficulty_and_nothing_forgotten_is_the_greatest() -> None:
    """The ends of the scale, on an index of the caller's own."""
    frame = pd.DataFrame(
        {"forgetting": [1.0, 0.0, 1.0, 0.5], "tv_retain": [0, 0, 1.0, 0], "tv_test": [0, 0, 0, 0.0]}, index=[9, 3, 7, 1]
    )
    values = difficulty(frame)
    assert values.index.tolist() == [9, 3, 7, 1]
    assert values.name == "difficulty"
    np.testing.assert_allclose(values, [0, 1, 1, 1 - 3 / (2 + 1 + 1)])


# -- percentiles ----------------------------------------------------------------------------------------------------

NUMBERS = st.lists(st.integers(-5, 5).map(float) | st.floats(-1e6, 1e6), min_size=1, max_size=30)


@given(NUMBERS)
def test_equal_weights_give_plain_mid_ranks(values: list[float]) -> None:
    """The weighted percentile is scipy's average rank, less a half, over n."""
    got = weighted_percentile(np.array(values), np.full(len(values), 3.7))
    np.testing.assert_allclose(got, (rankdata(values) - 0.5) / len(values), rtol=1e-9)


@given(st.data())
def test_percentiles_are_monotone_and_inside(data: st.DataObject) -> None:
    """A larger value has a larger percentile, equal values the same, whatever the weights; all lie in (0, 1)."""
    values = np.array(data.draw(NUMBERS))
    weights = np.array([data.draw(st.floats(0.01, 100)) for _ in values])
    got = weighted_percentile(values, weights)
    assert ((got > 0) & (got < 1)).all()
    for i in range(len(values)):
        assert (got[values < values[i]] < got[i]).all()
        assert (got[values == values[i]] == got[i]).all()
    assert np.average(got, weights=weights) == pytest.approx(0.5)


@given(st.data())
def test_a_weight_is_as_good_as_that_many_copies(data: st.DataObject) -> None:
    """Whole-number weights give the percentiles of the sample with every value repeated so often."""
    values = np.array(data.draw(st.lists(st.integers(0, 6), min_size=1, max_size=12)), dtype=float)
    counts = np.array([data.draw(st.integers(1, 4)) for _ in values])
    repeated = weighted_percentile(np.repeat(values, counts), np.ones(counts.sum()))
    np.testing.assert_allclose(weighted_percentile(values, counts), repeated[np.cumsum(counts) - 1])


# -- consensus ------------------------------------------------------------------------------------------------------


def test_the_consensus_averages_unlearners_of_which_each_averages_its_seeds() -> None:
    """One unlearner with three seeds counts as much as one with a single seed."""
    table = pd.concat(
        [
            outcomes({"a": [0.1, 0.5, 0.1], "b": [0.3, 0.4, 0.0]}),
            outcomes({"a": [0.3, 0.5, 0.1]}, seed=1),
            outcomes({"a": [0.2, 0.2, 0.1]}, seed=2),
        ]
    )
    result = consensus(table, instances(3), "erase", ["a", "b"])
    assert list(result.columns) == ["target", "index", "objective", "difficulty", "percentile", "trivial", "weight"]
    assert result["index"].tolist() == [10, 11, 12]
    np.testing.assert_allclose(result["difficulty"], [(0.2 + 0.3) / 2, (0.4 + 0.4) / 2, (0.1 + 0.0) / 2])
    np.testing.assert_allclose(result["percentile"], [1 / 2, 5 / 6, 1 / 6])
    assert not result["trivial"].any(), "it is trivial under one unlearner only"
    assert (result["objective"] == "erase").all()


def test_percentiles_are_weighted_and_within_the_target() -> None:
    """A sample that stands for nine others takes up their room; targets do not mix."""
    table = pd.concat([outcomes({"a": [0.1, 0.2]}, "one"), outcomes({"a": [0.7, 0.9]}, "two")])
    known = pd.concat([instances(2, "one", [9.0, 1.0]), instances(2, "two")])
    result = consensus(table, known, "erase", ["a"]).set_index(["target", "index"])
    np.testing.assert_allclose(result.loc["one", "percentile"], [0.45, 0.95])
    np.testing.assert_allclose(result.loc["two", "percentile"], [0.25, 0.75])
    assert result.loc["one", "weight"].tolist() == [9.0, 1.0]


def test_trivial_means_trivial_under_all() -> None:
    """For every unlearner and every seed."""
    table = outcomes({"a": [0.0, 0.0, 0.4], "b": [0.0, 0.1, 0.4]})
    assert consensus(table, instances(3), "erase", ["a", "b"])["trivial"].tolist() == [True, False, False]


def test_samples_without_all_unlearners_are_left_out() -> None:
    """A mean over fewer unlearners would not be comparable."""
    table = outcomes({"a": [0.1, 0.2, 0.3], "b": [0.1, 0.2, 0.3]})
    table = table[~((table["unlearner"] == "b") & (table["index"] == 11))]
    result = consensus(table, instances(3), "erase", ["a", "b"])
    assert result["index"].tolist() == [10, 12]
    np.testing.assert_allclose(result["percentile"], [0.25, 0.75])
    apart = pd.concat([outcomes({"a": [0.1, 0.2]}), outcomes({"b": [0.1, 0.2]}).assign(index=[90, 91])])
    with pytest.raises(InputError, match="no sample was measured under all of a, b"):
        consensus(apart, instances(2), "erase", ["a", "b"])


def test_objectives_do_not_mix() -> None:
    """Each has its own consensus, and what is missing is named with what there is."""
    table = pd.concat([outcomes({"a": [0.1, 0.2]}), outcomes({"a": [0.6, 0.5]}, objective="retrain")])
    for objective, first in (("erase", 0.25), ("retrain", 0.75)):
        assert consensus(table, instances(2), objective, ["a"])["percentile"][0] == first
    with pytest.raises(InputError, match=r"no outcomes for objective 'forget'; there are \['erase', 'retrain'\]"):
        consensus(table, instances(2), "forget", ["a"])
    with pytest.raises(UnknownNameError, match=r"unknown unlearner in these outcomes 'aa'.*Known: a"):
        consensus(table, instances(2), "erase", ["a", "aa"])


def test_the_default_consensus_is_of_registered_unlearners() -> None:
    """A name that nothing is registered under would stop every fit."""
    assert set(CONSENSUS) <= set(load_unlearners())
    assert len(set(CONSENSUS)) == len(CONSENSUS)
    assert "retraining" not in CONSENSUS


# -- agreement and reliability --------------------------------------------------------------------------------------


def test_agreement_is_the_mean_rank_correlation_over_targets() -> None:
    """A target on which an unlearner says the same of all samples has no correlation and does not spoil the rest."""
    table = pd.concat(
        [
            outcomes({"a": [0.1, 0.2, 0.3, 0.4], "b": [0.1, 0.2, 0.3, 0.4]}, "one"),
            outcomes({"a": [0.1, 0.2, 0.3, 0.4], "b": [0.4, 0.3, 0.2, 0.1]}, "two"),
            outcomes({"a": [0.1, 0.2, 0.3, 0.4], "b": [0.1, 0.3, 0.2, 0.4]}, "three"),
        ]
    )
    result = agreement(table, "erase", ["a", "b"])
    assert result.index.tolist() == result.columns.tolist() == ["a", "b"]
    np.testing.assert_allclose(result, [[1, 0.8 / 3], [0.8 / 3, 1]])
    flat = outcomes({"a": [0.1, 0.2, 0.3, 0.4], "b": [0.0, 0.0, 0.0, 0.0]}, "flat")
    np.testing.assert_allclose(agreement(pd.concat([table, flat]), "erase", ["a", "b"]), result)
    assert np.isnan(agreement(flat, "erase", ["a", "b"]).loc["a", "b"])


def test_spearman_brown_doubles_the_length() -> None:
    """The reliability of two halves together; a correlation of -1 has none."""
    assert spearman_brown(0.0) == 0
    assert spearman_brown(1.0) == 1
    assert spearman_brown(0.5) == pytest.approx(2 / 3)
    assert np.isnan(spearman_brown(-1.0))


def simulated(n: int, shared: float, by_seed: float, seeds: int = 2, unlearners: int = 4) -> pd.DataFrame:
    """Outcomes = the sample's own difficulty + noise of each unlearner + noise of each run."""
    rng = np.random.default_rng(0)
    own = rng.normal(size=n)
    frames = []
    for u in range(unlearners):
        theirs = own + shared * rng.normal(size=n)
        for seed in range(seeds):
            value = theirs + by_seed * rng.normal(size=n)
            frames.append(outcomes({f"u{u}": 0.5 + 0.04 * value}, seed=seed))
    return pd.concat(frames, ignore_index=True)


@pytest.mark.parametrize("noise", [0.3, 1.0, 2.0])
def test_reliability_over_unlearners_comes_out_as_simulated(noise: float) -> None:
    """The mean of four unlearners with independent noise has reliability 1 / (1 + noise² / 4)."""
    names = [f"u{k}" for k in range(4)]
    table = reliability(simulated(1500, noise, 0.0), instances(1500), "erase", names)
    value = table.set_index("kind").loc["unlearners", "reliability"]
    assert value == pytest.approx(1 / (1 + noise**2 / 4), abs=0.05)


@pytest.mark.parametrize("noise", [0.3, 1.0, 2.0])
def test_reliability_over_seeds_comes_out_as_simulated(noise: float) -> None:
    """Two runs of each of four unlearners: noise² / 8 against what stays; noise of the unlearners does not count."""
    names = [f"u{k}" for k in range(4)]
    table = reliability(simulated(1500, 0.0, noise), instances(1500), "erase", names)
    value = table.set_index("kind").loc["seeds", "reliability"]
    assert value == pytest.approx(1 / (1 + noise**2 / 8), abs=0.05)
    constant = reliability(simulated(300, 1.0, 0.0), instances(300), "erase", names).set_index("kind")
    assert constant.loc["seeds", "reliability"] == pytest.approx(1.0)


def test_an_unlearner_without_randomness_enters_both_halves() -> None:
    """It has no seed noise, and one run; the split must not lose it."""
    noisy = simulated(400, 0.5, 1.0, unlearners=2)
    sure = simulated(400, 0.5, 0.0, seeds=1, unlearners=1).assign(unlearner="sure")
    both = reliability(pd.concat([noisy, sure]), instances(400), "erase", ["u0", "u1", "sure"]).set_index("kind")
    alone = reliability(noisy, instances(400), "erase", ["u0", "u1"]).set_index("kind")
    assert both.loc["seeds", "reliability"] > alone.loc["seeds", "reliability"]


def test_reliability_of_the_oracle_compares_its_halves() -> None:
    """For ``retrain`` only, and corrected for the halves' length."""
    rng = np.random.default_rng(0)
    own = rng.normal(size=1500)
    table = outcomes({"a": np.full(1500, 0.5), "b": np.full(1500, 0.5)}, objective="retrain")
    known = instances(1500).assign(
        p_out_half_a=own + 0.7 * rng.normal(size=1500), p_out_half_b=own + 0.7 * rng.normal(size=1500)
    )
    result = reliability(table, known, "retrain", ["a", "b"])
    assert list(result.columns) == ["target", "objective", "kind", "reliability"]
    assert set(result["objective"]) == {"retrain"}
    by_kind = result.set_index("kind")["reliability"]
    assert by_kind["oracle"] == pytest.approx(1 / (1 + 0.49 / 2), abs=0.05)
    assert np.isnan(by_kind["unlearners"]), "constant labels have no reliability"
    erase = reliability(table.assign(objective="erase"), known, "erase", ["a", "b"])
    assert "oracle" not in set(erase["kind"])


def test_reliability_that_cannot_be_computed_is_nan() -> None:
    """One unlearner, one seed, or fewer than four samples."""
    alone = reliability(simulated(50, 1.0, 0.0, seeds=1), instances(50), "erase", ["u0"])
    assert alone["kind"].tolist() == ["unlearners"]
    assert alone["reliability"].isna().all()
    few = reliability(simulated(3, 1.0, 1.0), instances(3), "erase", ["u0", "u1"])
    assert few["reliability"].isna().all()


def test_every_target_has_reliabilities_of_its_own() -> None:
    """Rows per target and kind."""
    two = [simulated(60, 0.5, 0.5).assign(target=name) for name in ("one", "two")]
    known = pd.concat([instances(60, "one"), instances(60, "two")])
    result = reliability(pd.concat(two), known, "erase", ["u0", "u1", "u2"])
    assert sorted(zip(result["target"], result["kind"], strict=True)) == [
        ("one", "seeds"),
        ("one", "unlearners"),
        ("two", "seeds"),
        ("two", "unlearners"),
    ]
