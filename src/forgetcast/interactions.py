"""Requests of one queue that interact: unlearning one moves the other, or both lean on the same samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
import torch
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.sparse import csr_array
from scipy.spatial.distance import squareform
from torch import Tensor
from torch.nn import functional as F

from forgetcast._last_layer import augmented, leave_one_out_logits, residual_trace
from forgetcast._logits import true_probability
from forgetcast._rehearsal import Move, erase_move, retrain_move
from forgetcast.data import Data
from forgetcast.goal import SLACK
from forgetcast.target import Target

__all__ = ["Interactions", "interactions"]

POOL = 4096
"""Training samples, drawn at random, that stand for all of them."""
NEIGHBOURS, SHARE = 20, 0.02
"""Of a request, among the other requests and the pool: so many, and at most this share of them."""
DAMPING = 1e-2
"""Of the Hessian, relative to its mean eigenvalue, as in ``_last_layer.leave_one_out_logits``."""
CHUNK = 1 << 22
"""Pairs of requests, times classes, that are held at a time."""
PARTNERS = 20
"""Of a request, that are listed."""
MOST = 5000
"""Requests among which all pairs are looked at."""


@dataclass(frozen=True)
class Interactions:
    """Which requests of a queue interact."""

    pairs: pd.DataFrame
    """One row per pair that interacts: first and second (sample numbers, first < second), effect (how much the
    true-label probability of one changes when the other alone is unlearned, the larger of the two, in [0, 1]),
    neighbours (whether each is among the other's nearest, at most 20), shared_neighbours (of those) and group (0: not
    in the same one); the largest effects first, of every request only its 20 largest."""
    group: np.ndarray
    """Group of every request, (m,): 0 for one that is in none, else from 1, by the first request."""
    reason: str = ""
    """Why nothing is known of this queue; empty where it is."""


def interactions(
    target: Target,
    index: np.ndarray,
    objective: Literal["retrain", "erase"],
    *,
    effect_from: float = 0.05,
    seed: int = 0,
) -> Interactions:
    """Find the requests that interact, from one forward pass over them and at most 4,096 other training samples.

    Every request is unlearned on the last linear layer in closed form, along the Newton direction of the loss without
    it (Guo et al. 2020, arXiv 1911.03030, with the Hessian as the Kronecker product of ``leave_one_out_logits``): the
    logits of another sample j move by t·(z̃_i·S⁻¹z̃_j / z̃_i·S⁻¹z̃_i)·d where those of the request i itself move by
    t·d until its goal is met. For ``retrain`` the goal is the leave-one-out estimate of its probability. Two requests
    interact where this changes the true-label probability of one of them by ``effect_from`` or more, or where they are
    neighbours of each other that share most of their neighbours: both ask for the same surroundings to move. Groups
    are clusters with a mean effect of at least ``effect_from`` (average linkage), so that no chain of weak effects
    joins strangers.

    Args:
        target: any; without a last linear layer nothing is known, and said so.
        index: sample numbers of the requests, each once, (m,).
        objective: the goal.
        effect_from: change of probability from which two requests interact, in (0, 1].
        seed: of the draw of other training samples.
    """
    m = len(index)
    reason = target.head_missing if target.head is None else ""
    if m > MOST:
        reason = f"they are looked for among at most {MOST:,} requests, and there are {m:,}: split the queue"
    if reason or m < 2:
        return Interactions(_pairs(index, np.zeros((2, 0), dtype=np.int64)), np.zeros(m, dtype=np.int64), reason)
    others = np.setdiff1d(np.random.default_rng(seed).permutation(len(target))[:POOL], index)
    z, logits = _outputs(target, np.concatenate([index, others]))
    labels = target.labels[torch.as_tensor(np.concatenate([index, others]))]
    effect = _effects(z, logits, labels, _move(z, logits, labels, m, objective), m)
    near = _nearest(z, m)
    beside = np.zeros((m, m), dtype=bool)
    of_queue = near < m
    beside[np.nonzero(of_queue)[0], near[of_queue]] = True
    beside &= beside.T
    shared = _shared(near, m)
    close = beside & (shared >= near.shape[1] / 2)
    group = _groups(np.where(close, np.maximum(effect, effect_from), effect), effect_from)
    strongest = np.argsort(-effect, axis=1, kind="stable")[:, :PARTNERS]
    listed = np.zeros((m, m), dtype=bool)
    np.put_along_axis(listed, strongest, True, axis=1)
    listed = ((listed | listed.T) & (effect >= effect_from)) | close
    ends = np.stack(np.nonzero(np.triu(listed, 1)))
    return Interactions(_pairs(index, ends, effect, beside, shared, group), group)


def _pairs(
    index: np.ndarray,
    ends: np.ndarray,
    effect: np.ndarray | None = None,
    beside: np.ndarray | None = None,
    shared: np.ndarray | None = None,
    group: np.ndarray | None = None,
) -> pd.DataFrame:
    """The table of pairs whose positions are ``ends`` (2, pairs)."""
    a, b = ends
    nothing = np.zeros(0)
    same = nothing if group is None else np.where(group[a] == group[b], group[a], 0)
    numbers = np.sort(np.stack([index[a], index[b]]), axis=0)
    pairs = pd.DataFrame(
        {
            "first": numbers[0].astype(np.int64),
            "second": numbers[1].astype(np.int64),
            "effect": nothing if effect is None else effect[a, b],
            "neighbours": nothing.astype(bool) if beside is None else beside[a, b],
            "shared_neighbours": nothing.astype(np.int64) if shared is None else shared[a, b],
            "group": same.astype(np.int64),
        }
    )
    order = ["effect", "first", "second"]
    return pairs.sort_values(order, ascending=[False, True, True], kind="stable").reset_index(drop=True)


def _groups(effect: np.ndarray, effect_from: float) -> np.ndarray:
    """Group of every request, (m,), by average linkage of effects (m, m) with a zero diagonal."""
    tree = linkage(squareform(1 - effect - np.diag(1 - np.diag(effect)), checks=False), "average")
    cluster = fcluster(tree, 1 - effect_from + 1e-12, "distance")
    together = np.bincount(cluster)[cluster] > 1
    names = {c: number for number, c in enumerate(dict.fromkeys(cluster[together].tolist()), 1)}
    return np.array([names.get(c, 0) for c in cluster.tolist()], dtype=np.int64)


def _shared(near: np.ndarray, m: int) -> np.ndarray:
    """How many nearest neighbours (m, k) every two requests have in common, (m, m)."""
    rows = np.repeat(np.arange(m), near.shape[1])
    member = csr_array((np.ones(near.size, dtype=np.int32), (rows, near.ravel())))
    return np.asarray((member @ member.T).todense())


def _outputs(target: Target, index: np.ndarray) -> tuple[Tensor, Tensor]:
    """z̃ (n, d) and logits (n, C) of some training samples, float64."""
    assert target.head is not None
    parts = []
    for rows in torch.as_tensor(index).split(target.batch_size):
        data = Data(target.data.fetch(rows))
        parts.append((target.features(data), target.logits(data)))
    features, logits = (torch.cat(column) for column in zip(*parts, strict=True))
    return augmented(features, target.head.bias is not None), logits.double()


def _move(z: Tensor, logits: Tensor, labels: Tensor, m: int, objective: str) -> Move:
    """How far the logits of the first m samples move along their directions until their goal is met."""
    if objective == "erase":
        return erase_move(logits[:m], labels[:m])
    without = leave_one_out_logits(z, logits, labels, damping=DAMPING)
    return retrain_move(logits[:m], labels[:m], true_probability(without[:m], labels[:m]) + SLACK)


def _effects(z: Tensor, logits: Tensor, labels: Tensor, move: Move, m: int) -> np.ndarray:
    """By how much unlearning one of two requests changes the other's true-label probability; the larger, (m, m)."""
    weighted = z * residual_trace(logits)[:, None]
    S = weighted.T @ z
    S += DAMPING * (S.diagonal().mean() + 1e-30) * torch.eye(len(S), dtype=S.dtype)
    own, truth = z[:m], labels[:m]
    solved = torch.linalg.solve(S, own.T).T
    norms = (solved * own).sum(1).clamp(min=1e-30)
    before = true_probability(logits[:m], truth)
    effect = torch.zeros(m, m, dtype=torch.float64)
    for rows in move.step.nonzero()[:, 0].split(max(1, CHUNK // (m * logits.shape[1]))):
        amount = move.step[rows, None] * (solved[rows] @ own.T) / norms[rows, None]
        after = logits[:m].expand(len(rows), *logits[:m].shape).clone()
        after.scatter_add_(2, move.source[rows, None, None].expand(-1, m, 1), -amount[:, :, None])
        after.scatter_add_(2, move.sink[rows, None, None].expand(-1, m, 1), amount[:, :, None])
        p = after.log_softmax(2).gather(2, truth[None, :, None].expand(len(rows), m, 1))[:, :, 0].exp()
        effect[rows] = (p - before).abs()
    effect.fill_diagonal_(0)
    return torch.maximum(effect, effect.T).numpy()


def _nearest(z: Tensor, m: int) -> np.ndarray:
    """Positions of the nearest others of the first m samples among all, by cosine similarity, (m, k)."""
    unit = F.normalize(z.float(), dim=1, eps=1e-12)
    k = max(1, min(NEIGHBOURS, int(SHARE * len(z)), len(z) - 1))
    parts = []
    for rows in torch.arange(m).split(max(1, CHUNK // len(z))):
        similarity = unit[rows] @ unit.T
        similarity[torch.arange(len(rows)), rows] = -torch.inf
        parts.append(similarity.topk(k, dim=1).indices)
    return torch.cat(parts).numpy()
