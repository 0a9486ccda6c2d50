"""Nearest neighbours by cosine similarity: exact for small data, within cells for large."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from forgetcast.errors import NotApplicableError
from forgetcast.factors.probes.cells import search_cells
from forgetcast.target.preallocated import PreallocatedRows

__all__ = ["Neighbours", "nearest_neighbours"]

CHUNK = 1 << 25
"""Similarities held at a time."""

EXACT = {"cpu": 5000, "cuda": 250_000}
"""Samples up to which all pairs are compared."""


@dataclass(frozen=True)
class Neighbours:
    """The nearest other samples of every sample, most similar first. k is at most n - 1."""

    index: Tensor
    """Sample numbers, int64, shape (n, k)."""
    similarity: Tensor
    """Cosine similarity, float32, shape (n, k), in [-1, 1]."""
    same: Tensor
    """Whether the neighbour has the sample's label, bool, shape (n, k); where only some rows were wanted float."""
    nearest_same: Tensor
    """Similarity to the nearest sample of the same label, shape (n,); -1 where there is none."""
    nearest_other: Tensor
    """Similarity to the nearest sample of another label, shape (n,); -1 where there is none."""


def nearest_neighbours(
    z: Tensor,
    labels: Tensor,
    *,
    k: int = 100,
    device: torch.device | str = "cpu",
    rows: Tensor | None = None,
    seed: int = 0,
) -> Neighbours:
    """Search for the neighbours of every row of ``z`` (n, d); a sample is never its own neighbour.

    Exact up to :data:`EXACT` samples: n² d multiplications, a chunk of rows in memory. Beyond, samples are compared
    within the nearest cells only (see ``cells``), on the CPU, in time nearly linear in n. A row of zeros
    has similarity 0 to everything.

    Args:
        z: samples to compare, float32.
        labels: classes, shape (n,).
        k: neighbours to find, at most n - 1.
        device: where to multiply.
        rows: numbers of the samples whose neighbours are wanted, sorted; default all. All else of the others is NaN,
            and their neighbours are themselves.
        seed: of the cells.

    Raises:
        NotApplicableError: fewer than two samples.
    """
    n = len(z)
    if n < 2:
        raise NotApplicableError("neighbours need at least two samples")
    k = min(k, n - 1)
    wanted = torch.arange(n) if rows is None else rows
    if n <= EXACT[torch.device(device).type]:
        found = _exact(z, labels, k, device, wanted)
    else:
        found = search_cells(z, labels, k, wanted, seed)
    index, similarity, nearest_same, nearest_other = found
    same = labels[index] == labels[wanted, None]
    if rows is None:
        return Neighbours(index, similarity, same, nearest_same, nearest_other)
    index = torch.arange(n)[:, None].repeat(1, k).index_copy_(0, rows, index)
    known = (similarity, same.float(), nearest_same, nearest_other)
    return Neighbours(
        index, *(torch.full((n, *part.shape[1:]), torch.nan).index_copy_(0, rows, part) for part in known)
    )


def _exact(
    z: Tensor, labels: Tensor, k: int, device: torch.device | str, wanted: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Numbers and similarities of the nearest (m, k), similarity to the nearest of the same and of another label."""
    z = F.normalize(z.to(device), dim=1, eps=1e-12)
    y = labels.to(device)
    index, top, same, other = (PreallocatedRows(len(wanted)) for _ in range(4))
    for own in wanted.to(device).split(max(1, CHUNK // len(z))):
        similarity = (z[own] @ z.T).clamp_(-1, 1)
        similarity[torch.arange(len(own), device=z.device), own] = -torch.inf
        best, numbers = similarity.topk(k, dim=1)
        alike = y[own, None] == y[None]
        index.add(numbers.cpu())
        top.add(best.cpu())
        same.add(similarity.masked_fill(~alike, -1).amax(1).clamp(min=-1).cpu())
        other.add(similarity.masked_fill(alike, -1).amax(1).cpu())
    return index.array, top.array, same.array, other.array
