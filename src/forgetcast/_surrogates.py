"""Cheap learners that never saw the sample they are asked about: what a model trained without it might say.

All are leave-one-out and exact: the neighbour vote by leaving the sample out of its own neighbourhood, the ridge
regression by the hat matrix (Allen 1974, PRESS; Golub, Heath & Wahba 1979), without refitting.
"""

from __future__ import annotations

import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

from forgetcast._neighbours import Neighbours

__all__ = ["leave_one_out_ridge", "neighbour_vote", "random_features", "ridge_confidence"]

PENALTIES = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Ridge penalties tried, in units of the mean squared length of a feature column."""


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


def random_features(z: Tensor, *, width: int = 512, seed: int = 0) -> Tensor:
    """Random ReLU features with a constant column, shape (n, width + 1). Rahimi & Recht 2008.

    ``z`` (n, d) is expected with columns of mean 0 and variance about 1; weights are N(0, 1/d), offsets N(0, 1).
    """
    generator = torch.Generator().manual_seed(seed)
    d = z.shape[1]
    weight = torch.randn(d, width, generator=generator) / d**0.5
    offset = torch.randn(width, generator=generator)
    features = torch.relu(z @ weight + offset)
    return torch.cat([features, torch.ones(len(z), 1)], 1)


def leave_one_out_ridge(features: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Leave-one-out predictions of ridge regression on one-hot labels, shape (n, classes), float64.

    With S = ΦᵀΦ + λI and h_i = φ_iᵀS⁻¹φ_i the prediction for i of the fit without i is (ŷ_i - h_i y_i)/(1 - h_i),
    exactly. λ is the one of :data:`PENALTIES` with the smallest squared leave-one-out error.
    """
    n, width = features.shape
    gram = torch.zeros(width, width, dtype=torch.float64)
    moments = torch.zeros(width, classes, dtype=torch.float64)
    for rows in torch.arange(n).split(4096):
        block = features[rows].double()
        gram += block.T @ block
        moments.index_add_(1, labels[rows], block.T)
    eigenvalues, vectors = torch.linalg.eigh(gram)
    eigenvalues = eigenvalues.clamp(min=0)
    turned = vectors.T @ moments
    unit = float(eigenvalues.mean()) + 1e-12
    basis = vectors.to(features.dtype)
    best, best_error = torch.empty(0), float("inf")
    for penalty in PENALTIES:
        shrink = 1 / (eigenvalues + penalty * unit)
        predictions = torch.empty(n, classes, dtype=torch.float64)
        error = 0.0
        for rows in torch.arange(n).split(4096):
            q = (features[rows] @ basis).double()
            leverage = (q.square() @ shrink).clamp(max=1 - 1e-9)[:, None]
            onehot = torch.nn.functional.one_hot(labels[rows], classes).double()
            block = ((q * shrink) @ turned - leverage * onehot) / (1 - leverage)
            predictions[rows] = block
            error += float((block - onehot).square().sum())
        if error < best_error:
            best, best_error = predictions, error
    return best


def ridge_confidence(z: Tensor, labels: Tensor, classes: int, *, seed: int = 0) -> Tensor:
    """True-label probability by ridge on min(512, 2n) random features, leave-one-out. Shape (n,), in [0, 1].

    Regression outputs become probabilities by softmax(β f) with one β for all samples, fitted by likelihood to the
    leave-one-out outputs (temperature scaling, Guo et al. 2017).
    """
    width = min(512, 2 * len(z))
    outputs = leave_one_out_ridge(random_features(z, width=width, seed=seed), labels, classes)

    def log_probability(log_beta: float) -> Tensor:
        scaled = outputs * torch.tensor(log_beta).exp()
        return scaled.gather(1, labels[:, None])[:, 0] - scaled.logsumexp(1)

    fitted = minimize_scalar(
        lambda log_beta: -float(log_probability(log_beta).mean()), bounds=(-2.0, 5.0), method="bounded"
    )
    return log_probability(float(fitted.x)).exp()
