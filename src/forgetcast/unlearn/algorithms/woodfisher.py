"""Influence unlearning with the full empirical Fisher (Singh & Alistarh 2020, 2004.14340; IU in 2304.04934)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from forgetcast.target.target import Target
from forgetcast.unlearn.algorithms.fisher import drawn_gradients, sample_gradients
from forgetcast.unlearn.base import GridUnlearner, Samples
from forgetcast.unlearn.stack import Stack, flat

__all__ = ["WoodFisher"]


@dataclass(frozen=True)
class WoodFisher(GridUnlearner):
    """θ(s) = θ0 + s·(λI + GᵀG/N)⁻¹ ∇ℓ(x_i, y_i), the rows of G the gradients of N training samples.

    WoodFisher applies the Sherman-Morrison formula once per row; the Woodbury identity gives the same inverse at once:
    (λI + GᵀG/N)⁻¹ v = (v - Gᵀ(NλI + GGᵀ)⁻¹ G v)/λ.

    >>> G, v = torch.tensor([[1.0, 2.0], [0.0, 1.0]]), torch.tensor([[1.0, -1.0]])
    >>> plain = torch.linalg.solve(0.1 * torch.eye(2) + G.T @ G / 2, v.T).T
    >>> torch.allclose(WoodFisher.solve(v, G, 0.1), plain, atol=1e-5)
    True
    """

    name: ClassVar[str] = "woodfisher"
    approximates_retraining: ClassVar[bool] = True
    damping: float = 0.1
    """λ relative to the mean of the diagonal of GᵀG/N."""
    fisher_samples: int = 256
    memory_bytes: int = 512 << 20
    """Bound on G; a larger model gets fewer rows."""

    @staticmethod
    def solve(v: Tensor, G: Tensor, damping: float) -> Tensor:
        """(λI + GᵀG/N)⁻¹ applied to the rows of v (m, P); G has shape (N, P)."""
        n = len(G)
        gram = G @ G.T + n * damping * torch.eye(n, dtype=G.dtype, device=G.device)
        return (v - torch.linalg.solve(gram, G @ v.T).T @ G) / damping

    def prepare(self, target: Target) -> tuple[Tensor, float]:
        """(G, λ)."""
        size = sum(value.numel() for value in target.params.values())
        rows = int(max(2, min(self.fisher_samples, self.memory_bytes // (4 * size))))
        G = torch.cat([flat(gradients) for gradients in drawn_gradients(target, rows)])
        return G, self.damping * max(float(G.square().mean()), 1e-30)

    def displacement(self, target: Target, state: Any, samples: Samples, seed: int) -> Stack:
        G, damping = state
        gradients = sample_gradients(target, samples.x, samples.y)
        solved = self.solve(flat(gradients), G, damping)
        sizes = [value[0].numel() for value in gradients.values()]
        parts = zip(gradients.items(), solved.split(sizes, dim=1), strict=True)
        return {name: part.reshape(value.shape) for (name, value), part in parts}
