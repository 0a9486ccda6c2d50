"""Influence unlearning: a step along F⁻¹∇ℓ, diagonal Fisher (Koh & Liang 2017, 1703.04730; IU in 2304.04934)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.func import grad
from torch.nn import functional as F

from forgetcast.data import Inputs, map_leaves
from forgetcast.target import Target
from forgetcast.unlearn.base import GridUnlearner, Samples
from forgetcast.unlearn.stack import Params, Stack, map_models, repeat, stackable

__all__ = ["Influence"]


def sample_gradients(target: Target, x: Inputs, y: Tensor) -> Stack:
    """Gradient of every sample's own loss at the target's parameters, a stack of b models."""

    def loss(params: Params, x: Inputs, y: Tensor) -> Tensor:
        return F.cross_entropy(target.call(params, map_leaves(lambda leaf: leaf[None], x)), y[None])

    stack = {name: value.expand(len(y), *value.shape) for name, value in target.params.items()}
    return map_models(grad(loss), stack, x, y, stacked=stackable(target.module))


@dataclass(frozen=True)
class Influence(GridUnlearner):
    """θ(s) = θ0 + s·(F + λI)⁻¹ ∇ℓ(x_i, y_i), F the diagonal of the empirical Fisher of single samples.

    Removing sample i from the mean loss moves the optimum by (1/n) H⁻¹ ∇ℓ_i to first order; the grid walks along this
    direction until the goal is met.

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
        chosen = torch.randperm(len(target), generator=torch.Generator().manual_seed(0))[: self.fisher_samples]
        total = {name: torch.zeros_like(value) for name, value in target.params.items()}
        for part in chosen.split(32):
            x, y = target.data.fetch(part)
            for name, g in sample_gradients(target, target.to_device(x), y.to(target.device)).items():
                total[name] += g.square().sum(0)
        fisher = {name: value / len(chosen) for name, value in total.items()}
        mean = sum(float(value.sum()) for value in fisher.values()) / sum(v.numel() for v in fisher.values())
        return {name: value + self.damping * max(mean, 1e-30) for name, value in fisher.items()}

    def displacement(self, target: Target, state: Any, samples: Samples) -> Stack:
        gradients = sample_gradients(target, samples.x, samples.y)
        inverse = repeat(state, 1)
        return {name: g / inverse[name] for name, g in gradients.items()}
