"""Target: a trained classifier and its data. The only code that calls a user's model; it never changes it."""

from __future__ import annotations

import copy
import hashlib
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
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
from forgetcast.errors import (
    DatasetError,
    ForgetcastError,
    InputError,
    ModelError,
    NotApplicableError,
    first_line,
    shortened,
)
from forgetcast.target.data import Data, Inputs, channels_last, leaves, map_leaves
from forgetcast.target.disjoint import shared_samples
from forgetcast.target.filled import Filled
from forgetcast.target.input_types import Types, cast, types_of, types_taken
from forgetcast.target.logits import single
from forgetcast.target.plain_copy import plain_copy, unwrapped_name
from forgetcast.target.seeding import undisturbed
from forgetcast.target.settings import OWN, Settings, own_settings
from forgetcast.target.trajectory import Trajectory
from forgetcast.target.weights import fit_weights

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

IN_PLACE = (
    "the model changes its input in place: your data would be another after every call. Make it work on a copy in "
    "forward, such as x = x - mean in place of x.sub_(mean), or x = x.clone() first"
)
ELSEWHERE = (
    "the model's copy still runs the weights of the original: a forward is bound to it (such as model.forward = "
    "wrapper(model.forward)). Hand over the model before that, or define forward in its class"
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
    """A deep copy in evaluation mode, without gradients and wrappers; ``model`` itself stays exactly as it was.

    Raises:
        ModelError: not a module, not copyable, or with weights that are not finite.
    """
    return _frozen(model)[0]


def _frozen(model: nn.Module) -> tuple[nn.Module, frozenset[str]]:
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
    _check_weights(copied, "the model")
    return copied, trainable


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
    """Names of the parameters that training moves; all of them (that are real numbers) where none is marked."""
    named = dict(model.named_parameters())
    marked = frozenset(name for name, parameter in named.items() if parameter.requires_grad)
    return marked or frozenset(name for name, value in named.items() if value.is_floating_point()) or frozenset(named)


def _renamed(state: Mapping[str, Tensor], model: nn.Module) -> Mapping[str, Tensor]:
    """Weights that were saved through a wrapper, under the names that ``model`` has for them."""
    own = model.state_dict().keys()
    if own <= state.keys():
        return state
    inside = {unwrapped_name(name): name for name in own}
    return {name if name in own else inside.get(unwrapped_name(name), name): value for name, value in state.items()}


def _has_ties(module: nn.Module) -> bool:
    """Whether a parameter or buffer has several names; looking for them at every call takes a third of its overhead."""
    named = (*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False))
    return len({id(value) for _, value in named}) < len(named)


@contextmanager
def _attributes_kept(module: nn.Module) -> Iterator[None]:
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


class Target:
    """A trained classifier with the data it was trained on, ready to be probed or unlearned.

    Everything runs on a private copy in evaluation mode (batch-norm statistics and dropout frozen), taken out of
    ``torch.compile``, ``nn.DataParallel`` and ``DistributedDataParallel``. It answers as ``model(x)`` does, in the same
    types and under the same defaults of torch: real numbers are cast to another type only where the model refuses
    theirs. The last linear layer is found by watching one forward pass; where there is none, ``head`` is None and
    ``head_missing`` says why. Calls in several threads take turns.

    Args:
        model: maps a batch of inputs to logits of shape (n, classes). Dict inputs are passed as keywords, tuples as
            positional arguments; an output with a ``logits`` attribute is unwrapped.
        dataset: the training data: map-style dataset of (x, y), pair (x, y), or a DataLoader over such a dataset; see
            ``forgetcast.target.data.Data``.
        heldout: data of the same kind that the model was not trained on; optional for predicting. Samples of it that
            are training samples too are counted in ``notes``.
        train: ``train(indices, seed)`` returns a model trained from scratch on those samples; needed to retrain.
        trajectory: checkpoints of the training run or outputs recorded during it; optional, with it the factors of
            the family "trajectory" apply.
        name: what tables and messages call the target.
        collate_fn: for datasets whose items need one.
        batch_size: samples per forward pass.
        info: descriptors kept with results (for instance ``{"dataset": "digits", "architecture": "mlp"}``).

    Raises:
        ModelError: the model is not a classifier with finite weights and finite logits of shape (n, classes); its
            logits of a sample are not the same at every call and in every batch; it changes its input in place; it
            cannot be copied or taken out of its wrapper (TorchScript); or a checkpoint does not fit it.
        InputError: a trajectory of other samples or classes.
        FileFormatError: a checkpoint's file is damaged.
        DatasetError: the data is empty, malformed, not finite or of another shape than the model takes; or more than a
            twentieth of the held-out samples are training samples.

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
    frozen: int
    """How many numbers the user's model has in parameters with ``requires_grad=False``."""
    notes: list[str]
    """What is to be known of the data, such as held-out samples that are training samples; shown with a forecast."""

    @own_settings()
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
        self._settings = Settings.of_caller()
        self.module, self._trainable = _frozen(model)
        self.frozen = sum(p.numel() for p in model.parameters() if not p.requires_grad)
        self._name_weights(None)
        first = next(self.module.parameters())
        self.device = first.device
        self.dtype = next((p.dtype for p in self.module.parameters() if p.is_floating_point()), torch.float32)
        self.data = Data(dataset, collate_fn=collate_fn)
        self.heldout = None if heldout is None else Data(heldout, collate_fn=collate_fn, role="held-out dataset")
        self._train = train
        self._channels_last = False
        self._ties = _has_ties(self.module)
        self._hooked = any(part._forward_pre_hooks for part in self.module.modules())
        self._casts: dict[Types, Types] = {}
        self._in_single = False
        with self._asking():
            self._inspect_model()
            self._check_function(model)
            if self.heldout is not None:
                self._first_logits(self.heldout, self.module)
            self._channels_last = self._takes_channels_last()
            if self._channels_last:  # weights too: otherwise what comes out of a convolution may lie the other way
                self.module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        for data in (self.data, self.heldout):
            if data is not None:
                self._check_classes(data)
        self.notes = []
        if self.heldout is not None and (shared := shared_samples(self.data, self.heldout)):
            self.notes.append(shared)
        self.trajectory = trajectory
        self._check_trajectory()

    # -- calling the model ------------------------------------------------------------------------------------

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
        args, kwargs = model_arguments(x)
        replaced = {**self.buffers, **params}
        with _attributes_kept(self.module) if self._hooked else nullcontext(), self._in_its_settings():
            return as_logits(functional_call(self.module, replaced, args, kwargs, tie_weights=self._ties))

    def forward(self, x: Inputs) -> Tensor:
        """Logits (b, classes) of ``x`` (already on the device) under the target's own parameters."""
        return self.answer(self.module, x)

    def answer(self, module: nn.Module, x: Inputs) -> Tensor:
        """Logits of ``x`` (already on the device) by a module, under the settings that the model was handed over in."""
        args, kwargs = model_arguments(x)
        with self._in_its_settings():
            return as_logits(module(*args, **kwargs))

    def _in_its_settings(self) -> AbstractContextManager[None]:
        """A block under the settings that the model was handed over in."""
        return nullcontext() if self._settings == OWN else self._settings.applied()

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
                f"the model raised {type(error).__name__} for samples {_span(data.numbers(index))} of the "
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
        again = self.forward(self.to_device(x)).cpu()
        self._check_same(logits[: len(again)].cpu(), again, FORGETFUL.format(role=data.role))

    @torch.no_grad()
    @checked()
    def logits(self, data: Data | None = None, module: nn.Module | None = None) -> Tensor:
        """Logits (n, classes) of all samples of ``data`` (default: training data), on the CPU, as ``model(x)`` has
        them; half precision as float32.

        ``module`` replaces the target's own model, for instance by a retrained one.

        Raises:
            ModelError: the target's own model returned NaN or infinity.
        """
        data = self.data if data is None else data
        own = self.module if module is None else frozen_copy(module)
        found = Filled(len(data))
        with self._asking():
            for index, x, _ in data.batches(self.batch_size):
                with self.running(data, index):
                    logits = single(self.answer(own, self.to_device(x))).cpu()
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
        other.module = plain_copy(self.module)
        fit_weights(other.module, _renamed(self.trajectory.state(point), other.module), what)
        _check_weights(other.module, what)
        other._name_weights(None if self.head is None else self.head.name)
        for worked_out in ("model_hash", "full_precision"):
            other.__dict__.pop(worked_out, None)
        return other

    @property
    def runs_plainly(self) -> bool:
        """Whether the model runs under torch's usual defaults, so that its layers may be called on their own."""
        return self._settings == OWN

    @cached_property
    def full_precision(self) -> Target:
        """The target to unlearn from: itself, or where weights are in half precision one that holds them as float32.

        Steps of unlearning are too short for half precision: most weights would not move at all.

        Raises:
            ModelError: as float32 the model raises, or gives other logits than rounding explains.
        """
        if not any(_is_half(value) for value in (*self.module.parameters(), *self.module.buffers())):
            return self
        return self._widened()

    @own_settings()
    @torch.no_grad()
    def _widened(self) -> Target:
        other = copy.copy(self)
        other.__dict__.pop("model_hash", None)
        other.module = _in_single(plain_copy(self.module))
        other.dtype, other._casts, other._in_single = torch.float32, {}, True
        other._name_weights(None if self.head is None else self.head.name)
        remedy = "unlearning works on float32 weights: hand over model.float(), if it is what you run"
        with self._asking():
            for data in (self.data, self.heldout):
                if data is None:
                    continue
                try:
                    other._first_logits(data, other.module)
                    x = data.fetch(torch.arange(min(self.batch_size, len(data))))[0]
                    one, same = self.forward(self.to_device(x)), other.forward(other.to_device(x))
                except Exception as error:
                    raise ModelError(
                        f"the model raised {type(error).__name__} with its half-precision weights as float32: "
                        f"{first_line(error)}; {remedy}"
                    ) from error
                self._check_same(one, same, f"the model gives other logits with its weights as float32; {remedy}")
        return other

    def in_order(self, order: Tensor) -> Target:
        """The same target with its training samples in another order, a permutation of int64, shape (n,).

        Outputs in a trajectory stay in the order of the source.
        """
        other = copy.copy(self)
        other.data = self.data.reordered(order)
        other.__dict__.pop("data_hash", None)
        return other

    def _name_weights(self, head: str | None) -> None:
        """Take parameters, buffers and the layer called ``head`` from the module; they share its memory."""
        self.params = {k: v.detach() for k, v in self.module.named_parameters() if k in self._trainable}
        self.buffers = {k: v.detach() for k, v in self.module.named_buffers()}
        self.head = None if head is None else Head.of(self.module, head)

    def __getstate__(self) -> dict[str, Any]:
        """What is sent to another process: the module has all weights, so they are sent once."""
        left_out = ("params", "buffers", "full_precision")
        kept = {name: value for name, value in self.__dict__.items() if name not in left_out}
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
        with self._settings.handed_back():
            if self.trains_together and len(parts) > 1:
                made = self._train.many(parts, numbers)  # type: ignore[attr-defined]
            else:
                made = [self._train(part, seed) for part, seed in zip(parts, numbers, strict=True)]
        if len(made) != len(parts):
            raise ModelError(
                f"the train callable of target {self.name!r}: many() was asked for {len(parts)} models and "
                f"returned {len(made)}"
            )
        return [self._trained(module) for module in made]

    @own_settings()
    def _trained(self, made: nn.Module) -> nn.Module:
        who = f"the train callable of target {self.name!r} returned an unusable model"
        try:
            module = frozen_copy(made).to(self.device)
            if self._in_single:
                module = _in_single(module)
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
        with own_settings(), undisturbed(self.device):
            yield

    @torch.no_grad()
    def _first_logits(self, data: Data, module: nn.Module) -> Tensor:
        """Logits of the first samples (at most 4), checked to be logits.

        The types in which the target's own module takes these inputs are kept for :meth:`to_device`.

        Raises:
            ModelError: they are no finite logits of shape (n, classes), or the model changed its input.
            DatasetError: the model raised.
        """

        def ask(x: Inputs) -> Tensor:
            given = map_leaves(Tensor.clone, x)
            output = self.answer(module, x)
            if not all(map(torch.equal, leaves(given), leaves(x))):
                raise ModelError(IN_PLACE)
            return output

        x, _ = data.fetch(torch.arange(min(FEW, len(data))))
        own = types_of(x)
        x = self.to_device(x)
        try:
            taken, output = types_taken(ask, x, module.parameters() if module is self.module else ())
        except ModelError:
            raise
        except Exception as error:
            shapes = " and ".join(f"{tuple(leaf.shape)} of {leaf.dtype}" for leaf in leaves(x))
            raise DatasetError(
                f"the model cannot take the {data.role}'s inputs: a batch of shape {shapes} raised "
                f"{type(error).__name__}: {first_line(error)}. Bring the {data.role} to the shape and type that "
                "model(x) takes."
            ) from error
        if taken != own:
            self._casts[own] = taken
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
        worked_in = {output.dtype, *(p.dtype for p in self.module.parameters() if p.is_floating_point())}
        worked_in.update(dtype for _, dtype in self._settings.autocast)
        self._rounding = max(torch.finfo(dtype).eps for dtype in worked_in)
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
    def _check_function(self, original: nn.Module) -> None:
        """Refuse a model whose logits depend on anything but the sample and its own weights, seen at a few samples.

        Raises:
            ModelError: they differ from call to call, or with the other samples of the batch; a buffer changes; or the
                copy runs weights of the ``original``, which no unlearning would move.
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
        self._check_same(together, self._again(x, original), RESTLESS)
        half = len(together) // 2
        if half == 0:
            return
        try:
            alone = self.forward(map_leaves(lambda leaf: leaf[:half], x))
        except Exception:  # a model that takes no batch so small says so where it gets one
            return
        self._check_same(together[:half], alone, SOCIABLE)

    def _again(self, x: Inputs, original: nn.Module) -> Tensor:
        """Logits of ``x``, made in a way that shows whose weights they come from.

        Raises:
            ModelError: those of the ``original``, by the history of the logits or, where it is frozen, because other
                weights change nothing.
        """
        try:
            with torch.enable_grad():
                logits = self.forward(x)
        except Exception:  # a model that cannot be differentiated: factors that need it do not apply
            return self.forward(x)
        elsewhere = bool(_leaves_of(logits) & {id(value) for value in original.parameters()})
        real = {name: value for name, value in self.params.items() if value.is_floating_point()}
        if real and not any(value.requires_grad for value in original.parameters()):
            moved = {name: value + torch.rand_like(value) for name, value in real.items()}
            with self.running(self.data, torch.arange(len(self.data))[:FEW]):
                elsewhere = torch.equal(self.call(moved, x), logits)
        if elsewhere:
            raise ModelError(ELSEWHERE)
        return logits.detach()

    def _check_same(self, one: Tensor, other: Tensor, message: str) -> None:
        """Refuse logits (b, classes) that differ by more than the rounding of another batch size, type or thread.

        Raises:
            ModelError: they do; the message names the first sample and the difference.
        """
        one, other = one.double(), other.double()
        finite = torch.isfinite(one).all(1) & torch.isfinite(other).all(1)  # what is not finite is told by check_finite
        gap = (one - other).abs().amax(1)
        bad = finite & (gap > max(1e-3, 16 * self._rounding) * one.abs().amax(1).clamp(min=1.0))
        if bool(bad.any()):
            row = int(bad.nonzero()[0])
            raise ModelError(f"{message} (sample {row}: logits differ by up to {float(gap[row]):.3g})")

    @torch.no_grad()
    def _takes_channels_last(self) -> bool:
        """Whether the model gives the same logits for images laid out channels last (some call ``view`` on them)."""
        if not any(isinstance(layer, nn.Conv2d) for layer in self.module.modules()):
            return False
        x = self.to_device(self.data.fetch(torch.arange(min(FEW, len(self.data))))[0])
        plain = self.forward(x)
        tolerance = min(1e-4, 1e3 * torch.finfo(plain.dtype).eps)
        try:
            return torch.allclose(self.forward(channels_last(x)), plain, rtol=tolerance, atol=tolerance / 10)
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


def _span(numbers: Tensor) -> str:
    """Sample numbers in words, the first few where they do not follow each other."""
    if len(numbers) == int(numbers[-1] - numbers[0]) + 1:
        return f"{int(numbers[0])} to {int(numbers[-1])}"
    return shortened([str(number) for number in sorted(numbers.tolist())])


def check_finite(logits: Tensor, data: Data, first: int = 0) -> None:
    """Refuse logits (b, classes) of the samples from ``first`` on that are not numbers.

    Raises:
        ModelError: NaN or infinity; the sample is named.
    """
    bad = ~torch.isfinite(logits).all(1)
    if bad.any():
        raise ModelError(
            f"the model returned NaN or infinite logits for sample {int(data.numbers(first + bad.nonzero()).min())} of "
            f"the {data.role}"
        )


def _is_half(value: Tensor) -> bool:
    return value.is_floating_point() and value.dtype.itemsize < 4


def _in_single(module: nn.Module) -> nn.Module:
    """The module with its half-precision weights and buffers as float32; it is changed."""
    return module._apply(lambda value: value.float() if _is_half(value) else value)


def _leaves_of(output: Tensor) -> set[int]:
    """Identities of the tensors that an output was differentiably made from."""
    nodes, seen, found = [output.grad_fn], set(), set()
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if (leaf := getattr(node, "variable", None)) is not None:
            found.add(id(leaf))
        nodes += [parent for parent, _ in node.next_functions]
    return found


def _layer_input(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return args[0] if args else kwargs.get("input")


@torch.no_grad()
def _makes(layer: nn.Linear, x: Tensor | None, output: Tensor) -> bool:
    """Whether x @ weight.T + bias is the model's output, or has it as log-softmax.

    It is worked out again, for a subclass may compute something else and a model may go on to overwrite the result.
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
