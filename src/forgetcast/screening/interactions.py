"""Requests of one queue that interact: unlearning one moves the other, or both lean on the same samples."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import pandas as pd
import torch
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial.distance import squareform
from torch import Tensor
from torch.nn import functional as F

from forgetcast.objectives import SLACK
from forgetcast.target.data import Data
from forgetcast.target.last_layer import augmented, leave_one_out_logits, unit_residuals
from forgetcast.target.logits import true_probability
from forgetcast.target.preallocated import PreallocatedRows
from forgetcast.target.settings import own_settings
from forgetcast.target.target import Target

__all__ = ["Interactions", "interactions"]

POOL = 4096
"""Training samples, drawn at random, that stand for all of them."""
NEIGHBOURS, SHARE = 20, 0.02
"""Of a request, among the other requests and the pool: so many, and for pairs at most this share of them."""
DAMPING = 1e-3
"""Of the Hessian, relative to the mean of its diagonal, as in ``CertifiedRemoval``."""
ROWS = 1024
"""Samples that a class's block of the Hessian rests on: those that curve it most."""
LEAST = 1e-3
"""A class that has a smaller share of every request's direction stays where it is."""
CHUNK = 1 << 22
"""Pairs of requests that are held at a time."""
KEPT = 1 << 26
"""Numbers that are kept rather than computed twice."""
PARTNERS = 20
"""Of a request, that are listed."""
REQUESTED_SHARE = 1 / 3
"""Of the nearest samples with a request's label, the share that is requested too from which it leans on the queue."""
MOST = 5000
"""Requests among which all pairs are looked at."""


@dataclass(frozen=True)
class Interactions:
    """Which requests of a queue interact."""

    pairs: pd.DataFrame
    """One row per pair that interacts: first and second (sample numbers, first < second), effect (how much the
    true-label probability of one changes when the other alone is unlearned; the larger of the two, in [0, 1]);
    neighbours (whether each is among the other's nearest, at most 20), shared_neighbours (of those) and group (0: not
    in the same one); the largest effects first, of every request only its 20 largest."""
    group: np.ndarray
    """Group of every request, (m,): 0 for one that is in none, else from 1, by the first request."""
    reason: str = ""
    """Why nothing is known of this queue; empty where it is."""
    alike: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    """Set of requests that share a neighbourhood and a label, (m,): 0 for one that is in none, else from 1, by the
    first request. The forecast of each is made with the others still there, and they vouch for it."""


@own_settings()
def interactions(
    target: Target,
    index: np.ndarray,
    objective: Literal["retrain", "erase"],
    *,
    effect_from: float = 0.05,
    seed: int = 0,
) -> Interactions:
    """Find the requests that interact, from one forward pass over them and at most 4,096 other training samples.

    Every request is unlearned on the last linear layer along the Newton direction of the loss without it, as
    ``certified_removal`` does (Guo et al. 2020, arXiv 1911.03030), with the Hessian's blocks between classes left out:
    the logit of class c of another sample j moves by s·d_c·z̃_iᵀS_c⁻¹z̃_j. Here d = (p_i - onehot)/(1 - p_iy) and S_c =
    Σ_k p_kc(1 - p_kc) z̃_k z̃_kᵀ without i; s is how far the request's own logits (j = i) have to move until its goal
    is met. For ``retrain`` the goal is the leave-one-out estimate of its probability. Two requests interact where this
    changes the true-label probability of one of them by ``effect_from`` or more. So do neighbours of each other that
    share most of their neighbours: both ask for the same surroundings to move. Groups are clusters with a mean effect
    of at least ``effect_from`` (average linkage), so that no chain of weak effects joins strangers. Apart from that, a
    request leans on the queue where at least a third of the nearest samples with its label are requested too. Of these
    there are at most 20, and those that stand for more count as often; it and they share a neighbourhood and a label,
    and what is forecast for each alone may not hold once all of them are gone.

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
        none = np.zeros(m, dtype=np.int64)
        return Interactions(_pairs(index, np.zeros((2, 0), dtype=np.int64)), none, reason, none.copy())
    others = np.setdiff1d(np.random.default_rng(seed).permutation(len(target))[:POOL], index)
    z, logits = _outputs(target, np.concatenate([index, others]))
    labels = target.labels[torch.as_tensor(np.concatenate([index, others]))]
    effect = _effects(z, logits, labels, m, objective, len(target) / len(z))
    wide = _nearest(z, m)
    near = wide[:, : max(1, min(NEIGHBOURS, int(SHARE * len(z))))]
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
    stands_for = (len(target) - m) / max(len(others), 1)
    alike = _sharing_surroundings(wide, labels.numpy(), m, stands_for)
    return Interactions(_pairs(index, ends, effect, beside, shared, group), group, alike=alike)


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
            "shared_neighbours": (nothing if shared is None else shared[a, b]).astype(np.int64),
            "group": same.astype(np.int64),
        }
    )
    order = ["effect", "first", "second"]
    return pairs.sort_values(order, ascending=[False, True, True], kind="stable").reset_index(drop=True)


def _groups(effect: np.ndarray, effect_from: float) -> np.ndarray:
    """Group of every request, (m,), by average linkage of effects (m, m) with a zero diagonal."""
    tree = linkage(squareform(1 - effect - np.diag(1 - np.diag(effect)), checks=False), "average")
    return _numbered(fcluster(tree, 1 - effect_from + 1e-12, "distance"))


def _numbered(cluster: np.ndarray) -> np.ndarray:
    """Clusters of more than one request, numbered from 1 by their first one; 0 for a request alone."""
    together = np.bincount(cluster)[cluster] > 1
    names = {c: number for number, c in enumerate(dict.fromkeys(cluster[together].tolist()), 1)}
    return np.array([names.get(c, 0) for c in cluster.tolist()], dtype=np.int64)


def _sharing_surroundings(near: np.ndarray, labels: np.ndarray, m: int, stands_for: float) -> np.ndarray:
    """Set of every request that shares its neighbourhood and label with others, (m,); see ``Interactions.alike``.

    near (m, k) are positions among requests and other samples with labels (n,), each of which stands for so many.
    """
    same = labels[near] == labels[:m, None]
    asked = same & (near < m)
    weight = asked.sum(1) + stands_for * (same & (near >= m)).sum(1)
    leans = asked & (asked.sum(1) >= REQUESTED_SHARE * weight)[:, None]
    rows, places = np.nonzero(leans)
    joined = csr_array((np.ones(len(rows), dtype=np.int8), (rows, near[rows, places])), shape=(m, m))
    return _numbered(connected_components(joined, directed=False)[1])


def _shared(near: np.ndarray, m: int) -> np.ndarray:
    """How many nearest neighbours (m, k) every two requests have in common, (m, m)."""
    rows = np.repeat(np.arange(m), near.shape[1])
    member = csr_array((np.ones(near.size, dtype=np.int32), (rows, near.ravel())))
    return np.asarray((member @ member.T).todense())


def _outputs(target: Target, index: np.ndarray) -> tuple[Tensor, Tensor]:
    """z̃ (n, d) and logits (n, C) of some training samples, float64."""
    assert target.head is not None
    features, logits = PreallocatedRows(len(index)), PreallocatedRows(len(index))
    for rows in torch.as_tensor(index).split(target.batch_size):
        data = Data(target.data.fetch(rows))
        features.add(target.features(data))
        logits.add(target.logits(data))
    return augmented(features.array, target.head.bias is not None), logits.array.double()


def _effects(z: Tensor, logits: Tensor, labels: Tensor, m: int, objective: str, scale: float) -> np.ndarray:
    """By how much unlearning one of the first m samples changes another's true-label probability; the larger, (m, m).

    z (n, d), logits (n, C) and labels (n,) are of the requests and of samples that stand for ``scale`` times as many.
    """
    p = logits.softmax(1)
    curvature = p * (1 - p)
    damping = DAMPING * float((curvature.mean(1) * z.square().mean(1)).sum().clamp(min=1e-30))
    direction = -unit_residuals(logits[:m], labels[:m])
    moved = [c for c in range(logits.shape[1]) if bool((direction[:, c].abs() > LEAST).any())]
    rate = torch.zeros_like(direction)
    kept = {}
    for c in moved:
        solved, own = _newton(z, curvature[:, c], m, damping, scale)
        rate[:, c] = direction[:, c] * own
        if len(moved) * solved.numel() <= KEPT:
            kept[c] = solved
    strength = _strength(logits[:m], labels[:m], rate, _goal(z, logits, labels, m, objective))
    left = [c for c in range(logits.shape[1]) if c not in moved]
    total = logits[:m, left].logsumexp(1).repeat(m, 1) if left else torch.full((m, m), -torch.inf, dtype=z.dtype)
    truth = torch.zeros_like(total)
    for c in moved:
        solved = kept[c] if c in kept else _newton(z, curvature[:, c], m, damping, scale)[0]
        amount = strength * direction[:, c]
        for rows in torch.arange(m).split(max(1, CHUNK // m)):
            after = logits[:m, c] + amount[rows, None] * (solved[rows] @ z[:m].T)
            total[rows] = torch.logaddexp(total[rows], after)
            truth[rows] = torch.where(labels[:m] == c, after, truth[rows])
    effect = truth.sub_(total).exp_().sub_(true_probability(logits[:m], labels[:m])).abs_()
    effect[strength == 0] = 0
    effect.fill_diagonal_(0)
    return torch.maximum(effect, effect.T).numpy()


def _newton(z: Tensor, curvature: Tensor, m: int, damping: float, scale: float) -> tuple[Tensor, Tensor]:
    """(S - s z̃_i z̃_iᵀ + λI)⁻¹ z̃_i of the first m samples, (m, d), and its product with z̃_i, (m,).

    S = Σ_j c_j z̃_j z̃_jᵀ is one class's block of the Hessian; the sample itself is taken out by Sherman and Morrison.
    With fewer samples than features the system is solved in the space of the samples.
    """
    most = curvature.topk(min(ROWS, len(z))).indices
    root = z[most] * curvature[most, None].sqrt()
    if len(root) < z.shape[1]:
        gram = root @ root.T + damping * torch.eye(len(root), dtype=z.dtype)
        solved = (z[:m] - torch.linalg.solve(gram, root @ z[:m].T).T @ root) / damping
    else:
        S = root.T @ root + damping * torch.eye(z.shape[1], dtype=z.dtype)
        solved = torch.linalg.solve(S, z[:m].T).T
    own = (solved * z[:m]).sum(1)
    counted = torch.zeros_like(curvature).index_copy(0, most, curvature[most])[:m]
    rest = (1 - counted * own / scale).clamp(min=1e-6)
    return solved / rest[:, None], own / rest


def _goal(z: Tensor, logits: Tensor, labels: Tensor, m: int, objective: str) -> Tensor | None:
    """The true-label probability that each of the first m samples has to come down to, (m,); None: another class."""
    if objective == "erase":
        return None
    without = leave_one_out_logits(z, logits, labels)
    return (true_probability(without[:m], labels[:m]) + SLACK).clamp(1e-6, 1 - 1e-6)


def _strength(logits: Tensor, labels: Tensor, rate: Tensor, goal: Tensor | None) -> Tensor:
    """How far along ``rate`` (m, C) the logits (m, C) of each sample meet its goal, (m,); 0 if they meet it already.

    The label's rate is negative and no other is, so its probability falls all the way.
    """
    faster = rate - rate.gather(1, labels[:, None])
    gap = logits.gather(1, labels[:, None]) - logits
    steps = (gap / faster.clamp(min=1e-300)).scatter(1, labels[:, None], torch.inf)
    if goal is None:
        return _finite(steps.amin(1).clamp(min=0))
    low = torch.zeros_like(goal)
    high = 1 / faster.amax(1).clamp(min=1e-300)

    def short(s: Tensor) -> Tensor:
        """Which samples are still above their goal."""
        return true_probability(logits + s[:, None] * rate, labels) > goal

    met = ~short(low)
    for _ in range(60):
        high = torch.where(short(high), 2 * high, high)
    for _ in range(60):
        middle = (low + high) / 2
        above = short(middle)
        low, high = torch.where(above, middle, low), torch.where(above, high, middle)
    return _finite(torch.where(met, torch.zeros_like(high), high))


def _finite(strength: Tensor) -> Tensor:
    """0 where the last layer cannot meet the goal at all, as for features that are all 0."""
    return strength.where(strength < 1e250, 0.0)


def _nearest(z: Tensor, m: int) -> np.ndarray:
    """Positions of the 20 nearest others of the first m samples, nearest first, by cosine similarity, (m, k)."""
    unit = F.normalize(z.float(), dim=1, eps=1e-12)
    k = min(NEIGHBOURS, len(z) - 1)
    nearest = PreallocatedRows(m)
    for rows in torch.arange(m).split(max(1, CHUNK // len(z))):
        similarity = unit[rows] @ unit.T
        similarity[torch.arange(len(rows)), rows] = -torch.inf
        nearest.add(similarity.topk(k, dim=1).indices)
    return nearest.array.numpy()
