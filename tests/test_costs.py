"""Wall times of unlearning and retraining: measured, plausible, and nothing of the target changes."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from forgetcast import Target
from forgetcast.costs import Costs, measure_costs
from forgetcast.labels import CONSENSUS
from small_targets import clouds, digits, shared_cnn, shared_mlp


class Pooled(nn.Module):
    """Ends in a mean, not in a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 20)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x.flatten(1)).reshape(-1, 10, 2).mean(2)


def headless() -> Target:
    """A model without last linear layer, on the digits."""
    data, held = digits()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Pooled()
    return Target(model, data, heldout=held, name="headless")


def test_times_are_positive_and_add_up() -> None:
    """One row per unlearner; a request is its start and its steps, and preparing is counted once for all."""
    names = ["certified_removal", "gradient_ascent", "scrub"]
    costs = measure_costs(shared_mlp(), names, 3, epochs=7)
    assert costs.unlearners.index.tolist() == names
    assert costs.unlearners.columns.tolist() == ["prepare", "start", "step"]
    assert (costs.unlearners["step"] > 0).all()
    assert (costs.unlearners[["prepare", "start"]] >= 0).all(axis=None)
    assert np.isfinite(costs.unlearners).all(axis=None)
    assert costs.failed == {}
    assert costs.epoch > 0
    assert costs.retraining == pytest.approx(7 * costs.epoch)
    row = costs.unlearners.loc["scrub"]
    assert costs.seconds("scrub", 11.5) == pytest.approx(row["start"] + 11.5 * row["step"])
    assert costs.seconds("scrub", 0) == row["start"]
    assert np.isnan(costs.seconds("ssd", 3))
    assert np.isnan(costs.seconds("", 3))
    twice = costs.prepare(["scrub", "ssd", "scrub", "", "gradient_ascent"])
    assert twice == pytest.approx(costs.unlearners.loc[["scrub", "gradient_ascent"], "prepare"].sum())
    assert costs.prepare([]) == 0


def test_known_seconds_of_retraining_override_the_epochs() -> None:
    """The measured pass stays beside them."""
    costs = measure_costs(shared_mlp(), [], 0, epochs=1000, retraining=12)
    assert costs.retraining == 12.0
    assert 0 < costs.epoch < 12
    assert costs.unlearners.empty
    assert costs.prepare(["scrub"]) == 0
    assert np.isnan(costs.seconds("scrub", 1))


def test_what_cannot_serve_the_model_is_named_with_the_reason() -> None:
    """Others are timed all the same; so is a name that nothing is registered under."""
    target = headless()
    assert target.head is None
    costs = measure_costs(target, ["certified_removal", "gradient_ascent", "no_such"], 0)
    assert list(costs.failed) == ["certified_removal", "no_such"]
    assert costs.failed["certified_removal"] == target.head_missing
    assert "unknown unlearner 'no_such'" in costs.failed["no_such"]
    assert costs.unlearners.index.tolist() == ["gradient_ascent"]


@pytest.mark.parametrize("make", [shared_mlp, shared_cnn, headless])
def test_nothing_of_the_target_changes(make: Callable[[], Target]) -> None:
    """Weights, buffers, mode, what is trained, and every global random state."""
    target = make()
    model, data = target.model_hash, target.data_hash
    values = {name: value.clone() for name, value in target.module.state_dict().items()}
    mode, trained = target.module.training, [value.requires_grad for value in target.module.parameters()]
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    measure_costs(target, CONSENSUS, 5, seed=3)
    assert all(torch.equal(value, values[name]) for name, value in target.module.state_dict().items())
    again = Target(target.module, target.data.fetch(torch.arange(len(target))))
    assert again.model_hash == model
    assert (target.model_hash, target.data_hash) == (model, data)
    assert target.module.training == mode
    assert [value.requires_grad for value in target.module.parameters()] == trained
    assert all(value.grad is None for value in target.module.parameters())
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (np.random.get_state()[1] == states[1]).all()
    assert random.getstate() == states[2]


def test_a_longer_path_costs_more_and_more_data_a_longer_pass() -> None:
    """A pass over 120 digits takes longer than over 12 of them."""
    (x, y), _ = digits()
    small = Target(shared_mlp().module, (x[:12], y[:12]))
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 2000), nn.ReLU(), nn.Linear(2000, 10))
    assert measure_costs(Target(model, (x, y)), [], 0).epoch > measure_costs(small, [], 0).epoch
    assert isinstance(measure_costs(clouds(), ["ssd"], 44), Costs)


def test_a_single_training_sample() -> None:
    """There is a pass over it, and nothing else to step on."""
    (x, y), _ = digits()
    target = Target(shared_cnn().module, (x[:1], y[:1]))
    costs = measure_costs(target, ["gradient_ascent"], 0, retraining=3)
    assert costs.retraining == 3
