"""Lightning modules become targets, and a trainer trains them again."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from forgetcast import predict_difficulty
from forgetcast._torchvision import torchvision
from forgetcast.adapters import from_lightning
from forgetcast.errors import InputError, ModelError, NotApplicableError
from forgetcast.generate import measure

torchvision()
lightning: Any = import_module("pytorch_lightning")


class Net(lightning.LightningModule):  # type: ignore[misc]
    """A perceptron with dropout that logs its loss."""

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.layers = nn.Sequential(nn.Linear(5, width), nn.ReLU(), nn.Dropout(0.1), nn.Linear(width, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)

    def training_step(self, batch: Any, _number: int) -> Tensor:
        x, y = batch
        loss = nn.functional.cross_entropy(self(x), y)
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=0.02)


def clouds(n: int = 90) -> tuple[Tensor, Tensor]:
    """Points around the centre of their class."""
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(n) % 3
    return torch.randn(n, 5, generator=generator) + 2 * torch.randn(3, 5, generator=generator)[y], y


class Clouds(lightning.LightningDataModule):  # type: ignore[misc]
    """Training and validation data."""

    def setup(self, stage: str) -> None:
        assert stage == "fit"
        self.points = clouds()

    def train_dataloader(self) -> Any:
        x, y = self.points
        return DataLoader(TensorDataset(x[:60], y[:60]), batch_size=16, shuffle=True)

    def val_dataloader(self) -> Any:
        x, y = self.points
        return [DataLoader(TensorDataset(x[60:], y[60:]), batch_size=16)]


class NoValidation(lightning.LightningDataModule):  # type: ignore[misc]
    """Training data alone."""

    def train_dataloader(self) -> Any:
        return DataLoader(TensorDataset(*clouds()), batch_size=16)


class Several(NoValidation):
    """Training data in two loaders."""

    def train_dataloader(self) -> Any:
        return {"a": super().train_dataloader(), "b": super().train_dataloader()}


def trainer() -> Any:
    """One that leaves nothing behind."""
    return lightning.Trainer(
        max_epochs=6, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def trained() -> Any:
    """A module that a trainer has fitted, and still holds."""
    torch.manual_seed(0)
    module = Net()
    holder = trainer()
    holder.fit(module, Clouds())
    return module


def test_a_module_is_forecast(trained: Any) -> None:
    """With its data module: training data, validation data held out; the module stays with its trainer as it was."""
    before = {name: value.clone() for name, value in trained.state_dict().items()}
    target = from_lightning(trained, Clouds())
    x, _ = clouds()
    trained.eval()
    with torch.no_grad():
        torch.testing.assert_close(target.logits(), trained(x[:60]))
    assert (len(target), len(target.heldout or ()), target.name) == (60, 30, "Net")
    assert target.head is not None
    assert target.head.name == "layers.3"
    report = predict_difficulty(target)
    assert report.table["index"].nunique() == 60
    assert "heldout_accuracy" not in report.factors.not_applicable
    assert all(torch.equal(value, before[name]) for name, value in trained.state_dict().items())
    assert trained.trainer is not None


def test_data_comes_as_a_loader_a_dataset_or_a_pair(trained: Any) -> None:
    """The same samples either way."""
    x, y = clouds()
    data = TensorDataset(x, y)
    targets = [
        from_lightning(trained, source, heldout=(x[:9], y[:9]))
        for source in (DataLoader(data, batch_size=8, shuffle=True), data, (x, y), NoValidation())
    ]
    assert len({target.data_hash for target in targets}) == 1
    assert from_lightning(trained, NoValidation()).heldout is None


@pytest.mark.parametrize("source", ["datamodule", "pair"])
def test_it_is_retrained(trained: Any, source: str) -> None:
    """By a new trainer; the same seed gives the same model, and neither random states nor the environment move."""
    data = Clouds() if source == "datamodule" else clouds()
    target = from_lightning(trained, data, heldout=clouds(12), make=Net, trainer=trainer)
    states = torch.random.get_rng_state(), np.random.get_state()[1].copy(), os.environ.get("PL_GLOBAL_SEED")
    one, two, other = (target.train(np.arange(5, 50), seed) for seed in (3, 3, 4))
    assert torch.equal(states[0], torch.random.get_rng_state())
    assert (states[1] == np.random.get_state()[1]).all()
    assert os.environ.get("PL_GLOBAL_SEED") == states[2]
    a, b, c = (model.state_dict()["layers.3.weight"] for model in (one, two, other))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    accuracy = (target.logits(module=one).argmax(1) == target.labels).float().mean()
    assert accuracy > 0.6


def test_it_is_unlearned(trained: Any) -> None:
    """For both objectives."""
    target = from_lightning(trained, Clouds(), make=Net, trainer=trainer)
    settings = {"unlearners": ["gradient_ascent"], "oracle_groups": 2, "oracle_seeds": 1, "progress": False}
    outcomes, instances = measure(target, [0, 7], **settings)
    assert set(outcomes["objective"]) == {"retrain", "erase"}
    assert instances["p_out"].between(0, 1).all()


def test_what_cannot_be_is_refused(trained: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """With what was expected."""
    with pytest.raises(ModelError, match="expected a LightningModule; got Linear"):
        from_lightning(nn.Linear(5, 3), clouds())
    with pytest.raises(InputError, match="give both make and trainer"):
        from_lightning(trained, clouds(), make=Net)
    with pytest.raises(InputError, match="train_dataloader: expected one DataLoader; got dict"):
        from_lightning(trained, Several())
    for name in ("pytorch_lightning", "lightning.pytorch", "lightning"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(NotApplicableError, match=r"pip install 'forgetcast\[lightning\]'"):
        from_lightning(trained, clouds())
