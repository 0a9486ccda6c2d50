"""Exact nearest neighbours by cosine similarity, chunk by chunk."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from forgetcast.errors import NotApplicableError

__all__ = ["Neighbours", "nearest_neighbours"]

CHUNK = 1 << 25
"""Similarities held at a time."""


@dataclass(frozen=True)
class Neighbours:
    """The nearest other samples of every sample, most similar first. k is at most n - 1."""

    index: Tensor
    """Sample numbers, int64, shape (n, k)."""
    similarity: Tensor
    """Cosine similarity, float32, shape (n, k), in [-1, 1]."""
    same: Tensor
    """Whether the neighbour has the sample's label, bool, shape (n, k)."""
    nearest_same: Tensor
    """Similarity to the nearest sample of the same label, shape (n,); -1 where there is none."""
    nearest_other: Tensor
    """Similarity to the nearest sample of another label, shape (n,); -1 where there is none."""


def nearest_neighbours(z: Tensor, labels: Tensor, *, k: int = 100, device: torch.device | str = "cpu") -> Neighbours:
    """Search all pairs of rows of ``z`` (n, d); a sample is never its own neighbour.

    Takes n² d multiplications and memory for a chunk of rows. A row of zeros has similarity 0 to everything.

    Raises:
        NotApplicableError: fewer than two samples.
    """
    n = len(z)
    if n < 2:
        raise NotApplicableError("neighbours need at least two samples")
    z = F.normalize(z.to(device), dim=1, eps=1e-12)
    y = labels.to(device)
    k = min(k, n - 1)
    rows = max(1, CHUNK // n)
    parts: list[tuple[Tensor, ...]] = []
    for start in range(0, n, rows):
        own = torch.arange(start, min(start + rows, n), device=z.device)
        similarity = (z[own] @ z.T).clamp_(-1, 1)
        similarity[torch.arange(len(own), device=z.device), own] = -torch.inf
        top, index = similarity.topk(k, dim=1)
        alike = y[own, None] == y[None]
        parts.append(
            (
                index.cpu(),
                top.cpu(),
                similarity.masked_fill(~alike, -1).amax(1).clamp(min=-1).cpu(),
                similarity.masked_fill(alike, -1).amax(1).cpu(),
            )
        )
    index, top, nearest_same, nearest_other = (torch.cat(column) for column in zip(*parts, strict=True))
    return Neighbours(index, top, labels[index] == labels[:, None], nearest_same, nearest_other)
