"""Settings of the measurement, and the columns it fills."""

from __future__ import annotations

from dataclasses import dataclass

from forgetcast.objectives import SLACK

__all__ = ["OUTCOME_COLUMNS", "Protocol"]

OUTCOME_COLUMNS = (
    "target",
    "index",
    "unlearner",
    "seed",
    "objective",
    "trivial",
    "reached",
    "forgetting",
    "goal",
    "steps",
    "shift",
    "tv_retain",
    "tv_test",
    "tv_neighbours",
    "accuracy_change_retain",
    "accuracy_change_test",
    "p_before",
    "p_after",
    "margin_before",
    "margin_after",
    "mia_before",
    "mia_after",
    "relearn_steps",
)
"""Columns of an outcome row; one row per target, sample, unlearner, seed and objective."""


@dataclass(frozen=True)
class Protocol:
    """Settings of the measurement. The repr is part of every shard's key."""

    slack: float = SLACK
    """``retrain`` is reached when the true-label probability is at most p_out + slack."""
    bisections: int = 8
    utility_samples: int = 400
    """Size of the retain sample and of the held-out sample that utility is measured on."""
    neighbours: int = 20
    memory_bytes: int = 600 << 20
    """Bound on stacked parameters; decides how many samples are walked together."""
    most_together: int = 64
    relearn_lr: float = 1e-3
    """Rate of the gradient steps on the forgotten sample alone that relearning is counted in."""
    relearn_most: int = 20
    """Steps after which relearning is given up; the outcome then holds this number."""
