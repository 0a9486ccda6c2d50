"""A private copy of a model without what is wrapped around it: parallel and compiled modules compute what is inside."""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from forgetcast.errors import ModelError, first_line

__all__ = ["plain_copy", "unwrapped_name"]

PREFIXES = ("_orig_mod", "module")
"""What wrappers call the module inside; names of weights that were saved through them have it."""


def plain_copy(model: nn.Module) -> nn.Module:
    """A deep copy in which wrappers are replaced by what they wrap; ``model`` itself stays exactly as it was.

    Wrappers are those of ``torch.compile``, ``nn.DataParallel`` and ``DistributedDataParallel``, at any depth. Tensors
    with a history, which old weight normalisation, ``nn.utils.prune`` or a model that keeps an activation leave behind,
    are copied without it.

    Raises:
        ModelError: not copyable, or a kind of module that cannot be taken apart.
    """
    if not isinstance(model, nn.Module):
        raise ModelError(f"expected a torch.nn.Module classifier; got {type(model).__name__}")
    modules = dict(model.named_modules())
    for name, module in modules.items():
        if reason := _opaque(module):
            raise ModelError(f"the model{f' (its {name})' if name else ''} is {reason}")
    memo: dict[int, Any] = {}
    for module in modules.values():
        for tensor in _tensors(vars(module)):
            if not tensor.is_leaf:
                memo[id(tensor)] = tensor.detach().clone()
    try:
        for module in reversed(modules.values()):  # what is inside comes later
            inside = module
            while (inner := _inside(inside)) is not None:
                inside = inner
            if inside is not module:
                memo[id(module)] = copy.deepcopy(inside, memo)
        copied: nn.Module = copy.deepcopy(model, memo)
    except Exception as error:
        raise ModelError(
            f"the model cannot be copied ({type(error).__name__}: {first_line(error)}); forgetcast works on a copy so "
            "that yours stays untouched: remove handles or locks kept as attributes"
        ) from error
    for module in copied.modules():
        compiled = vars(module).get("forward")
        plain = getattr(compiled, "_torchdynamo_orig_callable", None)
        if getattr(plain, "__func__", None) is type(module).forward:  # model.forward = torch.compile(model.forward)
            del module.forward
    return copied


def unwrapped_name(name: str) -> str:
    """A weight's name without what wrappers add to it.

    >>> unwrapped_name("_orig_mod.module.0.weight"), unwrapped_name("body._orig_mod.bias")
    ('0.weight', 'body.bias')
    """
    return ".".join(part for part in name.split(".") if part not in PREFIXES)


def _inside(module: nn.Module) -> nn.Module | None:
    """What a wrapper runs; None for other modules."""
    if isinstance(module, (nn.DataParallel, DistributedDataParallel)):
        return module.module
    compiler = sys.modules.get("torch._dynamo.eval_frame")  # there only when something was compiled
    return module._orig_mod if compiler is not None and isinstance(module, compiler.OptimizedModule) else None


def _opaque(module: nn.Module) -> str:
    """Why a module cannot be taken apart, and what to do; empty where it can."""
    if isinstance(module, torch.jit.ScriptModule):
        return (
            "a TorchScript module (torch.jit.script or torch.jit.trace), which takes neither hooks nor gradients of "
            "single samples: hand over the eager module that it was made from"
        )
    if (
        isinstance(module, torch.fx.GraphModule)
        and _has_parameters(module)
        and not any(
            node.op == "call_module" and _has_parameters(module.get_submodule(str(node.target)))
            for node in module.graph.nodes
        )
    ):
        return (
            "an exported program (torch.export), which has no layers left that factors could look at: hand over the "
            "eager module that it was made from"
        )
    if type(module).__name__ == "FullyShardedDataParallel":
        return (
            "sharded (FullyShardedDataParallel), so that no process has all weights: load a full state dict into the "
            "plain module and hand that over"
        )
    return ""


def _has_parameters(module: nn.Module) -> bool:
    """Whether a module has parameters."""
    return next(module.parameters(), None) is not None


def _tensors(value: Any) -> Iterator[Tensor]:
    """Tensors in what a module keeps, its own parameters and buffers included."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (dict, list, tuple)):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _tensors(part)
