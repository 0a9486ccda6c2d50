"""Conformance checks for authors of plugins: the laws that every factor, unlearner and report section keeps."""

from __future__ import annotations

from forgetcast._check_section import check_report_section
from forgetcast.factors.laws import check_factor
from forgetcast.registry import CONTRACT_VERSION
from forgetcast.unlearn.laws import check_unlearner

__all__ = ["CONTRACT_VERSION", "check_factor", "check_report_section", "check_unlearner"]
