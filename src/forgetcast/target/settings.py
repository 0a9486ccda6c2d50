"""Torch's global settings: forgetcast's own while it works, the caller's while a model runs, afterwards as before.

Defaults of type and device, autocast, the modes of autograd, cuDNN's flags and the stance of the compiler are common to
a process or a thread. Whoever asks for a forecast may have changed any of them.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.utils import checkpoint

from forgetcast.target.precision import exact_convolutions

__all__ = ["TORCH_LOCK", "Settings", "own_settings"]

TORCH_LOCK = threading.RLock()
"""Held while forgetcast runs a model: all threads share torch's settings and generators."""


@dataclass(frozen=True)
class Settings:
    """Settings that what a model answers may depend on.

    >>> Settings.now() == OWN
    True
    """

    dtype: torch.dtype
    """Default type of real numbers."""
    device: torch.device
    """Default device."""
    autocast: tuple[tuple[str, torch.dtype], ...] = ()
    """Kinds of devices for which autocast is on, with the type that it casts to."""

    @classmethod
    def now(cls) -> Settings:
        """Those in force."""
        autocast = tuple(
            (kind, torch.get_autocast_dtype(kind)) for kind in ("cpu", "cuda") if torch.is_autocast_enabled(kind)
        )
        return cls(torch.get_default_dtype(), torch.get_default_device(), autocast)

    @classmethod
    def of_caller(cls) -> Settings:
        """Those that were in force where forgetcast was called."""
        return _caller.get() or cls.now()

    @property
    def reading(self) -> Settings:
        """Those to read data under: it is kept on the CPU, and no model runs."""
        return replace(self, device=OWN.device, autocast=())

    @contextmanager
    def applied(self) -> Iterator[None]:
        """A block under these settings, whichever are in force."""
        now = Settings.now()
        if now == self:
            yield
            return
        with ExitStack() as stack:
            if now.dtype != self.dtype:
                stack.callback(torch.set_default_dtype, now.dtype)
                torch.set_default_dtype(self.dtype)
            if now.device != self.device:
                stack.enter_context(self.device)
            for kind, _ in set(now.autocast) - set(self.autocast):
                stack.enter_context(torch.autocast(kind, enabled=False))
            for kind, dtype in set(self.autocast) - set(now.autocast):
                stack.enter_context(torch.autocast(kind, dtype=dtype, cache_enabled=False))
            yield

    @contextmanager
    def handed_back(self) -> Iterator[None]:
        """A block of the caller's own code, such as training: these settings, and nothing that forgetcast changes."""
        before, _working.on = getattr(_working, "on", False), False
        token = _caller.set(None)
        try:
            with ExitStack() as stack:
                if "torch._dynamo" in sys.modules:
                    stack.enter_context(torch.compiler.set_stance("default"))
                stack.enter_context(self.applied())
                yield
        finally:
            _caller.reset(token)
            _working.on = before


OWN = Settings(torch.float32, torch.device("cpu"))
"""What forgetcast computes under."""

_caller: ContextVar[Settings | None] = ContextVar("caller", default=None)
_working = threading.local()
"""``on`` in the thread that holds the lock."""
_depth = 0
"""Blocks that the thread with the lock has entered."""


@contextmanager
def own_settings() -> Iterator[None]:
    """A block, or a function that is decorated with it, that has torch to itself.

    Other threads wait for their turn. Inside, new tensors are float32 and on the CPU, autocast and inference mode are
    off, and autograd is on at first. Convolutions are exact (:func:`exact_convolutions`), functions compiled by
    ``torch.compile`` run as they were written, and checkpointed blocks run once: recomputing them in the backward pass
    saves memory and changes no number, but hooks would meet them twice. A model still runs under the caller's settings,
    see :meth:`Settings.applied`. Afterwards everything is as it was.
    """
    with TORCH_LOCK, ExitStack() as stack:
        if _caller.get() is None:
            stack.callback(_caller.reset, _caller.set(Settings.now()))
        if not getattr(_working, "on", False):  # else forgetcast itself has turned autograd off, to save its cost
            if torch.is_inference_mode_enabled():
                stack.enter_context(torch.inference_mode(False))
            if not torch.is_grad_enabled():
                stack.enter_context(torch.enable_grad())
        stack.enter_context(_checkpoints_run_once())
        if "torch._dynamo" in sys.modules:  # else nothing is compiled
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        stack.enter_context(OWN.applied())
        stack.enter_context(exact_convolutions())
        yield


@contextmanager
def _checkpoints_run_once() -> Iterator[None]:
    """Checkpointed blocks of this thread run once; the thread holds ``TORCH_LOCK``."""
    global _depth
    before, _working.on = getattr(_working, "on", False), True
    if _depth == 0:
        checkpoint._checkpoint_without_reentrant_generator = _not_again  # type: ignore[assignment]
        checkpoint.CheckpointFunction = _Once  # type: ignore[misc, assignment]
    _depth += 1
    try:
        yield
    finally:
        _depth -= 1
        if _depth == 0:
            checkpoint._checkpoint_without_reentrant_generator = _recomputed
            checkpoint.CheckpointFunction = _Reentrant  # type: ignore[misc]
        _working.on = before


_recomputed: Callable[..., Any] = checkpoint._checkpoint_without_reentrant_generator
_Reentrant: Any = checkpoint.CheckpointFunction


def _not_again(*arguments: Any, **named: Any) -> Iterator[None]:
    """What surrounds a checkpointed block: nothing, but in other threads what torch has there."""
    return _nothing() if getattr(_working, "on", False) else _recomputed(*arguments, **named)


def _nothing() -> Iterator[None]:
    yield


class _Once:
    """Stands for ``torch.utils.checkpoint.CheckpointFunction``."""

    @staticmethod
    def apply(function: Callable[..., Any], preserve: bool, *arguments: Any) -> Any:
        """The block itself, but in other threads what torch makes of it."""
        if getattr(_working, "on", False):
            return function(*arguments)
        return _Reentrant.apply(function, preserve, *arguments)
