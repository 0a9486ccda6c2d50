"""The goal of ``retrain``, shared by what measures it, rehearses it and forecasts it."""

from __future__ import annotations

__all__ = ["SLACK"]

SLACK = 0.05
"""A sample is forgotten when its label's probability is at most p_out + slack."""
