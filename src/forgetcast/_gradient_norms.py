"""Norms of per-sample gradients, without ever holding one gradient per sample for the whole model.

One backward pass of the summed loss gives, at the output of every layer, the gradient δ of each sample's own loss.
Together with the layer's input a that is enough: a linear layer's gradient for one sample is Σ_t δ_t a_tᵀ over the
positions t it was applied at, so its squared norm is |a|²|δ|² for one position (Goodfellow 2015, arXiv 1510.01799) and
Σ_ts (a_t·a_s)(δ_t·δ_s) for several. Convolutions are linear layers over unfolded patches (Rochette et al. 2019,
arXiv 1912.06015); normalisation layers and embeddings follow the same pattern.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from forgetcast._layers import Layer

__all__ = ["GradientNorms", "Measured", "measured_layers"]

CHUNK = 1 << 24
"""Numbers that an intermediate result may hold."""

Pair = tuple[Tensor, Tensor]


def _linear(layer: Any, x: Tensor, delta: Tensor) -> Pair:
    """(b, 1, positions, in) and (b, 1, positions, out)."""
    return x.flatten(1, -2)[:, None] if x.ndim > 2 else x[:, None, None], (
        delta.flatten(1, -2)[:, None] if delta.ndim > 2 else delta[:, None, None]
    )


def _conv(layer: Any, x: Tensor, delta: Tensor) -> Pair:
    """(b, groups, positions, patch) and (b, groups, positions, out per group)."""
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    x = F.pad(x, layer._reversed_padding_repeated_twice, mode=mode)
    kernel, stride, dilation = layer.kernel_size, layer.stride, layer.dilation
    if isinstance(layer, nn.Conv1d):
        x, delta = x[:, :, None], delta[:, :, None]
        kernel, stride, dilation = (1, *kernel), (1, *stride), (1, *dilation)
    if max(kernel) == 1:
        patches = x[:, :, :: stride[0], :: stride[1]].flatten(2)
    else:
        patches = F.unfold(x, kernel, dilation=dilation, stride=stride)  # (b, channels * kernel, positions)
    return (
        patches.unflatten(1, (layer.groups, -1)).mT,
        delta.flatten(2).unflatten(1, (layer.groups, -1)).mT,
    )


def _batch_norm(layer: Any, x: Tensor, delta: Tensor) -> Pair:
    """Normalised input and δ, both (b, channels, positions)."""
    shape = (1, -1) + (1,) * (x.ndim - 2)
    scale = torch.rsqrt(layer.running_var.float() + layer.eps).view(shape)
    normal = (x - layer.running_mean.float().view(shape)) * scale
    return normal.flatten(2) if x.ndim > 2 else normal[..., None], (
        delta.flatten(2) if x.ndim > 2 else delta[..., None]
    )


def _layer_norm(layer: Any, x: Tensor, delta: Tensor) -> Pair:
    size = layer.weight.numel()
    normal = F.layer_norm(x, layer.normalized_shape, eps=layer.eps)
    return normal.reshape(len(x), -1, size).mT, delta.reshape(len(x), -1, size).mT


def _group_norm(layer: Any, x: Tensor, delta: Tensor) -> Pair:
    normal = F.group_norm(x, layer.num_groups, eps=layer.eps)
    return normal.reshape(*x.shape[:2], -1), delta.reshape(*x.shape[:2], -1)


def _embedding(layer: Any, x: Tensor, delta: Tensor) -> Pair:
    """Token numbers (b, positions) and δ (b, positions, width); the padding token has no gradient."""
    tokens = x.reshape(len(x), -1)
    delta = delta.reshape(*tokens.shape, -1)
    if layer.padding_idx is not None:
        delta = delta * (tokens != layer.padding_idx)[..., None]
    return tokens, delta


def _together(pairs: list[Pair], dim: int) -> Pair:
    """All calls of a layer as one, its positions one after the other."""
    if len(pairs) == 1:
        return pairs[0]
    return torch.cat([first for first, _ in pairs], dim), torch.cat([second for _, second in pairs], dim)


def _product_square(layer: Any, pairs: list[Pair]) -> Tensor:
    """‖Σ_t δ_t a_tᵀ‖² + ‖Σ_t δ_t‖² (with a bias) for each sample, shape (b,)."""
    a, d = _together(pairs, 2)
    positions, inner, outer = a.shape[2], a.shape[3], d.shape[3]
    if positions * (inner + outer) <= inner * outer:
        square = ((a @ a.mT) * (d @ d.mT)).sum((1, 2, 3))
    else:
        square = (d.mT @ a).square().sum((1, 2, 3))
    if layer.bias is not None:
        square = square + d.sum(2).square().sum((1, 2))
    return square


def _affine_square(layer: Any, pairs: list[Pair]) -> Tensor:
    """‖Σ_t δ_t x̂_t‖² + ‖Σ_t δ_t‖² (with a bias) for each sample, shape (b,)."""
    weight = sum((normal * delta).sum(2) for normal, delta in pairs)
    square = torch.as_tensor(weight).square().sum(1)
    if layer.bias is not None:
        bias = sum(delta.sum(2) for _, delta in pairs)
        square = square + torch.as_tensor(bias).square().sum(1)
    return square


def _embedding_square(layer: Any, pairs: list[Pair]) -> Tensor:
    """Σ over pairs of positions that hold the same token of δ_t·δ_s for each sample, shape (b,)."""
    tokens, delta = _together(pairs, 1)
    same = tokens[:, :, None] == tokens[:, None, :]
    return ((delta @ delta.mT) * same).sum((1, 2))


@dataclass(frozen=True)
class _Rule:
    """How one kind of layer turns (input, output gradient) into squared gradient norms."""

    kinds: tuple[type[nn.Module], ...]
    pair: Callable[[Any, Tensor, Tensor], Pair]
    square: Callable[[Any, list[Pair]], Tensor]


_RULES = (
    _Rule((nn.Linear,), _linear, _product_square),
    _Rule((nn.Conv1d, nn.Conv2d), _conv, _product_square),
    _Rule((nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d), _batch_norm, _affine_square),
    _Rule((nn.LayerNorm,), _layer_norm, _affine_square),
    _Rule((nn.GroupNorm,), _group_norm, _affine_square),
    _Rule((nn.Embedding,), _embedding, _embedding_square),
)


@dataclass(frozen=True)
class Measured:
    """A layer whose gradients can be measured."""

    name: str
    module: nn.Module
    rule: _Rule
    input_dim: int
    output_dim: int


def _measured(layer: Layer) -> Measured | None:
    """The layer with its rule; None for a layer without one (a subclass with its own forward included)."""
    module = layer.module
    rule = next(
        (
            rule
            for rule in _RULES
            for kind in rule.kinds
            if isinstance(module, kind) and type(module).forward is kind.forward
        ),
        None,
    )
    if rule is None or hasattr(module, "parametrizations"):
        return None
    if layer.input_dim is None or layer.output_dim is None:
        return None
    channels_second = (nn.Conv1d, nn.Conv2d, nn.GroupNorm, nn.modules.batchnorm._BatchNorm)
    if isinstance(module, channels_second) and layer.input_dim != 0:
        return None
    if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is None:
        return None  # normalises with the batch at hand: samples do not have gradients of their own
    if isinstance(module, nn.Embedding) and module.scale_grad_by_freq:
        return None
    return Measured(layer.name, module, rule, layer.input_dim, layer.output_dim)


def measured_layers(model: nn.Module, layers: tuple[Layer, ...]) -> tuple[list[Measured], list[str]]:
    """The layers that can be measured, and the names of all parameters that cannot.

    Left out are parameters of layers without a rule, of layers that never ran or do not see one row per sample, and
    parameters that two layers share.
    """
    owners = Counter(id(p) for module in model.modules() for p in module.parameters(recurse=False))
    found = [
        measured
        for layer in layers
        if (measured := _measured(layer)) is not None
        and all(owners[id(p)] == 1 for p in layer.module.parameters(recurse=False))
    ]
    covered = {id(p) for layer in found for p in layer.module.parameters(recurse=False)}
    return found, [name for name, p in model.named_parameters() if id(p) not in covered]


@dataclass
class _Call:
    """Input of one call of a layer, and later the gradient of its output."""

    x: Tensor
    version: int
    delta: Tensor | None = None


@dataclass
class GradientNorms:
    """Collects squared gradient norms of each sample while one batch runs forward and backward.

    Use: ``with norms: logits = forward(x)``, then set ``norms.active``, run the backward pass of the summed loss and
    read ``norms.squares()``. Outside the ``with`` block no hook is left on the model.
    """

    layers: list[Measured]
    batch: int
    active: bool = False
    """Whether gradients that pass now are those of the loss."""
    _total: Tensor | None = None
    _calls: dict[str, list[_Call]] = field(default_factory=dict)
    _handles: list[Any] = field(default_factory=list)

    def __enter__(self) -> GradientNorms:
        for layer in self.layers:
            self._handles.append(
                layer.module.register_forward_hook(
                    lambda _m, args, out, layer=layer: self._forward(layer, args[0], out)
                )
            )
        return self

    def __exit__(self, *_: Any) -> None:
        while self._handles:
            self._handles.pop().remove()

    def _forward(self, layer: Measured, x: Tensor, out: Tensor) -> Tensor:
        if not out.requires_grad:  # nothing before it carries a gradient: start one here
            out = out + torch.zeros((), dtype=out.dtype, device=out.device, requires_grad=True)
        call = _Call(x.detach(), x._version)
        calls = self._calls.setdefault(layer.name, [])
        calls.append(call)
        out.register_hook(lambda delta: self._backward(layer, calls, call, delta))
        return out

    def _backward(self, layer: Measured, calls: list[_Call], call: _Call, delta: Tensor) -> None:
        if not self.active:
            return
        if call.x._version != call.version:
            raise RuntimeError(f"the input of layer {layer.name!r} was changed in place after the layer ran")
        call.delta = delta.detach()
        if all(other.delta is not None for other in calls):
            self._add(layer, calls)
            calls.clear()

    def _add(self, layer: Measured, calls: list[_Call]) -> None:
        parts = [
            (
                (call.x.float() if call.x.is_floating_point() else call.x).movedim(layer.input_dim, 0),
                call.delta.float().movedim(layer.output_dim, 0),
            )
            for call in calls
            if call.delta is not None
        ]
        if not parts:
            return
        rows = max(1, CHUNK // _size(layer.module, parts))
        total = torch.cat(
            [
                layer.rule.square(layer.module, [layer.rule.pair(layer.module, x[s], d[s]) for x, d in parts])
                for s in (slice(start, start + rows) for start in range(0, self.batch, rows))
            ]
        )
        self._total = total if self._total is None else self._total + total

    def squares(self) -> Tensor:
        """Squared norms, shape (b,); layers that only some of their calls sent a gradient to are added now."""
        for layer in self.layers:
            self._add(layer, self._calls.pop(layer.name, []))
        if self._total is None:
            raise RuntimeError("no gradient reached any layer")
        return self._total


def _size(module: Any, parts: list[Pair]) -> int:
    """Numbers per sample that the largest intermediate result of a layer holds."""
    x_size = max(x[0].numel() for x, _ in parts)
    d_size = max(d[0].numel() for _, d in parts)
    if isinstance(module, (nn.Conv1d, nn.Conv2d)):
        weight = module.weight
        positions = d_size // module.out_channels
        patches = positions * weight[0].numel() * module.groups
        return max(1, x_size, d_size, patches, min(module.groups * positions**2, weight.numel()))
    if isinstance(module, nn.Embedding):
        return max(1, d_size, x_size**2)
    positions = max(1, d_size // max(1, getattr(module, "out_features", d_size)))
    size = getattr(module, "in_features", 1) * getattr(module, "out_features", 1)
    return max(1, x_size, d_size, min(positions**2, size))
