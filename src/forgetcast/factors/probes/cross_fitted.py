"""Kernel logistic regressions fitted in folds: what models fitted without a sample's fold say of its label.

The kernel is the tangent kernel of a network with one hidden layer of rectifiers (Jacot et al. 2018, arXiv 1806.07572,
in the closed form of Cho & Saul 2009), taken on landmarks (Nyström; Williams & Seeger 2000). So on an inner
representation it retrains what comes after it, cheaply, as small perceptrons would. Unlike theirs, its loss is convex:
what is left to chance is which samples are landmarks and which are fitted together, and repeating averages it out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import chain

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["FOLDS", "Features", "fold_numbers", "logistic_confidence", "repeats"]

FOLDS = 5

REPEATS = (1, 40)
FITS = 14_000
"""About this many samples are fitted once; the fewer there are, the more often, for the noisier is a single repeat."""

LANDMARKS = 512

FITTED = 10_000
"""Samples that are fitted, at most; all of them are asked about."""

BLOCK = 4096
"""Samples whose features are held at a time."""

PENALTY = 1e-4
"""Of the squared weights beside the mean loss, for features whose mean squared length is 1; chosen in
``benchmarks/surrogates.py``."""

TOGETHER = 1 << 22
"""Numbers that the logits of repeats fitted together may hold."""

STEPS = 30

SMALLEST = 1e-6
"""Eigenvalues of the kernel, relative to the largest, that count; on others its rounding would be multiplied."""


def repeats(n: int) -> int:
    """How often n samples are dealt out and fitted.

    >>> [repeats(n) for n in (200, 1200, 3000, 10_000)]
    [40, 24, 7, 1]
    """
    return max(REPEATS[0], min(REPEATS[1], int((FITS / n) ** 1.3)))


def fold_numbers(n: int, count: int, generator: torch.Generator) -> Tensor:
    """Folds of n samples in a given order, in [0, count), shape (n,): each run of ``count`` samples gets all of them.

    Where the order has each class together and copies side by side, classes are spread evenly and copies lie apart.
    """
    runs = torch.rand(-(-n // count), count, generator=generator).argsort(1)
    return runs.flatten()[:n]


@dataclass(frozen=True)
class Features:
    """Nyström features of the tangent kernel: φ(x) = K(x, L) K(L, L)^(-1/2) on landmarks L, with a 1 behind them."""

    landmarks: Tensor
    """[x/√d, 1] of m samples, float64, shape (m, d + 1)."""
    projection: Tensor
    """K(L, L)^(-1/2), float32, shape (m, rank), scaled so that the landmarks' features have mean squared length 1."""

    @classmethod
    def of(cls, z: Tensor) -> Features:
        """On the landmarks ``z`` (m, d), expected with columns of mean 0 and variance about 1."""
        landmarks = _lifted(z)
        values, vectors = torch.linalg.eigh(_kernel(landmarks, landmarks))
        kept = values > SMALLEST * values[-1]
        projection = vectors[:, kept] / values[kept].sqrt()
        return cls(landmarks, (projection / (values[kept].sum() / len(z)).sqrt()).float())

    def __call__(self, z: Tensor) -> Tensor:
        """Features (b, rank + 1), float32, of ``z`` (b, d)."""
        return F.pad(_kernel(_lifted(z), self.landmarks).float() @ self.projection, (0, 1), value=1.0)


def _lifted(z: Tensor) -> Tensor:
    return F.pad(z.double() / z.shape[1] ** 0.5, (0, 1), value=1.0)


def _kernel(a: Tensor, b: Tensor) -> Tensor:
    """|a||b|(sin θ + (π - θ) cos θ)/π + a·b (π - θ)/π, θ the angle between rows of a (n, d) and b (m, d)."""
    size, inner = a.norm(dim=1)[:, None] * b.norm(dim=1), a @ b.T
    angle = (inner / size).clamp(-1, 1).arccos()
    away = (math.pi - angle).mul_(inner)  # (π - θ) a·b, which is |a||b|(π - θ) cos θ too
    return angle.sin_().mul_(size).add_(away, alpha=2).div_(math.pi)


@torch.no_grad()
def logistic_confidence(z: Tensor, labels: Tensor, classes: int, *, seed: int = 0) -> Tensor:
    """Out-of-fold probability of the label, mean over repeats with folds and landmarks of their own, float64, (n,).

    Args:
        z: a representation with columns of mean 0 and variance about 1, shape (n, d); the order of the samples as for
            :func:`fold_numbers`.
        labels: shape (n,).
        classes: how many there are.
        seed: of folds and landmarks, and beyond 10,000 samples of those that are fitted.
    """
    generator = torch.Generator().manual_seed(seed)
    total, count = torch.zeros(len(z), dtype=torch.float64), repeats(len(z))
    together = 1
    if len(z) <= LANDMARKS:  # with the same landmarks, features are the same
        together = max(1, TOGETHER // (len(z) * FOLDS * classes))
    for first in range(0, count, together):
        total += _out_of_fold(z, labels, classes, min(together, count - first), generator)
    return total / count


def _out_of_fold(z: Tensor, labels: Tensor, classes: int, times: int, generator: torch.Generator) -> Tensor:
    """Probabilities of the label, summed over so many deals of the folds on the same landmarks, float64, (n,)."""
    n, count = len(z), min(FOLDS, len(z))
    fold = torch.stack([fold_numbers(n, count, generator) for _ in range(times)], 1)
    drawn = torch.randperm(n, generator=generator)
    features = Features.of(z[drawn[:LANDMARKS]])
    fitted, others = (part.sort().values for part in (drawn[:FITTED], drawn[FITTED:]))
    phi = torch.cat([features(z[rows]) for rows in fitted.split(BLOCK)])
    weights = _fitted(phi, labels[fitted], classes, fold[fitted], count)
    found = torch.zeros(n, dtype=torch.float64)
    known = zip(fitted.split(BLOCK), phi.split(BLOCK), strict=True)
    for rows, own in chain(known, ((rows, features(z[rows])) for rows in others.split(BLOCK) if len(rows))):
        logits = (own @ weights).view(len(rows), times, count, classes)
        place = fold[rows][:, :, None, None].expand(-1, -1, 1, classes)
        p = logits.gather(2, place)[:, :, 0].double().softmax(2)
        found[rows] = p.gather(2, labels[rows][:, None, None].expand(-1, times, 1)).sum((1, 2))
    return found


def _fitted(phi: Tensor, labels: Tensor, classes: int, fold: Tensor, count: int) -> Tensor:
    """Weights (w, times * count * classes) of one regression per fold, each fitted to the samples of all others.

    ``fold`` has shape (n, times).

    All folds at once by accelerated gradient steps (Nesterov 1983), in coordinates in which Böhning's bound of the
    curvature (1992), ½ΦᵀΦ/n, is the identity: so a step of length 1 never overshoots, and nothing is searched for. A
    number of steps that does not depend on the data leaves the result a smooth function of it.
    """
    n, width = phi.shape
    penalty = torch.full((width,), PENALTY)
    penalty[-1] = 1e-8  # the constant's
    share = (fold[:, :, None] != torch.arange(count)).float().flatten(1)
    share /= share.sum(0).clamp(min=1)
    curvature = (phi.T @ (phi * (share.amax(1, keepdim=True) / 2))).double() + penalty.double().diag()
    basis = torch.linalg.inv(torch.linalg.cholesky(curvature)).T.float()
    phi = phi @ basis
    ridge = (basis.T * penalty) @ basis
    target = F.one_hot(labels, classes).to(phi.dtype)[:, None]
    weights = ahead = torch.zeros(width, share.shape[1] * classes)
    for step in range(STEPS):
        wrong = (phi @ ahead).view(n, -1, classes).softmax(2).sub_(target).mul_(share[:, :, None])
        moved = ahead - phi.T @ wrong.flatten(1) - ridge @ ahead
        ahead = moved + step / (step + 3) * (moved - weights)
        weights = moved
    return basis @ weights
