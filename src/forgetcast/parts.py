"""Names of the parts of an outcome, shared by what measures them and by what forecasts them."""

from __future__ import annotations

__all__ = ["PARTS"]

PARTS = {
    "collateral_test": "tv_test",
    "collateral_neighbours": "tv_neighbours",
    "steps": "steps",
    "parameter_shift": "shift",
}
"""What people act on, and the column of the outcomes that it is the mean of."""
