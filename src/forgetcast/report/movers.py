"""Movers: the training samples whose predictions change most when one sample is unlearned on the last linear layer.

Unlearning is rehearsed in closed form, as the rehearsal factors do it (see ``factors.probes.damage``; the formulas are
ours): the last layer's weights move by t (e_c - e_y) z̃_iᵀ/‖z̃_i‖², from the label y of sample i to its strongest rival
c. That moves the logits of sample j by t (z̃_i·z̃_j/‖z̃_i‖²)(e_c - e_y). z̃ is the layer's input, with a 1 beside it
where the layer has a bias. What moves along is what the model cannot distinguish from the sample. A real unlearner
moves more than the last layer.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F

from forgetcast.errors import IndexRangeError, InputError, UnknownNameError
from forgetcast.factors.probes.damage import erase_move, retrain_move
from forgetcast.factors.probes.probes import Probes
from forgetcast.objectives import OBJECTIVES, SLACK
from forgetcast.target.settings import own_settings
from forgetcast.target.target import Target

__all__ = ["NOTHING_MOVES", "Movers", "movers"]

NOTHING_MOVES = {
    "erase": "the model does not recognise the sample as it is",
    "retrain": "the model is hardly surer of its label than simple models that never saw it",
}
"""Why a sample has no movers: the goal is met before anything is unlearned."""

COLUMNS = ("index", "label", "change", "total_variation", "similarity")


class Movers:
    """Finds the movers of any number of samples of a target; the data is read once.

    Args:
        target: model and training data; stays as it is.
        seed: of models that draw random numbers, and of the simple models behind the goal of ``retrain``.
        progress: bars on stderr.

    Raises:
        NotApplicableError: the model has no last linear layer, or it is frozen.
    """

    @own_settings()
    def __init__(self, target: Target, *, seed: int = 0, progress: bool = False) -> None:
        self.target = target
        self._probes = Probes(target, seed=seed, progress=progress)
        self._z = self._probes.augmented_features
        self._log_p = self._probes.logits.log_softmax(1)

    @own_settings()
    def of(self, index: int, objective: str, *, goal: float | None = None, count: int = 12) -> pd.DataFrame:
        """The training samples that would move most with one.

        All samples are computed, which takes one product of the features and one softmax.

        Args:
            index: the sample that is unlearned.
            objective: "erase": until its label is as likely as its strongest rival; "retrain": until its label's
                probability is ``goal``.
            goal: above 0, at most 1, where it is met anyway; default: what simple models that never saw the sample say,
                plus 0.05, as in the rehearsal factors. They are fitted when first needed.
            count: rows wanted, at most.

        Returns:
            The largest total variation first: index, label, change (of the true label's probability, signed),
            total_variation (½ Σ|p' - p|, in [0, 1]) and similarity (cosine of the two samples' features, in [-1, 1]).
            Samples that do not change are left out, so it is empty where the goal is met before any unlearning.

        Raises:
            IndexRangeError: no such sample.
            UnknownNameError: no such objective.
            InputError: a goal that is no such probability, or a count below 1.
        """
        index = _checked(index, objective, goal, count, len(self.target))
        labels = self._probes.labels
        own, label = self._log_p[index : index + 1], labels[index : index + 1]
        if objective == "erase":
            move = erase_move(own, label)
        else:
            if goal is None:
                goal = min(float(self._probes.surrogate_confidence[index]) + SLACK, 1.0)
            move = retrain_move(own, label, torch.tensor([goal]))
        z, size = self._z[index], self._z[index].square().sum().clamp(min=1e-30)
        moved = self._log_p.clone()
        amount = move.step * (self._z @ z) / size
        moved[:, move.sink[0]] += amount
        moved[:, move.source[0]] -= amount
        change = moved.softmax(1) - self._log_p.softmax(1)
        variation = change.abs().sum(1) / 2
        variation[index] = 0
        order = variation.argsort(descending=True, stable=True)[:count]
        order = order[variation[order] > 0]
        features = self._probes.features
        table = {
            "index": order.numpy(),
            "label": labels[order].numpy(),
            "change": change[order, labels[order]].numpy(),
            "total_variation": variation[order].numpy(),
            "similarity": F.cosine_similarity(features[order].double(), features[index : index + 1].double()).numpy(),
        }
        return pd.DataFrame(table, columns=list(COLUMNS))


def movers(
    target: Target, index: int, objective: str = "retrain", *, goal: float | None = None, count: int = 12, seed: int = 0
) -> pd.DataFrame:
    """The training samples that would move most if one were unlearned on the last layer: ``Movers`` for one sample.

    Raises:
        NotApplicableError: the model has no last linear layer, or it is frozen.
        IndexRangeError, UnknownNameError, InputError: as for ``Movers.of``.
    """
    return Movers(target, seed=seed).of(index, objective, goal=goal, count=count)


def _checked(index: Any, objective: str, goal: float | None, count: int, n: int) -> int:
    if isinstance(index, bool) or not isinstance(index, (int, np.integer)) or not 0 <= index < n:
        raise IndexRangeError(f"expected a sample index from 0 to {n - 1}; got {index!r}")
    if objective not in OBJECTIVES:
        raise UnknownNameError.of("objective", str(objective), OBJECTIVES)
    if goal is not None and not 0 < goal <= 1:
        raise InputError(f"goal: expected a probability above 0 and at most 1, such as 0.1; got {goal!r}")
    if count < 1:
        raise InputError(f"count: expected at least 1; got {count}")
    return int(index)
