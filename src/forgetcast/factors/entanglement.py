"""How entangled a sample is with what stays: the Entanglement Score of Zhao et al. 2024 for a forget set of one.

Their score of two sets R and S in feature space is a ratio. Above is the sum of the variances within each set; below,
half the sum of the squared distances of the two means to the mean of both together. For S = {i} and R of m samples with
mean μ and variance V = mean ‖z_j - μ‖² that is

    ES = 2 V (m + 1)² / ((1 + m²) ‖z_i - μ‖²).

Which samples R holds makes three factors; the restriction to classes is ours.
"""

from __future__ import annotations

import torch
from torch import Tensor

from forgetcast.errors import NotApplicableError
from forgetcast.factors.factor import factor

__all__ = ["FACTORS"]

SOURCE = "Zhao et al. 2024, arXiv 2406.01257, Entanglement Score"


@factor(
    family="entanglement",
    source=f"{SOURCE} for a forget set of one",
    high="it is entangled with the other training samples more than usual here (score {value:.2f})",
    low="it stands apart from the other training samples more than usual here (score {value:.2f})",
)
def entanglement(features: Tensor) -> Tensor:
    """Entanglement Score of the sample alone against all other samples. Shape (n,), at least 0."""
    return _with_others(features.double(), torch.zeros(len(features), dtype=torch.long))


@factor(
    family="entanglement",
    source=f"ours; {SOURCE}, within one class",
    high="it is entangled with its class more than usual here (score {value:.2f})",
    low="it stands apart from its class more than usual here (score {value:.2f})",
)
def class_entanglement(features: Tensor, labels: Tensor) -> Tensor:
    """Entanglement Score of the sample against the rest of its class. Shape (n,), at least 0.

    For the only sample of a class: against all others. 0 where the others are all alike.
    """
    z = features.double()
    alone = torch.bincount(labels)[labels] == 1
    within = _with_others(z, labels)
    return torch.where(alone, entanglement(features), within) if alone.any() else within


@factor(
    family="entanglement",
    source=f"ours; {SOURCE}, with the nearest other class",
    high="it is entangled with another class more than usual here (score {value:.2f})",
    low="it stands apart from all other classes more than usual here (score {value:.2f})",
)
def other_class_entanglement(features: Tensor, labels: Tensor) -> Tensor:
    """Largest Entanglement Score of the sample against one other class. Shape (n,), at least 0.

    Where there is no other class: against all other samples.
    """
    z = features.double()
    means, variances, counts = _classes(z, labels)
    if len(counts.nonzero()) == 1:
        return entanglement(features)
    score = _score(torch.cdist(z, means).square(), variances, counts, z)
    return score.masked_fill(counts == 0, 0).scatter(1, labels[:, None], 0).amax(1)


def _classes(z: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean (C, d), variance (C,) and size (C,) of every class."""
    counts = torch.bincount(labels).double()
    size = counts.clamp(min=1)
    means = torch.zeros(len(counts), z.shape[1], dtype=z.dtype).index_add_(0, labels, z) / size[:, None]
    square = (z - means[labels]).square().sum(1)
    return means, torch.zeros_like(counts).index_add_(0, labels, square) / size, counts


def _with_others(z: Tensor, labels: Tensor) -> Tensor:
    """Score of every sample against the others of its class, from the moments of the whole class; shape (n,)."""
    if len(z) < 2:
        raise NotApplicableError("entanglement needs at least two samples")
    means, variances, counts = _classes(z, labels)
    count, rest = counts[labels], (counts[labels] - 1).clamp(min=1)
    square = (z - means[labels]).square().sum(1)
    variance = ((variances * counts)[labels] - count / rest * square).clamp(min=0) / rest
    return _score((count / rest).square() * square, variance, rest, z)


def _score(square: Tensor, variance: Tensor, size: Tensor, z: Tensor) -> Tensor:
    """ES of a sample at squared distance ``square`` from the mean of ``size`` others; 0 where those are all alike."""
    least = 1e-12 * z.var(0, unbiased=False).sum() + 1e-300  # a sample in the very middle has a score, not infinity
    return 2 * variance * (size + 1).square() / ((1 + size.square()) * square.clamp(min=least))


FACTORS = (entanglement, class_entanglement, other_class_entanglement)
