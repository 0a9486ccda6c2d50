"""Uniform target: teach the model to be undecided about the sample (ours, an example)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from forgetcast.unlearn.base import IterativeUnlearner

__all__ = ["UniformTarget"]


@dataclass(frozen=True)
class UniformTarget(IterativeUnlearner):
    """Descends the cross-entropy between equal probabilities and the model's, -1/C Σ_c log p_c; then a retain step.

    >>> import torch
    >>> loss = UniformTarget().forget_loss(torch.tensor([0.0, 0.0]), torch.tensor(0), {})
    >>> round(loss.item(), 4)  # log 2: as undecided as can be
    0.6931
    """

    name: ClassVar[str] = "uniform_target"

    def forget_loss(self, logits: Tensor, label: Tensor, drawn: dict[str, Tensor]) -> Tensor:
        return -logits.log_softmax(0).mean()
