"""Selective synaptic dampening: shrink the weights the sample needs most (Foster et al. 2024, arXiv 2308.07707)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from forgetcast.target.target import Target
from forgetcast.unlearn.algorithms.fisher import fisher_diagonal, sample_gradients
from forgetcast.unlearn.base import Samples, Unlearner, Walk, path_of_walk
from forgetcast.unlearn.stack import Params, Stack, flat

__all__ = ["SelectiveSynapticDampening"]


@dataclass(frozen=True)
class SelectiveSynapticDampening(Unlearner):
    """θ ← β·θ with β = min(λ·I_D / I_f, 1) where I_f > α·I_D (the paper's equations 6 and 7).

    I_f is the squared gradient of the one sample, I_D the mean of the squared gradients of single samples: both sides
    per sample. Strength t chooses α so that a share ``first_share * growth**(t-1)`` of the weights is selected; λ
    follows it at the paper's ratio of one tenth.

    >>> ratio = torch.tensor([[8.0, 4.0, 2.0, 1.0]])
    >>> [round(v, 3) for v in SelectiveSynapticDampening().factors(ratio, 0.5)[0].tolist()]  # α = 4, λ = 0.4
    [0.05, 0.1, 1.0, 1.0]
    """

    name: ClassVar[str] = "ssd"
    stochastic: ClassVar[bool] = False
    first_share: float = 1e-4
    growth: float = 1.27
    steps: int = 39
    dampening: float = 0.1
    """λ / α."""
    fisher_samples: int = 1024

    def factors(self, ratio: Tensor, share: float) -> Tensor:
        """β for importance ratios I_f / I_D of shape (m, P) with the given share selected."""
        kept = min(max(1, round(share * ratio.shape[1])), ratio.shape[1])
        alpha = ratio.kthvalue(ratio.shape[1] - kept + 1, dim=1, keepdim=True).values
        beta = (self.dampening * alpha / ratio.clamp_min(1e-30)).clamp(max=1)
        return torch.where(ratio >= alpha, beta, torch.ones_like(beta))

    def prepare(self, target: Target) -> Params:
        """I_D per parameter."""
        return fisher_diagonal(target, self.fisher_samples)

    def walk(self, target: Target, state: Any, samples: Samples, seed: int) -> Walk:
        own = sample_gradients(target, samples.x, samples.y)
        ratios = {name: own[name].square() / (f + 1e-12) for name, f in state.items()}
        return _SsdWalk(self, target, flat(ratios))

    def path(self, target: Target, state: Any, samples: Samples, seed: int) -> Iterator[tuple[Params, Params]]:
        return path_of_walk(self.walk(target, state, samples, seed))


class _SsdWalk(Walk):
    def __init__(self, unlearner: SelectiveSynapticDampening, target: Target, ratio: Tensor) -> None:
        self.unlearner, self.params, self.ratio, self.t = unlearner, target.params, ratio, 0

    def keep(self, chosen: Tensor) -> None:
        self.ratio = self.ratio[chosen]

    def step(self) -> tuple[Stack, Params] | None:
        if self.t >= self.unlearner.steps:
            return None
        self.t += 1
        beta = self.unlearner.factors(self.ratio, self.unlearner.first_share * self.unlearner.growth ** (self.t - 1))
        parts = beta.split([value.numel() for value in self.params.values()], dim=1)
        start = {name: value.expand(len(beta), *value.shape) for name, value in self.params.items()}
        damped = {n: v * part.reshape(v.shape) for (n, v), part in zip(start.items(), parts, strict=True)}
        return damped, self.params
