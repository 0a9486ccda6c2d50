"""Training: repeatable to the bit, paired with and without a sample, and good enough to learn."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from forgetcast.corpus.zoo import datasets
from forgetcast.corpus.zoo.architectures import build
from forgetcast.corpus.zoo.training import STACK, Trainer, train_classifier, train_stacked, trains_stacked


def clouds(n: int = 90) -> tuple[Tensor, Tensor]:
    """Three overlapping clouds of points (n, 4)."""
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(n) % 3
    return torch.randn(n, 4, generator=generator) + 1.5 * torch.eye(3, 4)[y], y


def weights(model: nn.Module) -> Tensor:
    """All state in one row."""
    return torch.cat([value.flatten().double() for value in model.state_dict().values()])


def trained(seed: int = 0, **settings: Any) -> nn.Module:
    """A perceptron with dropout, trained for a moment."""
    return train_classifier(build("mlp", (4,), 3, dropout=0.2), *clouds(), **{"epochs": 3, "seed": seed, **settings})


class Recorder(nn.Module):
    """A linear model that writes down which rows it is trained on; each row is told by its first input."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(2, 2)
        self.batches: list[list[int]] = []

    def forward(self, x: Tensor) -> Tensor:
        self.batches.append(x[:, 0].int().tolist())
        return self.head(x / 100)


def record(n: int = 50, **settings: Any) -> list[list[int]]:
    """Batches of samples that a training run takes."""
    model = Recorder()
    x = torch.stack([torch.arange(n).float(), torch.ones(n)], 1)
    train_classifier(model, x, torch.arange(n) % 2, **{"epochs": 3, "batch_size": 8, **settings})
    return model.batches


# -- repeatable ----------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_bits() -> None:
    """Order and dropout come from the seed alone; another seed gives another model."""
    first = trained()
    torch.rand(5)
    assert torch.equal(weights(trained()), weights(first))
    assert not torch.equal(weights(trained(seed=1)), weights(first))


def test_the_random_state_and_the_data_stay_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the caller's random numbers, on CPU or GPU, nor the tensors are touched."""
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda seed: pytest.fail("the GPUs were seeded"))
    before = torch.random.get_rng_state()
    x, y = clouds()
    train_classifier(build("mlp", (4,), 3, dropout=0.5), x, y, indices=[1, 2, 3], epochs=2)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(x, clouds()[0])
    assert torch.equal(y, clouds()[1])


def test_the_model_is_trained_in_place_and_comes_back_in_evaluation_mode() -> None:
    """The same object, with other weights."""
    model = build("mlp", (4,), 3)
    before = weights(model)
    assert train_classifier(model, *clouds(), epochs=1) is model
    assert not model.training
    assert not torch.equal(weights(model), before)


def test_no_epoch_is_no_change() -> None:
    """Zero epochs give the initial model in evaluation mode."""
    model = build("mlp", (4,), 3)
    before = weights(model)
    assert not train_classifier(model, *clouds(), epochs=0).training
    assert torch.equal(weights(model), before)


# -- batches -------------------------------------------------------------------------------------------


def test_every_epoch_takes_every_sample_once() -> None:
    """In batches of the size given, in another order each time."""
    batches = record(n=48)
    assert [len(batch) for batch in batches] == [8] * 18
    epochs = [[sample for batch in batches[start : start + 6] for sample in batch] for start in (0, 6, 12)]
    assert all(sorted(epoch) == list(range(48)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


def test_leaving_samples_out_takes_the_same_batches_otherwise() -> None:
    """Runs with and without some samples are paired: batch by batch they differ by those samples alone."""
    whole, left_out = record(), {7, 31, 32}
    without = record(indices=np.setdiff1d(np.arange(50), list(left_out)))
    expected = [[sample for sample in batch if sample not in left_out] for batch in whole]
    assert without == [batch for batch in expected if len(batch) > 1]


def test_the_order_of_the_indices_does_not_matter() -> None:
    """They are a set: any order, any kind of sequence."""
    kept = [3, 9, 4, 40]
    assert record(indices=kept) == record(indices=np.array(kept[::-1])) == record(indices=torch.tensor(kept))


def test_only_the_samples_given_are_trained_on() -> None:
    """Labels of others have no influence."""
    x, y = clouds()
    kept = np.arange(0, 90, 2)
    other = y.clone()
    other[1::2] = 0
    models = [train_classifier(build("mlp", (4,), 3), x, labels, indices=kept, epochs=2) for labels in (y, other)]
    assert torch.equal(weights(models[0]), weights(models[1]))
    assert not torch.equal(weights(models[0]), weights(train_classifier(build("mlp", (4,), 3), x, y, epochs=2)))


@pytest.mark.parametrize("n", [65, 33])
def test_a_last_batch_of_one_sample_does_not_stop_batch_norm(n: int) -> None:
    """It is passed over, in every epoch another sample; so does a batch that lost all but one."""
    x = torch.randn(n, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    model = train_classifier(build("resnet", (1, 8, 8), 2), x, torch.arange(n) % 2, epochs=2, batch_size=32)
    assert torch.isfinite(weights(model)).all()
    batches = record(n=33, batch_size=32)
    assert [len(batch) for batch in batches] == [32] * 3
    train_classifier(build("resnet", (1, 8, 8), 2), x, torch.arange(n) % 2, indices=[0, 5], epochs=2, batch_size=4)


def test_the_rate_falls_to_zero_along_a_cosine(monkeypatch: pytest.MonkeyPatch) -> None:
    """From lr at the first step to nearly 0 at the last, and the same whether samples are left out or not."""
    rates: list[float] = []
    step = torch.optim.AdamW.step

    def watched(self: torch.optim.AdamW, *args: Any, **kwargs: Any) -> Any:
        rates.append(self.param_groups[0]["lr"])
        return step(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", watched)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the schedule no longer knows its optimizer's step
        record(n=40, epochs=4, lr=0.5)
        expected = [0.25 * (1 + np.cos(np.pi * k / 20)) for k in range(20)]
        assert np.allclose(rates, expected)
        rates.clear()
        record(n=40, epochs=4, lr=0.5, indices=np.arange(12, 40))
        assert np.allclose(rates, expected)


def test_recording_changes_nothing() -> None:
    """A record sees every epoch's model in evaluation mode with the rate it began with; the bits stay the same."""
    seen: list[tuple[int, float, bool]] = []
    last: list[Tensor] = []

    def record(epoch: int, model: nn.Module, lr: float) -> None:
        seen.append((epoch, lr, model.training))
        last[:] = [weights(model)]
        torch.rand(7)
        model(clouds()[0])

    watched = trained(record=record, lr=0.01)
    assert torch.equal(weights(watched), weights(trained(lr=0.01)))
    assert torch.equal(last[0], weights(watched))
    assert [(epoch, training) for epoch, _, training in seen] == [(0, False), (1, False), (2, False)]
    assert [lr for _, lr, _ in seen] == pytest.approx([0.01, 0.0075, 0.0025])


# -- settings that act ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change", [{"epochs": 4}, {"lr": 2e-3}, {"batch_size": 16}, {"weight_decay": 0.5}, {"indices": np.arange(80)}]
)
def test_every_setting_acts(change: dict[str, Any]) -> None:
    """None of them is taken and forgotten."""
    assert not torch.equal(weights(trained(**change)), weights(trained()))


def test_weight_decay_makes_weights_smaller() -> None:
    """Strong decay pulls all weights towards 0."""
    size = [float(weights(trained(weight_decay=decay, lr=0.01, epochs=20)).norm()) for decay in (0.0, 1.0, 10.0)]
    assert size[0] > 1.05 * size[1] > 1.05**2 * size[2]


def test_dropout_acts_in_training() -> None:
    """The same seed with and without dropout gives two models."""
    models = [train_classifier(build("mlp", (4,), 3, dropout=rate), *clouds(), epochs=2) for rate in (0.0, 0.5)]
    assert not torch.equal(weights(models[0]), weights(models[1]))


@pytest.mark.parametrize(("name", "least"), [("logistic", 0.85), ("mlp", 0.85), ("cnn", 0.8)])
def test_it_learns(name: str, least: float) -> None:
    """Digits are told apart far above chance (0.1) after a few epochs, on images that were held out."""
    (x, y), (x_heldout, y_heldout) = datasets.load("digits")
    model = train_classifier(build(name, (1, 8, 8), 10), x, y, epochs=8, lr=5e-3)
    with torch.no_grad():
        assert float((model(x_heldout).argmax(1) == y_heldout).float().mean()) > least


# -- as the callable of a target -----------------------------------------------------------------------


def trainer(**settings: Any) -> Trainer:
    """A trainer of the perceptron."""
    return Trainer(lambda seed: build("mlp", (4,), 3, seed=seed), *clouds(), **{"epochs": 2, **settings})


def test_a_trainer_is_a_training_run_written_down() -> None:
    """Its settings and the seed, which stands for initialisation and order, go to train_classifier unchanged."""
    settings = {"epochs": 3, "lr": 3e-3, "batch_size": 16, "weight_decay": 0.1}
    kept = np.arange(10, 80)
    expected = train_classifier(build("mlp", (4,), 3, seed=5), *clouds(), indices=kept, seed=5, **settings)
    assert torch.equal(weights(trainer(**settings)(kept, 5)), weights(expected))


def test_a_trainer_makes_a_fresh_model_each_time() -> None:
    """Calls do not follow on one another: seed and samples decide."""
    run, everyone = trainer(), np.arange(90)
    first = run(everyone, 1)
    again = run(everyone, 1)
    assert again is not first
    assert torch.equal(weights(again), weights(first))
    assert not torch.equal(weights(run(everyone, 2)), weights(first))
    assert not torch.equal(weights(run(everyone[1:], 1)), weights(first))


# -- many at once -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ["logistic", "mlp", "wide_mlp", "deep_mlp"])
@pytest.mark.parametrize("n", [90, 66])
def test_models_trained_side_by_side_are_those_trained_alone(architecture: str, n: int) -> None:
    """Other samples, other seeds, weight decay and a last short batch: the same parameters up to rounding.

    Of 66 samples the last batch has two; a model that leaves one of them out skips that step, and the others do not.
    """
    x, y = clouds(n)
    kept = [np.setdiff1d(np.arange(n), [k, 2 * k + 1]) for k in range(5)]
    seeds = [7, 8, 7, 9, 8]
    settings: dict[str, Any] = {"epochs": 4, "lr": 5e-3, "weight_decay": 0.1}
    models = [build(architecture, (4,), 3, seed=seed) for seed in seeds]
    together = train_stacked(models, x, y, indices=kept, seeds=seeds, **settings)
    for model, part, seed in zip(together, kept, seeds, strict=True):
        alone = train_classifier(build(architecture, (4,), 3, seed=seed), x, y, indices=part, seed=seed, **settings)
        torch.testing.assert_close(weights(model), weights(alone), rtol=1e-3, atol=1e-4)
        assert not model.training


def test_many_models_come_in_the_order_asked_for() -> None:
    """Stacked from so many on, one after the other below: the same models, and the random state is left alone."""
    x, y = clouds()
    trainer = Trainer(lambda seed: build("mlp", (4,), 3, seed=seed), x, y, epochs=2)
    kept = [np.setdiff1d(np.arange(90), [k]) for k in range(STACK)]
    state = torch.random.get_rng_state()
    made = trainer.many(kept, range(STACK))
    assert torch.equal(state, torch.random.get_rng_state())
    for k, few in enumerate(trainer.many(kept[:2], [0, 1])):
        assert torch.equal(weights(few), weights(trainer(kept[k], k)))
    for k, model in enumerate(made):
        torch.testing.assert_close(weights(model), weights(trainer(kept[k], k)), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("architecture", "dropout", "together"),
    [("mlp", 0.0, True), ("mlp", 0.2, False), ("logistic", 0.0, True), ("cnn", 0.0, False), ("resnet", 0.0, False)],
)
def test_what_copies_would_share_is_trained_alone(architecture: str, dropout: float, together: bool) -> None:
    """Dropout draws and batch statistics belong to one model; grouped convolutions are slow."""
    assert trains_stacked(build(architecture, (1, 8, 8), 3, dropout=dropout)) == together
