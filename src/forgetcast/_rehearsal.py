"""Unlearning rehearsed on the last linear layer alone, in closed form, for every sample at once. Formulas are ours.

Moving the layer's weights W̃ by s·d z̃_iᵀ/(‖d‖‖z̃_i‖), with z̃ = [z, 1] and a direction d over the classes, moves the
logits of every sample j by (s/‖d‖)(z̃_i·z̃_j/‖z̃_i‖)·d. With t = s‖z̃_i‖/‖d‖ the sample's own logits move by t·d and those
of j by t·(z̃_i·z̃_j/‖z̃_i‖²)·d. So the step t that reaches a goal, the weight shift s and the damage elsewhere follow from
inner products of features.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from forgetcast._last_layer import unit_residuals

__all__ = [
    "Move",
    "Pool",
    "ascent_move",
    "damage",
    "erase_move",
    "neighbour_damage",
    "retrain_move",
    "runner_up",
]

CHUNK = 1 << 21
"""Numbers held at a time."""


@dataclass(frozen=True)
class Move:
    """What the last layer must do to unlearn each sample on its own."""

    step: Tensor
    """t: how far the sample's own logits move along d, in logits, float64, shape (n,); 0 if the goal is met already."""
    length: Tensor
    """‖d‖, shape (n,)."""
    source: Tensor
    """The sample's label y, whose logit falls by t, shape (n,)."""
    sink: Tensor
    """Strongest other class, shape (n,)."""
    spread: Tensor | None
    """Full direction d, shape (n, C); None for d = e_sink - e_y."""


@dataclass(frozen=True)
class Pool:
    """Samples that damage is measured on. ``index`` holds their numbers when they are training samples."""

    z: Tensor
    """z̃ of the pool, shape (m, d)."""
    logits: Tensor
    """Shape (m, C), float64."""
    labels: Tensor
    """Shape (m,)."""
    index: Tensor | None = None
    """Sample numbers, shape (m,), so that no sample counts in its own damage; None for held-out data."""


def runner_up(logits: Tensor, labels: Tensor) -> Tensor:
    """The most likely class other than the label, shape (n,)."""
    return logits.scatter(1, labels[:, None], -torch.inf).argmax(1)


def _pairwise(logits: Tensor, labels: Tensor, step: Tensor) -> Move:
    length = torch.full_like(step, 2**0.5)
    return Move(step, length, labels, runner_up(logits, labels), None)


def erase_move(logits: Tensor, labels: Tensor) -> Move:
    """Lower the label's logit and raise the runner-up's until they are equal: t = margin/2, at least 0."""
    logits = logits.double()
    sink = runner_up(logits, labels)
    margin = logits.gather(1, labels[:, None])[:, 0] - logits.gather(1, sink[:, None])[:, 0]
    return _pairwise(logits, labels, (margin / 2).clamp(min=0))


def ascent_move(logits: Tensor, labels: Tensor) -> Move:
    """Ascend the sample's loss until its margin is 0: d = (p - onehot)/(1 - p_y), t = min_k (l_y - l_k)/(1 + d_k)."""
    logits = logits.double()
    direction = -unit_residuals(logits, labels)
    gap = logits.gather(1, labels[:, None]) - logits
    steps = (gap / (1 + direction)).scatter(1, labels[:, None], torch.inf)
    return Move(steps.amin(1).clamp(min=0), direction.norm(dim=1), labels, runner_up(logits, labels), direction)


def retrain_move(logits: Tensor, labels: Tensor, goal: Tensor) -> Move:
    """Lower the label's logit and raise the runner-up's until p_y is ``goal`` (shape (n,), in (0, 1)).

    With u = eᵗ, r = 1 - p_y - p_c: g p_c u² + g r u - p_y (1 - g) = 0, so
    u = 2 p_y (1 - g) / (g r + √(g² r² + 4 g (1 - g) p_y p_c)), here in logarithms.
    """
    log_p = logits.double().log_softmax(1)
    sink = runner_up(log_p, labels)[:, None]
    own, other = log_p.gather(1, labels[:, None])[:, 0], log_p.gather(1, sink)[:, 0]
    rest = log_p.scatter(1, torch.cat([labels[:, None], sink], 1), -torch.inf).logsumexp(1)
    g = goal.double().clamp(1e-6, 1 - 1e-6)
    linear = g.log() + rest
    root = torch.logaddexp(2 * linear, math.log(4) + g.log() + (-g).log1p() + own + other) / 2
    step = math.log(2) + own + (-g).log1p() - torch.logaddexp(linear, root)
    return _pairwise(logits, labels, torch.where(own.exp() <= g, torch.zeros_like(step), step.clamp(min=0)))


def _moving(move: Move, size: int) -> Iterator[Tensor]:
    """Chunks of the samples that move at all, for ``size`` numbers per sample."""
    return iter(move.step.nonzero()[:, 0].split(max(1, CHUNK // max(1, size))))


def damage(move: Move, z: Tensor, pool: Pool) -> tuple[Tensor, Tensor]:
    """Mean total variation and accuracy change on the pool after each sample's own move, each of shape (n,).

    Total variation of sample j is ½ Σ_k |p'_jk - p_jk|, in [0, 1]; the accuracy change is in [-1, 1], negative when
    predictions get worse. A sample of the pool does not count in its own damage.
    """
    table = _effects(move, pool)
    length = z.square().sum(1).clamp(min=1e-30)
    variation, change = torch.zeros_like(move.step), torch.zeros_like(move.step)
    classes = 1 if move.spread is None else pool.logits.shape[1]
    for rows in _moving(move, len(pool.z) * classes):
        reach = z[rows] @ pool.z.T / length[rows, None]
        amount = move.step[rows, None] * reach
        tv, delta = table.effect(move, rows, amount, None)
        counted = torch.ones_like(tv) if pool.index is None else (rows[:, None] != pool.index).double()
        count = counted.sum(1).clamp(min=1)
        variation[rows] = (tv * counted).sum(1) / count
        change[rows] = (delta * counted).sum(1) / count
    return variation, change


def neighbour_damage(move: Move, z: Tensor, pool: Pool, neighbours: Tensor) -> Tensor:
    """Mean total variation on each sample's own neighbours (n, k); the pool is all training samples. Shape (n,)."""
    table = _effects(move, pool)
    length = z.square().sum(1).clamp(min=1e-30)
    variation = torch.zeros_like(move.step)
    classes = 1 if move.spread is None else pool.logits.shape[1]
    for rows in _moving(move, neighbours.shape[1] * max(classes, z.shape[1])):
        near = neighbours[rows]
        reach = torch.einsum("id,ijd->ij", z[rows], z[near]) / length[rows, None]
        amount = move.step[rows, None] * reach
        variation[rows] = table.effect(move, rows, amount, near)[0].mean(1)
    return variation


def _effects(move: Move, pool: Pool) -> _Pair | _Spread:
    return _Pair(pool) if move.spread is None else _Spread(pool, move.spread)


class _Pair:
    """Effect of moves along e_sink - e_y: only two logits change, so the cost does not grow with C."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.log_p = pool.logits.log_softmax(1)
        first = self.log_p.argmax(1, keepdim=True)
        others = self.log_p.scatter(1, first, -torch.inf).logsumexp(1, keepdim=True)
        self.others = (-self.log_p.exp()).log1p().scatter(1, first, others)
        """log(1 - p), without cancellation, shape (m, C)."""
        self.top = self.log_p.topk(min(3, self.log_p.shape[1]), dim=1)
        self.own = self.log_p.gather(1, pool.labels[:, None])[:, 0]
        self.right = (self.own >= self.top.values[:, 0]).double()

    def effect(self, move: Move, rows: Tensor, amount: Tensor, near: Tensor | None) -> tuple[Tensor, Tensor]:
        """Total variation and change of correctness, both shaped like ``amount`` (rows, pool or neighbours)."""
        source, sink = move.source[rows, None], move.sink[rows, None]
        columns = slice(None) if near is None else near

        def at(table: Tensor, label: Tensor) -> Tensor:
            """Entry ``label`` (rows, 1) of every pool sample, shaped like ``amount``."""
            return table.T[label[:, 0]] if near is None else table[near, label]

        y, c = at(self.log_p, source), at(self.log_p, sink)
        best = torch.full_like(amount, -torch.inf)  # of the classes that stay
        for place in range(self.top.indices.shape[1]):
            index, value = self.top.indices[columns, place], self.top.values[columns, place]
            best = torch.maximum(best, torch.where((index == source) | (index == sink), -torch.inf, value))
        p_y, p_c = y.exp(), c.exp()
        # Σ over the rest = (Σ over all but the likelier of the pair) - the other: exact wherever the rest matters
        others = torch.where(y >= c, at(self.others, source), at(self.others, sink))
        rest = others + (-(torch.minimum(y, c) - others).exp().clamp(max=1)).log1p()
        down, up = y - amount, c + amount
        Z = torch.logaddexp(torch.logaddexp(down, up), rest)
        tv = (((down - Z).exp() - p_y).abs() + ((up - Z).exp() - p_c).abs() + ((rest - Z).exp() - rest.exp()).abs()) / 2
        labels = self.pool.labels[columns]
        shift = amount * ((labels == sink).double() - (labels == source).double())
        still = (self.own[columns] + shift >= torch.maximum(best, torch.maximum(down, up))).double()
        return tv, still - self.right[columns]


class _Spread:
    """Effect of moves along full directions over the classes, shape (n, C)."""

    def __init__(self, pool: Pool, spread: Tensor) -> None:
        self.pool = pool
        self.spread = spread
        self.p = pool.logits.softmax(1)
        self.right = (pool.logits.gather(1, pool.labels[:, None])[:, 0] >= pool.logits.amax(1)).double()

    def effect(self, move: Move, rows: Tensor, amount: Tensor, near: Tensor | None) -> tuple[Tensor, Tensor]:
        """As for :class:`_Pair`."""
        columns = slice(None) if near is None else near
        moved = self.pool.logits[columns] + amount[..., None] * self.spread[rows][:, None]
        tv = (moved.softmax(-1) - self.p[columns]).abs().sum(-1) / 2
        labels = self.pool.labels[columns].expand(amount.shape)
        still = (moved.gather(-1, labels[..., None])[..., 0] >= moved.amax(-1)).double()
        return tv, still - self.right[columns]
