"""Gradient ascent on the forgotten sample's loss (Graves et al. 2021, arXiv 2010.10981; Thudi et al. 2109.13398)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.nn import functional as F

from forgetcast.unlearn.base import IterativeUnlearner

__all__ = ["GradientAscent"]


@dataclass(frozen=True)
class GradientAscent(IterativeUnlearner):
    """θ ← θ + η ∇ ℓ(f_θ(x_i), y_i), norm-controlled, without retain steps; so its control is the target itself.

    >>> import torch
    >>> loss = GradientAscent().forget_loss(torch.tensor([2.0, 0.0]), torch.tensor(0), {})
    >>> round(loss.item(), 4)  # minus the cross-entropy
    -0.1269
    """

    name: ClassVar[str] = "gradient_ascent"
    retains: ClassVar[bool] = False
    stochastic: ClassVar[bool] = False

    def forget_loss(self, logits: Tensor, label: Tensor, drawn: dict[str, Tensor]) -> Tensor:
        return -F.cross_entropy(logits, label)
