"""How long a forgotten sample takes to be recognised again."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from forgetcast.target.inputs import Inputs, map_leaves
from forgetcast.target.logits import single, true_probability
from forgetcast.target.target import Target
from forgetcast.unlearn.base import Samples
from forgetcast.unlearn.stack import Params, Stack, gradients, rows, stackable

__all__ = ["relearn_steps"]

EPS = 1e-6


def relearn_steps(target: Target, params: Stack, samples: Samples, *, lr: float, most: int) -> Tensor:
    """Gradient steps on the sample itself until its true-label probability has regained half of its loss, float, (m,).

    Half-way, for at the crossing of ``erase`` the sample lies on the boundary, and any step recognises it again. The
    last step is counted in part: as far as the log-odds had to go, which are nearly linear along a step. One step is
    often enough, so whole numbers would hardly separate samples.

    Args:
        target: whose probabilities were lost.
        params: m unlearned models; buffers of their own, if any, stay.
        samples: the sample of each, m of them.
        lr: rate of the steps.
        most: steps after which it is given up; the result is then ``most``.
    """
    before = true_probability(single(samples.logits), samples.y)
    weights = {name: params[name].clone() for name in target.params}
    buffers = {name: value for name, value in params.items() if name not in weights}
    stacked = stackable(target.module)

    def loss(params: Params, buffers: Params, x: Inputs, y: Tensor) -> tuple[Tensor, Tensor]:
        logits = target.call({**buffers, **params}, map_leaves(lambda leaf: leaf[None], x))
        return F.cross_entropy(logits, y[None]), logits[0]

    steps = torch.full((len(samples),), float(most), dtype=before.dtype)
    left = torch.arange(len(samples))
    goal, last = before, before
    for step in range(most + 1):
        gradient, logits = gradients(loss, weights, buffers, samples.x, samples.y, stacked=stacked)
        p = true_probability(single(logits), samples.y)
        if step == 0:
            goal, last = (before + p) / 2, p
        there = p >= goal
        taken = (goal.logit(EPS) - last.logit(EPS)) / (p.logit(EPS) - last.logit(EPS)).clamp_min(EPS)
        here = there.cpu()
        steps[left[here]] = max(0, step - 1) + (taken[there].clamp(0, 1).cpu() if step else 0.0)
        on = (~here).nonzero().flatten()
        if len(on) == 0 or step == most:
            break
        for name, value in weights.items():
            value.sub_(gradient[name], alpha=lr)
        if len(on) < len(left):
            left, samples, goal, p = left[on], samples.take(on), goal[on], p[on]
            weights, buffers = rows(weights, on), rows(buffers, on)
        last = p
    return steps
