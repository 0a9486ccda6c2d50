"""Fine-tuning on the retained samples, so that the model forgets (Golatkar et al. 2020, arXiv 1911.04933)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from forgetcast.target.target import Target
from forgetcast.unlearn.base import IterativeUnlearner, Samples
from forgetcast.unlearn.stack import Stack

__all__ = ["FineTuning"]


@dataclass(frozen=True)
class FineTuning(IterativeUnlearner):
    """θ ← θ - η ∇ E_retain[ℓ]: no forget term at all, only batches in which the sample does not count.

    The control takes the same batches with the sample in them. A few dozen steps hardly forget one sample: most goals
    are not reached, and their rows say so.

    >>> FineTuning().forget_gradient(None, {}, None, {}) is None
    True
    """

    name: ClassVar[str] = "finetuning"
    retain_lr: float = 0.05

    def forget_gradient(
        self, target: Target, params: Stack, samples: Samples, drawn: dict[str, Tensor]
    ) -> Stack | None:
        return None
