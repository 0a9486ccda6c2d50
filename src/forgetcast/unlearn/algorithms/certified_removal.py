"""Certified removal: one Newton step on the last layer (Guo et al. 2020, arXiv 1911.03030)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from forgetcast.target.data import Data
from forgetcast.target.last_layer import augmented, trainable_head
from forgetcast.target.target import Target
from forgetcast.unlearn.base import GridUnlearner, Samples
from forgetcast.unlearn.stack import Stack

__all__ = ["CertifiedRemoval"]


@dataclass(frozen=True)
class CertifiedRemoval(GridUnlearner):
    """W(s) = W + s·(H + λI)⁻¹ ∇ℓ_i, H the Hessian of the retained samples' loss in the last linear layer.

    With frozen features the last layer is multinomial logistic regression, H = Σ_j (diag(p_j) - p_j p_jᵀ) ⊗ z_j z_jᵀ,
    and s = 1 is the paper's removal step (its equation 3; without the noise that makes it a certificate). Solved by
    conjugate gradients for all samples at once.

    >>> x = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    >>> target = Target(torch.nn.Linear(3, 2), (x, torch.arange(50) % 2))
    >>> method = CertifiedRemoval()
    >>> step = method.displacement(target, method.prepare(target), Samples.of(target, torch.tensor([4])), 0)
    >>> step["weight"].shape, step["bias"].shape
    (torch.Size([1, 2, 3]), torch.Size([1, 2]))
    """

    name: ClassVar[str] = "certified_removal"
    approximates_retraining: ClassVar[bool] = True
    damping: float = 1e-3
    """λ relative to the mean of H's diagonal."""
    most_samples: int = 4096
    """Training samples in H at most (the first ones of a fixed permutation), scaled up to all."""
    iterations: int = 100

    def prepare(self, target: Target) -> tuple[Tensor, Tensor, Tensor, float, float]:
        """Numbers of the samples in H (n,), their features with a constant (n, d+1) and probabilities (n, C), both
        float64, scale of H, λ.

        Raises:
            NotApplicableError: the model has no last linear layer, or it is frozen.
        """
        head = trainable_head(target)
        chosen = torch.randperm(len(target), generator=torch.Generator().manual_seed(0))[: self.most_samples]
        parts = [Data(target.data.fetch(part)) for part in chosen.split(target.batch_size)]
        z = augmented(torch.cat([target.features(part) for part in parts]), head.bias is not None)
        p = torch.cat([target.logits(part) for part in parts]).double().softmax(1)
        scale = len(target) / len(chosen)
        diagonal = scale * float(((p - p.square()).mean(1) * z.square().mean(1)).sum())
        return chosen, z, p, scale, self.damping * max(diagonal, 1e-30)

    def displacement(self, target: Target, state: Any, samples: Samples, seed: int) -> Stack:
        head = trainable_head(target)
        chosen, z, p, scale, damping = state
        own = augmented(target.features(Data(target.data.fetch(samples.index))), head.bias is not None)
        counted = torch.isin(samples.index, chosen).double()[:, None]
        residual = samples.logits.cpu().double().softmax(1)
        own_p = residual.clone()
        residual[torch.arange(len(residual)), samples.y.cpu()] -= 1
        gradient = residual[:, :, None] * own[:, None]

        def hessian(v: Tensor) -> Tensor:
            """(H without the sample itself + λI) v for v of shape (m, C, d+1)."""
            moved = torch.einsum("nd,mcd->mnc", z, v)
            curved = p * (moved - (p * moved).sum(2, keepdim=True))
            alone = torch.einsum("md,mcd->mc", own, v)
            bent = counted * own_p * (alone - (own_p * alone).sum(1, keepdim=True))
            total = scale * torch.einsum("mnc,nd->mcd", curved, z) - bent[:, :, None] * own[:, None]
            return total + damping * v

        step = _conjugate_gradients(hessian, gradient, self.iterations)
        out = {name: torch.zeros(len(step), *value.shape).to(value) for name, value in target.params.items()}
        names = {id(value): name for name, value in target.module.named_parameters()}
        layer = target.module.get_submodule(head.name)
        weight = names[id(layer.weight)]
        out[weight] = step[:, :, : layer.weight.shape[1]].to(out[weight])  # type: ignore[union-attr, index]
        if head.bias is not None:
            bias = names[id(layer.bias)]
            out[bias] = step[:, :, -1].to(out[bias])
        return out


def _conjugate_gradients(apply: Any, b: Tensor, iterations: int, tolerance: float = 1e-8) -> Tensor:
    """Solve ``apply(x) = b`` for every first index at once; apply is symmetric and positive definite."""

    def dot(a: Tensor, c: Tensor) -> Tensor:
        return (a * c).flatten(1).sum(1)[:, None, None]

    x, r = torch.zeros_like(b), b.clone()
    direction, rr = r, dot(r, r)
    goal = tolerance**2 * rr
    for _ in range(iterations):
        if bool((rr <= goal).all()):
            break
        bent = apply(direction)
        step = rr / dot(direction, bent).clamp_min(1e-300)
        x, r = x + step * direction, r - step * bent
        new = dot(r, r)
        direction, rr = r + new / rr.clamp_min(1e-300) * direction, new
    return x
