"""Norms of single samples' gradients, without ever holding one gradient per sample for the whole model.

One backward pass of the summed loss gives, at the output of every layer, the gradient δ of each sample's own loss;
with the layer's input that is enough (see ``layer_gradients``). Backpropagation stops at the outputs: no
gradient of a weight is ever taken, and none of the input unless it is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge

from forgetcast.factors.probes.layer_gradients import Measured, Squares

__all__ = ["LayerTap", "Terms", "UnexplainedError", "add_up"]

CHUNK = 1 << 24
"""Numbers that an intermediate result may hold."""

CPU_CHUNK = 1 << 20
"""Likewise on the CPU, where results that leave its cache take longer than the arithmetic."""

Terms = Iterable[tuple[str, slice, Squares]]
"""Squared gradients in a group of parameters (by a name of its own) of the samples in a slice of the batch."""


class UnexplainedError(Exception):
    """Some parts of the model are not what they were taken for; what was measured on that ground does not count."""

    def __init__(self, parts: Collection[str]) -> None:
        super().__init__(f"the inputs and output gradients of {sorted(parts)} do not explain their parameters")
        self.parts = frozenset(parts)
        """Names of layers, or of parameters that are measured without a layer."""


@dataclass
class _Call:
    """One call of a layer: its input, and the gradient of its output."""

    x: Tensor
    version: int
    edge: GradientEdge
    delta: Tensor | None = None


class LayerTap:
    """Watches layers while batches run forward, and computes the squared gradients of every sample in them.

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
        self._unseen: set[str] = set()
        self._handles: list[Any] = []

    def __enter__(self) -> LayerTap:
        for layer in self.layers:
            self._handles += [
                layer.module.register_forward_pre_hook(self._start),
                layer.module.register_forward_hook(
                    lambda _m, args, out, layer=layer: self._keep(layer.name, args, out)
                ),
            ]
        return self

    def __exit__(self, *_: Any) -> None:
        while self._handles:
            self._handles.pop().remove()

    def watch(self, forward: Callable[[], Tensor]) -> Tensor:
        """Run the model on one batch, forgetting the one before."""
        self._calls.clear()
        self._unseen.clear()
        self._watching = True
        try:
            return forward()
        finally:
            self._watching = False

    def _start(self, _module: Any, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        """Where nothing before a layer carries a gradient, one starts at its input."""
        if not self._watching or not args or args[0].requires_grad or not args[0].is_floating_point():
            return None
        return args[0].detach().requires_grad_(), *args[1:]

    def _keep(self, name: str, args: tuple[Any, ...], out: Tensor) -> Tensor:
        if not self._watching or not torch.is_grad_enabled():  # what runs without gradients has none
            return out
        if not args:  # called by keyword
            self._unseen.add(name)
            return out
        x = args[0]
        if not out.requires_grad:  # an embedding: token numbers carry no gradient
            out = out + torch.zeros((), dtype=out.dtype, device=out.device, requires_grad=True)
        self._calls.setdefault(name, []).append(_Call(x.detach(), x._version, get_gradient_edge(out)))
        return out

    def differentiate(self, logits: Tensor, slope: Tensor, also: list[Tensor]) -> list[Tensor]:
        """Backpropagate ``slope``, the summed loss's gradient in the logits, both (b, C).

        Returns the loss's gradients in the tensors ``also``, zero where it has none.

        Raises:
            RuntimeError: the model cannot be differentiated, or changed a layer's input after the layer ran.
            UnexplainedError: a layer did not see one row for every sample.
        """
        calls = [call for calls in self._calls.values() for call in calls]
        wanted: list[Any] = [*also, *(call.edge for call in calls)]
        found = torch.autograd.grad(logits, wanted, slope, allow_unused=True) if wanted else ()
        for name, of_layer in self._calls.items():
            if any(call.x._version != call.version for call in of_layer):
                raise RuntimeError(f"the input of layer {name!r} was changed in place after the layer ran")
        for call, delta in zip(calls, found[len(also) :], strict=True):
            call.delta = delta
        apart = self._unseen.copy()
        for layer in self.layers:
            if any(_apart(layer, call, len(logits)) for call in self._calls.get(layer.name, [])):
                apart.add(layer.name)
        if apart:
            raise UnexplainedError(apart)
        return [torch.zeros_like(x) if own is None else own for x, own in zip(also, found, strict=False)]

    def terms(self) -> Iterator[tuple[str, slice, Squares]]:
        """Squared gradients in every weight and bias, a few samples at a time.

        Raises:
            UnexplainedError: a layer's rule cannot be applied to what it saw.
        """
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
                try:
                    found = layer.squares([(x[part], delta[part]) for x, delta in calls])
                except (RuntimeError, IndexError) as error:
                    raise UnexplainedError([layer.name]) from error
                for which, squares in enumerate(found):
                    yield f"{layer.name}.{which}", part, squares


def _apart(layer: Measured, call: _Call, rows: int) -> bool:
    """Whether input or output of a call do not run over the samples."""
    ran = ((call.x, layer.input_dim), (call.delta, layer.output_dim))
    return any(t is not None and (t.ndim <= dim or t.shape[dim] != rows) for t, dim in ran)


def add_up(
    terms: Terms,
    times: Tensor,
    *,
    fisher: dict[str, Tensor] | None = None,
    weights: dict[str, Tensor] | None = None,
    plain: bool = True,
    by_group: dict[str, Tensor] | None = None,
) -> tuple[Tensor | None, Tensor | None]:
    """With ``plain`` Σ_k g_k² and with ``weights`` Σ_k w_k g_k² over all groups of parameters, for each of b samples.

    ``weights``: w by group; w[""] in groups that have none of their own.

    ``fisher``: where g² is summed over the samples, group by group, each as often as ``times`` (b,) says.
    ``by_group``: where Σ_k g_k² of each sample is kept, group by group, (b,).
    """
    result = torch.zeros_like(times) if plain else None
    weighted = None if weights is None else torch.zeros_like(times)
    for name, part, squares in terms:
        if fisher is not None:
            total = squares.total(times[part])
            fisher[name] = fisher[name] + total if name in fisher else total
        if weights is not None and weighted is not None:
            weighted[part] += squares.weighted(weights[name]) if name in weights else squares.norms() * weights[""]
        if result is not None or by_group is not None:
            norms = squares.norms()
            if result is not None:
                result[part] += norms
            if by_group is not None:
                by_group.setdefault(name, torch.zeros_like(times))[part] += norms
    return result, weighted
