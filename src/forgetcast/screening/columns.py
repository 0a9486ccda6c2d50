"""Names of the columns of a pre-screened queue, shared by what fills, reads and shows them."""

from __future__ import annotations

__all__ = ["COLUMNS"]

COLUMNS = (
    "row",
    "id",
    "index",
    "label",
    "order",
    "group",
    "alike",
    "person_rows",
    "route",
    "unlearner",
    "steps",
    "step_limit",
    "harm",
    "harm_lower",
    "harm_upper",
    "collateral_test",
    "collateral_neighbours",
    "p_trivial",
    "percentile",
    "percentile_lower",
    "percentile_upper",
    "difficulty",
    "lower",
    "upper",
    "tier",
    "seconds",
    "share_of_retraining",
    "unfamiliar",
    "why",
    "reasons",
)
"""Columns of every pre-screened queue, in the order in which people read them; those of the requests come after id."""
