"""Plain training of a classifier, repeatable to the bit, with and without some of its samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from forgetcast._random import seeded

__all__ = ["Trainer", "train_classifier"]


def train_classifier(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    indices: np.ndarray | Sequence[int] | None = None,
    epochs: int = 20,
    lr: float = 1e-3,
    batch_size: int = 64,
    weight_decay: float = 0.0,
    seed: int = 0,
) -> nn.Module:
    """Train ``model`` in place with Adam and cross-entropy, then return it in evaluation mode.

    Batches are cut from a permutation of **all** samples and then lose those that are not in ``indices``. So training
    with and without a sample takes the same batches in the same order but for that sample: the two runs differ by the
    sample and not by chance, which is what a paired comparison needs.

    Args:
        model: maps x to logits (b, classes).
        x, y: inputs (n, ...) and labels (n,).
        indices: samples to train on; default all.
        epochs, lr, batch_size, weight_decay: the usual meaning; the rate falls to 0 along a cosine.
        seed: order of the samples and dropout; the global random state is left as it was.
    """
    member = torch.zeros(len(y), dtype=torch.bool)
    member[torch.arange(len(y)) if indices is None else torch.as_tensor(np.asarray(indices))] = True
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=weight_decay, foreach=True)
    steps = epochs * -(-len(y) // batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    model.train()
    with seeded(seed, next(model.parameters()).device):
        for _ in range(epochs):
            for batch in torch.randperm(len(y)).split(batch_size):
                batch = batch[member[batch]]
                if len(batch) > 1:
                    optimizer.zero_grad()
                    F.cross_entropy(model(x[batch]), y[batch]).backward()
                    optimizer.step()
                schedule.step()
    return model.eval()


@dataclass(frozen=True)
class Trainer:
    """A ``train`` callable for :class:`forgetcast.Target`: fresh model, fixed data and hyper-parameters.

    >>> trainer = Trainer(lambda seed: nn.Linear(2, 2), torch.randn(8, 2), torch.arange(8) % 2, epochs=1)
    >>> trainer(np.arange(6), seed=1).training
    False
    """

    make: Callable[[int], nn.Module]
    """``make(seed)`` returns a freshly initialised model."""
    x: Tensor
    y: Tensor
    epochs: int = 20
    lr: float = 1e-3
    batch_size: int = 64
    weight_decay: float = 0.0

    def __call__(self, indices: np.ndarray, seed: int) -> nn.Module:
        """Train on the samples ``indices`` with ``seed`` for both initialisation and order."""
        return train_classifier(
            self.make(seed),
            self.x,
            self.y,
            indices=indices,
            epochs=self.epochs,
            lr=self.lr,
            batch_size=self.batch_size,
            weight_decay=self.weight_decay,
            seed=seed,
        )
