"""What all unlearners of one target share: utility data, the target's own predictions, neighbours."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from forgetcast.errors import NotApplicableError
from forgetcast.target.data import Data
from forgetcast.target.inputs import Inputs, leaves, map_leaves
from forgetcast.target.logits import single
from forgetcast.target.preallocated import concatenated
from forgetcast.target.seeding import sample_positions
from forgetcast.target.target import Target
from forgetcast.unlearn.inference import Inference
from forgetcast.unlearn.protocol import Protocol
from forgetcast.unlearn.stack import Params, Stack, map_models, stackable

__all__ = ["Workbench", "required_heldout"]


def required_heldout(target: Target) -> Data:
    """The held-out data of a target, without which no damage can be measured.

    Raises:
        NotApplicableError: there is none.
    """
    if target.heldout is None:
        raise NotApplicableError(
            f"target {target.name!r} has no held-out data: pass heldout=(x, y) to Target; collateral is measured on it"
        )
    return target.heldout


class Workbench:
    """Made once per target and handed to every run on it.

    Raises:
        NotApplicableError: the target has no held-out data.
    """

    def __init__(self, target: Target, protocol: Protocol) -> None:
        heldout = required_heldout(target)
        self.target, self.protocol = target.full_precision, protocol
        self.retain = sample_positions(len(target), protocol.utility_samples, 1)
        """Positions of the retain sample in the training data, (R,)."""
        self.test = sample_positions(len(heldout), protocol.utility_samples, 2)
        """Positions of the test sample in the held-out data, (T,)."""
        self.retain_x, self.retain_y = target.data.fetch(self.retain)
        self.test_x, self.test_y = heldout.fetch(self.test)
        self.features = self._features()
        self._inference = _inference(self.target, self.retain_x, self.test_x)
        self._stacked = stackable(self.target.module, batches=True)
        self.base = self.utility(self.target.params)
        """The target's own logits on the retain sample, then on the held-out sample, (R + T, classes)."""

    def _features(self) -> Tensor:
        """Unit-length penultimate features, or unit-length inputs where the model has no last linear layer."""
        if self.target.head is not None:
            features = self.target.features()
        else:
            features = concatenated(len(self.target), (_flat(x) for _, x, _ in self.target.data.batches()))
        return F.normalize(features.float(), dim=1)

    def neighbours(self, index: Tensor) -> Tensor:
        """The k nearest retained training samples by cosine, (m, k)."""
        similarity = self.features[index] @ self.features.T
        similarity[torch.arange(len(index)), index] = -torch.inf
        return similarity.topk(min(self.protocol.neighbours, len(self.features) - 1), dim=1).indices

    def utility(self, params: Params) -> Tensor:
        """Logits of one model on the retain sample, then on the held-out sample, (R + T, classes), on the CPU."""
        return torch.cat([inference(params) for inference in self._inference])

    def utility_of_stack(self, stack: Stack) -> Tensor:
        """The same of m models, (m, R + T, classes)."""
        return torch.cat([inference.stack(stack) for inference in self._inference], 1)

    @torch.no_grad()
    def neighbour_logits(self, stack: Stack, neighbours: Tensor) -> Tensor:
        """Logits of every model on its own sample's neighbours, (m, k, classes), on the CPU."""
        m, k = neighbours.shape
        parts = []
        for rows in torch.arange(m).split(32 if self._stacked else 1):
            x, _ = self.target.data.fetch(neighbours[rows].flatten())
            x = map_leaves(partial(Tensor.unflatten, dim=0, sizes=(len(rows), k)), x)
            part = {name: value[rows] for name, value in stack.items()}
            parts.append(single(map_models(self._call, part, x, stacked=self._stacked)).cpu())
        return torch.cat(parts)

    @torch.no_grad()
    def neighbour_logits_of_one(self, params: Params, neighbours: Tensor) -> Tensor:
        """Logits of one model on the neighbours of several samples, (m, k, classes), on the CPU."""
        parts = []
        for part in neighbours.flatten().split(self.target.batch_size):
            x, _ = self.target.data.fetch(part)
            parts.append(single(self._call(params, x)).cpu())
        return torch.cat(parts).unflatten(0, tuple(neighbours.shape))

    def _call(self, params: Params, x: Any) -> Tensor:
        return self.target.call(params, self.target.to_device(x))


def _inference(target: Target, *parts: Inputs) -> list[Inference]:
    """One for all parts together where they have one shape, else (texts of other lengths) one each."""
    shapes = [[leaf.shape[1:] for leaf in leaves(part)] for part in parts]
    if not all(isinstance(part, Tensor) for part in parts) or any(shape != shapes[0] for shape in shapes):
        return [Inference(target, part) for part in parts]
    return [Inference(target, torch.cat([part for part in parts if isinstance(part, Tensor)]))]


def _flat(x: Any) -> Tensor:
    return torch.cat([leaf.flatten(1).float() for leaf in leaves(x)], 1)
