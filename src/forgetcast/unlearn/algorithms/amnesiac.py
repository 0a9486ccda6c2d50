"""Amnesiac relabelling: a new wrong label at every step (Graves et al. 2021, arXiv 2010.10981)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from forgetcast.target.target import Target
from forgetcast.unlearn.algorithms.random_relabelling import RandomRelabelling, wrong_labels
from forgetcast.unlearn.base import Samples

__all__ = ["Amnesiac"]


@dataclass(frozen=True)
class Amnesiac(RandomRelabelling):
    """Relabelling with y' drawn anew for every forget step, so that no single wrong class is learned instead.

    >>> import torch
    >>> loss = Amnesiac().forget_loss(torch.tensor([2.0, 0.0]), torch.tensor(0), {"wrong": torch.tensor(1)})
    >>> round(loss.item(), 4)
    2.1269
    """

    name: ClassVar[str] = "amnesiac"

    def redraw(
        self, target: Target, drawn: dict[str, Tensor], samples: Samples, seed: int, t: int
    ) -> dict[str, Tensor]:
        return {"wrong": wrong_labels(target, samples, seed + 7_919 * t)}
