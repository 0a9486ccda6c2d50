"""Squared norms of per-sample gradients by plain differentiation, for parameters of layers that have no rule.

Every sample is differentiated on its own, many at a time by ``torch.func.vmap``, or one after another where a layer
cannot be vectorised (one with a backward pass of its own). It costs another forward and backward pass, and for a moment
one gradient per sample.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from operator import itemgetter

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import grad, vmap

from forgetcast._gradient_norms import CHUNK
from forgetcast.data import Inputs, map_leaves
from forgetcast.target import Target

__all__ = ["plain_parameters", "plain_squares"]


def plain_parameters(target: Target, names: Sequence[str]) -> list[str]:
    """Those of the parameters ``names`` that are real numbers and small enough to hold a gradient per sample."""
    params = target.params
    return [name for name in names if params[name].is_floating_point() and params[name].numel() <= CHUNK]


def plain_squares(target: Target, names: Sequence[str], x: Inputs, y: Tensor) -> Tensor:
    """Squared norm of the gradient of each sample's loss in the parameters ``names``, shape (b,)."""
    chosen = {name: target.params[name] for name in names}

    def loss(params: dict[str, Tensor], x: Inputs, y: Tensor) -> Tensor:
        logits = target.call(params, map_leaves(lambda leaf: leaf[None], x))
        return F.cross_entropy(logits.float(), y[None])

    def square(params: dict[str, Tensor], x: Inputs, y: Tensor) -> Tensor:
        return _sum_of_squares(grad(loss)(params, x, y).values(), y.device)

    rows = max(1, CHUNK // sum(value.numel() for value in chosen.values()))
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="There is a performance drop")
            # Every sample gets (a view of) the parameters: recurrent layers add to the product of their weights and
            # the state they begin with in place, so it must have room for all samples.
            own = {name: value.expand(len(y), *value.shape) for name, value in chosen.items()}
            return vmap(square, chunk_size=rows, randomness="different")(own, x, y)
    except RuntimeError:  # a layer that looks at the values of its input, or has its own backward pass
        squares = []
        for row in range(len(y)):
            leaf = {name: value.clone().requires_grad_() for name, value in chosen.items()}
            alone = loss(leaf, map_leaves(itemgetter(row), x), y[row])
            found = torch.autograd.grad(alone, list(leaf.values()), allow_unused=True) if alone.requires_grad else ()
            squares.append(_sum_of_squares(found, y.device))
        return torch.stack(squares)


def _sum_of_squares(gradients: Iterable[Tensor | None], device: torch.device) -> Tensor:
    """Sum of the squared entries of all gradients, float32, shape ()."""
    squares = [gradient.float().square().sum() for gradient in gradients if gradient is not None]
    return torch.stack(squares).sum() if squares else torch.zeros((), device=device)
