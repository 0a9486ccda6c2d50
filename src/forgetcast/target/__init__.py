"""What is forecast: a trained model with its data, checked once, and how both are read."""

from __future__ import annotations

from forgetcast._former_paths import found_in

__getattr__ = found_in(__name__, ("target.target",), ("Target",))
