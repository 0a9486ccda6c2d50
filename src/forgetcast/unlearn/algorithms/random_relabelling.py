"""Random relabelling: fine-tune on the sample with a wrong label (Graves et al. 2021, arXiv 2010.10981)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from forgetcast.target.target import Target
from forgetcast.unlearn.base import IterativeUnlearner, Samples, sample_generator

__all__ = ["RandomRelabelling", "wrong_labels"]


def wrong_labels(target: Target, samples: Samples, seed: int) -> Tensor:
    """A class other than the true one for every sample, (m,); it depends on seed and sample alone."""
    shift = [
        int(torch.randint(1, target.num_classes, (), generator=sample_generator(seed, index)))
        for index in samples.index.tolist()
    ]
    return (samples.y + torch.tensor(shift, device=samples.y.device)) % target.num_classes


@dataclass(frozen=True)
class RandomRelabelling(IterativeUnlearner):
    """Minimises ℓ(f(x_i), y') with y' drawn once per seed from the classes other than y_i, beside retain steps.

    >>> loss = RandomRelabelling().forget_loss(torch.tensor([2.0, 0.0]), torch.tensor(0), {"wrong": torch.tensor(1)})
    >>> round(loss.item(), 4)
    2.1269
    """

    name: ClassVar[str] = "random_relabelling"

    def draw(self, target: Target, state: Any, samples: Samples, seed: int) -> dict[str, Tensor]:
        """A class other than the true one for every sample."""
        return {"wrong": wrong_labels(target, samples, seed)}

    def forget_loss(self, logits: Tensor, label: Tensor, drawn: dict[str, Tensor]) -> Tensor:
        return F.cross_entropy(logits, drawn["wrong"])
