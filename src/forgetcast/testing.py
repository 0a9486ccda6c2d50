"""Conformance checks for authors of plugins: the laws that every factor, unlearner and report section keeps."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

from forgetcast.factors.laws import check_factor
from forgetcast.predict import DifficultyReport, predict_difficulty
from forgetcast.registry import CONTRACT_VERSION, raised
from forgetcast.report.sections import section_parts
from forgetcast.sections import Section
from forgetcast.target.example import example_target
from forgetcast.unlearn.laws import check_unlearner

__all__ = ["CONTRACT_VERSION", "check_factor", "check_report_section", "check_unlearner"]


def check_report_section(
    function: Callable[[DifficultyReport], Section], report: DifficultyReport | None = None
) -> None:
    """Assert the laws of a report section on ``report`` (default: the published predictor's of a small perceptron).

    1. It returns a Section with a title, whose parts can all be shown.
    2. The same report gives the same section.
    3. It leaves the report's table and factors as they were.

    Args:
        function: as it is registered.
        report: what it is called with.

    Raises:
        AssertionError: a law is broken; the message names the section and the law.

    >>> check_report_section(lambda report: Section("Size", [f"{len(report.table)} forecasts"]))
    """
    report = report or _example_report()
    name = getattr(function, "__name__", type(function).__name__)
    kept = report.table.copy(), report.factors.values.copy()
    first = _shown(name, function, report)
    assert first["title"].strip(), f"section {name!r} breaks the law that it has a title"
    for what, before, after in zip(("table", "factors"), kept, (report.table, report.factors.values), strict=True):
        assert before.equals(after), (
            f"section {name!r} breaks the law that it changes nothing: the {what} of the report differs afterwards"
        )
    again = _shown(name, function, report)
    assert repr(again) == repr(first), f"section {name!r} breaks the law: the same report, the same section"


def _shown(name: str, function: Callable[[DifficultyReport], Section], report: DifficultyReport) -> dict[str, Any]:
    try:
        return section_parts(name, function(report))
    except Exception as error:
        raise AssertionError(f"section {name!r} breaks the law that it can be shown: {raised(error)}") from error


@lru_cache(maxsize=1)
def _example_report() -> DifficultyReport:
    return predict_difficulty(example_target())
