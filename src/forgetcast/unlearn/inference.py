"""Many models on the same inputs, without gradients: the bulk of what a label costs on a convolutional network."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from forgetcast.target.inputs import Inputs, leaves, map_leaves
from forgetcast.target.layers import layout
from forgetcast.target.logits import single
from forgetcast.target.target import Target
from forgetcast.unlearn.grouped import Grouped
from forgetcast.unlearn.stack import Params, Stack, map_models, size, stackable

__all__ = ["Inference", "own_logits"]

CACHED = 1 << 21
"""Numbers that the activations of one piece of a batch may hold, so that they stay in the processor's cache."""


class Inference:
    """The logits of any number of models of one architecture on the same b inputs, which are laid out once.

    A convolutional network on a CPU runs in pieces that fit the cache and in oneDNN's own layout, where its layers take
    that: 0.62 of the time of one batch in channels-last layout, measured on the Fashion-MNIST CNN. Plain sequences of
    layers run a few models at a time (:class:`forgetcast.unlearn.grouped.Grouped`). Other networks run the whole batch
    at once, model by model; stacking them (``torch.func.vmap``) is no faster on inputs in common, 1.0 to 1.2 of the
    time of a loop for MLPs.
    """

    def __init__(self, target: Target, x: Inputs) -> None:
        self.target = target
        x = target.to_device(x)
        self.pieces = [x]
        self.blocked = False
        self.grouped = Grouped.of(target)
        if any(isinstance(layer, nn.modules.conv._ConvNd) for layer in target.module.modules()):
            rows = max(16, CACHED // max(1, layout(target).activations))
            parts = torch.arange(len(leaves(x)[0])).split(rows)
            self.pieces = [map_leaves(partial(_rows, part), x) for part in parts]
            self._try_blocked()

    def __call__(self, params: Params) -> Tensor:
        """Logits (b, classes) of one model, on the CPU."""
        return self.stack({name: value[None] for name, value in params.items()})[0]

    @torch.no_grad()
    def stack(self, stack: Stack) -> Tensor:
        """Logits (m, b, classes) of m models, on the CPU."""
        together = 1 if self.grouped is None else self.grouped.together
        parts = [slice(start, start + together) for start in range(0, size(stack), together)]
        return torch.cat([self._few({name: value[part] for name, value in stack.items()}) for part in parts])

    def _few(self, stack: Stack) -> Tensor:
        """The same of models that run in groups, or of a single one."""
        if self.grouped is None:
            params = {name: self._laid(value[0]) for name, value in stack.items()}
            parts = [self._dense(self.target.call(params, piece)) for piece in self.pieces]
            return single(torch.cat(parts)[None]).cpu()
        weights = {name: self._laid(value) for name, value in self.grouped.weights(stack).items()}
        maps = [self._dense(self.grouped.maps(weights, piece, size(stack))) for piece in self.pieces]
        return single(self.grouped.logits(stack, torch.cat(maps))).cpu()

    def _laid(self, value: Tensor) -> Tensor:
        return value.contiguous().to_mkldnn() if self.blocked else value

    def _dense(self, value: Tensor) -> Tensor:
        return value.to_dense() if self.blocked else value

    @torch.no_grad()
    def _try_blocked(self) -> None:
        """Use oneDNN's layout if every layer takes it and the logits are the same."""
        plain, pieces = self(self.target.params), self.pieces
        if self.target.device.type != "cpu" or self.target.dtype != torch.float32 or self.target.buffers:
            return
        try:
            self.pieces, self.blocked = [piece.contiguous().to_mkldnn() for piece in self.pieces], True  # type: ignore[union-attr]
            if torch.allclose(self(self.target.params), plain, rtol=1e-3, atol=1e-4):
                return
        except (AttributeError, RuntimeError):
            pass
        self.pieces, self.blocked = pieces, False


@torch.no_grad()
def own_logits(target: Target, stack: Stack, x: Inputs) -> Tensor:
    """Every model's logits of its own sample, (m, classes), on the CPU; ``x`` are m samples on the device."""

    def call(params: Params, x: Inputs) -> Tensor:
        return target.call(params, map_leaves(lambda leaf: leaf[None], x))[0]

    return single(map_models(call, stack, x, stacked=stackable(target.module))).cpu()


def _rows(part: Tensor, leaf: Tensor) -> Tensor:
    return leaf[part]
