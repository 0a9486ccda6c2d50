"""Which samples are measured: two strata, inverse-probability weights, and a screen that finds wrong labels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from forgetcast.corpus.sampling import SUSPECT_SHARE, draw_instances, neighbour_support
from forgetcast.errors import InputError
from forgetcast.target.target import Target
from small_targets import MISLABELLED, shared_mlp


def clouds(n: int = 100) -> Target:
    """Two clouds far apart, every twentieth label wrong."""
    y = torch.arange(n) % 2
    x = torch.randn(n, 3, generator=torch.Generator().manual_seed(0)) + 10 * y[:, None]
    y[::20] = 1 - y[::20]
    return Target(nn.Linear(3, 2), (x, y), name="clouds")


def test_support_is_the_share_of_neighbours_with_the_same_label() -> None:
    """Against a plain double loop over distances."""
    target = clouds(40)
    x, y = target.data.fetch(torch.arange(40))
    expected = []
    for i in range(40):
        near = sorted((float((x[i] - x[j]).square().sum()), j) for j in range(40) if j != i)[:6]
        expected.append(np.mean([int(y[j] == y[i]) for _, j in near]))
    np.testing.assert_allclose(neighbour_support(target, 6), expected)


def test_a_sample_is_not_its_own_neighbour_among_copies() -> None:
    """Many equal inputs crowd a sample out of its own neighbourhood; there are k others all the same."""
    x = torch.zeros(30, 2)
    target = Target(nn.Linear(2, 2), (x, (torch.arange(30) >= 15).long()))
    support = neighbour_support(target, 10)
    assert support.shape == (30,)
    assert ((support >= 0) & (support <= 1)).all()
    tiny = Target(nn.Linear(2, 2), (torch.eye(2), torch.tensor([0, 1])))
    assert neighbour_support(tiny).tolist() == [0, 0]


@settings(max_examples=40, deadline=None)
@given(m=st.integers(2, 100), seed=st.integers(0, 5))
def test_strata_have_their_sizes_and_weights_sum_to_n(m: int, seed: int) -> None:
    """Half come from the least supported 15 % as long as these suffice, each sample once, sorted by index."""
    target = clouds()
    frame = draw_instances(target, m, seed)
    assert list(frame.columns) == ["index", "label", "weight"]
    assert len(frame) == m
    assert frame["index"].is_unique
    assert frame["index"].is_monotonic_increasing
    assert (frame["label"].to_numpy() == target.labels.numpy()[frame["index"]]).all()
    assert frame["weight"].sum() == pytest.approx(100)
    assert (frame["weight"] >= 1 - 1e-9).all()
    suspects = round(SUSPECT_SHARE * 100)
    half = min(m - m // 2, suspects)
    expected = [suspects / half] * half + [(100 - suspects) / (m - half)] * (m - half)
    np.testing.assert_allclose(sorted(frame["weight"]), sorted(expected))


def test_small_targets_are_drawn_from_too() -> None:
    """Down to two samples, every possible number of them."""
    for n in range(2, 13):
        target = clouds(n)
        for m in range(2, n + 1):
            frame = draw_instances(target, m)
            assert frame["index"].nunique() == m
            assert frame["weight"].sum() == pytest.approx(n)


@pytest.mark.parametrize("seed", range(5))
def test_suspects_are_over_represented(seed: int) -> None:
    """Five wrong labels among a hundred: all lie in the stratum of which nearly all are drawn."""
    target = clouds()
    frame = draw_instances(target, 28, seed)
    drawn = set(frame["index"]) & set(range(0, 100, 20))
    assert len(drawn) >= 4, "a uniform draw would find one or two"
    weights = frame.set_index("index")["weight"]
    assert (weights[list(drawn)] < weights.max()).all(), "and they count for less"


def test_the_screen_finds_wrong_labels_of_real_images() -> None:
    """Mislabelled digits are supported by few of their neighbours."""
    support = neighbour_support(shared_mlp())
    others = np.delete(support, MISLABELLED)
    assert support[list(MISLABELLED)].max() < np.quantile(others, 0.25)


def test_the_draw_is_repeatable_and_ruled_by_the_seed() -> None:
    """The same seed the same samples, another seed others."""
    target = clouds()
    first, again, other = (draw_instances(target, 20, seed) for seed in (3, 3, 4))
    assert first.equals(again)
    assert first["index"].tolist() != other["index"].tolist()


def test_all_samples_can_be_drawn() -> None:
    """With m = n everyone is in, with weight one."""
    frame = draw_instances(clouds(), 100)
    assert frame["index"].tolist() == list(range(100))
    np.testing.assert_allclose(frame["weight"], 1)


@pytest.mark.parametrize("m", [-1, 0, 1, 101])
def test_numbers_that_make_no_sense_are_refused(m: int) -> None:
    """The message names the range and the target."""
    with pytest.raises(InputError, match=rf"between 2 and 100 instances \(the size of target 'clouds'\); got {m}"):
        draw_instances(clouds(), m)
