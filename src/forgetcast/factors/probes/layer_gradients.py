"""Squared gradients of single samples in one layer, from the layer's input and its output's gradient.

A linear layer's gradient for one sample is Σ_t δ_t a_tᵀ over the positions t it was applied at: a is its input, δ the
gradient of the sample's loss at its output. For one position its square is the outer product δ² (a²)ᵀ, so the norm is
|a||δ| (Goodfellow 2015, arXiv 1510.01799). The sum over samples and a weighted sum over entries are one matrix product
each, and no sample's gradient is ever formed. For several positions the squared norm is Σ_ts (a_t·a_s)(δ_t·δ_s), or the
gradient is formed, whichever takes fewer products. Convolutions are linear layers over patches (Rochette et al. 2019,
arXiv 1912.06015); normalisation layers and embeddings follow the same pattern.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from forgetcast.target.layers import Layer

__all__ = ["Entries", "Measured", "Pair", "Squares", "measured_layers"]

Pair = tuple[Tensor, Tensor]


class Squares(Protocol):
    """The squared gradient g² in some parameters, for every one of b samples."""

    def norms(self) -> Tensor:
        """Σ_k g_k² of each sample, shape (b,)."""

    def total(self, times: Tensor) -> Tensor:
        """g² summed over the samples, each as often as ``times`` (b,) says, in a shape of its own."""

    def weighted(self, weight: Tensor) -> Tensor:
        """Σ_k w_k g_k² of each sample, shape (b,); ``weight`` is shaped like ``total``."""


@dataclass(frozen=True)
class Entries:
    """Gradients written out."""

    gradient: Tensor
    """Shape (b, ...)."""

    @cached_property
    def _squared(self) -> Tensor:
        return self.gradient.square()

    def norms(self) -> Tensor:
        return torch.linalg.vector_norm(_flat(self.gradient), dim=1).square()

    def total(self, times: Tensor) -> Tensor:
        return (times @ _flat(self._squared)).reshape(self.gradient.shape[1:])

    def weighted(self, weight: Tensor) -> Tensor:
        return _flat(self._squared) @ weight.flatten()


@dataclass(frozen=True)
class _OnePosition:
    """δ aᵀ within each of several groups of channels, and δ itself where there is a bias."""

    a: Tensor
    """Shape (b, groups, in)."""
    delta: Tensor
    """Shape (b, groups, out)."""
    bias: bool

    def norms(self) -> Tensor:
        size = _length(self.a).square()
        return ((size + 1 if self.bias else size) * _length(self.delta).square()).sum(1)

    def total(self, times: Tensor) -> Tensor:
        square = self.delta.square() * times[:, None, None]
        weight = torch.einsum("bgo,bgi->goi", square, self.a.square())
        return torch.cat([weight, square.sum(0)[..., None]], 2) if self.bias else weight

    def weighted(self, weight: Tensor) -> Tensor:
        square, inner = self.delta.square(), self.a.shape[2]
        result = (torch.einsum("bgo,goi->bgi", square, weight[..., :inner]) * self.a.square()).sum((1, 2))
        return result + torch.einsum("bgo,go->b", square, weight[..., inner]) if self.bias else result


@dataclass(frozen=True)
class _Products:
    """Σ_t δ_t a_tᵀ over positions t, within each of several groups of channels."""

    a: Tensor
    """Shape (b, groups, positions, in)."""
    delta: Tensor
    """Shape (b, groups, positions, out)."""

    @cached_property
    def _written_out(self) -> Entries:
        a, delta = self.a, self.delta
        return Entries(delta.mT @ a if a.stride(-1) == 1 else (a.mT @ delta).mT)

    def norms(self) -> Tensor:
        a, delta = self.a, self.delta
        inner, outer = a.shape[3], delta.shape[3]
        if a.shape[2] * (inner + outer) <= inner * outer and "_written_out" not in self.__dict__:
            return ((a @ a.mT) * (delta @ delta.mT)).sum((1, 2, 3))
        return self._written_out.norms()

    def total(self, times: Tensor) -> Tensor:
        return self._written_out.total(times)

    def weighted(self, weight: Tensor) -> Tensor:
        return self._written_out.weighted(weight)


@dataclass(frozen=True)
class _TokenRows:
    """Rows of an embedding: δ summed over the positions that hold the same token."""

    tokens: Tensor
    """Shape (b, positions)."""
    delta: Tensor
    """Shape (b, positions, width)."""
    vocabulary: int

    @cached_property
    def _same(self) -> Tensor:
        return (self.tokens[:, :, None] == self.tokens[:, None, :]).to(self.delta.dtype)

    @cached_property
    def _shares(self) -> Tensor:
        """g² of the row of each position's token, divided among the positions that hold it."""
        return (self._same @ self.delta).square() / self._same.sum(2, keepdim=True)

    def norms(self) -> Tensor:
        return self._shares.sum((1, 2))

    def total(self, times: Tensor) -> Tensor:
        rows = (self._shares * times[:, None, None]).flatten(0, 1)
        return rows.new_zeros(self.vocabulary, rows.shape[1]).index_add_(0, self.tokens.flatten(), rows)

    def weighted(self, weight: Tensor) -> Tensor:
        return (self._shares * weight[self.tokens]).sum((1, 2))


def _flat(x: Tensor) -> Tensor:
    """Rows of numbers, shape (b, p); parameters of shape () have one number."""
    return x.flatten(1) if x.ndim > 1 else x[:, None]


def _length(x: Tensor) -> Tensor:
    return torch.linalg.vector_norm(x, dim=-1)


def _together(pairs: list[Pair], dim: int) -> Pair:
    """All calls of a layer as one, its positions one after the other."""
    if len(pairs) == 1:
        return pairs[0]
    return torch.cat([first for first, _ in pairs], dim), torch.cat([second for _, second in pairs], dim)


# -- input and δ in the form that a kind of layer needs ---------------------------------------------------------------


def _linear(layer: Any, x: Tensor, delta: Tensor) -> Pair:
    """(b, 1, positions, in) and (b, 1, positions, out)."""
    rows = len(x)
    return x.reshape(rows, 1, -1, x.shape[-1]), delta.reshape(rows, 1, -1, delta.shape[-1])


def _conv(layer: Any, x: Tensor, delta: Tensor) -> Pair:
    """Patches (b, groups, positions, patch) and δ (b, groups, positions, out per group).

    The patches are copied out of a view in whichever order has the longer runs of neighbouring numbers: channels of
    the kernel's width, or positions along the output's width.
    """
    if any(layer._reversed_padding_repeated_twice):
        mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
        x = F.pad(x, layer._reversed_padding_repeated_twice, mode=mode)
    rows, channels = len(x), x.shape[1] // layer.groups
    kernel, places, (sample, channel, *space) = layer.kernel_size, delta.shape[2:], x.stride()
    windows = x.as_strided(
        (rows, layer.groups, channels, *kernel, *places),
        (
            sample,
            channel * channels,
            channel,
            *(size * step for size, step in zip(space, layer.dilation, strict=True)),
            *(size * step for size, step in zip(space, layer.stride, strict=True)),
        ),
    )
    if channel == 1 and channels * kernel[-1] > places[-1]:
        inner = range(3, 3 + len(kernel))
        outer = range(3 + len(kernel), windows.ndim)
        patches = windows.permute(0, 1, *outer, *inner, 2).reshape(rows, layer.groups, prod(places), -1)
    else:
        patches = windows.reshape(rows, layer.groups, -1, prod(places)).mT
    return patches, delta.flatten(2).unflatten(1, (layer.groups, -1)).mT


def _batch_norm(layer: Any, x: Tensor, delta: Tensor) -> Pair:
    """Normalised input and δ, both (b, channels, positions)."""
    shape = (1, -1) + (1,) * (x.ndim - 2)
    scale = torch.rsqrt(layer.running_var.float() + layer.eps).view(shape)
    normal = (x - layer.running_mean.float().view(shape)) * scale
    return normal.reshape(*x.shape[:2], -1), delta.reshape(*x.shape[:2], -1)


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


# -- squared gradients of weight and bias ----------------------------------------------------------------------------


def _product_squares(layer: Any, own: Collection[str], pairs: list[Pair]) -> list[Squares]:
    """Σ_t δ_t a_tᵀ for the weight and Σ_t δ_t for the bias."""
    a, delta = _together(pairs, 2)
    if "weight" in own and a.shape[2] == 1:
        return [_OnePosition(a[:, :, 0], delta[:, :, 0], "bias" in own)]
    weight: list[Squares] = [_Products(a, delta)] if "weight" in own else []
    return [*weight, Entries(delta.sum(2))] if "bias" in own else weight


def _affine_squares(layer: Any, own: Collection[str], pairs: list[Pair]) -> list[Squares]:
    """Σ_t δ_t x̂_t for the weight and Σ_t δ_t for the bias."""
    normal, delta = _together(pairs, 2)
    found = {"weight": lambda: (normal * delta).sum(2), "bias": lambda: delta.sum(2)}
    return [Entries(found[name]()) for name in own]


def _embedding_squares(layer: Any, own: Collection[str], pairs: list[Pair]) -> list[Squares]:
    return [_TokenRows(*_together(pairs, 1), layer.num_embeddings)]


@dataclass(frozen=True)
class _Rule:
    """How one kind of layer turns (input, output gradient) into squared gradients."""

    kinds: tuple[type[nn.Module], ...]
    pair: Callable[[Any, Tensor, Tensor], Pair]
    squares: Callable[[Any, Collection[str], list[Pair]], list[Squares]]


_RULES = (
    _Rule((nn.Linear,), _linear, _product_squares),
    _Rule((nn.Conv1d, nn.Conv2d, nn.Conv3d), _conv, _product_squares),
    _Rule((nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d), _batch_norm, _affine_squares),
    _Rule((nn.LayerNorm,), _layer_norm, _affine_squares),
    _Rule((nn.GroupNorm,), _group_norm, _affine_squares),
    _Rule((nn.Embedding,), _embedding, _embedding_squares),
)

_CHANNELS_SECOND = (nn.modules.conv._ConvNd, nn.GroupNorm, nn.modules.batchnorm._BatchNorm)


@dataclass(frozen=True)
class Measured:
    """A layer whose gradients can be measured."""

    name: str
    module: nn.Module
    rule: _Rule
    input_dim: int
    output_dim: int
    own: tuple[str, ...]
    """Which of weight and bias are trainable."""

    @property
    def names(self) -> list[str]:
        """Names of its trainable parameters in the model."""
        return [f"{self.name}.{name}" if self.name else name for name in self.own]

    def squares(self, calls: list[Pair]) -> list[Squares]:
        """Squared gradients in weight and bias, from (input, δ) of all calls, with the samples first."""
        return self.rule.squares(self.module, self.own, [self.rule.pair(self.module, x, delta) for x, delta in calls])

    def numbers(self, calls: list[Pair], written_out: bool) -> int:
        """Numbers per sample that the largest intermediate result holds; ``written_out``: also the gradient itself."""
        module: Any = self.module
        x_size = max(x[0].numel() for x, _ in calls)
        d_size = max(delta[0].numel() for _, delta in calls)
        if isinstance(module, nn.modules.conv._ConvNd):
            positions = d_size // module.out_channels
            patches = positions * module.weight[0].numel() * module.groups
            return max(1, x_size, d_size, patches, self._gradient(module.groups, positions, written_out))
        if isinstance(module, nn.Embedding):
            return max(1, d_size, x_size**2)
        if isinstance(module, nn.Linear):
            return max(1, x_size, d_size, self._gradient(1, d_size // module.out_features, written_out))
        return max(1, x_size, d_size)

    def _gradient(self, groups: int, positions: int, written_out: bool) -> int:
        """Numbers that the squared gradient of one sample takes."""
        if positions == 1:
            return 0
        size: int = self.module.weight.numel()  # type: ignore[union-attr, operator]
        return size if written_out else min(groups * positions**2, size)


def _altered(module: nn.Module) -> bool:
    """Whether something computes the weight anew or the output further: hooks, or parameters under other names."""
    hooks = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
    return (
        any(getattr(module, hook) for hook in hooks)
        or "forward" in vars(module)
        or hasattr(module, "parametrizations")
        or not {"weight"} <= module._parameters.keys() <= {"weight", "bias"}
    )


def _measured(layer: Layer, trainable: Collection[str]) -> Measured | None:
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
    if rule is None or _altered(module):
        return None
    if layer.input_dim is None or layer.output_dim is None:
        return None
    if isinstance(module, _CHANNELS_SECOND) and layer.input_dim != 0:
        return None
    if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is None:
        return None  # normalises with the batch at hand: samples do not have gradients of their own
    if isinstance(module, nn.Embedding) and module.scale_grad_by_freq:
        return None
    prefix = f"{layer.name}." if layer.name else ""
    own = tuple(name for name in ("weight", "bias") if prefix + name in trainable)
    return Measured(layer.name, module, rule, layer.input_dim, layer.output_dim, own) if own else None


def measured_layers(
    model: nn.Module, layers: tuple[Layer, ...], trainable: Collection[str]
) -> tuple[list[Measured], list[str]]:
    """The layers that can be measured, and the names of all ``trainable`` parameters that cannot.

    Left out are parameters of layers without a rule, with hooks or parametrizations, and of layers that never ran or do
    not see one row per sample; also parameters that two layers share.
    """
    owners = Counter(id(p) for module in model.modules() for p in module.parameters(recurse=False))
    found = [
        measured
        for layer in layers
        if (measured := _measured(layer, trainable)) is not None
        and all(owners[id(p)] == 1 for p in layer.module.parameters(recurse=False))
    ]
    covered = {name for layer in found for name in layer.names}
    return found, [name for name in trainable if name not in covered]
