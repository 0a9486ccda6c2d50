"""A private copy of a model: frozen, without wrappers, its weights checked, renamed or widened."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from forgetcast.errors import ModelError
from forgetcast.target.plain_copy import plain_copy, unwrapped_name

__all__ = [
    "attributes_kept",
    "check_weights",
    "copy_and_trainable",
    "frozen_copy",
    "has_ties",
    "in_single",
    "is_half",
    "renamed",
    "state_hash",
]


def frozen_copy(model: nn.Module) -> nn.Module:
    """A deep copy in evaluation mode, without gradients and wrappers; ``model`` itself stays exactly as it was.

    Raises:
        ModelError: not a module, not copyable, or with weights that are not finite.
    """
    return copy_and_trainable(model)[0]


def copy_and_trainable(model: nn.Module) -> tuple[nn.Module, frozenset[str]]:
    """What :func:`frozen_copy` returns, and which of its parameters are trainable."""
    copied = plain_copy(model)
    trainable = _trainable(copied)
    copied.eval()
    for module in copied.modules():  # a model's own ``train`` may have left some parts in training mode
        module.training = False
    if next(copied.parameters(), None) is None:
        raise ModelError("the model has no parameters: there is nothing to unlearn")
    for name, parameter in copied.named_parameters():
        if is_lazy(parameter):
            raise ModelError(f"the model's {name} is not initialised yet: pass one batch through the model first")
        parameter.requires_grad_(False)
        parameter.grad = None
    check_weights(copied, "the model")
    return copied, trainable


def check_weights(model: nn.Module, what: str) -> None:
    """Refuse weights that are not numbers.

    Raises:
        ModelError: NaN, or infinity outside the buffers; the tensor is named.
    """
    for name, parameter in model.named_parameters():
        if not bool(torch.isfinite(parameter).all()):
            raise ModelError(f"{what}'s weights are not finite: {name} holds NaN or infinity")
    for name, buffer in model.named_buffers():
        if bool(torch.isnan(buffer).any()):  # infinity is for masks
            raise ModelError(f"{what}'s buffers are not finite: {name} holds NaN")


def _trainable(model: nn.Module) -> frozenset[str]:
    """Names of the parameters that training moves; all of them (that are real numbers) where none is marked."""
    named = dict(model.named_parameters())
    marked = frozenset(name for name, parameter in named.items() if parameter.requires_grad)
    return marked or frozenset(name for name, value in named.items() if value.is_floating_point()) or frozenset(named)


def renamed(state: Mapping[str, Tensor], model: nn.Module) -> Mapping[str, Tensor]:
    """Weights that were saved through a wrapper, under the names that ``model`` has for them."""
    own = model.state_dict().keys()
    if own <= state.keys():
        return state
    inside = {unwrapped_name(name): name for name in own}
    return {name if name in own else inside.get(unwrapped_name(name), name): value for name, value in state.items()}


def has_ties(module: nn.Module) -> bool:
    """Whether a parameter or buffer has several names; looking for them at every call takes a third of its overhead."""
    named = (*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False))
    return len({id(value) for _, value in named}) < len(named)


@contextmanager
def attributes_kept(module: nn.Module) -> Iterator[None]:
    """A block after which tensors that hooks compute anew (pruning, older weight norm) are those of before: what they
    compute under other parameters belongs to a graph and cannot be copied.
    """
    tensors = [
        (vars(part), name, v) for part in module.modules() for name, v in vars(part).items() if torch.is_tensor(v)
    ]
    try:
        yield
    finally:
        for attributes, name, value in tensors:
            attributes[name] = value


def is_half(value: Tensor) -> bool:
    """Whether a tensor holds real numbers of less than 32 bits."""
    return value.is_floating_point() and value.dtype.itemsize < 4


def in_single(module: nn.Module) -> nn.Module:
    """The module with its half-precision weights and buffers as float32; it is changed."""
    return module._apply(lambda value: value.float() if is_half(value) else value)


def state_hash(module: nn.Module) -> str:
    """SHA-256 over names, shapes and bytes of the module's state, hexadecimal."""
    sha = hashlib.sha256()
    state = {**dict(module.named_buffers()), **module.state_dict()}  # some buffers are in no state dict
    for name, value in sorted(state.items()):
        if isinstance(value, Tensor):
            sha.update(f"{name}{tuple(value.shape)}{value.dtype}".encode())
            sha.update(
                value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
                if value.ndim
                else str(value.item()).encode()
            )
    return sha.hexdigest()
