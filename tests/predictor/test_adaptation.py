"""The change that measured samples make: against plain references, and its explanation."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from forgetcast.calibration import choose
from forgetcast.factors import quantile_column
from forgetcast.predictor.adaptation import Adaptation, Prior, adapt, fit_ridge
from forgetcast.predictor.retrained import RETRAINED, met_before, retraining_values

PRIOR = np.array([0.3, 0.2, 0.5])


def rows(n: int = 30, *, retrained: bool = False, seed: int = 0) -> tuple[np.ndarray, pd.DataFrame, np.ndarray]:
    """Forecasts, features and measured percentiles, whose error follows the quantile of one factor."""
    rng = np.random.default_rng(seed)
    features = pd.DataFrame({"a": rng.normal(size=n), "a_quantile": rng.random(n), "b_quantile": rng.random(n)})
    shipped = rng.random(n)
    if retrained:
        for name, values in retraining_values(np.full(n, 0.99), rng.random(n)).items():
            features[name], features[quantile_column(name)] = values, (values.argsort().argsort() + 0.5) / n
    return shipped, features, np.clip(shipped + 0.4 * (features["a_quantile"] - 0.5), 0, 1).to_numpy()


def adapted(retrained: bool = False) -> tuple[Adaptation, np.ndarray, pd.DataFrame, np.ndarray]:
    """An adaptation with what it was made from."""
    shipped, features, measured = rows(retrained=retrained)
    made, _ = adapt(shipped, features, measured, measured / 2, np.ones(len(measured)))
    return made, shipped, features, measured


def test_ridge_is_the_posterior_mean_and_leaves_each_sample_out() -> None:
    """Coefficients solve the normal equations; residuals are those of refits without the sample."""
    rng = np.random.default_rng(0)
    columns, errors = rng.normal(size=(8, 3)), rng.normal(size=8)
    found, left = fit_ridge(columns, errors, PRIOR, 0.4)

    def plain(X: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.linalg.solve(X.T @ X / 0.4**2 + np.diag(1 / PRIOR**2), X.T @ y / 0.4**2)

    assert np.allclose(found, plain(columns, errors))
    for k in range(8):
        others = np.arange(8) != k
        assert left[k] == pytest.approx(errors[k] - columns[k] @ plain(columns[others], errors[others]))


def test_errors_that_follow_a_factor_are_taken_back() -> None:
    """On fresh samples of the same target the adapted percentile is nearer to the truth than the shipped one."""
    made, *_ = adapted()
    shipped, features, measured = rows(200, seed=1)
    assert np.abs(made.percentile(shipped, features) - measured).mean() < 0.6 * np.abs(shipped - measured).mean()


def test_crossfitted_percentiles_are_those_of_an_adaptation_to_the_others() -> None:
    """Leaving a sample out by hand gives the same forecast of it, its centre aside."""
    shipped, features, measured = rows()
    _, crossfitted = adapt(shipped, features, measured, measured, np.ones(len(measured)), Prior(constant=10))
    for k in (0, 7):
        others = np.arange(len(measured)) != k
        made, _ = adapt(
            shipped[others], features[others], measured[others], measured[others], np.ones(29), Prior(constant=10)
        )
        assert made.percentile(shipped[[k]], features.iloc[[k]])[0] == pytest.approx(crossfitted[k], abs=1e-4)


@pytest.mark.parametrize("retrained", [False, True])
def test_contributions_add_up(retrained: bool) -> None:
    """Base and contributions of every sample sum to the adapted percentile, whatever part of the change applies."""
    made, shipped, features, _ = adapted(retrained)
    values = np.random.default_rng(2).normal(size=features.shape) / 10
    shipped = 0.4 + values.sum(axis=1)
    parts, base = made.contributions((values, 0.4), features)
    assert np.allclose(base + parts.sum(axis=1), made.percentile(shipped, features))
    if retrained:
        assert 0 < (features["retraining_gap"] > 0.05).mean() < 1


def test_with_retraining_trivial_samples_keep_the_start() -> None:
    """Where the gap is within the goal's slack, the percentile is the mean of forecast and gap's quantile."""
    made, shipped, features, _ = adapted(retrained=True)
    trivial = (features["retraining_gap"] <= 0.05).to_numpy()
    start = (shipped + features["retraining_gap_quantile"].to_numpy()) / 2
    found = made.percentile(shipped, features)
    assert np.allclose(found[trivial], start[trivial])
    assert not np.allclose(found[~trivial], start[~trivial])


def test_the_scale_is_monotone_and_the_interval_covers_what_was_measured() -> None:
    """Difficulty rises with the percentile; nine in ten cross-fitted errors lie within the half width."""
    made, *_ = adapted()
    difficulty = made.difficulty(np.linspace(0, 1, 50))
    assert (np.diff(difficulty) >= 0).all()
    alone = {"a target": made.errors["percentile"]}
    half = made.half_width("percentile", alone, 0.9)
    inside = (np.abs(made.errors["percentile"]) <= half).mean()
    assert 0.9 <= inside < 1
    assert made.half_width("percentile", alone, 0.5) < half
    assert made.half_width("percentile", {"a target": [0.9] * 20}, 0.9) > half
    assert made.half_width("percentile", alone, 0.999) == 1


def test_as_json_and_back_is_the_same() -> None:
    """The plain values hold all of it, and anything else is refused."""
    made, *_ = adapted(retrained=True)
    assert Adaptation.from_json(made.as_json()) == made
    for broken in ({}, {**made.as_json(), "weights": []}, {**made.as_json(), "scale": [[0.0], []]}):
        with pytest.raises((KeyError, ValueError)):
            Adaptation.from_json(broken)


@pytest.mark.parametrize(("share", "expected"), [(0.0, 0), (0.5, 4), (0.9, 4), (1.0, 20)])
def test_choice_is_spread_and_takes_few_trivial_samples(share: float, expected: int) -> None:
    """Distinct samples, trivial ones a fifth unless there are no others, weights that sum to the population."""
    order = np.random.default_rng(0).random(200)
    trivial = order < share
    trivial[: 200 * (share == 1)] = True
    places, weights = choose(order, trivial, 20, seed=3)
    assert len(set(places.tolist())) == 20
    assert trivial[places].sum() == max(expected, 20 - (~trivial).sum() if share else 0)
    assert weights.sum() == 200
    others = np.sort(order[~trivial])
    for low, high in zip(others[::20], others[19::20], strict=False):
        assert ((order[places] >= low) & (order[places] <= high) & ~trivial[places]).any()
    assert np.array_equal(places, choose(order, trivial, 20, seed=3)[0])


def test_probability_of_being_trivial_falls_with_the_gap() -> None:
    """Half of it is the forecast, the other half passes one half of itself at the slack."""
    found = met_before(np.array([-0.5, 0.05, 1.0]), np.full(3, 0.5))
    assert found == pytest.approx([0.75, 0.5, 0.25], abs=1e-4)


def test_gap_in_log_odds_reaches_zero_at_the_goal() -> None:
    """Both values come from the two probabilities alone, and certainty stays finite."""
    values = retraining_values(np.array([0.55, 1.0]), np.array([0.5, 0.2]))
    assert list(values) == list(RETRAINED)
    assert values["retraining_gap"] == pytest.approx([0.05, 0.8])
    assert values["retraining_gap_logit"][0] == pytest.approx(0)
    assert np.isfinite(values["retraining_gap_logit"]).all()
