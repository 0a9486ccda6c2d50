"""The layers of a model in the order they run, found by watching two small forward passes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from forgetcast._random import seeded
from forgetcast._settings import own_settings
from forgetcast.data import map_leaves
from forgetcast.target import Target

__all__ = ["Layer", "Layout", "layout", "reproducible"]


@dataclass(frozen=True)
class Layer:
    """A module with parameters of its own, as it was seen when the model ran."""

    name: str
    module: nn.Module
    input_dim: int | None
    """Which dimension of its input runs over the samples; None when none does."""
    output_dim: int | None
    """Likewise for its output."""


@dataclass(frozen=True)
class Layout:
    """What a forward pass looks like from outside."""

    layers: tuple[Layer, ...]
    """Modules that hold parameters, in the order of their first call."""
    activations: int
    """Numbers that all leaf modules put out for one sample."""


@contextmanager
def reproducible(target: Target, seed: int) -> Iterator[None]:
    """A block with seeded random numbers (for models that draw some); the caller's generator stays as it was.

    The fused inference kernel of transformer layers is off inside, for it skips the layers that hooks watch.
    """
    fused = torch.backends.mha
    with own_settings(), seeded(seed, target.device):
        enabled = fused.get_fastpath_enabled()
        fused.set_fastpath_enabled(False)
        try:
            yield
        finally:
            fused.set_fastpath_enabled(enabled)


@torch.no_grad()
def layout(target: Target) -> Layout:
    """Run the first sample two and three times over; the dimension that grows from 2 to 3 is the batch."""
    small, large = _watch(target, 2), _watch(target, 3)
    modules = dict(target.module.named_modules())
    layers = []
    activations = 0
    for name, (before, after) in large.items():
        if not any(True for _ in modules[name].children()):
            activations += after.numel() // 3
        if any(True for _ in modules[name].parameters(recurse=False)) and name in small:
            layers.append(
                Layer(
                    name,
                    modules[name],
                    _batch_dim(small[name][0], before),
                    _batch_dim(small[name][1], after),
                )
            )
    return Layout(tuple(layers), activations)


def _watch(target: Target, copies: int) -> dict[str, tuple[Any, Tensor]]:
    """First input and output of every module that ran, by name, in order of completion."""
    seen: dict[str, tuple[Any, Tensor]] = {}

    def keep(name: str, args: tuple[Any, ...], output: Any) -> None:
        first = first_tensor(output)
        if name not in seen and first is not None:
            seen[name] = (args[0] if args else None, first)

    handles = [
        module.register_forward_hook(lambda _m, args, out, name=name: keep(name, args, out))
        for name, module in target.module.named_modules()
    ]
    try:
        x, _ = target.data.fetch([0])
        x = map_leaves(lambda leaf: leaf.repeat_interleave(copies, 0), target.to_device(x))
        target.forward(x)
    finally:
        for handle in handles:
            handle.remove()
    return seen


def first_tensor(output: Any) -> Tensor | None:
    """The tensor itself, or the first one of a tuple or list (as recurrent layers return)."""
    if isinstance(output, (tuple, list)) and output:
        output = output[0]
    return output if isinstance(output, Tensor) else None


def _batch_dim(two: Any, three: Any) -> int | None:
    """The one dimension with 2 entries in the first tensor and 3 in the second, all others being equal."""
    if not (isinstance(two, Tensor) and isinstance(three, Tensor)) or two.ndim != three.ndim:
        return None
    unlike = [dim for dim in range(two.ndim) if two.shape[dim] != three.shape[dim]]
    if len(unlike) == 1 and (two.shape[unlike[0]], three.shape[unlike[0]]) == (2, 3):
        return unlike[0]
    return None
