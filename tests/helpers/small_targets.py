"""Small trained targets, quick enough to unlearn and retrain many times in a test: on real digits, and on clouds."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from forgetcast.corpus.zoo import datasets
from forgetcast.corpus.zoo.training import Trainer
from forgetcast.target.target import Target

MISLABELLED = (5, 40, 77, 111)
"""Training samples of the digits whose label is wrong."""


@lru_cache(maxsize=1)
def digits() -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """120 training samples, a few of them mislabelled, and 100 held-out ones."""
    (x, y), (x_heldout, y_heldout) = datasets.load("digits")
    x, y = x[:120].clone(), y[:120].clone()
    for index in MISLABELLED:
        y[index] = (y[index] + 3) % 10
    return (x, y), (x_heldout[:100].clone(), y_heldout[:100].clone())


def make_mlp(seed: int) -> nn.Module:
    """One hidden layer of 24 units."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 10))


def make_cnn(seed: int) -> nn.Module:
    """A convolution with batch normalisation, then dropout."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Dropout(0.2),
            nn.Linear(54, 10),
        )  # fmt: skip


def mlp(name: str = "mlp", *, heldout: bool = True, train: bool = True, seed: int = 0) -> Target:
    """A perceptron that has memorized its wrong labels."""
    (x, y), held = digits()
    trainer = Trainer(make_mlp, x, y, epochs=60, lr=0.02, batch_size=40)
    model = trainer(np.arange(len(y)), seed)
    return Target(model, (x, y), heldout=held if heldout else None, train=trainer if train else None, name=name)


@lru_cache(maxsize=1)
def shared_mlp() -> Target:
    """The perceptron, trained once for all tests that leave it as it is."""
    return mlp()


@lru_cache(maxsize=1)
def shared_cnn() -> Target:
    """The convolutional network, trained once for all tests that leave it as it is."""
    (x, y), held = digits()
    trainer = Trainer(make_cnn, x, y, epochs=25, lr=0.02, batch_size=40)
    return Target(trainer(np.arange(len(y)), 0), (x, y), heldout=held, train=trainer, name="cnn")


def clouds(name: str = "clouds", *, shift: float = 0.0, train: bool = True, heldout: bool = True) -> Target:
    """Three clouds of points and a tiny perceptron: everything about it takes milliseconds."""
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(75) % 3
    x = torch.randn(75, 4, generator=generator) + 2 * torch.randn(3, 4, generator=generator)[y] + shift
    y[:45:11] = (y[:45:11] + 1) % 3
    trainer = CloudTrainer(x[:45], y[:45])
    return Target(
        trainer(np.arange(45), 0),
        (x[:45], y[:45]),
        heldout=(x[45:], y[45:]) if heldout else None,
        train=trainer if train else None,
        name=name,
        info={"dataset": "clouds", "architecture": "tiny"},
    )


@dataclass
class CloudTrainer:
    """Trains the perceptron of ``clouds``; ``log`` names a file that gets the process of every training."""

    x: Tensor
    y: Tensor
    log: str | None = None

    def __call__(self, indices: np.ndarray, seed: int) -> nn.Module:
        if self.log is not None:
            with Path(self.log).open("a") as file:
                file.write(f"{os.getpid()}\n")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = nn.Sequential(nn.Linear(4, 12), nn.Tanh(), nn.Linear(12, 3))
        chosen = torch.as_tensor(indices)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
        for _ in range(30):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(self.x[chosen]), self.y[chosen]).backward()
            optimizer.step()
        return model
