"""PyTorch Lightning modules as targets."""

from __future__ import annotations

import copy
import os
import random
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Subset, TensorDataset

from forgetcast.adapters._library import library
from forgetcast.errors import DatasetError, ForgetcastError, InputError, ModelError, first_line
from forgetcast.target.data import Data
from forgetcast.target.seeding import fork_all_rngs
from forgetcast.target.target import Target
from forgetcast.target.trajectory import Trajectory

__all__ = ["from_lightning"]

PACKAGES = ("lightning.pytorch", "pytorch_lightning")
"""Lightning has two names; a module is of the one that its author imported."""
SEED = "PL_GLOBAL_SEED"
FEW = 64
"""Samples, spread over a dataset, by which two splits are compared."""


def from_lightning(
    module: nn.Module,
    data: Any = None,
    *,
    heldout: Any = None,
    make: Callable[[], nn.Module] | None = None,
    trainer: Callable[[], Any] | None = None,
    trajectory: Trajectory | None = None,
    name: str = "",
    batch_size: int = 256,
    info: Mapping[str, Any] | None = None,
) -> Target:
    """A trained Lightning module with its training data as a target.

    Args:
        module: a ``LightningModule`` whose ``forward`` gives logits; it stays as it is.
        data: the training data: a ``DataLoader``, a dataset of (x, y), a pair (x, y); or a ``LightningDataModule``. Of
            one that the module was fitted with the loaders are taken that its trainer holds. One without a trainer is
            asked for its loaders, after ``prepare_data`` and ``setup("fit")`` where it has none yet; a split that comes
            out otherwise when it is made again is refused. None: the loaders of the trainer that fitted the module.
        heldout: a ``DataLoader``, dataset or pair that the module was not trained on; default for a data module its
            validation data.
        make: returns a new, untrained module; with ``trainer`` the target can be retrained.
        trainer: returns a new ``Trainer``; say there whether it draws bars, logs and keeps checkpoints. It fits the new
            module to batches of the training loader's size (32 where there is no loader), shuffled.
        trajectory: checkpoints of the training run, or outputs recorded during it; None: its factors do not apply.
        name: of the target; default: the module's class.
        batch_size: samples per forward pass.
        info: descriptors kept with results, such as ``{"dataset": "digits"}``.

    Raises:
        NotApplicableError: Lightning is not installed.
        ModelError: no such module, or see ``Target``.
        InputError: only one of ``make`` and ``trainer``, no data, or a data module that raises or has several loaders.
        DatasetError: which samples the module was trained on is not known (a split at random, made anew; a trainer that
            did not go through all of its loader), or see ``Target``.
    """
    library(*PACKAGES, extra="lightning")
    loaded: Any = [sys.modules[package] for package in PACKAGES if package in sys.modules]
    if not isinstance(module, tuple(package.LightningModule for package in loaded)):
        raise ModelError(f"expected a LightningModule; got {type(module).__name__}: for others use Target")
    if (make is None) != (trainer is None):
        raise InputError("to retrain, give both make and trainer; got only one")
    train_data: Any = data
    if data is None or isinstance(data, tuple(package.LightningDataModule for package in loaded)):
        trainer_there = _trainer(module, data)
        if data is None and trainer_there is None:
            raise InputError("the module holds no trainer that fitted it: give the data that it was trained on")
        train_data, validation = _of_module(data) if trainer_there is None else _of_trainer(trainer_there)
        heldout = _one(validation) if heldout is None and validation is not None else heldout
    return Target(
        module,
        train_data,
        heldout=heldout,
        train=None if make is None or trainer is None else _Retrained(train_data, make, trainer),
        trajectory=trajectory,
        name=name or type(module).__name__,
        batch_size=batch_size,
        info={"architecture": type(module).__name__, **(info or {})},
    )


def _trainer(module: Any, data: Any) -> Any:
    """The trainer that fitted the module to ``data`` (None: to whatever it was), or None."""
    for trainer in (getattr(module, "_trainer", None), getattr(data, "trainer", None)):
        if trainer is None or trainer.train_dataloader is None:
            continue
        if data is None or trainer.datamodule is data:
            return trainer
    return None


def _of_trainer(trainer: Any) -> tuple[DataLoader, Any]:
    """The very loaders that a trainer took.

    Raises:
        DatasetError: it did not go through all of the training loader, or took several one after the other.
    """
    loader = _one(trainer.train_dataloader, "train_dataloader")
    batches = _length(loader)
    seen = min(trainer.num_training_batches, trainer.fit_loop.epoch_loop.batch_progress.total.ready)
    again = trainer.reload_dataloaders_every_n_epochs
    if seen < batches or again:
        what = f"took new loaders every {again} epoch(s)" if again else f"ran {seen} of the loader's {batches} batches"
        raise DatasetError(
            f"the trainer {what} (limits, reloading or an early end), so some samples may be none that the module was "
            "trained on: hand over those that it was, as a dataset of (x, y)"
        )
    return loader, trainer.val_dataloaders


def _of_module(data: Any) -> tuple[DataLoader, Any]:
    """Loaders of a data module that no trainer holds; one without loaders yet is set up.

    Raises:
        DatasetError: they hold other samples when they are asked for again, as after a split at random.
        InputError: the data module raised.
    """
    other = data
    with fork_all_rngs():
        try:
            _seed(0)
            found = _ask(data)
            ready = _length(found[0].dataset) > 0
        except Exception:
            ready = False
        try:
            if not ready:
                data.prepare_data()
                other = _copied(data)
                _seed(0)
                data.setup("fit")
                found = _ask(data)
                _seed(1)
                other.setup("fit")
            _seed(1)
            again = _ask(other)
        except ForgetcastError:
            raise
        except Exception as error:
            raise InputError(
                f"{type(data).__name__} raised {type(error).__name__} as it was asked for its loaders: "
                f"{first_line(error)}: pass the loader that the module was fitted with"
            ) from error
        same = _alike(found[0], again[0]) and (found[1] is None or _alike(_one(found[1]), _one(again[1])))
    if not same:
        raise DatasetError(
            f"{type(data).__name__} draws another split each time, so which samples the module was trained on is not "
            "known: pass the loaders that it was fitted with, from_lightning(module, trainer.train_dataloader, "
            "heldout=trainer.val_dataloaders)"
        )
    return found


def _ask(data: Any) -> tuple[DataLoader, Any]:
    """What a data module's loader methods return for training and validation."""
    loader = _one(data.train_dataloader(), "train_dataloader")
    return loader, data.val_dataloader() if _overridden(data, "val_dataloader") else None


def _copied(data: Any) -> Any:
    try:
        return copy.deepcopy(data)
    except Exception:  # it holds a handle; then it is set up twice itself
        return data


def _seed(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)
    torch.default_generator.manual_seed(seed)


def _length(data: Any) -> int:
    """Number of items or batches; 0 where it has none."""
    try:
        return len(data)
    except TypeError:
        return 0


def _alike(one: DataLoader, other: DataLoader) -> bool:
    """Whether two loaders hold the same samples in the same order, judged by their indices and a few samples."""
    a, b = one.dataset, other.dataset
    if isinstance(a, Subset) and isinstance(b, Subset) and list(a.indices) != list(b.indices):
        return False
    n = _length(a)
    if n != _length(b):
        return False
    few = np.unique(np.linspace(0, n - 1, min(n, FEW)).round().astype(int)).tolist()
    parts = [Data(Subset(data, few), collate_fn=loader.collate_fn) for data, loader in ((a, one), (b, other))]
    hashes = [part.content_hashes() for part in parts]
    return bool((hashes[0] == hashes[1]).all()) and torch.equal(parts[0].labels, parts[1].labels)


def _overridden(data: Any, method: str) -> bool:
    """Whether a data module has this loader."""
    return not getattr(type(data), method).__module__.startswith(("lightning.", "pytorch_lightning."))


def _one(loaders: Any, method: str = "val_dataloader") -> DataLoader:
    """The only loader there is.

    Raises:
        InputError: there are several, or none.
    """
    if isinstance(loaders, (list, tuple)) and len(loaders) == 1:
        loaders = loaders[0]
    if not isinstance(loaders, DataLoader):
        raise InputError(
            f"{method}: expected one DataLoader; got {type(loaders).__name__}: pass the dataset that the module was "
            "trained on, and the one that is held out, instead"
        )
    return loaders


@dataclass(frozen=True)
class _Retrained:
    """Fits a new module to some of the samples with a new trainer."""

    data: Any
    make: Callable[[], nn.Module]
    trainer: Callable[[], Any]

    def __call__(self, indices: np.ndarray, seed: int) -> nn.Module:
        package = library(*PACKAGES, extra="lightning")
        before = os.environ.get(SEED)
        size, collate, data = 32, None, self.data
        if isinstance(data, DataLoader):
            size, collate, data = data.batch_size or size, data.collate_fn, data.dataset
        elif isinstance(data, (tuple, list)):
            x, y = Data(data).fetch(torch.as_tensor(indices))
            data, indices = TensorDataset(x, y), np.arange(len(y))
        try:
            with fork_all_rngs():
                package.seed_everything(seed % 2**32, verbose=False)
                module = self.make()
                loader = DataLoader(
                    Subset(data, np.asarray(indices).tolist()),
                    batch_size=size,
                    shuffle=True,
                    collate_fn=collate,
                    generator=torch.Generator().manual_seed(seed),
                )
                self.trainer().fit(module, loader)
        finally:
            os.environ.pop(SEED, None)
            if before is not None:
                os.environ[SEED] = before
        return module
