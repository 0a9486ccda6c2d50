"""The data and methods of a report know nothing of its pages; the report adds the one way up to them."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, fields, replace
from pathlib import Path

import pytest

from boundaries import among, import_graph
from forgetcast.predict import DifficultyReport
from forgetcast.report.forecast import Forecast
from forgetcast.report.page import render_html
from sample_report import measurements, sample_report

pytestmark = pytest.mark.slow


def test_a_report_adds_its_page_alone() -> None:
    """No field and no method but ``to_html``."""
    assert fields(DifficultyReport) == fields(Forecast)
    assert {name for name in vars(DifficultyReport) if not name.startswith("_")} == {"to_html"}


def test_a_report_stays_one(tmp_path: Path) -> None:
    """What is made from a report can be written as a page, and stays as it is."""
    report = sample_report(20)
    measured = report.measured(measurements(report, 5))
    assert type(measured) is type(replace(report, table=report.table)) is DifficultyReport
    assert measured.to_html(tmp_path / "report.html").is_file()
    with pytest.raises(FrozenInstanceError):
        report.title = "mine"  # type: ignore[attr-defined]


def test_pages_show_a_forecast_without_the_way_up() -> None:
    """They ask for data and methods, so the same page comes of a forecast that is no report."""
    report = sample_report(20)
    plain = Forecast(**{field.name: getattr(report, field.name) for field in fields(report)})
    assert render_html(plain, waterfalls=1) == render_html(report, waterfalls=1)


def test_what_pages_show_imports_no_page() -> None:
    """At any depth, imports for types included."""
    graph = import_graph()
    report, screening = "forgetcast.report", "forgetcast.screening"
    pages = {f"{report}.{name}" for name in ("page_parts", "page", "sections", "plots")} | {f"{screening}.page"}
    assert pages <= graph.modules
    for name in ("forecast", "explain", "movers", "counterfactual"):
        assert not graph.find_upstream_modules(f"{report}.{name}") & {*pages, "forgetcast.predict"}
    assert not graph.find_upstream_modules("forgetcast.sections") & {*pages, "forgetcast.predict"}
    assert not among(graph.find_upstream_modules("forgetcast.registry"), ("forgetcast.factors",))
    assert "forgetcast.evaluation.evaluate" not in graph.find_upstream_modules("forgetcast.evaluation.page")
