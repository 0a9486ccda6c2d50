"""Which samples of a target to label: half at random, half among those a cheap screen suspects of being memorized."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from sklearn.neighbors import NearestNeighbors

from forgetcast.errors import InputError
from forgetcast.target.inputs import leaves
from forgetcast.target.preallocated import concatenated
from forgetcast.target.target import Target

__all__ = ["draw_instances", "neighbour_support"]

SUSPECT_SHARE = 0.15


def neighbour_support(target: Target, k: int = 10) -> np.ndarray:
    """Share of a sample's k nearest others, in the inputs, that have its label; shape (n,), in [0, 1].

    The cheap screen: only a model that memorized it can be sure of a sample whose surroundings speak against it.
    """
    batches = (torch.cat([leaf.flatten(1).float() for leaf in leaves(x)], 1) for _, x, _ in target.data.batches())
    inputs = concatenated(len(target), batches)
    k = min(k, len(target) - 1)
    found = NearestNeighbors(n_neighbors=k + 1).fit(inputs.numpy()).kneighbors(inputs.numpy(), return_distance=False)
    labels = target.labels.numpy()
    others = found != np.arange(len(target))[:, None]
    others[others.all(1), -1] = False  # duplicates crowded the sample itself out: drop the farthest instead
    return (labels[found[others].reshape(len(target), k)] == labels[:, None]).mean(1)


def draw_instances(target: Target, m: int, seed: int = 0, *, suspicion: np.ndarray | None = None) -> pd.DataFrame:
    """Draw m samples in two strata: the most suspected 15 % and all others, half from each.

    Args:
        target: whose samples.
        m: how many.
        seed: of the draw.
        suspicion: how much a screen suspects each sample of being memorized, (n,), such as the ``memorization`` of
            :func:`forgetcast.corpus.oracle.subset_screen`; default: the share of neighbours with another label.
            NaN counts as no suspicion.

    Returns:
        Columns index, label, weight (inverse sampling probability), sorted by index.

    Raises:
        InputError: m is not between 2 and n, or ``suspicion`` is not one number per sample.
    """
    n = len(target)
    if not 2 <= m <= n:
        raise InputError(f"expected between 2 and {n} instances (the size of target {target.name!r}); got {m}")
    rng = np.random.default_rng(seed)
    suspicion = -neighbour_support(target) if suspicion is None else np.asarray(suspicion, dtype=float)
    if suspicion.shape != (n,):
        raise InputError(f"suspicion: expected one number for each of the {n} samples; got shape {suspicion.shape}")
    order = np.lexsort((rng.random(n), -np.nan_to_num(suspicion, nan=-np.inf)))
    cut = max(min(round(SUSPECT_SHARE * n), n - m // 2), 1)
    parts = []
    half = min(m - m // 2, cut)
    for stratum, size in ((order[:cut], half), (order[cut:], m - half)):
        chosen = rng.choice(stratum, size, replace=False)
        parts.append(pd.DataFrame({"index": chosen, "weight": len(stratum) / size}))
    frame = pd.concat(parts).sort_values("index", ignore_index=True)
    frame.insert(1, "label", target.labels.numpy()[frame["index"]])
    return frame
