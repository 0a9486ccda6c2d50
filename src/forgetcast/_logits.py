"""What logits say of the label."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["cross_entropy", "margin", "true_probability"]


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """log(1 + Σ_{k≠y} exp(l_k - l_y)): no cancellation for sure predictions. Shape (n,)."""
    rest = logits.scatter(1, labels[:, None], -torch.inf).logsumexp(1)
    return F.softplus(rest - logits.gather(1, labels[:, None])[:, 0])


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    """Logit of the label minus the largest other. Shape (n,)."""
    rest = logits.scatter(1, labels[:, None], -torch.inf).amax(1)
    return logits.gather(1, labels[:, None])[:, 0] - rest


def true_probability(logits: Tensor, labels: Tensor) -> Tensor:
    """Softmax probability of the label. Shape (n,)."""
    return logits.softmax(1).gather(1, labels[:, None])[:, 0]
