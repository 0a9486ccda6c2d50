"""The control's path: one model per step, common to all samples, so that its predictions are computed once."""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial

import torch
from torch import Tensor

from forgetcast.target.target import Target
from forgetcast.unlearn.stack import Params, Stack
from forgetcast.unlearn.workbench import Workbench

__all__ = ["ControlPath"]


class ControlPath:
    """Points of the control by step; step 0 is the target.

    A crossing lies between two steps, and so does its control: its parameters are mixed, and its **logits are
    interpolated** between those of the two steps, which are the same for all samples. Retain steps are so short that
    this is exact to rounding as far as labels go (``benchmarks/label_speed.py``: Spearman with a control that is really
    forwarded at least 0.9995).
    """

    def __init__(self, target: Target, bench: Workbench) -> None:
        self.target, self.bench = target, bench
        self.points: dict[int, Params] = {0: {**target.buffers, **target.params}}
        self._utility: dict[int, Tensor] = {}
        self._still = True

    def add(self, step: int, point: Params) -> None:
        """The control after one more step."""
        self.points[step] = point
        self._still &= all(point[name] is value for name, value in self.target.params.items())

    def keep(self, steps: Collection[int]) -> None:
        """Drop the points that nothing refers to any more."""
        self.points = {step: point for step, point in self.points.items() if step in steps or step == 0}

    def params(self, later: Tensor, fraction: Tensor) -> Stack:
        """Parameters at ``later - 1 + fraction``, a stack of one control per row; ``later`` (r,), whole numbers."""
        if self._still:
            return {name: value.expand(len(later), *value.shape) for name, value in self.target.params.items()}
        return {name: self._between(later, fraction, partial(self._parameter, name)) for name in self.target.params}

    def _parameter(self, name: str, step: int, _rows: Tensor) -> Tensor:
        return self.points[step][name][None]

    def utility(self, later: Tensor, fraction: Tensor) -> Tensor:
        """Logits on the retain and the held-out sample, (r, R + T, classes), or (1, ...) while nothing has moved."""
        return self.bench.base[None] if self._still else self._between(later, fraction, self._utility_at)

    def neighbours(self, later: Tensor, fraction: Tensor, near: Tensor) -> Tensor:
        """Logits on each row's own neighbours, (r, k, classes); ``near`` (r, k)."""
        if self._still:
            return self.bench.neighbour_logits_of_one(self.target.params, near)
        return self._between(
            later, fraction, lambda step, rows: self.bench.neighbour_logits_of_one(self.points[step], near[rows])
        )

    def _utility_at(self, step: int, _rows: Tensor) -> Tensor:
        if step not in self._utility:
            self._utility[step] = self.bench.utility(self.points[step])
        return self._utility[step][None]

    @staticmethod
    def _between(later: Tensor, fraction: Tensor, at: Callable[[int, Tensor], Tensor]) -> Tensor:
        """``at(step, rows)`` (one entry per row, or one for all) at the steps around every row, interpolated."""
        parts, order = [], []
        for end in later.unique().tolist():
            rows = (later == end).nonzero().flatten()
            value = at(end, rows)
            if end > 0 and bool((fraction[rows] < 1).any()):
                share = fraction[rows].to(value.device, value.dtype).reshape(-1, *[1] * (value.ndim - 1))
                value = torch.lerp(at(end - 1, rows), value, share)
            parts.append(value.expand(len(rows), *value.shape[1:]))
            order.append(rows)
        return torch.cat(parts)[torch.cat(order).argsort()]
