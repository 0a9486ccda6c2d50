"""Cheap learners that never saw the sample they are asked about: what a model trained without it might say.

All are leave-one-out and exact: the neighbour vote by leaving the sample out of its own neighbourhood, the ridge
regression by the hat matrix (Allen 1974, PRESS; Golub, Heath & Wahba 1979), without refitting.
"""

from __future__ import annotations

import torch
from scipy.optimize import minimize_scalar
from torch import Tensor
from torch.nn.functional import one_hot

from forgetcast._filled import filled
from forgetcast._neighbours import Neighbours

__all__ = ["leave_one_out_ridge", "neighbour_vote", "random_features", "ridge_confidence"]

PENALTIES = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Ridge penalties tried, in units of the mean squared length of a feature column."""

BLOCK = 4096
"""Samples taken at a time."""


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
    features = torch.ones(len(z), width + 1)
    for rows, out in zip(z.split(BLOCK), features.split(BLOCK), strict=True):
        out[:, :-1] = torch.addmm(offset, rows, weight).relu_()
    return features


def leave_one_out_ridge(features: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Leave-one-out predictions of ridge regression on one-hot labels, shape (n, classes), float64.

    With S = ΦᵀΦ + λI and h_i = φ_iᵀS⁻¹φ_i the prediction for i of the fit without i is (ŷ_i - h_i y_i)/(1 - h_i),
    exactly. λ is the one of :data:`PENALTIES` with the smallest squared leave-one-out error; all of them are tried in
    one pass, in the basis in which ΦᵀΦ is diagonal. ``features`` (n, w) is turned into that basis in place.
    """
    width = features.shape[1]
    gram = torch.zeros(width, width, dtype=torch.float64)
    moments = torch.zeros(width, classes, dtype=torch.float64)
    for block, y in zip(features.split(BLOCK), labels.split(BLOCK), strict=True):
        gram += block.T @ block
        moments += block.T @ one_hot(y, classes).to(block.dtype)
    eigenvalues, vectors = torch.linalg.eigh(gram)
    eigenvalues = eigenvalues.clamp(min=0)
    turned = vectors.T @ moments
    penalties = torch.tensor(PENALTIES, dtype=torch.float64) * (eigenvalues.mean() + 1e-12)
    shrink = 1 / (eigenvalues[:, None] + penalties)  # (w, penalties)
    fits = (shrink[:, :, None] * turned[:, None]).to(features.dtype)  # (w, penalties, classes)
    basis = vectors.to(features.dtype)
    error = torch.zeros(len(PENALTIES), dtype=torch.float64)
    for block, y in zip(features.split(BLOCK), labels.split(BLOCK), strict=True):
        block.copy_(block @ basis)
        outside = _left_out(block, y, shrink, fits)
        outside.scatter_add_(2, y[:, None, None].expand(-1, len(error), 1), -torch.ones(len(y), len(error), 1))
        error += outside.square_().sum((0, 2), dtype=torch.float64)
    best = slice(int(error.argmin()), int(error.argmin()) + 1)
    blocks = zip(features.split(BLOCK), labels.split(BLOCK), strict=True)
    return filled(
        len(features), (_left_out(block, y, shrink[:, best], fits[:, best])[:, 0].double() for block, y in blocks)
    )


def _left_out(block: Tensor, labels: Tensor, shrink: Tensor, fits: Tensor) -> Tensor:
    """(ŷ_i - h_i y_i)/(1 - h_i) for rows (b, w) in the diagonal basis and every penalty, (b, penalties, classes)."""
    leverage = (block.square() @ shrink.to(block.dtype)).clamp(max=1 - 1e-6)[:, :, None]
    fitted = (block @ fits.flatten(1)).unflatten(1, fits.shape[1:])
    fitted.scatter_add_(2, labels[:, None, None].expand(-1, fitted.shape[1], 1), -leverage)
    return fitted.div_(1 - leverage)


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
