"""Target: a trained classifier and its data."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from forgetcast._arguments import checked
from forgetcast.errors import DatasetError, InputError, ModelError, NotApplicableError, first_line
from forgetcast.target.checks import (
    FEW,
    STATEFUL,
    check_classes,
    check_finite,
    check_first_logits,
    check_function,
    check_outputs,
    check_same,
    keeping_inputs,
    rounding,
    takes_channels_last,
)
from forgetcast.target.data import Data
from forgetcast.target.disjoint import shared_samples
from forgetcast.target.frozen_copy import (
    check_weights,
    frozen_copy,
    in_single,
    is_half,
    renamed,
)
from forgetcast.target.head import find_head, linear_calls
from forgetcast.target.input_types import types_of, types_taken
from forgetcast.target.inputs import Inputs, leaves
from forgetcast.target.logits import single
from forgetcast.target.model import FrozenModel
from forgetcast.target.plain_copy import plain_copy
from forgetcast.target.preallocated import PreallocatedRows
from forgetcast.target.settings import own_settings
from forgetcast.target.trajectory import Trajectory
from forgetcast.target.weights import fit_weights

__all__ = ["Target", "TrainFunction"]

TrainFunction = Callable[[np.ndarray, int], nn.Module]
"""``train(indices, seed)``: trains a fresh model on those samples (int64, shape (m,)) and returns it."""


class Target(FrozenModel):
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
        super().__init__(model, batch_size)
        self.data = Data(dataset, collate_fn=collate_fn)
        self.heldout = None if heldout is None else Data(heldout, collate_fn=collate_fn, role="held-out dataset")
        self._train = train
        self._in_single = False
        with self._isolated():
            few = self._few(self.data)
            self._inspect_model(few)
            check_function(self, self.data, self.to_device(few), model, self._rounding)
            if self.heldout is not None:
                self._first_logits(self._few(self.heldout), self.heldout.role, self.module)
            self._channels_last = takes_channels_last(self, self.to_device(few))
            if self._channels_last:  # weights too: otherwise what comes out of a convolution may lie the other way
                self.module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        for data in (self.data, self.heldout):
            if data is not None:
                check_classes(data, self.num_classes)
        self.notes = []
        if self.heldout is not None and (shared := shared_samples(self.data, self.heldout)):
            self.notes.append(shared)
        self.trajectory = trajectory
        self._check_trajectory()

    # -- all samples ------------------------------------------------------------------------------------------

    @torch.no_grad()
    def check_steady(self, data: Data, logits: Tensor) -> None:
        """Ask again for the first samples of ``data`` and refuse a model that answers otherwise than before.

        Args:
            data: what the model was asked about.
            logits: what it answered, (n, classes).

        Raises:
            ModelError: the model has changed in between, or is one that says something else each time.
        """
        again = self.forward(self.to_device(self._few(data))).cpu()
        check_same(logits[: len(again)].cpu(), again, STATEFUL.format(role=data.role), self._rounding)

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
        found = PreallocatedRows(len(data))
        with self._isolated():
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
        found = PreallocatedRows(len(data))
        handle = self.watch_head(lambda features: latest.append(features.float().cpu()))
        try:
            with self._isolated():
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
        fit_weights(other.module, renamed(self.trajectory.state(point), other.module), what)
        check_weights(other.module, what)
        other._name_weights(None if self.head is None else self.head.name)
        for worked_out in ("model_hash", "full_precision"):
            other.__dict__.pop(worked_out, None)
        return other

    @cached_property
    def full_precision(self) -> Target:
        """The target to unlearn from: itself, or where weights are in half precision one that holds them as float32.

        Steps of unlearning are too short for half precision: most weights would not move at all.

        Raises:
            ModelError: as float32 the model raises, or gives other logits than rounding explains.
        """
        if not any(is_half(value) for value in (*self.module.parameters(), *self.module.buffers())):
            return self
        return self._widened()

    @own_settings()
    @torch.no_grad()
    def _widened(self) -> Target:
        other = copy.copy(self)
        other.__dict__.pop("model_hash", None)
        other.module = in_single(plain_copy(self.module))
        other.dtype, other._casts, other._in_single = torch.float32, {}, True
        other._name_weights(None if self.head is None else self.head.name)
        remedy = "unlearning works on float32 weights: hand over model.float(), if it is what you run"
        with self._isolated():
            for data in (self.data, self.heldout):
                if data is None:
                    continue
                try:
                    other._first_logits(self._few(data), data.role, other.module)
                    x = data.fetch(torch.arange(min(self.batch_size, len(data))))[0]
                    one, same = self.forward(self.to_device(x)), other.forward(other.to_device(x))
                except Exception as error:
                    raise ModelError(
                        f"the model raised {type(error).__name__} with its half-precision weights as float32: "
                        f"{first_line(error)}; {remedy}"
                    ) from error
                message = f"the model gives other logits with its weights as float32; {remedy}"
                check_same(one, same, message, self._rounding)
        return other

    def in_order(self, order: Tensor) -> Target:
        """The same target with its training samples in another order, a permutation of int64, shape (n,).

        Outputs in a trajectory stay in the order of the source.
        """
        other = copy.copy(self)
        other.data = self.data.reordered(order)
        other.__dict__.pop("data_hash", None)
        return other

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
                module = in_single(module)
            with self._isolated():
                classes = self._first_logits(self._few(self.data), self.data.role, module).shape[1]
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
    def data_hash(self) -> str:
        """SHA-256 over the training data, hexadecimal."""
        return self.data.digest()

    @cached_property
    def heldout_hash(self) -> str:
        """SHA-256 over the held-out data, hexadecimal; empty where there is none."""
        return "" if self.heldout is None else self.heldout.digest()

    # -- inspection -------------------------------------------------------------------------------------------

    def _few(self, data: Data) -> Inputs:
        """The first samples of ``data``, at most 4, as they lie on the CPU."""
        return data.fetch(torch.arange(min(FEW, len(data))))[0]

    @torch.no_grad()
    def _first_logits(self, x: Inputs, role: str, module: nn.Module) -> Tensor:
        """Logits of the first samples ``x`` of the data called ``role``, checked to be logits.

        The types in which the target's own module takes these inputs are kept for :meth:`to_device`.

        Raises:
            ModelError: they are no finite logits of shape (n, classes), or the model changed its input.
            DatasetError: the model raised.
        """
        own = types_of(x)
        x = self.to_device(x)
        ask = keeping_inputs(partial(self.answer, module))
        try:
            taken, output = types_taken(ask, x, module.parameters() if module is self.module else ())
        except ModelError:
            raise
        except Exception as error:
            shapes = " and ".join(f"{tuple(leaf.shape)} of {leaf.dtype}" for leaf in leaves(x))
            raise DatasetError(
                f"the model cannot take the {role}'s inputs: a batch of shape {shapes} raised "
                f"{type(error).__name__}: {first_line(error)}. Bring the {role} to the shape and type that "
                "model(x) takes."
            ) from error
        if taken != own:
            self._casts[own] = taken
        check_first_logits(output, len(leaves(x)[0]), role)
        return output

    def _check_trajectory(self) -> None:
        """Refuse a trajectory of another model or of other data; every checkpoint is read once."""
        if self.trajectory is None:
            return
        if not isinstance(self.trajectory, Trajectory):
            raise InputError(
                f"trajectory: expected a forgetcast.Trajectory; got {type(self.trajectory).__name__}: make one with "
                "Trajectory.from_checkpoints or Trajectory.from_outputs"
            )
        check_outputs(self.trajectory, len(self), self.num_classes)
        if self.trajectory.outputs is None:
            for point in range(self.trajectory.points):
                self.at(point)

    def _inspect_model(self, x: Inputs) -> None:
        """One watched forward pass over the first samples ``x``: number of classes, rounding, last linear layer."""
        with linear_calls(self.module) as seen:
            output = self._first_logits(x, self.data.role, self.module)
        self.num_classes = int(output.shape[1])
        self._rounding = rounding(output, self.module, self._settings)
        self.head, self.head_missing = find_head(self.module, seen, output)
