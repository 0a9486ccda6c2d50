"""SCRUB: a student leaves its teacher on the forgotten sample only (Kurmanji et al. 2023, arXiv 2302.09880)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from forgetcast.target.target import Target
from forgetcast.unlearn.algorithms.divergence import divergence
from forgetcast.unlearn.base import IterativeUnlearner, Samples

__all__ = ["Scrub"]


@dataclass(frozen=True)
class Scrub(IterativeUnlearner):
    """max KL(teacher ‖ student) on x_i in turn with min α KL(teacher ‖ student) + γ ℓ on retained samples.

    The teacher is the target, which is also where the student starts: there the forget term has no gradient, and a
    norm-controlled step would follow rounding noise. So it begins with retain steps (``warm_up``). They leave the
    student on either side of its teacher, and from the wrong side the divergence grows by *learning* x_i better. While
    the student is surer of y_i than the teacher, the forget step therefore goes down the divergence: back to the
    teacher and, being of given length, past it.

    >>> import torch
    >>> drawn = {"teacher": torch.tensor([2.0, 0.0])}
    >>> loss = Scrub().forget_loss(torch.zeros(2), torch.tensor(0), drawn)
    >>> round(loss.item(), 4)  # minus KL(softmax([2, 0]) ‖ [.5, .5])
    -0.3278
    >>> surer = Scrub().forget_loss(torch.tensor([3.0, 0.0]), torch.tensor(0), drawn)
    >>> round(surer.item(), 4)  # plus the divergence: first back to the teacher
    0.0409
    """

    name: ClassVar[str] = "scrub"
    warm_up: ClassVar[int] = 4
    alpha: float = 0.5
    gamma: float = 1.0

    def draw(self, target: Target, state: Any, samples: Samples, seed: int) -> dict[str, Tensor]:
        """The teacher's logits."""
        return {"teacher": samples.logits}

    def forget_loss(self, logits: Tensor, label: Tensor, drawn: dict[str, Tensor]) -> Tensor:
        apart = divergence(drawn["teacher"], logits)
        gain = (logits.log_softmax(-1) - drawn["teacher"].log_softmax(-1)).gather(-1, label[None])[0]
        return torch.where(gain > 0, apart, -apart)

    def retain_loss(self, logits: Tensor, labels: Tensor, reference: Tensor) -> Tensor:
        taught = divergence(reference, logits)
        return self.alpha * taught + self.gamma * F.cross_entropy(logits, labels, reduction="none")
