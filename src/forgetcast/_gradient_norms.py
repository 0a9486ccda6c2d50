"""Norms of single samples' gradients, without ever holding one gradient per sample for the whole model.

One backward pass of the summed loss gives, at the output of every layer, the gradient δ of each sample's own loss;
with the layer's input that is enough (``forgetcast._layer_gradients``). Backpropagation stops at the outputs: no
gradient of a weight is ever taken, and none of the input unless it is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge

from forgetcast._layer_gradients import Measured, Squares

__all__ = ["LayerTap", "Terms", "add_up"]

CHUNK = 1 << 24
"""Numbers that an intermediate result may hold."""

CPU_CHUNK = 1 << 20
"""Likewise on the CPU, where results that leave its cache take longer than the arithmetic."""

Terms = Iterable[tuple[str, slice, Squares]]
"""Squared gradients in a group of parameters (by a name of its own) of the samples in a slice of the batch."""


@dataclass
class _Call:
    """One call of a layer: its input, and the gradient of its output."""

    x: Tensor
    version: int
    edge: GradientEdge
    delta: Tensor | None = None


class LayerTap:
    """Watches layers while batches run forward, and tells the squared gradients of every sample in them.

    Use: ``with tap:`` around everything, and for each batch ``logits = tap.watch(forward)``, then
    ``tap.differentiate(logits, slope, [])``, then ``tap.terms()``. Outside the ``with`` block no hook is left on the
    model.

    Args:
        layers: which layers.
        written_out: whether more than norms will be asked of the squared gradients.
    """

    def __init__(self, layers: list[Measured], written_out: bool) -> None:
        self.layers = layers
        self.written_out = written_out
        self._watching = False
        self._calls: dict[str, list[_Call]] = {}
        self._handles: list[Any] = []

    def __enter__(self) -> LayerTap:
        for layer in self.layers:
            self._handles += [
                layer.module.register_forward_pre_hook(self._start),
                layer.module.register_forward_hook(
                    lambda _m, args, out, layer=layer: self._keep(layer.name, args[0], out)
                ),
            ]
        return self

    def __exit__(self, *_: Any) -> None:
        while self._handles:
            self._handles.pop().remove()

    def watch(self, forward: Callable[[], Tensor]) -> Tensor:
        """Run the model on one batch, forgetting the one before."""
        self._calls.clear()
        self._watching = True
        try:
            return forward()
        finally:
            self._watching = False

    def _start(self, _module: Any, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        """Where nothing before a layer carries a gradient, one starts at its input."""
        x = args[0]
        if not self._watching or x.requires_grad or not x.is_floating_point():
            return None
        return x.detach().requires_grad_(), *args[1:]

    def _keep(self, name: str, x: Tensor, out: Tensor) -> Tensor:
        if not self._watching:
            return out
        if not out.requires_grad:  # an embedding: token numbers carry no gradient
            out = out + torch.zeros((), dtype=out.dtype, device=out.device, requires_grad=True)
        self._calls.setdefault(name, []).append(_Call(x.detach(), x._version, get_gradient_edge(out)))
        return out

    def differentiate(self, logits: Tensor, slope: Tensor, also: list[Tensor]) -> list[Tensor]:
        """Backpropagate ``slope``, the summed loss's gradient in the logits, both (b, C).

        Returns the loss's gradients in the tensors ``also``, zero where it has none.

        Raises:
            RuntimeError: the model cannot be differentiated, or changed a layer's input after the layer ran.
        """
        calls = [call for calls in self._calls.values() for call in calls]
        wanted: list[Any] = [*also, *(call.edge for call in calls)]
        found = torch.autograd.grad(logits, wanted, slope, allow_unused=True) if wanted else ()
        for name, of_layer in self._calls.items():
            if any(call.x._version != call.version for call in of_layer):
                raise RuntimeError(f"the input of layer {name!r} was changed in place after the layer ran")
        for call, delta in zip(calls, found[len(also) :], strict=True):
            call.delta = delta
        return [torch.zeros_like(x) if own is None else own for x, own in zip(also, found, strict=False)]

    def terms(self) -> Iterator[tuple[str, slice, Squares]]:
        """Squared gradients in every weight and bias, a few samples at a time."""
        for layer in self.layers:
            calls = [
                (
                    (call.x.float() if call.x.is_floating_point() else call.x).movedim(layer.input_dim, 0),
                    call.delta.float().movedim(layer.output_dim, 0),
                )
                for call in self._calls.pop(layer.name, [])
                if call.delta is not None
            ]
            if not calls:
                continue
            x, _ = calls[0]
            limit = CHUNK if x.is_cuda else min(CHUNK, CPU_CHUNK)
            rows = max(1, limit // layer.numbers(calls, self.written_out))
            for start in range(0, len(x), rows):
                part = slice(start, start + rows)
                for which, squares in enumerate(layer.squares([(x[part], delta[part]) for x, delta in calls])):
                    yield f"{layer.name}.{which}", part, squares


def add_up(
    terms: Terms,
    rows: int,
    device: torch.device,
    *,
    fisher: dict[str, Tensor] | None = None,
    weights: dict[str, Tensor] | None = None,
    plain: bool = True,
) -> tuple[Tensor | None, Tensor | None]:
    """With ``plain`` Σ_k g_k² and with ``weights`` Σ_k w_k g_k² over all groups of parameters, for each of ``rows``
    samples.

    ``fisher``: where g² is summed over the samples, group by group.
    """
    result = torch.zeros(rows, device=device) if plain else None
    weighted = None if weights is None else torch.zeros(rows, device=device)
    for name, part, squares in terms:
        if fisher is not None:
            total = squares.total()
            fisher[name] = fisher[name] + total if name in fisher else total
        if weights is not None and weighted is not None:
            weighted[part] += squares.weighted(weights[name])
        if result is not None:
            result[part] += squares.norms()
    return result, weighted
