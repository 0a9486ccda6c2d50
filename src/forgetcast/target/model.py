"""A private copy of a user's model: the only code that calls it, and never changes it."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.hooks import RemovableHandle

from forgetcast.errors import ForgetcastError, ModelError, first_line, shortened
from forgetcast.target.data import Data
from forgetcast.target.frozen_copy import attributes_kept, copy_and_trainable, has_ties, state_hash
from forgetcast.target.head import Head, layer_input
from forgetcast.target.input_types import Types, cast, types_of
from forgetcast.target.inputs import Inputs, channels_last, map_leaves
from forgetcast.target.seeding import fork_torch_rng
from forgetcast.target.settings import OWN, Settings, own_settings

__all__ = ["FrozenModel", "as_logits"]


class FrozenModel:
    """A frozen copy of a model in evaluation mode, called under the settings that the model was handed over in.

    Args:
        model: maps a batch of inputs to logits of shape (n, classes).
        batch_size: samples per forward pass.

    Raises:
        ModelError: not copyable, without parameters, or with weights that are not finite.
    """

    head: Head | None
    """The last linear layer, or None."""
    params: dict[str, Tensor]
    """The trainable parameters by name: what unlearning may move. Frozen ones (``requires_grad=False``) are part of the
    module alone; a model in which all are frozen was frozen for inference, and all count as trainable."""
    buffers: dict[str, Tensor]
    """The buffers by name."""
    frozen: int
    """How many numbers the user's model has in parameters with ``requires_grad=False``."""

    def __init__(self, model: nn.Module, batch_size: int) -> None:
        self.batch_size = batch_size
        self._settings = Settings.of_caller()
        self.module, self._trainable = copy_and_trainable(model)
        self.frozen = sum(p.numel() for p in model.parameters() if not p.requires_grad)
        self._name_weights(None)
        self.device = next(self.module.parameters()).device
        self.dtype = next((p.dtype for p in self.module.parameters() if p.is_floating_point()), torch.float32)
        self._channels_last = False
        self._ties = has_ties(self.module)
        self._hooked = any(part._forward_pre_hooks for part in self.module.modules())
        self._casts: dict[Types, Types] = {}

    def to_device(self, x: Inputs) -> Inputs:
        """Inputs ``x`` on the model's device, in the types that it takes, images in the faster layout."""
        x = map_leaves(lambda leaf: leaf.to(self.device), x)
        if (taken := self._casts.get(types_of(x))) is not None:
            x = cast(x, taken)
        return channels_last(x) if self._channels_last else x

    def call(self, params: dict[str, Tensor], x: Inputs) -> Tensor:
        """Logits (b, classes) of ``x`` (already on the device) under other parameters; differentiable.

        Buffers among ``params`` replace the target's own.
        """
        args, kwargs = _arguments(x)
        replaced = {**self.buffers, **params}
        with attributes_kept(self.module) if self._hooked else nullcontext(), self._in_its_settings():
            return as_logits(functional_call(self.module, replaced, args, kwargs, tie_weights=self._ties))

    def forward(self, x: Inputs) -> Tensor:
        """Logits (b, classes) of ``x`` (already on the device) under the target's own parameters."""
        return self.answer(self.module, x)

    def answer(self, module: nn.Module, x: Inputs) -> Tensor:
        """Logits of ``x`` (already on the device) by a module, under the settings that the model was handed over in."""
        args, kwargs = _arguments(x)
        with self._in_its_settings():
            return as_logits(module(*args, **kwargs))

    def watch_head(self, keep: Callable[[Tensor], None]) -> RemovableHandle:
        """Call ``keep(features)`` whenever the last linear layer runs, until the handle is removed.

        The features (b, d) are a copy. Where the layer runs several times in a pass, the last call is the one that
        makes the logits.
        """
        assert self.head is not None, "only a target with a head can be watched"

        def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], _output: Any) -> None:
            keep(layer_input(args, kwargs).detach().clone())

        return self.module.get_submodule(self.head.name).register_forward_hook(hook, with_kwargs=True)

    @contextmanager
    def running(self, data: Data, index: Tensor) -> Iterator[None]:
        """A block that runs the model on the samples ``index`` of ``data``; what the model raises there names them.

        Raises:
            ModelError: wraps any error that forgetcast did not raise.
        """
        try:
            yield
        except ForgetcastError:
            raise
        except Exception as error:
            raise _failed_on(data, index, error, self.batch_size) from error

    def raised(self, error: BaseException) -> bool:
        """Whether an error came out of the model itself, however deep in a computation it was called."""
        own = {id(module) for module in self.module.modules()}
        frames = (frame for frame, _ in traceback.walk_tb(error.__traceback__))
        return any(id(frame.f_locals.get("self")) in own for frame in frames)

    @property
    def runs_plainly(self) -> bool:
        """Whether the model runs under torch's usual defaults, so that its layers may be called on their own."""
        return self._settings == OWN

    @cached_property
    def model_hash(self) -> str:
        """SHA-256 over names, shapes and bytes of the model's state, hexadecimal."""
        return state_hash(self.module)

    @contextmanager
    def _isolated(self) -> Iterator[None]:
        """A block in which the model may draw random numbers without a trace, and answers the same every time."""
        with own_settings(), fork_torch_rng(self.device):
            yield

    def _in_its_settings(self) -> AbstractContextManager[None]:
        """A block under the settings that the model was handed over in."""
        return nullcontext() if self._settings == OWN else self._settings.applied()

    def _name_weights(self, head: str | None) -> None:
        """Take parameters, buffers and the layer called ``head`` from the module; they share its memory."""
        self.params = {k: v.detach() for k, v in self.module.named_parameters() if k in self._trainable}
        self.buffers = {k: v.detach() for k, v in self.module.named_buffers()}
        self.head = None if head is None else Head.of(self.module, head)


def _arguments(x: Inputs) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and keyword arguments of the call ``model(x)``: a dict is passed as keywords, a tuple by position."""
    if isinstance(x, dict):
        return (), x
    return (x if isinstance(x, tuple) else (x,)), {}


def as_logits(output: Any) -> Tensor:
    """The logits in what a model returns, which may have them as an attribute of that name."""
    output = getattr(output, "logits", output)
    if not isinstance(output, Tensor):
        raise ModelError(
            f"the model must return a tensor of logits (n, classes); it returned {type(output).__name__}: wrap it in a "
            "module that returns the logits alone"
        )
    return output


def _failed_on(data: Data, index: Tensor, error: Exception, batch_size: int) -> ModelError:
    """The error that names the samples ``index`` of ``data``, on which the model raised ``error``."""
    memory = isinstance(error, MemoryError | torch.cuda.OutOfMemoryError) or "can't allocate memory" in str(error)
    remedy = (
        f"give Target(..., batch_size=...) less than {batch_size}"
        if memory
        else "look at these samples; the model must take every batch of the data"
    )
    return ModelError(
        f"the model raised {type(error).__name__} for samples {_span(data.numbers(index))} of the "
        f"{data.role}: {first_line(error)}: {remedy}"
    )


def _span(numbers: Tensor) -> str:
    """Sample numbers in words, the first few where they do not follow each other."""
    if len(numbers) == int(numbers[-1] - numbers[0]) + 1:
        return f"{int(numbers[0])} to {int(numbers[-1])}"
    return shortened([str(number) for number in sorted(numbers.tolist())])
