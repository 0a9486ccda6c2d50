"""The oracle: what models trained without a sample say of it, by grouped leave-out retraining.

The instances of a target are dealt into groups spread over the classes; for every group and seed one model is trained
on everything but that group. Averaging a sample's true-label probability over the models that did not see it gives
``p_out``, over the others ``p_in``; memorization is their difference (Feldman & Zhang 2020, arXiv 2008.03703, with
small groups in place of their 70 % subsets, which remove a sample's neighbours along with it). The subsets remain as a
cheap screen: few models say something about every sample of the data, enough to choose which ones to measure.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from torch import nn

from forgetcast.errors import InputError
from forgetcast.target.data import Data
from forgetcast.target.logits import true_probability
from forgetcast.target.target import Target

__all__ = ["deal_groups", "leave_groups_out", "subset_answers", "subset_screen", "summarise"]

SHARE = 0.7
"""Of the data that each model of a screen sees."""

TOGETHER = 20
"""Models that are trained at once."""

SUBSET_COLUMNS = ("index", "seed", "p", "seen")
"""What :func:`subset_answers` returns."""

ANSWER_COLUMNS = (*SUBSET_COLUMNS, "group", "left_out")
"""What :func:`leave_groups_out` returns."""


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


def leave_groups_out(
    target: Target,
    instances: Sequence[int] | np.ndarray,
    group: np.ndarray,
    left_out: Sequence[int],
    seeds: Sequence[int],
) -> pd.DataFrame:
    """Train one model without each of some groups and ask it about every instance.

    Args:
        target: must carry a ``train`` callable; one that trains many models at once is asked for all together.
        instances: labelled samples, (m,).
        group: group of each instance, (m,).
        left_out: the groups to leave out, one model each.
        seeds: of their training runs.

    Returns:
        One row per model and instance: index, group, left_out, seed, p (true-label probability), seen.

    Raises:
        NotApplicableError: the target cannot retrain.
    """
    index = np.array(instances, dtype=np.int64)
    everything = np.arange(len(target))
    kept = [np.setdiff1d(everything, index[group == g]) for g in left_out]
    frames = []
    for g, seed, model in zip(left_out, seeds, target.train_many(kept, seeds), strict=True):
        p = _true_label_probability(target, model, index)
        frame = {"index": index, "group": group, "left_out": g, "seed": seed, "p": p, "seen": group != g}
        frames.append(pd.DataFrame(frame))
    return pd.concat(frames, ignore_index=True)


def subset_screen(target: Target, *, models: int = 20, share: float = SHARE, seed: int = 0) -> pd.DataFrame:
    """A first estimate for **every** sample, from models on random subsets of the data (Feldman & Zhang 2020).

    Cheap and reliable, and biased for the question at hand: with the default almost a third of a sample's
    neighbours are missing too (``benchmarks/oracle_check.py``). It is for choosing samples, never for their labels.

    Args:
        target: must carry a ``train`` callable.
        models: how many are trained.
        share: of the data that each sees.
        seed: of the subsets and the training runs.

    Returns:
        One row per sample: index, p_out, p_in, memorization, p_out_half_a, p_out_half_b; NaN where every model, or
        none, saw the sample.

    Raises:
        NotApplicableError: the target cannot retrain.
        InputError: fewer than two models, or a share that is not between 0 and 1.
    """
    if models < 2 or not 0 < share < 1:
        raise InputError(f"expected at least 2 models and a share between 0 and 1; got {models} and {share}")
    parts = [
        subset_answers(target, range(start, min(start + TOGETHER, models)), share, seed)
        for start in range(0, models, TOGETHER)
    ]
    return summarise(pd.concat(parts, ignore_index=True))


def subset_seeds(numbers: Sequence[int], seed: int) -> list[int]:
    """Seeds of the training runs of some models of a :func:`subset_screen`, by number."""
    return [seed * 100_003 + k for k in numbers]


def subset_answers(target: Target, numbers: Sequence[int], share: float, seed: int) -> pd.DataFrame:
    """Some models of a :func:`subset_screen`, by number: one row per model and sample, for :func:`summarise`."""
    n = len(target)
    kept = [
        np.sort(np.random.default_rng([seed, k]).choice(n, max(1, round(share * n)), replace=False)) for k in numbers
    ]
    seeds = subset_seeds(numbers, seed)
    index = np.arange(n)
    frames = []
    for part, number, model in zip(kept, seeds, target.train_many(kept, seeds), strict=True):
        p = _true_label_probability(target, model, index)
        frames.append(pd.DataFrame({"index": index, "seed": number, "p": p, "seen": np.isin(index, part)}))
    return pd.concat(frames, ignore_index=True)


def _true_label_probability(target: Target, model: nn.Module, index: np.ndarray) -> np.ndarray:
    x, y = target.data.fetch(torch.as_tensor(index))
    return true_probability(target.logits(Data((x, y)), module=model), y).numpy().astype(np.float64)


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
