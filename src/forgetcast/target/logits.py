"""What logits say of the label."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["autograd_slope", "cross_entropy", "loss_slope", "margin", "single", "true_probability"]

CANCELLED = 0.05
"""Relative error from which on a slope has lost its worth to cancellation."""


def single(logits: Tensor) -> Tensor:
    """Logits in single precision at least: half precision as float32, float64 as it is."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """log(1 + Σ_{k≠y} exp(l_k - l_y)): no cancellation for sure predictions. Shape (n,)."""
    rest = logits.scatter(1, labels[:, None], -torch.inf).logsumexp(1)
    return F.softplus(rest - logits.gather(1, labels[:, None])[:, 0])


@torch.no_grad()
def loss_slope(logits: Tensor, labels: Tensor) -> Tensor:
    """p - onehot, the gradient of the cross-entropy in the logits: no cancellation for sure predictions. Shape (n, C).

    At the label it is minus the sum of the other probabilities, not p_y - 1.
    """
    others = logits.softmax(1).scatter(1, labels[:, None], 0.0)
    return others.scatter(1, labels[:, None], -others.sum(1, keepdim=True))


def autograd_slope(logits: Tensor, labels: Tensor) -> Tensor:
    """The slope that autograd gives in the logits' own precision, float64, shape (n, C).

    Where p_y - 1 has cancelled there by more than ``CANCELLED``, that of :func:`loss_slope`.
    """
    exact = loss_slope(logits.double(), labels)
    with torch.enable_grad():
        leaf = logits.detach().requires_grad_()
        (own,) = torch.autograd.grad(F.cross_entropy(leaf, labels, reduction="sum"), leaf)
    off = (own.double() - exact).norm(dim=1) > CANCELLED * exact.norm(dim=1)
    return torch.where(off[:, None], exact, own.double())


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    """Logit of the label minus the largest other. Shape (n,)."""
    rest = logits.scatter(1, labels[:, None], -torch.inf).amax(1)
    return logits.gather(1, labels[:, None])[:, 0] - rest


def true_probability(logits: Tensor, labels: Tensor) -> Tensor:
    """Softmax probability of the label. Shape (n,)."""
    return logits.softmax(1).gather(1, labels[:, None])[:, 0]
