"""A queue of deletion requests: read, given a route, ordered, verified and recorded."""

from __future__ import annotations

from forgetcast._former_paths import found_in

__getattr__ = found_in(__name__, ("screening.triage",), ("Triage",))
