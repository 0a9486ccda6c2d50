"""Bad teaching: learn from an incompetent teacher on the forgotten sample (Chundawat et al. 2023, arXiv 2205.08096)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from forgetcast.target.frozen_copy import frozen_copy
from forgetcast.target.seeding import seeded
from forgetcast.target.target import Target
from forgetcast.unlearn.algorithms.divergence import divergence
from forgetcast.unlearn.base import IterativeUnlearner, Samples

__all__ = ["BadTeaching"]


@dataclass(frozen=True)
class BadTeaching(IterativeUnlearner):
    """KL(T_bad(x_i) ‖ f(x_i)) on the sample, KL(T_good(x) ‖ f(x)) on retained ones.

    The good teacher is the target. The incompetent one is the same architecture with fresh weights where every layer
    that is trained can be re-initialised, else the uniform distribution. What is frozen knows nothing of the sample and
    stays. Only the student moves.

    >>> student, teacher = torch.tensor([2.0, 0.0]), torch.zeros(2)
    >>> loss = BadTeaching().forget_loss(student, torch.tensor(0), {"teacher": teacher})
    >>> round(loss.item(), 4)  # KL([.5, .5] ‖ softmax([2, 0]))
    0.4338
    """

    name: ClassVar[str] = "bad_teaching"

    def draw(self, target: Target, state: Any, samples: Samples, seed: int) -> dict[str, Tensor]:
        """The incompetent teacher's logits for every sample."""
        teacher = _fresh(target, seed)
        if teacher is None:
            return {"teacher": torch.zeros_like(samples.logits)}
        with torch.no_grad():
            return {"teacher": target.call({name: teacher.get_parameter(name) for name in target.params}, samples.x)}

    def forget_loss(self, logits: Tensor, label: Tensor, drawn: dict[str, Tensor]) -> Tensor:
        return divergence(drawn["teacher"], logits)

    def retain_loss(self, logits: Tensor, labels: Tensor, reference: Tensor) -> Tensor:
        return divergence(reference, logits)


def _fresh(target: Target, seed: int) -> nn.Module | None:
    """The target's architecture with new random weights; None where a layer that is trained cannot be reset.

    Weights that something else is computed from (pruning, weight norm) stay as they are when their layer is reset.
    """
    module = frozen_copy(target.module)
    trained = {id(module.get_parameter(name)) for name in target.params}
    with seeded(seed, target.device):
        for layer in module.modules():
            own = [value for value in layer.parameters(recurse=False) if id(value) in trained]
            if own:
                reset, before = getattr(layer, "reset_parameters", None), [value.clone() for value in own]
                if not callable(reset):
                    return None
                reset()
                if any(torch.equal(a, b) and a.unique().numel() > 1 for a, b in zip(before, own, strict=True)):
                    return None
    return module
