"""What is measured and forecast: the objectives of unlearning, the goal of ``retrain``, the parts of an outcome."""

from __future__ import annotations

__all__ = ["OBJECTIVES", "PARTS", "SLACK"]

OBJECTIVES = ("retrain", "erase")
"""What "hard" refers to: treated as if never trained on, or no longer recognised."""

SLACK = 0.05
"""The goal of ``retrain``: a sample is forgotten when its label's probability is at most p_out + slack."""

PARTS = {
    "collateral_test": "tv_test",
    "collateral_neighbours": "tv_neighbours",
    "steps": "steps",
    "parameter_shift": "shift",
}
"""What people act on, and the column of the outcomes that it is the mean of."""
