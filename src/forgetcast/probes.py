"""``forgetcast.probes``: the path by which plugins know the probes that a factor may ask for."""

from __future__ import annotations

from forgetcast.factors.probes.probes import PROBES

__all__ = ["PROBES"]
