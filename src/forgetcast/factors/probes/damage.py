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
from typing import ClassVar

import torch
from torch import Tensor

from forgetcast.target.head import Head
from forgetcast.target.last_layer import unit_residuals
from forgetcast.target.preallocated import concatenated

__all__ = [
    "Move",
    "Pool",
    "Rehearsal",
    "accuracy_change",
    "ascent_move",
    "damage",
    "erase_move",
    "neighbour_damage",
    "neighbour_reach",
    "rehearse",
    "rehearsed_on",
    "retrain_move",
    "runner_up",
]

CHUNK = 1 << 17
"""Numbers held at a time; few enough to stay in the processor's cache."""

FAR = 20.0
"""Moves of the logits that are long: float32 no longer holds the odds."""

REHEARSAL_WORK = 150_000_000
"""Probabilities that one rehearsal may move: samples times reference samples, times classes where all of them move."""

BLOCK = 1024
"""Samples whose neighbours' features are held at a time."""


@dataclass(frozen=True)
class Rehearsal:
    """Unlearning every sample on the last layer alone: what it takes and what it does elsewhere. All shaped (n,)."""

    step: Tensor
    """Movement of the sample's own logits along the direction, in logits; 0 when the goal is met already."""
    strength: Tensor
    """Norm of the weight change."""
    shift: Tensor
    """Norm of the weight change relative to the norm of the layer's weights."""
    reference: Tensor
    """Mean total variation on the reference sample of the training data, in [0, 1]."""
    neighbours: Tensor
    """Mean total variation on its 20 nearest neighbours in feature space, in [0, 1]."""
    heldout: Tensor | None
    """Mean total variation on a sample of the held-out data, in [0, 1]; None without held-out data."""


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
    """Lower the label's logit and raise the runner-up's until p_y is ``goal`` (shape (n,), above 0; met from 1 on).

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
    return _pairwise(logits, labels, torch.where((own.exp() <= g) | (goal >= 1), 0.0, step.clamp(min=0)))


def rehearse(
    move: Move,
    z: Tensor,
    head: Head,
    *,
    numbers: Tensor,
    pool: Pool,
    heldout: Pool | None,
    neighbours: Tensor,
) -> Rehearsal:
    """What unlearning n samples takes and does elsewhere.

    Args:
        move: the moves of the samples.
        z: z̃ of the same samples, shape (n, d).
        head: the layer that moves.
        numbers: the samples' numbers, shape (n,).
        pool: training samples that damage is measured on.
        heldout: held-out samples likewise, if there are any.
        neighbours: damage on each sample's own neighbours, shape (n,).
    """
    layer = head.exact()
    size = layer.weight.square().sum()
    if layer.bias is not None:
        size = size + layer.bias.square().sum()
    strength = move.step * move.length / z.norm(dim=1).clamp(min=1e-15)
    return Rehearsal(
        step=move.step,
        strength=strength,
        shift=strength / size.sqrt().clamp(min=1e-15),
        reference=damage(move, z, pool, numbers),
        neighbours=neighbours,
        heldout=None if heldout is None else damage(move, z, heldout, numbers),
    )


def damage(move: Move, z: Tensor, pool: Pool, numbers: Tensor) -> Tensor:
    """Mean total variation on the pool after each sample's own move, float64, shape (n,), in [0, 1].

    Total variation of sample j is ½ Σ_k |p'_jk - p_jk|. A sample of the pool does not count in its own damage.

    Args:
        move: the moves of n samples.
        z: z̃ of the same samples, shape (n, d).
        pool: what the damage is measured on.
        numbers: the samples' numbers, shape (n,), to know them in the pool.
    """
    place = _places(numbers, pool)
    log_p = pool.logits.log_softmax(1)
    total = torch.zeros_like(move.step)
    for rows, source, sink in _groups(move):
        odds = _Pair.of(log_p, source, sink) if move.spread is None else _Spread.of(log_p)
        for part, amount in _amounts(move, z, pool, rows, odds.numbers):
            tv = odds.variation(amount, move, part)
            total[part] = _zero_self(tv, place[part]).sum(1, dtype=torch.float64)
    return total / _others(place, pool)


def accuracy_change(move: Move, z: Tensor, pool: Pool, numbers: Tensor) -> Tensor:
    """Change of the pool's accuracy after each sample's own move from label to runner-up, shape (n,), in [-1, 1].

    Arguments as for :func:`damage`. A sample of the pool is classified correctly while its move lies in an interval.
    """
    place = _places(numbers, pool)
    labels, logits = pool.labels, pool.logits
    own = logits.gather(1, labels[:, None])[:, 0]
    right = (own >= logits.amax(1)).to(torch.int8)
    total = torch.zeros_like(move.step)
    for rows, source, sink in _groups(move):
        y, c = logits[:, source[0]], logits[:, sink[0]]
        best = logits.index_fill(1, torch.cat([source, sink]), -torch.inf).amax(1)  # of the classes that stay
        is_source, is_sink = labels == source, labels == sink
        low = torch.where(is_source, -torch.inf, torch.where(is_sink, torch.maximum(best - c, (y - c) / 2), y - own))
        high = torch.where(is_sink, torch.inf, torch.where(is_source, torch.minimum(y - best, (y - c) / 2), own - c))
        low[~is_source & ~is_sink & (own < best)] = torch.inf
        for part, amount in _amounts(move, z, pool, rows, 1):
            still = (amount >= low.to(amount.dtype)).logical_and_(amount <= high.to(amount.dtype))
            change = _zero_self(still.to(torch.int8).sub_(right), place[part])
            total[part] = change.sum(1, dtype=torch.float64)
    return total / _others(place, pool)


def neighbour_damage(move: Move, reach: Tensor, logits: Tensor, neighbours: Tensor) -> Tensor:
    """Mean total variation on each sample's own neighbours, float64, shape (n,).

    Args:
        move: the moves of n samples.
        reach: z̃_i·z̃_j/‖z̃_i‖² of sample i and its neighbour j, float32, shape (n, k).
        logits: of all training samples, shape (N, C), float64.
        neighbours: numbers of the neighbours, shape (n, k).
    """
    log_p = logits.log_softmax(1)
    variation = torch.zeros_like(move.step)
    for rows in move.step.nonzero()[:, 0].split(max(1, CHUNK // (neighbours.shape[1] * logits.shape[1]))):
        amount = move.step[rows, None] * reach[rows]
        amount = amount if bool((amount.abs() > FAR).any()) else amount.float()
        near = log_p[neighbours[rows]]
        pair = move.source[rows, None], move.sink[rows, None]
        odds = _Pair.of(near, *pair) if move.spread is None else _Spread.of(near)
        variation[rows] = odds.variation(amount, move, rows).mean(1, dtype=torch.float64)
    return variation


def neighbour_reach(z: Tensor, own: Tensor, neighbours: Tensor) -> Tensor:
    """z̃_i·z̃_j/‖z̃_i‖² of samples and their neighbours, float32, shape (n, k).

    Args:
        z: z̃ of all training samples, float32, shape (N, d).
        own: z̃ of n of them, shape (n, d).
        neighbours: numbers of their neighbours, shape (n, k).
    """
    blocks = zip(own.split(BLOCK), neighbours.split(BLOCK), strict=True)
    reach = concatenated(len(own), ((z[index] @ rows[:, :, None])[..., 0] for rows, index in blocks))
    return reach / own.square().sum(1, keepdim=True).clamp(min=1e-30)


def rehearsed_on(pick: Tensor, move: Move, n: int, classes: int) -> Tensor:
    """Every s-th of the samples ``pick`` (m,), so that rehearsing ``move`` for n samples visits a bounded number."""
    moved = n * (1 if move.spread is None else classes)
    return pick[:: -(-len(pick) // max(50, REHEARSAL_WORK // moved))]


def _groups(move: Move) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """The samples that move, those of one label and runner-up together (label and runner-up of shape (1,))."""
    moving = move.step.nonzero()[:, 0]
    if move.spread is not None:
        yield moving, move.source, move.sink
        return
    pair = move.source * (int(move.sink.max()) + 1) + move.sink
    moving = moving[pair[moving].argsort(stable=True)]
    for rows in moving.split(pair[moving].unique_consecutive(return_counts=True)[1].tolist()):
        yield rows, move.source[rows[:1]], move.sink[rows[:1]]


def _amounts(move: Move, z: Tensor, pool: Pool, rows: Tensor, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Parts of the samples ``rows`` with the amounts (part, m) that the pool's logits move by along their directions.

    In float32 but for the parts with long moves. ``size`` is how many numbers a sample takes per sample of the pool.
    """
    scale = move.step[rows] / z[rows].square().sum(1).clamp(min=1e-30)
    longest = scale * z[rows].norm(dim=1) * pool.z.norm(dim=1).max()
    order = longest.argsort()
    short = int((longest <= FAR).sum())
    for places, dtype in ((order[:short], torch.float32), (order[short:], torch.float64)):
        columns = pool.z.to(dtype).T.contiguous()
        for part in places.split(max(1, CHUNK // (len(pool.z) * size))):
            yield rows[part], (z[rows[part]] * scale[part, None]).to(dtype) @ columns


def _places(numbers: Tensor, pool: Pool) -> Tensor:
    """Where each sample stands in the pool, -1 where it does not, shape (n,)."""
    if pool.index is None:
        return torch.full_like(numbers, -1)
    known = torch.full((int(torch.cat([numbers, pool.index]).max()) + 1,), -1)
    return known.scatter(0, pool.index, torch.arange(len(pool.index)))[numbers]


def _zero_self(values: Tensor, place: Tensor) -> Tensor:
    """The values (part, m) with 0 where a sample meets itself; changes them in place."""
    inside = (place >= 0).nonzero()[:, 0]
    values[inside, place[inside]] = 0
    return values


def _others(place: Tensor, pool: Pool) -> Tensor:
    """How many samples of the pool each sample meets, itself not counted; at least 1, shape (n,)."""
    return (len(pool.z) - (place >= 0).double()).clamp(min=1)


@dataclass(frozen=True)
class _Pair:
    """Samples ready for moves from label to runner-up. The odds among the other classes stay: they count as one."""

    log_p: Tensor
    """Logarithms of the probabilities of label, runner-up and the rest, float64, shape (..., 3)."""
    weights: tuple[Tensor, ...]
    """p_y(1 - p_y + p_c), p_c(1 - p_c + p_y), p_y, p_c and the rest, float32."""

    @classmethod
    def of(cls, log_p: Tensor, source: Tensor, sink: Tensor) -> _Pair:
        """From log-probabilities (..., C); label and runner-up (...,) or (1,)."""
        pair = torch.stack([source, sink], -1).expand(*log_p.shape[:-1], 2)
        rest = log_p.scatter(-1, pair, -torch.inf).logsumexp(-1, keepdim=True)
        lumps = torch.cat([log_p.gather(-1, pair), rest], -1)
        p_y, p_c, p_r = lumps.exp().unbind(-1)
        weights = (p_y * (p_r + 2 * p_c), p_c * (p_r + 2 * p_y), p_y, p_c, p_r)
        return cls(lumps, tuple(weight.float() for weight in weights))

    numbers: ClassVar[int] = 1
    """Changes of probability to compute per move and sample."""

    def variation(self, amount: Tensor, _move: Move, _rows: Tensor) -> Tensor:
        """½ Σ_k |p'_k - p_k| after moves by ``amount``, shaped like it (r, m).

        Let e = exp(a) - 1, f = 1 - exp(-a) and E = p_c e - p_y f: it is half of |p_y(1 - p_y + p_c) f + p_c(1 - p_c +
        p_y) e| + rest |E| over 1 + E: e and f have one sign, so nothing cancels. 1 + E is p_c exp(a) + p_y exp(-a) +
        rest, whose terms are positive: it is summed so, for 1 + E itself cancels where a sure prediction is overturned.
        """
        if amount.dtype == torch.float64:
            return _moved(self.log_p, amount[..., None] * amount.new_tensor([-1, 1, 0]))
        own, other, p_y, p_c, rest = self.weights
        up = amount.exp()
        down = up.reciprocal()
        e = amount.expm1()
        f = e * down
        moved = (e * p_c).addcmul_(f, p_y, value=-1)
        both = e.mul_(other).addcmul_(f, own).abs_()
        both.addcmul_(moved.abs_(), rest)
        return both.div_(up.mul_(p_c).addcmul_(down, p_y).add_(rest).mul_(2))


@dataclass(frozen=True)
class _Spread:
    """Samples ready for moves along full directions over the classes."""

    log_p: Tensor
    """Float64, shape (m, C), or (r, m, C) for samples of each move's own."""
    p: Tensor
    """Float32, shape (1 or r, C, m)."""
    top: Tensor
    """Likeliest class, shape (1 or r, m)."""

    @classmethod
    def of(cls, log_p: Tensor) -> _Spread:
        by_class = log_p.mT if log_p.ndim == 3 else log_p.T[None]
        return cls(log_p, by_class.exp().float().contiguous(), by_class.argmax(1))

    @property
    def numbers(self) -> int:
        """Changes of probability to compute per move and sample."""
        return self.p.shape[1]

    def variation(self, amount: Tensor, move: Move, rows: Tensor) -> Tensor:
        """½ Σ_k |p'_k - p_k| after moves of the samples ``rows`` (r,) by ``amount`` (r, m), shape (r, m).

        With e_k = exp(a(d_k - d_top)) - 1 and E = Σ p_k e_k it is p'_k - p_k = p_k (e_k - E)/(1 + E): e_top is 0, so
        nothing cancels for sure predictions.
        """
        assert move.spread is not None
        direction = move.spread[rows]
        if amount.dtype == torch.float64:
            return _moved(self.log_p, amount[..., None] * direction[:, None])
        d = direction.float()
        change = d[:, :, None] - d.gather(1, self.top.expand(len(d), -1))[:, None]
        change = change.mul_(amount[:, None]).expm1_().mul_(self.p)
        total = change.sum(1)
        change.addcmul_(self.p, total[:, None], value=-1)
        return change.abs_().sum(1).div_(total.add_(1).mul_(2))


def _moved(log_p: Tensor, change: Tensor) -> Tensor:
    """½ Σ_k |p'_k - p_k| by the plain softmax, over the last dimension."""
    return ((log_p + change).softmax(-1) - log_p.exp()).abs_().sum(-1) / 2
