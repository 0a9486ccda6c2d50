"""Target: a trained classifier and its data. The only code that calls a user's model; it never changes it."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from forgetcast.data import Data, Inputs, channels_last, leaves, map_leaves
from forgetcast.errors import DatasetError, ModelError, NotApplicableError

__all__ = ["Head", "Target", "TrainFunction", "frozen_copy"]

TrainFunction = Callable[[np.ndarray, int], nn.Module]
"""``train(indices, seed)``: trains a fresh model on those samples (int64, shape (m,)) and returns it."""


@dataclass(frozen=True)
class Head:
    """The last linear layer: logits = features @ weight.T + bias."""

    name: str
    """Name of the module inside the model."""
    weight: Tensor
    """Shape (classes, d)."""
    bias: Tensor | None
    """Shape (classes,), or None."""


def frozen_copy(model: nn.Module) -> nn.Module:
    """A deep copy in evaluation mode, without gradients; ``model`` itself stays exactly as it was.

    Raises:
        ModelError: not a module, not copyable, or with weights that are not finite.
    """
    if not isinstance(model, nn.Module):
        raise ModelError(f"expected a torch.nn.Module classifier; got {type(model).__name__}")
    try:
        copied = copy.deepcopy(model)
    except Exception as error:
        raise ModelError(
            f"the model cannot be copied ({type(error).__name__}: {error}); forgetcast works on a copy so that yours "
            "stays untouched: remove non-leaf tensors, handles or locks kept as attributes"
        ) from error
    copied.eval().requires_grad_(False)
    for parameter in copied.parameters():
        parameter.grad = None
    if next(copied.parameters(), None) is None:
        raise ModelError("the model has no parameters: there is nothing to unlearn")
    for name, value in copied.state_dict().items():
        if isinstance(value, Tensor) and value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise ModelError(f"the model's weights are not finite: {name} holds NaN or infinity")
    return copied


class Target:
    """A trained classifier with the data it was trained on, ready to be probed or unlearned.

    Everything runs on a private copy in evaluation mode (batch-norm statistics and dropout frozen). The last linear
    layer is found by watching one forward pass; where there is none, ``head`` is None and ``head_missing`` says why.

    Args:
        model: maps a batch of inputs to logits of shape (n, classes). Dict inputs are passed as keywords, tuples as
            positional arguments; an output with a ``logits`` attribute is unwrapped.
        dataset: the training data: map-style dataset of (x, y), pair (x, y), or a DataLoader over such a dataset.
        heldout: data of the same kind that the model was not trained on; optional for predicting.
        train: ``train(indices, seed)`` returns a model trained from scratch on those samples; needed to retrain.
        name: what tables and messages call the target.
        collate_fn: for datasets whose items need one.
        batch_size: samples per forward pass.
        info: descriptors kept with results (for instance ``{"dataset": "digits", "architecture": "mlp"}``).

    Raises:
        ModelError: the model is not a classifier with finite weights and finite logits of shape (n, classes).
        DatasetError: the data is empty, malformed, not finite or of another shape than the model takes.

    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    >>> target = Target(model, (torch.randn(10, 4), torch.arange(10) % 3))
    >>> len(target), target.num_classes, target.head.name
    (10, 3, '2')
    """

    def __init__(
        self,
        model: nn.Module,
        dataset: Any,
        *,
        heldout: Any = None,
        train: TrainFunction | None = None,
        name: str = "target",
        collate_fn: Callable[[list[Any]], Any] | None = None,
        batch_size: int = 256,
        info: dict[str, Any] | None = None,
    ) -> None:
        self.name = name
        self.info = dict(info or {})
        self.batch_size = batch_size
        self.module = frozen_copy(model)
        self.params: dict[str, Tensor] = {k: v.detach() for k, v in self.module.named_parameters()}
        self.buffers: dict[str, Tensor] = {k: v.detach() for k, v in self.module.named_buffers()}
        first = next(iter(self.params.values()))
        self.device = first.device
        self.dtype = next((p.dtype for p in self.params.values() if p.is_floating_point()), torch.float32)
        self.data = Data(dataset, collate_fn=collate_fn)
        self.heldout = None if heldout is None else Data(heldout, collate_fn=collate_fn, role="held-out dataset")
        self._train = train
        self._channels_last = False
        self._inspect_model()
        self._channels_last = self._takes_channels_last()
        for data in (self.data, self.heldout):
            if data is not None:
                self._check_classes(data)

    # -- calling the model ------------------------------------------------------------------------------------

    def to_device(self, x: Inputs) -> Inputs:
        """Inputs on the model's device; floating inputs take the model's floating type, images the faster layout."""

        def move(leaf: Tensor) -> Tensor:
            return leaf.to(self.device, self.dtype if leaf.is_floating_point() else leaf.dtype)

        x = map_leaves(move, x)
        return channels_last(x) if self._channels_last else x

    def call(self, params: dict[str, Tensor], x: Inputs) -> Tensor:
        """Logits (b, classes) of ``x`` (already on the device) under other parameters; differentiable.

        Buffers among ``params`` replace the target's own.
        """
        args, kwargs = _arguments(x)
        return _logits(functional_call(self.module, {**self.buffers, **params}, args, kwargs))

    def forward(self, x: Inputs) -> Tensor:
        """Logits (b, classes) of ``x`` (already on the device) under the target's own parameters."""
        args, kwargs = _arguments(x)
        return _logits(self.module(*args, **kwargs))

    @torch.no_grad()
    def logits(self, data: Data | None = None, module: nn.Module | None = None) -> Tensor:
        """Logits (n, classes) of all samples of ``data`` (default: training data), on the CPU.

        ``module`` replaces the target's own model, for instance by a retrained one.
        """
        data = self.data if data is None else data
        own = self.module if module is None else frozen_copy(module)
        parts = []
        for _, x, _ in data.batches(self.batch_size):
            args, kwargs = _arguments(self.to_device(x))
            parts.append(_logits(own(*args, **kwargs)).float().cpu())
        return torch.cat(parts)

    @torch.no_grad()
    def features(self, data: Data | None = None) -> Tensor:
        """Penultimate features (n, d): the inputs of the last linear layer, on the CPU.

        Raises:
            NotApplicableError: no last linear layer was found.
        """
        if self.head is None:
            raise NotApplicableError(self.head_missing)
        data = self.data if data is None else data
        parts: list[Tensor] = []
        layer = self.module.get_submodule(self.head.name)
        handle = layer.register_forward_pre_hook(lambda _module, args: parts.append(args[0].float().cpu()))
        try:
            for _, x, _ in data.batches(self.batch_size):
                self.forward(self.to_device(x))
        finally:
            handle.remove()
        return torch.cat(parts)

    # -- retraining -------------------------------------------------------------------------------------------

    @property
    def can_train(self) -> bool:
        """Whether a ``train`` callable was given."""
        return self._train is not None

    def train(self, indices: Any, seed: int) -> nn.Module:
        """A frozen model trained from scratch on the samples ``indices`` with ``seed``.

        Raises:
            NotApplicableError: the target has no ``train`` callable.
            ModelError: the callable did not return a usable module.
        """
        if self._train is None:
            raise NotApplicableError(
                f"target {self.name!r} has no train callable: pass train=function(indices, seed) -> trained model "
                "to Target for everything that must retrain"
            )
        return frozen_copy(self._train(np.asarray(indices, dtype=np.int64), int(seed)))

    # -- facts ------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self.data)

    @property
    def labels(self) -> Tensor:
        """Class of every training sample, int64, shape (n,), on the CPU."""
        return self.data.labels

    @cached_property
    def model_hash(self) -> str:
        """SHA-256 over names, shapes and bytes of the model's state, hexadecimal."""
        sha = hashlib.sha256()
        for name, value in sorted(self.module.state_dict().items()):
            if isinstance(value, Tensor):
                sha.update(f"{name}{tuple(value.shape)}{value.dtype}".encode())
                sha.update(
                    value.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes()
                    if value.ndim
                    else str(value.item()).encode()
                )
        return sha.hexdigest()

    @cached_property
    def data_hash(self) -> str:
        """SHA-256 over the training data, hexadecimal."""
        return self.data.digest()

    # -- inspection -------------------------------------------------------------------------------------------

    @torch.no_grad()
    def _inspect_model(self) -> None:
        """One watched forward pass: the output's shape, the number of classes, the last linear layer."""
        x, _ = self.data.fetch(torch.arange(min(4, len(self.data))))
        x = self.to_device(x)
        seen: list[tuple[str, nn.Linear, Tensor]] = []
        handles = [
            module.register_forward_hook(
                lambda m, _args, out, name=name: seen.append((name, m, out)), always_call=False
            )
            for name, module in self.module.named_modules()
            if isinstance(module, nn.Linear)
        ]
        try:
            output = self.forward(x)
        except ModelError:
            raise
        except Exception as error:
            shapes = " and ".join(str(tuple(leaf.shape)) for leaf in leaves(x))
            raise DatasetError(
                f"the model cannot take the dataset's inputs: a batch of shape {shapes} raised {type(error).__name__}: "
                f"{str(error).splitlines()[0] if str(error) else ''}"
            ) from error
        finally:
            for handle in handles:
                handle.remove()
        rows = len(leaves(x)[0])
        if output.ndim != 2 or output.shape[0] != rows or output.shape[1] < 2 or not output.is_floating_point():
            raise ModelError(
                f"the model must return logits of shape (n, classes) with at least 2 classes; for {rows} samples it "
                f"returned {tuple(output.shape)} of {output.dtype}"
            )
        if not bool(torch.isfinite(output).all()):
            raise ModelError("the model returned NaN or infinite logits for the first samples of the dataset")
        if rows > 1 and bool((output >= 0).all()) and torch.allclose(output.sum(1), torch.ones_like(output[:, 0])):
            raise ModelError(
                "the model's outputs are probabilities (each row sums to 1); logits are needed: "
                "return the values before softmax, or their logarithm"
            )
        self.num_classes = int(output.shape[1])
        self.head: Head | None = None
        self.head_missing = ""
        matches = [
            (name, module)
            for name, module, out in seen
            if out.shape == output.shape
            and (torch.equal(out, output) or torch.allclose(out.log_softmax(1), output, atol=1e-6))
        ]
        if matches:
            name, module = matches[-1]
            self.head = Head(name, module.weight.detach(), None if module.bias is None else module.bias.detach())
        elif seen:
            self.head_missing = (
                f"no linear layer's output is the model's output (the last one called is {seen[-1][0]!r}); "
                "factors of the last layer do not apply"
            )
        else:
            self.head_missing = "the model calls no torch.nn.Linear layer; factors of the last layer do not apply"

    @torch.no_grad()
    def _takes_channels_last(self) -> bool:
        """Whether the model gives the same logits for images laid out channels last (some call ``view`` on them)."""
        if not any(isinstance(layer, nn.Conv2d) for layer in self.module.modules()):
            return False
        x = self.to_device(self.data.fetch(torch.arange(min(4, len(self.data))))[0])
        try:
            return torch.allclose(self.forward(channels_last(x)), self.forward(x), rtol=1e-4, atol=1e-5)
        except RuntimeError:
            return False

    def _check_classes(self, data: Data) -> None:
        highest = int(data.labels.max())
        if highest >= self.num_classes:
            where = int((data.labels >= self.num_classes).nonzero()[0])
            raise DatasetError(
                f"the {data.role}: labels must be below the model's {self.num_classes} classes; item {where} has "
                f"label {int(data.labels[where])}"
            )


def _arguments(x: Inputs) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(x, dict):
        return (), x
    return (x if isinstance(x, tuple) else (x,)), {}


def _logits(output: Any) -> Tensor:
    output = getattr(output, "logits", output)
    if not isinstance(output, Tensor):
        raise ModelError(f"the model must return a tensor of logits (n, classes); it returned {type(output).__name__}")
    return output
