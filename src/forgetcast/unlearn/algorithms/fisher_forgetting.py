"""Fisher forgetting: noise where the retained data does not care (Golatkar et al. 2020, arXiv 1911.04933)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from forgetcast.target.target import Target
from forgetcast.unlearn.algorithms.fisher import damped, fisher_diagonal
from forgetcast.unlearn.base import GridUnlearner, Samples, sample_generator
from forgetcast.unlearn.stack import Params, Stack

__all__ = ["FisherForgetting"]


@dataclass(frozen=True)
class FisherForgetting(GridUnlearner):
    """θ(s) = θ0 + s·F^(-1/4)·ε with ε ~ N(0, I) (the paper's equation 9, diagonal F of the training data).

    The noise knows nothing of the sample beyond its seed: it is forgotten when the noise is strong enough to forget
    most others as well.

    >>> target = Target(torch.nn.Linear(2, 2, bias=False), (torch.eye(2), torch.tensor([0, 1])))
    >>> method = FisherForgetting()
    >>> noise = method.displacement(target, method.prepare(target), Samples.of(target, torch.tensor([0, 1])), 0)
    >>> noise["weight"].shape
    torch.Size([2, 2, 2])
    """

    name: ClassVar[str] = "fisher_forgetting"
    stochastic: ClassVar[bool] = True
    damping: float = 0.1
    """Added to F, relative to its mean."""
    fisher_samples: int = 1024

    def prepare(self, target: Target) -> Params:
        """F^(-1/4) per parameter."""
        fisher = damped(fisher_diagonal(target, self.fisher_samples), self.damping)
        return {name: value**-0.25 for name, value in fisher.items()}

    def displacement(self, target: Target, state: Any, samples: Samples, seed: int) -> Stack:
        generators = [sample_generator(seed, index) for index in samples.index.tolist()]
        return {
            name: torch.stack([torch.randn(scale.shape, generator=g) for g in generators]).to(scale) * scale
            for name, scale in state.items()
        }
