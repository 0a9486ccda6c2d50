"""Rank agreement: the correlation is Spearman's, the interval covers, and undefined cases say so."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from forgetcast.errors import InputError
from forgetcast.predictor import agreement
from forgetcast.predictor.agreement import spearman_interval


def _pairs(n: int, seed: int = 0, r: float = 0.8) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=n)
    return x, r * x + np.sqrt(1 - r * r) * rng.normal(size=n)


@pytest.mark.parametrize("n", [4, 30, 1_001])
def test_rho_is_spearmans_with_ties(n: int) -> None:
    """The point estimate equals scipy's, ties at their mean rank."""
    rng = np.random.default_rng(n)
    x, y = rng.integers(0, 4, n), rng.integers(0, 4, n)
    assert spearman_interval(x, y).rho == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-12)


def test_interval_covers_the_true_correlation_about_as_often_as_it_says() -> None:
    """Over 200 bivariate normal samples, the 95 % interval holds the true rho in 90 to 99 % of them."""
    truth = 6 / np.pi * np.arcsin(0.8 / 2)
    intervals = [spearman_interval(*_pairs(40, seed), resamples=400) for seed in range(200)]
    assert 0.90 <= np.mean([i.low <= truth <= i.high for i in intervals]) <= 0.99


def test_bootstrap_and_fisher_agree_where_one_hands_over_to_the_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At 1,000 pairs both intervals are the same to about a hundredth."""
    x, y = _pairs(agreement.BOOTSTRAP_LIMIT)
    bootstrap = spearman_interval(x, y)
    monkeypatch.setattr(agreement, "BOOTSTRAP_LIMIT", 10)
    fisher = spearman_interval(x, y)
    assert bootstrap[1:3] == pytest.approx(fisher[1:3], abs=0.015)
    assert bootstrap[1:3] != fisher[1:3]


def test_same_seed_same_interval_whatever_the_order_of_pairs() -> None:
    """The interval is a function of the set of pairs and the seed."""
    x, y = _pairs(30)
    assert spearman_interval(x, y, seed=3) == spearman_interval(x, y, seed=3)
    assert spearman_interval(x, y, seed=3) != spearman_interval(x, y, seed=4)
    assert spearman_interval(x[::-1], y[::-1]) == spearman_interval(x, y)


def test_interval_narrows_with_more_pairs_and_widens_with_confidence() -> None:
    """More data is more certainty; more confidence is a wider interval."""
    width = {n: np.subtract(*spearman_interval(*_pairs(n))[2:0:-1]) for n in (20, 200, 2_000)}
    assert width[20] > width[200] > width[2_000] > 0
    x, y = _pairs(50)
    assert np.subtract(*spearman_interval(x, y, confidence=0.99)[2:0:-1]) > np.subtract(
        *spearman_interval(x, y, confidence=0.8)[2:0:-1]
    )


@pytest.mark.parametrize(("x", "y"), [([1, 2, 3], [1, 2, 3]), ([1] * 5, [1, 2, 3, 4, 5]), ([], [])])
def test_too_few_or_constant_is_nan_and_says_so(x: list[float], y: list[float]) -> None:
    """Below four pairs or with a constant side nothing is claimed."""
    result = spearman_interval(x, y)
    assert np.isnan(result[:3]).all()
    assert result.n == len(x)
    assert "not defined" in str(result)


def test_pairs_with_nan_are_left_out() -> None:
    """A NaN on either side removes the pair, and n says so."""
    x, y = _pairs(20)
    with_nan = spearman_interval([*x, np.nan, 1.0], [*y, 0.0, np.nan])
    assert with_nan == spearman_interval(x, y)
    assert with_nan.n == 20


def test_perfect_order_has_a_point_interval() -> None:
    """A perfect reversed order is -1 with nothing around it."""
    assert spearman_interval(range(9), range(9, 0, -1)) == (-1.0, -1.0, -1.0, 9)


def test_unequal_lengths_are_an_error() -> None:
    """The message says both lengths."""
    with pytest.raises(InputError, match="got 3 and 2"):
        spearman_interval([1, 2, 3], [1, 2])
