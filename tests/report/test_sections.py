"""Report sections of plugins: shown at the end of both pages, escaped whatever they hold, and noted where they fail."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import distribution
from typing import Any

import numpy as np
import pandas as pd
import pytest
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from forgetcast.errors import PluginWarning
from forgetcast.predict import DifficultyReport
from forgetcast.registry import FACTOR_GROUP, SECTION_GROUP
from forgetcast.report.page import render_html
from forgetcast.report.sections import TABLE_ROWS, sections_of
from forgetcast.screening.page import render_triage_html
from forgetcast.sections import Picture, Section
from forgetcast.testing import check_report_section
from html_page import HOSTILE, Page
from plugin_cases import Plugins
from sample_report import sample_report
from sample_triage import sample_triage


def axes(link: str = "") -> Axes:
    """A drawing whose text is hostile."""
    ax = Figure().subplots()
    ax.plot([0, 1], [1, 0])
    ax.set_title(HOSTILE.replace("$", "")).set_url(link or None)
    return ax


def page_of() -> str:
    """A report's page without much of its own."""
    return render_html(sample_report(12, ("erase",)), waterfalls=0)


def mine(report: DifficultyReport) -> Section:
    """Everything that a section may hold."""
    table = pd.DataFrame(
        {"who": [HOSTILE, Markup("<b>bold</b>"), None], "share": [0.25, np.nan, 3], HOSTILE: [1, 2, 3]}
    )
    drawn = Picture(lambda: axes("javascript:alert(3)"), alt=HOSTILE, caption=HOSTILE)
    return Section(HOSTILE, [f"{len(report.table)} forecasts", HOSTILE, Markup("<i>plain</i>"), drawn, axes(), table])


def endless(report: DifficultyReport) -> Section:
    """More rows than are shown."""
    return Section("Many", [pd.DataFrame({"row": range(TABLE_ROWS + 5)})])


@pytest.fixture
def register(plugins: Plugins) -> Callable[..., None]:
    """Register functions as sections, by their names."""

    def add(**functions: Any) -> None:
        for name, function in functions.items():
            plugins.add(SECTION_GROUP, **{name: f"{__name__}:{name}"})
            globals()[name] = function

    plugins.points += list(distribution("forgetcast").entry_points.select(group=FACTOR_GROUP))
    return add


def test_no_sections_no_trace(plugins: Plugins) -> None:
    """Without plugins the page ends with its provenance."""
    assert sections_of(sample_report()) == []
    assert 'id="section-1"' not in page_of()


@pytest.mark.parametrize("page", ["report", "triage"])
def test_a_section_is_shown_escaped_on_both_pages(register: Callable[..., None], page: str) -> None:
    """Text, pictures and tables are all there, as text; nothing is loaded, linked or run."""
    register(mine=mine)
    html = page_of() if page == "report" else render_triage_html(sample_triage())
    found_ = Page(html)
    assert not found_.stack
    end = html[html.index('id="section-1"') :]
    assert end.count("<svg") == 2
    assert "img" not in dict(found_.elements)
    assert not [tag for tag, attributes in found_.elements if any(name.startswith("on") for name in attributes)]
    assert "javascript:" not in html
    text = found_.text()
    for shown in ("forecasts", "<b>bold</b>", "<i>plain</i>", "alert(1)", "Section mine of the plugin"):
        assert shown in text
    assert len(found_.all("script")) == 1
    assert all(link["href"].startswith("#") for link in found_.all("a") if "href" in link)
    cells = [cell for cell in found_.all("td") if cell.get("data-name") == "share"]
    assert [cell["data-value"] for cell in cells] == ["0.25", "", "3.0"]
    if page == "report":
        assert page_of() == html


def test_a_long_table_is_cut_and_says_so(register: Callable[..., None]) -> None:
    """The page stays readable."""
    register(endless=endless)
    html = page_of()
    assert "The first 200 rows; 5 more are not listed" in html


def test_a_section_that_fails_is_a_note_and_the_others_are_there(
    register: Callable[..., None], plugins: Plugins
) -> None:
    """Named with what it raised, while it is made or while it is drawn; so is one that did not load."""
    register(
        raises=lambda report: 1 / 0,
        not_drawn=lambda report: Section("Title", [Picture(lambda: 1 / 0, alt="")]),  # type: ignore[arg-type,return-value]
        wrong=lambda report: "<p>some HTML</p>",
        wrong_part=lambda report: Section("Title", [{}]),  # type: ignore[list-item]
        only_text=lambda report: Section("Title", "words"),
        zeal=lambda report: Section("Still here", ["and well"]),
    )
    plugins.add(SECTION_GROUP, bad="broken:thing")
    with pytest.warns(PluginWarning, match="'bad'"):
        page = Page(page_of())
    text = page.text()
    for name, why in {
        "raises": "raised ZeroDivisionError: division by zero",
        "not_drawn": "raised ZeroDivisionError: division by zero",
        "wrong": "expected a forgetcast.sections.Section; got str",
        "wrong_part": "expected text, forgetcast.sections.Picture, matplotlib axes or a DataFrame; got dict",
        "only_text": "content: expected a list of parts; got str",
        "bad": "failed to load: OSError: no disk",
    }.items():
        note = text[text.index(f"The report section plugin '{name}'") :]
        assert why in note[:300]
    assert "Still here" in text
    assert "some HTML" not in text


def test_a_section_cannot_change_the_report(register: Callable[..., None]) -> None:
    """It gets a table of its own."""

    def greedy(report: DifficultyReport) -> Section:
        report.table.pop("difficulty")
        return Section("Greedy", [])

    register(greedy=greedy)
    report = sample_report()
    render_html(report, waterfalls=0)
    assert "difficulty" in report.table


def test_the_laws_of_a_section() -> None:
    """It gives a section, the same for the same report, and changes nothing."""
    check_report_section(mine, sample_report())
    for broken, law in (
        (lambda report: "text", "it can be shown.*got str"),
        (lambda report: 1 / 0, "it can be shown.*ZeroDivisionError"),
        (lambda report: Section(str(np.random.default_rng().random()), []), "same report, the same section"),
        (lambda report: Section(" ", []), "it has a title"),
        (lambda report: report.table.insert(0, "own", 1) or Section("A", []), "it changes nothing"),
    ):
        with pytest.raises(AssertionError, match=law):
            check_report_section(broken, sample_report())  # type: ignore[arg-type]
