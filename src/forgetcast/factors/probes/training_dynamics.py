"""Training dynamics: loss and margin of every sample at every point of a training run."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from forgetcast.target.checks import check_finite
from forgetcast.target.layers import reproducible
from forgetcast.target.logits import cross_entropy, margin
from forgetcast.target.target import Target

__all__ = ["TrainingDynamics", "checkpoint_dynamics", "recorded_dynamics"]

SMALLEST = 1e-38
"""What a recorded probability of 0 counts as: a loss of 87 nats."""


@dataclass(frozen=True)
class TrainingDynamics:
    """Every sample at every point of the training run."""

    loss: Tensor
    """Cross-entropy of the label in nats, float32, shape (points, n)."""
    margin: Tensor | None
    """Logit of the label minus the largest other, float32, shape (points, n); None where only probabilities of the
    label were kept."""

    def take(self, samples: Tensor) -> TrainingDynamics:
        """The dynamics of some samples, in that order."""
        return TrainingDynamics(self.loss[:, samples], None if self.margin is None else self.margin[:, samples])

    @property
    def confidence(self) -> Tensor:
        """Probability of the label, float64, shape (points, n)."""
        return (-self.loss.double()).exp()


@torch.no_grad()
def checkpoint_dynamics(target: Target, points: int, seed: int, progress: bool) -> TrainingDynamics:
    """Run every checkpoint of the target's trajectory forward over the training data, one after the other.

    Raises:
        ModelError: a checkpoint gives NaN or infinite logits.
    """
    loss, lead = torch.empty(points, len(target)), torch.empty(points, len(target))
    for point in tqdm(range(points), desc="checkpoints", disable=not progress, leave=False):
        there = target.at(point)
        with reproducible(there, seed):
            for index, x, y in there.data.batches(there.batch_size):
                logits = there.forward(there.to_device(x)).cpu().double()
                check_finite(logits, there.data, int(index[0]))
                loss[point, index] = cross_entropy(logits, y).float()
                lead[point, index] = margin(logits, y).float()
    return TrainingDynamics(loss, lead)


def recorded_dynamics(outputs: np.ndarray, labels: Tensor, batch_size: int) -> TrainingDynamics:
    """The dynamics in recorded logits (points, n, C) or probabilities of the label (points, n)."""
    loss, lead = torch.empty(outputs.shape[:2]), torch.empty(outputs.shape[:2])
    for point, rows in enumerate(outputs):
        for index in torch.arange(len(labels)).split(batch_size):
            values = torch.from_numpy(np.array(rows[index[0] : index[-1] + 1], dtype=np.float64))
            if outputs.ndim == 2:
                loss[point, index] = -values.clamp(min=SMALLEST).log().float()
            else:
                loss[point, index] = cross_entropy(values, labels[index]).float()
                lead[point, index] = margin(values, labels[index]).float()
    return TrainingDynamics(loss, None if outputs.ndim == 2 else lead)
