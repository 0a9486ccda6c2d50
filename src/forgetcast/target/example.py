"""What the conformance checks share: a picture of a model's state, and a small target to check on."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from forgetcast.target.seeding import seeded
from forgetcast.target.target import Target
from forgetcast.target.trajectory import Trajectory

__all__ = ["example_target", "module_state", "same_state"]


def module_state(module: nn.Module) -> Mapping[str, Any]:
    """Everything of a model that a plugin must leave as it was, by the words for it."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return {
        "the state": {name: value.detach().clone() for name, value in module.state_dict().items()},
        "the training mode": [part.training for part in module.modules()],
        "requires_grad": [parameter.requires_grad for parameter in module.parameters()],
        "a gradient": [parameter.grad is None for parameter in module.parameters()],
        "a hook": [len(getattr(part, name)) for part in module.modules() for name in hooks],
    }


def same_state(a: Any, b: Any) -> bool:
    """Whether two entries of ``module_state`` agree, tensors bit for bit."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
    return bool(a == b)


@lru_cache(maxsize=1)
def example_target() -> Target:
    """A perceptron trained for a moment on three clouds of points, a few labels wrong; it can be trained again.

    It has held-out data and four checkpoints of its training.
    """
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(90) % 3
    x = torch.randn(90, 5, generator=generator) + 2 * torch.randn(3, 5, generator=generator)[y]
    y[::17] = (y[::17] + 1) % 3

    def train(indices: np.ndarray, seed: int, steps: int = 40) -> nn.Module:
        return _fit(x[torch.as_tensor(indices)], y[torch.as_tensor(indices)], seed, steps)

    everyone = np.arange(60)
    checkpoints = [train(everyone, 0, steps).state_dict() for steps in (2, 10, 20, 40)]
    return Target(
        train(everyone, 0),
        (x[:60], y[:60]),
        heldout=(x[60:], y[60:]),
        train=train,
        trajectory=Trajectory.from_checkpoints(checkpoints, lr=[0.02, 0.02, 0.01, 0.01]),
        name="example",
    )


def _fit(x: Tensor, y: Tensor, seed: int, steps: int) -> nn.Module:
    with seeded(seed):
        model = nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    return model
