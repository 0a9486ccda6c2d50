"""Trajectory: what was kept from the training run, as checkpoints or as the model's outputs after every epoch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from forgetcast._arguments import checked
from forgetcast.errors import InputError, PathError
from forgetcast.target.weights import read_weights

__all__ = ["Trajectory"]

State = Mapping[str, Tensor] | Path


@dataclass(frozen=True, eq=False)
class Trajectory:
    """Points of a training run in the order of time, at least two; made by one of its two constructors.

    >>> Trajectory.from_outputs([[0.2, 0.5, 0.4], [0.6, 0.9, 0.1]]).points
    2
    """

    states: tuple[State, ...] = ()
    """State dicts, or files of them; empty where outputs are given."""
    lr: tuple[float, ...] = ()
    """Learning rate at every state."""
    outputs: np.ndarray | None = None
    """Logits (points, n, C) or probabilities of the label (points, n); None where states are given."""

    @classmethod
    @checked("checkpoints")
    def from_checkpoints(
        cls,
        checkpoints: Sequence[Mapping[str, Tensor] | str | Path],
        lr: float | Sequence[float] = 1.0,
    ) -> Trajectory:
        """A training run as the weights it went through.

        Files are read one at a time whenever they are needed, so memory does not grow with their number. They are
        read once when the target is made, to check that they fit, and once or twice for the factors. States in memory
        travel along to every process that a measurement runs in; files do not.

        Args:
            checkpoints: state dicts of the model, paths of ``.safetensors`` files, or of state dicts saved by
                ``torch.save`` (any other suffix), the earliest first.
            lr: learning rate at every checkpoint, or one for all; TracIn weighs checkpoints by it.

        Raises:
            InputError: fewer than two checkpoints, one of another kind, or rates that are not numbers >= 0.
            PathError: a file is missing.
        """
        if isinstance(checkpoints, (str, Path, Mapping)) or not isinstance(checkpoints, Iterable):
            raise InputError(f"expected a list of checkpoints; got one {type(checkpoints).__name__}")
        states: list[State] = []
        for state in checkpoints:
            if isinstance(state, (str, Path)):
                state = Path(state)
                if not state.is_file():
                    raise PathError(f"checkpoint: there is no file {state}")
            elif not isinstance(state, Mapping):
                raise InputError(f"checkpoint: expected a state dict or a path; got {type(state).__name__}")
            states.append(state)
        _check_points(len(states))
        rates = np.asarray(lr, dtype=float)
        if rates.shape not in ((), (len(states),)) or not (np.isfinite(rates) & (rates >= 0)).all():
            raise InputError(f"lr: expected a number >= 0, or one for each of {len(states)} checkpoints; got {lr!r}")
        return cls(tuple(states), tuple(np.broadcast_to(rates, len(states)).tolist()))

    @classmethod
    def from_outputs(cls, outputs: Any) -> Trajectory:
        """A training run as what the model said of every training sample, say after every epoch.

        Args:
            outputs: logits of shape (points, n, C), or probabilities of the label of shape (points, n): a tensor, an
                array (a memory-mapped one stays on disk) or nested lists, the earliest point first, samples in the
                order of the dataset. With probabilities alone, factors that ask for the most likely class do not
                apply; without checkpoints, TracIn does not.

        Raises:
            InputError: another shape, fewer than two points, or values that cannot be logits or probabilities.
        """
        if isinstance(outputs, Tensor):
            outputs = outputs.detach().cpu()
            outputs = outputs.float() if outputs.dtype == torch.bfloat16 else outputs
        try:
            array = np.asarray(outputs)
        except ValueError as error:
            raise InputError(f"trajectory: expected an array; got {type(outputs).__name__}: {error}") from error
        if array.ndim not in (2, 3) or array.dtype.kind not in "fiu":
            raise InputError(
                "trajectory: expected logits of shape (points, n, C) or probabilities of the label of shape "
                f"(points, n); got {array.shape} of {array.dtype}"
            )
        _check_points(len(array))
        for k, point in enumerate(array):
            if not np.isfinite(point).all():
                raise InputError(f"trajectory: point {k} holds NaN or infinity")
            if array.ndim == 2 and ((point < 0) | (point > 1)).any():
                raise InputError(
                    f"trajectory: values of shape (points, n) are taken for probabilities of the label, from 0 to 1; "
                    f"point {k} holds {point[(point < 0) | (point > 1)][0]:g}. Give logits as (points, n, C)"
                )
            if array.ndim == 3 and (point >= 0).all() and np.allclose(point.sum(1, dtype=float), 1, atol=1e-3):
                raise InputError(
                    f"trajectory: point {k} holds probabilities (each row sums to 1) where logits are expected: "
                    "give the values before softmax, or their logarithm"
                )
        return cls(outputs=array)

    @property
    def points(self) -> int:
        """Number of points in time."""
        return len(self.states) if self.outputs is None else len(self.outputs)

    def name_of(self, point: int) -> str:
        """What messages call checkpoint ``point`` (0 the first): its number and its file."""
        state = self.states[point]
        return f"checkpoint {point}" + (f" ({state})" if isinstance(state, Path) else "")

    def state(self, point: int) -> Mapping[str, Tensor]:
        """The weights at checkpoint ``point`` (0 the first).

        Raises:
            FileFormatError: its file is damaged or holds something else.
        """
        state = self.states[point]
        return read_weights(state) if isinstance(state, Path) else state

    def take(self, samples: Tensor) -> Trajectory:
        """The same run for some of the samples, or for all in another order."""
        return self if self.outputs is None else Trajectory(outputs=self.outputs[:, samples.numpy()])


def _check_points(count: int) -> None:
    if count < 2:
        raise InputError(f"trajectory: expected at least two points of the training run; got {count}")
