"""Plain training of a classifier, repeatable to the bit, with and without some of its samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn import functional as F

from forgetcast.corpus.zoo.augmentation import augmented
from forgetcast.target.seeding import seeded

__all__ = ["Record", "Trainer", "train_classifier", "train_stacked", "trains_stacked"]

Record = Callable[[int, nn.Module, float], None]
"""``record(epoch, model, lr)``: called after every epoch (0, 1, ...) with the rate that the epoch began with."""


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
    augment: bool = False,
    seed: int = 0,
    record: Record | None = None,
) -> nn.Module:
    """Train ``model`` in place with Adam and cross-entropy, then return it in evaluation mode.

    Batches are cut from a permutation of **all** samples and then lose those that are not in ``indices``. So training
    with and without a sample takes the same batches in the same order but for that sample: the two runs differ by the
    sample and not by chance, which is what a paired comparison needs.

    Args:
        model: maps x to logits (b, classes).
        x: inputs, float, (n, ...).
        y: labels, int64, (n,).
        indices: samples to train on; default all.
        epochs: passes over the data.
        lr: learning rate at the start; it falls to 0 along a cosine.
        batch_size: samples per step.
        weight_decay: of Adam.
        augment: change inputs at random (:func:`forgetcast.corpus.zoo.augmentation.augmented`), anew in every epoch.
        seed: order of the samples, augmentation and dropout; the global random state is left as it was.
        record: sees the model, in evaluation mode, after every epoch; training goes on as if it had not. For a
            :class:`forgetcast.Trajectory` it keeps a copy of the state dict, or the model's outputs.
    """
    member = _members(len(y), indices)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=weight_decay, foreach=True)
    steps = epochs * -(-len(y) // batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    device = next(model.parameters()).device
    with seeded(seed, device):
        for epoch in range(epochs):
            model.train()
            (rate,) = schedule.get_last_lr()
            for batch in torch.randperm(len(y)).split(batch_size):
                inputs = augmented(x[batch]) if augment else x[batch]
                kept = member[batch]
                if kept.sum() > 1:
                    optimizer.zero_grad()
                    F.cross_entropy(model(inputs[kept]), y[batch[kept]]).backward()
                    optimizer.step()
                schedule.step()
            if record is not None:
                with seeded(epoch, device):
                    record(epoch, model.eval(), float(rate))
    return model.eval()


STACK = 8
"""Models from which on stacking pays (measured: 5 models of 109,000 parameters take 1.3 times as long, 10 take 0.9)."""


def _members(n: int, indices: np.ndarray | Sequence[int] | None) -> Tensor:
    member = torch.zeros(n, dtype=torch.bool)
    member[torch.arange(n) if indices is None else torch.as_tensor(np.asarray(indices))] = True
    return member


def trains_stacked(model: nn.Module) -> bool:
    """Whether many copies of the model train faster side by side, with the same result.

    Convolutions of several models become grouped ones, which are slow on a CPU; batch normalisation and dropout have
    state and draws that copies would share.
    """
    alone = (nn.modules.conv._ConvNd, nn.modules.batchnorm._NormBase, nn.MultiheadAttention, nn.RNNBase)
    return not any(
        isinstance(layer, alone) or (isinstance(layer, nn.modules.dropout._DropoutNd) and layer.p > 0)
        for layer in model.modules()
    )


def train_stacked(
    models: Sequence[nn.Module],
    x: Tensor,
    y: Tensor,
    *,
    indices: Sequence[np.ndarray],
    seeds: Sequence[int],
    epochs: int = 20,
    lr: float = 1e-3,
    batch_size: int = 64,
    weight_decay: float = 0.0,
) -> list[nn.Module]:
    """Train m models of one architecture side by side, each as :func:`train_classifier` would, up to rounding.

    Their parameters are stacked and every layer runs for all of them at once (``torch.func``); for small perceptrons
    most of the time of a step is overhead, and is then paid once (``benchmarks/oracle_speed.py``).

    Args:
        models: trained in place; they must satisfy :func:`trains_stacked`.
        x: inputs, float, (n, ...).
        y: labels, int64, (n,).
        indices: samples that each model is trained on.
        seeds: order of the samples for each.
        epochs: passes over the data.
        lr: learning rate at the start; it falls to 0 along a cosine.
        batch_size: samples per step.
        weight_decay: of Adam.
    """
    member = torch.stack([_members(len(y), chosen) for chosen in indices])
    orders = {seed: _orders(len(y), epochs, seed) for seed in set(seeds)}
    order = torch.stack([orders[seed] for seed in seeds])  # (m, epochs, n)
    batches = [(epoch, part) for epoch in range(epochs) for part in torch.arange(len(y)).split(batch_size)]
    row = torch.arange(len(models))[:, None]
    kept = torch.stack([member[row, order[:, epoch, part]].sum(1) for epoch, part in batches])
    if bool((kept < 2).any()):  # a model skips such a batch, and the others do not
        settings: dict[str, Any] = {"epochs": epochs, "lr": lr, "batch_size": batch_size, "weight_decay": weight_decay}
        together = zip(models, indices, seeds, strict=True)
        return [train_classifier(model, x, y, indices=part, seed=seed, **settings) for model, part, seed in together]
    named = [dict(model.named_parameters()) for model in models]
    stack = {name: torch.stack([params[name].detach() for params in named]).requires_grad_() for name in named[0]}
    optimizer = torch.optim.AdamW(list(stack.values()), lr=lr, weight_decay=weight_decay, foreach=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, len(batches))
    module = models[0].train()
    forward = vmap(lambda params, x: functional_call(module, params, (x,)))
    for epoch, part in batches:
        batch = order[:, epoch, part]
        weight = member[row, batch].to(x.dtype)
        logits = forward(stack, x[batch])
        losses = F.cross_entropy(logits.flatten(0, 1), y[batch].flatten(), reduction="none").unflatten(0, batch.shape)
        optimizer.zero_grad()
        ((losses * weight).sum(1) / weight.sum(1)).sum().backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        for k, params in enumerate(named):
            for name, value in params.items():
                value.copy_(stack[name][k])
    return [model.eval() for model in models]


def _orders(n: int, epochs: int, seed: int) -> Tensor:
    """The permutation of every epoch that :func:`train_classifier` draws from a seed, (epochs, n)."""
    with seeded(seed):
        return torch.stack([torch.randperm(n) for _ in range(epochs)])


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
    augment: bool = False

    def __call__(self, indices: np.ndarray, seed: int, record: Record | None = None) -> nn.Module:
        """Train on the samples ``indices`` with ``seed`` for both initialisation and order."""
        model = self.make(seed)
        return train_classifier(model, self.x, self.y, indices=indices, seed=seed, record=record, **self._settings())

    def many(self, indices: Sequence[np.ndarray], seeds: Sequence[int]) -> list[nn.Module]:
        """One model per set of samples in ``indices`` with its seed in ``seeds``; side by side if that is faster."""
        models = [self.make(seed) for seed in seeds]
        if len(models) >= STACK and trains_stacked(models[0]) and not self.augment:
            settings = self._settings()
            del settings["augment"]
            return train_stacked(models, self.x, self.y, indices=indices, seeds=seeds, **settings)
        return [self(part, seed) for part, seed in zip(indices, seeds, strict=True)]

    def _settings(self) -> dict[str, Any]:
        names = ("epochs", "lr", "batch_size", "weight_decay", "augment")
        return {name: getattr(self, name) for name in names}
