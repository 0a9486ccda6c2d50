"""Lightning modules become targets, and a trainer trains them again."""

from __future__ import annotations

import copy
import os
import sys
from importlib import import_module
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset, random_split

from forgetcast import predict_difficulty
from forgetcast.adapters import from_lightning
from forgetcast.corpus.measuring import measure
from forgetcast.errors import DatasetError, InputError, ModelError, NotApplicableError
from forgetcast.target.data import Data

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


class Split(lightning.LightningDataModule):  # type: ignore[misc]
    """Clouds that are split at random, by ``generator`` if there is one; every call of ``setup`` splits again."""

    def __init__(self, seed: int | None = None, *, where: str = "setup") -> None:
        super().__init__()
        self.seed, self.where = seed, where

    def split(self) -> None:
        generator = None if self.seed is None else torch.Generator().manual_seed(self.seed)
        self.train, self.val = random_split(TensorDataset(*clouds()), [60, 30], generator=generator)

    def setup(self, stage: str) -> None:
        if self.where == "setup":
            self.split()

    def train_dataloader(self) -> Any:
        if self.where == "loader":
            self.split()
        return DataLoader(self.train, batch_size=16, shuffle=True)

    def val_dataloader(self) -> Any:
        if not hasattr(self, "val"):  # a trainer tries the validation loop first
            self.split()
        return DataLoader(self.val, batch_size=16)


class SplitArrays(Split):
    """The same with arrays in place of subsets: the samples themselves have to be compared."""

    def split(self) -> None:
        rng = np.random.default_rng(self.seed) if self.seed is not None else np.random
        order = torch.as_tensor(rng.permutation(90))
        x, y = clouds()
        self.train, self.val = (TensorDataset(x[part], y[part]) for part in (order[:60], order[60:]))


class NoValidation(lightning.LightningDataModule):  # type: ignore[misc]
    """Training data alone."""

    def train_dataloader(self) -> Any:
        return DataLoader(TensorDataset(*clouds()), batch_size=16)


class Several(NoValidation):
    """Training data in two loaders."""

    def train_dataloader(self) -> Any:
        return {"a": super().train_dataloader(), "b": super().train_dataloader()}


class Broken(NoValidation):
    """Its set-up fails."""

    def setup(self, stage: str) -> None:
        raise AttributeError("no disk\nat all")

    def train_dataloader(self) -> Any:
        return DataLoader(self.train)


def trainer(**settings: Any) -> Any:
    """One that leaves nothing behind."""
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    return lightning.Trainer(**{"max_epochs": 6, "accelerator": "cpu", **quiet, **settings})


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
        from_lightning(trained, source, heldout=(x[:9] + 1, y[:9]))
        for source in (DataLoader(data, batch_size=8, shuffle=True), data, (x, y), NoValidation())
    ]
    assert len({target.data_hash for target in targets}) == 1
    assert from_lightning(trained, NoValidation()).heldout is None


def content(samples: Any) -> list[int]:
    """Hashes of the samples, sorted."""
    return sorted((samples if isinstance(samples, Data) else Data(samples)).content_hashes().tolist())


@pytest.mark.parametrize("where", ["setup", "loader"])
@pytest.mark.parametrize("kind", [Split, SplitArrays])
def test_what_the_trainer_took_is_what_is_forecast(kind: Any, where: str) -> None:
    """The very samples, recorded as they were trained on; neither set-up nor loaders are asked for again."""
    seen: list[Tensor] = []

    class Recording(Net):
        def training_step(self, batch: Any, number: int) -> Tensor:
            seen.append(batch[0].clone())
            return super().training_step(batch, number)

        def validation_step(self, batch: Any, _number: int) -> None:
            assert len(batch) == 2

    module, data = Recording(), kind(where=where)
    trainer(max_epochs=2).fit(module, datamodule=data)
    trained = sorted(set(content((torch.cat(seen), [0] * sum(map(len, seen))))))
    kept = data.train
    for given in (from_lightning(module, data), from_lightning(module), from_lightning(copy.deepcopy(module), data)):
        assert content(given.data) == trained
        assert given.heldout is not None
        assert not set(content(given.heldout)) & set(trained)
    assert data.train is kept
    fresh = Recording()
    fresh.load_state_dict(module.state_dict())  # as from a checkpoint: only the data module knows the trainer
    assert content(from_lightning(fresh, data).data) == trained


@pytest.mark.parametrize("where", ["setup", "loader"])
@pytest.mark.parametrize("kind", [Split, SplitArrays])
def test_a_new_split_at_random_is_refused(kind: Any, where: str) -> None:
    """Without a trainer, a split that comes out otherwise is not the one of training; a seeded one is."""
    net = Net()
    states = torch.random.get_rng_state(), np.random.get_state()[1].copy()
    with pytest.raises(DatasetError, match=r"draws another split each time.*trainer\.train_dataloader") as caught:
        from_lightning(net, kind(where=where))
    assert "\n" not in str(caught.value)
    seeded = kind(5, where=where)
    assert content(from_lightning(net, kind(5, where=where)).data) == content(from_lightning(net, seeded).data)
    assert torch.equal(states[0], torch.random.get_rng_state())
    assert (states[1] == np.random.get_state()[1]).all()
    if where == "setup":
        by_hand = kind()
        by_hand.setup("fit")
        kept = by_hand.train
        assert content(from_lightning(net, by_hand).data) == content(kept)
        assert by_hand.train is kept


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"limit_train_batches": 2}, "ran 2 of the loader's 4 batches"),
        ({"overfit_batches": 1}, "ran 1 of the loader's 4 batches"),
        ({"fast_dev_run": True}, "ran 1 of the loader's 4 batches"),
        ({"max_steps": 3}, "ran 3 of the loader's 4 batches"),
        ({"reload_dataloaders_every_n_epochs": 2}, r"took new loaders every 2 epoch\(s\)"),
    ],
)
def test_a_trainer_that_skipped_samples_is_refused(settings: dict[str, Any], message: str) -> None:
    """Some of the loader's samples may be none that the module was trained on; explicit data is taken."""
    module, data = Net(), Clouds()
    trainer(**settings).fit(module, datamodule=data)
    with pytest.raises(DatasetError, match=message) as caught:
        from_lightning(module, data)
    assert "\n" not in str(caught.value)
    assert len(from_lightning(module, data.train_dataloader())) == 60


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
    with pytest.raises(InputError, match="holds no trainer that fitted it: give the data"):
        from_lightning(Net())
    with pytest.raises(InputError, match="Broken raised AttributeError as it was asked for its loaders: no disk"):
        from_lightning(Net(), Broken())
    for name in ("pytorch_lightning", "lightning.pytorch", "lightning"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(NotApplicableError, match=r"pip install 'forgetcast\[lightning\]'"):
        from_lightning(trained, clouds())
