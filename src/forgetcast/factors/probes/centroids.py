"""Distances of samples to the means of their classes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Centroids", "class_centroids"]


@dataclass(frozen=True)
class Centroids:
    """Distances to class means in feature space, in units of the data's overall spread (root mean square)."""

    own: Tensor
    """To the mean of the other samples of its class (for the only sample of a class: of all others), shape (n,)."""
    other: Tensor
    """To the nearest mean of another class (with one class only: of all others), shape (n,)."""


def class_centroids(z: Tensor, labels: Tensor, classes: int) -> Centroids:
    """Distances of the samples ``z`` (n, d) with ``labels`` (n,) below ``classes`` to class means."""
    n = len(z)
    counts = torch.bincount(labels, minlength=classes).double()
    means = torch.zeros(classes, z.shape[1], dtype=z.dtype).index_add_(0, labels, z)
    means = means / counts.clamp(min=1)[:, None]
    overall = z.mean(0)
    spread = (z - overall).square().sum(1).mean().sqrt().clamp(min=1e-12)
    alone = n / max(1, n - 1) * (z - overall).norm(dim=1)  # distance to the mean of all other samples
    own_count = counts[labels]
    own = torch.where(own_count > 1, own_count / (own_count - 1).clamp(min=1) * (z - means[labels]).norm(dim=1), alone)
    distances = torch.cdist(z, means)
    distances[:, counts == 0] = torch.inf
    other = distances.scatter(1, labels[:, None], torch.inf).amin(1)
    return Centroids(own / spread, torch.where(other.isfinite(), other, alone) / spread)
