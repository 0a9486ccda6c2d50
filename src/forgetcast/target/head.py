"""The last linear layer of a model, found by watching one forward pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["Head", "LinearCalls", "find_head", "layer_input", "linear_calls"]

LinearCalls = dict[str, tuple[nn.Linear, Any]]
"""The linear layers that a model called, by name, with a copy of their last input; the last one called comes last."""


@dataclass(frozen=True)
class Head:
    """The last linear layer: logits = features @ weight.T + bias."""

    name: str
    """Name of the module inside the model."""
    weight: Tensor
    """Shape (classes, d)."""
    bias: Tensor | None
    """Shape (classes,), or None."""

    @classmethod
    def of(cls, model: nn.Module, name: str) -> Head:
        """The layer called ``name`` as the head of ``model``."""
        layer: Any = model.get_submodule(name)
        return cls(name, layer.weight.detach(), None if layer.bias is None else layer.bias.detach())

    def exact(self) -> Head:
        """The same in float64 on the CPU."""
        return Head(self.name, self.weight.cpu().double(), None if self.bias is None else self.bias.cpu().double())


@contextmanager
def linear_calls(model: nn.Module) -> Iterator[LinearCalls]:
    """A block that keeps what the linear layers of ``model`` are called with."""
    seen: LinearCalls = {}

    def watch(module: nn.Linear, args: tuple[Any, ...], kwargs: dict[str, Any], _out: Any, *, name: str) -> None:
        x = layer_input(args, kwargs)
        seen.pop(name, None)  # the last call counts, and the last layer called comes last
        seen[name] = (module, x.detach().clone() if isinstance(x, Tensor) else None)

    handles = [
        module.register_forward_hook(partial(watch, name=name), with_kwargs=True)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def find_head(model: nn.Module, seen: LinearCalls, output: Tensor) -> tuple[Head | None, str]:
    """The layer that makes the model's ``output`` (b, classes); where there is none, None and the reason."""
    matches = [name for name, (module, x) in seen.items() if _makes(module, x, output)]
    if matches:
        return Head.of(model, matches[-1]), ""
    if seen:
        return None, (
            f"no linear layer's output is the model's output (the last one called is {list(seen)[-1]!r}); "
            "factors of the last layer do not apply"
        )
    return None, "the model calls no torch.nn.Linear layer; factors of the last layer do not apply"


def layer_input(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What a layer was called with."""
    return args[0] if args else kwargs.get("input")


@torch.no_grad()
def _makes(layer: nn.Linear, x: Tensor | None, output: Tensor) -> bool:
    """Whether x @ weight.T + bias is the model's output, or has it as log-softmax.

    It is computed again, for a subclass may compute something else and a model may go on to overwrite the result.
    """
    if x is None or x.ndim != 2 or x.is_complex():
        return False
    try:
        made = F.linear(x.to(layer.weight.dtype), layer.weight, layer.bias).double()
    except (AttributeError, RuntimeError, TypeError):  # a subclass with weights of its own kind
        return False
    if made.shape != output.shape:
        return False
    tolerance = max(1e-5, 4 * torch.finfo(output.dtype).eps)
    scale = tolerance * float(made.abs().max())
    return any(
        torch.allclose(version, output.double(), rtol=tolerance, atol=scale) for version in (made, made.log_softmax(1))
    )
