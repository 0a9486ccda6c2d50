"""Conformance checks for authors of plugins: the laws that every factor and every unlearner keeps."""

from __future__ import annotations

from forgetcast._check_factor import check_factor
from forgetcast._check_unlearner import check_unlearner

__all__ = ["check_factor", "check_unlearner"]
