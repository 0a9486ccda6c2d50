"""Exact unlearning: train again from scratch without the sample. The reference, not a rival."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from torch import nn

from forgetcast.target.target import Target
from forgetcast.unlearn.base import PathWalk, Samples, Unlearner, Walk
from forgetcast.unlearn.stack import Params

__all__ = ["Retraining"]


@dataclass(frozen=True)
class Retraining(Unlearner):
    """A path of one point: the model trained without x_i. Its control is trained with the same seed on everything.

    Needs the target's ``train`` callable. Points between the control and the retrained model mean nothing, so the
    engine does not bisect.
    """

    name: ClassVar[str] = "retraining"
    approximates_retraining: ClassVar[bool] = True

    def path(self, target: Target, state: Any, samples: Samples, seed: int) -> Iterator[tuple[Params, Params]]:
        yield self._retrain(target, int(samples.index[0]), seed), self._control(target, seed)

    def walk(self, target: Target, state: Any, samples: Samples, seed: int) -> Walk:
        control = self._control(target, seed)  # once for all samples

        def one(index: int) -> Iterator[tuple[Params, Params]]:
            yield self._retrain(target, index, seed), control

        walk = PathWalk([one(index) for index in samples.index.tolist()])
        walk.discrete = True
        return walk

    @staticmethod
    def _retrain(target: Target, index: int, seed: int) -> Params:
        return _state(target.train(np.delete(np.arange(len(target)), index), seed))

    @staticmethod
    def _control(target: Target, seed: int) -> Params:
        return _state(target.train(np.arange(len(target)), seed))


def _state(module: nn.Module) -> Params:
    """Parameters and buffers: a retrained model has batch-norm statistics of its own."""
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}
