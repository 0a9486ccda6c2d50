"""Stacks: the parameters of several models side by side, every tensor with a leading dimension of models."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import vmap

__all__ = [
    "Params",
    "Stack",
    "combine",
    "differentiated",
    "distance",
    "flat",
    "gradients",
    "map_models",
    "mix",
    "norm",
    "repeat",
    "rows",
    "size",
    "stackable",
]

Params = dict[str, Tensor]
"""Parameters of one model by name."""

Stack = dict[str, Tensor]
"""Parameters of m models by name; every tensor has shape (m, ...)."""


def repeat(params: Params, m: int) -> Stack:
    """m copies of one model's parameters."""
    return {name: value[None].expand(m, *value.shape).clone() for name, value in params.items()}


def rows(stack: Stack, index: Tensor) -> Stack:
    """The chosen models of a stack."""
    return {name: value[index] for name, value in stack.items()}


def size(stack: Stack) -> int:
    """How many models a stack holds."""
    return len(next(iter(stack.values())))


def combine(a: Stack, b: Stack, scale: Tensor | float) -> Stack:
    """a + scale * b, with one scale per model (shape (m,)) or one for all."""
    if not isinstance(scale, Tensor):
        return {name: torch.add(value, b[name], alpha=scale) for name, value in a.items()}
    return {name: torch.addcmul(value, b[name], _column(scale, value)) for name, value in a.items()}


def mix(a: Stack, b: Stack, fraction: Tensor) -> Stack:
    """(1 - fraction) a + fraction b, one fraction per model."""
    return {name: torch.lerp(value, b[name], _column(fraction, value)) for name, value in a.items()}


def norm(stack: Stack) -> Tensor:
    """Euclidean norm of every model's parameters, shape (m,)."""
    lengths = [torch.linalg.vector_norm(_flat(value), dim=1) for value in stack.values()]
    return torch.linalg.vector_norm(torch.stack(lengths), dim=0)


def flat(stack: Stack) -> Tensor:
    """All parameters of every model in one row, shape (m, P)."""
    return torch.cat([_flat(value) for value in stack.values()], 1)


def _flat(value: Tensor) -> Tensor:
    """Shape (m, p), whatever the parameter's own shape: () has one number, (3, 0) none."""
    return value.flatten(1) if value.ndim > 1 else value[:, None]


def distance(a: Stack, b: Stack, names: Iterable[str]) -> Tensor:
    """‖a - b‖ over the named parameters for every model, shape (m,)."""
    return norm({name: a[name] - b[name] for name in names})


def _column(scale: Tensor, like: Tensor) -> Tensor:
    return scale.to(like.device, like.dtype).reshape(-1, *[1] * (like.ndim - 1))


def stackable(module: nn.Module, *, batches: bool = False) -> bool:
    """Whether several models run faster at once than one after another on a CPU.

    Measured on one core: gradients of 32 models, each on one sample, take 0.1 to 0.25 of the time of a loop, for MLPs
    and convolutional networks alike. On ``batches`` the convolutions of several models become grouped ones and take
    1.2 to 1.6 of it (28 x 28 images, 64 of them); MLPs take 0.6.
    """
    layers = (nn.MultiheadAttention, nn.modules.conv._ConvNd) if batches else (nn.MultiheadAttention,)
    return not any(isinstance(layer, layers) for layer in module.modules())


def map_models(function: Callable[..., Any], *arguments: Any, stacked: bool) -> Any:
    """``function`` applied to every model: arguments are trees of tensors whose first dimension is the model.

    With ``stacked`` in one vectorised call, else (or where the model takes no vectorised call, for instance because it
    branches on values) in a loop; the results are the same up to rounding.
    """
    if stacked:
        try:
            return vmap(function, randomness="error")(*arguments)
        except Exception:
            pass  # the loop raises what is wrong with the model itself
    return _looped(function, *arguments)


def gradients(loss: Callable[..., Any], params: Stack, *arguments: Any, stacked: bool) -> tuple[Stack, Any]:
    """Gradients of m losses, each in its own model's parameters; ``arguments`` are as in :func:`map_models`.

    ``loss(params, ...)`` returns a scalar and a tree of tensors that is handed through (() for none). Stacked,
    the losses are summed and differentiated in one backward pass: half the time of ``torch.func.grad`` under ``vmap``
    on few small models. Parameters that a loss does not use have gradient 0.

    Returns:
        (gradients (m, ...), what the losses handed through (m, ...)).
    """

    def one(params: Stack, *arguments: Any) -> tuple[Stack, Any]:
        weights = {name: value.detach().requires_grad_() for name, value in params.items()}
        value, kept = loss(weights, *arguments)
        return differentiated(value, weights), torch.utils._pytree.tree_map(torch.detach, kept)

    with torch.enable_grad():
        if not stacked:
            return _looped(one, params, *arguments)
        weights = {name: value.detach().requires_grad_() for name, value in params.items()}
        values, kept = map_models(loss, weights, *arguments, stacked=True)
        return differentiated(values.sum(), weights), torch.utils._pytree.tree_map(torch.detach, kept)


def differentiated(value: Tensor, weights: Stack) -> Stack:
    """Gradients of one number in all ``weights``; 0 where it does not depend on them."""
    found = torch.autograd.grad(value, list(weights.values()), allow_unused=True, materialize_grads=True)
    return dict(zip(weights, found, strict=True))


def _looped(function: Callable[..., Any], *arguments: Any) -> Any:
    leaves, spec = torch.utils._pytree.tree_flatten(arguments)
    outputs = []
    for k in range(len(leaves[0])):
        outputs.append(function(*torch.utils._pytree.tree_unflatten([leaf[k] for leaf in leaves], spec)))
    flat = [torch.utils._pytree.tree_flatten(output) for output in outputs]
    joined = [torch.stack(parts) for parts in zip(*(leaves for leaves, _ in flat), strict=True)]
    return torch.utils._pytree.tree_unflatten(joined, flat[0][1])
