"""Influence unlearning: a step along F⁻¹∇ℓ, diagonal Fisher (Koh & Liang 2017, 1703.04730; IU in 2304.04934)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from forgetcast.target.target import Target
from forgetcast.unlearn.algorithms.fisher import damped, fisher_diagonal, sample_gradients
from forgetcast.unlearn.base import GridUnlearner, Samples
from forgetcast.unlearn.stack import Params, Stack, repeat

__all__ = ["Influence"]


@dataclass(frozen=True)
class Influence(GridUnlearner):
    """θ(s) = θ0 + s·(F + λI)⁻¹ ∇ℓ(x_i, y_i), F the diagonal of the empirical Fisher of single samples.

    Removing sample i from the mean loss moves the optimum by (1/n) H⁻¹ ∇ℓ_i to first order; the grid walks along this
    direction until the goal is met.

    >>> import torch
    >>> model = torch.nn.Linear(2, 2, bias=False)
    >>> target = Target(model, (torch.eye(2), torch.tensor([0, 1])))
    >>> fisher = Influence().prepare(target)
    >>> fisher["weight"].shape
    torch.Size([2, 2])
    """

    name: ClassVar[str] = "influence"
    approximates_retraining: ClassVar[bool] = True
    damping: float = 0.1
    """λ relative to the mean of F."""
    fisher_samples: int = 1024
    """Training samples the Fisher information is averaged over (the first ones of a fixed permutation)."""

    def prepare(self, target: Target) -> Params:
        """Diagonal of the empirical Fisher information plus damping, per parameter."""
        return damped(fisher_diagonal(target, self.fisher_samples), self.damping)

    def displacement(self, target: Target, state: Any, samples: Samples, seed: int) -> Stack:
        gradients = sample_gradients(target, samples.x, samples.y)
        inverse = repeat(state, 1)
        return {name: g / inverse[name] for name, g in gradients.items()}
