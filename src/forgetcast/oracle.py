"""The oracle: what models trained without a sample say of it, by grouped leave-out retraining.

The instances of a target are dealt into groups spread over the classes; for every group and seed one model is trained
on everything but that group. Averaging a sample's true-label probability over the models that did not see it gives
``p_out``, over the others ``p_in``; memorization is their difference (Feldman & Zhang 2020, arXiv 2008.03703, with
small groups in place of their 70 % subsets, which remove a sample's neighbours along with it).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch

from forgetcast.data import Data
from forgetcast.target import Target

__all__ = ["deal_groups", "leave_group_out", "summarise"]


def deal_groups(labels: np.ndarray, groups: int, seed: int = 0) -> np.ndarray:
    """Assign every instance to a group, each class spread evenly; shape (m,), values 0..groups-1.

    >>> deal_groups(np.array([0, 0, 0, 1, 1, 1]), 3).tolist().count(0)
    2
    """
    rng = np.random.default_rng(seed)
    order = np.lexsort((rng.random(len(labels)), labels))
    group = np.empty(len(labels), dtype=np.int64)
    group[order] = np.arange(len(labels)) % min(groups, len(labels))
    return group


def leave_group_out(
    target: Target, instances: Sequence[int] | np.ndarray, group: np.ndarray, left_out: int, seed: int
) -> pd.DataFrame:
    """Train one model without a group and ask it about every instance.

    Args:
        target: must carry a ``train`` callable.
        instances: labelled samples, (m,).
        group: group of each instance, (m,).
        left_out: the group to leave out.
        seed: of the training run.

    Returns:
        One row per instance: index, group, left_out, seed, p (true-label probability), seen.

    Raises:
        NotApplicableError: the target cannot retrain.
    """
    index = np.array(instances, dtype=np.int64)
    kept = np.setdiff1d(np.arange(len(target)), index[group == left_out])
    model = target.train(kept, seed)
    x, y = target.data.fetch(torch.as_tensor(index))
    p = target.logits(Data((x, y)), module=model).softmax(1).gather(1, y[:, None])[:, 0]
    return pd.DataFrame(
        {
            "index": index,
            "group": group,
            "left_out": left_out,
            "seed": seed,
            "p": p.numpy().astype(np.float64),
            "seen": group != left_out,
        }
    )


def summarise(answers: pd.DataFrame) -> pd.DataFrame:
    """Answers of all models → one row per instance: index, p_out, p_in, memorization, p_out_half_a, p_out_half_b.

    The halves average the even and the odd seeds, for split-half reliability; NaN with a single seed.
    """
    unseen, seen = answers[~answers["seen"]], answers[answers["seen"]]
    table = pd.DataFrame({"p_out": unseen.groupby("index")["p"].mean(), "p_in": seen.groupby("index")["p"].mean()})
    table["memorization"] = table["p_in"] - table["p_out"]
    rank = unseen["seed"].rank(method="dense").astype(int)
    for name, parity in (("p_out_half_a", 1), ("p_out_half_b", 0)):
        table[name] = unseen[rank % 2 == parity].groupby("index")["p"].mean()
    return table.reset_index()
