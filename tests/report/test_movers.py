"""Movers are what a model's last layer, really moved, changes; for every kind of input that has such a layer."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from forgetcast.errors import IndexRangeError, InputError, NotApplicableError, UnknownNameError
from forgetcast.factors.probes.probes import Probes
from forgetcast.objectives import SLACK
from forgetcast.predict import predict_difficulty
from forgetcast.report.movers import Movers, movers
from forgetcast.target.target import Target
from small_targets import MISLABELLED, clouds, shared_cnn, shared_mlp


@pytest.fixture(scope="module")
def digits() -> Movers:
    """Of the perceptron that has memorized wrong labels."""
    return Movers(shared_mlp())


def really_moved(target: Target, index: int, reached: float | None) -> tuple[Tensor, Tensor]:
    """Probabilities before and after the last layer of a copy goes along the move, step by step, until the goal.

    The step is found by bisection on the model itself: the label no likelier than its rival, or at ``reached``.
    """
    assert target.head is not None
    model = copy.deepcopy(target.module)
    layer = model.get_submodule(target.head.name)
    assert isinstance(layer, nn.Linear)
    x, y = target.data.fetch(torch.arange(len(target)))
    before = model(x).detach().softmax(1)
    label = int(y[index])
    rival = int(before[index].scatter(0, torch.tensor(label), -1.0).argmax())
    z = target.features()[index]
    weight, bias = layer.weight.data.clone(), layer.bias.data.clone()

    def after(strength: float) -> Tensor:
        layer.weight.data, layer.bias.data = weight.clone(), bias.clone()
        for row, sign in ((rival, 1), (label, -1)):
            layer.weight.data[row] += sign * strength * z
            layer.bias.data[row] += sign * strength
        return model(x).detach().softmax(1)

    low, high = 0.0, 50.0 / float(z.square().sum() + 1)
    for _ in range(60):
        middle = (low + high) / 2
        p = after(middle)[index]
        met = p[label] <= (p[rival] if reached is None else reached)
        low, high = (low, middle) if met else (middle, high)
    return before, after(high)


@pytest.mark.parametrize("target", [shared_mlp(), shared_cnn(), clouds()], ids=lambda target: target.name)
@pytest.mark.parametrize(("objective", "goal"), [("erase", None), ("retrain", 0.2)])
def test_what_is_forecast_to_move_moves(target: Target, objective: str, goal: float | None) -> None:
    """Every sample's change and total variation as measured on a model whose last layer was really moved."""
    for index in (3, MISLABELLED[1]):
        found = movers(target, index, objective, goal=goal, count=len(target))
        before, after = really_moved(target, index, goal)
        order = found["index"].to_numpy()
        assert index not in order
        own = torch.arange(len(target)), target.labels
        np.testing.assert_allclose(found["change"], (after[own] - before[own])[order].numpy(), atol=2e-4)
        variation = (after - before).abs().sum(1) / 2
        np.testing.assert_allclose(found["total_variation"], variation[order], atol=2e-4)
        left_out = np.setdiff1d(np.arange(len(target)), [*order, index])
        assert variation[left_out].max() < 1e-6 if len(left_out) else True
        assert found["label"].tolist() == target.labels[order].tolist()


def test_the_strongest_come_first_with_their_likeness(digits: Movers) -> None:
    """Sorted by total variation, at most as many as asked for, similarity the cosine of features."""
    found = digits.of(7, "erase", count=5)
    assert list(found.columns) == ["index", "label", "change", "total_variation", "similarity"]
    assert len(found) == 5
    assert found["total_variation"].is_monotonic_decreasing
    z = digits.target.features()
    np.testing.assert_allclose(found["similarity"], F.cosine_similarity(z[found["index"]], z[7:8]), atol=1e-5)
    whole = digits.of(7, "erase", count=1000)
    pd.testing.assert_frame_equal(whole.head(5), found)
    assert whole["total_variation"].max() == found["total_variation"][0]


def test_their_mean_is_the_damage_of_the_rehearsal(digits: Movers) -> None:
    """What the factor calls damage to other training samples is the mean total variation over them."""
    target = digits.target
    probes = Probes(target)
    for objective, rehearsal in (("erase", probes.erase_rehearsal), ("retrain", probes.retrain_rehearsal)):
        for index in (0, MISLABELLED[0], 60):
            total = digits.of(index, objective, count=len(target))["total_variation"].sum()
            assert total / (len(target) - 1) == pytest.approx(float(rehearsal.reference[index]), abs=1e-6)


def test_the_goal_of_retrain_is_what_simple_models_say(digits: Movers) -> None:
    """Without a goal it is the surrogates' confidence with the slack; a goal that is met already moves nothing."""
    probes = Probes(digits.target)
    index = MISLABELLED[2]
    goal = float(probes.surrogate_confidence[index]) + SLACK
    pd.testing.assert_frame_equal(digits.of(index, "retrain"), digits.of(index, "retrain", goal=goal))
    unsure = int(probes.true_probability.argmin())
    before = float(probes.true_probability[unsure])
    assert before < 0.99
    assert digits.of(unsure, "retrain", goal=before + 1e-3).empty
    assert not digits.of(unsure, "retrain", goal=before - 1e-3).empty


def test_words_have_movers_too() -> None:
    """Named inputs of integers, through an embedding."""

    class Words(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.head = nn.Embedding(20, 6), nn.Linear(6, 3)

        def forward(self, input_ids: Tensor) -> Tensor:
            return self.head(self.words(input_ids).mean(1))

    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 20, (30, 5), generator=generator)
    torch.manual_seed(0)
    target = Target(Words(), ({"input_ids": ids}, ids[:, 0] % 3))
    found = movers(target, 4, "retrain", goal=0.1, count=6)
    assert len(found) == 6
    assert (found["change"].abs() <= found["total_variation"] + 1e-12).all()


def test_a_report_knows_the_movers_while_it_has_the_model(digits: Movers) -> None:
    """With the goal from its own factors; any sample of the data; without the model it says what to do."""
    report = predict_difficulty(digits.target, objective="both", indices=[3, 5])
    for index in (3, 5, 77):
        for objective in ("erase", "retrain"):
            pd.testing.assert_frame_equal(report.movers(index, objective), digits.of(index, objective))
    assert repr(report) == repr(replace(report, _target=None))
    with pytest.raises(NotApplicableError, match="this report does not hold"):
        replace(report, _target=None).movers(3)


def test_a_model_without_a_last_layer_is_told() -> None:
    """The reason is the target's own."""
    x, y = torch.randn(20, 3, generator=torch.Generator().manual_seed(0)), torch.arange(20) % 2

    class Quadratic(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(3))

        def forward(self, x: Tensor) -> Tensor:
            return torch.stack([(x * self.scale).sum(1), x.square().sum(1)], 1)

    with pytest.raises(NotApplicableError, match="Linear layer"):
        movers(Target(Quadratic(), (x, y)), 0)


def test_bad_arguments_are_named(digits: Movers) -> None:
    """A sample that is not there, an objective that nobody knows, a goal or a count out of range."""
    for index in (-1, 120, True, 1.5):
        with pytest.raises(IndexRangeError, match="from 0 to 119"):
            digits.of(index, "erase")
    with pytest.raises(UnknownNameError, match="unknown objective 'forget'"):
        digits.of(0, "forget")
    for goal in (0.0, 1.5, -2):
        with pytest.raises(InputError, match="goal"):
            digits.of(0, "retrain", goal=goal)
    with pytest.raises(InputError, match="count"):
        digits.of(0, "erase", count=0)
