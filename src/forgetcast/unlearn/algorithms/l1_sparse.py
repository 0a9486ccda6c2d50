"""L1-sparse unlearning: fine-tune while pruning small weights away (Jia et al. 2023, arXiv 2304.04934)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from forgetcast.target.target import Target
from forgetcast.unlearn.base import IterativeUnlearner, Samples
from forgetcast.unlearn.stack import Stack

__all__ = ["L1Sparse"]


@dataclass(frozen=True)
class L1Sparse(IterativeUnlearner):
    """Minimises E_retain[ℓ] + γ‖θ‖₁ (the paper's equation 3): a step against sign(θ), then a retain step.

    The growing norm-controlled step stands for γ. It is the same for every sample, so the method forgets one sample
    only by forgetting everywhere.

    >>> import torch
    >>> L1Sparse().forget_gradient(None, {"w": torch.tensor([[0.5, -2.0, 0.0]])}, None, {})["w"].tolist()
    [[1.0, -1.0, 0.0]]
    """

    name: ClassVar[str] = "l1_sparse"

    def forget_gradient(
        self, target: Target, params: Stack, samples: Samples, drawn: dict[str, Tensor]
    ) -> Stack | None:
        return {name: value.sign() for name, value in params.items()}
