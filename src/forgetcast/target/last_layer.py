"""Closed forms for softmax regression on the features z̃ = [z, 1]: kernel, influence and leave-one-out.

The gradient of sample i's loss in the last layer is the outer product -r_i z̃_iᵀ with r = onehot - p. So products of
such gradients need products of r and of z̃ only.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from forgetcast.errors import NotApplicableError
from forgetcast.target.head import Head
from forgetcast.target.preallocated import PreallocatedRows
from forgetcast.target.target import Target

__all__ = [
    "KernelRows",
    "augmented",
    "kernel_rows",
    "leave_one_out_logits",
    "residuals",
    "trainable_head",
    "unit_residuals",
]


def trainable_head(target: Target) -> Head:
    """The last linear layer as far as it is trained: a frozen bias is None.

    Raises:
        NotApplicableError: there is none, its weight is frozen, or it is computed from other parameters.
    """
    head = target.head
    if head is None:
        raise NotApplicableError(target.head_missing)
    names = {id(value): name for name, value in target.module.named_parameters()}
    layer = target.module.get_submodule(head.name)
    weight, bias = names.get(id(layer.weight)), names.get(id(layer.bias))
    if weight is None:
        raise NotApplicableError(
            f"the last linear layer {head.name!r} has no weight of its own but computes it from other parameters "
            "(pruning, weight norm or another parametrization); factors and unlearners of the last layer do not apply"
        )
    if weight not in target.params:
        raise NotApplicableError(
            f"the last linear layer {head.name!r} is frozen (requires_grad=False); factors and unlearners of the last "
            "layer do not apply"
        )
    return head if bias in target.params else Head(head.name, head.weight, None)


def augmented(features: Tensor, bias: bool) -> Tensor:
    """[z, 1] when the layer has a bias, else z; float64, shape (n, d + 1) or (n, d)."""
    z = features.double()
    return torch.cat([z, torch.ones(len(z), 1, dtype=z.dtype)], 1) if bias else z


def _others(logits: Tensor, labels: Tensor) -> Tensor:
    """Logits (n, C), float64, with the label's own at minus infinity."""
    return logits.double().scatter(1, labels[:, None], -torch.inf)


def unit_residuals(logits: Tensor, labels: Tensor) -> Tensor:
    """r/(1 - p_y): 1 at the label, minus the softmax over the other classes elsewhere; float64, shape (n, C).

    The direction of onehot - p without cancellation, however sure the model is.
    """
    return (-_others(logits, labels).softmax(1)).scatter(1, labels[:, None], 1.0)


def residuals(logits: Tensor, labels: Tensor) -> Tensor:
    """onehot - p, float64, shape (n, C), without cancellation for sure predictions.

    1 - p_y is taken as at least 1e-140, so that products of residuals are still numbers.
    """
    rest = _others(logits, labels).logsumexp(1)
    own = logits.double().gather(1, labels[:, None])[:, 0]
    doubt = torch.sigmoid(rest - own).clamp(min=1e-140)
    return unit_residuals(logits, labels) * doubt[:, None]


@dataclass(frozen=True)
class KernelRows:
    """Row sums of the kernel K_ij = (z̃_i·z̃_j)(r_i·r_j) over a pool, in units of ‖r_i‖ and of ``unit``."""

    absolute: Tensor
    """Σ_j |K_ij|, shape (n,)."""
    square: Tensor
    """Σ_j K_ij², shape (n,)."""
    unit: float
    """The largest ‖r_j‖ of the pool."""
    pool: int
    """Samples in the pool."""


def kernel_rows(z: Tensor, r: Tensor, pool_z: Tensor, pool_r: Tensor, *, chunk: int = 1 << 17) -> KernelRows:
    """Row sums of the last layer's gradient kernel over a pool of m samples.

    Args:
        z: z̃ of the samples, shape (n, d).
        r: their residuals, shape (n, C).
        pool_z: z̃ of the pool, shape (m, d).
        pool_r: its residuals, shape (m, C).
    """
    unit = pool_r.norm(dim=1).max()
    pool_z, pool_r = pool_z.T, (pool_r / unit).T
    rows = max(1, chunk // pool_z.shape[1])
    absolute, square = PreallocatedRows(len(z)), PreallocatedRows(len(z))
    for part_z, part_r in zip(z.split(rows), r.split(rows), strict=True):
        kernel = (part_z @ pool_z).mul_((part_r / part_r.norm(dim=1, keepdim=True)) @ pool_r)
        square.add(torch.linalg.vector_norm(kernel, dim=1).square_())
        absolute.add(kernel.abs_().sum(1))
    return KernelRows(absolute.array, square.array, float(unit), pool_z.shape[1])


def leave_one_out_logits(z: Tensor, logits: Tensor, labels: Tensor, *, damping: float = 1e-2) -> Tensor:
    """Logits of each sample after one Newton step of the last layer's loss without it, shape (n, C).

    The Hessian Σ_j Λ_j ⊗ z̃_j z̃_jᵀ, Λ = diag(p) - ppᵀ, is taken as A ⊗ S with S = Σ_j w_j z̃_j z̃_jᵀ, w_j = tr Λ_j and
    A = Σ_j Λ_j / Σ_j w_j: exact for two classes and whenever all Λ_j are proportional. Leaving i out moves its own
    logits by h_i A⁺(p_i - onehot)/(1 - l_i): the one-step estimate of Pregibon 1981 in our Kronecker form. Here h_i =
    z̃_iᵀS⁻¹z̃_i, and l_i = h_i tr(A⁺Λ_i)/(C - 1) is the leverage (at most 0.9). A and S are damped by ``damping`` times
    their mean eigenvalue, standing in for the weight decay and the early stop of the real training.
    """
    classes = logits.shape[1]
    p = logits.double().softmax(1)
    w = residual_trace(logits)
    S = (z * w[:, None]).T @ z
    S += damping * (S.diagonal().mean() + 1e-30) * torch.eye(len(S), dtype=S.dtype)
    A = (torch.diag(p.sum(0)) - p.T @ p) / w.sum()
    A += damping / classes * torch.eye(classes, dtype=A.dtype)
    h = (z * torch.linalg.solve(S, z.T).T).sum(1)
    inverse = torch.linalg.inv(A)
    trace = p @ inverse.diagonal() - ((p @ inverse) * p).sum(1)
    leverage = (h * trace / (classes - 1)).clamp(0, 0.9)
    move = -(residuals(logits, labels) @ inverse) * (h / (1 - leverage))[:, None]
    return logits.double() + move


def residual_trace(logits: Tensor) -> Tensor:
    """tr(diag(p) - ppᵀ) = Σ_c p_c (1 - p_c) without cancellation, float64, at least 1e-30, shape (n,)."""
    top = logits.argmax(1)
    p = logits.double().softmax(1)
    doubt = (-residuals(logits, top)).scatter(1, top[:, None], 0.0).sum(1)  # 1 - p_top
    others = p.scatter(1, top[:, None], 0.0)
    return ((others * (1 - others)).sum(1) + (1 - doubt) * doubt).clamp(min=1e-30)
