"""Cross-fitted surrogates: folds by content, and perceptrons that never saw a sample's fold."""

from __future__ import annotations

import itertools
import zlib

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from forgetcast import Target
from forgetcast._cross_fitted import (
    content_folds,
    perceptron_confidence,
    row_checksums,
)
from forgetcast._random import seeded
from forgetcast.errors import NotApplicableError
from forgetcast.probes import Probes


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


def test_checksums_read_every_byte_of_a_sample() -> None:
    """The checksum is that of the sample's bytes, tensor after tensor, for numbers of any kind and layout."""
    x = {
        "tokens": torch.arange(12).reshape(4, 3),
        "image": torch.rand(4, 2, 3, 3),
        "flag": torch.tensor([1, 0, 1, 1]) > 0,
    }
    laid_out = {**x, "image": x["image"].contiguous(memory_format=torch.channels_last)}
    expected = [zlib.crc32(b"".join(part[i].numpy().tobytes() for part in x.values())) for i in range(4)]
    assert row_checksums(x).tolist() == row_checksums(laid_out).tolist() == expected
    assert len(set(expected)) == 4
    assert len(row_checksums(torch.rand(3, 4).bfloat16())) == 3


def test_folds_are_even_within_every_class_and_follow_the_content() -> None:
    """Each class is spread evenly, copies are apart, and reordered samples keep their folds."""
    checksums = torch.randint(0, 1000, (103,), generator=torch.Generator().manual_seed(0))
    checksums[[0, 3, 12]] = 500
    labels = torch.arange(103) % 3
    folds = content_folds(checksums, labels)
    of_sample = torch.empty(103, dtype=torch.int64)
    of_sample[folds.order] = folds.fold
    for c in range(3):
        counts = torch.bincount(of_sample[labels == c], minlength=folds.count)
        assert int(counts.max() - counts.min()) <= 1
    assert len(set(of_sample[[0, 3, 12]].tolist())) == 3
    distinct = torch.randperm(103, generator=torch.Generator().manual_seed(1))
    order = torch.randperm(103, generator=torch.Generator().manual_seed(2))
    first, second = content_folds(distinct, labels), content_folds(distinct[order], labels[order])
    assert torch.equal(order[second.order], first.order)
    assert torch.equal(second.fold, first.fold)


# -- learners -------------------------------------------------------------------------------------------------------


def test_perceptrons_equal_single_ones_trained_one_by_one() -> None:
    """Side by side they are what each network is that is trained alone on its part of the same batches."""
    z, y = clouds(50)
    folds = content_folds(torch.arange(50), y, count=3)
    generator = torch.Generator().manual_seed(0)
    owner, size, passes = [0, 0, 1, 1, 2, 2], 20, 16
    first = torch.randn(5, 6, 8, generator=generator) * (2 / 5) ** 0.5
    last = torch.randn(6, 8, 3, generator=generator) / 8**0.5
    drawn = [torch.randperm(50, generator=generator) for _ in range(passes)]
    batches = [part for order in drawn for part in order.split(size) if len(part) == size]
    total = torch.zeros(50)
    for model, k in enumerate(owner):
        net = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3))
        with torch.no_grad():
            for layer, weight in ((net[0], first[:, model]), (net[2], last[model])):
                layer.weight.copy_(weight.T)
                layer.bias.zero_()
        optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3, weight_decay=1e-4)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=len(batches) + 1)
        for batch in batches:
            rows = folds.order[batch[folds.fold[batch] != k]]
            optimizer.zero_grad()
            F.cross_entropy(net(z[rows]), y[rows]).backward()
            optimizer.step()
            schedule.step()
        out = folds.order[folds.fold == k]
        total[out] += net(z[out]).softmax(1)[torch.arange(len(out)), y[out]].detach() / 2
    got = perceptron_confidence(z, y, 3, folds, hidden=8, restarts=2)
    assert torch.allclose(got.float(), total, atol=1e-4)


def test_no_perceptron_sees_the_label_that_it_is_asked_about() -> None:
    """With another label a sample's fold, left as it was, says the rest to 1: nothing of the label was learned."""
    z, y = clouds(60, classes=2)
    folds = content_folds(torch.arange(60), y)
    other = y.clone()
    other[5] = 1 - y[5]
    before, after = (perceptron_confidence(z, labels, 2, folds)[5] for labels in (y, other))
    assert float(before + after) == pytest.approx(1, abs=1e-4)


def test_perceptrons_know_clear_classes_and_doubt_wrong_labels() -> None:
    """On clear clouds the right labels are nearly sure, and no wrong one is likely."""
    z, y = clouds(400, noise=0.2)
    wrong = torch.arange(400) % 20 == 0
    labels = torch.where(wrong, (y + 1) % 3, y)
    got = perceptron_confidence(z, labels, 3, content_folds(torch.arange(400), labels))
    assert float(got[~wrong].median()) > 0.9
    assert float(got[wrong].max()) < 0.5
    assert bool(((got >= 0) & (got <= 1)).all())


def test_two_samples_are_enough() -> None:
    """Fitted to one sample each, both perceptrons answer."""
    z, y = clouds(20)
    assert bool(torch.isfinite(perceptron_confidence(z[:2], y[:2], 3, content_folds(torch.arange(2), y[:2]))).all())


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
    assert three.early_perceptron is three.middle_perceptron


def test_one_sample_cannot_be_left_out() -> None:
    """With one sample the probes say why there is nothing to fit."""
    x, _ = clouds(20)
    with pytest.raises(NotApplicableError, match="at least two samples"):
        _ = Probes(Target(perceptron(5, 6, 7, 3), (x[:1], torch.tensor([0])))).input_perceptron


def test_the_surrogate_confidence_is_a_mean_over_kinds_of_surrogates() -> None:
    """Votes and ridges, perceptrons of distinct layers and the last layer count alike, as far as they apply."""
    x, y = clouds(30)
    probes = Probes(Target(perceptron(5, 6, 7, 3), (x, y)))
    networks = (probes.input_perceptron + probes.middle_perceptron) / 2
    kinds = [probes.surrogates.mean(1), networks, probes.leave_one_out_probability]
    assert torch.allclose(probes.surrogate_confidence, sum(kinds) / 3)  # type: ignore[arg-type]
    headless = nn.Sequential(nn.Linear(5, 6), nn.Unflatten(1, (3, 2)), nn.AdaptiveAvgPool1d(1), nn.Flatten())
    without = Probes(Target(headless, (x, y)))
    networks = (without.input_perceptron + without.middle_perceptron) / 2
    assert torch.allclose(without.surrogate_confidence, (without.surrogates.mean(1) + networks) / 2)
