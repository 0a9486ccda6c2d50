"""Boundary shrink: relabel with the class across the nearest boundary (Chen et al. 2023, arXiv 2303.11570)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from forgetcast.target.inputs import leaves
from forgetcast.target.target import Target
from forgetcast.unlearn.base import IterativeUnlearner, Samples

__all__ = ["BoundaryShrink"]


@dataclass(frozen=True)
class BoundaryShrink(IterativeUnlearner):
    """Fine-tunes x_i towards y' = argmax_{k≠y} f_k(x_i + ε·sign ∇ₓℓ(x_i, y_i)) (the paper's equations 4 and 5).

    Inputs that are not numbers (token ids) have no gradient; then y' is the runner-up at x_i itself.

    >>> loss = BoundaryShrink().forget_loss(torch.tensor([2.0, 0.0]), torch.tensor(0), {"near": torch.tensor(1)})
    >>> round(loss.item(), 4)
    2.1269
    """

    name: ClassVar[str] = "boundary_shrink"
    retains: ClassVar[bool] = False
    stochastic: ClassVar[bool] = False
    epsilon: float = 0.1
    """Length of the step across the boundary, in units of the standard deviation of the sample's inputs."""

    def draw(self, target: Target, state: Any, samples: Samples, seed: int) -> dict[str, Tensor]:
        """The nearest wrong class of every sample."""
        logits = self._across(target, samples)
        return {"near": logits.scatter(1, samples.y[:, None], -torch.inf).argmax(1)}

    def _across(self, target: Target, samples: Samples) -> Tensor:
        """Logits after one fast-gradient-sign step (Goodfellow et al. 2015, arXiv 1412.6572)."""
        x = samples.x
        if not isinstance(x, Tensor) or not x.is_floating_point():
            assert leaves(x)
            return samples.logits
        moved = x.detach().clone().requires_grad_()
        with torch.enable_grad():
            loss = F.cross_entropy(target.forward(moved), samples.y, reduction="sum")
            (gradient,) = torch.autograd.grad(loss, moved)
        spread = x.flatten(1).std(1).reshape(-1, *[1] * (x.ndim - 1))
        with torch.no_grad():
            return target.forward(x + self.epsilon * spread * gradient.sign())

    def forget_loss(self, logits: Tensor, label: Tensor, drawn: dict[str, Tensor]) -> Tensor:
        return F.cross_entropy(logits, drawn["near"])
