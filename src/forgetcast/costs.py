"""What unlearning and retraining cost on this machine: a few real steps, timed."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from torch.nn import functional as F

from forgetcast import registry
from forgetcast._plain_copy import plain_copy
from forgetcast._random import seeded
from forgetcast._settings import own_settings
from forgetcast.errors import NotApplicableError, PluginError, UnknownNameError
from forgetcast.target import Target
from forgetcast.unlearn.base import Samples

__all__ = ["Costs", "measure_costs"]

STEPS = 3
"""Steps of an unlearner that are timed after its first."""
BATCH, BATCHES = 128, 10
"""Samples per training batch, and batches of which the quickest counts."""
STARTS = 2
"""Starts of an unlearner of which the quicker counts: what else the machine does only adds to a time."""


@dataclass(frozen=True)
class Costs:
    """Wall times in seconds on this machine."""

    unlearners: pd.DataFrame
    """One row per unlearner that can serve this model (index: its name): prepare (once per model), start (once per
    request) and step (per step along its path)."""
    epoch: float
    """One pass over the training data with gradients, estimated from a few batches."""
    retraining: float
    """Training the model again: what the policy says, or its epochs."""
    failed: dict[str, str]
    """Unlearners that cannot serve this model, or come from a plugin that failed, and why."""

    def seconds(self, unlearner: str, steps: float) -> float:
        """For one request, prepared already: the start and the steps; NaN for an unlearner that was not timed."""
        if unlearner not in self.unlearners.index:
            return float("nan")
        start, step = self.unlearners.loc[unlearner, ["start", "step"]].to_numpy(dtype=float)
        return float(start + steps * step)

    def prepare(self, unlearners: Sequence[str]) -> float:
        """Preparing each of some unlearners once."""
        known = [name for name in dict.fromkeys(unlearners) if name in self.unlearners.index]
        return float(self.unlearners.loc[known, "prepare"].sum())


@own_settings()
def measure_costs(
    target: Target,
    unlearners: Sequence[str],
    index: int,
    *,
    epochs: float = 20.0,
    retraining: float | None = None,
    seed: int = 0,
) -> Costs:
    """Time preparing each unlearner, its first steps on one sample, and a few training batches.

    Nothing is kept of what the steps do. Times differ by a few tens of per cent from one run to the next.

    Args:
        target: what would be unlearned from; never changed.
        unlearners: registered names.
        index: a training sample to walk with.
        epochs: passes over the data that one retraining takes.
        retraining: seconds of one retraining, if they are known; else ``epochs`` times the measured pass.
        seed: of the unlearners.
    """
    walked = target.full_precision
    samples = Samples.of(walked, torch.tensor([index]))
    rows, failed = {}, {}
    for name in unlearners:
        try:
            rows[name] = _unlearner(walked, registry.unlearner(name), samples, seed)
        except (NotApplicableError, UnknownNameError, PluginError) as error:
            failed[name] = str(error)
        except Exception as error:
            plugin = registry.third_party(registry.UNLEARNER_GROUP, name)
            if plugin is None:
                raise
            failed[name] = f"{plugin} raised {registry.raised(error)}"
    table = pd.DataFrame.from_dict(rows, orient="index", columns=["prepare", "start", "step"], dtype=float)
    epoch = _epoch(target)
    return Costs(table, epoch, epochs * epoch if retraining is None else float(retraining), failed)


def _unlearner(target: Target, unlearner: Any, samples: Samples, seed: int) -> tuple[float, float, float]:
    """Seconds to prepare, to start (the walk and what its first step takes beyond others), and per step."""
    began = time.perf_counter()
    state = unlearner.prepare(target)
    prepared = time.perf_counter()
    starts, steps = [], []
    for _ in range(STARTS):
        started = time.perf_counter()
        walk = unlearner.walk(target, state, samples, seed)
        walk.step()
        first = time.perf_counter()
        starts.append(first - started)
        taken = 0
        while taken < STEPS and walk.step() is not None:
            taken += 1
        steps.append((time.perf_counter() - first) / max(taken, 1))
    step = max(min(steps), 0.0)  # whatever the clock does
    return max(prepared - began, 0.0), max(min(starts) - step, 0.0), step


def _epoch(target: Target) -> float:
    """Seconds that one pass over the training data takes: fetch, forward, backward and update of a plain copy."""
    copy = plain_copy(target.module).train()
    parameters = [value.requires_grad_(value.is_floating_point()) for value in copy.parameters()]
    optimiser = torch.optim.SGD(parameters, lr=1e-6)
    size = min(BATCH, len(target))
    generator = torch.Generator().manual_seed(0)
    spent = []
    with seeded(0, target.device):  # dropout draws
        for _ in range(BATCHES):
            chosen = torch.randperm(len(target), generator=generator)[:size]
            began = time.perf_counter()
            x, y = target.data.fetch(chosen)
            x = target.to_device(x)
            optimiser.zero_grad()
            F.cross_entropy(target.answer(copy, x), y.to(target.device)).backward()
            optimiser.step()
            spent.append(time.perf_counter() - began)
    return max(min(spent), 0.0) * len(target) / size
