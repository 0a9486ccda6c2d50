"""Squared gradients of single samples by plain differentiation, for parameters of layers that have no rule.

Some parameters have a first dimension of 1 and only ever meet the batch by broadcasting (position embeddings, class
tokens). Every sample gets a copy of such a parameter, and the backward pass of the layers yields its gradients along
with theirs. For the others every sample is differentiated on its own: many at a time by ``torch.func.vmap``, or one
after another where a layer cannot be vectorised (one with a backward pass of its own). That costs another forward and
backward pass, and for a moment one gradient per sample.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from functools import partial
from operator import itemgetter

import torch
from torch import Tensor
from torch.func import grad, vmap

from forgetcast.factors.probes.gradient_norms import CHUNK
from forgetcast.factors.probes.layer_gradients import Entries, Squares
from forgetcast.target.inputs import Inputs, map_leaves
from forgetcast.target.target import Target

__all__ = ["broadcast_parameters", "gradients_of_one", "plain_parameters", "plain_terms"]


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


def plain_terms(
    target: Target, names: Sequence[str], x: Inputs, slope: Tensor, *, alone: bool = False
) -> Iterator[tuple[str, slice, Squares]]:
    """Squared gradients of each sample's slope·logits in the parameters ``names``, a few of the b samples at a time.

    Args:
        target: the model.
        names: of parameters.
        x: b inputs.
        slope: gradients in the logits, (b, C).
        alone: one sample after the other, never vectorised.
    """
    chosen = {name: target.params[name] for name in names}
    rows = max(1, CHUNK // max(1, sum(value.numel() for value in chosen.values())))
    for start in range(0, len(slope), rows):
        part = slice(start, start + rows)
        gradients = _gradients(target, chosen, map_leaves(itemgetter(part), x), slope[part], alone)
        for name, gradient in gradients.items():
            yield name, part, Entries(gradient.detach().float())


def gradients_of_one(target: Target, chosen: dict[str, Tensor], x: Inputs, slope: Tensor) -> list[Tensor | None]:
    """Gradients of slope·logits in the ``chosen`` parameters for one sample by itself; None where it has none.

    Args:
        target: the model.
        chosen: parameters by name.
        x: one input, without a dimension for the batch.
        slope: gradient in its logits, (C,).
    """
    leaf = {name: value.detach().requires_grad_() for name, value in chosen.items()}
    product = _product(target, leaf, x, slope)
    if not product.requires_grad:
        return [None] * len(leaf)
    found = torch.autograd.grad(product, list(leaf.values()), allow_unused=True)
    return [part.to_dense() if part is not None and part.is_sparse else part for part in found]


def _gradients(target: Target, chosen: dict[str, Tensor], x: Inputs, slope: Tensor, alone: bool) -> dict[str, Tensor]:
    """Gradients of each sample's slope·logits, shapes (b, ...)."""

    if alone:
        return _one_by_one(target, chosen, x, slope)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="There is a performance drop")
            # Every sample gets (a view of) the parameters: recurrent layers add to the product of their weights and
            # the state they begin with in place, so it must have room for all samples.
            own = {name: value.expand(len(slope), *value.shape) for name, value in chosen.items()}
            return vmap(grad(partial(_product, target)), randomness="different")(own, x, slope)
    except Exception:  # a layer that looks at the values of its input, or has its own backward pass
        return _one_by_one(target, chosen, x, slope)


def _product(target: Target, params: dict[str, Tensor], x: Inputs, slope: Tensor) -> Tensor:
    """slope·logits of one input under other parameters, shape ()."""
    logits = target.call(params, map_leaves(lambda leaf: leaf[None], x))
    if logits.shape != (1, len(slope)):
        raise RuntimeError(f"one sample by itself has logits of shape {tuple(logits.shape)} instead of (1, classes)")
    return (logits[0].float() * slope).sum()


def _one_by_one(target: Target, chosen: dict[str, Tensor], x: Inputs, slope: Tensor) -> dict[str, Tensor]:
    found = {name: value.new_zeros(len(slope), *value.shape) for name, value in chosen.items()}
    for row in range(len(slope)):
        gradients = gradients_of_one(target, chosen, map_leaves(itemgetter(row), x), slope[row])
        for name, gradient in zip(chosen, gradients, strict=True):
            if gradient is not None:
                found[name][row] = gradient
    return found
