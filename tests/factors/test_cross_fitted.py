"""Cross-fitted surrogates: kernel logistic regressions that never saw a sample's fold."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from forgetcast import Target
from forgetcast.errors import NotApplicableError
from forgetcast.factors.probes.cross_fitted import PENALTY, Features, fold_numbers, logistic_confidence, repeats
from forgetcast.factors.probes.probes import Probes
from forgetcast.target.seeding import seeded


def clouds(n: int, *, noise: float = 1.0, classes: int = 3) -> tuple[Tensor, Tensor]:
    """Standardised points around one centre per class."""
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(n) % classes
    x = noise * torch.randn(n, 5, generator=generator) + 2 * F.one_hot(y, 5)
    return (x - x.mean(0)) / x.std(0), y


def perceptron(*widths: int) -> nn.Module:
    with seeded(0):
        return nn.Sequential(*(nn.Linear(a, b) for a, b in itertools.pairwise(widths)))


# -- folds ----------------------------------------------------------------------------------------------------------


def test_every_run_of_samples_is_dealt_over_all_folds() -> None:
    """So classes that stand together are even, and a copy beside a sample is in another fold but at a run's end."""
    fold = fold_numbers(103, 5, torch.Generator().manual_seed(0))
    assert all(sorted(run.tolist()) == [0, 1, 2, 3, 4] for run in fold[:100].split(5))
    assert len(set(fold[100:].tolist())) == 3
    assert not torch.equal(fold, fold_numbers(103, 5, torch.Generator().manual_seed(1)))


# -- learners -------------------------------------------------------------------------------------------------------


def test_the_kernel_is_the_tangent_kernel_of_wide_networks() -> None:
    """Inner products of features are those of the gradients of a network with 200,000 rectifiers, drawn at random."""
    z = torch.randn(12, 4, generator=torch.Generator().manual_seed(0))
    features = Features.of(z)(z)[:, :-1].double()
    kernel = features @ features.T
    lifted = torch.cat([z / 2, torch.ones(12, 1)], 1)
    generator = torch.Generator().manual_seed(1)
    inner = torch.randn(200_000, 5, generator=generator)
    outer = torch.randn(200_000, generator=generator)
    active = (lifted @ inner.T).relu()
    slopes = (active > 0).float() * outer
    expected = (active @ active.T + (slopes @ slopes.T) * (lifted @ lifted.T)).double()
    assert torch.allclose(kernel / kernel.trace(), expected / expected.trace(), atol=0.02 / 12)
    assert float(kernel.diagonal().mean()) == pytest.approx(1, abs=1e-4)


def test_regressions_equal_those_of_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    """One repeat on all landmarks is five penalised logistic regressions, each fitted without its fold."""
    monkeypatch.setattr("forgetcast.factors.probes.cross_fitted.FITS", 1)
    monkeypatch.setattr("forgetcast.factors.probes.cross_fitted.STEPS", 3000)
    z, y = clouds(60)
    generator = torch.Generator().manual_seed(3)
    fold = fold_numbers(60, 5, generator)
    features = Features.of(z[torch.randperm(60, generator=generator)])(z)[:, :-1].numpy()
    expected = torch.zeros(60, dtype=torch.float64)
    for k in range(5):
        seen, left = (fold != k).numpy(), (fold == k).numpy()
        fitted = LogisticRegression(C=1 / (PENALTY * seen.sum()), tol=1e-8, max_iter=5000)
        fitted.fit(features[seen], y.numpy()[seen])
        own = torch.from_numpy(fitted.predict_proba(features[left])).double()
        expected[fold == k] = own.gather(1, y[fold == k, None])[:, 0]
    assert torch.allclose(logistic_confidence(z, y, 3, seed=3), expected, atol=5e-3)


def test_no_regression_sees_the_label_that_it_is_asked_about() -> None:
    """With another label a sample's fold, left as it was, says the rest to 1: nothing of the label was learned."""
    z, y = clouds(60, classes=2)
    other = y.clone()
    other[5] = 1 - y[5]
    before, after = (logistic_confidence(z, labels, 2)[5] for labels in (y, other))
    assert float(before + after) == pytest.approx(1, abs=1e-4)


def test_regressions_know_clear_classes_and_doubt_wrong_labels() -> None:
    """On clear clouds the right labels are nearly sure, and no wrong one is likely."""
    z, y = clouds(400, noise=0.2)
    wrong = torch.arange(400) % 20 == 0
    labels = torch.where(wrong, (y + 1) % 3, y)
    got = logistic_confidence(z, labels, 3)
    assert float(got[~wrong].median()) > 0.9
    assert float(got[wrong].max()) < 0.5
    assert bool(((got >= 0) & (got <= 1)).all())


def test_many_samples_are_asked_about_when_some_are_fitted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Samples beyond those that are fitted get answers as good as theirs."""
    monkeypatch.setattr("forgetcast.factors.probes.cross_fitted.FITTED", 300)
    monkeypatch.setattr("forgetcast.factors.probes.cross_fitted.BLOCK", 128)
    z, y = clouds(1000, noise=0.5)
    assert float(logistic_confidence(z, y, 3).mean()) > 0.85


def test_repeats_bring_the_noise_down(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forty repeats differ from seed to seed a sixth as much as one does, as means of independent draws do."""
    z, y = clouds(120)
    assert (repeats(120), repeats(60_000)) == (40, 1)

    def noise() -> float:
        return float(torch.stack([logistic_confidence(z, y, 3, seed=seed) for seed in range(6)]).std(0).mean())

    many = noise()
    monkeypatch.setattr("forgetcast.factors.probes.cross_fitted.FITS", 1)
    assert 4 < noise() / many < 9


def test_two_samples_are_enough() -> None:
    """Fitted to one sample each, both regressions answer."""
    z, y = clouds(20)
    assert bool(torch.isfinite(logistic_confidence(z[:2], y[:2], 3)).all())


# -- probes ---------------------------------------------------------------------------------------------------------


def test_the_early_layer_is_nearest_to_a_quarter_of_the_depth() -> None:
    """Of eight layers it is the second; of three it is the first, which is the middle one too and is fitted once."""
    x, y = clouds(20)
    eight = perceptron(5, 6, 7, 8, 9, 8, 7, 6, 3)
    probes = Probes(Target(eight, (x, y)))
    expected = eight[1](eight[0](x)).detach()
    assert torch.allclose(probes.early, (expected - expected.mean(0)) / expected.std(0, unbiased=False), atol=1e-4)
    assert probes.middle.shape == (20, 9)
    three = Probes(Target(perceptron(5, 6, 7, 3), (x, y)))
    assert three.early is three.middle
    assert three.early_logistic is three.middle_logistic


def test_one_sample_cannot_be_left_out() -> None:
    """With one sample the probes say why there is nothing to fit."""
    x, _ = clouds(20)
    with pytest.raises(NotApplicableError, match="at least two samples"):
        _ = Probes(Target(perceptron(5, 6, 7, 3), (x[:1], torch.tensor([0])))).input_logistic


def test_the_surrogate_confidence_is_a_mean_over_kinds_of_surrogates() -> None:
    """Regressions of distinct layers and the last layer count alike, votes half as much, as far as they apply."""
    x, y = clouds(30)
    probes = Probes(Target(perceptron(5, 6, 7, 3), (x, y)))
    regressions = (probes.input_logistic + probes.middle_logistic) / 2
    votes = (probes.input_vote + probes.middle_vote + probes.feature_vote) / 3
    expected = 0.2 * votes + 0.4 * regressions + 0.4 * probes.leave_one_out_probability
    assert torch.allclose(probes.surrogate_confidence, expected)
    headless = nn.Sequential(nn.Linear(5, 6), nn.Unflatten(1, (3, 2)), nn.AdaptiveAvgPool1d(1), nn.Flatten())
    without = Probes(Target(headless, (x, y)))
    regressions = (without.input_logistic + without.middle_logistic) / 2
    votes = (without.input_vote + without.middle_vote) / 2
    assert torch.allclose(without.surrogate_confidence, (votes + 2 * regressions) / 3)
