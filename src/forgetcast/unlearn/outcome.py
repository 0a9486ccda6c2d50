"""What is measured where a path crosses its goal: forgetting, damage against the control, membership, relearning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional as F

from forgetcast.target.logits import margin, single, true_probability
from forgetcast.target.target import Target
from forgetcast.unlearn.base import Samples
from forgetcast.unlearn.control import ControlPath
from forgetcast.unlearn.inference import own_logits
from forgetcast.unlearn.protocol import Protocol
from forgetcast.unlearn.relearn import relearn_steps
from forgetcast.unlearn.stack import Stack, distance, rows
from forgetcast.unlearn.workbench import Workbench

__all__ = ["Crossed", "Measure", "goal_values", "total_variation"]

LOGITS = 1 << 25
"""Logits held at a time."""


@dataclass(frozen=True)
class Crossed:
    """Where paths of some samples are measured, one row per sample and objective."""

    position: Tensor
    """Among the samples that walk together, (r,)."""
    objective: Tensor
    """Number of the objective, (r,)."""
    later: Tensor
    """The step on the path or just after the crossing, whole numbers, (r,); 0 is the target."""
    fraction: Tensor
    """How much of that step was taken, (r,)."""
    params: Stack
    """The models there."""
    reached: bool
    """Whether their goals were met."""

    def take(self, chosen: Tensor) -> Crossed:
        """Some of the rows."""
        return Crossed(
            self.position[chosen],
            self.objective[chosen],
            self.later[chosen],
            self.fraction[chosen],
            rows(self.params, chosen),
            self.reached,
        )


def goal_values(objectives: Sequence[str], logits: Tensor, labels: Tensor) -> Tensor:
    """What the goals are about: true-label probability (``retrain``) or margin (``erase``), (objectives, r)."""
    value = {"retrain": true_probability, "erase": margin}
    return torch.stack([value[objective](logits, labels) for objective in objectives])


def total_variation(a: Tensor, b: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean total-variation distance between two models' predictions, in [0, 1].

    Args:
        a: logits of one model, (..., b, classes).
        b: logits of the other, (..., b, classes).
        weight: of every sample, (..., b); default all alike.
    """
    return _mean((_probabilities(a) - _probabilities(b)).abs().sum(0) / 2, weight)


def _probabilities(logits: Tensor) -> Tensor:
    """Softmax with the classes first, (classes, ...): over a last dimension of ten it takes twelve times as long."""
    return logits.movedim(-1, 0).contiguous().softmax(0)


def _mean(values: Tensor, weight: Tensor | None = None) -> Tensor:
    """Over the last dimension."""
    return values.mean(-1) if weight is None else (values * weight).sum(-1) / weight.sum(-1).clamp_min(1)


@dataclass(frozen=True)
class Measure:
    """Measures m samples that walked together, where their paths cross their goals."""

    target: Target
    bench: Workbench
    samples: Samples
    objectives: Sequence[str]
    limits: Tensor
    """What every objective's goal asks for, (objectives, m)."""
    before: Tensor
    """The same of the target, (objectives, m)."""
    control: ControlPath
    """The control's path as far as it is needed."""
    protocol: Protocol

    def frame(self, crossed: Sequence[Crossed]) -> pd.DataFrame:
        """One row per sample and objective, in their order; what ``crossed`` does not hold was trivial."""
        most = max(1, LOGITS // self.bench.base.numel())
        frames = [
            self.rows(found.take(part)) for found in crossed for part in torch.arange(len(found.position)).split(most)
        ]
        if bool((self.before <= self.limits).any()):
            frames.append(self.trivial())
        frame = pd.concat(frames, ignore_index=True)
        order = frame["position"] * len(self.objectives) + frame["number"]
        return frame.iloc[order.argsort(kind="stable")].drop(columns=["position", "number"]).reset_index(drop=True)

    def trivial(self) -> pd.DataFrame:
        """Samples whose goal was met from the start: nothing forgotten, no damage."""
        objective, position = (self.before <= self.limits).nonzero(as_tuple=True)
        still = dict.fromkeys(("steps", "shift", "tv_retain", "tv_test", "tv_neighbours"), 0.0)
        logits = single(self.samples.logits[position]).cpu()
        base = self.bench.base[len(self.bench.retain) :][None]
        start = self._of_sample(logits, position, base)
        return pd.DataFrame(
            {
                **self._keys(position, objective),
                "trivial": True,
                "reached": True,
                "forgetting": 1.0,
                **still,
                "accuracy_change_retain": 0.0,
                "accuracy_change_test": 0.0,
                **{f"{name}_{when}": value for name, value in start.items() for when in ("before", "after")},
                "relearn_steps": 0,
            }
        )

    def rows(self, found: Crossed) -> pd.DataFrame:
        """Outcomes at the crossings."""
        position, bench = found.position, self.bench
        labels = self.samples.y[position].cpu()
        retain = len(bench.retain)
        after = bench.utility_of_stack(found.params)
        control = self.control.utility(found.later, found.fraction)
        near = bench.neighbours(self.samples.index[position])
        near_after = bench.neighbour_logits(found.params, near)
        near_control = self.control.neighbours(found.later, found.fraction, near)
        reference = self.control.params(found.later, found.fraction)
        now = own_logits(self.target, found.params, self.samples.take(position).x)
        value = goal_values(self.objectives, now, labels).gather(0, found.objective[None])[0]
        start, limit = (part[found.objective, position] for part in (self.before, self.limits))
        share = ((start - value) / (start - limit).clamp_min(1e-12)).clamp(0, 1)
        kept = (bench.retain[None] != self.samples.index[position, None]).float()
        right = [
            (logits[:, part].argmax(-1) == truth).float()
            for part, truth in ((slice(retain), bench.retain_y), (slice(retain, None), bench.test_y))
            for logits in (after, control)
        ]
        first = self._of_sample(single(self.samples.logits[position]).cpu(), position, bench.base[retain:][None])
        last = self._of_sample(now, position, after[:, retain:])
        again = relearn_steps(
            self.target,
            found.params,
            self.samples.take(position),
            lr=self.protocol.relearn_lr,
            most=self.protocol.relearn_most,
        )
        return pd.DataFrame(
            {
                **self._keys(position, found.objective),
                "trivial": False,
                "reached": found.reached,
                "forgetting": 1.0 if found.reached else _numbers(share),
                "steps": _numbers((found.later - 1 + found.fraction).clamp_min(0)),
                "shift": _numbers(distance(found.params, reference, self.target.params)),
                "tv_retain": _numbers(total_variation(after[:, :retain], control[:, :retain], kept)),
                "tv_test": _numbers(total_variation(after[:, retain:], control[:, retain:])),
                "tv_neighbours": _numbers(total_variation(near_after, near_control)),
                "accuracy_change_retain": _numbers(_mean(right[0] - right[1], kept)),
                "accuracy_change_test": _numbers(_mean(right[2] - right[3])),
                **{f"{name}_before": value for name, value in first.items()},
                **{f"{name}_after": value for name, value in last.items()},
                "relearn_steps": again.numpy(),
            }
        )

    def _keys(self, position: Tensor, objective: Tensor) -> dict[str, object]:
        return {
            "position": position.numpy(),
            "number": objective.numpy(),
            "index": self.samples.index[position].numpy(),
            "objective": np.array(self.objectives, dtype=object)[objective.numpy()],
            "goal": _numbers(self.limits[objective, position]),
        }

    def _of_sample(self, logits: Tensor, position: Tensor, test_logits: Tensor) -> dict[str, np.ndarray]:
        """p, margin and membership evidence of samples; ``test_logits`` (r or 1, T, classes)."""
        labels = self.samples.y[position].cpu()
        return {
            "p": _numbers(true_probability(logits, labels)),
            "margin": _numbers(margin(logits, labels)),
            "mia": _numbers(membership(logits, labels, test_logits, self.bench.test_y)),
        }


def membership(logits: Tensor, labels: Tensor, test_logits: Tensor, test_labels: Tensor) -> Tensor:
    """Membership evidence: share of held-out samples of the class (all, when fewer than 5) with a higher loss, (r,).

    0.5 on average for a sample the model never saw; near 1 for one it memorized (loss attack of Yeom et al. 2018,
    arXiv 1709.01604, per class).

    Args:
        logits: of the sample under each of r models, (r, classes).
        labels: of the sample, (r,).
        test_logits: of the held-out samples under the same models, (r, T, classes), or (1, T, classes) for one model.
        test_labels: (T,).
    """
    loss = F.cross_entropy(logits, labels, reduction="none")[:, None]
    pool = test_labels[None] == labels[:, None]
    pool = pool | (pool.sum(1, keepdim=True) < 5)
    losses = F.cross_entropy(test_logits.mT, test_labels.expand(len(test_logits), -1), reduction="none")
    return _mean((losses > loss).float() + 0.5 * (losses == loss).float(), pool.float())


def _numbers(values: Tensor) -> np.ndarray:
    return values.double().cpu().numpy()
