"""What a forward pass over all data shows: logits, features, hidden layers and inputs, wide ones sketched."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor, nn

from forgetcast.factors.probes.gradient_pass import real_tensor
from forgetcast.target.checks import check_finite
from forgetcast.target.data import Data
from forgetcast.target.head import Head
from forgetcast.target.inputs import Inputs
from forgetcast.target.layers import Layer, Layout, first_tensor
from forgetcast.target.logits import single
from forgetcast.target.model import as_logits
from forgetcast.target.preallocated import PreallocatedRows
from forgetcast.target.target import Target

__all__ = ["Forward", "HeldOut", "Recorder", "hidden_layers", "narrow", "standardised", "widest"]

WIDTHS = (512, 4096)
"""Widest representation kept as it is, of many and of few samples; wider ones are projected to as many columns."""

NUMBERS = 1 << 22
"""Numbers in a representation up to which it may be wider than the first of these."""

BLOCK = 4096
"""Rows that are converted at a time."""


@dataclass(frozen=True)
class Forward:
    """What a pass over n samples showed."""

    logits: Tensor
    """Shape (n, C), float32 or float64."""
    features: Tensor | None
    """Inputs of the last linear layer, shape (n, d)."""
    early: Tensor | None
    """None also where the early layer is the middle one."""
    middle: Tensor | None
    inputs: Tensor | None


@dataclass(frozen=True)
class HeldOut:
    """What the model says of the held-out data (m samples)."""

    logits: Tensor
    """Shape (m, C), float32."""
    labels: Tensor
    """Shape (m,)."""
    features: Tensor | None
    """Shape (m, d), float32; None for a model without a last linear layer."""


class Recorder:
    """Keeps what a pass over the data shows: logits, features, early and middle layer and inputs, in one array each.

    It listens to the first forward pass after every batch that it hands on, whoever runs the model and how.
    """

    def __init__(
        self, target: Target, data: Data, layers: dict[str, Layer], *, inputs: bool, seed: int, width: int
    ) -> None:
        self._target, self._data, self._layers, self._inputs, self._seed = target, data, layers, inputs, seed
        self._width = width
        self._listening = False
        self._seen: dict[str, Tensor] = {}
        self._kept: dict[str, PreallocatedRows] = defaultdict(partial(PreallocatedRows, len(data)))
        self._handles: list[Any] = []

    def __enter__(self) -> Recorder:
        if self._target.head is not None:
            self._handles.append(self._target.watch_head(partial(self._see, "features")))
        for name, layer in self._layers.items():
            self._handles.append(layer.module.register_forward_hook(partial(self._see_layer, name, layer)))
        self._handles.append(self._target.module.register_forward_hook(self._see_logits))
        return self

    def __exit__(self, *_: Any) -> None:
        while self._handles:
            self._handles.pop().remove()

    def watched(self, batches: Iterator[tuple[Tensor, Inputs, Tensor]]) -> Iterator[tuple[Tensor, Inputs, Tensor]]:
        """The same batches, each recorded by the time the next one is asked for."""
        for batch in batches:
            self._listening = True
            yield batch
            self._listening = False
            if self._inputs and (real := real_tensor(batch[1])) is not None:
                self._seen["inputs"] = narrow(real, self._seed + 1, self._width)
            for name, values in self._seen.items():
                if len(values) == len(batch[2]):  # else no row is a sample's, and the whole is not complete
                    self._kept[name].add((single(values) if name == "logits" else values.float()).cpu())
            self._seen.clear()

    @property
    def complete(self) -> bool:
        """Whether all data went by."""
        return "logits" in self._whole()

    def result(self) -> Forward:
        """What was recorded.

        Raises:
            ModelError: logits that are not finite.
        """
        whole = self._whole()
        check_finite(whole["logits"], self._data)
        for name in self._layers.keys() & whole.keys():
            standardised(whole[name], out=whole[name])
        names = ("features", "early", "middle", "inputs")
        return Forward(whole["logits"], *(whole.get(name) for name in names))

    def _see(self, name: str, values: Tensor) -> None:
        if self._listening:
            self._seen[name] = values.detach()

    def _see_layer(self, name: str, layer: Layer, _module: nn.Module, _args: Any, out: Any) -> None:
        tensor = first_tensor(out)
        if tensor is not None and name not in self._seen:
            self._see(name, narrow(tensor.movedim(layer.output_dim or 0, 0), self._seed, self._width))

    def _see_logits(self, _module: nn.Module, _args: Any, out: Any) -> None:
        self._see("logits", as_logits(out))
        self._listening = False

    def _whole(self) -> dict[str, Tensor]:
        return {name: rows.array for name, rows in self._kept.items() if rows.count == len(self._data)}


def hidden_layers(found: Layout, head: Head | None) -> dict[str, Layer]:
    """Of the layers with parameters ``early``, nearest to a quarter of the depth, and ``middle``, nearest to half;
    the earlier of two equally near. Only ``middle`` where both are the same.
    """
    depth = len(found.layers)
    usable = [
        (place, layer)
        for place, layer in enumerate(found.layers, start=1)
        if layer.output_dim is not None and (head is None or layer.name != head.name)
    ]
    if not usable:
        return {}
    early, middle = (min(usable, key=lambda pair: abs(pair[0] - share * depth))[1] for share in (0.25, 0.5))
    return {"middle": middle} if early is middle else {"early": early, "middle": middle}


def narrow(x: Tensor, seed: int, most: int = WIDTHS[0]) -> Tensor:
    """Rows flattened, and wider ones sketched to ``most`` columns, float32 on the CPU, shape (b, <= most); a copy.

    The sketch flips the sign of every entry at random and sums the entries that lie ``most`` apart, images channels
    last (after Charikar, Chen & Farach-Colton 2002). It keeps inner products in expectation and needs no large matrix.
    """
    x = x.detach().float()
    width = x[0].numel()
    if width <= most:
        return x.reshape(len(x), width).to("cpu", copy=True)
    if x.ndim == 4:
        x = x.permute(0, 2, 3, 1)  # as images lie in memory: nothing is copied
    signed = x.reshape(len(x), width) * _signs(width, seed).to(x.device)
    whole = width // most * most
    total = signed[:, :whole].unflatten(1, (-1, most)).sum(1)
    total[:, : width - whole] += signed[:, whole:]
    return total.cpu()


@lru_cache(maxsize=8)
def _signs(width: int, seed: int) -> Tensor:
    """Random signs, shape (width,)."""
    drawn = torch.randint(0, 2, (width,), generator=torch.Generator().manual_seed(seed), device="cpu")
    return 2 * drawn.float() - 1  # a hook may ask, under the settings that the model runs under


def standardised(x: Tensor, out: Tensor | None = None) -> Tensor:
    """Columns with mean 0 and standard deviation 1; constant columns become 0. Float32, in ``out`` if given."""
    out = torch.empty_like(x) if out is None else out
    blocks = x.split(BLOCK)
    mean = torch.stack([block.sum(0, dtype=torch.float64) for block in blocks]).sum(0) / len(x)
    square = torch.stack([(block.double() - mean).square_().sum(0) for block in blocks]).sum(0)
    spread = (square / len(x)).sqrt()
    largest = torch.stack([block.abs().amax(0) for block in blocks]).amax(0).double()
    kept = spread > 1e-6 * largest.clamp(min=1e-12)
    scale = torch.where(kept, 1 / spread.clamp(min=1e-30), 0.0)
    for block, target in zip(blocks, out.split(BLOCK), strict=True):
        target.copy_((block.double() - mean).mul_(scale))
    return out


def widest(n: int) -> int:
    """Columns of the widest representation of n samples that is kept as it is."""
    return int(min(max(WIDTHS[0], NUMBERS // n), WIDTHS[1]))
