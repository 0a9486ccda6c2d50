"""Unlearning rehearsed on the last linear layer alone, in closed form, for every sample at once. Formulas are ours.

Moving the layer's weights W̃ by s·d z̃_iᵀ/(‖d‖‖z̃_i‖), with z̃ = [z, 1] and a direction d over the classes, moves the
logits of every sample j by (s/‖d‖)(z̃_i·z̃_j/‖z̃_i‖)·d. With t = s‖z̃_i‖/‖d‖ the sample's own logits move by t·d and those
of j by t·(z̃_i·z̃_j/‖z̃_i‖²)·d. So the step t that reaches a goal, the weight shift s and the damage elsewhere follow from
inner products of features.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from forgetcast._last_layer import unit_residuals

__all__ = ["Move", "Pool", "ascent_move", "damage", "erase_move", "retrain_move"]

CHUNK = 1 << 21
"""Numbers held at a time."""

LIMIT = 600.0
"""Largest logit change that damage is computed for: exp(600) is still a number."""


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
    u = 2 p_y (1 - g) / (g r + √(g² r² + 4 g (1 - g) p_y p_c)).
    """
    logits = logits.double()
    sink = runner_up(logits, labels)
    log_p = logits.log_softmax(1)
    own = log_p.gather(1, labels[:, None])[:, 0]
    other = log_p.gather(1, sink[:, None])[:, 0].clamp(min=-LIMIT)
    pair = torch.stack([labels, sink], 1)
    rest = log_p.scatter(1, pair, -torch.inf).exp().sum(1)
    g = goal.double().clamp(1e-6, 1 - 1e-6)
    p_y, p_c = own.exp(), other.exp()
    root = (g.square() * rest.square() + 4 * g * (1 - g) * p_y * p_c).sqrt()
    step = (2 * p_y * (1 - g) / (g * rest + root).clamp(min=1e-300)).log()
    return _pairwise(logits, labels, torch.where(p_y <= g, torch.zeros_like(step), step.clamp(min=0)))


def _chunks(n: int, m: int, classes: int) -> Iterator[Tensor]:
    return iter(torch.arange(n).split(max(1, CHUNK // max(1, m * classes))))


def damage(move: Move, z: Tensor, pool: Pool) -> tuple[Tensor, Tensor]:
    """Mean total variation and accuracy change on the pool after each sample's own move, each of shape (n,).

    Total variation of sample j is ½ Σ_k |p'_jk - p_jk|, in [0, 1]; the accuracy change is in [-1, 1], negative when
    predictions get worse. A sample of the pool does not count in its own damage.
    """
    table = _Pair(pool) if move.spread is None else _Spread(pool)
    size = z.square().sum(1).clamp(min=1e-30)
    variation, change = [], []
    for rows in _chunks(len(z), len(pool.z), 1 if move.spread is None else pool.logits.shape[1]):
        reach = z[rows] @ pool.z.T / size[rows, None]
        amount = (move.step[rows, None] * reach).clamp(-LIMIT, LIMIT)
        tv, delta = table.effect(move, rows, amount, None)
        if pool.index is not None:
            others = (rows[:, None] != pool.index[None]).double()
            tv, delta = tv * others, delta * others
            count = others.sum(1).clamp(min=1)
        else:
            count = torch.full((len(rows),), float(len(pool.z)), dtype=torch.float64)
        variation.append(tv.sum(1) / count)
        change.append(delta.sum(1) / count)
    return torch.cat(variation), torch.cat(change)


def neighbour_damage(move: Move, z: Tensor, pool: Pool, neighbours: Tensor) -> Tensor:
    """Mean total variation on each sample's own neighbours (n, k); the pool is all training samples. Shape (n,)."""
    table = _Pair(pool) if move.spread is None else _Spread(pool)
    size = z.square().sum(1).clamp(min=1e-30)
    variation = []
    classes = 1 if move.spread is None else pool.logits.shape[1]
    for rows in _chunks(len(z), neighbours.shape[1], max(classes, z.shape[1])):
        near = neighbours[rows]
        reach = torch.einsum("id,ijd->ij", z[rows], z[near]) / size[rows, None]
        amount = (move.step[rows, None] * reach).clamp(-LIMIT, LIMIT)
        variation.append(table.effect(move, rows, amount, near)[0].mean(1))
    return torch.cat(variation)


class _Pair:
    """Effect of moves along e_sink - e_y: only two probabilities and the normaliser change, whatever C is."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.p = pool.logits.softmax(1)
        self.top = pool.logits.topk(min(3, pool.logits.shape[1]), dim=1)
        self.own = pool.logits.gather(1, pool.labels[:, None])[:, 0]
        self.right = (self.own >= self.top.values[:, 0]).double()

    def effect(self, move: Move, rows: Tensor, amount: Tensor, near: Tensor | None) -> tuple[Tensor, Tensor]:
        """Total variation and change of correctness, both shaped like ``amount`` (rows, pool or neighbours)."""
        source, sink = move.source[rows], move.sink[rows]
        columns = slice(None) if near is None else near

        def at(table: Tensor, label: Tensor) -> Tensor:
            """Entry ``label`` of every pool sample, shaped like ``amount``."""
            return table.T[label] if near is None else table[near, label[:, None]]

        p_y, p_c = at(self.p, source), at(self.p, sink)
        down, up = torch.expm1(-amount), torch.expm1(amount)
        grow = p_y * down + p_c * up
        Z = 1 + grow
        rest = (1 - p_y - p_c).clamp(min=0)
        tv = ((p_y * (down - grow)).abs() + (p_c * (up - grow)).abs() + rest * grow.abs()) / Z / 2
        labels = self.pool.labels[columns]
        shift = amount * ((labels == sink[:, None]).double() - (labels == source[:, None]).double())
        best = torch.maximum(at(self.pool.logits, source) - amount, at(self.pool.logits, sink) + amount)
        for place in range(self.top.indices.shape[1]):
            index, value = self.top.indices[columns, place], self.top.values[columns, place]
            moved = (index == source[:, None]) | (index == sink[:, None])
            best = torch.maximum(best, torch.where(moved, -torch.inf, value))
        still = (self.own[columns] + shift >= best).double()
        return tv, still - self.right[columns]


class _Spread:
    """Effect of moves along a full direction over the classes."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.p = pool.logits.softmax(1)
        self.right = (pool.logits.gather(1, pool.labels[:, None])[:, 0] >= pool.logits.amax(1)).double()

    def effect(self, move: Move, rows: Tensor, amount: Tensor, near: Tensor | None) -> tuple[Tensor, Tensor]:
        """As for :class:`_Pair`."""
        columns = slice(None) if near is None else near
        if move.spread is None:
            raise ValueError("a move along two classes has no full direction")
        moved = self.pool.logits[columns] + amount[..., None] * move.spread[rows][:, None]
        tv = (moved.softmax(-1) - self.p[columns]).abs().sum(-1) / 2
        labels = self.pool.labels[columns].expand(amount.shape)
        still = (moved.gather(-1, labels[..., None])[..., 0] >= moved.amax(-1)).double()
        return tv, still - self.right[columns]
