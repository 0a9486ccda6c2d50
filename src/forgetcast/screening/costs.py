"""What unlearning and retraining cost on this machine: a few real steps, timed."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional as F

from forgetcast import registry
from forgetcast.errors import NotApplicableError, PluginError, UnknownNameError, first_line
from forgetcast.target.plain_copy import plain_copy
from forgetcast.target.seeding import seeded
from forgetcast.target.settings import own_settings
from forgetcast.target.target import Target
from forgetcast.unlearn.base import Samples
from forgetcast.wording import duration

__all__ = ["Costs", "measure_costs", "timed_retraining"]

STEPS = 3
"""Steps of an unlearner that are timed after its first."""
BATCH, BATCHES = 128, 10
"""Samples per training batch, and batches of which the quickest counts."""
FIRST, BUDGET = 256, 20.0
"""Samples of the first training that is timed, and seconds that all of them may be expected to take."""
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
    """Training the model again: as it is known, timed, or assumed."""
    basis: str
    """Where that figure comes from, a clause."""
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
        retraining: seconds of one retraining, if they are known; else ``epochs`` times the measured pass. See
            :func:`timed_retraining`.
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
    if retraining is not None:
        return Costs(table, epoch, float(retraining), "as the policy says (retrain_seconds)", failed)
    assumed = (
        f"assumed: {epochs:g} epochs (retrain_epochs of the policy) of {duration(epoch)} each, measured on batches"
    )
    return Costs(table, epoch, epochs * epoch, assumed, failed)


def timed_retraining(target: Target, costs: Costs, *, seed: int = 0, say: Callable[[str], None] | None = None) -> Costs:
    """The same costs with the time that the target's own ``train`` callable really takes.

    Models are trained on 256 samples, then on more and more, as long as all together are expected to take at most 20
    seconds. If that gets as far as all samples, the last training is the answer; else it is the straight line through
    the last two, or through nothing and the only one. The line holds where a training passes over the data a fixed
    number of times, or takes a fixed number of steps. The models are thrown away. What ``train`` prints goes to stderr.

    Args:
        target: with a ``train`` callable.
        costs: what was measured before; kept as it is, with the reason in ``basis``, if a training fails.
        seed: of the draw of samples and of the trainings.
        say: is called with a sentence before the first training.
    """
    n = len(target)
    if say is not None:
        say(f"timing trainings on {min(n, FIRST):,} to {n:,} samples (retrain_seconds in the policy spares them)")
    order = _every_class_first(target.labels, seed)
    sizes, times = [0], [0.0]
    size = min(n, FIRST)
    while True:
        began = time.perf_counter()
        try:
            with redirect_stdout(sys.stderr), seeded(seed, target.device):
                target.train(order[:size], seed)
        except Exception as error:
            reason = f"{costs.basis}; a training on {size:,} samples failed: {first_line(error)}"
            return replace(costs, basis=reason)
        sizes.append(size)
        times.append(max(time.perf_counter() - began, 1e-9))
        if size == n:
            return replace(costs, retraining=times[-1], basis="timed: one training by the target's own train")
        more = min(4.0, (BUDGET - sum(times)) / times[-1])
        if more < 1.5:
            break
        size = min(n, int(size * more))
    slope = max(times[-1] - times[-2], 0.0) / (sizes[-1] - sizes[-2])
    seen = " and ".join(f"{count:,}" for count in sizes[-2:] if count)
    return replace(
        costs,
        retraining=times[-1] + slope * (n - sizes[-1]),
        basis=f"extrapolated in a straight line from trainings on {seen} of {n:,} samples by the target's own train",
    )


def _every_class_first(labels: Tensor, seed: int) -> Tensor:
    """All samples in random order, one of every class at the beginning."""
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    _, first = np.unique(labels[order].numpy(), return_index=True)
    rest = np.ones(len(order), dtype=bool)
    rest[first] = False
    return torch.cat([order[torch.as_tensor(first)], order[torch.as_tensor(rest)]])


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
    parameters = [value.requires_grad_() for name, value in copy.named_parameters() if name in target.params]
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
