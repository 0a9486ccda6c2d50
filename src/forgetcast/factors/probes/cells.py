"""Nearest neighbours in time nearly linear in n: every sample is compared with those of the nearest cells only.

The cells are those of an inverted file (Sivic & Zisserman 2003; Jégou, Douze & Schmid 2011): faiss finds them by
k-means and keeps the best matches in heaps. Comparing is ours, cell by cell in matrix products: the scan of faiss
takes longer on wide rows and does not separate the nearest sample of another label from the nearest of all.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from forgetcast.target.preallocated import concatenated

__all__ = ["search_cells"]

CELL = 256
"""Samples in a cell, on average."""

PROBES = 4
"""Cells that every sample is compared with."""

TRAINED = 32
"""Samples per cell that k-means sees."""

WIDTH = 256
"""Principal directions that wider rows are compared in."""

BATCH = 4096
"""Samples compared with all cells' centres at a time."""

BLOCK = 1 << 22
"""Similarities held at a time."""


def search_cells(z: Tensor, labels: Tensor, k: int, wanted: Tensor, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The k rows of ``z`` (n, d) most similar to each of the rows ``wanted`` (m,), as far as they lie in near cells.

    Returns numbers and similarities (m, k), and the similarity to the nearest row of the same label and of another one,
    each (m,), -1 where there is none. The cells are those of all rows, so what is found for one row does not depend on
    what else is wanted.
    """
    import faiss  # heavy, and needed for large data only

    n = len(z)
    count = -(-n // CELL)
    drawn = torch.randperm(n, generator=torch.Generator().manual_seed(seed))[: TRAINED * count]
    z = _unit_rows(z, drawn)
    with _as_many_threads(faiss):
        clustering = faiss.Kmeans(
            z.shape[1], count, niter=5, spherical=True, seed=seed, min_points_per_centroid=1, max_points_per_centroid=n
        )
        clustering.train(z[drawn].numpy())
        centres = torch.from_numpy(clustering.centroids).T
        probes = concatenated(n, ((rows @ centres).topk(min(PROBES, count), dim=1).indices for rows in z.split(BATCH)))
        scan = _Scan(z, labels, wanted, probes[:, 0], count, faiss.ResultHeap(len(wanted), k, keep_max=True))
        everyone = torch.arange(len(wanted))
        scan.compare(everyone, probes[wanted, :1])  # the own cell first: then the heaps take in less of the others
        scan.compare(everyone, probes[wanted, 1:])
        scan.fill(centres)
        scan.find_missing(centres)
        scan.heap.finalize()
    return torch.from_numpy(scan.heap.I), torch.from_numpy(scan.heap.D).clamp_(-1, 1), scan.same, scan.other


def _unit_rows(z: Tensor, drawn: Tensor) -> Tensor:
    """The rows scaled to length 1; wide ones in the :data:`WIDTH` directions that hold most of the drawn rows."""
    unit = partial(F.normalize, dim=1, eps=1e-12)
    if z.shape[1] <= WIDTH:
        return unit(z)
    sample = unit(z[drawn])
    directions = torch.linalg.eigh((sample.T @ sample).double()).eigenvectors[:, -WIDTH:].to(z.dtype)
    turned = torch.empty(len(z), WIDTH)
    for rows, out in zip(z.split(BATCH), turned.split(BATCH), strict=True):
        torch.mm(unit(rows), directions, out=out)
    return turned


@contextmanager
def _as_many_threads(faiss: Any) -> Iterator[None]:
    """A block in which faiss uses as many threads as torch."""
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(torch.get_num_threads())
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


class _Scan:
    """Compares the wanted samples with the members of cells.

    Wanted samples go by their place among the wanted. Members of a cell, and samples compared with it, stand sorted by
    label, so that the best of a label is the largest number in a block.
    """

    def __init__(self, z: Tensor, labels: Tensor, wanted: Tensor, cell: Tensor, count: int, heap: Any) -> None:
        self.heap = heap
        self.same = torch.full((len(wanted),), -1.0)
        """Similarity to the nearest of the same label so far."""
        self.other = torch.full((len(wanted),), -1.0)
        """Likewise of another label."""
        self._z, self._labels, self._wanted, self._count = z, labels, wanted, count
        self._classes = int(labels.max()) + 1
        key = cell * self._classes + labels
        self._held = torch.bincount(key, minlength=count * self._classes).view(count, -1)
        self._members = key.argsort(stable=True)
        self._member_rows, self._member_labels = z[self._members], labels[self._members]
        self._starts = _starts(cell, count)
        self._place = torch.empty_like(self._members).scatter_(0, self._members, torch.arange(len(z)))[wanted]

    def compare(self, samples: Tensor, cells: Tensor) -> None:
        """Compare ``samples`` (m,) with the members of ``cells`` (m, w), which they have not met before."""
        if not cells.numel():
            return
        samples, cells = samples.repeat_interleave(cells.shape[1]), cells.flatten()
        starts = _starts(cells, self._count)
        samples = samples[(cells * self._classes + self._labels[self._wanted[samples]]).argsort(stable=True)]
        for cell, (first, last) in enumerate(pairwise(self._starts)):
            if first < last and starts[cell] < starts[cell + 1]:
                for part in samples[starts[cell] : starts[cell + 1]].split(max(1, BLOCK // (last - first))):
                    self._compare(part, first, last)

    def _compare(self, samples: Tensor, first: int, last: int) -> None:
        numbers = self._wanted[samples]
        similarity = self._z[numbers] @ self._member_rows[first:last].T
        place = self._place[samples]
        own = ((place >= first) & (place < last)).nonzero()[:, 0]
        similarity[own, place[own] - first] = -torch.inf
        held = self._member_labels[first:last]
        values, counts = self._labels[numbers].unique_consecutive(return_counts=True)
        low, high = (torch.searchsorted(held, values, right=right).tolist() for right in (False, True))
        sizes = counts.tolist()
        for part, block, a, b in zip(samples.split(sizes), similarity.split(sizes), low, high, strict=True):
            for best, candidates in (
                (self.same, block[:, a:b]),
                (self.other, block[:, :a]),
                (self.other, block[:, b:]),
            ):
                if candidates.shape[1]:
                    best[part] = torch.maximum(best[part], candidates.amax(1))
        self.heap.add_result_subset(samples.numpy(), similarity.numpy(), self._members[first:last].numpy())

    def fill(self, centres: Tensor) -> None:
        """Compare samples whose cells held fewer than k others with more cells, until they have k."""
        met = PROBES
        short = torch.from_numpy((self.heap.I < 0).any(1)).nonzero()[:, 0]
        while len(short) and met < self._count:
            for samples in short.split(BATCH):
                order = (self._z[self._wanted[samples]] @ centres).argsort(1, descending=True)
                self.compare(samples, order[:, met : met + PROBES])
            met += PROBES
            short = short[torch.from_numpy((self.heap.I[short.numpy()] < 0).any(1))]

    def find_missing(self, centres: Tensor) -> None:
        """Compare samples that met none of their label, or none of another, with the nearest cell that holds some."""
        counts = self._held.sum(0)
        for best, exists, holds in (
            (self.same, counts > 1, self._held > 0),
            (self.other, counts < len(self._z), self._held.sum(1, keepdim=True) > self._held),
        ):
            labels = self._labels[self._wanted]
            missing = ((best == -1) & exists[labels]).nonzero()[:, 0]
            cells = torch.empty(len(missing), 1, dtype=torch.long)
            for samples, nearest in zip(missing.split(BATCH), cells.split(BATCH), strict=True):
                near = self._z[self._wanted[samples]] @ centres
                near.masked_fill_(~holds.T[labels[samples]], -torch.inf)
                torch.argmax(near, 1, keepdim=True, out=nearest)
            self.compare(missing, cells)


def _starts(cells: Tensor, count: int) -> list[int]:
    """Where each cell begins once samples are sorted by cell, and where the last one ends."""
    return [0, *torch.bincount(cells, minlength=count).cumsum(0).tolist()]
