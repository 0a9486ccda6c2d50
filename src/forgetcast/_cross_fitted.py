"""Perceptrons fitted in folds: what those that were fitted without a sample's fold say of its label.

Folds and the order in which samples are visited hang on the samples' content alone, so that reordering the data
reorders the results.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from forgetcast.data import Inputs, leaves

__all__ = ["FOLDS", "Folds", "content_folds", "perceptron_confidence", "row_checksums"]

FOLDS = 5

PASSES = (2, 16)
VISITS = 120_000
"""Perceptrons go over about as many samples in training, in 2 to 16 passes."""

RESTARTS = 4
MODEL_ROWS = 12_000
"""Restarts times samples at most, with one restart at least."""


@dataclass(frozen=True)
class Folds:
    """Samples in an order that hangs on their content, and the fold of each."""

    order: Tensor
    """Sample numbers, shape (n,)."""
    fold: Tensor
    """Fold of every sample of ``order``, in [0, count), shape (n,)."""
    count: int


def row_checksums(x: Inputs) -> Tensor:
    """CRC-32 of every sample's bytes over all tensors of a batch, int64, shape (b,)."""
    sums: list[int] = []
    for leaf in leaves(x):
        rows = leaf.detach().cpu().reshape(len(leaf), -1).contiguous().view(torch.uint8).numpy()
        sums = [zlib.crc32(row, start) for row, start in zip(rows, sums or [0] * len(rows), strict=True)]
    return torch.tensor(sums, dtype=torch.int64)


def content_folds(checksums: Tensor, labels: Tensor, *, count: int = FOLDS) -> Folds:
    """Each class dealt out over min(count, n) folds in the order of the checksums (shape (n,)).

    Copies of a sample follow each other and so land in different folds, as they would be apart when one is deleted.
    """
    count = min(count, len(labels))
    order = torch.argsort(checksums, stable=True)
    by_class = order[torch.argsort(labels[order], stable=True)]
    fold = torch.empty_like(order)
    fold[by_class] = torch.arange(len(order)) % count
    return Folds(order, fold[order], count)


def perceptron_confidence(
    z: Tensor,
    labels: Tensor,
    classes: int,
    folds: Folds,
    *,
    seed: int = 0,
    hidden: int = 64,
    restarts: int = RESTARTS,
) -> Tensor:
    """Out-of-fold probability of the label by perceptrons with one hidden layer, mean over restarts, shape (n,).

    On an inner representation ``z`` (n, d) this retrains what comes after it, cheaply. All folds and restarts train
    side by side: AdamW (Loshchilov & Hutter, arXiv 1711.05101) under a one-cycle rate (Smith & Topin, arXiv 1708.07120)
    on the same batches of all samples, of each of which a network leaves out those of its own fold.
    """
    n, width = z.shape
    restarts = max(1, min(restarts, MODEL_ROWS // n))
    passes = max(PASSES[0], min(PASSES[1], VISITS // n))
    z, y = z[folds.order], labels[folds.order]
    generator = torch.Generator().manual_seed(seed)
    owner = torch.arange(folds.count).repeat_interleave(restarts)
    models = len(owner)
    first = torch.randn(width, models, hidden, generator=generator).mul_((2 / width) ** 0.5).flatten(1)
    last = torch.randn(models, hidden, classes, generator=generator) / hidden**0.5
    parameters = [first, torch.zeros(models * hidden), last, torch.zeros(models, 1, classes)]
    size = min(n, max(20, min(320, n // 25)))  # a network is left four fifths of it
    steps = passes * (n // size)
    with torch.enable_grad():
        for parameter in parameters:
            parameter.requires_grad_()
        optimizer = torch.optim.AdamW(parameters, lr=3e-3, weight_decay=1e-4)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps + 1)
        for step in range(steps):
            at = step % (n // size) * size
            if at == 0:
                drawn = torch.randperm(n, generator=generator)
            rows = drawn[at : at + size]
            kept = (folds.fold[rows] != owner[:, None]).float()
            optimizer.zero_grad()
            logits = _side_by_side(parameters, z[rows])
            losses = F.cross_entropy(logits.flatten(0, 1), y[rows].repeat(models), reduction="none").view(models, -1)
            ((losses * kept).sum(1) / kept.sum(1).clamp(min=1)).sum().backward()
            optimizer.step()
            schedule.step()
    found = torch.zeros(n)
    with torch.no_grad():
        for k in range(folds.count):
            own = slice(k * restarts, (k + 1) * restarts)
            fitted = [
                *(parameter.unflatten(-1, (models, hidden))[..., own, :].flatten(-2) for parameter in parameters[:2]),
                *(parameter[own] for parameter in parameters[2:]),
            ]
            for rows in (folds.fold == k).nonzero()[:, 0].split(4096):
                share = _side_by_side(fitted, z[rows]).softmax(2).mean(0)
                found[rows] = share.gather(1, y[rows][:, None])[:, 0]
    return _back(found, folds)


def _side_by_side(parameters: list[Tensor], x: Tensor) -> Tensor:
    """Logits (models, b, classes) of all perceptrons for the same x (b, d): their first layers are one product."""
    first, first_bias, last, last_bias = parameters
    hidden = torch.addmm(first_bias, x, first).relu_().unflatten(1, (len(last), -1))
    return torch.baddbmm(last_bias, hidden.transpose(0, 1), last)


def _back(values: Tensor, folds: Folds) -> Tensor:
    """Values in the folds' order, in the order of the data; float64."""
    return torch.empty(len(values), dtype=torch.float64).index_copy_(0, folds.order, values.double())
