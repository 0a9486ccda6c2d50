"""The Stein kernel of a classifier, row by row against a reference sample.

A sample is a point z = [x; onehot y] with the score s = [∇x log p_y; p], p the softmax. For a kernel k(z, z') the
Langevin Stein kernel is s·s' k + s·∇_z'k + s'·∇_z k + tr ∇_z∇_z'k (Liu, Lee & Jordan 2016, arXiv 1602.03253). With
k = exp(-‖d‖²/(2σ)) and d = z - z' we have ∇_z k = -k d/σ, ∇_z'k = k d/σ and the trace k (D/σ - ‖d‖²/σ²), so

    κ(z, z') = k [s·s' + d·(s - s')/σ + D/σ - ‖d‖²/σ²],    κ(z, z) = ‖s‖² + D/σ,

with D the length of z. It is computed by two matrix products: with u = s - z/σ and b = z·u/σ the bracket is
u·u' + z·z'/σ² + b + b' + D/σ. κ depends on z through differences only, so z is centred first.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from forgetcast.errors import NotApplicableError
from forgetcast.target.preallocated import PreallocatedRows

__all__ = ["SteinRows", "bandwidth", "stein_rows"]

CHUNK = 1 << 20
"""Kernel values held at a time."""


@dataclass(frozen=True)
class SteinRows:
    """What the rows of the Stein kernel say of every sample. All float64, shape (n,); no sample meets itself."""

    score_norm: Tensor
    """‖s‖."""
    mean: Tensor
    """Mean κ_ij over the reference sample."""
    normalised_mean: Tensor
    """Mean κ_ij/√(κ_ii κ_jj) over the reference sample; in [-1, 1] but for the error of the sketch."""
    entropy_weighted_mean: Tensor
    """Mean κ_ij over the reference sample, weighted by the entropy of the model's prediction for j."""
    expansion: Tensor
    """Effective number (Σ_j|κ_ij|)²/Σ_jκ_ij², scaled from the reference sample to all n; in [0, n - 1]."""


def bandwidth(z: Tensor) -> float:
    """σ by the median heuristic: the median of ‖z_i - z_j‖² over all pairs of rows of ``z`` (m, w), m at least 2.

    At least a thousandth of the mean, for data full of copies; 1 where all rows are the same.
    """
    square = torch.pdist(z).square()
    return max(float(square.median()), 1e-3 * float(square.mean())) or 1.0


def stein_rows(
    inputs: Tensor,
    gradients: Tensor,
    gradient_norm: Tensor,
    labels: Tensor,
    probabilities: Tensor,
    reference: Tensor,
    *,
    width: int,
    population: int | None = None,
    device: torch.device | str = "cpu",
) -> SteinRows:
    """Rows of κ for all samples against the reference sample: n · m · w multiplications, a chunk of rows in memory.

    Wide inputs and gradients come as sketches by one and the same random map, which keeps inner products in
    expectation, those of inputs with gradients included; the diagonal κ_ii is exact.

    Args:
        inputs: x or its sketch, float32, shape (n, w).
        gradients: ∇x log p_y or its sketch, float32, shape (n, w).
        gradient_norm: ‖∇x log p_y‖ before the sketch, float64, shape (n,).
        labels: classes, shape (n,).
        probabilities: softmax, float64, shape (n, C).
        reference: numbers of the reference samples, sorted, shape (m,), m at least 2.
        width: length of x before the sketch; D is ``width`` + C.
        population: how many samples the reference stands for; default n.
        device: where to multiply.

    Raises:
        NotApplicableError: fewer than two samples.
    """
    n, m = len(inputs), len(reference)
    if n < 2:
        raise NotApplicableError("the Stein kernel needs at least two samples")
    centre = inputs[reference].mean(0)

    def positions(rows: Tensor) -> Tensor:
        onehot = F.one_hot(labels[rows], probabilities.shape[1])
        return torch.cat([inputs[rows] - centre, onehot.float()], 1).to(device)

    sigma = bandwidth(positions(reference))
    trace = (width + probabilities.shape[1]) / sigma
    score_square = gradient_norm.square() + probabilities.square().sum(1)
    scale = (score_square + trace).sqrt()  # √κ_ii

    def terms(rows: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """z, u, b and ‖z‖²/2 of some samples."""
        z = positions(rows)
        u = torch.cat([gradients[rows], probabilities[rows].float()], 1).to(device) - z / sigma
        return z, u, (z * u).sum(1) / sigma, z.square().sum(1) / 2

    z_pool, u_pool, b_pool, half_pool = terms(reference)
    pool = scale[reference]
    inverse = (1 / pool).float().to(device)
    weight = torch.special.entr(probabilities[reference]).sum(1) + 1e-12
    unit = pool.max()  # sums of κ are taken in units of √κ_ii √κ_max: no overflow, whatever the gradients
    columns = torch.stack([pool / unit, torch.ones_like(pool), weight / weight.max() * pool / unit], 1)
    columns = columns.float().to(device)
    place = torch.full((n,), -1).index_put_((reference,), torch.arange(m))
    rows_summed = PreallocatedRows(n)
    for rows in torch.arange(n).split(max(1, CHUNK // m)):
        z, u, b, half = terms(rows)
        inner = z @ z_pool.T
        bracket = torch.addmm(inner, u, u_pool.T, beta=sigma**-2).add_(b[:, None] + trace).add_(b_pool)
        kernel = inner.sub_(half[:, None]).sub_(half_pool).div_(sigma).clamp_(max=0).exp_().mul_(bracket)
        kernel.mul_(inverse).mul_((1 / scale[rows]).float().to(device)[:, None])  # κ_ij/√(κ_ii κ_jj)
        own = (place[rows] >= 0).nonzero()[:, 0]
        kernel[own.to(device), place[rows[own]].to(device)] = 0
        sums = [kernel @ columns, kernel.abs() @ columns[:, :1], kernel.square() @ columns[:, :1].square()]
        rows_summed.add(torch.cat(sums, 1).double().cpu())
    total, normalised, weighted, absolute, square = rows_summed.array.unbind(1)
    inside = place >= 0
    others = m - inside.double()
    weights = weight.sum() - torch.where(inside, weight[place], 0.0)
    return SteinRows(
        score_norm=score_square.sqrt(),
        mean=total * scale * unit / others,
        normalised_mean=normalised / others,
        entropy_weighted_mean=weighted * weight.max() * scale * unit / weights,
        expansion=absolute.square() / square.clamp(min=1e-300) * ((population or n) - 1) / others,
    )
