"""Leave-one-out vote of a sample's nearest neighbours for its label."""

from __future__ import annotations

import torch
from torch import Tensor

from forgetcast.factors.probes.nearest import Neighbours

__all__ = ["neighbour_vote"]


def neighbour_vote(neighbours: Neighbours, labels: Tensor, *, k: int = 20, smoothing: float = 1.0) -> Tensor:
    """True-label share of the k nearest others, weighted by similarity and smoothed by the class share. Shape (n,).

    (Σ_{j in kNN(i)} w_ij [y_j = y_i] + smoothing · share_{-i}(y_i)) / (Σ w_ij + smoothing), w = max(similarity, 0);
    the class share leaves i out too. In [0, 1]. Cover & Hart 1967; Papernot & McDaniel 2018 (arXiv 1803.04765).
    """
    weight = neighbours.similarity[:, :k].clamp(min=0).double()
    counts = torch.bincount(labels).double()
    share = (counts[labels] - 1) / (len(labels) - 1)
    votes = (weight * neighbours.same[:, :k]).sum(1)
    return (votes + smoothing * share) / (weight.sum(1) + smoothing)
