"""NegGrad+: ascent on the forgotten sample, descent on the retained ones (Kurmanji et al. 2023, arXiv 2302.09880)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.nn import functional as F

from forgetcast.unlearn.base import IterativeUnlearner

__all__ = ["NegGradPlus"]


@dataclass(frozen=True)
class NegGradPlus(IterativeUnlearner):
    """Minimises β·E_retain[ℓ] - (1 - β)·ℓ(x_i): the paper's two terms, here as one forget and one retain step each.

    The weight β is what the norm-controlled forget step and ``retain_lr`` stand for.

    >>> import torch
    >>> loss = NegGradPlus().forget_loss(torch.tensor([2.0, 0.0]), torch.tensor(0), {})
    >>> round(loss.item(), 4)
    -0.1269
    """

    name: ClassVar[str] = "neggrad_plus"
    retain_lr: float = 0.02

    def forget_loss(self, logits: Tensor, label: Tensor, drawn: dict[str, Tensor]) -> Tensor:
        return -F.cross_entropy(logits, label)
