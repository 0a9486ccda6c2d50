"""PyTorch Lightning modules as targets."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Subset, TensorDataset

from forgetcast.adapters._library import library
from forgetcast.data import Data
from forgetcast.errors import InputError, ModelError
from forgetcast.target import Target
from forgetcast.trajectory import Trajectory

__all__ = ["from_lightning"]

PACKAGES = ("lightning.pytorch", "pytorch_lightning")
"""Lightning has two names; a module is of the one that its author imported."""
SEED = "PL_GLOBAL_SEED"


def from_lightning(
    module: nn.Module,
    data: Any,
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
        data: a ``LightningDataModule`` (``prepare_data`` and ``setup("fit")`` are called), or the training data: a
            ``DataLoader``, a dataset of (x, y), a pair (x, y).
        heldout: a ``DataLoader``, dataset or pair that the module was not trained on; default for a data module its
            validation data.
        make: returns a new, untrained module; with ``trainer`` the target can be retrained.
        trainer: returns a new ``Trainer``; say there whether it draws bars, logs and keeps checkpoints. It fits the new
            module to batches of the training loader's size (32 where there is no loader), shuffled.
        trajectory, batch_size, info: as for ``Target``.
        name: of the target; default: the module's class.

    Raises:
        NotApplicableError: Lightning is not installed.
        ModelError: no such module, or see ``Target``.
        InputError: only one of ``make`` and ``trainer``, or a data module with several training loaders.
    """
    library(*PACKAGES, extra="lightning")
    loaded: Any = [sys.modules[package] for package in PACKAGES if package in sys.modules]
    if not isinstance(module, tuple(package.LightningModule for package in loaded)):
        raise ModelError(f"expected a LightningModule; got {type(module).__name__}: for others use Target")
    if (make is None) != (trainer is None):
        raise InputError("to retrain, give both make and trainer; got only one")
    train_data: Any = data
    if isinstance(data, tuple(package.LightningDataModule for package in loaded)):
        train_data, validation = _loaders(data)
        heldout = validation if heldout is None else heldout
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


def _loaders(data: Any) -> tuple[DataLoader, DataLoader | None]:
    """Training and validation data of a data module."""
    data.prepare_data()
    data.setup("fit")
    validation = _one(data.val_dataloader(), "val_dataloader") if _overridden(data, "val_dataloader") else None
    return _one(data.train_dataloader(), "train_dataloader"), validation


def _overridden(data: Any, method: str) -> bool:
    """Whether a data module has this loader."""
    return not getattr(type(data), method).__module__.startswith(("lightning.", "pytorch_lightning."))


def _one(loaders: Any, method: str) -> DataLoader:
    """The only loader of a data module.

    Raises:
        InputError: there are several, or none.
    """
    if isinstance(loaders, (list, tuple)) and len(loaders) == 1:
        loaders = loaders[0]
    if not isinstance(loaders, DataLoader):
        raise InputError(
            f"{method}: expected one DataLoader; got {type(loaders).__name__}: pass the dataset that the module was "
            "trained on instead"
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
        random = _state()
        try:
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
            _restore(random)
            os.environ.pop(SEED, None)
            if before is not None:
                os.environ[SEED] = before
        return module


def _state() -> tuple[Any, ...]:
    import random

    gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
    return random.getstate(), np.random.get_state(), torch.random.get_rng_state(), gpus


def _restore(state: tuple[Any, ...]) -> None:
    import random

    random.setstate(state[0])
    np.random.set_state(state[1])
    torch.random.set_rng_state(state[2])
    if state[3] is not None:
        torch.cuda.set_rng_state_all(state[3])
