"""Wall times of unlearning and retraining: measured, plausible, and nothing of the target changes."""

from __future__ import annotations

import random
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from forgetcast import Target
from forgetcast.corpus.labels import CONSENSUS
from forgetcast.screening.costs import Costs, measure_costs, timed_retraining
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


# -- one retraining ---------------------------------------------------------------------------------------------------


def ticking(n: int, seconds: Callable[[int], float], clock: list[float], asked: list[np.ndarray]) -> Target:
    """A target of n points whose ``train`` moves a clock on, by so many seconds for so many samples."""
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(n, 4, generator=generator), torch.arange(n) % 3
    y[:-1][y[:-1] == 2] = 0  # the last sample alone is of class 2
    y[-1] = 2
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 3))

    def train(indices: np.ndarray, seed: int) -> nn.Module:
        print("epoch 1")
        torch.rand(3)
        asked.append(indices)
        clock[0] += seconds(len(indices))
        return model

    return Target(model, (x, y), train=train)


KNOWN = Costs(pd.DataFrame(columns=["prepare", "start", "step"], dtype=float), 0.1, 2.0, "assumed: so", {})


@pytest.mark.parametrize(
    ("n", "seconds", "sizes", "retraining", "basis"),
    [
        (200, lambda m: 0.01 * m, [200], 2.0, "timed"),
        (3000, lambda m: 1e-3 * m, [256, 1024, 3000], 3.0, "timed"),
        (3000, lambda m: 5.0, [256, 768, 1536], 5.0, "from trainings on 768 and 1,536 of 3,000 samples"),
        (
            50000,
            lambda m: 1 + 1e-3 * m,
            [256, 1024, 4096, 9342],
            51.0,
            "from trainings on 4,096 and 9,342 of 50,000 samples",
        ),
        (5000, lambda m: 1.0 * m, [256], 5000.0, "from trainings on 256 of 5,000 samples"),
    ],
)
def test_a_retraining_is_timed_or_extrapolated(
    n: int,
    seconds: Callable[[int], float],
    sizes: list[int],
    retraining: float,
    basis: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """On all samples where that takes seconds, else in a line from few; every class is in each, stdout stays clean."""
    clock, asked = [0.0], []
    target = ticking(n, seconds, clock, asked)
    monkeypatch.setattr("forgetcast.screening.costs.time", SimpleNamespace(perf_counter=lambda: clock[0]))
    state = torch.get_rng_state()
    said: list[str] = []
    found = timed_retraining(target, KNOWN, say=said.append)
    assert [len(indices) for indices in asked] == sizes
    assert found.retraining == pytest.approx(retraining)
    assert basis in found.basis
    assert all(set(target.labels[indices].tolist()) == {0, 1, 2} for indices in asked)
    assert torch.equal(torch.get_rng_state(), state)
    assert capsys.readouterr().out == ""
    assert len(said) == 1


def test_a_training_that_fails_leaves_the_assumption_with_the_reason() -> None:
    """Nothing but the figure's basis changes."""

    def train(indices: np.ndarray, seed: int) -> nn.Module:
        raise ValueError("too few\nto stratify")

    (x, y), _ = digits()
    found = timed_retraining(Target(shared_mlp().module, (x, y), train=train), KNOWN)
    assert found.retraining == 2.0
    assert found.basis == "assumed: so; a training on 120 samples failed: too few"


def test_the_basis_says_where_the_figure_comes_from() -> None:
    """Known, or assumed with the number of epochs and the time of each."""
    assert measure_costs(clouds(), [], 0, retraining=3).basis == "as the policy says (retrain_seconds)"
    assert measure_costs(clouds(), [], 0, epochs=7).basis.startswith("assumed: 7 epochs (retrain_epochs")
