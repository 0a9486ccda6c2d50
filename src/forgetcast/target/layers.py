"""The layers of a model in the order they run, found by watching two small forward passes."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor, nn

from forgetcast.target.inputs import Inputs, map_leaves
from forgetcast.target.seeding import seeded
from forgetcast.target.settings import own_settings
from forgetcast.target.target import Target

__all__ = ["Layer", "Layout", "example_batch", "layout", "reproducible"]

CHECKED = 12
"""Samples that the model is looked at with together, and every other one of them alone."""


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

    def without(self, names: Collection[str]) -> Layout:
        """The same, where some layers do not see one row for every sample."""
        kept = (replace(x, input_dim=None, output_dim=None) if x.name in names else x for x in self.layers)
        return replace(self, layers=tuple(kept))


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
    """Run the first sample two and three times over; the dimension that grows from 2 to 3 is the batch.

    Unless a layer puts out other rows for a few samples together than for each alone: then it sees them in an order of
    the model's own (experts, packed tokens), and no dimension is.
    """
    first = target.to_device(target.data.fetch([0])[0])
    small, large = (_watch(target, map_leaves(partial(_copies, k), first)) for k in (2, 3))
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
    return Layout(tuple(layers), activations).without(_moved(target, layers))


def example_batch(target: Target) -> tuple[Inputs, Tensor]:
    """A few samples of all classes, in random order, and their labels, on the device."""
    places = torch.linspace(0, len(target) - 1, min(CHECKED, len(target))).round().long()
    order = torch.randperm(len(places), generator=torch.Generator().manual_seed(0))  # models may sort by class
    x, y = target.data.fetch(target.labels.argsort(stable=True)[places][order])
    return target.to_device(x), y.to(target.device)


def _moved(target: Target, layers: list[Layer]) -> set[str]:
    """Layers whose output for a few samples is not, row by row, that for each of them alone."""
    x, y = example_batch(target)
    found: set[str] = set()
    together: Seen = {}
    for row in range(0, len(y), 2):
        try:
            together = together or _watch(target, x)
            alone = _watch(target, map_leaves(itemgetter(slice(row, row + 1)), x))
        except Exception:  # a model that takes no sample alone, or fails on one: the pass over all says which
            return found
        for layer in layers:
            if layer.output_dim is not None and not _same_row(together, alone, layer, row, len(y)):
                found.add(layer.name)
    return found


def _same_row(together: Seen, alone: Seen, layer: Layer, row: int, rows: int) -> bool:
    if layer.name not in together or layer.name not in alone:
        return False
    one, other = (seen[layer.name][1].movedim(layer.output_dim or 0, 0) for seen in (together, alone))
    if len(one) != rows or one[row : row + 1].shape != other.shape:
        return False
    if not one.is_floating_point():
        return torch.equal(one[row], other[0])
    tolerance = max(1e-3, 16 * torch.finfo(one.dtype).eps)
    scale = float(other.abs().max()) if other.numel() else 0.0
    return torch.allclose(one[row], other[0], rtol=0, atol=tolerance * scale, equal_nan=True)


def _copies(k: int, leaf: Tensor) -> Tensor:
    return leaf.repeat_interleave(k, 0)


Seen = dict[str, tuple[Any, Tensor]]
"""First input and output of every module that ran, by name, in order of completion."""


def _watch(target: Target, x: Inputs) -> Seen:
    seen: Seen = {}

    def keep(name: str, args: tuple[Any, ...], output: Any) -> None:
        first = first_tensor(output)
        if name not in seen and first is not None:
            seen[name] = (args[0] if args else None, first)

    handles = [
        module.register_forward_hook(lambda _m, args, out, name=name: keep(name, args, out))
        for name, module in target.module.named_modules()
    ]
    try:
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
