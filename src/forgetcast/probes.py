"""``forgetcast.probes``: the path by which plugins know the probes that a factor may ask for."""

from __future__ import annotations

from forgetcast.factors.probes import probes
from forgetcast.factors.probes.probes import Probes

__all__ = ["PROBES", "Probes"]

PROBES: dict[str, str] = probes.PROBES
"""Every probe a factor may name, with its description."""
