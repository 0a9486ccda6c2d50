"""Kullback-Leibler divergence between two classifiers' predictions."""

from __future__ import annotations

from torch import Tensor

__all__ = ["divergence"]


def divergence(teacher: Tensor, student: Tensor) -> Tensor:
    """KL(softmax(teacher) ‖ softmax(student)) in nats over the last dimension; logits (..., classes), result (...).

    Written out because ``torch.nn.functional.kl_div`` has no rule for ``torch.func.vmap`` and falls back to a loop.

    >>> import torch
    >>> round(divergence(torch.zeros(2), torch.tensor([2.0, 0.0])).item(), 4)
    0.4338
    """
    own = teacher.log_softmax(-1)
    return (own.exp() * (own - student.log_softmax(-1))).sum(-1)
