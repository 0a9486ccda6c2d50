"""Gradients of single samples and the diagonal Fisher information they add up to: what several unlearners share."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from forgetcast.target.inputs import Inputs, map_leaves
from forgetcast.target.target import Target
from forgetcast.unlearn.stack import Params, Stack, gradients, stackable

__all__ = ["damped", "drawn_gradients", "fisher_diagonal", "sample_gradients"]


def sample_gradients(target: Target, x: Inputs, y: Tensor, at: Stack | None = None) -> Stack:
    """Gradient of every sample's own loss in the parameters, a stack of b models.

    Args:
        target: whose model it is.
        x: inputs of b samples, (b, ...), on the model's device.
        y: their labels, (b,), on the model's device.
        at: parameters of b models, each for its sample, with buffers of their own if they have any; default: the
            target's own.
    """
    if at is None:
        at = {name: value.expand(len(y), *value.shape) for name, value in target.params.items()}
    weights = {name: at[name] for name in target.params}
    buffers = {name: value for name, value in at.items() if name not in weights}

    def loss(params: Params, buffers: Params, x: Inputs, y: Tensor) -> tuple[Tensor, tuple[()]]:
        logits = target.call({**buffers, **params}, map_leaves(lambda leaf: leaf[None], x))
        return F.cross_entropy(logits, y[None]), ()

    return gradients(loss, weights, buffers, x, y, stacked=stackable(target.module))[0]


def drawn_gradients(target: Target, count: int) -> Iterator[Stack]:
    """Gradients of ``count`` training samples, the first ones of a fixed permutation, in stacks of at most 32."""
    chosen = torch.randperm(len(target), generator=torch.Generator().manual_seed(0))[:count]
    for part in chosen.split(32):
        x, y = target.data.fetch(part)
        yield sample_gradients(target, target.to_device(x), y.to(target.device))


def fisher_diagonal(target: Target, count: int) -> Params:
    """Mean of the squared gradients of ``count`` single training samples, per parameter.

    Per sample, not per batch: the square of a batch's mean gradient is smaller by the size of the batch. It would then
    mean something else for the one sample to forget than for the others.
    """
    total = {name: torch.zeros_like(value) for name, value in target.params.items()}
    for found in drawn_gradients(target, count):
        for name, g in found.items():
            total[name] += g.square().sum(0)
    return {name: value / min(count, len(target)) for name, value in total.items()}


def damped(fisher: Params, damping: float) -> Params:
    """F + λ with λ = ``damping`` times the mean of F over all parameters."""
    mean = sum(float(value.sum()) for value in fisher.values()) / sum(value.numel() for value in fisher.values())
    return {name: value + damping * max(mean, 1e-30) for name, value in fisher.items()}
