"""What surrogates of a model trained without a sample say of its label."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from forgetcast.errors import NotApplicableError
from forgetcast.factors.probes.cross_fitted import logistic_confidence

__all__ = ["logistic_surrogate", "weighted_surrogates"]


def logistic_surrogate(z: Tensor, labels: Tensor, order: Tensor, *, classes: int, seed: int) -> Tensor:
    """Out-of-fold probability of the label by kernel logistic regression, shape (n,).

    Args:
        z: what the regression sees, shape (n, d).
        labels: classes, shape (n,).
        order: sample numbers in the order that folds are dealt by, shape (n,).
        classes: number of classes.
        seed: of the random features.

    Raises:
        NotApplicableError: fewer than two samples.
    """
    if len(z) < 2:
        raise NotApplicableError("leaving one out needs at least two samples")
    found = logistic_confidence(z[order], labels[order], classes, seed=seed)
    return torch.empty_like(found).index_copy_(0, order, found)


def weighted_surrogates(kinds: Sequence[tuple[int, Sequence[Tensor]]]) -> Tensor:
    """Mean over kinds of surrogates by weight, and within a kind over its members (each of shape (n,)), shape (n,).

    Raises:
        NotApplicableError: no kind has a member.
    """
    if not any(values for _, values in kinds):
        raise NotApplicableError("no surrogate applies: neither the inputs nor a layer are numbers per sample")
    means = torch.stack([torch.stack(list(values)).mean(0).double() for _, values in kinds if values])
    weights = means.new_tensor([weight for weight, values in kinds if values])
    return weights / weights.sum() @ means
