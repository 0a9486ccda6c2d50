"""Target: a trained classifier and its data. The only code that calls a user's model; it never changes it."""

from __future__ import annotations

import copy
import hashlib
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.nn.parameter import is_lazy
from torch.utils.hooks import RemovableHandle

from forgetcast._arguments import checked
from forgetcast._filled import Filled
from forgetcast._precision import exact_convolutions
from forgetcast.data import Data, Inputs, channels_last, leaves, map_leaves
from forgetcast.errors import DatasetError, ForgetcastError, InputError, ModelError, NotApplicableError, first_line
from forgetcast.trajectory import Trajectory
from forgetcast.weights import fit_weights

__all__ = ["Head", "Target", "TrainFunction", "as_logits", "check_finite", "frozen_copy"]

FEW = 4
"""Samples that a model is looked at with."""
RESTLESS = (
    "the model gives other logits when it is asked again: it draws at random (dropout that is on in evaluation mode, "
    "such as F.dropout without training=self.training) or keeps a state between calls. Make it a function of its "
    "inputs in evaluation mode"
)
FORGETFUL = (
    "the model gives other logits for the first samples of the {role} after it has run on all of them: it keeps a "
    "state between calls. Make it a function of its inputs in evaluation mode"
)
SOCIABLE = (
    "the model's logits of a sample depend on the other samples of its batch: it normalises by batch statistics in "
    "evaluation mode (such as BatchNorm with track_running_stats=False, or F.batch_norm with training=True) or mixes "
    "samples. Use running statistics, or normalise each sample by itself"
)

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

    @classmethod
    def of(cls, model: nn.Module, name: str) -> Head:
        """The layer called ``name`` as the head of ``model``."""
        layer: Any = model.get_submodule(name)
        return cls(name, layer.weight.detach(), None if layer.bias is None else layer.bias.detach())


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
            f"the model cannot be copied ({type(error).__name__}: {first_line(error)}); forgetcast works on a copy so "
            "that yours stays untouched: remove non-leaf tensors, handles or locks kept as attributes"
        ) from error
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
    _check_weights(copied, "the model")
    return copied


def _check_weights(model: nn.Module, what: str) -> None:
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
    """Names of the parameters that training moves; all of them where none is marked."""
    marked = frozenset(name for name, parameter in model.named_parameters() if parameter.requires_grad)
    return marked or frozenset(name for name, _ in model.named_parameters())


def _has_ties(module: nn.Module) -> bool:
    """Whether a parameter or buffer has several names; looking for them at every call takes a third of its overhead."""
    named = (*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False))
    return len({id(value) for _, value in named}) < len(named)


class Target:
    """A trained classifier with the data it was trained on, ready to be probed or unlearned.

    Everything runs on a private copy in evaluation mode (batch-norm statistics and dropout frozen). The last linear
    layer is found by watching one forward pass; where there is none, ``head`` is None and ``head_missing`` says why.

    Args:
        model: maps a batch of inputs to logits of shape (n, classes). Dict inputs are passed as keywords, tuples as
            positional arguments; an output with a ``logits`` attribute is unwrapped.
        dataset: the training data: map-style dataset of (x, y), pair (x, y), or a DataLoader over such a dataset; see
            ``forgetcast.data.Data``.
        heldout: data of the same kind that the model was not trained on; optional for predicting.
        train: ``train(indices, seed)`` returns a model trained from scratch on those samples; needed to retrain.
        trajectory: checkpoints of the training run or outputs recorded during it; optional, with it the factors of
            the family "trajectory" apply.
        name: what tables and messages call the target.
        collate_fn: for datasets whose items need one.
        batch_size: samples per forward pass.
        info: descriptors kept with results (for instance ``{"dataset": "digits", "architecture": "mlp"}``).

    Raises:
        ModelError: the model is not a classifier with finite weights and finite logits of shape (n, classes); its
            logits of a sample are not the same at every call and in every batch; or a checkpoint does not fit it.
        InputError: a trajectory of other samples or classes.
        FileFormatError: a checkpoint's file is damaged.
        DatasetError: the data is empty, malformed, not finite or of another shape than the model takes.

    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    >>> target = Target(model, (torch.randn(10, 4), torch.arange(10) % 3))
    >>> len(target), target.num_classes, target.head.name
    (10, 3, '2')
    """

    head: Head | None
    """The last linear layer, or None."""
    params: dict[str, Tensor]
    """The trainable parameters by name: what unlearning may move. Frozen ones (``requires_grad=False``) are part of the
    module alone; a model in which all are frozen was frozen for inference, and all count as trainable."""
    buffers: dict[str, Tensor]
    """The buffers by name."""

    @checked("model", "dataset", "heldout", "trajectory")
    def __init__(
        self,
        model: nn.Module,
        dataset: Any,
        *,
        heldout: Any = None,
        train: TrainFunction | None = None,
        trajectory: Trajectory | None = None,
        name: str = "target",
        collate_fn: Callable[[list[Any]], Any] | None = None,
        batch_size: int = 256,
        info: dict[str, Any] | None = None,
    ) -> None:
        self.name = name
        self.info = dict(info or {})
        if not isinstance(batch_size, (int, np.integer)) or batch_size < 1:
            raise InputError(f"batch_size: expected a positive integer; got {batch_size!r}")
        self.batch_size = batch_size
        self.module = frozen_copy(model)
        self._trainable = _trainable(model)
        self._name_weights(None)
        first = next(self.module.parameters())
        self.device = first.device
        self.dtype = next((p.dtype for p in self.module.parameters() if p.is_floating_point()), torch.float32)
        self.data = Data(dataset, collate_fn=collate_fn)
        self.heldout = None if heldout is None else Data(heldout, collate_fn=collate_fn, role="held-out dataset")
        self._train = train
        self._channels_last = False
        self._ties = _has_ties(self.module)
        with self._asking():
            self._inspect_model()
            self._check_function()
            if self.heldout is not None:
                self._first_logits(self.heldout, self.module)
            self._channels_last = self._takes_channels_last()
            if self._channels_last:  # weights too: otherwise what comes out of a convolution may lie the other way
                self.module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        for data in (self.data, self.heldout):
            if data is not None:
                self._check_classes(data)
        self.trajectory = trajectory
        self._check_trajectory()

    # -- calling the model ------------------------------------------------------------------------------------

    def to_device(self, x: Inputs) -> Inputs:
        """Inputs ``x`` on the model's device; floating ones take the model's floating type, images the faster
        layout."""

        def move(leaf: Tensor) -> Tensor:
            return leaf.to(self.device, self.dtype if leaf.is_floating_point() else leaf.dtype)

        x = map_leaves(move, x)
        return channels_last(x) if self._channels_last else x

    def call(self, params: dict[str, Tensor], x: Inputs) -> Tensor:
        """Logits (b, classes) of ``x`` (already on the device) under other parameters; differentiable.

        Buffers among ``params`` replace the target's own.
        """
        args, kwargs = model_arguments(x)
        replaced = {**self.buffers, **params}
        return as_logits(functional_call(self.module, replaced, args, kwargs, tie_weights=self._ties))

    def forward(self, x: Inputs) -> Tensor:
        """Logits (b, classes) of ``x`` (already on the device) under the target's own parameters."""
        args, kwargs = model_arguments(x)
        return as_logits(self.module(*args, **kwargs))

    @contextmanager
    def running(self, data: Data, index: Tensor) -> Iterator[None]:
        """A block that runs the model on the samples ``index`` of ``data``; what the model raises there names them.

        Raises:
            ModelError: in place of whatever is none of our own errors.
        """
        try:
            yield
        except ForgetcastError:
            raise
        except Exception as error:
            memory = isinstance(error, MemoryError | torch.cuda.OutOfMemoryError) or "can't allocate memory" in str(
                error
            )
            remedy = (
                f"give Target(..., batch_size=...) less than {self.batch_size}"
                if memory
                else "look at these samples; the model must take every batch of the data"
            )
            raise ModelError(
                f"the model raised {type(error).__name__} for samples {int(index[0])} to {int(index[-1])} of the "
                f"{data.role}: {first_line(error)}: {remedy}"
            ) from error

    def raised(self, error: BaseException) -> bool:
        """Whether an error came out of the model itself, however deep in a computation it was called."""
        own = {id(module) for module in self.module.modules()}
        frames = (frame for frame, _ in traceback.walk_tb(error.__traceback__))
        return any(id(frame.f_locals.get("self")) in own for frame in frames)

    @torch.no_grad()
    def check_steady(self, data: Data, logits: Tensor) -> None:
        """Ask again for the first samples of ``data`` and refuse a model that answers otherwise than before.

        Args:
            data: what the model was asked about.
            logits: what it answered, (n, classes).

        Raises:
            ModelError: the model has changed in between, or is one that says something else each time.
        """
        x, _ = data.fetch(torch.arange(min(FEW, len(data))))
        again = self.forward(self.to_device(x)).float().cpu()
        _check_same(logits[: len(again)].float().cpu(), again, FORGETFUL.format(role=data.role))

    @torch.no_grad()
    @checked()
    def logits(self, data: Data | None = None, module: nn.Module | None = None) -> Tensor:
        """Logits (n, classes) of all samples of ``data`` (default: training data), on the CPU.

        ``module`` replaces the target's own model, for instance by a retrained one.

        Raises:
            ModelError: the target's own model returned NaN or infinity.
        """
        data = self.data if data is None else data
        own = self.module if module is None else frozen_copy(module)
        found = Filled(len(data))
        with self._asking():
            for index, x, _ in data.batches(self.batch_size):
                args, kwargs = model_arguments(self.to_device(x))
                with self.running(data, index):
                    logits = as_logits(own(*args, **kwargs)).float().cpu()
                if module is None:
                    check_finite(logits, data, int(index[0]))
                found.add(logits)
            if module is None:
                self.check_steady(data, found.array)
        return found.array

    @torch.no_grad()
    def features(self, data: Data | None = None) -> Tensor:
        """Penultimate features (n, d) of all samples of ``data`` (default: training data), on the CPU.

        They are the inputs of the last linear layer.

        Raises:
            NotApplicableError: no last linear layer was found.
        """
        if self.head is None:
            raise NotApplicableError(self.head_missing)
        data = self.data if data is None else data
        latest: list[Tensor] = []
        found = Filled(len(data))
        handle = self.watch_head(lambda features: latest.append(features.float().cpu()))
        try:
            with self._asking():
                for index, x, _ in data.batches(self.batch_size):
                    with self.running(data, index):
                        self.forward(self.to_device(x))
                    if not latest:
                        raise NotApplicableError("the last linear layer was not called when the whole data ran")
                    found.add(latest[-1])
                    latest.clear()
        finally:
            handle.remove()
        return found.array

    def watch_head(self, keep: Callable[[Tensor], None]) -> RemovableHandle:
        """Call ``keep(features)`` whenever the last linear layer runs, until the handle is removed.

        The features (b, d) are a copy. Where the layer runs several times in a pass, the last call is the one that
        makes the logits.
        """
        assert self.head is not None, "only a target with a head can be watched"

        def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], _output: Any) -> None:
            keep(_layer_input(args, kwargs).detach().clone())

        return self.module.get_submodule(self.head.name).register_forward_hook(hook, with_kwargs=True)

    def at(self, point: int) -> Target:
        """The same target with the weights of checkpoint ``point`` of its trajectory (0 the first); data is shared.

        Raises:
            ModelError: the checkpoint does not fit the model, or is not finite.
            FileFormatError: its file is damaged.
        """
        assert self.trajectory is not None, "only a target with checkpoints was elsewhere"
        what = self.trajectory.name_of(point)
        other = copy.copy(self)
        other.module = copy.deepcopy(self.module)
        fit_weights(other.module, self.trajectory.state(point), what)
        _check_weights(other.module, what)
        other._name_weights(None if self.head is None else self.head.name)
        other.__dict__.pop("model_hash", None)
        return other

    def _name_weights(self, head: str | None) -> None:
        """Take parameters, buffers and the layer called ``head`` from the module; they share its memory."""
        self.params = {k: v.detach() for k, v in self.module.named_parameters() if k in self._trainable}
        self.buffers = {k: v.detach() for k, v in self.module.named_buffers()}
        self.head = None if head is None else Head.of(self.module, head)

    def __getstate__(self) -> dict[str, Any]:
        """What is sent to another process: the module has all weights, so they are sent once."""
        kept = {name: value for name, value in self.__dict__.items() if name not in ("params", "buffers")}
        return {**kept, "head": None if self.head is None else self.head.name}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._name_weights(state["head"])

    # -- retraining -------------------------------------------------------------------------------------------

    @property
    def can_train(self) -> bool:
        """Whether a ``train`` callable was given."""
        return self._train is not None

    def train(self, indices: Any, seed: int) -> nn.Module:
        """A frozen model trained from scratch on the samples ``indices`` with ``seed``.

        Raises:
            NotApplicableError: the target has no ``train`` callable.
            IndexRangeError: indices that are not there, repeated, or none.
            ModelError: the callable did not return a usable module for the same inputs and classes.
        """
        return self.train_many([indices], [seed])[0]

    @property
    def trains_together(self) -> bool:
        """Whether the ``train`` callable can train many models at once."""
        return callable(getattr(self._train, "many", None))

    def train_many(self, indices: Sequence[Any], seeds: Sequence[int]) -> list[nn.Module]:
        """One frozen model per set of samples and its seed, as :meth:`train` returns; at once if the callable can.

        A ``train`` callable that can has a method ``many(indices, seeds)``, which returns a list of models.

        Raises:
            NotApplicableError, IndexRangeError, ModelError: as in :meth:`train`.
        """
        if self._train is None:
            raise NotApplicableError(
                f"target {self.name!r} has no train callable: pass train=function(indices, seed) -> trained model "
                "to Target for everything that must retrain"
            )
        parts = [self.data.check_indices(part).numpy() for part in indices]
        numbers = [int(seed) for seed in seeds]
        if self.trains_together and len(parts) > 1:
            made = self._train.many(parts, numbers)  # type: ignore[attr-defined]
            if len(made) != len(parts):
                raise ModelError(
                    f"the train callable of target {self.name!r}: many() was asked for {len(parts)} models and "
                    f"returned {len(made)}"
                )
        else:
            made = [self._train(part, seed) for part, seed in zip(parts, numbers, strict=True)]
        return [self._trained(module) for module in made]

    def _trained(self, made: nn.Module) -> nn.Module:
        who = f"the train callable of target {self.name!r} returned an unusable model"
        try:
            module = frozen_copy(made).to(self.device)
            with self._asking():
                classes = self._first_logits(self.data, module).shape[1]
        except InputError as error:
            raise ModelError(f"{who}: {error}") from error
        if classes != self.num_classes:
            raise ModelError(f"{who}: it has {classes} classes; the target has {self.num_classes}")
        return module

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
        state = {**dict(self.module.named_buffers()), **self.module.state_dict()}  # some buffers are in no state dict
        for name, value in sorted(state.items()):
            if isinstance(value, Tensor):
                sha.update(f"{name}{tuple(value.shape)}{value.dtype}".encode())
                sha.update(
                    value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
                    if value.ndim
                    else str(value.item()).encode()
                )
        return sha.hexdigest()

    @cached_property
    def data_hash(self) -> str:
        """SHA-256 over the training data, hexadecimal."""
        return self.data.digest()

    @cached_property
    def heldout_hash(self) -> str:
        """SHA-256 over the held-out data, hexadecimal; empty where there is none."""
        return "" if self.heldout is None else self.heldout.digest()

    # -- inspection -------------------------------------------------------------------------------------------

    @contextmanager
    def _asking(self) -> Iterator[None]:
        """A block in which the model may draw random numbers without a trace, and answers the same every time."""
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices), exact_convolutions():
            yield

    @torch.no_grad()
    def _first_logits(self, data: Data, module: nn.Module) -> Tensor:
        """Logits of the first samples (at most 4), checked to be logits.

        Raises:
            ModelError: they are no finite logits of shape (n, classes).
            DatasetError: the model raised.
        """
        x = self.to_device(data.fetch(torch.arange(min(FEW, len(data))))[0])
        args, kwargs = model_arguments(x)
        try:
            output = as_logits(module(*args, **kwargs))
        except ModelError:
            raise
        except Exception as error:
            shapes = " and ".join(f"{tuple(leaf.shape)} of {leaf.dtype}" for leaf in leaves(x))
            raise DatasetError(
                f"the model cannot take the {data.role}'s inputs: a batch of shape {shapes} raised "
                f"{type(error).__name__}: {first_line(error)}. Bring the {data.role} to the shape and type that "
                "model(x) takes."
            ) from error
        rows = len(leaves(x)[0])
        if output.ndim != 2 or output.shape[0] != rows or output.shape[1] < 2 or not output.is_floating_point():
            raise ModelError(
                f"the model must return logits of shape (n, classes) with at least 2 classes; for {rows} samples it "
                f"returned {tuple(output.shape)} of {output.dtype}"
            )
        if not bool(torch.isfinite(output).all()):
            raise ModelError(f"the model returned NaN or infinite logits for the first samples of the {data.role}")
        tolerance = max(1e-5, 4 * torch.finfo(output.dtype).eps)
        if rows > 1 and bool((output >= 0).all()) and float((output.double().sum(1) - 1).abs().max()) < tolerance:
            raise ModelError(
                "the model's outputs are probabilities (each row sums to 1); logits are needed: "
                "return the values before softmax, or their logarithm"
            )
        return output

    def _inspect_model(self) -> None:
        """One watched forward pass: the output's shape, the number of classes, the last linear layer."""
        seen: dict[str, tuple[nn.Linear, Any]] = {}

        def watch(module: nn.Linear, args: tuple[Any, ...], kwargs: dict[str, Any], _out: Any, *, name: str) -> None:
            x = _layer_input(args, kwargs)
            seen.pop(name, None)  # the last call counts, and the last layer called comes last
            seen[name] = (module, x.detach().clone() if isinstance(x, Tensor) else None)

        handles = [
            module.register_forward_hook(partial(watch, name=name), with_kwargs=True)
            for name, module in self.module.named_modules()
            if isinstance(module, nn.Linear)
        ]
        try:
            output = self._first_logits(self.data, self.module)
        finally:
            for handle in handles:
                handle.remove()
        self.num_classes = int(output.shape[1])
        self.head = None
        self.head_missing = ""
        matches = [name for name, (module, x) in seen.items() if _makes(module, x, output)]
        if matches:
            self.head = Head.of(self.module, matches[-1])
        elif seen:
            self.head_missing = (
                f"no linear layer's output is the model's output (the last one called is {list(seen)[-1]!r}); "
                "factors of the last layer do not apply"
            )
        else:
            self.head_missing = "the model calls no torch.nn.Linear layer; factors of the last layer do not apply"

    @torch.no_grad()
    def _check_function(self) -> None:
        """Refuse a model whose logits of a sample depend on anything but the sample, seen at the first few samples.

        Raises:
            ModelError: they differ from call to call, or with the other samples of the batch, or a buffer changes.
        """
        x = self.to_device(self.data.fetch(torch.arange(min(FEW, len(self.data))))[0])
        self.forward(x)  # what is filled in at the first call, such as a table of positions, is no state
        before = {name: value.clone() for name, value in self.module.named_buffers()}
        together = self.forward(x)
        for name, value in self.module.named_buffers():
            old = before.get(name)
            if old is None or old.shape != value.shape or not torch.equal(old.nan_to_num(), value.nan_to_num()):
                raise ModelError(
                    f"the model changes as it is used: its buffer {name} is another after a call in evaluation mode. "
                    "Batch statistics and counters must stay as they are unless self.training is set"
                )
        _check_same(together, self.forward(x), RESTLESS)
        half = len(together) // 2
        if half == 0:
            return
        try:
            alone = self.forward(map_leaves(lambda leaf: leaf[:half], x))
        except Exception:  # a model that takes no batch so small says so where it gets one
            return
        _check_same(together[:half], alone, SOCIABLE)

    @torch.no_grad()
    def _takes_channels_last(self) -> bool:
        """Whether the model gives the same logits for images laid out channels last (some call ``view`` on them)."""
        if not any(isinstance(layer, nn.Conv2d) for layer in self.module.modules()):
            return False
        x = self.to_device(self.data.fetch(torch.arange(min(FEW, len(self.data))))[0])
        try:
            return torch.allclose(self.forward(channels_last(x)), self.forward(x), rtol=1e-4, atol=1e-5)
        except RuntimeError:
            return False

    def _check_trajectory(self) -> None:
        """Refuse a trajectory of another model or of other data; every checkpoint is read once."""
        if self.trajectory is None:
            return
        if not isinstance(self.trajectory, Trajectory):
            raise InputError(
                f"trajectory: expected a forgetcast.Trajectory; got {type(self.trajectory).__name__}: make one with "
                "Trajectory.from_checkpoints or Trajectory.from_outputs"
            )
        outputs = self.trajectory.outputs
        if outputs is None:
            for point in range(self.trajectory.points):
                self.at(point)
        elif outputs.shape[1:] not in ((len(self),), (len(self), self.num_classes)):
            raise InputError(
                f"trajectory: expected outputs for {len(self)} samples, shape (points, {len(self)}, "
                f"{self.num_classes}) or (points, {len(self)}); got {outputs.shape}"
            )

    def _check_classes(self, data: Data) -> None:
        highest = int(data.labels.max())
        if highest >= self.num_classes:
            where = int((data.labels >= self.num_classes).nonzero()[0])
            raise DatasetError(
                f"the {data.role}: labels must be below the model's {self.num_classes} classes; item {where} has "
                f"label {int(data.labels[where])}"
            )


def model_arguments(x: Inputs) -> tuple[tuple[Any, ...], dict[str, Any]]:
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


def check_finite(logits: Tensor, data: Data, first: int = 0) -> None:
    """Refuse logits (b, classes) of the samples from ``first`` on that are not numbers.

    Raises:
        ModelError: NaN or infinity; the sample is named.
    """
    bad = ~torch.isfinite(logits).all(1)
    if bad.any():
        raise ModelError(
            f"the model returned NaN or infinite logits for sample {first + int(bad.nonzero()[0])} of the {data.role}"
        )


def _check_same(one: Tensor, other: Tensor, message: str) -> None:
    """Refuse logits (b, classes) that differ by more than the rounding of another batch size or thread.

    Raises:
        ModelError: they do; the message names the first sample and the difference.
    """
    tolerance = max(1e-3, 8 * torch.finfo(one.dtype).eps)
    finite = torch.isfinite(one).all(1) & torch.isfinite(other).all(1)  # what is not finite is told by check_finite
    gap = (one - other).abs().amax(1).double()
    bad = finite & (gap > tolerance * one.abs().amax(1).double().clamp(min=1.0))
    if bool(bad.any()):
        row = int(bad.nonzero()[0])
        raise ModelError(f"{message} (sample {row}: logits differ by up to {float(gap[row]):.3g})")


def _layer_input(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return args[0] if args else kwargs.get("input")


@torch.no_grad()
def _makes(layer: nn.Linear, x: Tensor | None, output: Tensor) -> bool:
    """Whether x @ weight.T + bias is the model's output, or has it as log-softmax.

    It is worked out again, for a subclass may compute something else and a model may go on to overwrite the result.
    """
    if x is None or x.ndim != 2:
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
