"""Cheap learners fitted in folds: what those that were fitted without a sample's fold say of its label.

Folds and the order in which samples are visited hang on the samples' content alone, so that reordering the data
reorders the results.
"""

from __future__ import annotations

import warnings
import zlib
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits
from torch import Tensor

from forgetcast._surrogates import random_features
from forgetcast.data import Inputs, leaves

__all__ = ["FOLDS", "Folds", "content_folds", "logistic_confidence", "perceptron_confidence", "row_checksums"]

FOLDS = 5

RANDOM_FEATURES = 512

PENALTIES = (1e-2, 1e-3, 1e-4)
"""Of the logistic regression, strong to weak: λ in mean loss + λ/2 ‖W‖² on features of mean square 1."""

ITERATIONS = 15
"""Of L-BFGS at every penalty, each of which starts where the one before ended."""

FIT_ROWS = 4000
"""Samples that a fold's logistic regression is fitted to at most: the first in the order of their checksums."""

PASSES = (4, 16)
VISITS = 240_000
"""A perceptron sees about as many samples in training, in 4 to 16 passes."""

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


def logistic_confidence(
    z: Tensor, labels: Tensor, classes: int, folds: Folds, *, seed: int = 0, width: int = RANDOM_FEATURES
) -> Tensor:
    """Out-of-fold probability of the label by multinomial logistic regression on random features, shape (n,).

    min(width, 2n) random ReLU features (Rahimi & Recht 2008) of ``z`` (n, d), which is expected with columns of mean 0
    and variance about 1. Penalties are tried from strong to weak as long as the out-of-fold likelihood of the labels
    grows. A class that is missing from the other folds has probability 0.
    """
    y = labels[folds.order].numpy()
    drawn = random_features(z[folds.order], width=min(width, 2 * len(z)), seed=seed)[:, :-1]
    phi = drawn.div_((torch.linalg.vector_norm(drawn) / drawn.numel() ** 0.5).clamp(min=1e-12)).numpy()
    outside = [(folds.fold == k).numpy() for k in range(folds.count)]
    inside = [np.flatnonzero(~rows)[:FIT_ROWS] for rows in outside]
    models = [LogisticRegression(max_iter=ITERATIONS, warm_start=True) for _ in inside]
    best, best_likelihood = np.zeros(len(z)), -np.inf
    for penalty in PENALTIES:
        found = np.zeros(len(z))
        for model, rows, left_out in zip(models, inside, outside, strict=True):
            share = np.zeros((left_out.sum(), classes))
            seen = np.unique(y[rows])
            if len(seen) == 1:
                share[:, seen] = 1.0
            else:
                with warnings.catch_warnings(), threadpool_limits(1, "blas"):  # small products: threads only wait
                    warnings.simplefilter("ignore", ConvergenceWarning)
                    model.set_params(C=1 / (penalty * len(rows))).fit(phi[rows], y[rows])
                share[:, seen] = model.predict_proba(phi[left_out])
            found[left_out] = np.take_along_axis(share, y[left_out, None], axis=1)[:, 0]
        likelihood = float(np.log(found.clip(1e-6)).mean())
        if likelihood <= best_likelihood:
            break
        best, best_likelihood = found, likelihood
    return _back(torch.from_numpy(best), folds)


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
    as one stack: AdamW (Loshchilov & Hutter, arXiv 1711.05101) under a one-cycle rate (Smith & Topin, arXiv
    1708.07120), batches of n/32 samples within [16, 256].
    """
    n, width = z.shape
    restarts = max(1, min(restarts, MODEL_ROWS // n))
    passes = max(PASSES[0], min(PASSES[1], VISITS // n))
    z, y = z[folds.order], labels[folds.order]
    generator = torch.Generator().manual_seed(seed)
    owner = torch.arange(folds.count).repeat_interleave(restarts)
    layers = [
        torch.randn(len(owner), a, b, generator=generator) * (gain / a) ** 0.5
        for a, b, gain in ((width, hidden, 2), (hidden, classes, 1))
    ]
    parameters = [*layers, *(torch.zeros(len(owner), 1, layer.shape[2]) for layer in layers)]
    inside = [(folds.fold != k).nonzero()[:, 0] for k in range(folds.count)]
    shortest = min(len(rows) for rows in inside)
    size = min(shortest, max(16, min(256, n // 32)))
    steps = passes * (shortest // size)
    with torch.enable_grad():
        for parameter in parameters:
            parameter.requires_grad_()
        optimizer = torch.optim.AdamW(parameters, lr=3e-3, weight_decay=1e-4)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps + 1)
        for step in range(steps):
            at = step % (shortest // size) * size
            if at == 0:
                drawn = torch.stack(
                    [inside[k][torch.randperm(len(inside[k]), generator=generator)[:shortest]] for k in owner.tolist()]
                )
            rows = drawn[:, at : at + size]
            optimizer.zero_grad()
            logits = _stacked(parameters, z[rows])
            loss = F.cross_entropy(logits.flatten(0, 1), y[rows].flatten(), reduction="sum") / size
            loss.backward()
            optimizer.step()
            schedule.step()
    found = torch.zeros(n)
    with torch.no_grad():
        for k in range(folds.count):
            own = [parameter[owner == k] for parameter in parameters]
            for rows in (folds.fold == k).nonzero()[:, 0].split(4096):
                share = _stacked(own, z[rows].expand(restarts, -1, -1)).softmax(2).mean(0)
                found[rows] = share.gather(1, y[rows][:, None])[:, 0]
    return _back(found, folds)


def _stacked(parameters: list[Tensor], x: Tensor) -> Tensor:
    """Logits (models, b, classes) of a stack of perceptrons for x (models, b, d)."""
    first, last, first_bias, last_bias = parameters
    return torch.baddbmm(last_bias, torch.relu(torch.baddbmm(first_bias, x, first)), last)


def _back(values: Tensor, folds: Folds) -> Tensor:
    """Values in the folds' order, in the order of the data; float64."""
    return torch.empty(len(values), dtype=torch.float64).index_copy_(0, folds.order, values.double())
