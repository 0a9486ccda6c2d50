"""Squared gradients of single samples by plain differentiation, for parameters of layers that have no rule.

A parameter with a first dimension of 1 that only ever meets the batch by broadcasting (position embeddings, class
tokens) is given to every sample as a copy of its own, and the backward pass of the layers tells its gradients along
with theirs. For the others every sample is differentiated on its own, many at a time by ``torch.func.vmap``, or one
after another where a layer cannot be vectorised (one with a backward pass of its own). That costs another forward and
backward pass, and for a moment one gradient per sample.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from operator import itemgetter

import torch
from torch import Tensor
from torch.func import grad, vmap

from forgetcast._gradient_norms import CHUNK
from forgetcast._layer_gradients import Entries, Squares
from forgetcast._logits import cross_entropy
from forgetcast.data import Inputs, map_leaves
from forgetcast.target import Target

__all__ = ["broadcast_parameters", "plain_parameters", "plain_terms"]


def plain_parameters(target: Target, names: Sequence[str]) -> list[str]:
    """Those of the parameters ``names`` that are real numbers and small enough to hold a gradient per sample."""
    params = target.params
    return [name for name in names if params[name].is_floating_point() and params[name].numel() <= CHUNK]


@torch.no_grad()
def broadcast_parameters(target: Target, names: Sequence[str]) -> list[str]:
    """Those of the parameters ``names`` of which every sample may have a copy of its own along the first dimension.

    That is so when the logits of two samples stay the same.
    """
    candidates = [name for name in names if target.params[name].ndim > 1 and len(target.params[name]) == 1]
    if not candidates:
        return []
    x = target.to_device(target.data.fetch(torch.arange(len(target))[:2])[0])
    rows = min(2, len(target))
    logits = target.forward(x)
    found = []
    for name in candidates:
        value = target.params[name]
        try:
            other = target.call({name: value.expand(rows, *value.shape[1:])}, x)
        except (RuntimeError, IndexError, ValueError):
            continue
        if rows > 1 and other.shape == logits.shape and torch.allclose(other, logits, rtol=1e-4, atol=1e-5):
            found.append(name)
    return found


def plain_terms(target: Target, names: Sequence[str], x: Inputs, y: Tensor) -> Iterator[tuple[str, slice, Squares]]:
    """Squared gradients of each sample's loss in the parameters ``names``, a few of the b samples at a time."""
    chosen = {name: target.params[name] for name in names}
    rows = max(1, CHUNK // sum(value.numel() for value in chosen.values()))
    for start in range(0, len(y), rows):
        part = slice(start, start + rows)
        gradients = _gradients(target, chosen, map_leaves(itemgetter(part), x), y[part])
        for name, gradient in gradients.items():
            yield name, part, Entries(gradient.float())


def _gradients(target: Target, chosen: dict[str, Tensor], x: Inputs, y: Tensor) -> dict[str, Tensor]:
    """Gradients of each sample's loss, shapes (b, ...)."""

    def loss(params: dict[str, Tensor], x: Inputs, y: Tensor) -> Tensor:
        logits = target.call(params, map_leaves(lambda leaf: leaf[None], x))
        return cross_entropy(logits.float(), y[None])[0]

    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="There is a performance drop")
            # Every sample gets (a view of) the parameters: recurrent layers add to the product of their weights and
            # the state they begin with in place, so it must have room for all samples.
            own = {name: value.expand(len(y), *value.shape) for name, value in chosen.items()}
            return vmap(grad(loss), randomness="different")(own, x, y)
    except RuntimeError:  # a layer that looks at the values of its input, or has its own backward pass
        found = {name: value.new_zeros(len(y), *value.shape) for name, value in chosen.items()}
        for row in range(len(y)):
            leaf = {name: value.clone().requires_grad_() for name, value in chosen.items()}
            alone = loss(leaf, map_leaves(itemgetter(row), x), y[row])
            if alone.requires_grad:
                gradients = torch.autograd.grad(alone, list(leaf.values()), allow_unused=True)
                for name, gradient in zip(leaf, gradients, strict=True):
                    if gradient is not None:
                        found[name][row] = gradient
        return found
